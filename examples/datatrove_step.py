#!/usr/bin/env python3
"""The last step of a datatrove pipeline: its documents become a corpus, one shard a task.

    pip install 'datatrove[io]'
    python examples/datatrove_step.py my_text corpus/web my_tokenizer --tasks 8 --workers 2 --logs logs
    ettin corpus join corpus/web

``my_text`` is a folder of jsonl files. In a pipeline of your own, put ``WriteCorpus("corpus/web", "my_tokenizer")``
behind your filters, and run it by any executor: local, Slurm or Ray. Task i of n writes corpus/web-i-of-n, in a folder
that all machines share. datatrove repeats the tasks that have no completion marker; a repeated task starts again and
writes the same bytes. ``ettin corpus status corpus/web`` says which shards are there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from datatrove.pipeline.base import PipelineStep

from megatron_ettin.corpus.build import BuildOptions, build_from_texts

if TYPE_CHECKING:
    from datatrove.data import DocumentsPipeline


class WriteCorpus(PipelineStep):
    """Takes the documents of a task and writes shard (rank, world size) of a corpus; gives no documents on."""

    type = "💾 - WRITER"
    name = "🗂 - megatron-ettin corpus"

    def __init__(self, prefix: str, tokenizer: str, options: BuildOptions | None = None) -> None:
        """``options`` are those of `ettin prepare`. By default a task encodes with one thread: others run beside it."""
        super().__init__()
        self.prefix, self.tokenizer = prefix, tokenizer
        self.options = options or BuildOptions(threads=1)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Write the shard. Raises DataError, which fails the task: then nothing of the shard is there."""
        with self.track_time("task"):
            report = build_from_texts(
                self._texts(data), self.prefix, self.tokenizer, replace(self.options, shard=(rank, world_size)),
                origin=f"datatrove, task {rank} of {world_size}", command=f"datatrove: {self!r}",
            )  # fmt: skip
        self.stat_update("tokens", value=report.manifests[0].tokens, unit="task")

    def _texts(self, data: DocumentsPipeline) -> Iterator[str]:
        for document in data or ():
            self.stat_update("documents")
            yield document.text


def main() -> None:
    """A pipeline of jsonl files on this machine."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", help="folder of jsonl files")
    parser.add_argument("prefix", help="of the corpus")
    parser.add_argument("tokenizer", help="a tokenizer.json, or a folder with one")
    parser.add_argument("--tasks", type=int, default=1, help="shards")
    parser.add_argument("--workers", type=int, default=1, help="tasks at a time")
    parser.add_argument("--logs", type=Path, required=True, help="folder for datatrove's logs and completion markers")
    given = parser.parse_args()
    LocalPipelineExecutor(
        pipeline=[JsonlReader(given.text), WriteCorpus(given.prefix, given.tokenizer)],
        tasks=given.tasks, workers=given.workers, logging_dir=str(given.logs),
    ).run()  # fmt: skip


if __name__ == "__main__":
    main()
