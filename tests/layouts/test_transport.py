"""All gloo groups of a rank share one transport."""

from __future__ import annotations

from tests.support.launch import torchrun

PROGRAM = r"""
import sys
from pathlib import Path
from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.parallel.groups import finish, initialize
def loops():
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return sum("gloo_tcp_loop" in name for name in names)
for tensor in (2, 1):
    initialize(LayoutConfig(tensor=tensor))
    sys.stdout.write(f"loops: {loops()}\n")
finish()
"""


def test_a_rank_has_one_transport_thread_however_many_groups_it_makes(tmp_path):
    program = tmp_path / "loops.py"
    program.write_text(PROGRAM)
    lines = torchrun(2, program).stdout.splitlines()
    assert [line for line in lines if line.startswith("loops:")] == ["loops: 1"] * 4
