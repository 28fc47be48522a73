"""The held-out losses of one model: masked tokens and next tokens, in nats a token and a byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_ettin.config.objective import Objective
from megatron_ettin.evaluate.questions import masked_requests, next_at_places, next_requests, sampled_places
from megatron_ettin.evaluate.scorer import Answers, Request
from megatron_ettin.evaluate.text import MaskedPiece, PlainPiece, unigram_entropy
from megatron_ettin.progress import Progress

MASKED, NEXT, NEXT_SAMPLE = "masked tokens", "next tokens", "next tokens, sample"

READINGS = {
    (MASKED, False): "from both sides",
    (MASKED, True): "from the left only, text uncorrupted",
    (NEXT_SAMPLE, False): "three masks after the left context",
    (NEXT_SAMPLE, True): "from the left",
    (NEXT, True): "from the left",
}
"""(question, causal) -> how the model answers it."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The text of an evaluation; every model is asked about the same one."""

    masked: Sequence[MaskedPiece]
    plain: Sequence[PlainPiece]
    places: Sequence[tuple[int, int]]
    """The sample of next tokens that encoders are asked about too."""
    token_bytes_V: NDArray[np.int64]
    mask: int
    separator: int

    def facts(self) -> dict[str, Any]:
        """What the text alone allows: size and unigram entropy of the next tokens."""
        targets = np.concatenate([piece.ids_T[1:] for piece in self.plain])
        text_bytes = int(self.token_bytes_V[targets].sum())
        entropy = unigram_entropy(targets)
        return {
            "pieces": len(self.plain),
            "tokens": len(targets),
            "bytes": text_bytes,
            "unigram_nats_per_token": entropy,
            "unigram_nats_per_byte": entropy * len(targets) / text_bytes,
        }


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One model's answer to one question."""

    nats_per_token: float
    standard_error: float
    """Of nats_per_token, over the tokens."""
    nats_per_byte: float
    """Over the bytes that the asked tokens stand for."""
    accuracy: float
    """Share of tokens that are the model's first choice."""
    tokens: int
    reading: str
    """How the model answers: which side of the token it sees."""


def held_out(
    masked: Sequence[MaskedPiece],
    plain: Sequence[PlainPiece],
    sample: int,
    token_bytes_V: NDArray[np.int64],
    special_ids: dict[str, int],
) -> HeldOut:
    """The text of an evaluation with a fixed sample of ``sample`` next tokens."""
    return HeldOut(
        masked=masked,
        plain=plain,
        places=sampled_places(plain, sample),
        token_bytes_V=token_bytes_V,
        mask=special_ids["[MASK]"],
        separator=special_ids["[SEP]"],
    )


Answer = Callable[[Sequence[Request], Callable[[int], None]], Answers]
"""A loaded model: requests, and who hears how many are done -> answers in the order of the requests."""


def questions(text: HeldOut, objective: Objective) -> dict[str, list[Request]]:
    """Question -> requests. All next tokens are asked only of models that need one pass for them."""
    asked = {
        MASKED: masked_requests(text.masked, objective),
        NEXT_SAMPLE: next_at_places(text.plain, text.places, objective, text.mask, text.separator),
    }
    if objective.causal:
        asked[NEXT] = next_requests(text.plain)
    return asked


def losses(
    text: HeldOut, objective: Objective, answer: Answer, title: str,
    asked: Mapping[str, Sequence[Request]] | None = None,
) -> dict[str, Loss]:  # fmt: skip
    """Question -> loss of one model; ``asked``: the questions of its objective, where they have been made before."""
    found = {}
    for question, requests in (asked or questions(text, objective)).items():
        with Progress(f"{title}, {question}", len(requests), " texts") as progress:
            answers = answer(requests, progress.update)
        nats_L = -answers.log_probabilities_L
        targets_L = np.concatenate([request.targets_L for request in requests])
        found[question] = Loss(
            nats_per_token=float(nats_L.mean()),
            standard_error=float(nats_L.std() / np.sqrt(len(nats_L))),
            nats_per_byte=float(nats_L.sum() / max(1, text.token_bytes_V[targets_L].sum())),
            accuracy=float((answers.first_choices_L == targets_L).mean()),
            tokens=len(nats_L),
            reading=READINGS[question, objective.causal],
        )
    return found
