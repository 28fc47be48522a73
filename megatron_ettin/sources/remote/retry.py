"""Trying again what a network may spoil, with longer and longer waits; what no repetition mends is told at once."""

from __future__ import annotations

import errno
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from megatron_ettin.errors import DataError, file_trouble
from megatron_ettin.sources.remote.address import SCHEMES, redacted, scheme_of

T = TypeVar("T")
TRIES = 8
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds before the second try, twice as many before each further one, up to the longest."""
FULL = (errno.ENOSPC, errno.EDQUOT)
PASSING = (408, 425, 429)
"""Answers of the 4xx that another try may mend; those of the 5xx all may."""


class NotWantedError(Exception):
    """What was waited for is not wanted any more."""


class ShortAnswerError(OSError):
    """Fewer bytes than asked for: the connection was dropped, or the server cut the body."""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error of any of the libraries; None where there is none."""
    for cause in _causes(error):
        response: Any = getattr(cause, "response", None)
        found = getattr(cause, "status", None) or getattr(response, "status_code", None)
        if found is None and isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(found, int) and found >= 300:
            return found
    return None


def lasting(error: BaseException, address: str) -> str | None:
    """Why no repetition helps, and the remedy; None for trouble that may pass."""
    status, shown = status_of(error), redacted(address)
    credentials = SCHEMES[scheme_of(address)].credentials
    absent = any(isinstance(cause, FileNotFoundError) for cause in _causes(error)) and status is None
    # fsspec reports a file that it could not ask the web for as one that is not there
    asked = not any(type(cause).__module__.startswith("aiohttp") for cause in _causes(error))
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{shown}: {file_trouble(error)}"
    if status in (401, 403) or isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        answer = f" (status {status})" if status else ""
        return f"{shown}: may not be read{answer}; give credentials that may by {credentials}"
    if status == 404 or (absent and asked):
        return f"{shown}: no such file or folder there, or none that may be seen with {credentials}; check the address"
    if status is not None and 300 <= status < 500 and status not in PASSING:
        return f"{shown}: the server refuses (status {status}); check the address"
    if isinstance(error, TypeError | ValueError | ImportError | NotImplementedError):
        return f"{shown}: cannot be read ({redacted(str(error))})"
    return None


def retried(call: Callable[[], T], address: str, stop: threading.Event | None = None) -> T:
    """What ``call`` gives, tried up to TRIES times.

    Raises DataError, which names the address without its secrets, and NotWantedError once ``stop`` is set.
    """
    stop = stop or threading.Event()
    for number in itertools.count(1):
        try:
            return call()
        except (DataError, NotWantedError):
            raise
        except Exception as error:  # each library has its own kinds
            if stop.is_set():
                raise NotWantedError from error
            if (reason := lasting(error, address)) is not None:
                raise DataError(reason) from error
            what = redacted(str(error).strip() or type(error).__name__).splitlines()[0]
            if number == TRIES:
                raise DataError(
                    f"{redacted(address)}: {what}; tried {TRIES} times: once the network and the server answer, the "
                    "same command goes on where it stopped"
                ) from error
            # tasks of one array that met the same trouble do not all come back at the same moment
            share = (1 + os.urandom(1)[0] / 256) / 2
            delay = min(FIRST_DELAY * 2 ** (number - 1), LONGEST_DELAY) * share
            again = f"try {number + 1} of {TRIES} in {delay:.1f} s"
            print(f"{redacted(address)}: {what}; {again}", file=sys.stderr)
            if stop.wait(delay):
                raise NotWantedError from error
    raise AssertionError("the loop ends by itself")
