"""A few rows of every form of data that the retrieval suite reads."""

import gzip
import json
from pathlib import Path

WORDS = ("harbour", "kettle", "meadow", "violin", "glacier", "lantern", "compass", "orchard")
DOCUMENTS = [{"_id": f"d{i}", "title": word, "text": f"notes about the {word}"} for i, word in enumerate(WORDS)]
QUERIES = [{"_id": f"q{i}", "text": f"what of the {word}?"} for i, word in enumerate(WORDS[:6])]
QRELS = [(f"q{i}", f"d{i}", 1 + i % 2) for i in range(6)] + [("q0", "d7", 0)]

TRIPLETS = [
    {"query": f"a {word} {n}?", "positive": f"the {word} of {n}", "negative": f"the {WORDS[(i + 3) % 8]} of {n}"}
    for n in range(5)
    for i, word in enumerate(WORDS)
]
LONG = [{"docid": f"m{i}", "text": f"{word} " * 30} for i, word in enumerate(WORDS)]
ASKED = [
    {"query_id": f"a{i}", "query": word, "positive_passages": [{"docid": f"m{i}", "text": ""}], "negative_passages": []}
    for i, word in enumerate(WORDS)
]
CODE = [
    {"func_code_tokens": ["def", word, "(", ")", ":", "pass"], "func_documentation_string": f"Make a {word}.",
     "func_code_string": f'def {word}():\n    """Make a {word}."""\n    pass', "language": "python"}
    for word in WORDS
]  # fmt: skip
SIMILAR = [
    {"sentence1": f"the {word}", "sentence2": f"the {WORDS[(i * 3) % 8]} {i}", "score": i / 2}
    for i, word in enumerate(WORDS)
]
LABELLED = [{"text": f"{word} {n}", "label": i % 2} for n in range(3) for i, word in enumerate(WORDS)]
CLUSTERS = [{"sentences": f"{word} {n}", "labels": i % 2} for n in range(3) for i, word in enumerate(WORDS)]


def write_rows(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def write_beir(folder: Path, documents=DOCUMENTS, queries=QUERIES, qrels=QRELS, split="test") -> Path:
    write_rows(folder / "corpus.jsonl.gz", documents)
    write_rows(folder / "queries.jsonl.gz", queries)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_mldr(folder: Path, documents=LONG, queries=ASKED) -> Path:
    write_rows(folder / "corpus.jsonl.gz", documents)
    write_rows(folder / "queries.jsonl.gz", queries)
    return folder


def write(folder: Path) -> Path:
    """All of it below ``folder``/retrieval and ``folder``/mteb."""
    write_beir(folder / "retrieval" / "words")
    write_mldr(folder / "retrieval" / "mldr_like")
    write_rows(folder / "retrieval" / "code_search_net" / "python" / "test.jsonl.gz", CODE)
    write_rows(folder / "retrieval" / "triplets" / "words.jsonl.gz", TRIPLETS)
    write_rows(folder / "mteb" / "STS13" / "test.jsonl.gz", SIMILAR)
    for split in ("train", "test"):
        write_rows(folder / "mteb" / "word_kinds" / f"{split}.jsonl.gz", LABELLED)
    write_rows(folder / "mteb" / "word_clusters" / "test.jsonl.gz", CLUSTERS)
    return folder
