"""Logits of a model at some positions of some texts: our own engine on packed rows, or transformers on padded ones."""

# B texts, T tokens of the longest, L positions asked for, V vocabulary

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megatron_ettin.batch import packed_pieces
from megatron_ettin.errors import CheckpointError, first_line
from megatron_ettin.evaluate.scorer import require_numbers
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.export.huggingface import objective_of, read_folder
from megatron_ettin.export.parity import load_ours
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.model.logits import TILE_COLUMNS, CrossEntropy, LogitTile

TOKENS_PER_PASS = 4_096
"""Bound of one forward pass; a longer text is a pass of its own."""
ON_GPU = 16
"""A GPU takes so many times that of our own models, whose vocabulary is computed at the asked positions alone."""

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Engine(ABC):
    """A loaded model."""

    maximum_length: int
    """Tokens of the longest text that the model takes."""
    tokens_per_pass: int = TOKENS_PER_PASS
    """How much of it is a good pass."""

    @abstractmethod
    def logits(self, texts: Sequence[Ids], positions: Sequence[Ids]) -> Tensor:
        """Logits [L, V] in float32 at the positions of each text, ascending in a text, texts in order."""

    def probabilities(self, texts: Sequence[Ids], positions: Sequence[Ids], targets: Sequence[Ids]) -> Probabilities:
        """What the model says to one token at each of these positions."""
        return Probabilities.of(self.logits(texts, positions), torch.from_numpy(np.concatenate(targets)))


@dataclass(frozen=True, kw_only=True)
class Probabilities:
    """What a model says to some tokens."""

    logarithms_L: Tensor
    """Natural logarithms, float64, on the CPU."""
    first_L: Tensor
    """Whether the token is the most probable one, on the CPU."""

    @classmethod
    def of(cls, logits_LV: Tensor, targets_L: Tensor) -> Probabilities:
        """From all logits."""
        targets_L = targets_L.to(logits_LV.device)
        log_p_L = logits_LV.gather(1, targets_L[:, None])[:, 0].double() - logits_LV.logsumexp(-1).double()
        return cls(logarithms_L=log_p_L.cpu(), first_L=(logits_LV.argmax(-1) == targets_L).cpu())


@dataclass(frozen=True, kw_only=True)
class PackedEngine(Engine):
    """Our model: texts end to end in one row, the vocabulary at the asked positions only.

    An encoder's last layer computes no more than those positions need.
    """

    model: Any
    groups: Any
    vocabulary: int

    @torch.no_grad()
    def logits(self, texts: Sequence[Ids], positions: Sequence[Ids]) -> Tensor:
        """See Engine."""
        batch = DeviceBatch.from_batch(packed_pieces(texts, positions), self.groups)
        found: Tensor = self.model.logits(batch)[:, : self.vocabulary]
        return found.float()

    @torch.no_grad()
    def probabilities(self, texts: Sequence[Ids], positions: Sequence[Ids], targets: Sequence[Ids]) -> Probabilities:
        """See Engine. On a CPU no more logits exist at a time than its cache holds."""
        targets_L = torch.from_numpy(np.concatenate(targets))
        batch = DeviceBatch.from_batch(packed_pieces(texts, positions), self.groups)
        query_LH = self.model.query(batch)
        if query_LH.device.type != "cpu":
            whole: Tensor = self.model.output_layer(query_LH, self.model.shared_embedding_or_output_weight())
            return Probabilities.of(whole[:, : self.vocabulary].float(), targets_L)
        weight_VH = self.model.shared_embedding_or_output_weight()[: self.vocabulary]
        bias_V = self.model.output_layer.bias[: self.vocabulary]
        losses = CrossEntropy(self.model.output_layer.shard, bias_V, targets_L)
        memory = query_LH.new_empty(len(targets_L) * TILE_COLUMNS)
        for start in range(0, self.vocabulary, TILE_COLUMNS):
            columns = slice(start, min(start + TILE_COLUMNS, self.vocabulary))
            tile_LV = memory[: len(targets_L) * (columns.stop - start)].view(len(targets_L), -1)
            torch.mm(query_LH, weight_VH[columns].t(), out=tile_LV)
            losses.read(LogitTile(columns, tile_LV))
        return Probabilities(logarithms_L=-losses.losses().double(), first_L=losses.are_first())


@dataclass(frozen=True, kw_only=True)
class PaddedEngine(Engine):
    """A model of any architecture by transformers: padded texts, logits of all their positions."""

    model: Any
    padding: int

    @torch.no_grad()
    def logits(self, texts: Sequence[Ids], positions: Sequence[Ids]) -> Tensor:
        """See Engine."""
        lengths_B = np.array([len(text) for text in texts])
        ids_BT = np.full((len(texts), lengths_B.max()), self.padding, dtype=np.int64)
        for row, text in enumerate(texts):
            ids_BT[row, : len(text)] = text
        attended_BT = (np.arange(ids_BT.shape[1])[None] < lengths_B[:, None]).astype(np.int64)
        device = self.model.device
        logits_BTV = self.model(
            input_ids=torch.from_numpy(ids_BT).to(device), attention_mask=torch.from_numpy(attended_BT).to(device)
        ).logits
        rows_L = np.repeat(np.arange(len(texts)), [len(chosen) for chosen in positions])
        found: Tensor = logits_BTV[torch.from_numpy(rows_L), torch.from_numpy(np.concatenate(positions))]
        return found.float()


def load_engine(subject: Subject) -> Engine:
    """The engine that computes the subject's architecture. Raises CheckpointError, also for weights with NaN."""
    if subject.ours:
        read = read_folder(subject.folder)
        model, groups = load_ours(read.config.model, objective_of(read.config), read.tensors)
        tokens = TOKENS_PER_PASS * (ON_GPU if torch.cuda.is_available() else 1)
        return PackedEngine(
            model=model, groups=groups, vocabulary=read.config.model.vocabulary,
            maximum_length=read.config.model.maximum_length, tokens_per_pass=tokens,
        )  # fmt: skip
    return padded_engine(load_any(subject))


def padded_engine(model: Any) -> PaddedEngine:  # noqa: ANN401
    """An engine of a transformers model."""
    length = longest_text(model.config)
    return PaddedEngine(model=model, maximum_length=length, padding=model.config.pad_token_id or 0)


def load_any(subject: Subject) -> Any:  # noqa: ANN401 - transformers has no types
    """The subject by transformers in float32, on a GPU where there is one. Raises CheckpointError."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    loader: Any = AutoModelForCausalLM if subject.causal else AutoModelForMaskedLM
    try:
        model = loader.from_pretrained(  # a pickle could run code
            subject.folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"transformers does not load {subject.folder}: {first_line(error)}") from error
    require_numbers(model, subject.folder)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def longest_text(config: Any) -> int:  # noqa: ANN401
    """Tokens that a transformers model has positions for; models of RoBERTa's kind count from behind the padding."""
    positions = int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 512)
    shifted = config.model_type in ("roberta", "xlm-roberta", "camembert")
    return positions - (config.pad_token_id + 1) if shifted else positions


Told = Callable[[int], None]
"""Hears how many of the units are done."""
