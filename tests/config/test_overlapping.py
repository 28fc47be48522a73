"""Messages of data ranks beside the passes: on where it pays and can be, with the reason, and no rule broken by it."""

from __future__ import annotations

import json

import pytest

from megatron_ettin.commands.run_flags import RunFlags, parse_flags
from megatron_ettin.config import rules
from megatron_ettin.config.codec import fingerprint, run_from_dict, to_dict, with_fields
from megatron_ettin.config.overlapping import overlap_line, overlaps
from megatron_ettin.config.recipes import recipe

RUN = recipe("150m", "mlm", "pretrain")


@pytest.mark.parametrize(
    ("fields", "device", "chosen", "reason"),
    [
        ({"layout.data": 8}, "cuda", True, "the GPU computes meanwhile"),
        ({"layout.data": 1, "layout.context": 2}, "cuda", True, "the GPU computes meanwhile"),
        ({"layout.data": 8}, "cpu", False, "take the cores that compute"),
        ({"layout.data": 1}, "cuda", False, "nobody to send them to"),
        ({"layout.tensor": 2, "layout.pipeline": 2}, "cuda", False, "nobody to send them to"),
        ({"layout.data": 8, "optimizer.freeze": ("0-3",)}, "cuda", False, "optimizer.freeze leaves some out"),
        ({"layout.data": 8, "layout.pipeline": 2, "layout.virtual_pipeline": 2}, "cuda", True, "computes meanwhile"),
        ({"layout.data": 8, "layout.choose_overlap": False}, "cuda", False, "asked for"),
        ({"layout.data": 8, "layout.overlap": True}, "cpu", True, "asked for"),
    ],
)
def test_messages_overlap_where_a_gpu_computes_meanwhile(
    fields: dict[str, object], device: str, chosen: bool, reason: str
) -> None:
    config = with_fields(RUN, fields)
    assert rules.problems(config) == []
    assert overlaps(config, device) is chosen
    line = overlap_line(config, device)
    assert reason in line and ("while the passes compute" in line) is chosen


@pytest.mark.parametrize(("stored", "on"), [(True, True), (False, True)])
def test_settings_of_before_there_was_a_choice_are_read_and_are_those_of_the_same_run(stored: bool, on: bool) -> None:
    """False was the default and nobody's choice."""
    content = json.loads(json.dumps(to_dict(with_fields(RUN, {"layout.data": 8}))))
    content["layout"]["overlap"] = stored
    del content["layout"]["choose_overlap"]
    found = run_from_dict(content)
    assert overlaps(found, "cuda") is on and overlaps(found, "cpu") is stored
    assert fingerprint(found) == fingerprint(RUN)


@pytest.mark.parametrize(
    ("flags", "on_cpu", "on_cuda"),
    [([], False, True), (["--layout.overlap"], True, True), (["--layout.no-overlap"], False, False)],
)
def test_a_flag_is_a_choice(flags: list[str], on_cpu: bool, on_cuda: bool) -> None:
    given, _ = parse_flags(["150m", "mlm", "pretrain", "--layout.data", "8", *flags], RunFlags, "estimate")
    assert (overlaps(given, "cpu"), overlaps(given, "cuda")) == (on_cpu, on_cuda)
