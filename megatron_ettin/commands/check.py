"""``ettin check``: everything about a run that can be known before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.check.plan import examine_plan
from megatron_ettin.check.run import Request, examine
from megatron_ettin.commands.plan_flags import asks_for_plan, parse_plan
from megatron_ettin.commands.run_flags import RunFlags, parse_flags, recipe_named, run_folder
from megatron_ettin.config.codec import differences, fingerprint, flatten
from megatron_ettin.config.named_run import run_of
from megatron_ettin.plans.table import plan_table
from megatron_ettin.tables import pairs

FAILED = 2


@dataclass(frozen=True, kw_only=True)
class CheckFlags(RunFlags):
    """Rules, files, fingerprints, rows, steps, memory and the resolved settings of a run; needs no GPU."""

    world: int = 0
    """Ranks of the run; 0: not known."""
    deep: bool = False
    """Read every byte of the corpora and compare with their checksums."""
    quiet: bool = False
    """Leave out the resolved settings."""


def main(arguments: list[str]) -> int:
    """Print what was found and the resolved run; status 2 when something is wrong."""
    if asks_for_plan(arguments):
        return main_of_plan(arguments)
    config, flags = parse_flags(arguments, CheckFlags, "check", checked=False)
    base, _ = recipe_named(arguments, "check")
    request = Request(config=config, run=run_folder(config, flags), world=flags.world or None, deep=flags.deep)
    config, found = examine(request)
    for finding in found:
        print(finding)
    if not flags.quiet:
        changed = {item.path: f"   (recipe: {shown(item.old)})" for item in differences(base, config)}
        settings = [(path, shown(value) + changed.get(path, "")) for path, value in flatten(config).items()]
        print(f"\n{pairs(settings)}\n\nfingerprint {fingerprint(config)}")
    return FAILED if any(finding.state == "error" for finding in found) else 0


def main_of_plan(arguments: list[str]) -> int:
    """Print what was found about each stage of a plan that is not over, and about all together."""
    planned, flags = parse_plan(arguments, CheckFlags, "check")
    print(f"plan {planned.plan.name}\n{plan_table(planned.stages)}")
    examined, together = examine_plan(planned.stages, planned.folder, flags.world or None, flags.deep)
    for each in examined:
        print(f"\nstage {each.stage.place}: {each.stage.name}", *each.found, sep="\n")
        if not flags.quiet:
            size, variant = planned.choices.size, planned.plan.variant
            recipe = run_of(size, each.config.objective, each.config.stage, variant)
            changed = [(item.path, f"{shown(item.new)}   (recipe: {shown(item.old)})")
                       for item in differences(recipe, each.config)]  # fmt: skip
            print(pairs([*changed, ("fingerprint", fingerprint(each.config))]))
    print("\nall stages", *together, sep="\n")
    found = [*together, *(finding for each in examined for finding in each.found)]
    return FAILED if any(finding.state == "error" for finding in found) else 0


def shown(value: object) -> str:
    """A value in words; large counts with separators."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value in ("", ()) else str(value)
