"""``ettin adapt START --data TEXT --tokens 2B --run FOLDER``: go on training a published model, to a folder of it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from megatron_ettin.adapt.start import Start, read_record, read_start
from megatron_ettin.adapt.text import is_corpus, prepared, require_preparable, require_tokenizer_of
from megatron_ettin.commands.prepare import separator
from megatron_ettin.commands.pretrain import PretrainFlags, exit_status
from megatron_ettin.commands.run_flags import given_flags, parse_over, taken
from megatron_ettin.config import rules
from megatron_ettin.config.adapting import adapted_run, following
from megatron_ettin.config.counts import token_count
from megatron_ettin.config.objective import OBJECTIVES, ObjectiveName
from megatron_ettin.config.recipes import known_name
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.corpus.build.job import BuildOptions
from megatron_ettin.errors import ConfigError
from megatron_ettin.export.huggingface import StoredType
from megatron_ettin.heavy_imports import heavy_imports
from megatron_ettin.launcher import end_with_launcher
from megatron_ettin.progress import format_count
from megatron_ettin.publish import write_atomically
from megatron_ettin.rows.run_data import open_remembered
from megatron_ettin.run_folder import CORPUS, START, TOKENIZER, own_run
from megatron_ettin.sources.remote.address import redacted
from megatron_ettin.tokenizer.identity import read_identity
from megatron_ettin.tokenizer.special_tokens import parse_special
from megatron_ettin.train.signals import StopRequest

TEXT_FLAGS = {
    "--json-key", "--input-format", "--text-separator", "--tokenizer-engine", "--special", "--workers",
}  # fmt: skip
"""Flags that say how text is prepared."""
PROGRAM = "ettin adapt START --data TEXT... --tokens N --run FOLDER"
USAGE = f"""{PROGRAM} [flags]
START is a Hugging Face folder or hub name (OWNER/NAME, OWNER/NAME@REVISION); TEXT files, folders, globs, the prefix of
a corpus or a mixture file; N takes K, M, B and T"""

EXPORTED = [name for name, objective in OBJECTIVES.items() if not objective.mixes]
"""Objectives whose end is one folder."""


@dataclass(frozen=True, kw_only=True)
class AdaptFlags(PretrainFlags):
    """Go on training a published encoder or decoder on other text, and export the result: START --data TEXT --tokens N.

    START is a Hugging Face folder or hub name (OWNER/NAME, OWNER/NAME@REVISION). Text is prepared with its tokenizer
    beside the run, once. The same command goes on where it stopped. Runs alone, or under torchrun.
    """

    objective: str = ""
    """What is predicted; empty: what START was trained on."""
    export_dtype: StoredType = "float32"
    """How the export at the end stores its tensors."""
    json_key: str = "text"
    """Key of a json line, or column of a table, that holds text."""
    input_format: Literal["auto", "jsonl", "txt", "csv", "tsv", "parquet", "arrow", "mds"] = "auto"
    """Format of the text; auto goes by the names."""
    text_separator: str = ""
    """Cut text files into documents at this (\\n, \\t, \\0 are escapes); empty: a file is one document."""
    tokenizer_engine: Literal["native", "huggingface"] = "native"
    """Who encodes text: this package, or `tokenizers` itself, for a tokenizer that the native engine refuses."""
    special: tuple[str, ...] = ()
    """Tokens of roles that START does not name, such as mask=<mask>."""
    workers: int = 0
    """Threads that prepare text; 0: every core."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What must be known before there are defaults for the flags."""

    start: str
    data: tuple[str, ...]
    tokens: int
    objective: str
    run: Path
    rest: tuple[str, ...]
    """The other arguments."""

    @property
    def corpus(self) -> str:
        """The corpus or mixture that is read; empty where text has to be prepared."""
        return self.data[0] if len(self.data) == 1 and is_corpus(self.data[0]) else ""


def main(arguments: list[str]) -> int:
    """Adapt, or go on. Status as that of ``ettin pretrain``; 0: trained to the end and exported."""
    if any(argument in ("-h", "--help") for argument in arguments):
        parse_over(adapted_run(SHAPES["150m"], "mlm", 10**9), ["--help"], AdaptFlags, PROGRAM, usage="")
    asked = asked_for(arguments)
    end_with_launcher()
    ranks, first = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("RANK", "0") == "0"
    say: Callable[[str], None] = print if first else lambda text: None
    with heavy_imports():
        from megatron_ettin.adapt.end import export_end
        from megatron_ettin.export.huggingface import read_canonical
        from megatron_ettin.parallel.groups import finish, join
        from megatron_ettin.parallel.together import ahead_of_all
        from megatron_ettin.train.run import train

    if ranks > 1:
        join()
    start = ahead_of_all(lambda: read_record(asked.run / START) or read_start(asked.start))
    config, flags = resolve(asked, start, ranks)
    options = options_of(flags, start)
    ahead_of_all(lambda: require(asked, start, config, options, say))
    command = redacted(shlex.join(sys.orig_argv))
    with own_run(asked.run, command, take_over=flags.take_over) if first else contextlib.nullcontext() as claim:
        ahead_of_all(lambda: get_ready(asked, start, options, command, say))
        say(plan(config, start))
        with StopRequest() as stop:  # not before: a signal ends the preparation at once, and it goes on where it was
            outcome = train(
                config, asked.run, read_canonical, start_over=flags.start_over, change_at=flags.change_at,
                still_owned=claim.require if claim else lambda: None, stop=stop,
            )  # fmt: skip
        finish()
        if first and outcome.state.finished:
            export_end(asked.run, flags.export_dtype, say)
    return exit_status(outcome.signal)


