"""Proof that transformers computes the same function from a folder: logits of ours against theirs."""

# T tokens of a piece, V vocabulary

from __future__ import annotations

import ctypes
import gc
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megatron_ettin.batch import packed_pieces
from megatron_ettin.config.objective import Objective
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import ComputeConfig, LayoutConfig, ModelConfig
from megatron_ettin.errors import CheckpointError
from megatron_ettin.export.config_json import FolderConfig
from megatron_ettin.export.huggingface import read_folder_config
from megatron_ettin.model.build import build_model
from megatron_ettin.model.canonical import load_full_state
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.model.ettin import EttinModel
from megatron_ettin.parallel.groups import Groups, initialize

PARITY_FILE = "parity.json"

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit of the case. Rounding in float32 stays about a tenth
of it over 28 layers; one key more or less in a window, or another rotary base, is far above."""

POSITIONS = 8
"""Compared at a time: logits of this many positions stay small beside a model."""

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


def compare(folder: Path, ours: LogitsOfPieces) -> Parity:
    """Compare ``ours`` on one packed row with transformers on each piece alone and on padded batches.

    The pieces are random ids over the whole vocabulary, specials too; their lengths lie on both sides of the local
    window, the longest well beyond it. One side after the other, so that one model at a time is in memory; in between
    our logits lie in a file.
    """
    import transformers

    config = read_folder_config(folder)
    shape = config.model
    window = max(shape.window, shape.causal_window + 1)
    lengths = [min(max(n, 3), shape.maximum_length) for n in (3, window - 1, window + 2, 3 * window + 7)]
    generator = torch.Generator().manual_seed(0)
    pieces = [torch.randint(shape.vocabulary, (length,), generator=generator) for length in lengths]
    with tempfile.TemporaryDirectory(prefix="ettin-parity-") as temporary:
        packed = [PutAway(Path(temporary, str(i)), logits_TV) for i, logits_TV in enumerate(ours(pieces))]
        give_back_memory()
        model = load_transformers(folder, config)
        alone = _case("packed row / each piece alone", packed, _batches(model, pieces, 1))
        give_back_memory()
        padded = _case("packed row / padded batch", packed, _batches(model, pieces, 2))
        del model
        give_back_memory()
    return Parity(cases=(alone, padded), transformers=transformers.__version__, torch=torch.__version__)


class PutAway:
    """Logits of one piece in a file, read a few positions at a time."""

    def __init__(self, path: Path, logits_TV: Tensor) -> None:
        self._path, self.shape = path, tuple(logits_TV.shape)
        logits_TV.float().numpy().tofile(path)

    def rows(self, start: int, stop: int) -> Tensor:
        """Logits of the positions from ``start`` to ``stop``."""
        width = self.shape[1]
        found = np.fromfile(self._path, np.float32, count=(stop - start) * width, offset=4 * start * width)
        return torch.from_numpy(found).view(-1, width)


def give_back_memory() -> None:
    """Let go of a model that nothing refers to any more: its cycles, and the freed memory that the C library keeps."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


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
        folder, attn_implementation=attention, dtype=torch.float32, output_loading_info=True, trust_remote_code=False,
        use_safetensors=True,
    )  # fmt: skip
    problems = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
    if problems:
        raise CheckpointError(f"transformers does not find every tensor of {folder}: {problems}")
    return model.eval()


def _batches(model: Any, pieces: Sequence[Tensor], size: int) -> Iterator[Tensor]:  # noqa: ANN401
    """Logits [T, V] of each piece by transformers, in batches of ``size``, padded and masked where it is above 1.

    The output projection is given the positions of the pieces alone: logits of padding would cost as much memory.
    """
    for start in range(0, len(pieces), size):
        batch = pieces[start : start + size]
        ids = torch.nn.utils.rnn.pad_sequence(list(batch), batch_first=True, padding_value=model.config.pad_token_id)
        attended = torch.arange(ids.shape[1])[None] < torch.tensor([len(piece) for piece in batch])[:, None]
        projection = model.get_output_embeddings()
        with torch.no_grad(), projection.register_forward_pre_hook(lambda _, x, kept=attended: (x[0][kept],)):
            logits_TV = model(input_ids=ids, **({"attention_mask": attended.long()} if size > 1 else {})).logits
        yield from torch.split(logits_TV, [len(piece) for piece in batch])


def _case(name: str, ours: Sequence[PutAway], theirs: Iterator[Tensor]) -> Case:
    """The figures over all pieces, a few positions at a time."""
    difference, largest, equal, places = 0.0, 0.0, 0, 0
    for stored, theirs_TV in zip(ours, theirs, strict=True):
        if stored.shape != tuple(theirs_TV.shape):
            raise CheckpointError(f"logits have shape {stored.shape}, transformers' {tuple(theirs_TV.shape)}")
        for start in range(0, len(theirs_TV), POSITIONS):
            other = theirs_TV[start : start + POSITIONS].float()
            one = stored.rows(start, start + len(other))
            difference = max(difference, (one - other).abs().max().nan_to_num(float("inf")).item())
            largest = max(largest, other.abs().max().item())
            equal += int((one.argmax(-1) == other.argmax(-1)).sum())
            places += len(one)
    return Case(
        name=name,
        lengths=tuple(stored.shape[0] for stored in ours),
        largest_difference=difference,
        largest_logit=largest,
        equal_choices=equal / places,
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


def load_ours(
    model: ModelConfig, objective: Objective, tensors: Mapping[str, Tensor], output_dropout: float = 0.0
) -> tuple[EttinModel, Groups]:
    """Our model with these weights, on one rank in float32, set to evaluate. Raises CheckpointError.

    ``output_dropout`` acts once it is set to train.
    """
    config = replace(
        recipe("tiny", objective.name, "pretrain"),
        model=replace(model, output_dropout=output_dropout),
        layout=LayoutConfig(),
        compute=ComputeConfig(precision="fp32"),
    )
    groups = initialize(config.layout)
    (ours,) = build_model(config, groups, initial=False)
    load_full_state([ours], groups, tensors)
    unset = [name for name, parameter in ours.named_parameters() if torch.isnan(parameter).any()]
    if unset:
        raise CheckpointError(f"after loading, these parameters hold NaN: {', '.join(unset[:4])}")
    return ours.eval(), groups


def packed_logits(model: ModelConfig, objective: Objective, tensors: Mapping[str, Tensor]) -> LogitsOfPieces:
    """Logits of our model for pieces packed into one row; the model is loaded for each call and let go after it."""

    @torch.no_grad()
    def compute(pieces: Sequence[Tensor]) -> Sequence[Tensor]:
        ours, groups = load_ours(model, objective, tensors)
        batch = DeviceBatch.from_batch(packed_pieces([piece.numpy() for piece in pieces]), groups)
        total = sum(len(piece) for piece in pieces)
        everywhere_T = torch.arange(total, device=groups.device.torch_device)
        logits_TV = ours.logits(batch, everywhere_T)[:, : model.vocabulary].cpu()
        return list(torch.split(logits_TV, [len(piece) for piece in pieces]))

    return compute
