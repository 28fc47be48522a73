"""A study of plans: several plans, sizes and seeds, each trained, exported and asked the same held-out text."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from megatron_ettin.config import rules
from megatron_ettin.config.codec import with_fields
from megatron_ettin.errors import ConfigError
from megatron_ettin.plans.folder import run_of_stage
from megatron_ettin.plans.plan import Plan, load_plan
from megatron_ettin.plans.resolve import Choices, Stage, resolve
from megatron_ettin.run_folder import latest_of
from megatron_ettin.study.plan import Step, torchrun

CHOICES = ("split", "objective")
"""What may stand behind the name of a plan: NAME:split=0.25,objective=clm."""


@dataclass(frozen=True, kw_only=True)
class PlanStudySettings:
    """A study of plans: which, at which sizes and seeds, on which text, in which folder."""

    plans: tuple[str, ...]
    """Plans by name or file, each with its choices: pretrain clm-then-mlm:split=0.25 pretrain:objective=clm."""
    data: str
    """A mixture file (.json) or the prefix of a corpus, for all stages without one of their own."""
    run: Path
    """The study's folder: runs, exports, evaluation and report lie in it."""
    sizes: tuple[str, ...] = ("tiny",)
    """Sizes, or .toml files of them."""
    seeds: tuple[int, ...] = (21,)
    """Seeds of initial weights, order, masks and dropout; the held-out text is the same for all."""
    scale: float = 1.0
    """Every token count of every plan is multiplied by this."""
    ranks: int = 2
    """Processes of each training on this machine."""
    tensor: int = 1
    """Ranks that share each matrix."""
    pipeline: int = 1
    """Ranks that share the layers."""
    held_out_share: float = 0.02
    """Share of the documents that no stage sees, for the evaluation."""
    rows: int = 64
    """Held-out rows of the evaluation."""
    sample: int = 400
    """Next tokens that every kind is asked for; an encoder needs a pass for each."""
    flags: str = ""
    """Flags of every training, such as "--precision fp32 --micro-batch 2"."""
    launcher: str = ""
    """What starts a training, ahead of `-m megatron_ettin pretrain`; empty: torchrun with `ranks` on this machine."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A plan of the study, as it was named."""

    label: str
    """NAME:split=0.25, for people."""
    plan: Plan
    name: str
    """What `--plan` takes."""
    choices: dict[str, str] = field(default_factory=dict)

    @property
    def flags(self) -> list[str]:
        """As flags of a training."""
        chosen = [word for choice, value in self.choices.items() for word in (f"--{choice}", value)]
        return ["--plan", self.name, *chosen]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One training of the study: a plan at a size with a seed."""

    asked: Asked
    size: str
    seed: int
    folder: Path
    """Of the study."""
    stages: tuple[Stage, ...]

    @cached_property
    def name(self) -> str:
        """Its name in steps, in the evaluation and on disk."""
        plan = "-".join([self.asked.plan.name, *self.asked.choices.values()])
        return f"{Path(self.size).stem}-{plan}-{self.seed}"

    @property
    def run(self) -> Path:
        """The folder of its plan."""
        return self.folder / "runs" / self.name

    @property
    def stage_runs(self) -> list[tuple[str, Path]]:
        """Name and run folder of each stage."""
        return [(stage.name, run_of_stage(self.run, stage)) for stage in self.stages]

    @property
    def export(self) -> Path:
        """Its Hugging Face folder."""
        return self.folder / "exports" / self.name


def asked_plan(text: str) -> Asked:
    """A plan and its choices, as ``NAME:split=0.25,objective=clm``. Raises ConfigError."""
    name, _, behind = text.partition(":")
    choices: dict[str, str] = {}
    for part in filter(None, behind.split(",")):
        choice, equals, value = part.partition("=")
        if choice not in CHOICES or not equals:
            raise ConfigError(f"--plans {text}: behind the name comes {' or '.join(CHOICES)}, as in {name}:split=0.25")
        choices[choice] = value
    try:
        float(choices.get("split", 0))
    except ValueError as error:
        raise ConfigError(f"--plans {text}: split is a number between 0 and 1") from error
    return Asked(label=text, plan=load_plan(name), name=name, choices=choices)


def entries(settings: PlanStudySettings) -> list[Entry]:
    """Every training, plan by plan. Raises ConfigError for one that cannot be, before anything has started."""
    for name in ("ranks", "tensor", "pipeline", "rows", "sample"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"--{name} {getattr(settings, name)}: use 1 or more")
    if not 0 < settings.held_out_share < 1:
        raise ConfigError(f"--held-out-share {settings.held_out_share}: use a share between 0 and 1, such as 0.02")
    found = [
        entry_of(settings, asked, size, seed)
        for size in settings.sizes
        for asked in map(asked_plan, settings.plans)
        for seed in settings.seeds
    ]
    names = [entry.name for entry in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{', '.join(twice)}: named twice; a study trains each plan, size and seed once")
    return found


def entry_of(settings: PlanStudySettings, asked: Asked, size: str, seed: int) -> Entry:
    """One training. Its plan starts from random weights: what it goes on from would be another model for each size."""
    if asked.plan.starts_from != "random":
        raise ConfigError(f"--plans {asked.label}: goes on from a model; a study of plans starts from random weights")
    split = asked.choices.get("split")
    choices = Choices(
        size=size,
        objective=asked.choices.get("objective", ""),
        scale=settings.scale,
        split=float(split) if split else None,
        data={"": settings.data},
        fields={"data.held_out_share": settings.held_out_share, "layout.tensor": settings.tensor,
                "layout.pipeline": settings.pipeline, "seed": seed, "data.seed": seed},
    )  # fmt: skip
    stages = resolve(asked.plan, choices)
    for stage in stages:
        if not settings.flags and not settings.launcher:  # what they change is for each training to check
            rules.check(with_fields(stage.config, {"layout.data": 0}), settings.ranks)
    return Entry(asked=asked, size=size, seed=seed, folder=settings.run, stages=stages)


def plan_steps(settings: PlanStudySettings, found: list[Entry]) -> list[Step]:
    """Every training, which goes on where it stopped, the export of its end, and one evaluation of all."""
    launch = tuple(shlex.split(settings.launcher)) if settings.launcher else torchrun(settings.ranks)
    steps = []
    for entry in found:
        last = entry.stage_runs[-1][1]
        train = (
            *launch, "-m", "megatron_ettin", "pretrain", entry.size, *entry.asked.flags,
            "--run-folder", str(entry.run), "--data", settings.data, "--scale", str(settings.scale),
            "--seed", str(entry.seed), "--data.seed", str(entry.seed),
            "--data.held-out-share", str(settings.held_out_share),
            "--tensor", str(settings.tensor), "--pipeline", str(settings.pipeline), *shlex.split(settings.flags),
        )  # fmt: skip
        export = (sys.executable, "-m", "megatron_ettin", "convert", str(last), str(entry.export))
        steps += [
            Step(name=f"train {entry.name}", command=train, product=latest_of(last)),
            Step(name=f"export {entry.name}", command=export, product=entry.export / "parity.json",
                 needs=(f"train {entry.name}",), shown=False),
        ]  # fmt: skip
    models = [f"{entry.name}={entry.export}" for entry in found]
    folder = settings.run / "evaluation"
    command = [sys.executable, "-m", "megatron_ettin", "evaluate", *models, "--output", str(folder)]
    command += ["--data", settings.data, "--held-out-share", str(settings.held_out_share)]
    command += ["--rows", str(settings.rows), "--sample", str(settings.sample)]
    needs = tuple(f"export {entry.name}" for entry in found)
    product = folder / "results.json"
    return [*steps, Step(name="evaluate", command=tuple(command), product=product, needs=needs, shown=False)]
