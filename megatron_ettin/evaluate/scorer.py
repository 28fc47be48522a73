"""Log-probabilities of chosen tokens at chosen positions: the one question that every evaluation asks a model."""

# B texts of a batch, T tokens of the longest, L answers, H hidden, V vocabulary

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megatron_ettin.config.objective import Objective
from megatron_ettin.errors import CheckpointError
from megatron_ettin.export.config_json import FolderConfig
from megatron_ettin.export.huggingface import objective_of, read_folder_config
from megatron_ettin.machine import cores

TOKENS_PER_BATCH, ANSWERS_PER_PASS = 8_192, 1_024
"""Bounds of one forward pass: padded tokens, and positions that reach the vocabulary."""
PARAMETERS_PER_THREAD = 10_000_000
"""Passes of a smaller model are too short to share: on a busy machine its threads would wait for each other longer than
they work."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One text and what is asked about it."""

    ids_T: NDArray[np.int64]
    """What the model reads."""
    positions_L: NDArray[np.int64]
    """Where it answers: indices into ids_T."""
    targets_L: NDArray[np.int64]
    """The tokens whose probability is wanted there."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model says to some requests, in their order, all positions in one stream."""

    log_probabilities_L: NDArray[np.float64]
    """Natural logarithm of each target's probability."""
    first_choices_L: NDArray[np.int64]
    """The most probable token of each position."""


@dataclass(frozen=True)
class Scorer:
    """A model that answers requests, loaded by transformers from an exported folder."""

    folder: Path
    config: FolderConfig
    model: Any
    device: torch.device
    passes: int = 1
    """Forward passes at a time, each in a thread of its own."""

    @property
    def objective(self) -> Objective:
        """What the model was trained on: it decides where predictions are read."""
        return objective_of(self.config)

    def answer(self, requests: Sequence[Request], told: Callable[[int], None] = lambda done: None) -> Answers:
        """Answer all requests; ``told`` hears how many are done. ``passes`` batches are in memory at a time."""
        sizes = [len(request.positions_L) for request in requests]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        log_probabilities_L, first_choices_L = np.zeros(starts[-1]), np.zeros(starts[-1], dtype=np.int64)
        done = 0
        work = list(passes([len(request.ids_T) for request in requests], sizes, TOKENS_PER_BATCH))
        with ThreadPoolExecutor(self.passes) as pool:
            answered = pool.map(lambda chosen: self._forward([requests[i] for i in chosen]), work)
            for chosen, (log_p, first) in zip(work, answered, strict=True):
                places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen])
                log_probabilities_L[places], first_choices_L[places] = log_p, first
                done += len(chosen)
                told(done)
        return Answers(log_probabilities_L=log_probabilities_L, first_choices_L=first_choices_L)

    @torch.no_grad()
    def logits(self, ids_BT: Tensor, attended_BT: Tensor, rows_L: Tensor, positions_L: Tensor) -> Tensor:
        """Logits [L, V] in float32 at some positions of a padded batch; the vocabulary is computed only there."""
        hidden_BTH = self.model.model(input_ids=ids_BT, attention_mask=attended_BT).last_hidden_state
        head = self.model.lm_head if self.config.kind == "decoder" else self.model.head
        logits_LV: Tensor = self.model.decoder(head(hidden_BTH[rows_L, positions_L]))
        return logits_LV.float()

    def _forward(self, requests: Sequence[Request]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        lengths_B = np.array([len(request.ids_T) for request in requests])
        ids_BT = np.full((len(requests), lengths_B.max()), self.model.config.pad_token_id, dtype=np.int64)
        for row, request in enumerate(requests):
            ids_BT[row, : lengths_B[row]] = request.ids_T
        attended_BT = np.arange(ids_BT.shape[1])[None] < lengths_B[:, None]
        rows_L = np.repeat(np.arange(len(requests)), [len(request.positions_L) for request in requests])
        positions_L = np.concatenate([request.positions_L for request in requests])
        asked = (ids_BT, attended_BT.astype(np.int64), rows_L, positions_L)
        logits_LV = self.logits(*(torch.from_numpy(numbers).to(self.device) for numbers in asked))
        targets_L = torch.from_numpy(np.concatenate([request.targets_L for request in requests])).to(self.device)
        log_p = logits_LV.gather(1, targets_L[:, None])[:, 0].double() - logits_LV.logsumexp(-1).double()
        return log_p.cpu().numpy(), logits_LV.argmax(-1).cpu().numpy()


def load_scorer(folder: Path) -> Scorer:
    """A scorer for an exported folder, on a GPU where there is one. Raises CheckpointError."""
    from megatron_ettin.export.parity import load_transformers

    config = read_folder_config(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_transformers(folder, config, attention="sdpa").to(device)
    require_numbers(model, folder)
    passes = 1
    if device.type == "cpu":
        threads, passes = threads_and_passes(sum(parameter.numel() for parameter in model.parameters()))
        torch.set_num_threads(threads)
    return Scorer(Path(folder), config, model, device, passes)


def require_numbers(model: Any, folder: Path) -> None:  # noqa: ANN401 - any transformers model
    """Raise CheckpointError for a parameter with NaN or infinity, by its name."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise CheckpointError(
                f"tensor {name} of {folder} holds NaN or infinity, so that no score means anything; "
                "take an earlier checkpoint"
            )


def threads_and_passes(parameters: int) -> tuple[int, int]:
    """CPU threads of a forward pass, one for every PARAMETERS_PER_THREAD, and passes at a time.

    Together they take OMP_NUM_THREADS cores, or all there are.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    available = max(1, int(asked) if asked.isdecimal() else cores())
    threads = max(1, min(available, parameters // PARAMETERS_PER_THREAD))
    return threads, available // threads


def passes(lengths: Sequence[int], answers: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices of texts in batches of similar length, shortest first, each within the bounds or a single text.

    At most ``tokens`` tokens, padding to the longest counted, and ANSWERS_PER_PASS positions.
    """
    batch: list[int] = []
    asked = 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        asked += answers[i]
        if batch and ((len(batch) + 1) * lengths[i] > tokens or asked > ANSWERS_PER_PASS):
            yield batch
            batch, asked = [], answers[i]
        batch.append(i)
    if batch:
        yield batch
