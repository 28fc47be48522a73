"""A fuzzer of what Python reads of other people's files: MDS shards, manifests, csv and arrow files.

    python -m tests.corpus.fuzz_readers {mds,manifest,csv,arrow} [--runs N] [--seconds S] [--seed N]

Each input is a sound file with a few changes. It must be refused by a DataError, or be read as a second, plain reader
reads it. Anything else ends the program with the input as a hexadecimal string: another exception, another reading,
more than a second, or more memory than the limit set for the process.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from megatron_ettin.corpus.manifest import FileChecksum, Manifest, SourceSummary, TokenizerIdentity, parse_manifest
from megatron_ettin.errors import DataError
from megatron_ettin.sources.arrow import arrow_documents
from megatron_ettin.sources.delimited import records
from megatron_ettin.sources.files import Source, make_sources
from megatron_ettin.sources.mds import SHAPE_TYPES, VALUE_TYPES, parse_shard, shard_documents
from tests.sources.mds_writer import encode_shard

MEMORY_LIMIT = 2 << 30
"""Bytes of address space above what the process has at its start: an input of a few hundred bytes needs none of it."""
SLOWEST = 1.0
"""Seconds; an input takes about 0.1 ms, the rest is for a machine that others use."""
CLOCK_EVERY = 512
CHANGES = (1, 1, 1, 1, 2, 2, 3, 6)
INTERESTING = (0, 1, 2, 3, 4, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
JSON_VALUES = (
    b"null", b"true", b"-1", b"0", b"1", b"1.5", b"1e999", b"NaN", b"9223372036854775807", b"9223372036854775808",
    b"[]", b"{}", b'""', b'"\\ud800"', b"[[[[", b'"uint64"', b'"ndarray:uint16"', b'"ndarray:int64:3"', b'"str"',
)  # fmt: skip


def mutate(content: bytearray, draw: random.Random) -> None:
    """One change: a bit, a byte, a 32-bit number, a JSON value, a cut, a repeated or removed piece."""
    size = len(content)
    if not size:
        content.append(draw.getrandbits(8))
        return
    at = draw.randrange(size)
    kind = draw.getrandbits(3)
    if kind == 0:
        content[at] ^= 1 << draw.getrandbits(3)
    elif kind == 1:
        content[at] = draw.getrandbits(8)
    elif kind == 2:
        content[at : at + 4] = struct.pack("<I", draw.choice(INTERESTING))
    elif kind == 3:
        place = at & ~3
        value = int.from_bytes(content[place : place + 4], "little") + draw.randrange(-9, 10)
        content[place : place + 4] = struct.pack("<I", value & 0xFFFFFFFF)
    elif kind == 4:
        content[at : at + draw.randrange(6)] = draw.choice(JSON_VALUES)
    elif kind == 5:
        del content[at : at + draw.randrange(1, 9)]
    elif kind == 6:
        other = draw.randrange(size)
        content[at:at] = content[other : other + draw.randrange(1, 17)]
    else:
        del content[at:]


def mds_seeds() -> list[bytes]:
    """Small shards of every kind that is read."""
    texts = [{"text": text, "id": 1} for text in ("", "a", "Gr\u00fc\u00dfe", "two words")]
    ids = [{"text": np.array(row, "uint16"), "id": 1} for row in ([1, 2, 3], [4], [65_000, 0])]
    wide = [{"text": np.array(row, "int64"), "id": 1} for row in ([1, -2], [1 << 40], [7, 7, 7])]
    seeds = [encode_shard(texts, {"text": "str"}), encode_shard(texts, {"id": "int", "text": "str"})]
    for rows, encodings in ((ids, ("ndarray", "ndarray:uint16")), (wide, ("ndarray", "ndarray:int64"))):
        seeds += [encode_shard(rows, {"text": encoding}) for encoding in encodings]
        seeds.append(encode_shard(rows, {"id": "int", "text": encodings[0]}))
    seeds.append(encode_shard([{"text": np.array([5], "int32")}] * 3, {"text": "ndarray:int32:1"}))
    return [*seeds, encode_shard([], {"text": "str"})]


def plain_array(value: bytes, encoding: str) -> list[int]:
    """One ndarray value, by the description of the format."""
    parts = encoding.split(":")[1:]
    at = 0
    if parts:
        name = parts[0]
    else:
        name, at = VALUE_TYPES[value[0]], 1
    if len(parts) < 2:
        dimensions, width = divmod(value[at], 4)
        at += 1 + dimensions * np.dtype(SHAPE_TYPES[width]).itemsize
    size = np.dtype(name).itemsize
    signed = name.startswith("int")
    numbers = [int.from_bytes(value[i : i + size], "little", signed=signed) for i in range(at, len(value), size)]
    return [number if 0 <= number < 1 << 32 else 0xFFFFFFFF for number in numbers]


def plain_documents(content: bytes) -> list[bytes] | list[list[int]]:
    """The column "text" of every sample, by the description of the format."""
    samples = struct.unpack_from("<I", content)[0]
    offsets = struct.unpack_from(f"<{samples + 1}I", content, 4)
    columns = json.loads(content[4 + 4 * (samples + 1) : offsets[0]])
    place = columns["column_names"].index("text")
    encoding = columns["column_encodings"][place]
    documents = []
    for begin, end in zip(offsets, offsets[1:], strict=False):
        sample = content[begin:end]
        known = columns["column_sizes"]
        sizes = list(struct.unpack_from(f"<{known.count(None)}I", sample))
        at = 4 * len(sizes)
        for size in known[:place]:
            at += sizes.pop(0) if size is None else size
        value = sample[at : at + (sizes[0] if known[place] is None else known[place])]
        documents.append(value if encoding.partition(":")[0] == "str" else plain_array(value, encoding))
    return documents


def check_mds(content: bytes) -> bool:
    """Read one shard, and compare when it is accepted. Returns whether it is."""
    documents = []
    try:
        shard = parse_shard(np.frombuffer(content, np.uint8), "shard")
        for rows in shard_documents(shard, ["text"], 0):
            bounds = [0, *rows.ends.tolist()]
            whole = rows.content.tolist() if rows.ids else bytes(rows.content)
            documents += [whole[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]
    except DataError:
        return False
    if documents != plain_documents(content):
        raise AssertionError("read differently by the plain reader")
    return True


def manifest_seeds() -> list[bytes]:
    """Manifests with and without what is optional."""
    source = SourceSummary(
        path="a.jsonl", format="jsonl", bytes=9, documents=2, empty_documents=0, tokens=3, checksum="crc32c:00000000",
        rejected={"too_long": 1},
    )  # fmt: skip
    files = {name: FileChecksum(bytes=6, checksum="crc32c:00000000") for name in (".bin", ".idx")}
    small = Manifest(
        builder="b", command="c", tokenizer=TokenizerIdentity(sha256="d", vocabulary=9, special_ids={"[CLS]": 1}),
        appended_eod=2, dtype="uint16", documents=2, empty_documents=0, sequences=2, tokens=3, specials_in_text=0,
        sources=(source,), files=files,
    )  # fmt: skip
    content = json.loads(small.to_json())
    content |= {"shard": {"index": 0, "count": 2}, "key": "text", "settings": {"a": [1, None]}}
    content |= {"left_out": {"a": ["b"]}}
    return [small.to_json().encode(), json.dumps(content).encode(), json.dumps(content).encode("utf-16")]


def check_manifest(content: bytes) -> bool:
    """Read one manifest; what is accepted says again what it said. Returns whether it is accepted."""
    try:
        manifest = parse_manifest(content, "manifest")
    except DataError as error:
        refitted = refit(content) if "fingerprint" in str(error) else None
        if refitted is None:
            return False
        try:
            manifest = parse_manifest(refitted, "manifest")
        except DataError:
            return False
    if parse_manifest(manifest.to_json(), "manifest") != manifest:
        raise AssertionError("read differently when written again")
    return True


def refit(content: bytes) -> bytes | None:
    """An altered manifest with the fingerprint of what it says now, so that the check of it hides no other."""
    fields = json.loads(content)
    files = fields["files"]
    kept = {name: {key: files[name][key] for key in ("bytes", "checksum")} for name in sorted(files)}
    said = Manifest(
        builder="", command="", tokenizer=TokenizerIdentity(sha256=fields["tokenizer"]["sha256"], vocabulary=0),
        appended_eod=fields.get("appended_eod"), dtype=fields["dtype"], documents=fields["documents"],
        empty_documents=0, sequences=0, tokens=fields["tokens"], specials_in_text=0, sources=(),
        files={name: FileChecksum(**record) for name, record in kept.items()},
    )  # fmt: skip
    fields["fingerprint"] = said.fingerprint
    return json.dumps(fields).encode()


def csv_seeds() -> list[bytes]:
    """Small files with quotes, line ends and bytes of every kind."""
    rows = [["text", "n"], ["a", "1"], ['two\n"lines"', "2"], ["Gr\u00fc\u00dfe, \u65e5\u672c", ""], ["", "\r\n"]]
    seeds = []
    for line_end, quoting in (("\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_ALL)):
        made = io.StringIO(newline="")
        csv.writer(made, lineterminator=line_end, quoting=quoting).writerows(rows)
        seeds.append(made.getvalue().encode())
    return [*seeds, b"\xef\xbb\xbf" + seeds[0], b"text\n\n\na"]


def check_csv(content: bytes) -> bool:
    """Read one file, cut into pieces of every size, and compare with Python's csv. Returns whether it is accepted."""
    source = Source(path=Path("t.csv"), format="csv", compression=None, size=len(content), modified=0, inode=0)
    found: list[list[str]] | None = None
    for size in (1, 5, max(1, len(content))):
        try:
            pieces = [content[at : at + size] for at in range(0, len(content), size)]
            again = [record.fields for record in records(source, pieces)]
        except DataError:
            again = None
        if size > 1 and again != found:
            raise AssertionError(f"read differently in pieces of {size} bytes")
        found = again
    text = content.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    try:
        plain = [fields for fields in csv.reader(io.StringIO(text, newline=""), strict=True) if fields]
    except csv.Error:
        plain = None
    if found != plain and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise AssertionError("read differently by Python's csv")
    return found is not None


