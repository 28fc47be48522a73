"""Learning rate and batch size as pure functions of what has been seen."""

from megatron_ettin.schedule.batch import BatchPlan, BatchTable, batch_plan, batch_table
from megatron_ettin.schedule.rate import learning_rate_factor

__all__ = ["BatchPlan", "BatchTable", "batch_plan", "batch_table", "learning_rate_factor"]
