"""Checkpoints become folders and folders become runs without a bit changing on the way."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_ettin.api import logits
from megatron_ettin.checkpoint.load import find
from megatron_ettin.cli import main
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import RunConfig
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.evaluate.dynamics.points import points_of
from megatron_ettin.evaluate.suites.subjects import opened_subjects
from megatron_ettin.export import read_canonical, read_folder
from megatron_ettin.export.runs import export_checkpoint, load_checkpoint
from megatron_ettin.observe import read_records
from megatron_ettin.run_folder import TOKENIZER
from megatron_ettin.train.run import train
from tests.export.conftest import VOCABULARY

STEPS = 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = [f"text {i} of many, which goes on for a while: " + "ab" * (i % 40) for i in range(400)]
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "text.jsonl").write_text("\n".join(lines))
    arguments = ["prepare", "--input", str(folder / "text.jsonl"), "--tokenizer-model", str(tokenizer_json)]
    assert main([*arguments, "--output-prefix", str(folder / "corpus")]) == 0
    return folder / "corpus"


def config_of(corpus: Path, objective: str, stage: str = "pretrain", precision: str = "fp32") -> RunConfig:
    config = recipe("tiny", objective, stage)
    model = replace(config.model, layers=4, hidden=32, intermediate=48, heads=2, window=8, causal_window=7)
    return replace(
        config,
        model=model,
        data=replace(config.data, data=str(corpus), row_length=128, piece_length=128, held_out_share=0.1),
        batch=replace(config.batch, rows=4, warmup_tokens=0),
        schedule=replace(
            config.schedule, tokens=4 * 110 * STEPS, warmup_tokens=0, decay_tokens=100 if stage == "cross" else 0
        ),
        compute=replace(config.compute, precision=precision),
        checkpoint=replace(config.checkpoint, every_steps=2),
        layout=replace(config.layout, micro_batch_rows=2),
    )


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs")
    train(config_of(corpus, "mlm"), folder / "encoder", read_canonical)
    train(config_of(corpus, "clm", precision="bf16"), folder / "decoder", read_canonical)
    return folder


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_a_checkpoint_is_exported_with_the_weights_of_the_run(name, runs, tmp_path):
    checkpoint = find(runs / name)
    assert export_checkpoint(checkpoint, tmp_path / "out")
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert parity["met"] and len(parity["cases"]) == 2
    loaded, read = load_checkpoint(checkpoint), read_folder(tmp_path / "out")
    assert all(torch.equal(read.tensors[key], tensor) for key, tensor in loaded.tensors.items())
    assert read.config.model.vocabulary == VOCABULARY
    assert read.config.kind == name


@pytest.fixture(scope="module")
def mixed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("mixed") / "run"
    train(config_of(corpus, "mixed"), run, read_canonical)
    return run


@pytest.mark.parametrize(("kind", "objective"), [("encoder", "mntp"), ("decoder", "clm")])
def test_a_mixed_run_is_exported_in_both_forms_with_parity(mixed, tmp_path, kind, objective):
    assert main(["convert", "--as", kind, str(mixed), str(tmp_path / "out")]) == 0
    parity, loaded = json.loads((tmp_path / "out" / "parity.json").read_text()), load_checkpoint(find(mixed))
    assert parity["met"] and len(parity["cases"]) == 2
    read = read_folder(tmp_path / "out")
    assert (read.config.kind, read.config.objective) == (kind, objective)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["ettin_label_offset"] == -1
    assert all(torch.equal(read.tensors[key], tensor) for key, tensor in loaded.tensors.items())
    assert "50.0% mntp, 50.0% clm" in (tmp_path / "out" / "README.md").read_text()
    other = "decoder" if kind == "encoder" else "encoder"
    assert main(["convert", "--as", other, str(mixed), str(tmp_path / "out")]) == 2


def test_the_form_of_an_export_is_said_of_a_mixed_run_and_of_no_other(mixed, runs, tmp_path, capsys):
    assert main(["convert", str(mixed), str(tmp_path / "out")]) == 2
    assert "--as encoder or --as decoder" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="trains an encoder and a decoder in one"):
        logits(load_checkpoint(find(mixed)), [torch.arange(9)])
    assert main(["convert", "--as", "decoder", str(runs / "encoder"), str(tmp_path / "out")]) == 2
    assert "objective mlm trains no decoder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_mixed_run_records_and_evaluates_both_kinds_of_rows(mixed, corpus):
    steps, (evaluation,) = read_records(mixed, "step"), read_records(mixed, "evaluation")
    both = [step for step in steps if None not in (step["loss_mntp"], step["loss_clm"])]  # by chance rows are alike
    assert both
    for step in both:
        assert min(step["loss_mntp"], step["loss_clm"]) <= step["loss"] <= max(step["loss_mntp"], step["loss_clm"])
    low, high = sorted((evaluation["loss_mntp"], evaluation["loss_clm"]))
    assert low < evaluation["loss"] < high
    with opened_subjects({"both": str(mixed)}) as subjects:
        assert [(subject.name, subject.kind, subject.label_offset) for subject in subjects] == [
            ("both-encoder", "encoder-from-decoder", -1), ("both-decoder", "decoder", -1),
        ]  # fmt: skip


def test_both_models_of_a_mixed_run_are_curves_and_take_no_name_of_another_model(mixed, runs, tmp_path):
    points = points_of([f"both={mixed}"])
    assert [point.name for point in points] == [
        "both-encoder@step2", "both-encoder@step3", "both-decoder@step2", "both-decoder@step3",
    ]  # fmt: skip
    kinds = []
    for point in (points[1], points[3]):
        with point.opened() as subject:
            kinds.append(subject.kind)
    assert kinds == ["encoder-from-decoder", "decoder"]
    assert points[0].origin.fingerprint() != points[2].origin.fingerprint()
    clash = {"x": str(mixed), "x-encoder": str(runs / "encoder")}
    with pytest.raises(ConfigError, match="two models are called x-encoder.*NAME="), opened_subjects(clash):
        pass


def test_the_stages_of_a_plan_are_one_curve_even_where_they_are_of_one_kind(runs, tmp_path):
    for name in ("1-words", "2-masks"):
        shutil.copytree(runs / "encoder", tmp_path / "plan" / name)
    stages = [{"name": name[2:], "folder": name} for name in ("1-words", "2-masks")]
    (tmp_path / "plan" / "plan.json").write_text(json.dumps({"stages": stages}))
    points = points_of([str(tmp_path / "plan")])
    assert [point.name for point in points] == [
        "plan@words2", "plan@words3", "plan@masks2", "plan@masks3",
    ]  # fmt: skip
    assert points[3].tokens == 2 * points[1].tokens and points[2].tokens == points[1].tokens + points[0].tokens
    (last,) = points_of([f"{tmp_path / 'plan' / 'masks'}@3"])
    assert last.name == "2-masks@step3"


def test_a_bf16_run_is_exported_from_its_float32_main_weights(runs):
    tensors = load_checkpoint(find(runs / "decoder")).tensors
    changed = tensors["layers.1.mlp_in.weight"]
    assert changed.dtype == torch.float32
    assert not torch.equal(changed, changed.bfloat16().float()), "the main weights have bits that bf16 has not"


def test_all_checkpoints_become_revisions_and_a_second_time_changes_nothing(runs, tmp_path, capsys):
    assert main(["convert", "--all", str(runs / "encoder"), str(tmp_path / "all")]) == 0
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names[0] == "step2" and len(names) == 2
    before = (tmp_path / "all" / "step2" / "model.safetensors").stat().st_mtime_ns
    assert main(["convert", "--all", str(runs / "encoder"), str(tmp_path / "all")]) == 0
    assert "there already" in capsys.readouterr().out
    assert (tmp_path / "all" / "step2" / "model.safetensors").stat().st_mtime_ns == before
    assert main(["convert", f"{runs / 'encoder'}@2", str(tmp_path / "one")]) == 0
    same = [(tmp_path / "all" / "step2" / name).read_bytes() for name in ("model.safetensors", "config.json")]
    assert same == [(tmp_path / "one" / name).read_bytes() for name in ("model.safetensors", "config.json")]


def test_a_folder_that_holds_something_else_is_left_alone(runs, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    assert main(["convert", str(runs / "encoder"), str(tmp_path / "taken")]) == 2
    assert "exists and is no float32 export of" in capsys.readouterr().err
    assert list((tmp_path / "taken").iterdir()) == []


def test_an_imported_folder_starts_runs_and_exports_the_same_bytes(runs, tmp_path, corpus):
    export_checkpoint(find(runs / "encoder"), tmp_path / "first")
    assert main(["convert", str(tmp_path / "first"), str(tmp_path / "imported")]) == 0
    export_checkpoint(find(tmp_path / "imported"), tmp_path / "again")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    config = config_of(corpus, "mntp", stage="cross")
    model = replace(config.model, vocabulary=VOCABULARY)
    start = replace(config.start, from_run=str(tmp_path / "imported"))
    outcome = train(replace(config, model=model, start=start), tmp_path / "cross", read_canonical)
    assert outcome.state.finished
    export_checkpoint(find(tmp_path / "cross"), tmp_path / "mntp")
    assert json.loads((tmp_path / "mntp" / "config.json").read_text())["ettin_label_offset"] == -1


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_training_starts_from_a_hugging_face_folder_bit_for_bit(objective, runs, tmp_path, corpus):
    """Either kind can start from either; with no rate nothing moves, so the export is the start."""
    export_checkpoint(find(runs / "decoder"), tmp_path / "start")
    config = config_of(corpus, objective)
    config = replace(
        config,
        model=replace(config.model, vocabulary=VOCABULARY),
        start=replace(config.start, huggingface=str(tmp_path / "start")),
        schedule=replace(config.schedule, tokens=1, peak_rate=1e-30),
        optimizer=replace(config.optimizer, weight_decay=0.0),
    )
    train(config, tmp_path / "run", read_canonical)
    tensors = load_checkpoint(find(tmp_path / "run")).tensors
    assert all(torch.equal(tensors[name], tensor) for name, tensor in read_canonical(tmp_path / "start")[1].items())


def test_a_run_with_checkpoints_is_not_overwritten_by_an_import(runs, tmp_path, capsys):
    export_checkpoint(find(runs / "encoder"), tmp_path / "first")
    assert main(["convert", str(tmp_path / "first"), str(runs / "encoder")]) == 2
    assert "has checkpoints already" in capsys.readouterr().err


def test_a_missing_corpus_is_named_with_the_remedy(runs, tmp_path, corpus, tokenizer_json):
    """Of a run that keeps no copy of its tokenizer, as earlier versions wrote it."""
    run = shutil.copytree(runs / "encoder", tmp_path / "run")
    (run / TOKENIZER).unlink()
    manifest = corpus.with_suffix(".json")
    hidden = manifest.rename(manifest.with_suffix(".hidden"))
    try:
        with pytest.raises(DataError, match="give it with --tokenizer FILE"):
            export_checkpoint(find(run), tmp_path / "out")
        export_checkpoint(find(run), tmp_path / "out", tokenizer=tokenizer_json)
    finally:
        hidden.rename(manifest)
    assert not list(tmp_path.glob(".*")), "nothing half-written stays"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere", "out"], "/nowhere does not exist"),
        (["{runs}", "out"], "no whole checkpoint"),
        (["{runs}/encoder@77", "out"], "has no checkpoint of step 77"),
        (["--all", "{runs}/encoder@2", "out"], "leave out @2"),
    ],
)
def test_wrong_arguments_of_convert_are_explained(arguments, message, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *[argument.replace("{runs}", str(runs)) for argument in arguments]]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_one_checkpoint_of_any_layout_gives_the_same_folder(corpus, tmp_path):
    """The same run saved under two tensor ranks is read by one process."""
    from tests.support.launch import torchrun

    config = config_of(corpus, "mlm")
    flags = ["--model.layers", 4, "--model.hidden", 32, "--model.intermediate", 48, "--model.heads", 2,
             "--model.window", 8, "--data", corpus, "--data.row-length", 128, "--data.piece-length", 128,
             "--data.held-out-share", 0.1, "--batch.rows", 4, "--batch.warmup-tokens", 0,
             "--schedule.tokens", config.schedule.tokens, "--schedule.warmup-tokens", 0,
             "--layout.micro-batch-rows", 2]  # fmt: skip
    for name, ranks, layout in (("one", 1, []), ("two", 2, ["--tensor", 2])):
        arguments = ["-m", "megatron_ettin", "pretrain", "tiny", "mlm", "pretrain", "--run-folder", tmp_path / name]
        torchrun(ranks, *map(str, [*arguments, *flags, *layout]))
        export_checkpoint(find(tmp_path / name), tmp_path / f"{name}-out")
    one, two = (read_canonical(tmp_path / f"{name}-out")[1] for name in ("one", "two"))
    for key, tensor in one.items():
        assert (two[key] - tensor).abs().max() <= 3 * 3e-3 * 3, key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_a_checkpoint_of_two_by_two_by_two_ranks_gives_the_folder_of_one_rank(name, runs, tmp_path):
    """Bit for bit: eight ranks save again what one rank has saved, each a part of it."""
    from tests.support.launch import torchrun

    torchrun(8, "-m", "tests.export.under_layout", runs / name, tmp_path / "copy")
    for source, target in ((runs / name, "one"), (tmp_path / "copy", "eight")):
        export_checkpoint(find(source), tmp_path / target)
    one, eight = (tmp_path / target / "model.safetensors" for target in ("one", "eight"))
    assert one.read_bytes() == eight.read_bytes()


def test_runs_and_folders_are_evaluated_together_on_the_text_that_training_held_out(runs, tmp_path, capsys):
    export_checkpoint(find(runs / "decoder"), tmp_path / "folder")
    models = [f"run={runs / 'encoder'}", f"folder={tmp_path / 'folder'}"]
    few = ["--rows", "4", "--sample", "5", "--row-length", "128", "--text", "ab [MASK] cd"]
    assert main(["evaluate", *models, *few, "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {name: model["objective"] for name, model in results["models"].items()} == {"run": "mlm", "folder": "clm"}
    assert "unigram entropy" in capsys.readouterr().out
    assert main(["evaluate", *models, "run=elsewhere"]) == 2
    assert "two models are called run" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "nowhere")]) == 2
    assert "neither a Hugging Face folder nor a run" in capsys.readouterr().err