def arrow_seeds() -> list[bytes]:
    """Small files and streams with text, bytes and lists of ids."""
    columns = (
        pa.array(["a", None, "Gr\u00fc\u00dfe", ""]), pa.array([b"\xff", b"two words"], pa.large_binary()),
        pa.array([[1, 2], None, [3]], pa.list_(pa.int32())), pa.array(["a", "b", "a"]).dictionary_encode(),
    )  # fmt: skip
    seeds = []
    for column in columns:
        table = pa.table({"text": column})
        for make in (pa.ipc.new_file, pa.ipc.new_stream):
            made = io.BytesIO()
            with make(made, table.schema) as writer:
                writer.write_table(table)
            seeds.append(made.getvalue())
    return seeds


def check_arrow(content: bytes) -> bool:
    """Read one file or stream; the rows that are accepted are those of pyarrow. Returns whether it is accepted."""
    with tempfile.NamedTemporaryFile(suffix=".arrow", dir="/dev/shm") as stream:
        stream.write(content)
        stream.flush()
        (source,) = make_sources([(Path(stream.name), "arrow", None)])
        rows: list[object] = []
        try:
            for batch in arrow_documents(source, ["text"], 0):
                bounds = [0, *batch.ends.tolist()]
                whole = batch.content.tolist() if batch.ids else bytes(batch.content)
                faults = batch.faults if batch.faults is not None else [0] * len(batch.ends)
                rows += [
                    None if fault else whole[begin:end]
                    for begin, end, fault in zip(bounds, bounds[1:], faults, strict=False)
                ]
        except DataError:
            return False
    reader = (pa.ipc.open_file if content.startswith(b"ARROW1") else pa.ipc.open_stream)(content)
    column = reader.read_all().column("text")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if pa.types.is_list(kind):
        ids = [None if row is None else [-1 if one is None else one for one in row] for row in column.to_pylist()]
        plain = [row and [one if 0 <= one < 1 << 32 else 0xFFFFFFFF for one in row] for row in ids]
    else:
        plain = column.cast(pa.large_string() if text else pa.large_binary()).cast(pa.large_binary()).to_pylist()
    if rows != plain:
        raise AssertionError(f"read differently by pyarrow: {rows} {plain}")
    return True


