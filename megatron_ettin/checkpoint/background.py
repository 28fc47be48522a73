"""Saving beside the training: the loop copies the tensors to host memory, a thread of every rank writes the copies.

Nothing is published before every rank has written its part: the order of operations is that of ``save``. The threads
tell one another through the job's store, since the collectives belong to the loop.
"""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from megatron_ettin.checkpoint.manifest import FileRecord, files_of, hash_share, write_manifest
from megatron_ettin.checkpoint.save import publish_staged, refuse_full_disk, stage
from megatron_ettin.checkpoint.shards import Shards, check_complete, torch_errors, unpickle_records, write_shards
from megatron_ettin.errors import CheckpointError, EttinError
from megatron_ettin.parallel.together import ASK_EVERY, everywhere, on_first, rank_and_size
from megatron_ettin.run_folder import SHARDS, STATE, Checkpoint, note_save, path_of

PART = {"torch.distributed.checkpoint.storage": {"WriteResult"}, "megatron_ettin.checkpoint.manifest": {"FileRecord"}}
"""What a rank tells of its part, beside the records of an index: whoever reaches the job's store can run nothing."""


class HostCopies:
    """Copies of tensors in host memory, whose places are used again by the next save: fresh pages cost as much."""

    def __init__(self) -> None:
        self._held: dict[MetadataIndex, Any] = {}

    def take(self, items: list[WriteItem], planner: SavePlanner) -> None:
        """Copy everything that a plan writes; what is copied may be changed as soon as this returns."""
        wanted = {item.index for item in items}
        self._held = {index: kept for index, kept in self._held.items() if index in wanted}
        cuda = False
        for item in items:
            found: Any = planner.resolve_data(item)
            if item.type == WriteItemType.BYTE_IO:
                self._held[item.index] = found
                continue
            tensor = found.detach()
            kept = self._held.get(item.index)
            if not isinstance(kept, torch.Tensor) or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
                kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                self._held[item.index] = kept
            kept.copy_(tensor, non_blocking=True)
            cuda = cuda or tensor.is_cuda
        if cuda:
            torch.cuda.synchronize()

    def resolve_data(self, item: WriteItem) -> Any:  # noqa: ANN401
        """The copy, as torch's writer asks a planner for it."""
        return self._held[item.index]


class DeferredWriter(FileSystemWriter):
    """Takes copies where torch would write, and writes them when it is told to."""

    def __init__(self, folder: Path, copies: HostCopies) -> None:
        super().__init__(folder, sync_files=False)
        self._copies = copies
        self._plan: SavePlan | None = None
        self._index: Metadata | None = None

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Copy this rank's part of the plan."""
        self._plan = plan
        self._copies.take(list(plan.items), planner)
        nothing: Future[list[WriteResult]] = Future()
        nothing.set_result([])
        return nothing

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Keep the index, which lacks the places of what is not written yet."""
        self._index = metadata

    def write_copies(self) -> list[WriteResult]:
        """Write this rank's part; returns where each tensor is."""
        assert self._plan is not None
        written: list[WriteResult] = super().write_data(self._plan, self._copies).value()  # type: ignore[arg-type]
        return written

    def write_index(self, results: list[list[WriteResult]]) -> None:
        """Write the index of what all ranks have written; the first rank calls this."""
        assert self._index is not None
        super().finish(self._index, results)


