"""Another vocabulary keeps what the model knows: rows of known tokens bit for bit, others the mean of their pieces."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Library
from torch import Tensor

from megatron_ettin.cli import main
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.weights import shapes
from megatron_ettin.export import Export, read_folder, write_folder
from megatron_ettin.export.parity import packed_logits
from megatron_ettin.tokenizer.token_text import Pieces, token_texts
from tests.export.conftest import small_model
from tests.export.reference import random_tensors, reference_logits
from tests.support.tokenizers import TEXTS, byte_level, unigram, wordpiece, write_kind, write_texts

MORE = [f"{text} éclair 漢字 🙂 and\tother  things" for text in TEXTS[:20]]


def change(verb: str, *arguments: object) -> int:
    return main(["vocabulary", verb, *map(str, arguments)])


def model_of(folder: Path, tokenizer: Path, objective: str = "mlm", spare: int = 0) -> Path:
    """A folder of a small model whose vocabulary has ``spare`` rows behind the tokenizer's last id."""
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    model = small_model(vocabulary=max(token_texts(content)) + 1 + spare)
    folder.mkdir()
    tensors = random_tensors(model, shapes(model))
    write_folder(folder, Export(model=model, objective=OBJECTIVES[objective], tensors=tensors,
                                tokenizer_json=tokenizer / "tokenizer.json"))  # fmt: skip
    return folder


def library(folder: Path) -> Library:
    return Library.from_file(str(folder / "tokenizer.json"))


def written(folder: Path, made: Library) -> Path:
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


def rows_of(folder: Path) -> tuple[Tensor, Tensor]:
    tensors = read_folder(folder).tensors
    return tensors["embedding.weight"], tensors["head.bias"]


