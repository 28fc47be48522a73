"""Checkpoints: written whole or not at all, verified before they are read, readable under another layout."""
