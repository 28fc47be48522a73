"""A few rows for every task, in the hub's columns."""

import gzip
import json
from pathlib import Path

CHOICES = {"text": ["red", "a blue bird", "two", "green"], "label": ["A", "B", "C", "D"]}
WINOGRAD = "The cup does not fit because it is big."

ROWS = {
    "arc_challenge/test": [{"id": "1", "question": "What flies?", "choices": CHOICES, "answerKey": "B"}],
    "hellaswag/validation": [
        {"ind": 1, "activity_label": "Cooking", "ctx_a": "A man cuts.", "ctx_b": "he", "ctx": "A man cuts. he",
         "endings": ["eats", "sings", "falls up", "is"], "source_id": "s", "split": "val", "split_type": "indomain",
         "label": "0"}
    ],
    "lambada_openai/test": [{"text": "She took the cup and drank from the cup"}],
    "openbookqa/test": [{"id": "1", "question_stem": "The sky is", "choices": CHOICES, "answerKey": "B"}],
    "piqa/validation": [{"goal": "Open a jar", "sol1": "turn it", "sol2": "eat it", "label": 0}],
    "sciq/test": [
        {"support": "Cells live.", "question": "What lives?", "distractor1": "stones", "distractor2": "air",
         "distractor3": "salt", "correct_answer": "cells"}
    ],
    "social_iqa/validation": [
        {"context": "Ann fell.", "question": "What now?", "answerA": "stand", "answerB": "fly", "answerC": "no",
         "label": "1"}
    ],
    "triviaqa/validation": [
        {"question": "Who", "answer": {"aliases": ["Ann"], "value": "Ann", "normalized_aliases": []}}
    ],
    "winogrande_xl/validation": [
        {"sentence": "Ann thanked Bea because _ had helped.", "option1": "Ann", "option2": "Bea", "answer": "2"}
    ],
    "wsc273/test": [
        {"text": WINOGRAD, "pronoun": "it", "pronoun_loc": WINOGRAD.index(" it") + 1, "quote": "it is big",
         "quote_loc": WINOGRAD.index("it is"), "options": ["The cup", "the box"], "label": 0, "source": "test"}
    ],
    "gsm8k/test": [{"question": "One and one?", "answer": "So 2\n#### 2"}],
    "gsm8k/train": [{"question": f"{n} and 1?", "answer": f"#### {n + 1}"} for n in range(6)],
    **{
        f"mmlu/{subject}_computer_science/{split}": [
            {"question": "A bit is", "subject": subject, "choices": ["0 or 1", "a byte", "big", "red"], "answer": 0}
        ]
        for subject in ("college", "high_school") for split in ("test", "dev")
    },
}  # fmt: skip


def write(folder: Path) -> Path:
    """All tasks below ``folder``/generative."""
    for name, rows in ROWS.items():
        path = folder / "generative" / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        several = rows if len(rows) > 1 else rows * 3
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in several).encode()))
    return folder
