"""Corpora, peers and probes for ``benchmarks/data.py``."""
