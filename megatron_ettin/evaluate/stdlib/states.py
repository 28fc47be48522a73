"""What a model makes of whole texts: the mean of its last layer's states, by transformers on padded texts."""

# B texts, T tokens of the longest, H hidden

from __future__ import annotations

from collections.abc import Sequence

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


@torch.no_grad()
def mean_states(models: Models, subject: Subject, texts: Sequence[str], title: str) -> States:
    """Mean state [B, H] over all tokens of each text, [CLS] and an encoder's [SEP] among them, by transformers.

    A text longer than the model is cut at its end. Raises CheckpointError.
    """
    model, tokenizer = models.plain(subject), models.tokenizer(subject)
    most = longest_text(model.config)
    ids = [encoded(tokenizer, text, closed=not subject.causal)[:most] for text in texts]
    lengths = [len(one) for one in ids]
    found = np.zeros((len(texts), model.config.hidden_size))
    with Progress(f"{subject.name}, {title}", len(texts), " texts") as progress:
        done = 0
        for chosen in passes(lengths, [0] * len(ids), TOKENS_PER_PASS):
            ids_BT = np.full((len(chosen), lengths[chosen[-1]]), model.config.pad_token_id or 0)
            for row, number in enumerate(chosen):
                ids_BT[row, : lengths[number]] = ids[number]
            attended = np.arange(ids_BT.shape[1])[None] < np.array([lengths[i] for i in chosen])[:, None]
            attended_BT = torch.from_numpy(attended).to(model.device)
            hidden_BTH = model.base_model(
                input_ids=torch.from_numpy(ids_BT).to(model.device), attention_mask=attended_BT.long()
            ).last_hidden_state.double()  # fmt: skip
            sums_BH = (hidden_BTH * attended_BT[..., None]).sum(1)
            found[chosen] = (sums_BH / attended_BT.sum(1, keepdim=True)).cpu().numpy()
            done += len(chosen)
            progress.update(done)
    return found
