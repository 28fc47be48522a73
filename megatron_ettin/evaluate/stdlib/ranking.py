"""Ranks of wanted functions by cosine, and the scores that retrieval tasks are judged by."""

# Q queries, D documents, H hidden

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.evaluate.stdlib.states import States

DEPTH = 10

Ranks = NDArray[np.int64]


def ranks_of(queries_QH: States, documents_DH: States, wanted_Q: NDArray[np.int64]) -> Ranks:
    """Rank, from 1, of each query's document by cosine; of equal ones the wanted document comes last.

    Each side loses its own mean first: states of a language model share a direction that says nothing about the text.
    """
    queries, documents = centred(queries_QH), centred(documents_DH)
    cosines_QD = queries @ documents.T
    own_Q = cosines_QD[np.arange(len(wanted_Q)), wanted_Q]
    ranks: Ranks = (cosines_QD >= own_Q[:, None]).sum(1)
    return ranks


def centred(states_NH: States) -> States:
    """Without their mean, of length 1."""
    states_NH = states_NH - states_NH.mean(0)
    unit: States = states_NH / np.maximum(np.linalg.norm(states_NH, axis=1, keepdims=True), 1e-12)
    return unit


def gains(ranks_Q: Ranks) -> States:
    """nDCG@10 of each query with one right document."""
    found: States = np.where(ranks_Q <= DEPTH, 1 / np.log2(1 + ranks_Q), 0.0)
    return found


def chance(documents: int) -> float:
    """Mean nDCG@10 of a random order."""
    return float(gains(np.arange(1, documents + 1)).mean())
