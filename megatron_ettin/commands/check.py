"""``ettin check``: everything about a run that can be known before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ettin.check.run import Request, examine
from megatron_ettin.commands.run_flags import RunFlags, parse_flags, recipe_named, run_folder
from megatron_ettin.config.codec import differences, fingerprint, flatten
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


def shown(value: object) -> str:
    """A value in words; large counts with separators."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value in ("", ()) else str(value)
