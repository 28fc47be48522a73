"""``ettin evaluate MODEL... --data PREFIX``: held-out losses of any kind of model, and what it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from megatron_ettin.errors import ConfigError
from megatron_ettin.heavy_imports import heavy_imports

BEGINNINGS = ("The capital of France is", "import os\n\ndef main():\n    return")


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Evaluate exported models, or runs, on the held-out documents of a corpus, all on the same text.

    Encoders and decoders answer both questions: masked tokens and next tokens (an encoder predicts the next token
    from three masks, one pass a token, on a sample). Losses are in nats a token and a byte, beside the unigram entropy
    of that text. Writes results.json and losses.png; prints a table, filled masks and continuations.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Hugging Face folders, RUN or RUN@STEP; NAME=FOLDER names one in the table."""
    data: str = ""
    """A mixture file (.json) or the prefix of a corpus; default: that of the first model's training."""
    out: Path = Path("evaluation")
    """Folder of results.json and losses.png."""
    held_out_share: float = 0.0
    """Share of the documents held out; 0: as in the first model's training, else 0.001."""
    rows: int = 64
    """Held-out rows."""
    row_length: int = 0
    """Tokens per row and longest piece; 0: 1,024, or the first model's longest text when that is shorter."""
    mask_share: float = 0.15
    """Share of the tokens that are masked."""
    sample: int = 400
    """Next tokens that every kind is asked for."""
    text: tuple[str, ...] = BEGINNINGS
    """Beginnings to continue; [MASK] in one marks the gap to fill, else a word is taken out."""


def main(arguments: list[str]) -> int:
    """Evaluate, write and print."""
    flags = tyro.cli(EvaluateFlags, args=arguments, prog="ettin evaluate")
    if not flags.models:
        raise ConfigError("name at least one model: a Hugging Face folder, RUN or RUN@STEP")
    with heavy_imports():
        from megatron_ettin.evaluate.report import plot_losses, print_results, write_results
        from megatron_ettin.evaluate.source import exported, held_out_text, text_settings
        from megatron_ettin.evaluate.suite import evaluate
        from megatron_ettin.export.parity import import_models

        import_models()

    with exported(named(flags.models)) as folders:
        settings = text_settings(
            next(iter(folders.values())), data=flags.data, held_out_share=flags.held_out_share,
            row_length=flags.row_length, mask_share=flags.mask_share,
        )  # fmt: skip
        text, tokenizer_json = held_out_text(settings, flags.rows, flags.sample)
        results = evaluate(folders, text, tokenizer_json, flags.text)
    path = write_results(flags.out, results)
    plot_losses(results, flags.out / "losses.png")
    print_results(results)
    print(f"{path} and losses.png beside it")
    return 0


def named(models: tuple[str, ...]) -> dict[str, str]:
    """Name -> source; the name of a folder is its own. Raises ConfigError for two of one name."""
    found: dict[str, str] = {}
    for model in models:
        name, mark, source = model.partition("=")
        name, source = (name, source) if mark else (Path(model).name, model)
        if name in found:
            raise ConfigError(f"two models are called {name}; name one: NAME={source}")
        found[name] = source
    return found
