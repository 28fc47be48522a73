"""Proof that transformers computes the same function from a folder: logits of ours against theirs."""

# T tokens of a piece, V vocabulary

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_ettin.config.run import ModelConfig
from megatron_ettin.errors import CheckpointError
from megatron_ettin.export.config_json import FolderConfig
from megatron_ettin.export.huggingface import read_folder_config

PARITY_FILE = "parity.json"

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit of the case. Rounding in float32 stays about a tenth
of it over 28 layers; one key more or less in a window, or another rotary base, is far above."""

LogitsOfPieces = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Pieces of ids [T] -> logits [T, V] each; the pieces share one packed row and must not see each other."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison."""

    name: str
    lengths: tuple[int, ...]
    """Tokens of each piece."""
    largest_difference: float
    """Over all logits of the case."""
    largest_logit: float
    """What the difference is measured by."""
    equal_choices: float
    """Share of positions whose most probable token is the same."""

    @property
    def met(self) -> bool:
        """Within TOLERANCE."""
        return self.largest_difference <= TOLERANCE * self.largest_logit


@dataclass(frozen=True, kw_only=True)
class Parity:
    """All comparisons of one folder."""

    cases: tuple[Case, ...]
    transformers: str
    torch: str

    @property
    def met(self) -> bool:
        """Every case is within the tolerance."""
        return all(case.met for case in self.cases)

    def to_dict(self) -> dict[str, Any]:
        """Content of parity.json."""
        cases = [asdict(case) | {"met": case.met} for case in self.cases]
        versions = {"transformers": self.transformers, "torch": self.torch}
        return {"met": self.met, "tolerance": TOLERANCE, **versions, "cases": cases}


def probe_lengths(model: ModelConfig) -> tuple[int, ...]:
    """Piece lengths on both sides of the local window, the longest well beyond it."""
    window = max(model.window, model.causal_window + 1)
    lengths = (3, window - 1, window + 2, 3 * window + 7)
    return tuple(min(max(length, 3), model.maximum_length) for length in lengths)


def probe_pieces(model: ModelConfig, seed: int = 0) -> list[Tensor]:
    """Random ids over the whole vocabulary: every embedding may occur, specials too."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(model.vocabulary, (length,), generator=generator) for length in probe_lengths(model)]


def compare(folder: Path, ours: LogitsOfPieces) -> Parity:
    """Compare ``ours`` on one packed row with transformers on each piece alone and on a padded batch."""
    import transformers

    config = read_folder_config(folder)
    pieces = probe_pieces(config.model)
    model = load_transformers(folder, config)
    packed = list(ours(pieces))
    cases = (
        _case("packed row / each piece alone", packed, [_alone(model, piece) for piece in pieces]),
        _case("packed row / padded batch", packed, _padded(model, pieces)),
    )
    return Parity(cases=cases, transformers=transformers.__version__, torch=torch.__version__)


def import_models() -> None:
    """Import all that ``load_transformers`` needs of transformers, which loads its parts when they are asked for."""
    from transformers import (  # noqa: F401
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        ModernBertDecoderForCausalLM,
        ModernBertForMaskedLM,
    )


def load_transformers(folder: Path, config: FolderConfig, attention: str = "eager") -> Any:  # noqa: ANN401
    """The folder's model by transformers, in float32 for evaluation; raises CheckpointError for a missing tensor.

    Eager attention is the same arithmetic in every version; ``sdpa`` is faster.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    loader: Any = AutoModelForMaskedLM if config.kind == "encoder" else AutoModelForCausalLM
    model, info = loader.from_pretrained(
        folder, attn_implementation=attention, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    problems = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
    if problems:
        raise CheckpointError(f"transformers does not find every tensor of {folder}: {problems}")
    return model.eval()


@torch.no_grad()
def _alone(model: Any, piece: Tensor) -> Tensor:  # noqa: ANN401
    logits: Tensor = model(input_ids=piece[None]).logits[0]
    return logits


@torch.no_grad()
def _padded(model: Any, pieces: Sequence[Tensor]) -> list[Tensor]:  # noqa: ANN401
    lengths = torch.tensor([len(piece) for piece in pieces])
    ids = torch.nn.utils.rnn.pad_sequence(list(pieces), batch_first=True, padding_value=model.config.pad_token_id)
    attended = torch.arange(ids.shape[1])[None] < lengths[:, None]
    logits = model(input_ids=ids, attention_mask=attended.long()).logits
    return [logits[i, : len(piece)] for i, piece in enumerate(pieces)]


def _case(name: str, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Case:
    ours_TV, theirs_TV = torch.cat(list(ours)).float(), torch.cat(list(theirs)).float()
    if ours_TV.shape != theirs_TV.shape:
        raise CheckpointError(f"logits have shape {tuple(ours_TV.shape)}, transformers' {tuple(theirs_TV.shape)}")
    return Case(
        name=name,
        lengths=tuple(len(piece) for piece in ours),
        largest_difference=(ours_TV - theirs_TV).abs().max().nan_to_num(float("inf")).item(),
        largest_logit=theirs_TV.abs().max().item(),
        equal_choices=(ours_TV.argmax(-1) == theirs_TV.argmax(-1)).float().mean().item(),
    )


def write_parity(folder: Path, parity: Parity) -> None:
    """Write parity.json; raises CheckpointError when the logits differ, with the figures."""
    if not parity.met:
        worst = max(parity.cases, key=lambda case: case.largest_difference)
        raise CheckpointError(
            f"the exported model does not compute the same logits: {worst.name} differs by "
            f"{worst.largest_difference:.3g} of {worst.largest_logit:.3g}, allowed {TOLERANCE:g} of it; "
            "nothing is exported"
        )
    (folder / PARITY_FILE).write_text(json.dumps(parity.to_dict(), indent=2) + "\n")
