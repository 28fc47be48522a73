"""The peer: transformers' models, autocast to bf16 over fp32 weights, torch's fused AdamW."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ModernBertConfig,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    ModernBertForMaskedLM,
)

from benchmarks.gpu_parts.machine import Machine
from benchmarks.gpu_parts.rows import Row
from benchmarks.gpu_parts.work import RATE, batches, run_of
from megatron_ettin.batch import Batch
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.export.config_json import kind_of, write_config

IGNORED = -100
"""transformers' mark of a position without label."""
SPECIAL_IDS = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 4}


class Peer:
    """The same pieces in rows that are full, so that nothing is padded; labels at the same positions."""

    def __init__(self, row: Row, machine: Machine, rows: int) -> None:
        work = Row(kind="step", size=row.size, objective=row.objective, row_length=row.row_length, plain=True)
        config = run_of(work, machine, rows)
        with machine.device:
            self.model = peer_model(config, row.backend).to(machine.device).train()
        self.device = machine.device
        self.inputs = [peer_inputs(config, batch, machine.device) for batch in batches(config)]
        self.tokens = sum(int(inputs["input_ids"].numel()) for inputs in self.inputs)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=RATE, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-5, fused=True
        )
        self.forward = torch.compile(self.model) if row.compile else self.model

    def step(self) -> float:
        """One step over all micro-batches; the loss is read once."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for inputs in self.inputs:
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                loss = self.forward(**inputs).loss / len(self.inputs)
            loss.backward()
            total += loss.detach()
        self.optimizer.step()
        return float(total)


def peer_model(config: RunConfig, attention: str) -> Any:
    """transformers' class for the objective with random weights; its vocabulary head at labelled positions alone."""
    if attention.startswith("flash") and importlib.util.find_spec("flash_attn") is None:
        raise ImportError("flash-attn is not installed")
    objective = OBJECTIVES[config.objective]
    fields = write_config(config.model, objective, SPECIAL_IDS, "float32")
    if kind_of(objective) == "encoder":
        settings: Any = ModernBertConfig(**fields | {"sparse_prediction": True})
        build: Any = ModernBertForMaskedLM
    else:
        settings, build = ModernBertDecoderConfig(**fields), ModernBertDecoderForCausalLM
    settings._attn_implementation = attention
    return build(settings)


def peer_inputs(config: RunConfig, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Ids and labels [B, T]; no mask, because no row has padding."""
    ids = torch.from_numpy(batch.input_ids_BT).long()
    labels = torch.full((ids.numel(),), IGNORED)
    shift = -OBJECTIVES[config.objective].label_offset
    labels[torch.from_numpy(batch.label_positions_L).long() + shift] = torch.from_numpy(batch.label_ids_L).long()
    return {"input_ids": ids.to(device), "labels": labels.view_as(ids).to(device)}
