"""The saves of a run, one at a time: in the loop, or beside it where checkpoint.background asks for that."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from megatron_ettin.checkpoint.background import BackgroundSave, HostCopies
from megatron_ettin.checkpoint.retention import Reason
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.rows.run_data import RunData
from megatron_ettin.train.parts import Parts
from megatron_ettin.train.record import Recorder
from megatron_ettin.train.store import begin_save, save_run

WAITED_FOR: frozenset[Reason] = frozenset({"signal", "end"})
"""Nothing is trained after these: they are written in the loop."""


class Saves(AbstractContextManager["Saves"]):
    """Begins saves and ends them. Every rank makes one and calls the same.

    Used within ``with``: whatever ends the block waits for the save that is on its way, so that it is not lost.
    """

    def __init__(
        self, run: Path, parts: Parts, data: RunData, recorder: Recorder, still_owned: Callable[[], None]
    ) -> None:
        self._run, self._parts, self._data, self._recorder = run, parts, data, recorder
        self._still_owned = still_owned
        self._copies = HostCopies()
        self._on_its_way: tuple[BackgroundSave, Reason] | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on_its_way is not None:
            self._on_its_way[0].wait()

    @property
    def over(self) -> bool:
        """Whether the save on its way is done or has failed on this rank; the first rank's answer tells of all."""
        return self._on_its_way is not None and self._on_its_way[0].over

    def save(self, state: TrainState, reason: Reason) -> None:
        """Save, or begin to, after the save before. Raises CheckpointError on every rank when either fails."""
        self.finish()
        facts = self._data.fingerprint, self._data.vocabulary.tokenizer
        if self._parts.config.checkpoint.background and reason not in WAITED_FOR:
            begun = begin_save(
                self._parts, self._run, state, reason, facts[0], self._copies, self._still_owned, facts[1]
            )
            self._on_its_way = begun, reason
            return
        started = time.perf_counter()
        checkpoint = save_run(self._parts, self._run, state, reason, facts[0], self._still_owned, facts[1])
        self._recorder.saved(checkpoint.path, reason, time.perf_counter() - started)

    def finish(self) -> None:
        """Wait for the save on its way and say that it is there. Raises CheckpointError on every rank if it failed."""
        if self._on_its_way is None:
            return
        save, reason = self._on_its_way
        self._on_its_way = None
        checkpoint = save.finish()
        self._recorder.saved(checkpoint.path, reason, save.seconds, waited=save.waited)