class BackgroundSave:
    """One checkpoint on its way. Every rank makes it, in the loop, and later calls ``finish``.

    Raises as ``save`` does: what fails before or while copying at once, what fails in the threads from ``finish``.
    ``published`` is called on the first rank when the checkpoint is there.
    """

    def __init__(
        self,
        run: Path,
        step: int,
        shards: Shards,
        numbers: dict[str, Any],
        data_group: torch.distributed.ProcessGroup,
        copies: HostCopies,
        still_owned: Callable[[], None],
        needed: int,
        published: Callable[[], object],
    ) -> None:
        self._run, self._numbers, self._still_owned, self._published = run, numbers, still_owned, published
        self._checkpoint = Checkpoint(path=path_of(run, step), step=step)
        self._rank, self._ranks = rank_and_size()
        self._store = torch.distributed.distributed_c10d._get_default_store() if self._ranks > 1 else None
        self._error: Exception | None = None
        self._begun = time.perf_counter()
        on_first(lambda: refuse_full_disk(run, needed))
        self._staging: Path = on_first(lambda: stage(self._checkpoint.path))
        self._writer = DeferredWriter(self._staging / SHARDS, copies)
        try:
            everywhere(lambda: write_shards(self._staging / SHARDS, shards, data_group, self._writer))
            on_first(self._write_state)
        except BaseException:
            if self._rank == 0:
                shutil.rmtree(self._staging, ignore_errors=True)
            raise
        self.waited = time.perf_counter() - self._begun
        """Seconds that the loop has waited for the copies."""
        self.seconds = 0.0
        """Seconds from the begin to the end of the save, once it is over."""
        self._thread = threading.Thread(target=self._work, name="save", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether this rank's part, on the first rank the whole save, is done or has failed."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Wait for this rank's part, on the first rank for the whole save; says nothing of how it ended."""
        self._thread.join()

    def finish(self) -> Checkpoint:
        """Wait for the save on all ranks. Raises CheckpointError or OwnershipError on every rank where it failed."""

        def outcome() -> None:
            self.wait()
            if self._error is not None:
                raise self._error

        everywhere(outcome)
        return self._checkpoint

    def _write_state(self) -> None:
        (self._staging / STATE).write_text(json.dumps(self._numbers, indent=1) + "\n", encoding="utf-8")

    def _work(self) -> None:
        """What the thread of a rank does."""
        part: tuple[list[WriteResult], dict[str, FileRecord]] | str
        try:
            part = self._write_part()
        except Exception as error:  # told to the first rank's thread
            part = str(error) if isinstance(error, EttinError) else f"{self._staging} cannot be written: {error!r}"
        try:
            if self._rank:
                assert self._store is not None
                self._store.set(self._key(self._rank), pickle.dumps(part))  # type: ignore[arg-type]  # bytes are taken
            else:
                self._publish([part, *(self._part_of(rank) for rank in range(1, self._ranks))])
        except Exception as error:  # raised by finish
            self._error = error
        self.seconds = time.perf_counter() - self._begun

    def _write_part(self) -> tuple[list[WriteResult], dict[str, FileRecord]]:
        """Write this rank's tensors; returns where they are, and the hashes of its files."""
        with torch_errors(f"{self._staging} cannot be written"):
            results = self._writer.write_copies()
        names = sorted({f"{SHARDS}/{result.storage_data.relative_path}" for result in results})
        return results, hash_share(self._staging, names, 0, 1)

    def _publish(self, parts: list[Any]) -> None:
        """Make the checkpoint of all ranks' parts appear, or remove what is there of it."""
        try:
            for rank, part in enumerate(parts):
                if isinstance(part, str):
                    raise CheckpointError(f"rank {rank}: {part}" if self._ranks > 1 else part)
            self._writer.write_index([results for results, _ in parts])
            records = {name: record for _, hashed in parts for name, record in hashed.items()}
            names = files_of(self._staging)
            check_complete(self._staging, names)
            records |= hash_share(self._staging, [name for name in names if name not in records], 0, 1)
            write_manifest(self._staging, records)
            publish_staged(self._staging, self._checkpoint.path, self._still_owned)
        except BaseException:
            shutil.rmtree(self._staging, ignore_errors=True)
            raise
        note_save(self._run, self._checkpoint, str(self._numbers.get("reason", "")))
        self._published()

    def _part_of(self, rank: int) -> Any:  # noqa: ANN401
        """What another rank's thread has told; waits for it as long as its process lives."""
        assert self._store is not None
        key = self._key(rank)
        while not self._store.check([key]):
            time.sleep(ASK_EVERY)  # waiting in the store would keep the loop from using it
        part = unpickle_records(self._store.get(key), PART)
        self._store.delete_key(key)
        return part

    def _key(self, rank: int) -> str:
        return f"save/{self._checkpoint.step}/{rank}"
