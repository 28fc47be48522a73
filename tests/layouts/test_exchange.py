"""Context ranks exchange what is estimated and nothing more, and keep pieces apart; checked in real gloo processes."""

from __future__ import annotations

import pytest

from tests.layouts.cases import Case
from tests.layouts.exchange import OPERATIONS, has_whole_model
from tests.layouts.harness import Named, launch

LAYOUTS = {
    "cp2": (2, {"context": 2}),
    "cp2-recompute": (2, {"context": 2, "recompute": "full"}),
    "cp2-tp2": (4, {"context": 2, "tensor": 2}),
    "cp2-tp2-sp": (4, {"context": 2, "tensor": 2, "sequence_parallel": True}),
    "cp2-pp2": (4, {"context": 2, "pipeline": 2}),
    "cp4": (4, {"context": 4, "micro_batch_rows": 2}),
}
CASES = tuple(
    Case(f"{objective}-{name}", ranks, fields, objective=objective)
    for objective in ("mlm", "clm")
    for name, (ranks, fields) in LAYOUTS.items()
)
WHOLE_MODELS = tuple(case for case in CASES if has_whole_model(case))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Named]:
    return launch("tests.layouts.exchange:both", CASES, tmp_path_factory.mktemp("exchange"))


def named(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=named)
def test_messages_and_bytes_are_the_estimated_ones(found: dict[str, Named], case: Case) -> None:
    for rank in range(case.ranks):
        seen, estimated = (found[case.name][f"{rank}/{name}"].tolist() for name in ("seen", "estimated"))
        assert dict(zip(OPERATIONS, seen, strict=False)) == dict(zip(OPERATIONS, estimated, strict=False))
        assert seen == estimated


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_local_layers_send_no_more_than_a_window(found: dict[str, Named], objective: str) -> None:
    config = next(case for case in CASES if case.name == f"{objective}-cp2").config()
    tokens = config.model.causal_window if objective == "clm" else config.model.window
    key_and_value = 2 * config.model.hidden * 4
    layers, micro_batches, passes = 4, 4, 2  # of 7 layers 0, 3 and 6 are global; forward, and gradients back
    most = layers * micro_batches * passes * tokens * key_and_value
    for rank in range(2):
        sent = found[f"{objective}-cp2"][f"{rank}/seen"].tolist()[-1]
        assert 0 < sent <= most


@pytest.mark.parametrize("case", WHOLE_MODELS, ids=named)
def test_a_changed_piece_moves_no_other_output_across_ranks(found: dict[str, Named], case: Case) -> None:
    moved, bounds = found[case.name]["moved"], found[case.name]["bounds"].tolist()
    pieces = list(zip(bounds, bounds[1:], strict=False))
    edge = bounds[-1] // case.layout["context"]
    assert any(first < edge < last for first, last in pieces), "no piece lies on two ranks"
    for (first, last), distance in zip(pieces, moved, strict=True):
        assert float(distance[first:last].max()) > 0.0
        assert float(distance[:first].sum() + distance[last:].sum()) == 0.0
