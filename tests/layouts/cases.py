"""The layouts that must all give the result of one process, and the tiny pair that they train."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from megatron_ettin.config.run import (
    BatchConfig,
    ComputeConfig,
    DataConfig,
    LayoutConfig,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
)

ROWS = 4
"""Rows of a step; each data rank has at least one."""
STEPS = 3
"""Steps after which weights are compared."""
GROWING = (1, 3, ROWS)
"""Rows of the same steps where the batch grows: two, three and four data ranks find none, or too few, to share."""
RATE = 1e-2
"""Learning rate of those steps."""


@dataclass(frozen=True)
class Case:
    """One run to compare: a layout of some ranks and how its rows are split."""

    name: str
    ranks: int = 1
    layout: dict[str, Any] = field(default_factory=dict)
    objective: str = "mlm"
    precision: str = "fp32"
    layers: int = 7
    whole_logits: bool = True
    attention: str = "auto"
    dropout: float = 0.0
    """Share of the attention output; which numbers are dropped must not depend on the layout either."""
    growing: bool = False
    """The batch grows from step to step."""
    mutation: str = ""
    """A fault to seed, for the test that the suite notices one."""

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each step."""
        return GROWING if self.growing else (ROWS,) * STEPS

    def config(self) -> RunConfig:
        """The run of this case: heads, vocabulary (padded) and windows are small, bases unequal."""
        return RunConfig(
            objective=self.objective,
            stage="pretrain",
            model=ModelConfig(
                size="tiny", layers=self.layers, hidden=64, intermediate=96, heads=4, vocabulary=250, window=6,
                causal_window=5, rope_base_local=20_000.0, output_dropout=self.dropout,
            ),
            schedule=ScheduleConfig(tokens=1_000_000, peak_rate=RATE),
            data=DataConfig(row_length=64, piece_length=64),
            batch=BatchConfig(rows=ROWS),
            layout=LayoutConfig(**self.layout),
            compute=ComputeConfig(
                precision=self.precision, attention=self.attention,
                loss_chunk_bytes=0 if self.whole_logits else 4 * 256 * 5,
            ),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values, to hand to the ranks."""
        return asdict(self)


_LAYOUTS: tuple[Case, ...] = (
    Case("one", 1),
    Case("micro2", 1, {"micro_batch_rows": 2}),
    Case("micro4", 1, {"micro_batch_rows": 4}),
    Case("chunked-loss", 1, {"micro_batch_rows": 4}, whole_logits=False),
    Case("recompute", 1, {"recompute": "full"}),
    Case("tp2", 2, {"tensor": 2}),
    Case("tp2-sp", 2, {"tensor": 2, "sequence_parallel": True}),
    Case("tp2-sp-recompute", 2, {"tensor": 2, "sequence_parallel": True, "recompute": "full"}),
    Case("tp2-chunked-loss", 2, {"tensor": 2, "micro_batch_rows": 2}, whole_logits=False),
    Case("pp2", 2, {"pipeline": 2}),
    Case("pp2-uneven", 2, {"pipeline": 2, "pipeline_layers": (2, 5)}),
    Case("pp2-vpp2", 2, {"pipeline": 2, "virtual_pipeline": 2}),
    Case("pp2-vpp3", 2, {"pipeline": 2, "virtual_pipeline": 3, "pipeline_layers": (1, 1, 2, 1, 1, 1)}),
    Case("pp2-recompute", 2, {"pipeline": 2, "recompute": "full"}),
    Case("dp2", 2, {}),
    Case("dp2-overlap", 2, {"overlap": True}),
    Case("dp2-micro2", 2, {"micro_batch_rows": 2}),
    Case("cp2", 2, {"context": 2}),
    Case("sdpa", 1, attention="sdpa"),
    Case("cp2-micro2", 2, {"context": 2, "micro_batch_rows": 2}),
    Case("cp2-recompute", 2, {"context": 2, "recompute": "full"}),
    Case("tp4", 4, {"tensor": 4}),
    Case("tp4-sp", 4, {"tensor": 4, "sequence_parallel": True}),
    Case("pp4", 4, {"pipeline": 4}),
    Case("pp4-uneven", 4, {"pipeline": 4, "pipeline_layers": (1, 3, 2, 1)}),
    Case("dp3", 3, {}),
    Case("dp4", 4, {}),
    Case("tp2-pp2", 4, {"tensor": 2, "pipeline": 2}),
    Case("tp2-pp2-sp", 4, {"tensor": 2, "pipeline": 2, "sequence_parallel": True}),
    Case("tp2-dp2", 4, {"tensor": 2}),
    Case("tp2-dp2-sp-overlap", 4, {"tensor": 2, "sequence_parallel": True, "overlap": True}),
    Case("pp2-dp2", 4, {"pipeline": 2, "overlap": True}),
    Case("pp2-vpp2-dp2", 4, {"pipeline": 2, "virtual_pipeline": 2, "overlap": True}),
    Case("tp2-pp2-vpp2-sp", 4, {"tensor": 2, "pipeline": 2, "virtual_pipeline": 2, "sequence_parallel": True}),
    Case("cp2-tp2-sp", 4, {"context": 2, "tensor": 2, "sequence_parallel": True}),
    Case("cp2-pp2", 4, {"context": 2, "pipeline": 2}),
    Case("cp2-dp2", 4, {"context": 2}),
    Case("cp4", 4, {"context": 4, "micro_batch_rows": 2}),
)  # fmt: skip

_GROWING_LAYOUTS: tuple[Case, ...] = tuple(
    replace(case, growing=True, name=f"grown-{case.name}")
    for case in (
        Case("one", 1),
        Case("dp2-overlap", 2, {"overlap": True}),
        Case("dp3", 3),
        Case("dp3-overlap", 3, {"overlap": True}),
        Case("dp4", 4),
        Case("pp2-dp2-overlap", 4, {"pipeline": 2, "overlap": True}),
        Case("pp2-vpp2-dp2", 4, {"pipeline": 2, "virtual_pipeline": 2}),
        Case("cp2-dp2", 4, {"context": 2}),
        Case("tp2-dp2-sp-overlap", 4, {"tensor": 2, "sequence_parallel": True, "overlap": True}),
    )
)

_SLOW_LAYOUTS: tuple[Case, ...] = (
    Case("pp4-vpp2", 4, {"pipeline": 4, "virtual_pipeline": 2}, layers=10),
    Case("tp2-pp2-dp2", 8, {"tensor": 2, "pipeline": 2, "sequence_parallel": True, "overlap": True}),
    Case("tp2-pp2-cp2", 8, {"tensor": 2, "pipeline": 2, "context": 2, "sequence_parallel": True}),
)  # fmt: skip

_DECODER_BY_DEFAULT = (
    "one", "chunked-loss", "tp2-sp", "pp2-vpp2", "dp2-overlap", "cp2", "sdpa", "tp2-pp2-sp", "cp2-tp2-sp", "cp2-dp2",
    "grown-one", "grown-dp3", "grown-cp2-dp2",
)  # fmt: skip
"""What direction changes is attention and labels: the decoder runs the layouts that touch those, the rest is slow."""


def _cases(objective: str, layouts: tuple[Case, ...]) -> tuple[Case, ...]:
    """With the recipe's dropout."""
    return tuple(
        replace(case, objective=objective, name=f"{objective}-{case.name}", dropout=0.1) for case in layouts
    )


_MIXED_BY_DEFAULT = (
    "one", "micro2", "micro4", "chunked-loss", "tp2-sp", "pp2", "dp2-overlap", "cp2-micro2", "sdpa", "cp4",
)  # fmt: skip
"""Rows of both kinds meet in one micro-batch, on one context rank, and on different data ranks."""

_ALL = (*_LAYOUTS, *_GROWING_LAYOUTS)

CASES = (
    *_cases("mlm", _ALL),
    *_cases("clm", tuple(case for case in _ALL if case.name in _DECODER_BY_DEFAULT)),
    *_cases("mixed", tuple(case for case in _ALL if case.name in _MIXED_BY_DEFAULT)),
)
"""What runs by default."""

SLOW_CASES = (
    *_cases("clm", tuple(case for case in _ALL if case.name.endswith("one") or case.name not in _DECODER_BY_DEFAULT)),
    *_cases("mixed", tuple(case for case in _ALL if case.name.endswith("one") or case.name not in _MIXED_BY_DEFAULT)),
    *_cases("mlm", (Case("one"), Case("one10", layers=10), *_SLOW_LAYOUTS)),
    *_cases("mixed", (Case("one10", layers=10), *_SLOW_LAYOUTS)),
    *_cases("clm", (Case("one10", layers=10), *_SLOW_LAYOUTS)),
)
"""The rest: minutes."""

WITHOUT_DROPOUT = Case("mlm-without-dropout")
"""To show that the others drop something."""

FAULTS = tuple(
    replace(case, name=f"{case.objective}-{fault}", mutation=fault, dropout=0.1)
    for fault, case in (
        ("halo", Case("", 2, {"context": 2}, objective="mlm")),
        ("gathered", Case("", 2, {"context": 2}, objective="clm")),
        ("head", Case("", 2, {"tensor": 2}, objective="mlm")),
        ("norm", Case("", 2, {"tensor": 2, "sequence_parallel": True}, objective="clm")),
    )
)
"""Layouts with a skipped reduction: the suite must notice each."""


def reference_of(case: Case) -> str:
    """Name of the one-process case that a case is compared with."""
    if case.growing:
        return f"{case.objective}-grown-one"
    return f"{case.objective}-one10" if case.layers == 10 else f"{case.objective}-one"
