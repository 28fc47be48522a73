"""The errors a user can cause: each message says what, where, which rule, and the remedy."""

from __future__ import annotations

import errno
import os


class EttinError(Exception):
    """Base of every error that a user can act upon; the command line prints it without a traceback."""


class ConfigError(EttinError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(EttinError):
    """A corpus, mixture, tokenizer or text file that is missing, damaged or does not fit."""


class CheckpointError(EttinError):
    """A checkpoint or exported model that is missing, damaged or belongs to another model."""


class DamagedError(CheckpointError):
    """A checkpoint whose content is proven not to be what was saved; what merely cannot be read is not damaged."""


class OwnershipError(EttinError):
    """A folder that another process is writing to, or that was taken over from this one."""


class TrainingError(EttinError):
    """A run that cannot usefully go on."""


REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, then start the same command again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place that you may read and write"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "check the path, or choose another"),
}
"""By the system's number for what went wrong."""


def file_trouble(error: OSError) -> str:
    """What the system refuses, at which path where it says so, and the remedy."""
    remedy = REMEDIES.get(error.errno or 0, "check the path and the disk, then start the same command again")
    what = error.strerror or str(error)
    return f"{what}; {remedy}" if error.filename is None else f"{os.fsdecode(error.filename)}: {what}; {remedy}"


def first_line(error: BaseException) -> str:
    """The first line of what a library says, or the error's kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


LIKE = 0.5
"""Share of a name's letters that a misspelt one has in common with it."""


def suggest(name: str, known: list[str]) -> str:
    """The part of an error message that helps with a misspelt name."""
    near = closest(name, known)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else f"; known: {', '.join(known)}"


def closest(name: str, known: list[str]) -> list[str]:
    """The known names that resemble a misspelt one most, all that do equally; none where nothing does."""
    import difflib  # only here: it is needed for an error alone

    likeness = {other: difflib.SequenceMatcher(None, name, other).ratio() for other in known}
    best = max(likeness.values(), default=0.0)
    return [other for other in known if likeness[other] == best >= LIKE]
