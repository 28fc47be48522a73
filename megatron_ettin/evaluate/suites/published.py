"""Figures of the paper (arXiv 2507.11412), for rows beside ours where suite and split are the same. In percent."""

from __future__ import annotations

TEN_TASKS = (
    "arc_challenge", "hellaswag", "lambada_openai", "openbookqa", "piqa", "sciq", "social_iqa", "triviaqa",
    "winogrande", "wsc273",
)  # fmt: skip
"""Tasks of the generative average, in the paper's order."""

EIGHT_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")

AVERAGES = {"generative": TEN_TASKS, "glue": EIGHT_TASKS}
"""Suite -> tasks whose plain mean the paper shows."""

WHOLE_SPLITS = {
    "generative": dict(
        zip(TEN_TASKS, (1_172, 10_042, 5_153, 500, 1_838, 1_000, 1_954, 17_944, 1_267, 273), strict=True)
    ),
    "glue": dict(zip(EIGHT_TASKS, (1_043, 872, 408, 1_500, 40_430, 9_815, 5_463, 277), strict=True)),
    "retrieval": {"msmarco": 6_980, "mldr": 800},
}
"""Examples of the split that the figure was made on: a score of fewer is another measure."""

_DECODERS = {
    "Ettin-Dec-17m": (21.3, 27.1, 23.0, 27.2, 57.7, 71.1, 35.4, 2.6, 50.9, 48.0),
    "Ettin-Dec-32m": (23.5, 28.5, 28.5, 28.2, 57.7, 77.5, 36.4, 3.8, 53.1, 50.2),
    "Ettin-Dec-68m": (25.3, 33.4, 35.2, 29.4, 61.8, 83.2, 38.8, 5.6, 50.1, 55.3),
    "Ettin-Dec-150m": (28.6, 40.3, 43.2, 29.2, 66.6, 89.6, 40.1, 11.2, 53.7, 59.0),
    "Ettin-Dec-400m": (33.6, 54.3, 52.3, 34.4, 71.0, 91.8, 45.5, 18.3, 57.6, 71.8),
    "Ettin-Dec-1B": (39.7, 62.9, 58.4, 41.6, 74.4, 93.8, 48.2, 29.3, 62.7, 79.1),
}

_CLASSIFIERS = {
    "Ettin-Enc-17m": {"sst2": 91.2, "mnli": 79.5},
    "Ettin-Enc-32m": {"sst2": 92.0, "mnli": 83.4},
    "Ettin-Enc-68m": {"sst2": 94.4, "mnli": 87.0},
    "Ettin-Enc-150m": {"sst2": 95.8, "mnli": 89.2},
    "Ettin-Enc-400m": {"sst2": 96.7, "mnli": 91.3},
    "Ettin-Enc-1B": {"sst2": 97.1, "mnli": 91.8},
    "Ettin-Dec-150m": {"mnli": 85.6},
    "Ettin-Dec-400m": {"mnli": 88.2},
    "Ettin-Dec-1B": {"mnli": 89.9},
    "Ettin-Enc-from-Dec-150m": {"mnli": 85.8},
    "Ettin-Enc-from-Dec-400m": {"mnli": 87.6},
    "Ettin-Enc-from-Dec-1B": {"mnli": 89.0},
    "Ettin-Dec-from-Enc-150m": {"mnli": 86.8},
    "Ettin-Dec-from-Enc-400m": {"mnli": 89.4},
    "Ettin-Dec-from-Enc-1B": {"mnli": 90.5},
}

_RETRIEVAL = {
    "Ettin-Enc-17m": {"mldr": 24.4},
    "Ettin-Enc-32m": {"mldr": 28.4},
    "Ettin-Enc-68m": {"mldr": 30.1},
    "Ettin-Enc-150m": {"msmarco": 39.97, "mldr": 31.8},
    "Ettin-Dec-150m": {"msmarco": 37.71},
    "Ettin-Enc-from-Dec-150m": {"msmarco": 39.49},
    "Ettin-Dec-from-Enc-150m": {"msmarco": 37.55},
    "Ettin-Enc-400m": {"msmarco": 42.24, "mldr": 36.2},
    "Ettin-Dec-400m": {"msmarco": 39.93},
    "Ettin-Enc-from-Dec-400m": {"msmarco": 41.44},
    "Ettin-Dec-from-Enc-400m": {"msmarco": 39.69},
    "Ettin-Enc-1B": {"msmarco": 43.35, "mldr": 40.2},
    "Ettin-Dec-1B": {"msmarco": 41.70},
    "Ettin-Enc-from-Dec-1B": {"msmarco": 43.24},
    "Ettin-Dec-from-Enc-1B": {"msmarco": 40.77},
}
"""Without CodeSearchNet and means of MTEB(eng, v2): the paper says neither which variant nor which mean it shows."""

PUBLISHED = {
    "generative": {name: dict(zip(TEN_TASKS, row, strict=True)) for name, row in _DECODERS.items()},
    "glue": _CLASSIFIERS,
    "retrieval": _RETRIEVAL,
}
"""Suite -> published model -> task -> percent."""
