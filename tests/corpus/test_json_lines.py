"""The strict JSON parser accepts and returns exactly what Python's json.loads does."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ettin import _native

DEEPEST_BOTH_AGREE = 300
"""Nesting where the limits of the two parsers (1,000 here, the stack there) are far away."""


def expected(line):
    """What the builder promises for one line, told with json.loads: (kind, value)."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "invalid_utf8", None
    if text.startswith("\ufeff"):
        return "byte_order_mark", None
    try:
        record = json.loads(text)
    except ValueError:
        return "invalid_json", None
    if not isinstance(record, dict):
        return "invalid_json", None
    if "text" not in record:
        return "missing_key", None
    value = record["text"]
    if isinstance(value, str):
        return None, scalar_bytes(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return None, [scalar_bytes(item) for item in value]
    return "not_a_string", None


def scalar_bytes(text):
    """UTF-8, with U+FFFD for every lone surrogate."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def found(line):
    kind, value = _native.parse_json_line(line, ["text"])
    return kind, value[0] if kind is None else None


def check(line):
    assert found(line) == expected(line), line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("text"), inner),
    max_leaves=12,
)


@given(JSON, st.booleans(), st.sampled_from([None, 1]), st.text(" \t\r\n", max_size=3))
@settings(max_examples=150, deadline=None)
def test_every_json_value_is_read_as_python_reads_it(value, ascii_only, indent, space):
    text = space + json.dumps({"id": 1, "text": value, "more": value}, ensure_ascii=ascii_only, indent=indent) + space
    check(text.encode(errors="surrogatepass") if ascii_only else text.encode("utf-8", "replace"))


@given(st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_random_bytes_are_judged_as_python_judges_them(data):
    check(data)


@given(JSON, st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_json_is_judged_as_python_judges_it(value, data):
    line = bytearray(json.dumps({"text": value, "n": [1.5e3, -0, {}]}).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(line) - 1))
        action = data.draw(st.sampled_from("rid"))
        byte = data.draw(st.sampled_from(b'{}[]":,\\u0019-+.eEtfnNI \x00\x1f\x7f\x80\xc3\xed\xff'))
        if action == "r":
            line[place] = byte
        elif action == "i":
            line.insert(place, byte)
        elif len(line) > 1:
            del line[place]
    check(bytes(line))


@pytest.mark.parametrize(
    "line",
    [
        rb'{"text": "\ud83d\ude42"}',
        rb'{"text": "\ud83d"}',
        rb'{"text": "\ude42\ud83d"}',
        rb'{"text": "\ud83d\ud83d\ude42"}',
        rb'{"text": "\ud83dx\ude42"}',
        rb'{"text": "\u0000\u001f\uFFFF"}',
        rb'{"te\u0078t": "a"}',
        rb'{"text": "a", "text": "b"}',
        rb'{"text": 1, "text": "b"}',
        rb'{"text": "a", "text": 1}',
        rb'{"text": "\u12g4"}',
        rb'{"text": "\u12"}',
        b'{"text": "\\',
        rb'{"text": "a"',
        rb'{"text": "a",}',
        rb'{"text": "a"} x',
        rb'{text: "a"}',
        rb"{'text': 'a'}",
        b"",
        b"null",
        b"[]",
        b'"text"',
        rb'{"text": "a", "n": 01}',
        rb'{"text": "a", "n": 1.}',
        rb'{"text": "a", "n": .5}',
        rb'{"text": "a", "n": 1e}',
        rb'{"text": "a", "n": -}',
        rb'{"text": "a", "n": -Infinity, "m": NaN, "k": Infinity}',
        rb'{"text": "a", "n": nul}',
        b'{"text": "a\tb"}',
        b'{"text": "a\x7fb"}',
        b'\xef\xbb\xbf{"text": "a"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "\xc0\x80"}',
        b'{"text": "\xf4\x90\x80\x80"}',
        b'{"text": "\xe2\x82"}',
        rb'{"text": ["a", "b"]}',
        rb'{"text": ["a", 1]}',
        rb'{"text": []}',
        rb'{"text": ["a", ]}',
        rb'{"text": {"text": "a"}}',
        rb'{"x": [[], {}, [{}]], "text": ""}',
        b'{"text": "' + b"x" * 200 + rb"\n" + b"y" * 200 + b'"}',
        b'{"a": ' + b"[" * DEEPEST_BOTH_AGREE + b"]" * DEEPEST_BOTH_AGREE + b', "text": "t"}',
    ],
)
def test_corner_cases_are_judged_as_python_judges_them(line):
    check(line)


def test_values_nested_without_end_are_refused_not_followed():
    kind, reason = _native.parse_json_line(b'{"a": ' + b"[" * 1_000_000, ["text"])
    assert (kind, reason) == ("invalid_json", "nested too deeply")


@given(st.binary(max_size=200) | st.text().map(str.encode), st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_utf8_is_judged_as_python_judges_it(data, padding):
    data = b"a" * padding + data
    try:
        data.decode()
        valid = len(data)
    except UnicodeDecodeError as error:
        valid = error.start
    assert _native.utf8_valid_prefix(data) == valid


def test_checksums_are_crc32c():
    vectors = {b"": 0, b"123456789": 0xE3069283, b"\0" * 32: 0x8A9136AA, b"\xff" * 32: 0x62A8AB43}
    for data, value in vectors.items():
        assert _native.crc32c(data) == value == _native.crc32c(data, portable=True)


@given(st.binary(max_size=100), st.binary(max_size=100), st.integers(0, 30_000))
@settings(max_examples=100, deadline=None)
def test_checksums_of_pieces_combine(first, second, size):
    second = second * (size // (len(second) + 1) + 1)
    whole = _native.crc32c(first + second)
    assert whole == _native.crc32c(second, _native.crc32c(first))
    assert whole == _native.crc32c_combine(_native.crc32c(first), _native.crc32c(second), len(second))
    assert whole == _native.crc32c(first + second, portable=True)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1000, 40_000])
def test_scanned_ids_give_checksum_and_largest_id(dtype, count):
    ids = np.random.default_rng(count).integers(0, 60_000, count).astype(dtype)
    for place in {0, count // 2, count - 1} & set(range(count)):
        ids[place] = 0xFFF0  # above all others, wherever it stands
        expected = (_native.crc32c(ids, 7, portable=True), 0xFFF0)
        assert _native.scan_ids(ids, ids.itemsize, 7) == expected
        assert _native.scan_ids(ids, ids.itemsize, 7, portable=True) == expected
        ids[place] = 0
    assert _native.scan_ids(ids, ids.itemsize) == (_native.crc32c(ids), int(ids.max(initial=0)))


@pytest.mark.parametrize(
    "escape", ['\\"', "\\\\", "\\n", "\\/", "\\u00e9", "\\ud83d\\ude00", "\\q", "\\", '\\\\\\"', '"', "\x01", "é"]
)
def test_escapes_at_every_place_of_a_block(escape: str) -> None:
    """Strings longer than several blocks of 64 bytes, with escapes side by side and across their borders."""
    for before in range(140):
        for between in (0, 1, 2, 61, 64):
            text = "x" * before + escape + "y" * between + escape + "z" * (130 - before % 7)
            check(f'{{"text": "{text}"}}'.encode())
