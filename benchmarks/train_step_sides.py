"""Both sides of the training-step benchmark: our step, and transformers' model with torch's fused AdamW."""

# B rows, T tokens of a row, L labels

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import (
    ModernBertConfig,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    ModernBertForMaskedLM,
)

from megatron_ettin.batch import Batch
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import (
    BatchConfig,
    ComputeConfig,
    DataConfig,
    LayoutConfig,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
)
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.export.config_json import kind_of
from megatron_ettin.export.mapping import to_huggingface
from megatron_ettin.model.canonical import full_state
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.step import Asks, train_step

RATE = 1e-4
IGNORED = -100
"""transformers' mark of a position without label."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One workload."""

    objective: str
    precision: str
    row_length: int
    rows: int
    pieces: tuple[int, ...]
    """Lengths of the pieces of each row."""

    @property
    def tokens(self) -> int:
        """Real tokens of a step."""
        return self.rows * self.row_length


def run_of(
    work: Work, loss_chunk_bytes: int = 0, compile: bool = False, recompute: Literal["none", "full"] = "none"
) -> RunConfig:
    """Our run of the workload: 17M, no dropout, bf16 weights with fp32 main weights where the precision is bf16."""
    return RunConfig(
        objective=work.objective,
        stage="pretrain",
        model=replace(SHAPES["17m"], output_dropout=0.0),
        schedule=ScheduleConfig(tokens=10**9, peak_rate=RATE),
        data=DataConfig(row_length=work.row_length, piece_length=work.row_length),
        batch=BatchConfig(rows=work.rows),
        layout=LayoutConfig(micro_batch_rows=work.rows, recompute=recompute),
        compute=ComputeConfig(
            precision=work.precision, attention="auto", loss_chunk_bytes=loss_chunk_bytes, compile=compile
        ),
    )


def batch_of(work: Work) -> Batch:
    """Random ids; an encoder predicts 30 % of the positions, a decoder every next token.

    Of mixed rows the first predicts every next token, the others as many masked ones as make 30 % of all positions.
    """
    random = np.random.default_rng(0)
    ids = random.integers(5, 50_000, (work.rows, work.row_length)).astype(np.int32)
    bounds = np.concatenate([[0], np.cumsum(np.tile(work.pieces, work.rows))]).astype(np.int32)
    positions = np.concatenate([np.arange(piece) for piece in np.tile(work.pieces, work.rows)])
    flat = ids.reshape(-1)
    following = np.setdiff1d(np.arange(flat.size), bounds[1:] - 1)
    if work.objective == "clm":
        labels, targets = following, flat[following + 1]
    else:
        first = work.row_length if work.objective == "mixed" else 0
        labels = following[following < first]
        count = int(flat.size * 0.3) - labels.size
        masked = first + np.sort(random.choice(flat.size - first, count, replace=False))
        targets = np.concatenate([flat[labels + 1], random.integers(5, 50_000, count)])
        labels = np.concatenate([labels, masked])
    return Batch(
        input_ids_BT=ids,
        positions_BT=positions.reshape(ids.shape).astype(np.int32),
        cu_seqlens_S=bounds,
        label_positions_L=labels.astype(np.int32),
        label_ids_L=targets.astype(np.int32),
        rows_B=np.arange(work.rows),
        sources_B=np.zeros(work.rows, dtype=np.int32),
        tokens=work.tokens,
        causal_B=np.arange(work.rows) == 0 if work.objective == "mixed" else None,
    )


class Ours:
    """Our training step, exactly as `pretrain` runs it."""

    def __init__(self, work: Work, groups: Groups, **options: Any) -> None:
        self.parts = build_parts(run_of(work, **options), groups, sources=1)
        self.batch, self.steps = batch_of(work), 0

    def weights(self) -> dict[str, Tensor]:
        """Initial weights by canonical name, fp32."""
        return {name: x.float() for name, x in full_state(self.parts.chunks, self.parts.groups).items()}

    def step(self) -> float:
        """One step; returns the loss."""
        result = train_step(self.parts, [self.batch], step=self.steps, rate=RATE, asks=Asks())
        self.steps += 1
        return result.totals.loss


class Peer:
    """transformers with fp32 weights, autocast for bf16, and torch's fused AdamW; one padded row a piece."""

    def __init__(self, work: Work, weights: dict[str, Tensor], *, sparse: bool = False, compile: bool = False) -> None:
        self.work, self.model = work, peer_model(run_of(work).model, work.objective, weights, sparse)
        self.inputs = padded(work, batch_of(work))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, betas=(0.9, 0.98), eps=1e-6, fused=True)
        self.forward: Callable[..., Any] = torch.compile(self.model) if compile else self.model

    def step(self) -> float:
        """One step; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        half = self.work.precision == "bf16"
        with torch.autocast("cpu", dtype=torch.bfloat16) if half else nullcontext():
            loss = self.forward(**self.inputs).loss
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def peer_model(model: ModelConfig, objective: str, weights: dict[str, Tensor], sparse: bool) -> Any:
    """transformers' model with our weights, in training mode."""
    fields = {
        "vocab_size": model.vocabulary,
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "local_attention": 2 * model.window,
        "layer_types": [
            "sliding_attention" if layer % model.global_every else "full_attention" for layer in range(model.layers)
        ],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": model.rope_base_global}
            for kind in ("full_attention", "sliding_attention")
        },
        "tie_word_embeddings": True,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
    }
    if objective == "clm":
        peer: Any = ModernBertDecoderForCausalLM(ModernBertDecoderConfig(**fields, attn_implementation="sdpa"))
    else:
        peer = ModernBertForMaskedLM(ModernBertConfig(**fields, sparse_prediction=sparse, attn_implementation="sdpa"))
    missing = peer.load_state_dict(to_huggingface(weights, model, kind_of(OBJECTIVES[objective])), strict=False)
    if missing.unexpected_keys or set(missing.missing_keys) - {"decoder.weight"}:
        raise SystemExit(f"the peer's weights do not fit: {missing}")
    peer.tie_weights()
    return peer.train()


def padded(work: Work, batch: Batch) -> dict[str, Tensor]:
    """The same pieces as transformers takes them: one a row, filled up with padding, labels at every position."""
    ids, labels = torch.from_numpy(batch.input_ids_BT.reshape(-1)).long(), torch.full((batch.tokens,), IGNORED)
    shift = 1 if work.objective == "clm" else 0
    labels[torch.from_numpy(batch.label_positions_L).long() + shift] = torch.from_numpy(batch.label_ids_L).long()
    bounds = batch.cu_seqlens_S.tolist()
    longest = max(stop - start for start, stop in zip(bounds, bounds[1:], strict=False))
    rows = [(ids[start:stop], labels[start:stop]) for start, stop in zip(bounds, bounds[1:], strict=False)]
    return {
        "input_ids": torch.stack([_filled(row, longest, 0) for row, _ in rows]),
        "attention_mask": torch.stack([_filled(torch.ones_like(row), longest, 0) for row, _ in rows]),
        "labels": torch.stack([_filled(label, longest, IGNORED) for _, label in rows]),
    }


def _filled(row: Tensor, length: int, value: int) -> Tensor:
    return torch.nn.functional.pad(row, (0, length - len(row)), value=value)