TARGETS: dict[str, tuple[Callable[[], list[bytes]], Callable[[bytes], bool]]] = {
    "mds": (mds_seeds, check_mds),
    "manifest": (manifest_seeds, check_manifest),
    "csv": (csv_seeds, check_csv),
    "arrow": (arrow_seeds, check_arrow),
}


def fuzz(target: str, runs: int, seconds: float, seed: int) -> tuple[int, int]:
    """Check ``runs`` inputs, or as many as fit into ``seconds``. Returns how many there were and were accepted."""
    make, check = TARGETS[target]
    seeds, draw = make(), random.Random(seed)
    for sound in seeds:
        if not check(sound):
            raise AssertionError(f"a sound {target} is refused: {sound!r}")
    accepted = done = 0
    start = before = time.monotonic()
    while done < runs and before - start < seconds:
        content = bytearray(draw.choice(seeds))
        for _ in range(CHANGES[draw.getrandbits(3)]):
            mutate(content, draw)
        try:
            accepted += check(bytes(content))
        except BaseException:
            print(f"{target}: after {done} inputs: {content.hex()}", file=sys.stderr)
            raise
        done += 1
        if done % CLOCK_EVERY == 0:
            now = time.monotonic()
            if now - before > SLOWEST * CLOCK_EVERY:
                raise AssertionError(f"{CLOCK_EVERY} inputs took {now - before:.0f} s; the last: {content.hex()}")
            before = now
    return done, accepted


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=sys.maxsize)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_LIMIT, now + MEMORY_LIMIT))
    done, accepted = fuzz(given.target, given.runs, given.seconds, given.seed)
    print(f"{given.target}: {done} inputs, {accepted} accepted and read alike, the others refused")


if __name__ == "__main__":
    main()
