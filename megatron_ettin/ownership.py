"""One owner at a time for a folder that is written to, on any file system: no flock, no clock that hosts must share.

A claim is a small file ``.NAME.owner-00000007`` in the folder, made by an exclusive link. The highest number counts.
Its owner touches it every HEARTBEAT seconds. Whoever finds the owner gone makes the next number: of several that try,
the link lets one through. A released claim stays as a mark, or is removed where a file of its own beside the result
would confuse people; then a number may be given again, and a claim counts as held only while it says who holds it.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from megatron_ettin.errors import OwnershipError
from megatron_ettin.publish import staging_path

HEARTBEAT = 20.0
"""Seconds between two touches of a claim."""
MISSED = 3
"""Heartbeats that an owner on another host may miss before it counts as gone."""
GRACE = 10.0
"""Seconds that a start waits for a living owner on this host: ranks whose launcher was killed are about to end."""

STAGING = "staging"
"""What the owner of a staging folder of ``publish`` owns in it while it is filled."""
UNCLAIMED = 60.0
"""Seconds after which a staging folder that nobody has claimed counts as left behind."""

Standing = Literal["free", "alive", "gone", "undecided"]
"""``undecided``: on another host, and its claim is fresh enough that only waiting for a heartbeat can tell."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a claim."""

    host: str
    boot: str
    """The host's boot id and process namespace; a process number means something only there."""
    process: int
    started: str
    """The process's start in clock ticks after boot: tells it from a later process of the same number."""
    since: float
    """When the claim was made, seconds since the epoch, by the owner's clock."""
    job: str
    """SLURM_JOB_ID, or empty."""
    restarts: int
    """SLURM_RESTART_COUNT."""
    command: str
    """What runs, for people."""
    released: bool = False

    def __str__(self) -> str:
        job = f", Slurm job {self.job}" if self.job else ""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.process} on {self.host}{job}, since {since} ({self.command})"


def this_process(command: str) -> Owner:
    """This process as an owner."""
    return Owner(
        host=socket.gethostname(),
        boot=_boot(),
        process=os.getpid(),
        started=_start_of(os.getpid()) or "",
        since=time.time(),
        job=os.environ.get("SLURM_JOB_ID", ""),
        restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        command=command,
    )


class Claim:
    """The claim of this process on a folder. Its heart beats in a thread until ``release``.

    The thread calls ``on_loss`` with the error when it finds that another process has taken over.
    """

    def __init__(self, path: Path, owner: Owner, name: str, on_loss: Callable[[OwnershipError], None]) -> None:
        self.path, self.owner, self.name, self._on_loss = path, owner, name, on_loss
        self._done = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="ownership", daemon=True)
        self._heart.start()

    def require(self) -> None:
        """Raise OwnershipError when another process has taken over. Call it before anything is published.

        OSError when the folder cannot be read.
        """
        newest = _newest(self.path.parent, self.name)
        holding = _read(newest) if newest else None
        if newest != self.path or holding not in (self.owner, _UNKNOWN):
            holder = f" by {holding}" if holding else ""
            raise OwnershipError(
                f"{self.path.parent} was taken over{holder} while this process could not be reached; "
                "nothing more is written here"
            )

    def release(self, *, remove: bool = False) -> None:
        """Give the folder free; ``remove`` leaves no mark. A claim that was lost is left alone."""
        self._done.set()
        self._heart.join()
        with contextlib.suppress(OSError, OwnershipError):
            self.require()
            if remove:
                self.path.unlink()
                return
            staged = _staged(self.path, replace(self.owner, released=True))
            os.replace(staged, self.path)

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # a disk that does not answer misses a beat; require() tells the rest
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self.path)
                try:
                    self.require()
                except OwnershipError as error:
                    self._on_loss(error)
                    return


