"""The run that measurements use."""

from __future__ import annotations

from megatron_ettin.config.run import BatchConfig, DataConfig, ModelConfig, RunConfig, ScheduleConfig


def run_on(data: str, row_length: int = 1024, objective: str = "mlm") -> RunConfig:
    """The pretraining run of the 17M model on some data, or with rows of 8,192 and pieces of 7,999."""
    long = row_length > 1024
    return RunConfig(
        objective=objective,  # type: ignore[arg-type]
        stage="extension" if long else "pretrain",
        model=ModelConfig(size="17m", layers=7, hidden=256, intermediate=384, heads=4),
        schedule=ScheduleConfig(tokens=10**9, peak_rate=3e-3),
        data=DataConfig(data=data, row_length=row_length, piece_length=7999 if long else row_length),
        batch=BatchConfig(rows=608 if long else 2816),
    )
