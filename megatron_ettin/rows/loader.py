"""Batches of one data rank, made ahead of time in background threads. Its whole state is the number of the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType

from megatron_ettin.batch import Batch, empty_batch
from megatron_ettin.config.objective import ObjectiveName
from megatron_ettin.config.sharing import Sharing, empty_shape
from megatron_ettin.errors import ConfigError
from megatron_ettin.rows.run_data import RunData
from megatron_ettin.tokenizer.special_tokens import PAD


class Loader(Iterator[tuple[int, list[Batch]]], AbstractContextManager["Loader"]):
    """Iterates over steps from ``start_step``: yields ``(step, micro_batches)`` of one data rank, without end.

    ``sharing`` says how the ranks share a step, given its rows; a rank without some gets empty micro-batches. ``ahead``
    micro-batches, or one whole step if that is more, are in preparation while the caller computes. An error while
    reading is raised by the iteration that needs the batch. Leaving the ``with`` block stops the threads; it waits for
    what is being computed.
    """

    def __init__(
        self,
        data: RunData,
        objective: ObjectiveName,
        data_rank: int = 0,
        sharing: Callable[[int], Sharing] = Sharing,
        start_step: int = 0,
        threads: int = 2,
        ahead: int = 8,
    ) -> None:
        self.data, self.objective, self.data_rank = data, objective, data_rank
        self.step = start_step
        """The next step to be given out; all the state there is."""
        self._sharing = sharing
        self._ahead = ahead
        self._asked = start_step
        self._waiting: deque[list[Future[Batch]]] = deque()
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="rows")
        ranks = self._shared(start_step).ranks  # what cannot be shared is refused here, not in the loop
        if not 0 <= data_rank < ranks:
            raise ConfigError(f"data rank {data_rank} is not in [0, {ranks})")

    def _shared(self, step: int) -> Sharing:
        return self._sharing(self.data.batch_schedule.rows_at(step)[1])

    def _submit(self, step: int) -> list[Future[Batch]]:
        """Have the micro-batches of a step made."""
        shared = self._shared(step)
        bounds = shared.bounds(self.data_rank)
        parts: list[Future[Batch]] = []
        if bounds:
            first = bounds[0][0]
            rows = self.data.step_rows(step)[first : bounds[-1][1]]
            resolved = self.data.pool.resolve(rows)  # once a step: it costs more in small parts
            parts = [
                self._threads.submit(
                    self.data.assemble, rows[low - first : high - first], resolved.part(low - first, high - first),
                    self.objective, first_row=low,
                )
                for low, high in bounds
            ]  # fmt: skip
        missing = shared.count(self.data_rank) - len(bounds)
        empty = partial(
            empty_batch, *empty_shape(self.data.config, shared, self.data_rank), self.data.special_ids[PAD]
        )
        return parts + [self._threads.submit(empty) for _ in range(missing)]

    def __next__(self) -> tuple[int, list[Batch]]:
        while not self._waiting or sum(len(step) for step in self._waiting) < self._ahead + len(self._waiting[0]):
            self._waiting.append(self._submit(self._asked))
            self._asked += 1
        batches = [future.result() for future in self._waiting.popleft()]
        self.step += 1
        return self.step - 1, batches

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
