"""A progress line says how far, how fast and how long; off a terminal there is none."""

import io
import time

from megatron_ettin import progress
from megatron_ettin.progress import Progress, elapsed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_says_how_far_how_fast_and_how_long():
    line = Progress("packing", 2_000, " documents", Terminal()).line(500, 10.0, "3 files")
    assert line == "packing: 500 documents of 2.00k documents (25%), 50 documents/s, 0:30 left, 3 files"


def test_updates_are_shown_five_times_a_second_and_wiped_at_the_end(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = Terminal()
    with Progress("packing", 100, "", stream) as line:
        for done in range(100):
            now[0] += 0.01
            line.update(done)
    assert 4 <= stream.getvalue().count("packing") <= 5
    assert stream.getvalue().endswith("\r\x1b[K")


def test_a_clock_runs_while_nothing_else_is_known():
    stream = Terminal()
    with elapsed("export", stream):
        time.sleep(1.2)
    assert "export: 0:01" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_off_a_terminal_nothing_is_written():
    stream = io.StringIO()
    with Progress("packing", 10, "", stream) as line, elapsed("export", stream):
        time.sleep(0.3)
        line.update(5)
        line.tick()
    assert stream.getvalue() == ""
