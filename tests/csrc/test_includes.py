"""Which room of csrc may know which other."""

import re
from pathlib import Path

ALLOWED = {
    "base": set(),
    "text": {"base"},
    "splits": {"text", "base"},
    "tokenizer": {"splits", "text", "base"},
    "corpus": {"tokenizer", "text", "base"},
    "rows": {"base"},
    "kernels": {"base"},
    "python": {"base", "text", "splits", "tokenizer", "corpus", "rows", "kernels"},
    "fuzz": {"base", "text", "splits", "tokenizer", "corpus", "rows", "kernels"},
}


def test_includes_name_a_room_and_enter_only_rooms_that_they_may(root: Path) -> None:
    for file in (root / "csrc").rglob("*.[ch]*"):
        if file.suffix in (".h", ".cpp"):
            room = file.relative_to(root / "csrc").parts[0]
            entered = {name.split("/")[0] for name in re.findall(r'#include "(.*)"', file.read_text(encoding="utf-8"))}
            assert entered <= ALLOWED[room] | {room}, file


def test_one_place_asks_for_instruction_sets_and_one_starts_the_threads_of_loops(root: Path) -> None:
    places = {"__builtin_cpu_supports": {"base/cpu.cpp"}, "getenv": {"base/cpu.cpp"}, "target_clones": set()}
    places["std::thread "] = places["std::thread>"] = {"base/threads.h", "corpus/pipeline.cpp", "corpus/pipeline.h"}
    for file in (root / "csrc").rglob("*.[ch]*"):
        text = file.read_text(encoding="utf-8", errors="replace")
        for word, allowed in places.items():
            assert word not in text or str(file.relative_to(root / "csrc")) in allowed, (word, file)
