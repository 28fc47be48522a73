"""What ``ettin merge-weights`` is asked for; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from megatron_ettin.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """Join the weights of models of one shape into one, in a Hugging Face folder with a proof of its logits.

    A MODEL is RUN or RUN@STEP (a run of any layout: its newest checkpoint, or that of a step), PLAN or PLAN/STAGE (the
    last stage of a plan that has a checkpoint, or the one named), or a ModernBERT or Ettin of Hugging Face (safetensors
    only): a folder, OWNER/NAME or OWNER/NAME@REVISION. Models of another shape, tokenizer, rotary base, window or
    objective are refused.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """RUN, RUN@STEP, PLAN, PLAN/STAGE, Hugging Face folders or hub names, two or more."""
    output: Path
    """The Hugging Face folder to make."""
    method: Literal["mean", "ties"] = "mean"
    """mean: the weighted mean of each weight. ties: of each model the largest changes from --base are kept, a sign is
    elected for each weight, and the mean is taken over the models that agree with it (arXiv 2306.01708)."""
    weights: tuple[float, ...] = ()
    """A weight for each model, above 0; only their ratios count. Default: all equal."""
    base: str = ""
    """ties: the model that all others were trained from, named as they are."""
    density: float | None = None
    """ties: the share of each model's changes that is kept, above 0 and at most 1. Default: 0.2."""
    scale: float | None = None
    """ties: the joined change is multiplied by this before it is added to the base. Default: 1."""
    kind: Annotated[Literal["encoder", "decoder"] | None, tyro.conf.arg(name="as")] = None
    """Which model is meant of runs of objective mixed, which train both in one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How tensors are stored."""

    def refuse_contradictions(self) -> None:
        """Raise ConfigError for settings that contradict one another or have no effect."""
        if len(self.models) < 2:
            raise ConfigError(f"{' '.join(self.models) or 'no model'}: merging takes two models or more; name them all")
        if self.weights and len(self.weights) != len(self.models):
            raise ConfigError(f"--weights has {len(self.weights)} numbers for {len(self.models)} models; give one each")
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise ConfigError(f"--weights {' '.join(map(str, self.weights))}: each must be a number above 0")
        if self.method == "ties" and not self.base:
            raise ConfigError("--method ties needs --base: the model that all others were trained from")
        ignored = [name for name in ("base", "density", "scale") if getattr(self, name) not in ("", None)]
        if self.method == "mean" and ignored:
            raise ConfigError(f"--{ignored[0]} has no effect on --method mean; leave it out, or use --method ties")
        if self.density is not None and not 0 < self.density <= 1:
            raise ConfigError(f"--density {self.density}: a share above 0 and at most 1 is kept")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise ConfigError(f"--scale {self.scale}: give a number above 0")
        if self.output.exists():
            raise ConfigError(f"{self.output} exists already and is never overwritten; choose another folder")