def mean_of(rows: Tensor, ids: Sequence[int]) -> Tensor:
    return sum(rows[i].double() for i in ids).div(len(ids)).float()  # type: ignore[union-attr]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_replaced_rows_are_those_of_the_same_text_or_role_and_else_the_mean_of_its_pieces(
    objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two byte-level tokenizers of other roles, ids and merges; both are asked by the library itself."""
    old = write_kind(tmp_path / "old", "usual")
    new = write_kind(tmp_path / "new", "roberta")
    made = byte_level(["<unk>", "<s>", "</s>", "<pad>", "<mask>"], vocabulary=420)
    made.save(str(new / "tokenizer.json"))
    model = model_of(tmp_path / "model", old, objective, spare=13)
    sample = write_texts(tmp_path / "sample.jsonl")
    assert change("replace", model, "--tokenizer", new, "--output", tmp_path / "out", "--sample", sample) == 0
    before, after = library(old), library(new)
    (old_rows, old_bias), (rows, bias) = rows_of(model), rows_of(tmp_path / "out")
    roles = {"<unk>": "[UNK]", "<s>": "[CLS]", "</s>": "[SEP]", "<pad>": "[PAD]", "<mask>": "[MASK]"}
    counts = {"shared": 0, "new": 0}
    for token, number in after.get_vocab().items():
        if token in roles or token in before.get_vocab():
            known = before.token_to_id(roles.get(token, token))
            assert torch.equal(rows[number], old_rows[known]) and bias[number] == old_bias[known], token
            counts["shared"] += 1
            continue
        pieces = before.encode(after.decode([number]), add_special_tokens=False).ids
        assert len(pieces) > 1 and before.decode(pieces) == after.decode([number])
        assert torch.equal(rows[number], mean_of(old_rows, pieces)), token
        assert torch.equal(bias[number], mean_of(old_bias, pieces)), token
        counts["new"] += 1
    assert len(rows) == len(after.get_vocab()) and min(counts.values()) > 50
    report = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    assert {name: report[name] for name in counts} == counts
    text = [json.loads(line)["text"] for line in sample.read_text().splitlines()]
    for name, tokenizer in {"before": before, "after": after}.items():
        tokens = sum(len(tokenizer.encode(line, add_special_tokens=False).ids) for line in text)
        assert report["sample"][f"tokens_a_byte_{name}"] == tokens / sum(len(line.encode()) for line in text)
    assert report["sample"]["tokens_a_byte_after"] < report["sample"]["tokens_a_byte_before"]
    others = read_folder(model).tensors
    for name, tensor in read_folder(tmp_path / "out").tensors.items():
        assert name in ("embedding.weight", "head.bias") or torch.equal(tensor, others[name]), name
    shown = capsys.readouterr().out
    assert f"{counts['shared']:,}, " in shown and "logits equal transformers" in shown


def test_a_model_with_its_own_tokenizer_is_the_same_bit_for_bit(
    make_folder: Callable[..., Path], tokenizer_json: Path, tmp_path: Path
) -> None:
    model = make_folder("mntp", "model")
    assert change("replace", model, "--tokenizer", tokenizer_json, "--output", tmp_path / "out") == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes(), name


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_text_of_unchanged_tokens_has_the_same_logits_for_them(
    objective: str, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    model = make_folder(objective, "model")
    (tmp_path / "tokens.txt").write_text(" hyperparameter\nüber\n<|user|>\n[CLS]x")
    assert change("extend", model, "--tokens", tmp_path / "tokens.txt", "--output", tmp_path / "out") == 0
    old, new = read_folder(model), read_folder(tmp_path / "out")
    size = old.config.model.vocabulary
    assert new.config.model.vocabulary == size + 4
    pieces = [torch.randint(size, (length,), generator=torch.Generator().manual_seed(length)) for length in (3, 40)]
    before, after = (packed_logits(m.config.model, OBJECTIVES[objective], m.tensors)(pieces) for m in (old, new))
    for piece, one, other in zip(pieces, before, after, strict=True):
        assert torch.equal(one, other[:, :size])
        exact = reference_logits(new.config.model, new.tensors, piece, objective == "clm")
        assert (exact - other).abs().max() < 1e-4 * exact.abs().max()


def test_further_tokens_take_unused_ids_first_and_are_cut_as_written(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    model = make_folder("mlm", "model")
    content = json.loads((model / "tokenizer.json").read_text())
    unused = [token["id"] for token in content["added_tokens"] if token["content"].startswith("[unused")]
    tokens = [f" word{i}" for i in range(len(unused) + 2)]
    (tmp_path / "tokens.txt").write_text("\n".join(tokens))
    extend = ("extend", model, "--tokens", tmp_path / "tokens.txt", "--unused", "--output", tmp_path / "out")
    assert change(*extend) == 0
    (old_rows, _), (rows, _) = rows_of(model), rows_of(tmp_path / "out")
    assert len(rows) == len(old_rows) + 2
    kept = [i for i in range(len(old_rows)) if i not in unused]
    assert torch.equal(rows[kept], old_rows[kept])
    loaded, before = AutoTokenizer.from_pretrained(tmp_path / "out"), library(model)
    for token, number in zip(tokens, [*unused, len(old_rows), len(old_rows) + 1], strict=True):
        assert loaded(f"a{token}", add_special_tokens=False)["input_ids"][1:] == [number]
        assert torch.equal(rows[number], mean_of(old_rows, before.encode(token, add_special_tokens=False).ids))
    report = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    assert (report["new"], report["dropped"]) == (len(tokens), len(unused))


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_what_comes_out_is_evaluated_and_trained_on(objective: str, tmp_path: Path) -> None:
    from dataclasses import replace

    from megatron_ettin.export import read_canonical
    from megatron_ettin.train.run import train
    from tests.export.test_runs import config_of

    old, new = write_kind(tmp_path / "old", "usual"), tmp_path / "new"
    written(new, byte_level(vocabulary=350))
    model = model_of(tmp_path / "model", old, objective)
    assert change("extend", model, "--tokenizer", new, "--output", tmp_path / "out") == 0
    text, corpus = write_texts(tmp_path / "text.jsonl"), tmp_path / "corpus"
    prepare = ["prepare", "--input", text, "--tokenizer-model", tmp_path / "out" / "tokenizer.json"]
    assert main([*map(str, prepare), "--output-prefix", str(corpus)]) == 0
    few = ["--data", str(corpus), "--held-out-share", "0.1", "--rows", "2", "--sample", "3", "--row-length", "128"]
    assert main(["evaluate", str(tmp_path / "out"), *few, "--out", str(tmp_path / "evaluation")]) == 0
    config = config_of(corpus, objective)
    config = replace(config, model=read_folder(tmp_path / "out").config.model,
                     schedule=replace(config.schedule, tokens=900),
                     start=replace(config.start, huggingface=str(tmp_path / "out")))  # fmt: skip
    assert train(config, tmp_path / "run", read_canonical).state.finished
    smaller = ("trim", tmp_path / "run", "--data", text, "--keep", 300, "--output", tmp_path / "trimmed")
    assert change(*smaller) == 0, "of a run too"


def test_a_trimmed_tokenizer_cuts_the_text_into_the_same_tokens(tmp_path: Path) -> None:
    old = written(tmp_path / "old", byte_level(vocabulary=500))
    model = model_of(tmp_path / "model", old, spare=3)
    some = tmp_path / "some.jsonl"
    some.write_text("\n".join(json.dumps({"text": text}) for text in [*TEXTS[:30], *MORE]))
    assert change("trim", model, "--data", some, "--output", tmp_path / "all") == 0
    before, after = library(old), library(tmp_path / "all")
    (old_rows, old_bias), (rows, bias) = rows_of(model), rows_of(tmp_path / "all")
    assert len(rows) == len(after.get_vocab()) < len(before.get_vocab())
    for text in [*TEXTS[:30], *MORE]:
        cut, again = (t.encode(text, add_special_tokens=False) for t in (before, after))
        assert cut.tokens == again.tokens
        assert torch.equal(rows[again.ids], old_rows[cut.ids]) and torch.equal(bias[again.ids], old_bias[cut.ids])
    assert change("trim", model, "--data", some, "--keep", 300, "--output", tmp_path / "fewer") == 0
    fewer = library(tmp_path / "fewer")
    assert len(fewer.get_vocab()) <= 300 and set(fewer.get_vocab()) < set(after.get_vocab())
    for text in TEXTS + MORE:
        assert fewer.decode(fewer.encode(text, add_special_tokens=False).ids) == text
    again = ("trim", model, "--tokenizer", tmp_path / "fewer", "--output", tmp_path / "by-tokenizer")
    assert change(*again) == 0
    assert torch.equal(rows_of(tmp_path / "by-tokenizer")[0], rows_of(tmp_path / "fewer")[0])


def test_roles_that_another_file_names_go_along(tmp_path: Path) -> None:
    """As in a run, which keeps the tokenizer alone, and in folders whose tokenizer_config.json is silent."""
    model = model_of(tmp_path / "model", write_kind(tmp_path / "old", "roberta"))
    (model / "tokenizer_config.json").unlink()
    some = write_texts(tmp_path / "some.jsonl")
    assert change("trim", model, "--data", some, "--output", tmp_path / "out") == 0
    named = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (named["mask_token"], named["cls_token"], named["pad_token"]) == ("<mask>", "<s>", "<pad>")


def contents(kind: str) -> dict[str, Any]:
    made = {"byte_level": lambda: byte_level(vocabulary=400), "unigram": unigram, "wordpiece": wordpiece}[kind]()
    return dict(json.loads(made.to_str()))


@pytest.mark.parametrize("kind", ["byte_level", "unigram", "wordpiece"])
def test_the_text_of_a_token_is_what_the_library_decodes(kind: str) -> None:
    content = contents(kind)
    if kind == "wordpiece":
        content["decoder"]["cleanup"] = False  # or it leaves out spaces before full stops
    plain: Library = Library.from_str(json.dumps(content))
    first = plain.encode("text", add_special_tokens=False).ids[:1]  # a token in front shows the space of the next one
    beginning = plain.decode(first)
    for number, text in token_texts(content).items():
        if text and b"\xef\xbf\xbd" not in plain.decode([number]).encode():
            assert plain.decode([*first, number]) == beginning + text.decode("utf-8", "replace"), number


def test_pieces_have_no_space_of_their_own_and_take_bytes_that_are_no_text() -> None:
    content = contents("byte_level")
    content["pre_tokenizer"]["add_prefix_space"] = True
    spelt = token_texts(content)
    longest = max((text for text in spelt.values() if text.startswith(b" ")), key=len)
    texts = [b"ext", longest, b"  ", b"\xe6\xbc", b"\xff\xfe", b" \xe6", "é".encode(), b"[MASK]", b""]
    found = Pieces(content).of(texts)
    for text, ids in zip(texts, found, strict=True):
        assert b"".join(spelt[number] for number in ids) == text
    assert len(longest) > 3 and len(found[1]) == 1, "a known token is one piece"
    unigrams = contents("unigram")
    pieces = Pieces(unigrams).of([b" text", b"text", b"\xff"])
    texts_of = token_texts(unigrams)
    assert [b"".join(texts_of[number] for number in ids) for ids in pieces] == [b" text", b"text", b""]


def test_tokens_of_a_byte_level_vocabulary_find_those_of_another_kind_by_their_bytes(tmp_path: Path) -> None:
    """From Metaspace to byte level: "\u2581text" and "\u0120text" are one token; a byte alone has no piece."""
    old, new = write_kind(tmp_path / "old", "unigram"), write_kind(tmp_path / "new", "usual")
    model = model_of(tmp_path / "model", old)
    assert change("replace", model, "--tokenizer", new, "--output", tmp_path / "out") == 0
    before, after = library(old).get_vocab(), library(new).get_vocab()
    (old_rows, _), (rows, _) = rows_of(model), rows_of(tmp_path / "out")
    alike = [token for token in before if token.replace("\u2581", "\u0120") in after and len(token) > 1]
    assert any(token.startswith("\u2581") for token in alike)
    for token in alike:
        assert torch.equal(rows[after[token.replace("\u2581", "\u0120")]], old_rows[before[token]]), token
    lone = after["\u00ff"]  # the letter of byte 255
    assert torch.equal(rows[lone], old_rows.double().mean(0).float())
    assert json.loads((tmp_path / "out" / "vocabulary.json").read_text())["without_pieces"] > 100


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("replace", ["--tokenizer", "foreign"], "foreign shares no token with model"),
        ("extend", ["--tokenizer", "smaller"], "first '"),
        ("trim", ["--tokenizer", "bigger"], "it is no part of its vocabulary; use `ettin vocabulary replace`"),
        ("extend", [], "needs --tokenizer or --tokens, one of the two"),
        ("trim", ["--tokenizer", "smaller", "--data", "text.jsonl"], "needs --tokenizer or --data, one of the two"),
        ("extend", ["--tokenizer", "bigger", "--unused"], "has no effect on --tokenizer"),
        ("trim", ["--tokenizer", "smaller", "--keep", "9"], "--keep counts tokens of --data"),
        ("trim", ["--data", "text.jsonl", "--keep", "9"], "have to stay, bytes and added ones"),
        ("extend", ["--tokens", "tokens.txt"], "tokens.txt, line 3: repeats 'new'"),
        ("extend", ["--tokens", "known.txt"], "has 'text' already"),
        ("extend", ["--tokenizer", "nowhere"], "nowhere"),
        ("replace", ["--tokenizer", "no_roles"], "has no token [CLS]"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    verb: str, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    model_of(Path("model"), write_kind(Path("usual"), "usual"))
    written(Path("bigger"), byte_level(vocabulary=350))
    written(Path("smaller"), byte_level(vocabulary=280))
    written(Path("no_roles"), byte_level(["[UNK]"]))
    foreign = {"type": "WordLevel", "vocab": {"\u2603": 0, "\u2604": 1}, "unk_token": "\u2603"}
    specials = [
        {"id": 2 + i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True} for i, name in enumerate(("[CLS]", "[SEP]", "[PAD]", "[MASK]"))
    ]  # fmt: skip
    Path("foreign").mkdir()
    parts: Mapping[str, object] = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    content = {"version": "1.0", "model": foreign, "added_tokens": specials, **parts}
    Path("foreign", "tokenizer.json").write_text(json.dumps(content))
    write_texts(Path("text.jsonl"))
    Path("tokens.txt").write_text("new\nother\nnew\n")
    Path("known.txt").write_text("text\n")
    assert change(verb, "model", *arguments, "--output", "out") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*")), "nothing is written"
