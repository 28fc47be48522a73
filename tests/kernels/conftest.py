"""The process groups of the model tests."""

from __future__ import annotations

from tests.model.conftest import groups

__all__ = ["groups"]
