"""The command line starts quickly: what it imports is counted, because a clock on a shared machine is not reliable."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import megatron_ettin
from tests.support.launch import run

PROGRAM = """
import contextlib, io, sys
before = set(sys.modules)
from megatron_ettin.cli import main
shown = io.StringIO()
with contextlib.redirect_stdout(shown):
    status = main(sys.argv[1:])
loaded = set(sys.modules) - before
roots = {name.partition('.')[0] for name in loaded}
heavy = roots & {'torch', 'numpy', 'megatron', 'transformers', 'tyro', 'matplotlib'}
print(status, len(loaded), ' '.join(sorted(heavy)))
"""
HELP_MODULES = 60
"""A handful of small stdlib modules: a tenth of a second on a slow machine."""
CHECK_MODULES = 450
"""tyro and its parser; torch alone is above 1,500."""


@pytest.mark.parametrize(
    ("arguments", "modules", "allowed"),
    [
        (["--help"], HELP_MODULES, set()),
        (["estimate"], CHECK_MODULES, {"tyro"}),
        (["estimate", "1b", "clm", "pretrain", "--pipeline", "4"], CHECK_MODULES, {"tyro"}),
        (["check", "150m", "mlm", "pretrain"], CHECK_MODULES, {"tyro"}),
    ],
)
def test_the_command_line_imports_little(arguments: list[str], modules: int, allowed: set[str]) -> None:
    status, count, *heavy = run([sys.executable, "-c", PROGRAM, *arguments]).stdout.split()
    assert int(status) == 0 and set(heavy) <= allowed and int(count) < modules


def test_checking_data_imports_numpy_but_never_torch(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.twins.corpus_writer import write_corpus

    prefix = write_corpus(tmp_path_factory.mktemp("corpus") / "text", [[1, 2, 3]] * 50)
    output = run([sys.executable, "-c", PROGRAM, "check", "tiny", "mlm", "pretrain", "--data", prefix]).stdout.split()
    assert output[0] == "0" and "torch" not in output and "megatron" not in output


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m megatron_ettin estimate | head -1; test ${{PIPESTATUS[0]}} -le 2"
    result = run(["bash", "-c", command])
    assert "Traceback" not in result.stderr


TRAINING = """
import sys
import torch
import megatron_ettin.train.run
from megatron_ettin.train.stable_adamw import StableAdamW
compile_function = torch.compile
weight = torch.nn.Parameter(torch.ones(4))
optimizer = StableAdamW([{'params': [weight]}], betas=(0.9, 0.98), epsilon=1e-6, peak_rate=1e-3)
optimizer.load_state_dict(optimizer.state_dict())
optimizer.zero_grad()
compilers = {'torch._dynamo', 'torch._inductor'} & set(sys.modules)
print(sorted(compilers), compile_function(lambda x: x, backend='eager') is not None)
"""


def test_training_starts_without_torchs_compiler() -> None:
    assert run([sys.executable, "-c", TRAINING]).stdout.strip().endswith("[] True")


def test_every_module_that_imports_megatron_core_does_so_without_the_compiler() -> None:
    root = Path(megatron_ettin.__file__).parent
    imports = re.compile(r"^ *(from|import) megatron\.", re.M)
    own = root / "parallel" / "megatron.py"
    texts = {path: path.read_text() for path in root.rglob("*.py") if path != own}
    users = {path: text for path, text in texts.items() if imports.search(text)}
    assert users
    for path, text in users.items():
        light = text.find("import megatron_ettin.parallel.megatron")
        assert 0 <= light < imports.search(text).start(), path  # type: ignore[union-attr]
