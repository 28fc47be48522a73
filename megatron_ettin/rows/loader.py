"""Batches of one data rank, made ahead of time in background threads. Its whole state is the number of the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np

from megatron_ettin.batch import Batch
from megatron_ettin.config.objective import ObjectiveName
from megatron_ettin.errors import ConfigError
from megatron_ettin.rows.order import RowNumbers
from megatron_ettin.rows.run_data import RunData


def rank_slice(rows: RowNumbers, data_rank: int, data_size: int, micro_batch_rows: int) -> list[RowNumbers]:
    """The micro-batches of a data rank: its contiguous slice of the rows of a step, cut in equal parts.

    Raises ConfigError when the step cannot be shared evenly.
    """
    if micro_batch_rows < 1 or len(rows) % (data_size * micro_batch_rows):
        raise ConfigError(
            f"a step of {len(rows)} rows cannot be shared by {data_size} data ranks in micro-batches of "
            f"{micro_batch_rows}; {data_size} x layout.micro_batch_rows must divide every batch size"
        )
    share = len(rows) // data_size
    mine = rows[data_rank * share : (data_rank + 1) * share]
    return list(mine.reshape(-1, micro_batch_rows))


class Loader:
    """Iterates over steps from ``start_step``: yields ``(step, micro_batches)`` of one data rank, without end.

    ``micro_batch_rows`` may depend on the rows of the step, all data ranks together: then it is asked for each one.
    ``ahead`` micro-batches, or one whole step if that is more, are in preparation while the caller computes. An error
    while reading is raised by the iteration that needs the batch. Leaving the ``with`` block stops the threads; it
    waits for what is being computed.
    """

    def __init__(
        self,
        data: RunData,
        objective: ObjectiveName,
        data_rank: int = 0,
        data_size: int = 1,
        micro_batch_rows: int | Callable[[int], int] = 1,
        start_step: int = 0,
        threads: int = 2,
        ahead: int = 8,
    ) -> None:
        if not 0 <= data_rank < data_size:
            raise ConfigError(f"data rank {data_rank} is not in [0, {data_size})")
        self.data, self.objective = data, objective
        self.data_rank, self.data_size = data_rank, data_size
        self._micro_batch_rows = micro_batch_rows
        self.step = start_step
        """The next step to be given out; all the state there is."""
        self._ahead = ahead
        self._asked = start_step
        self._waiting: deque[list[Future[Batch]]] = deque()
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="rows")
        self._micro_batches(start_step)  # what cannot be shared is refused here, not in the loop

    def _micro_batches(self, step: int) -> list[RowNumbers]:
        rows = self.data.step_rows(step)
        size = self._micro_batch_rows
        return rank_slice(rows, self.data_rank, self.data_size, size(len(rows)) if callable(size) else size)

    def __iter__(self) -> Iterator[tuple[int, list[Batch]]]:
        return self

    def __next__(self) -> tuple[int, list[Batch]]:
        while not self._waiting or sum(len(step) for step in self._waiting) < self._ahead + len(self._waiting[0]):
            parts = self._micro_batches(self._asked)
            size = len(parts[0])
            first = self.data_rank * size * len(parts)
            resolved = self.data.pool.resolve(np.concatenate(parts))  # once a step: it costs more in small parts
            self._waiting.append([
                self._threads.submit(
                    self.data.assemble, part, resolved.part(i * size, (i + 1) * size), self.objective,
                    first_row=first + i * size,
                )
                for i, part in enumerate(parts)
            ])  # fmt: skip
            self._asked += 1
        batches = [future.result() for future in self._waiting.popleft()]
        self.step += 1
        return self.step - 1, batches

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
