"""README.md of an exported folder: what it is, how to read its predictions, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_ettin.config.objective import Objective
from megatron_ettin.config.run import ModelConfig

ENCODER_USE = """```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), AutoModelForMaskedLM.from_pretrained(FOLDER)
inputs = tokenizer("The capital of France is [MASK].", return_tensors="pt")
mask = (inputs.input_ids[0] == tokenizer.mask_token_id).nonzero().item()
print(tokenizer.decode(model(**inputs).logits[0, mask{offset}].argmax()))
```"""

DECODER_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), AutoModelForCausalLM.from_pretrained(FOLDER)
inputs = tokenizer("The capital of France is", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))
```"""

MNTP_NOTE = """**The prediction for a [MASK] at position i is read at position i - 1.** This encoder was trained by
masked next-token prediction: it keeps the shift of the decoder it comes from. Fill-mask pipelines read position i
and give nonsense; `megatron_ettin.export.read_predictions` and the lines below read the right one. `config.json`
says so in `ettin_label_offset: -1`."""

UNEQUAL_BASES_NOTE = """**Needs transformers 5 or later.** The rotary bases of global and local layers differ, and the
decoder class of transformers 4 uses the global one everywhere."""


def card(model: ModelConfig, objective: Objective, origin: Mapping[str, Any], mask: str = "[MASK]") -> str:
    """The text of README.md; ``mask`` is the token that stands for a gap."""
    kind = "decoder" if objective.causal else "encoder"
    task = "text-generation" if objective.causal else "fill-mask"
    notes = [MNTP_NOTE.replace("[MASK]", mask), ""] if objective.masked and objective.label_offset else []
    if objective.causal and model.rope_base_global != model.rope_base_local:
        notes += [UNEQUAL_BASES_NOTE, ""]
    offset = f" - {-objective.label_offset}" if objective.label_offset else ""
    use = DECODER_USE if objective.causal else ENCODER_USE.replace("{offset}", offset).replace("[MASK]", mask)
    window = f"{model.window} tokens on each side and itself"
    if objective.causal:
        window = f"{model.causal_window} tokens to the left and itself"
    parts = ["---", "library_name: transformers", f"pipeline_tag: {task}", "---", ""]
    title = f"{model.size}, trained further" if "started from" in origin else f"Ettin {kind}, {model.size}"
    parts += [f"# {title}", "", *notes, use, ""]
    facts = {
        "objective": objective.name,
        "layers x hidden": f"{model.layers} x {model.hidden}",
        "vocabulary": model.vocabulary,
        "longest text (tokens)": model.maximum_length,
        "local layers see": window,
        "rotary base, global / local": f"{model.rope_base_global:g} / {model.rope_base_local:g}",
        **origin,
    }
    return "\n".join([*parts, "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items()), ""])
