"""A manifest for a .bin/.idx pair that another tool wrote, after a full check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megatron_ettin import __version__
from megatron_ettin.corpus.checksum import checksum_text, file_checksum
from megatron_ettin.corpus.format import corpus_prefix, member
from megatron_ettin.corpus.manifest import FileChecksum, Manifest, SourceSummary
from megatron_ettin.corpus.reader import Corpus, open_corpus
from megatron_ettin.corpus.verify import Contents, scan_corpus
from megatron_ettin.errors import DataError
from megatron_ettin.publish import write_atomically
from megatron_ettin.tokenizer.tokenizer import Tokenizer


def adopt_corpus(
    path: str | Path, tokenizer: str | Path, *, eod_token: str | None = None, special: Mapping[str, str] | None = None
) -> Corpus:
    """Check ``PREFIX.bin`` and ``PREFIX.idx`` fully and write their manifest. Reads everything once.

    ``eod_token`` names the token that ends every document, if one does, ``special`` tokens of roles such as
    ``{"mask": "<mask>"}``. Raises DataError when the files are damaged,
    do not fit the tokenizer, or have a manifest already.
    """
    prefix = corpus_prefix(path)
    if member(prefix, ".json").exists():
        raise DataError(f"{member(prefix, '.json')}: is there already; `ettin corpus verify` checks the corpus")
    loaded = Tokenizer.from_file(tokenizer, engine="huggingface", special=special)
    if eod_token is not None and eod_token not in loaded.token_ids:
        raise DataError(f"{tokenizer}: has no token {eod_token!r}; name one it has by --eod-token")
    eod = None if eod_token is None else loaded.token_ids[eod_token]
    contents = scan_corpus(prefix, eod=eod, first_special=loaded.special_ids.get("[CLS]"))
    if contents.problems:
        raise DataError(f"{prefix}: {contents.problems[0]}; the files are damaged")
    if contents.tokens and contents.largest_id >= loaded.vocabulary_size:
        raise DataError(
            f"{prefix}: holds id {contents.largest_id}, but the tokenizer has {loaded.vocabulary_size} ids; give "
            "the tokenizer that made the corpus"
        )
    if eod is not None and contents.without_eod:
        raise DataError(f"{prefix}: {contents.without_eod} documents do not end with the eod {eod}; leave out --eod")
    filled = contents.header.documents - contents.empty_documents
    if filled and contents.starts_special == filled:
        raise DataError(
            f"{prefix}: every document starts with [CLS]: it was made with template specials, which rows get anew; "
            "build it from the text again"
        )
    write_atomically(member(prefix, ".tokenizer.json"), loaded.content)
    write_atomically(member(prefix, ".json"), _manifest(prefix, contents, loaded, eod).to_json())
    return open_corpus(prefix)


def _manifest(prefix: Path, contents: Contents, tokenizer: Tokenizer, eod: int | None) -> Manifest:
    header, checksum = contents.header, checksum_text(contents.bin_checksum)
    source = SourceSummary(
        path=str(member(prefix, ".bin")),
        format="megatron",
        bytes=contents.bin_bytes,
        documents=header.documents,
        empty_documents=contents.empty_documents,
        tokens=contents.tokens,
        checksum=checksum,
    )
    return Manifest(
        builder=f"megatron-ettin {__version__}, adopted",
        command="ettin corpus adopt",
        tokenizer=tokenizer.record,
        appended_eod=eod,
        dtype=header.dtype,
        documents=header.documents,
        empty_documents=contents.empty_documents,
        sequences=header.sequences,
        tokens=contents.tokens,
        specials_in_text=0,
        sources=(source,),
        files={
            ".bin": FileChecksum(bytes=contents.bin_bytes, checksum=checksum),
            ".idx": FileChecksum(bytes=header.file_bytes, checksum=checksum_text(contents.idx_checksum)),
            ".tokenizer.json": file_checksum(tokenizer.content),
        },
    )
