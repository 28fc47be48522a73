"""A small run over two sources with checkpoints at the steps 2, 4 and 6, and exports as of another training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ettin.cli import main
from megatron_ettin.export import read_canonical, write_folder
from megatron_ettin.train.run import train
from tests.export.test_runs import config_of
from tests.rows.conftest import write_mixture

STEPS = (2, 4, 6)


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name, text in (("web", "pages of the web "), ("code", "def f(x): return x ")):
        lines = [json.dumps({"text": f"{i} {text * (3 + i % 9)}"}) for i in range(150)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
        command = ["prepare", "--input", str(folder / f"{name}.jsonl"), "--tokenizer-model", str(tokenizer_json)]
        assert main([*command, "--output-prefix", str(folder / name)]) == 0
    write_mixture(
        folder / "mixture.json",
        [{"name": "web", "prefix": "web", "passes": 1}, {"name": "code", "prefix": "code", "passes": 2}],
    )
    return folder / "mixture.json"


@pytest.fixture(scope="session")
def run(mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    config = config_of(mixture, "mlm")
    train(replace(config, schedule=replace(config.schedule, tokens=4 * 110 * STEPS[-1])), folder, read_canonical)
    return folder


@pytest.fixture
def make_exports(tmp_path, make_export):
    """Folders of one training after another, as ``ettin convert --all`` leaves them."""

    def make(name: str, revisions: list[str], objective: str = "mlm", **changes: object) -> Path:
        for seed, revision in enumerate(revisions):
            folder = tmp_path / name / revision
            folder.mkdir(parents=True)
            write_folder(folder, make_export(objective, seed=seed, **changes))
            stage = {"s": "pretrain", "e": "extension", "d": "decay"}[revision[0]]
            step = int(revision.lstrip("stepxdcay"))
            training = {"run": {"stage": stage}, "revision": revision, "state": {"step": step, "tokens": 100 * step}}
            (folder / "training.json").write_text(json.dumps(training))
        return tmp_path / name

    return make