@contextlib.contextmanager
def owned(
    folder: Path,
    name: str,
    command: str,
    *,
    take_over: bool = False,
    wait: bool = False,
    remove: bool = False,
    say: Callable[[str], None] = lambda _: None,
    on_loss: Callable[[OwnershipError], None] = lambda _: None,
) -> Iterator[Claim]:
    """Own ``folder`` for the while, as what ``name`` says (one folder may hold several things that have owners).

    Goes on by itself when the owner before is gone. Waits at most GRACE seconds for an owner on this host and
    (MISSED + 1) heartbeats for one elsewhere, which ``take_over`` cuts short. Raises OwnershipError when it lives; with
    ``wait`` it waits for the end of a living owner instead. ``remove`` leaves no mark in the end.
    """
    claim = claim_folder(folder, name, command, take_over=take_over, wait=wait, say=say, on_loss=on_loss)
    try:
        yield claim
    finally:
        claim.release(remove=remove)


def claim_folder(
    folder: Path,
    name: str,
    command: str,
    *,
    take_over: bool = False,
    wait: bool = False,
    say: Callable[[str], None] = lambda _: None,
    on_loss: Callable[[OwnershipError], None] = lambda _: None,
) -> Claim:
    """As ``owned``, released by hand."""
    folder = Path(folder)
    ours = this_process(command)
    patience = _Patience(folder, say, endless=wait)
    while True:
        seen = _contents(folder, name)
        newest = max(seen, key=_number, default=None)
        if newest is not None:
            try:
                owner, standing = _judged(newest, ours)
            except FileNotFoundError:
                continue  # released and removed, or replaced, since the look
            if standing == "alive" or (standing == "undecided" and not take_over and not patience.exhausted(newest)):
                patience.wait(newest, owner, standing)
                continue
        path = folder / f".{name}.owner-{_number(newest) + 1 if newest else 1:08d}"
        try:
            _make_exclusively(path, ours)
        except FileExistsError:
            continue  # another start was quicker: look again
        others = {claim: text for claim, text in _contents(folder, name).items() if claim != path}
        if any(_number(claim) > _number(path) or seen.get(claim) != text for claim, text in others.items()):
            path.unlink(missing_ok=True)  # other claims have come since the look
            continue
        for old in _claims(folder, name):
            if _number(old) < _number(path):
                old.unlink(missing_ok=True)
        return Claim(path, ours, name, on_loss)


def owner_of(folder: Path, name: str) -> tuple[Owner | None, Standing]:
    """Who owns a folder, and whether they live as far as can be told at once. Writes nothing but a passing file."""
    newest = _newest(Path(folder), name)
    if newest is None:
        return None, "free"
    owner, standing = _judged(newest, this_process(""))
    return (owner, "free") if owner.released else (owner, standing)


def remove_dead_staging(target: Path) -> None:
    """Delete the staging folders that killed processes left beside ``target``.

    Raises OwnershipError when one belongs to a process that lives, or may live on another host.
    """
    for staging in target.parent.glob(f".{glob.escape(target.name)}.incomplete-*"):
        with contextlib.suppress(FileNotFoundError):  # it has been finished or removed since the look
            owner, standing = owner_of(staging, STAGING)
            if owner is not None and standing in ("alive", "undecided"):
                raise OwnershipError(
                    f"{target} is being written by {owner}; wait for its end, or choose another folder"
                )
            if owner is not None or _silence(staging) > UNCLAIMED:
                shutil.rmtree(staging, ignore_errors=True)


