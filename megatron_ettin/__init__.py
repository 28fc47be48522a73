"""Paired encoder and decoder pretraining on Megatron-Core."""

__version__ = "0.1.0"
