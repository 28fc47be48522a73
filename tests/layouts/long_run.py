"""Hundreds of steps on rows that come back, so that the model learns them: ours under a layout, and transformers'."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch
import torch.nn.functional as functional
from torch import Tensor

from megatron_ettin.batch import Batch
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.model.canonical import full_state
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.step import Asks, train_step
from tests.layouts.cases import ROWS, Case
from tests.layouts.rows import batch_of

STEPS = 500
CYCLE = 8
"""Steps after which the rows come again."""
LONG_RATE = 3e-4


def follow(case: Case, groups: Groups) -> dict[str, Tensor]:
    """Initial weights and the loss of every step, in our training step under the layout of the case."""
    config = case.config()
    parts = build_parts(config, groups, sources=1)
    named = {f"initial/{name}": tensor for name, tensor in full_state(parts.chunks, groups).items()}
    share, size = ROWS // groups.data.size, config.layout.micro_batch_rows
    losses = []
    for step in range(STEPS):
        first = step % CYCLE * ROWS + groups.data.rank * share
        batches = [batch_of(config, range(row, row + size)) for row in range(first, first + share, size)]
        losses.append(train_step(parts, batches, step=step, rate=LONG_RATE, asks=Asks()).totals.loss)
    return named | {"losses": torch.tensor(losses, dtype=torch.float64)}


@dataclass
class PlainStableAdamW:
    """The published update, written out, one matrix at a time; weight decay as the case's run has it."""

    matrices: list[list[torch.nn.Parameter]]
    """The parameters that make up each matrix: its update is clipped as a whole."""
    config: RunConfig
    step_index: int = 0
    moments: list[list[tuple[Tensor, Tensor]]] = field(default_factory=list)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update of every tensor."""
        settings, self.step_index = self.config.optimizer, self.step_index + 1
        self.moments = self.moments or [[(torch.zeros_like(p), torch.zeros_like(p)) for p in m] for m in self.matrices]
        first, second = (self._debiased(beta) for beta in (settings.beta1, settings.beta2))
        for matrix, moments in zip(self.matrices, self.moments, strict=True):
            ratios = []
            for parameter, (m, v) in zip(matrix, moments, strict=True):
                gradient = parameter.grad
                assert gradient is not None
                m.mul_(first).add_(gradient, alpha=1 - first)
                v.mul_(second).addcmul_(gradient, gradient, value=1 - second)
                ratios.append((gradient**2 / v.clamp(min=settings.epsilon**2)).flatten())
            scaled = rate / max(1.0, float(torch.cat(ratios).mean().sqrt()))
            for parameter, (m, v) in zip(matrix, moments, strict=True):
                if parameter.dim() > 1:
                    parameter.mul_(1 - scaled / self.config.schedule.peak_rate * settings.weight_decay)
                parameter.sub_(scaled * m / (v.sqrt() + settings.epsilon))

    def _debiased(self, beta: float) -> float:
        power: float = beta**self.step_index
        return (beta - power) / (1 - power)


def transformers_losses(case: Case, initial: dict[str, Tensor]) -> list[float]:
    """The loss of every step of a plain loop around transformers' model, each piece a padded sequence of its own."""
    config = case.config()
    model = transformers_model(config, initial)
    optimizer = PlainStableAdamW(matrices_of(model), config)
    losses = []
    for step in range(STEPS):
        first = step % CYCLE * ROWS
        batch = batch_of(config, range(first, first + ROWS))
        model.zero_grad()
        loss = mean_loss(model, batch)
        loss.backward()
        optimizer.step(LONG_RATE)
        losses.append(float(loss.detach()))
    return losses


def matrices_of(model: torch.nn.Module) -> list[list[torch.nn.Parameter]]:
    """The parameters by the matrix that they belong to in training.

    transformers' decoder has three projections where its encoder, and both of a pair here, have one.
    """
    found: dict[str, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        found.setdefault(re.sub("[qkv]_proj", "qkv", name), []).append(parameter)
    return list(found.values())


def transformers_model(config: RunConfig, initial: dict[str, Tensor]) -> torch.nn.Module:
    """transformers' class for the objective, with the given weights, in float32."""
    import transformers

    from megatron_ettin.export.config_json import kind_of, write_config
    from megatron_ettin.export.mapping import to_huggingface

    objective = OBJECTIVES[config.objective]
    kind = kind_of(objective)
    ids = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 4}
    fields = write_config(config.model, objective, ids, "float32")
    if kind == "encoder":
        settings, build = transformers.ModernBertConfig(**fields), transformers.ModernBertForMaskedLM
    else:
        settings, build = transformers.ModernBertDecoderConfig(**fields), transformers.ModernBertDecoderForCausalLM
    settings._attn_implementation = "eager"
    model: torch.nn.Module = build(settings).float().train()
    missing = model.load_state_dict(to_huggingface(initial, config.model, kind), strict=False)
    assert set(missing.missing_keys) <= {"decoder.weight"}
    assert not missing.unexpected_keys
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # the rows hold id 0 as text, and its embedding learns like any other
    return model


def mean_loss(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Sum of the label losses over their number, with the pieces of the rows padded to one length."""
    bounds = batch.cu_seqlens_S.tolist()
    flat = torch.from_numpy(batch.input_ids_BT).long().flatten()
    pieces = [flat[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]
    ids = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
    lengths = torch.tensor([len(piece) for piece in pieces])
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    logits = model(input_ids=ids, attention_mask=mask.long()).logits[mask]
    chosen = logits[torch.from_numpy(batch.label_positions_L).long()]
    return functional.cross_entropy(chosen, torch.from_numpy(batch.label_ids_L).long())
