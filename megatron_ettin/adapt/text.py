"""The text of an adaptation: files that are prepared beside the run, once, or a corpus that is there already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_ettin.adapt.start import Start
from megatron_ettin.corpus.build.build import build_corpus
from megatron_ettin.corpus.build.job import BuildOptions, make_job
from megatron_ettin.corpus.format import corpus_prefix, member
from megatron_ettin.corpus.manifest import read_manifest
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.progress import format_count
from megatron_ettin.rows.mixture import read_mixture
from megatron_ettin.rows.run_data import refuse_empty
from megatron_ettin.run_folder import CORPUS, TOKENIZER
from megatron_ettin.sources.files import find_inputs
from megatron_ettin.sources.remote.address import fixed_part, is_remote
from megatron_ettin.tokenizer.identity import WITH_ITS_TOKENIZER, compare_tokenizers, read_identity
from megatron_ettin.tokenizer.special_tokens import missing_roles
from megatron_ettin.typed_json import parse_json

Say = Callable[[str], None]
LARGEST_MIXTURE = 1 << 20
"""Bytes; a .json file above it is text."""
SETTINGS = {"keys": "--json-key", "input_format": "--input-format", "text_separator": "--text-separator",
            "engine": "--tokenizer-engine"}  # fmt: skip
"""Settings of the preparation that a corpus has on record, and their flags."""


def is_corpus(path: str) -> bool:
    """Whether a path names a corpus, by its prefix or one of its files, or a mixture file; else it is text."""
    prefix, named = corpus_prefix(path), Path(path)
    if member(prefix, ".idx").is_file():
        return True
    if named.suffix != ".json":
        return member(prefix, ".json").is_file() and not named.exists()  # a joined corpus
    if not named.is_file() or named.stat().st_size > LARGEST_MIXTURE:
        return False
    try:
        content = parse_json(named.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and "sources" in content


def require_tokenizer_of(start: Start, data: str, say: Say) -> None:
    """Raise DataError unless every corpus of a mixture or prefix was made with the tokenizer of ``start`` and has text.

    ``say`` takes the line that no more than sizes could be compared.
    """
    theirs = read_identity(Path(start.folder) / TOKENIZER)
    for source in read_mixture(data).sources:
        corpus = open_corpus(source.prefix)
        refuse_empty(source, corpus)
        difference = compare_tokenizers(theirs, corpus.tokenizer, str(source.prefix), WITH_ITS_TOKENIZER)
        if difference:
            say(difference)


def require_preparable(start: Start, inputs: Sequence[str], run: Path, options: BuildOptions) -> None:
    """Raise DataError or ConfigError for text or a tokenizer that cannot be prepared; nothing is written."""
    job = make_job(inputs, run / CORPUS, start.folder, options, "")
    if missing := missing_roles(job.tokenizer.special_ids):
        flags = " ".join(f"{role}=TOKEN" for role in missing)
        raise DataError(f"{start.name} names no token for {', '.join(missing)}; name them with --special {flags}")


def prepared(start: Start, inputs: Sequence[str], run: Path, options: BuildOptions, command: str, say: Say) -> Path:
    """The corpus of the text ``inputs`` beside the run; built where it is not whole yet, and never a second time.

    Once it is whole the text may go. Raises DataError, and ConfigError when it was prepared in another way.
    """
    prefix = run / CORPUS
    if member(prefix, ".json").is_file():
        refuse_other_text(prefix, inputs, options)
        return prefix
    prefix.parent.mkdir(parents=True, exist_ok=True)
    report = build_corpus(list(inputs), prefix, start.folder, options, command=command)
    (manifest,) = report.manifests
    say(
        f"prepared {manifest.documents:,} documents, {format_count(manifest.tokens)} tokens, by the tokenizer of "
        f"{start.name} in {report.seconds:.0f} s: {prefix}"
    )
    for reason, paths in report.left_out.items():
        say(f"left out {len(paths):,} ({reason}): {', '.join(paths[:3])}")
    return prefix


def refuse_other_text(prefix: Path, inputs: Sequence[str], options: BuildOptions) -> None:
    """Raise ConfigError where a corpus was prepared from other files, or in another way, than is asked for now.

    Files that have gone since are not missed.
    """
    manifest = read_manifest(member(prefix, ".json"))
    known = {source.path for source in manifest.sources}
    elsewhere = [fixed_part(name) for name in inputs if is_remote(name)]
    there = [name for name in inputs if Path(name).exists()]
    found = {str(path) for path, _, _ in find_inputs(there, options.input_format).files} if there else known
    unknown = [part for part in elsewhere if not any(path.startswith(part) for path in known)]
    if other := sorted(found - known) + unknown:
        raise ConfigError(
            f"{prefix} was prepared without {other[0]}; name the same text to go on, or another --run folder for other "
            "text"
        )
    stored, asked = manifest.settings, options.content_settings()
    for name, flag in SETTINGS.items():
        if stored.get(name) != asked[name]:
            raise ConfigError(
                f"{prefix} was prepared with {flag} {stored.get(name)}, not {asked[name]}; use the same flags to go "
                "on, or another --run folder"
            )
