"""config.json of a folder, in the fields that transformers 4.48 to 5.x read, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_ettin.config.objective import OBJECTIVES, Objective, ObjectiveName, kinds_of
from megatron_ettin.config.run import ModelConfig
from megatron_ettin.config.shapes import every_of
from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.export.mapping import Kind

Fields = dict[str, Any]

MOST_LAYERS = 4_096
"""More than any transformer has; a damaged config.json cannot make us enumerate billions of names."""

ARCHITECTURES: dict[Kind, tuple[str, str]] = {
    "encoder": ("modernbert", "ModernBertForMaskedLM"),
    "decoder": ("modernbert-decoder", "ModernBertDecoderForCausalLM"),
}
"""Kind -> (model_type, class)."""

OBJECTIVE_FIELD, OFFSET_FIELD = "ettin_objective", "ettin_label_offset"
"""Our own fields: what the model was trained on, and where the prediction of token i is read (i + offset)."""


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """What a config.json says about a model."""

    model: ModelConfig
    kind: Kind
    objective: ObjectiveName
    """From our own field; without it mlm for encoders and clm for decoders."""


def kind_of(objective: Objective) -> Kind:
    """The Hugging Face class that computes what ``objective`` trained."""
    return "decoder" if objective.causal else "encoder"


def objective_as(objective: Objective, kind: Kind | None) -> Objective:
    """The objective that an export of one kind was trained on: itself, or that of the rows which this kind computes.

    Raises ConfigError for a kind that the objective does not train, and for none where it trains both.
    """
    kinds = {kind_of(one): one for one in kinds_of(objective)}
    if kind is None and len(kinds) > 1:
        raise ConfigError(
            f"a run of objective {objective.name} trains an encoder and a decoder in one; say which of them is meant: "
            f"--as {' or --as '.join(kinds)}"
        )
    chosen = kind or kind_of(objective)
    if chosen not in kinds:
        raise ConfigError(f"--as {chosen}: objective {objective.name} trains no {chosen}; leave --as out")
    return kinds[chosen]


def layer_types(layers: int, global_every: int) -> list[str]:
    """Layers 0, n, 2n, ... see the whole piece, the others a window."""
    return ["sliding_attention" if layer % global_every else "full_attention" for layer in range(layers)]


def write_config(model: ModelConfig, objective: Objective, special_ids: Mapping[str, int], dtype: str) -> Fields:
    """The fields of config.json. ``dtype``: float32 or bfloat16, as the tensors are stored.

    Both generations of names for rope bases and layer pattern are written: either one alone is read wrongly, and
    silently, by the other generation of transformers.
    """
    kind = kind_of(objective)
    model_type, architecture = ARCHITECTURES[kind]
    # An encoder sees local_attention // 2 keys on each side; a decoder sees local_attention // 2 keys with itself
    # among them, one fewer to the left. So every window of ours has an exact form.
    half = model.window if kind == "encoder" else model.causal_window + 1
    fields: Fields = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": model.vocabulary,
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "max_position_embeddings": model.maximum_length,
        "norm_eps": model.norm_epsilon,
        "initializer_range": model.initial_std,
        "initializer_cutoff_factor": model.initial_cutoff,
        **FIXED_FIELDS,
        "local_attention": 2 * half,
        "layer_types": layer_types(model.layers, model.global_every),
        "global_attn_every_n_layers": model.global_every,
        "global_rope_theta": model.rope_base_global,
        "local_rope_theta": model.rope_base_local,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": model.rope_base_global},
            "sliding_attention": {"rope_type": "default", "rope_theta": model.rope_base_local},
        },
        **({"sliding_window": half} if kind == "decoder" else {}),
        **{f"{name}_token_id": special_ids[token] for name, token in TOKENS.items()},
        "dtype": dtype,
        "torch_dtype": dtype,
        OBJECTIVE_FIELD: objective.name,
        OFFSET_FIELD: objective.label_offset,
    }
    return fields | (ENCODER_FIELDS if kind == "encoder" else DECODER_FIELDS)


TOKENS = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "cls": "[CLS]", "sep": "[SEP]"}
"""Role -> special token whose id is written for it."""

FIXED_FIELDS: Fields = {
    "hidden_activation": "gelu",
    "norm_bias": False,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "embedding_dropout": 0.0,
    "decoder_bias": True,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "tie_word_embeddings": True,
}
"""Facts of every model we train; a folder that says otherwise is another architecture."""

ENCODER_FIELDS: Fields = {
    "classifier_pooling": "mean",
    "deterministic_flash_attn": False,
    "sparse_prediction": False,
    "sparse_pred_ignore_index": -100,
}
DECODER_FIELDS: Fields = {"classifier_pooling": "mean", "is_causal": True, "use_cache": True}


def read_config(fields: Fields, where: str, size: str) -> FolderConfig:
    """What ``fields`` of ``where``/config.json mean for us; ``size`` names the shape.

    Raises CheckpointError for code to run, another architecture, or a value that our model does not compute.
    """
    kind = _supported_kind(fields, where)
    layers = _integer(fields, "num_hidden_layers", where, most=MOST_LAYERS)
    global_every = _integer(fields, "global_attn_every_n_layers", where, default=every_of(fields.get("layer_types")))
    if fields.get("layer_types") not in (None, layer_types(layers, global_every)):
        pattern = f"global at 0, {global_every}, {2 * global_every}, ..."
        raise CheckpointError(f"{where}: layer_types is not '{pattern}', the only pattern")
    objective = fields.get(OBJECTIVE_FIELD, "mlm" if kind == "encoder" else "clm")
    plain = isinstance(objective, str) and objective in OBJECTIVES and not OBJECTIVES[objective].mixes
    if not plain or kind_of(OBJECTIVES[objective]) != kind:
        raise CheckpointError(f"{where}: {OBJECTIVE_FIELD}={objective!r} does not fit an {kind}")
    half = _integer(fields, "local_attention", where, default=128, least=2) // 2
    model = ModelConfig(
        size=size,
        layers=layers,
        hidden=_integer(fields, "hidden_size", where),
        intermediate=_integer(fields, "intermediate_size", where),
        heads=_integer(fields, "num_attention_heads", where),
        vocabulary=_integer(fields, "vocab_size", where),
        global_every=global_every,
        window=half,
        causal_window=half - 1,
        rope_base_global=_rope_base(fields, "full_attention", "global_rope_theta", where),
        rope_base_local=_rope_base(fields, "sliding_attention", "local_rope_theta", where),
        maximum_length=_integer(fields, "max_position_embeddings", where),
        norm_epsilon=_number(fields, "norm_eps", where, default=1e-5),
        initial_std=_number(fields, "initializer_range", where, default=0.02),
        initial_cutoff=_number(fields, "initializer_cutoff_factor", where, default=2.0),
    )
    if model.hidden % model.heads:
        raise CheckpointError(f"{where}: hidden_size {model.hidden} is no multiple of {model.heads} heads")
    return FolderConfig(model=model, kind=kind, objective=OBJECTIVES[objective].name)


def _supported_kind(fields: Fields, where: str) -> Kind:
    """Raises CheckpointError for another architecture, code to run, or a value that our model does not compute."""
    kinds = {model_type: kind for kind, (model_type, _) in ARCHITECTURES.items()}
    named = fields.get("model_type")
    if not isinstance(named, str) or named not in kinds:
        raise CheckpointError(f"{where}: model_type {named!r} cannot be read; known: {', '.join(kinds)}")
    if "auto_map" in fields or "custom_pipelines" in fields:
        raise CheckpointError(f"{where}: config.json asks to run code from the folder (auto_map); this is never done")
    for name, value in FIXED_FIELDS.items():
        if name.endswith("_dropout"):
            continue  # dropout is a training setting here, not part of the function that a folder holds
        if fields.get(name, value) != value:
            raise CheckpointError(f"{where}: {name}={fields[name]!r}, but this model has {name}={value!r} only")
    if fields.get("rope_scaling"):
        raise CheckpointError(f"{where}: rope_scaling is not supported; only plain rotary bases are")
    return kinds[named]


def _rope_base(fields: Fields, layer_type: str, old_name: str, where: str) -> float:
    """The base of one layer type. Never a default: the two generations of transformers have different ones."""
    groups = fields.get("rope_parameters") or {}
    entry = (groups.get(layer_type) or {}) if isinstance(groups, dict) else None
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: rope_parameters={groups!r} is no table of layer types")
    if entry.get("rope_type", "default") != "default":
        raise CheckpointError(f"{where}: rope_type {entry['rope_type']!r} is not supported; only plain bases are")
    stated = [(entry, "rope_theta")] * ("rope_theta" in entry) + [(fields, old_name)] * (old_name in fields)
    bases = {_number(group, name, where) for group, name in stated}
    if len(bases) != 1:
        said = "contradict each other" if bases else "are absent"
        raise CheckpointError(f"{where}: rope_parameters.{layer_type}.rope_theta and {old_name} {said}; state one base")
    return bases.pop()


def _integer(
    fields: Fields, name: str, where: str, default: int | None = None, least: int = 1, most: int = 2**31
) -> int:
    value = _checked(fields, name, where, default, lambda value: type(value) is int and least <= value <= most)
    return int(value)


def _number(fields: Fields, name: str, where: str, default: float | None = None) -> float:
    value = _checked(fields, name, where, default, lambda value: type(value) in (int, float) and 0 < value < 1e12)
    return float(value)


def _checked(fields: Fields, name: str, where: str, default: object, fits: Callable[[Any], bool]) -> Any:  # noqa: ANN401
    value = fields.get(name, default)
    if not fits(value):
        raise CheckpointError(
            f"{where}: config.json has {name}={value!r}; a number in the range of real models is needed"
        )
    return value
