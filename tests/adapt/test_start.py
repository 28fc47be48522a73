"""What is read from a published model, and that its loss before the first step is that of transformers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_ettin.adapt.start import Start, read_record, read_start
from megatron_ettin.config import rules
from megatron_ettin.config.adapting import adapted_run
from megatron_ettin.config.run import RunConfig
from megatron_ettin.corpus.build.build import build_corpus
from megatron_ettin.corpus.build.job import BuildOptions
from megatron_ettin.errors import CheckpointError, DataError, EttinError
from megatron_ettin.export import read_canonical
from megatron_ettin.parallel.groups import initialize
from megatron_ettin.rows.run_data import open_data
from megatron_ettin.train.parts import build_parts
from megatron_ettin.train.start import begin
from megatron_ettin.train.step import held_out_sums
from tests.adapt.starts import SHAPES, loss_by_transformers, write_start, write_text

LOSS_TOLERANCE = 1e-5
"""Nats a token, float32 against float32 over up to 28 layers; the sums are in float64."""


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same text by the tokenizer of either kind, as folders of models have it."""
    folder = tmp_path_factory.mktemp("corpora")
    text = write_text(folder / "text.jsonl")
    found = {}
    for kind, name in (("modernbert", "ettin-encoder-17m"), ("gemma", "mmBERT-small")):
        start = read_start(str(write_start(folder / kind, SHAPES[name])))
        engine = "native" if kind == "modernbert" else "huggingface"
        options = BuildOptions(special=start.special, engine=engine)
        build_corpus(text, folder / f"{kind}-corpus", start.folder, options)
        found[kind] = folder / f"{kind}-corpus"
    return found


def run_of(start: Start, corpus: Path) -> RunConfig:
    run = adapted_run(start.model, start.objective, 1_000_000, folder=start.folder)
    data = replace(run.data, data=str(corpus), row_length=512, piece_length=512, held_out_share=0.2)
    layout, compute = replace(run.layout, micro_batch_rows=2), replace(run.compute, precision="fp32")
    return replace(run, data=data, batch=replace(run.batch, rows=4), layout=layout, compute=compute)


def loss_at_step_0(run: RunConfig) -> tuple[float, list]:
    rules.check(run, 1)
    data = open_data(run)
    parts = build_parts(run, initialize(run.layout), 1)
    begin(parts, data.vocabulary.tokenizer, read_canonical, lambda text: None)
    batches = data.held_out(run.objective, 4)
    total, count = held_out_sums(parts, batches)
    return total / count, batches


QUICK = ("ettin-encoder-17m", "ettin-decoder-17m", "ModernBERT-base", "mmBERT-small")
"""One of each kind; the others differ in depth."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SHAPES]
)
def test_the_loss_before_the_first_step_is_that_of_transformers(name, corpora, tmp_path):
    shape = SHAPES[name]
    folder = write_start(tmp_path / name, shape)
    start = read_start(str(folder))
    assert start.objective == ("clm" if shape.causal else "mlm")
    assert (start.model.rope_base_global, start.model.rope_base_local) == shape.bases
    loss, batches = loss_at_step_0(run_of(start, corpora[shape.tokenizer]))
    assert max(max(np.diff(batch.cu_seqlens_S)) for batch in batches) > 3 * 64, "pieces beyond the window"
    assert loss == pytest.approx(loss_by_transformers(folder, batches), abs=LOSS_TOLERANCE)


@pytest.mark.parametrize("field", ["rope_base_local", "window"])
def test_the_comparison_would_see_another_base_or_window(field, corpora, tmp_path):
    folder = write_start(tmp_path / "start", SHAPES["ModernBERT-base"], num_hidden_layers=7)
    start = read_start(str(folder))
    changed = replace(start.model, **{field: {"rope_base_local": 160_000.0, "window": 16}[field]})
    loss, batches = loss_at_step_0(run_of(replace(start, model=changed), corpora["modernbert"]))
    assert abs(loss - loss_by_transformers(folder, batches)) > 10 * LOSS_TOLERANCE


def test_roles_of_gemma_are_read_from_what_transformers_saves(corpora):
    roles = json.loads(corpora["gemma"].with_suffix(".json").read_text())["tokenizer"]["special_ids"]
    found = {role: roles[role] for role in ("[PAD]", "[SEP]", "[CLS]", "[MASK]")}
    assert found == {"[PAD]": 0, "[SEP]": 1, "[CLS]": 2, "[MASK]": 4}


def test_roles_come_from_the_map_and_the_config_where_the_tokenizer_names_none(tmp_path):
    folder = write_start(tmp_path / "start", SHAPES["mmBERT-small"], num_hidden_layers=1)
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").write_text(json.dumps({"mask_token": {"content": "<mask>"}}))
    special = read_start(str(folder)).special
    assert special == {"mask": "<mask>", "cls": "<bos>", "sep": "<eos>", "pad": "<pad>"}


def test_a_start_on_record_is_read_back(tmp_path):
    start = read_start(str(write_start(tmp_path / "start", SHAPES["ModernBERT-base"], num_hidden_layers=1)))
    (tmp_path / "start.json").write_text(json.dumps(start.to_dict()))
    assert read_record(tmp_path / "start.json") == start
    assert read_record(tmp_path / "none.json") is None


def training(stage: str, shape: str, end_factor: float, finished: bool = True) -> dict:
    """What an export of ours says of its training."""
    schedule = {"peak_rate": 4e-4, "shape": shape, "end_factor": end_factor}
    return {"run": {"stage": stage, "schedule": schedule}, "state": {"finished": finished}, "revision": "x"}


@pytest.mark.parametrize(
    ("said", "decayed"),
    [
        (training("decay", "one_minus_sqrt", 0.04), True),
        (training("cross", "trapezoid", 0.02), True),
        (training("extension", "one_minus_sqrt", 0.5), False),
        (training("pretrain", "warmup_stable", 1.0), False),
        (training("decay", "one_minus_sqrt", 0.04, finished=False), False),
    ],
)
def test_an_export_of_ours_tells_its_peak_and_whether_its_rate_has_fallen(said, decayed, tmp_path):
    folder = write_start(tmp_path / "start", SHAPES["ettin-encoder-17m"], num_hidden_layers=1)
    (folder / "training.json").write_text(json.dumps(said))
    start = read_start(str(folder))
    assert start.peak_rate == 4e-4
    assert ("weights from before the rate fell" in start.hint) == decayed


def test_the_folder_of_a_run_is_no_start_and_the_remedies_are_named(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="export it with `ettin convert"):
        read_start(str(tmp_path / "run"))


def spoil(folder: Path, what: str) -> None:
    if what == "nan":
        tensors = load_file(folder / "model.safetensors")
        tensors["model.final_norm.weight"][3] = float("nan")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    elif what == "tokenizer":
        (folder / "tokenizer.json").unlink()
    elif what == "pickle":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("nan", CheckpointError, "NaN"),
        ("tokenizer", DataError, "has no tokenizer.json; save the tokenizer"),
        ("pickle", CheckpointError, "safetensors"),
        ("architecture", CheckpointError, "model_type 'bert' cannot be read"),
    ],
)
def test_a_start_that_cannot_be_used_is_refused_with_the_reason(
    what: str, kind: type[EttinError], message: str, tmp_path: Path
) -> None:
    folder = write_start(tmp_path / "start", SHAPES["ModernBERT-base"], num_hidden_layers=1)
    spoil(folder, what)
    with pytest.raises(kind, match=message):
        read_start(str(folder))
