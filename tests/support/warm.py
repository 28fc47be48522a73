"""Commands and gloo ranks forked from a process that has imported torch and Megatron-Core.

They are real processes with a memory and an exit status of their own; only the seconds of their imports are saved. What
a test says about starting, launchers or imports themselves needs ``launch``.

``python -m tests.support.warm`` is the process that forks: a line of JSON on its input is a request, a line on its
output the exit statuses. It ends with its input.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.launch import ROOT, TIMEOUT, ended_as_expected, environment

GRACE = 10.0
"""Seconds that the other ranks have to end by themselves when one has failed."""
FIRST_PORT, PORTS = 20_000, 1_000
"""Ports of the ranks' stores, below those that systems give away by themselves; so many for each worker of pytest."""

_server: subprocess.Popen[str] | None = None


def warm(
    ranks: int,
    module: str,
    *arguments: str | Path,
    cwd: Path | None = None,
    status: int | None = 0,
    timeout: float = TIMEOUT,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m MODULE ARGUMENTS``, as so many ranks of one job or, with 0, as a command; what it printed.

    Fails with all of it when the first status that is not 0, or 0, is not ``status``.
    """
    global _server
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm"],
            cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        atexit.register(_end, _server)
    assert _server.stdin is not None and _server.stdout is not None
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory(prefix="ettin-warm-") as folder:
        request = {
            "ranks": ranks, "module": module, "arguments": words, "cwd": str(cwd or ROOT), "environment": environment(),
            "folder": folder, "timeout": timeout,
        }  # fmt: skip
        _server.stdin.write(json.dumps(request) + "\n")
        _server.stdin.flush()
        statuses = json.loads(_server.stdout.readline() or "[-9]")
        out, err = ((Path(folder) / name).read_text(errors="replace") for name in ("out", "err"))
    first = next((code for code in statuses if code), 0)
    return ended_as_expected(subprocess.CompletedProcess([module, *words], first, out, err), status)


def _end(server: subprocess.Popen[str]) -> None:
    """Close its input, which ends it."""
    assert server.stdin is not None
    server.stdin.close()
    server.wait(GRACE)


def serve() -> None:
    """Fork what is asked for until the input ends; in a fork this raises SystemExit."""
    import megatron_ettin.cli
    import megatron_ettin.commands.pretrain  # noqa: F401
    import megatron_ettin.train.run  # noqa: F401

    gc.collect()
    gc.freeze()
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        print(json.dumps(_statuses(request, number)), flush=True)


def _statuses(request: dict[str, object], number: int) -> list[int]:
    """Exit statuses of all ranks; those that are left when one has failed are ended."""
    count = int(str(request["ranks"]))
    port = _free_port(number)
    processes = {_fork(request, rank, count, port): rank for rank in range(max(1, count))}
    statuses = [0] * len(processes)
    deadline = time.monotonic() + float(str(request["timeout"]))
    asked = False
    while processes:
        for process in list(processes):
            ended, code = os.waitpid(process, os.WNOHANG)
            if ended:
                statuses[processes.pop(process)] = os.waitstatus_to_exitcode(code)
        if any(statuses) and not asked:
            deadline, asked = min(deadline, time.monotonic() + GRACE), True
        if time.monotonic() > deadline:
            for process in processes:
                os.kill(process, signal.SIGKILL)
        time.sleep(0.03)
    return statuses


def _fork(request: dict[str, object], rank: int, count: int, port: int) -> int:
    """The process of one rank."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    folder, variables = str(request["folder"]), request["environment"]
    assert isinstance(variables, dict) and isinstance(request["arguments"], list)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(variables)
    if count:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
    os.chdir(str(request["cwd"]))
    sys.argv = [str(request["module"]), *map(str, request["arguments"])]
    runpy.run_module(str(request["module"]), run_name="__main__", alter_sys=True)
    raise SystemExit(0)


def _free_port(number: int) -> int:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for attempt in range(PORTS):
        port = FIRST_PORT + PORTS * (worker % 10) + (number + attempt) % PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise SystemExit("no free port")


if __name__ == "__main__":
    serve()
