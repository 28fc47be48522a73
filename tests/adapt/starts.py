"""Stand-ins for published models: their config fields as transformers writes them, narrow, with random weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    ModernBertConfig,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

from megatron_ettin.batch import Batch
from tests.support.tokenizers import TEXTS, byte_level

HIDDEN, HEADS, INTERMEDIATE = 48, 2, 64
WIDE_START = 0.12
"""Standard deviation of the weights: at the 0.02 of wide models a narrow one says the same of every text, and a wrong
rotary base or window would not be seen."""
ETTIN_LAYERS = {"17m": 7, "32m": 10, "68m": 19, "150m": 22, "400m": 28, "1b": 28}


@dataclass(frozen=True)
class Shape:
    """A published model, as far as its function goes at a reduced width."""

    layers: int
    bases: tuple[float, float]
    """Global and local."""
    maximum_length: int
    tokenizer: str = "modernbert"
    causal: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


EQUAL, MODERNBERT = (160_000.0, 160_000.0), (160_000.0, 10_000.0)
SHAPES: dict[str, Shape] = {
    **{f"ettin-encoder-{size}": Shape(layers, EQUAL, 7_999) for size, layers in ETTIN_LAYERS.items()},
    **{f"ettin-decoder-{size}": Shape(layers, EQUAL, 7_999, causal=True) for size, layers in ETTIN_LAYERS.items()},
    "ModernBERT-base": Shape(22, MODERNBERT, 8_192),
    "ModernBERT-large": Shape(28, MODERNBERT, 8_192),
    "mmBERT-base": Shape(22, EQUAL, 8_192, "gemma"),
    "mmBERT-small": Shape(22, EQUAL, 8_192, "gemma"),
}
"""Every shape of the table of published starts."""


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """A small tokenizer of mmBERT's kind: byte fallback, spaces as a letter, and roles at the ids of Gemma 2."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, show_progress=False, initial_alphabet=["\u2581"],
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in names]
        + [AddedToken(f"<0x{byte:02X}>", normalized=False) for byte in range(256)],
    )  # fmt: skip
    made.train_from_iterator(TEXTS, trainer)
    roles = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>", "mask": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **{f"{role}_token": token for role, token in roles.items()})


def modernbert_tokenizer() -> PreTrainedTokenizerFast:
    """A small tokenizer of ModernBERT's kind: byte-level, with the tokens of BERT."""
    roles = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), **{f"{role}_token": token for role, token in roles.items()}
    )


TOKENIZERS = {"gemma": gemma_tokenizer, "modernbert": modernbert_tokenizer}


def write_start(folder: Path, shape: Shape, **fields: Any) -> Path:
    """A folder with model and tokenizer as transformers saves them; ``fields`` of the config replace the published."""
    tokenizer = TOKENIZERS[shape.tokenizer]()
    cls = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    sep = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HEADS, "num_hidden_layers": shape.layers, "initializer_range": WIDE_START,
        "max_position_embeddings": shape.maximum_length, "local_attention": 128, "global_attn_every_n_layers": 3,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": shape.bases[0]},
            "sliding_attention": {"rope_type": "default", "rope_theta": shape.bases[1]},
        },
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": cls, "cls_token_id": cls, "eos_token_id": sep,
        "sep_token_id": sep,
    }  # fmt: skip
    kinds: tuple[Any, Any] = (ModernBertConfig, ModernBertForMaskedLM)
    if shape.causal:
        kinds = (ModernBertDecoderConfig, ModernBertDecoderForCausalLM)
    torch.manual_seed(sum(map(ord, folder.name)))
    kinds[1](kinds[0](**config | shape.fields | fields)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loss_by_transformers(folder: Path, batches: list[Batch]) -> float:
    """Mean loss over the labels of the batches, each piece by itself, in float32 and without dropout."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    causal = json.loads((folder / "config.json").read_text())["model_type"] == "modernbert-decoder"
    loader: Any = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    model = loader.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    total, count = 0.0, 0
    for batch in batches:
        ids = torch.from_numpy(batch.input_ids_BT.reshape(-1)).long()
        labels = torch.full((len(ids),), -100)
        labels[torch.from_numpy(batch.label_positions_L).long()] = torch.from_numpy(batch.label_ids_L).long()
        bounds = batch.cu_seqlens_S.tolist()
        for start, stop in zip(bounds, bounds[1:], strict=False):
            chosen = labels[start:stop] >= 0
            if chosen.any():
                with torch.no_grad():
                    logits = model(input_ids=ids[None, start:stop]).logits[0]
                losses = torch.nn.functional.cross_entropy(logits[chosen], labels[start:stop][chosen], reduction="none")
                total, count = total + losses.double().sum().item(), count + int(chosen.sum())
    return total / count


def write_text(path: Path, documents: int = 60) -> Path:
    """Documents of all lengths, the longer ones beyond the window."""
    texts = [" ".join(TEXTS[(7 * i + j) % len(TEXTS)] for j in range(1 + i % 9)) for i in range(documents)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
