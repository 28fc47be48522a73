"""What a model makes of whole texts: the mean of its last layer's states, by transformers on padded texts."""

# B texts, T tokens of the longest, H hidden

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_ettin.evaluate.bias.predictions import encoded
from megatron_ettin.evaluate.generative.engines import longest_text
from megatron_ettin.evaluate.scorer import passes
from megatron_ettin.evaluate.suites.models import Models
from megatron_ettin.evaluate.suites.subjects import Subject
from megatron_ettin.progress import Progress

States = NDArray[np.float64]
TOKENS_PER_PASS = 8_192


@dataclass(frozen=True)
class Reader:
    """A loaded model that reads texts."""

    subject: Subject
    model: Any
    tokenizer: Any

    @torch.no_grad()
    def states(self, texts: Sequence[str], title: str) -> States:
        """Mean state [B, H] over all tokens of each text, [CLS] and an encoder's [SEP] among them.

        A text longer than the model is cut at its end.
        """
        most = longest_text(self.model.config)
        ids = [encoded(self.tokenizer, text, closed=not self.subject.causal)[:most] for text in texts]
        lengths = [len(one) for one in ids]
        found = np.zeros((len(texts), self.model.config.hidden_size))
        with Progress(f"{self.subject.name}, {title}", len(texts), " texts") as progress:
            done = 0
            for chosen in passes(lengths, [0] * len(ids), TOKENS_PER_PASS):
                ids_BT = np.full((len(chosen), lengths[chosen[-1]]), self.model.config.pad_token_id or 0)
                for row, number in enumerate(chosen):
                    ids_BT[row, : lengths[number]] = ids[number]
                attended_BT = np.arange(ids_BT.shape[1])[None] < np.array([lengths[i] for i in chosen])[:, None]
                attended = torch.from_numpy(attended_BT).to(self.model.device)
                hidden_BTH = self.model.base_model(
                    input_ids=torch.from_numpy(ids_BT).to(self.model.device), attention_mask=attended.long()
                ).last_hidden_state.double()  # fmt: skip
                sums_BH = (hidden_BTH * attended[..., None]).sum(1)
                found[chosen] = (sums_BH / attended.sum(1, keepdim=True)).cpu().numpy()
                done += len(chosen)
                progress.update(done)
        return found


def load_reader(models: Models, subject: Subject) -> Reader:
    """The subject by transformers. Raises CheckpointError."""
    return Reader(subject, models.plain(subject), models.tokenizer(subject))