def asked_for(arguments: list[str]) -> Asked:
    """The start, the text and the length, and what is left of the arguments. Raises ConfigError for what is missing."""
    names = list(arguments[:1]) if arguments and not arguments[0].startswith("-") else []
    data, rest = values_of(arguments[len(names) :], ("--data", "--data.data"))
    tokens, _ = taken(rest, "--tokens", taken(rest, "--schedule.tokens", "")[0])
    objective, _ = taken(rest, "--objective", "")
    run, _ = taken(rest, "--run", taken(rest, "--run-folder", "")[0])
    absent = [word for word, value in (("START", names), ("--data", data), ("--tokens", tokens)) if not value]
    if absent:
        raise ConfigError(f"{' and '.join(absent)} missing: {USAGE}")
    if not token_count(tokens).isdecimal():
        raise ConfigError(f"--tokens {tokens}: a number of tokens, such as 2B or 500M")
    default = f"runs/{Path(names[0].partition('@')[0]).name}-adapted"
    return Asked(
        start=names[0],
        data=tuple(data),
        tokens=int(token_count(tokens)),
        objective=known_name("objective", objective, EXPORTED) if objective else "",
        run=Path(run or default),
        rest=tuple(rest),
    )


def values_of(arguments: list[str], flags: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """All values of a flag, up to the next flag (``--data a b``, ``--data=a``), and the arguments without it."""
    values: list[str] = []
    rest: list[str] = []
    inside = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            inside = name in flags
            values += [value] if inside and equals else []
            rest += [] if inside else [argument]
        else:
            (values if inside else rest).append(argument)
    return values, rest


def resolve(asked: Asked, start: Start, ranks: int) -> tuple[RunConfig, AdaptFlags]:
    """The run that is asked for, and the flags of this verb. Raises ConfigError."""
    if start.name != asked.start:
        raise ConfigError(
            f"{asked.run} goes on from {start.name}, not from {asked.start}; name the same start, or another --run"
        )
    objective: ObjectiveName = asked.objective or start.objective  # type: ignore[assignment]
    base = adapted_run(
        start.model, objective, asked.tokens, peak_rate=start.peak_rate, crosses=objective != start.objective,
        folder=start.folder, ranks=ranks,
    )  # fmt: skip
    base = replace(base, data=replace(base.data, data=asked.corpus or str(asked.run / CORPUS)))
    arguments = ["--run", str(asked.run), *asked.rest]
    config, flags = parse_over(base, arguments, AdaptFlags, PROGRAM, checked=False, usage="")
    given = given_flags(arguments)
    if asked.corpus and (idle := sorted(given & TEXT_FLAGS)):
        raise ConfigError(f"{' '.join(idle)} has no effect: {asked.corpus} is a corpus already; leave it out")
    config = following(config, given, ranks)
    rules.check(config)
    if config.start != base.start:
        raise ConfigError("the weights come from START, the first argument; leave out --init-from and --from")
    return config, flags


def options_of(flags: AdaptFlags, start: Start) -> BuildOptions:
    """How text is prepared."""
    return BuildOptions(
        keys=(flags.json_key,),
        special=start.special | parse_special(list(flags.special)),
        engine=flags.tokenizer_engine,
        input_format=flags.input_format,
        text_separator=separator(flags.text_separator) or None,
        threads=flags.workers,
    )


def require(
    asked: Asked, start: Start, config: RunConfig, options: BuildOptions, say: Callable[[str], None]
) -> None:  # fmt: skip
    """Raise DataError or ConfigError for text that does not go with the start; nothing is written before.

    A run that has its start on record was looked at then; the folder of the start may have gone since.
    """
    if (asked.run / START).is_file():
        return
    if config.observe.remember:
        require_tokenizer_of(start, config.observe.remember, say)
        open_remembered(config, read_identity(Path(start.folder) / TOKENIZER))
    if asked.corpus:
        require_tokenizer_of(start, asked.corpus, say)
    else:
        require_preparable(start, asked.data, asked.run, options)


def get_ready(asked: Asked, start: Start, options: BuildOptions, command: str, say: Callable[[str], None]) -> None:
    """Put the start on record and prepare the text; the owner of the run calls this."""
    if not (asked.run / START).is_file():
        write_atomically(asked.run / START, json.dumps(start.to_dict(), indent=2) + "\n")
        if start.hint:
            say(f"warning: {start.name} has been trained to the end of its schedule; {start.hint}")
    if not asked.corpus:
        prepared(start, asked.data, asked.run, options, command, say)


def plan(config: RunConfig, start: Start) -> str:
    """What is about to be done, in a line."""
    schedule, data = config.schedule, config.data
    crossed = f" (trained on {start.objective})" if config.objective != start.objective else ""
    return (
        f"{start.name}{f' at {start.commit[:12]}' if start.commit else ''}: {config.objective}{crossed}, "
        f"{format_count(schedule.tokens)} tokens in steps of {config.batch.rows} rows of {data.row_length}; rate up to "
        f"{schedule.peak_rate:.3g} over {format_count(schedule.warmup_tokens)}, down to "
        f"{schedule.end_factor * schedule.peak_rate:.3g} over the last {format_count(schedule.decay_tokens)}"
    )
