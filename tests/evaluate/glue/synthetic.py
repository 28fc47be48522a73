"""A few rows for every task, in the hub's columns; the answer can be read off one word."""

import gzip
import json
from pathlib import Path

from megatron_ettin.evaluate.glue.tasks import TASKS

WORDS = (("no", "yes", "maybe"), ("red", "blue", "green"))
TAILS = ("", " sky", " and a tree", " of the old town", " by rain", " we saw far away in the long dry summer")


def rows(task, count):
    found = []
    for number in range(count):
        label = number % max(task.classes, 2)
        first = f"{WORDS[0][label]}{TAILS[number * 5 % 6]} {number}"
        texts = [first, WORDS[1][(number // 3) % 3] + TAILS[number % 6]][: len(task.columns)]
        answer = 5.0 * label if task.classes == 1 else label
        found.append({**dict(zip(task.columns, texts, strict=True)), "label": answer, "idx": number})
    return found


def write_split(folder, task, split, content):
    path = folder / "glue" / task / f"{split}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in content).encode()))
    return path


def write(folder: Path, names=tuple(TASKS), training=12, scored=9) -> Path:
    """These tasks below ``folder``/glue."""
    for name in names:
        task = TASKS[name]
        write_split(folder, name, "train", rows(task, training))
        for split in (task.split, task.further):
            if split:
                write_split(folder, name, split, rows(task, scored))
    return folder
