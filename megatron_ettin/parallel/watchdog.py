"""Notices that the ranks have stopped moving, says which one and where, and ends the job.

A rank that waits in a collective for one that hangs would wait until the collective's own clock runs out, and then
name itself. Here every rank tells the job's store where it is once its time is over; those that are behind, or do not
answer, are named by all others.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist

EXIT_HUNG = 71
"""Exit status of a rank that gave up waiting (EX_OSERR)."""
ANSWER_SECONDS = 10.0
"""How long the ranks collect each other's answers."""


class Place(NamedTuple):
    """Where a rank is."""

    rank: int
    host: str
    process: int
    step: int
    doing: str

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.process} on {self.host}): step {self.step}, {self.doing}"


class Watchdog:
    """Ends this process when ``moved`` has not been called for ``limit`` seconds; 0: it never does.

    Every rank makes one, after the process groups, and watches within ``with``: whatever ends the block ends the watch,
    so that it never ends a program that has caught the run's error. It prints the stack of every thread of its rank
    first.
    """

    def __init__(self, rank: int, ranks: int, limit: float) -> None:
        self._rank, self._ranks, self._limit = rank, ranks, limit
        self._last = time.monotonic()
        self._step, self._doing = 0, "starting"
        self._done = threading.Event()
        self._store = dist.distributed_c10d._get_default_store() if ranks > 1 else None  # the one store all ranks share
        if limit > 0 and self._store is not None:
            self._store.set(f"watchdog/here/{rank}", self._place())

    def __enter__(self) -> Watchdog:
        if self._limit > 0:
            self._last = time.monotonic()
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()

    def moved(self, step: int, doing: str) -> None:
        """Something has ended and ``doing`` begins."""
        self._last, self._step, self._doing = time.monotonic(), step, doing

    def _place(self) -> str:
        return json.dumps(Place(self._rank, socket.gethostname(), os.getpid(), self._step, self._doing))

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._limit / 4)):
            silent = time.monotonic() - self._last
            if silent > self._limit:
                self._give_up(silent)

    def _give_up(self, silent: float) -> None:
        """Say where this rank is, name those that hold the others up, and end; does not return."""
        here = Place(*json.loads(self._place()))
        print(f"error: nothing has moved for {silent:.0f} s; {here}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if self._store is not None:
            self._store.set(f"watchdog/stuck/{self._rank}", self._place())
            time.sleep(ANSWER_SECONDS)
            answers = [self._answer("stuck", rank) for rank in range(self._ranks)]
            known = [self._answer("here", rank) for rank in range(self._ranks)]
            print(f"error: {culprits(answers, known)}", file=sys.stderr, flush=True)
            for answer, place in zip(answers, known, strict=True):
                if answer is None and place is not None and place.host == here.host:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(place.process, signal.SIGKILL)  # a stopped process does not end by itself
        os._exit(EXIT_HUNG)

    def _answer(self, kind: str, rank: int) -> Place | None:
        key = f"watchdog/{kind}/{rank}"
        try:
            assert self._store is not None
            self._store.wait([key], timedelta(milliseconds=200))
            return Place(*json.loads(self._store.get(key)))
        except Exception:  # the store, and the host it is on, may be what is gone
            return None


def culprits(answers: Sequence[Place | None], known: Sequence[Place | None]) -> str:
    """Who holds up whom: ranks without an answer, else those that are behind or do something else than most."""
    silent = [known[rank] or f"rank {rank}" for rank, answer in enumerate(answers) if answer is None]
    if silent:
        return "no answer from " + "; ".join(map(str, silent)) + "; look at these processes and their hosts first"
    places = [answer for answer in answers if answer is not None]
    common = max(((place.step, place.doing) for place in places), key=[(p.step, p.doing) for p in places].count)
    behind = [place for place in places if (place.step, place.doing) != common]
    if behind:
        where = f"step {common[0]}, {common[1]}"
        return f"the other ranks are at {where} and wait for " + "; ".join(map(str, behind))
    return f"all ranks are at step {common[0]}, {common[1]}: the stacks above say what each waits for"