class _Patience:
    """What a start has seen of the owner that it waits for."""

    def __init__(self, folder: Path, say: Callable[[str], None], *, endless: bool) -> None:
        self._folder, self._say, self._endless = folder, say, endless
        self._claim: Path | None = None
        self._beat = 0
        self._since = 0.0

    def wait(self, claim: Path, owner: Owner, standing: Standing) -> None:
        """Sleep a little. Raises OwnershipError when the owner has shown that it lives."""
        with contextlib.suppress(FileNotFoundError):  # another start has just replaced it
            beat = claim.stat().st_mtime_ns
            if claim != self._claim:
                self._claim, self._beat, self._since = claim, beat, time.monotonic()
                self._say(f"{self._folder} is owned by {owner}; waiting to see whether that still lives")
            here = standing == "alive"
            if self._endless:
                if beat != self._beat:
                    self._beat, self._since = beat, time.monotonic()
            elif (here and time.monotonic() - self._since >= GRACE) or (not here and beat != self._beat):
                stop = f"stop it (kill {owner.process})" if here else "stop it there"
                raise OwnershipError(
                    f"{self._folder} is in use by {owner}; {stop}, wait for its end, or choose another folder"
                )
        time.sleep(0.2)

    def exhausted(self, claim: Path) -> bool:
        """Whether a claim has been watched for longer than its owner may be silent."""
        return claim == self._claim and time.monotonic() - self._since > (MISSED + 1) * HEARTBEAT


def _judged(claim: Path, ours: Owner) -> tuple[Owner, Standing]:
    """The owner of a claim and how it stands, as seen from this process."""
    owner = _read(claim)
    if owner.released:
        return owner, "gone"
    if owner.boot == ours.boot and owner.boot:
        return owner, "alive" if _start_of(owner.process) == owner.started else "gone"
    if owner.job and owner.job == ours.job and ours.restarts > owner.restarts:
        return owner, "gone"  # Slurm has ended the job before it started it again
    return owner, "gone" if _silence(claim) > MISSED * HEARTBEAT else "undecided"


def _silence(claim: Path) -> float:
    """Seconds since the last touch of a claim, by its file system's clock; 0 where the folder may only be read.

    The file system dates a passing file of ours as it dates the claim: no two hosts' clocks are compared.
    """
    probe = staging_path(claim)
    try:
        probe.touch()
        return (probe.stat().st_mtime_ns - claim.stat().st_mtime_ns) / 1e9
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


_UNKNOWN = Owner(
    host="an unknown host", boot="", process=0, started="", since=0.0, job="", restarts=0, command="being made"
)


def _read(claim: Path) -> Owner:
    """The content of a claim. Raises OwnershipError when it is none, OSError when it cannot be read."""
    text = claim.read_text(encoding="utf-8")
    if not text:
        return _UNKNOWN  # between its making and its filling, where there are no hard links
    try:
        content = json.loads(text)
        if set(content) != {field.name for field in fields(Owner)} or not isinstance(content["process"], int):
            raise ValueError("its fields are others")
        return Owner(**content)
    except (ValueError, TypeError) as error:
        raise OwnershipError(
            f"{claim} is no claim of this version ({error}); delete it if nothing runs there"
        ) from error


def _staged(path: Path, owner: Owner) -> Path:
    """A claim's content under a passing name."""
    staged = staging_path(path)
    try:
        staged.write_text(json.dumps(asdict(owner)) + "\n", encoding="utf-8")
    except OSError:
        staged.unlink(missing_ok=True)
        raise
    return staged


def _make_exclusively(path: Path, owner: Owner) -> None:
    """Make a claim, or raise FileExistsError. A link is atomic on every file system that has links, NFS among them."""
    staged = _staged(path, owner)
    try:
        os.link(staged, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def _claims(folder: Path, name: str) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(name)}\.owner-\d{{8,}}")
    return [folder / entry for entry in os.listdir(folder) if pattern.fullmatch(entry)]


def _contents(folder: Path, name: str) -> dict[Path, str]:
    """The claims that are there and what they say."""
    found = {}
    for claim in _claims(folder, name):
        with contextlib.suppress(FileNotFoundError):  # removed since the listing
            found[claim] = claim.read_text(encoding="utf-8")
    return found


def _newest(folder: Path, name: str) -> Path | None:
    return max(_claims(folder, name), key=_number, default=None)


def _number(claim: Path) -> int:
    return int(claim.name.rpartition("-")[2])


def _boot() -> str:
    """Boot id and process namespace of this host; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(process: int) -> str | None:
    """When a living process of this host started, in ticks after boot; None when it has ended."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if after_name[0] in "ZX" else after_name[19]
