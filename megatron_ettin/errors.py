"""The errors a user can cause: each message says what, where, which rule, and the remedy."""

from __future__ import annotations


class EttinError(Exception):
    """Base of every error that a user can act upon; the command line prints it without a traceback."""


class ConfigError(EttinError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(EttinError):
    """A corpus, mixture, tokenizer or text file that is missing, damaged or does not fit."""


class CheckpointError(EttinError):
    """A checkpoint or exported model that is missing, damaged or belongs to another model."""
