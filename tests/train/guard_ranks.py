"""The guard on two ranks, in one launch of ``-m tests.train.guard_ranks FOLDER``.

One row of one step has a loss that stands out, on the one rank that computes it.
"""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from megatron_ettin.errors import TrainingError
from megatron_ettin.observe import read_records
from megatron_ettin.parallel.groups import finish, initialize
from megatron_ettin.parallel.together import everywhere
from megatron_ettin.rows.run_data import open_data
from megatron_ettin.run_folder import list_checkpoints, read_changes
from megatron_ettin.train import loop as loop_module
from megatron_ettin.train import step as step_module
from megatron_ettin.train.guard import Verdict
from tests.train.ranks import barrier, corpus_in, rank
from tests.train.runs import config_of, go, tensor_hashes

LAYOUTS = {"data": {}, "pipeline": {"layout__pipeline": 2}}
STEP, ROW = 6, 2
"""The step that is spoiled, and the place of the row in it."""
STEPS = 8


@contextmanager
def spoiled(config, loss: float) -> Iterator[list[Verdict]]:
    """A row whose loss sum is ``loss`` whenever it is read; collects the verdicts of this rank."""
    stage = open_data(config)
    number, verdicts = stage.step_rows(STEP - 1)[ROW], []
    forward_backward, train_step = step_module.forward_backward, loop_module.train_step

    def spoil(parts, batches, **options):
        sums_R2 = forward_backward(parts, batches, **options)
        if sums_R2.shape[0] and not options.get("forward_only"):
            sums_R2[torch.tensor([row == number for batch in batches for row in batch.rows_B.tolist()]), 0] = loss
        return sums_R2

    def collect(*arguments, **options):
        result = train_step(*arguments, **options)
        verdicts.append(result.verdict)
        return result

    step_module.forward_backward, loop_module.train_step = spoil, collect
    try:
        yield verdicts
    finally:
        step_module.forward_backward, loop_module.train_step = forward_backward, train_step


def guarded(folder: Path, layout: dict, policy: str, loss: float = 1e6) -> tuple[str, Verdict]:
    """A run under one policy; its error, and the verdict that every rank gave on the spoiled step."""
    fields = {"guard__after": 2, "guard__window": 8, "guard__rewind_steps": 2, "checkpoint__every_steps": 2}
    config = config_of(corpus_in(folder.parent), steps=STEPS, guard__on_spike=policy, **fields, **layout)
    said = ""
    with spoiled(config, loss) as verdicts:
        try:
            go(config, folder)
        except TrainingError as error:
            said = str(error).removeprefix("rank 0: ")
    barrier()
    ours, *others = everywhere(lambda: [(repr(verdict.rows), verdict.note, verdict.accepted) for verdict in verdicts])
    assert all(theirs == ours for theirs in others), (ours, others)
    assert len(set(everywhere(lambda: said))) == 1
    return said, verdicts[STEP - 1]


def check(folder: Path, layout: dict) -> None:
    """All policies under one layout."""
    calm = config_of(corpus_in(folder), steps=STEPS, checkpoint__every_steps=2, **layout)
    last = go(calm, folder / "calm").state.step
    barrier()

    _, verdict = guarded(folder / "report", layout, "report")
    assert verdict.accepted and verdict.kind == "spike" and verdict.rows[0].row == ROW, verdict
    assert tensor_hashes(folder / "report", last) == tensor_hashes(folder / "calm", last)
    record = read_records(folder / "report", "step")[STEP - 1]
    assert record["worst_rows"][0][0] == ROW and f"largest losses in row {ROW} (" in record["note"], record

    _, verdict = guarded(folder / "skip", layout, "skip")
    assert not verdict.accepted
    before, after = ({name: tensor_hashes(folder / name, step) for name in ("calm", "skip")} for step in (4, 6))
    assert before["calm"] == before["skip"] and after["calm"] != after["skip"]

    said, verdict = guarded(folder / "stop", layout, "stop")
    message = rf"step {STEP}: loss .*; guard.on_spike=stop\..*--step {STEP} --row {ROW} \d \d --text"
    assert re.search(message, said), said
    assert [checkpoint.step for checkpoint in list_checkpoints(folder / "stop")] == [2, 4]

    _, verdict = guarded(folder / "rewind", layout, "rewind")
    (change,) = read_changes(folder / "rewind")
    assert (change["step"], change["refused"], change["rows"][0]) == (4, [5, 6], ROW), change
    assert tensor_hashes(folder / "rewind", 4) == tensor_hashes(folder / "calm", 4)
    assert read_records(folder / "rewind", "step")[-1]["refused"] == 2

    _, verdict = guarded(folder / "nan", layout, "report", loss=math.nan)
    assert (verdict.kind, verdict.accepted) == ("not finite", False), verdict
    assert [item.row for item in verdict.rows] == [ROW], verdict
    assert f"not finite in row {ROW}" in read_records(folder / "nan", "step")[STEP - 1]["note"]


def main(arguments: list[str]) -> None:
    """Both layouts; prints a line for each that held."""
    warnings.simplefilter("ignore")
    initialize(config_of(Path("none")).layout)
    for name, layout in LAYOUTS.items():
        folder = Path(arguments[0]) / name
        folder.mkdir(parents=True, exist_ok=True)
        check(folder, layout)
        barrier()
        if rank() == 0:
            print(f"held: {name}", flush=True)
    finish()


if __name__ == "__main__":
    main(sys.argv[1:])
