"""Models with a classification head: ours on packed rows, others by transformers on padded ones."""

# B texts, H hidden, C classes, V vocabulary

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from megatron_ettin.batch import packed_pieces
from megatron_ettin.errors import CheckpointError, first_line
from megatron_ettin.evaluate.glue.reading import Text
from megatron_ettin.evaluate.scorer import require_numbers
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.evaluate.suites.suite import NotRunError
from megatron_ettin.export.huggingface import objective_of, read_folder
from megatron_ettin.export.parity import load_ours
from megatron_ettin.model.canonical import full_state
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.model.ettin import EttinModel
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.parallel.seeds import derive, generator

DROPOUT = 0.1
"""Of the attention output of our models while they are fine-tuned, as in their training."""
EMBEDDING, OUTPUT_BIAS = "embedding.weight", "head.bias"
"""Tensors with a row for each token."""


class PackedClassifier(torch.nn.Module):
    """Our model: texts end to end in one row, and the head at one position of each.

    The head is that of the language model, for encoders and decoders: dense, GELU and norm, then a new linear layer.
    An encoder is read at [CLS], a decoder at the last token. Only the vocabulary that occurs is in memory: rows of
    other tokens never have a gradient.
    """

    def __init__(
        self, model: EttinModel, groups: Groups, whole: Mapping[str, Tensor], used: NDArray[np.int64], *, causal: bool,
        classes: int, seed: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.groups, self.whole, self.used, self.causal = model, groups, whole, used, causal
        self.place_V = np.zeros(len(whole[EMBEDDING]), np.int64)
        self.place_V[used] = np.arange(len(used))
        self.dropout_key = derive("fine-tuning dropout", seed)
        hidden = int(whole[EMBEDDING].shape[1])
        classifier = torch.nn.Linear(hidden, classes)
        random = generator("cpu", "classifier", seed)
        torch.nn.init.trunc_normal_(classifier.weight, std=hidden**-0.5, generator=random)
        torch.nn.init.zeros_(classifier.bias)
        self.classifier = classifier.to(groups.device.torch_device)

    @classmethod
    def load(
        cls, subject: Subject, texts: Sequence[Text], classes: int, seed: int, start: Path | None, dropout: float
    ) -> PackedClassifier:
        """The subject's model, or the body in ``start``, for these texts. Raises CheckpointError."""
        read = read_folder(subject.folder)
        whole = dict(read.tensors) if start is None else load_file(start)
        used = np.unique(np.concatenate([text["input_ids"] for text in texts]))
        if used[-1] >= read.config.model.vocabulary:
            raise CheckpointError(
                f"the tokenizer of {subject.folder} gives id {used[-1]}, and its config.json says "
                f"{read.config.model.vocabulary} ids; put the tokenizer of the training there"
            )
        restricted = {**whole, **{name: whole[name][used] for name in (EMBEDDING, OUTPUT_BIAS)}}
        shape = replace(read.config.model, vocabulary=len(used))
        model, groups = load_ours(shape, objective_of(read.config), restricted, output_dropout=dropout)
        return cls(model, groups, whole, used, causal=subject.causal, classes=classes, seed=seed)

    def logits(self, texts: Sequence[Text], step: int = 0) -> Tensor:
        """Logits [B, C] in float32; ``step`` numbers the dropout of a training step."""
        ids = [self.place_V[np.asarray(text["input_ids"])] for text in texts]
        read_at = [np.array([len(text) - 1 if self.causal else 0]) for text in ids]
        batch = DeviceBatch.from_batch(packed_pieces(ids, read_at), self.groups, self.dropout_key, step)
        logits_BC: Tensor = self.classifier(self.model.query(batch))
        return logits_BC

    def body(self, kept: float) -> dict[str, Tensor]:
        """All weights but those of the classes, for a fine-tuning that begins with this model: of the whole vocabulary.

        ``kept``: what weight decay alone has left of a weight that never had a gradient.
        """
        state = {name: tensor.cpu() for name, tensor in full_state([self.model], self.groups).items()}
        embedding = self.whole[EMBEDDING] * kept
        embedding[self.used] = state[EMBEDDING]
        return {**state, EMBEDDING: embedding, OUTPUT_BIAS: self.whole[OUTPUT_BIAS]}


class PaddedClassifier(torch.nn.Module):
    """A model of any architecture by transformers' own class: padded texts, its head and its pooling."""

    def __init__(self, model: Any, tokenizer: Any, seed: int) -> None:  # noqa: ANN401 - transformers has no types
        super().__init__()
        self.model, self.tokenizer, self.seed = model, tokenizer, seed

    @classmethod
    def load(
        cls, subject: Subject, tokenizer: Any, classes: int, seed: int, start: Path | None  # noqa: ANN401
    ) -> PaddedClassifier:  # fmt: skip
        """The subject with a new head, or with the body in ``start``. Raises CheckpointError, NotRunError."""
        from transformers import AutoModelForSequenceClassification
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        with torch.random.fork_rng():
            torch.manual_seed(derive("classifier", seed))
            try:
                model: Any = AutoModelForSequenceClassification.from_pretrained(  # a pickle could run code
                    subject.folder, num_labels=classes, dtype=torch.float32, trust_remote_code=False,
                    use_safetensors=True,
                )  # fmt: skip
            except ValueError as error:
                reason = f"transformers has no classifier of this architecture: {first_line(error)}"
                raise NotRunError(reason, absent=False) from error
            except (OSError, KeyError, RuntimeError) as error:
                raise CheckpointError(f"transformers does not load {subject.folder}: {first_line(error)}") from error
        require_numbers(model, subject.folder)
        if start is not None:
            shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
            body = {name: tensor for name, tensor in load_file(start).items() if tensor.shape == shapes[name]}
            model.load_state_dict(body, strict=False)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        model.config.pad_token_id = tokenizer.pad_token_id
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, seed)

    def logits(self, texts: Sequence[Text], step: int = 0) -> Tensor:
        """As those of the packed one."""
        batch = self.tokenizer.pad([dict(text) for text in texts], return_tensors="pt").to(self.model.device)
        with torch.random.fork_rng(enabled=self.training):
            if self.training:
                torch.manual_seed(derive("fine-tuning dropout", self.seed, step))
            logits_BC: Tensor = self.model(**batch).logits
        return logits_BC.float()

    def body(self, kept: float) -> dict[str, Tensor]:
        """Everything: a head for another number of classes does not fit and is left behind when it is loaded."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}


Classifier = PackedClassifier | PaddedClassifier
