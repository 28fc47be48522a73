"""The command line: a table of verbs, each imported only when it is called."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

from megatron_ettin.errors import REMEDIES, EttinError, file_trouble
from megatron_ettin.heavy_imports import heavy_imports


class Verb(NamedTuple):
    """A verb of the command line: ``module.main(arguments) -> exit status``."""

    module: str
    summary: str


VERBS: dict[str, Verb] = {
    "prepare": Verb("megatron_ettin.commands.prepare", "text to a tokenized corpus"),
    "fetch": Verb("megatron_ettin.commands.fetch", "the published Ettin text, or a part of it, from the hub"),
    "corpus": Verb("megatron_ettin.commands.corpus", "inspect, verify, show, merge and adopt corpora"),
    "pretrain": Verb("megatron_ettin.commands.pretrain", "train, or go on where a run stopped; under torchrun"),
    "adapt": Verb("megatron_ettin.commands.adapt", "go on training a published model on other text, and export it"),
    "check": Verb("megatron_ettin.commands.check", "rules, files, rows, steps, memory and settings of a run"),
    "estimate": Verb("megatron_ettin.commands.estimate", "parameters, work, time, memory and bubble, before a run"),
    "convert": Verb("megatron_ettin.commands.convert", "checkpoints to Hugging Face folders, or a folder to a run"),
    "merge-weights": Verb("megatron_ettin.commands.merge_weights", "the weights of several models joined into one"),
    "vocabulary": Verb("megatron_ettin.commands.vocabulary", "the same model with more, other or fewer tokens"),
    "evaluate": Verb("megatron_ettin.commands.evaluate", "held-out losses of any kind of model, and what it writes"),
    "order": Verb("megatron_ettin.commands.order", "what a run has read: by step, by document, between checkpoints"),
    "pack": Verb("megatron_ettin.commands.pack", "build pack indexes ahead of training, and report what a stage reads"),
    "plot": Verb("megatron_ettin.commands.plot", "loss, rate and throughput of runs as PNG and SVG"),
    "status": Verb("megatron_ettin.commands.status", "owner, progress, last save and disk of runs; what a start does"),
    "study": Verb("megatron_ettin.commands.study", "the paired experiment: train, cross, export, evaluate, report"),
    "tokenizer": Verb("megatron_ettin.commands.tokenizer", "train a byte-level BPE tokenizer"),
}

USAGE_ERROR = 2
INTERRUPTED = 130


def report_error(message: str) -> int:
    """Print an error of the user and return the exit status; torchrun repeats the message in its summary."""
    print(f"error: {message}", file=sys.stderr)
    if reply := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        about = {"message": f"error: {message}", "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(reply).write_text(json.dumps({"message": about}))
    return USAGE_ERROR


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit status; errors of the user are printed without a traceback."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max((len(name) for name in VERBS), default=0)
        lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
        print("usage: ettin VERB ...", "", *lines, "", "ettin VERB --help tells what a verb takes.", sep="\n")
        return 0 if arguments else USAGE_ERROR
    # Megatron-Core warns once for each optional package that is absent; what a run uses is in its log instead
    warnings.filterwarnings("ignore", module=r"megatron\.core|torch\.distributed")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    name, *rest = arguments
    if name not in VERBS:
        print(f"error: no verb {name!r}; verbs: {', '.join(VERBS)}", file=sys.stderr)
        return USAGE_ERROR
    try:
        with heavy_imports():
            verb = importlib.import_module(VERBS[name].module)
        status: int = verb.main(rest)
        return status
    except EttinError as error:
        return report_error(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is read: flushing must not fail
        return USAGE_ERROR
    except OSError as error:
        if error.filename is None and error.errno not in REMEDIES:  # no file of the user's
            raise
        return report_error(file_trouble(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
