"""Attention back ends that no CPU can run, against recording stand-ins, and the table of what is chosen."""

from __future__ import annotations

from megatron_ettin.parallel.megatron import check_packages

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.rules import check
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import PUBLISHED_SIZES, SHAPES
from megatron_ettin.errors import ConfigError
from megatron_ettin.model.attention import sdpa
from megatron_ettin.model.attention.choice import Installed, attention_report, choices, installed, is_package
from megatron_ettin.model.attention.core import Attend, attend_by
from megatron_ettin.model.attention.trial import require_exact
from megatron_ettin.model.build import attention_of, build_model
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.model.layer import ColumnLinear, RowLinear, fp8_report, linear_classes
from megatron_ettin.model.packed import PackedRows
from megatron_ettin.model.pattern import Reach, layer_kinds
from megatron_ettin.model.scaled import ScaledColumns, ScaledRows
from megatron_ettin.parallel.device import Device
from megatron_ettin.parallel.groups import Groups
from tests.model import stand_ins
from tests.model.inputs import PIECES, batch_of, run_of
from tests.twins.attention import attention

EXACT = 1e-12
"""fp64 against fp64."""
FP8_LOSS = 2e-3
"""Relative, of a fresh model; fp8 rounds by 3 %, in sums of independent errors."""
FP8_ALIKE = 0.97
"""Cosine of two gradients of a weight."""
FP32 = 1e-5
"""fp32 against fp64, for outputs of about 3."""

CPU = Installed(cuda=False)
AMPERE = Installed(cuda=True, varlen=True, flash=True, te=True)
HOPPER = Installed(cuda=True, hopper=True, varlen=True, flash=True, flash_hopper=True, te=True)
SWITCHED = replace(HOPPER, switch=True)
BARE = Installed(cuda=True, hopper=True, varlen=True)
OLD_TORCH = Installed(cuda=True)

GOLDEN = {
    ("auto", "bf16", CPU): "native",
    ("auto", "fp32", CPU): "native",
    ("auto", "fp32", HOPPER): "sdpa",
    ("auto", "bf16", HOPPER): "flash",
    ("auto", "bf16", SWITCHED): "varlen",
    ("flash", "bf16", SWITCHED): "flash",
    ("auto", "fp32", SWITCHED): "sdpa",
    ("auto", "bf16", AMPERE): "varlen",
    ("auto", "bf16", BARE): "varlen",
    ("auto", "bf16", OLD_TORCH): "sdpa",
    ("te", "bf16", HOPPER): "te",
    ("sdpa", "bf16", HOPPER): "sdpa",
    ("sdpa", "fp32", CPU): "sdpa",
    ("native", "bf16", CPU): "native",
    ("native", "bf16", HOPPER): "computes on a CPU only",
    ("varlen", "bf16", CPU): "needs a GPU",
    ("flash", "bf16", BARE): "flash-attn is not installed",
    ("te", "bf16", BARE): "Transformer Engine is not installed",
    ("flash", "fp32", HOPPER): "16-bit numbers only",
    ("varlen", "bf16", OLD_TORCH): "no variable-length attention with a window",
}
"""(asked for, precision, machine) -> the back end of every layer, or why it is refused."""


def asked(config: RunConfig, attention: str, precision: str, deterministic: bool = False) -> RunConfig:
    compute = replace(config.compute, attention=attention, precision=precision, deterministic=deterministic)
    return replace(config, compute=compute)


@pytest.mark.parametrize("objective", ["mlm", "clm", "mntp"])
@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_what_is_used_and_what_is_refused(size: str, objective: str) -> None:
    for (name, precision, has), expected in GOLDEN.items():
        config = asked(run_of(objective, SHAPES[size]), name, precision)
        if expected in ("native", "sdpa", "varlen", "flash", "te"):
            assert [choice.backend for choice in choices(config, has)] == [expected] * config.model.layers
        else:
            with pytest.raises(ConfigError, match=expected):
                choices(config, has)


def test_deterministic_runs_avoid_kernels_that_are_not() -> None:
    config = asked(run_of("mlm"), "auto", "bf16", deterministic=True)
    assert {choice.backend for choice in choices(config, BARE)} == {"varlen"}
    with pytest.raises(ConfigError, match="choice of kernel is not deterministic"):
        choices(asked(run_of("mlm"), "te", "bf16", deterministic=True), HOPPER)


def test_a_folder_that_another_version_left_is_not_taken_for_flash_attn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    assert not is_package("flash_attn")
    (tmp_path / "flash_attn" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert is_package("flash_attn")
    assert not is_package("no_such_package_anywhere")


@pytest.mark.parametrize(
    ("has", "line"),
    [
        (SWITCHED, "varlen, torch's own, computed by flash-attn 3"),
        (HOPPER, "flash, flash-attn 3, the fastest kernel here"),
        (BARE, "varlen, torch's own FlashAttention 2; flash-attn 3 (flash_attn_interface) would be faster"),
        (
            replace(BARE, flash_four=True),
            "varlen, torch's own FlashAttention 2; flash-attn 3 (flash_attn_interface) would be faster, "
            "flash-attn 4 is not used",
        ),
        (AMPERE, "varlen, torch's own FlashAttention 2"),
        (OLD_TORCH, "sdpa, the only one that is exact for these settings, and slow"),
    ],
)
def test_the_log_says_which_kernel_computes_and_which_would_be_faster(has: Installed, line: str) -> None:
    config = asked(run_of("clm", SHAPES["17m"]), "auto", "bf16")
    lines = attention_report(choices(config, has), layer_kinds(config), narrows=False)
    assert all(found.endswith(f": {line}") for found in lines) and len(lines) == 2


def test_torch_is_switched_to_flash_attn_3_once_and_back_for_a_run_that_asks_for_its_own(
    calls: stand_ins.Calls, switch: stand_ins.Switch
) -> None:
    for _, attend in functions("mlm", "varlen", SWITCHED):
        attend(torch.randn(8, 2, 3, 32), Reach(left=None, right=None), rows_of((8,), 0, 8), None)
    assert switch.log == ["FA3"] and len(calls) == 2
    config = asked(run_of("mlm"), "varlen", "bf16")
    attend_by("varlen", layer_kinds(config)[0], config, SWITCHED)
    attend_by("varlen", layer_kinds(config)[0], config, BARE)
    assert switch.log == ["FA3", "restored"]


def test_what_a_gpu_offers_is_found_by_torchs_list_and_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: stand_ins.Switch
) -> None:
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    monkeypatch.setattr("megatron_ettin.model.attention.choice.compute_capability", lambda _: (9, 0))
    device = Device(kind="cuda", backend="nccl", torch_device=torch.device("cuda", 0))
    found = installed(device)
    assert (found.switch, found.flash, found.flash_four, found.flash_hopper) == (True, False, True, False)
    (tmp_path / "flash_attn_interface.py").write_text("raise ImportError('undefined symbol: _ZN3c105ErrorC2')")
    importlib.invalidate_caches()
    assert installed(device).flash_hopper, "found without being imported"


@pytest.mark.parametrize(("backend", "has"), [("varlen", SWITCHED), ("flash", HOPPER)])
def test_a_package_of_another_abi_is_one_line_with_the_remedy(
    groups: Groups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, has: Installed
) -> None:
    (tmp_path / "flash_attn_interface.py").write_text("raise ImportError('undefined symbol: _ZN3c105ErrorC2')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn_interface", raising=False)
    config = asked(run_of("mlm"), "auto", "bf16")
    with pytest.raises(ConfigError, match=f"{backend} cannot compute here: .*undefined symbol.*built for torch 2"):
        attention_of(config, choices(config, has), has, groups)


@pytest.mark.parametrize("objective", ["mlm", "clm", "mixed"])
@pytest.mark.parametrize(("backend", "has"), [("varlen", BARE), ("flash", AMPERE), ("flash", HOPPER)])
def test_a_kernel_is_tried_before_any_training(
    calls: stand_ins.Calls, backend: str, has: Installed, objective: str
) -> None:
    for reach, attend in functions(objective, backend, has):
        require_exact(backend, attend, reach, 2, 32, torch.device("cpu"))
    assert len(calls) == (4 if objective == "mixed" else 2)


def test_a_kernel_that_forgets_the_window_or_fails_is_refused() -> None:
    reach = Reach(left=64, right=64)

    def whole(qkv: torch.Tensor, seen: Reach, *rest: object) -> torch.Tensor:
        return sdpa.attend(qkv, Reach(left=None, right=None), *rest)  # type: ignore[arg-type]

    def absent(*_: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    def wrong_gradient(qkv: torch.Tensor, *rest: object) -> torch.Tensor:
        output = sdpa.attend(qkv, *rest)  # type: ignore[arg-type]
        return output + 0.05 * (output - output.detach())

    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match=r"attention flash is not exact here: its outputs for a window of \(64, 64\)"):
        require_exact("flash", whole, reach, 2, 32, cpu)
    with pytest.raises(ConfigError, match="its gradients for a window"):
        require_exact("flash", wrong_gradient, reach, 2, 32, cpu)
    with pytest.raises(ConfigError, match="attention flash cannot compute here: RuntimeError: .*no kernel image"):
        require_exact("flash", absent, reach, 2, 32, cpu)
    require_exact("sdpa", sdpa.attend, reach, 2, 32, cpu)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_gpu_older_than_ampere_is_refused_with_the_remedy(
    groups: Groups, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr("megatron_ettin.model.layer.compute_capability", lambda _: (7, 5))
    with pytest.raises(ConfigError, match=r"needs a GPU of compute capability 8.0 \(Ampere\), and this one has 7.5"):
        build_model(run_of("mlm", precision=precision), groups)
    build_model(run_of("mlm", precision="fp32"), groups)


def test_context_parallel_runs_avoid_back_ends_that_cannot_follow() -> None:
    config = run_of("clm", context=2)
    assert {choice.backend for choice in choices(asked(config, "auto", "bf16"), BARE)} == {"varlen"}
    for name in ("te", "sdpa"):
        with pytest.raises(ConfigError, match=f"compute.attention={name}"):
            choices(asked(config, name, "bf16"), HOPPER)
    with pytest.raises(ConfigError, match="it cannot join the parts of a segment"):
        choices(asked(config, "sdpa", "fp32"), CPU)


def test_the_report_names_every_layer_once_with_reach_and_reason() -> None:
    config = asked(run_of("mlm", SHAPES["17m"]), "auto", "bf16")
    assert sorted(attention_report(choices(config, CPU), layer_kinds(config), narrows=False)) == [
        "attention of layers 0, 3, 6 (the whole piece): native, the exact kernel of a CPU",
        "attention of layers 1, 2, 4, 5 (64 to the left, 64 to the right): native, the exact kernel of a CPU",
    ]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> stand_ins.Calls:
    """All stand-ins installed; what they were called with."""
    made: stand_ins.Calls = []
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_ins.varlen(made))
    monkeypatch.setitem(sys.modules, "flash_attn", stand_ins.flash_attn(made))
    monkeypatch.setitem(sys.modules, "flash_attn_interface", stand_ins.flash_attn_interface(made))
    for name, module in stand_ins.attention_of_transformer_engine(made).items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> stand_ins.Switch:
    """Stands in for torch's choice among versions of FlashAttention."""
    made = stand_ins.Switch()
    for name in ("activate", "current", "restore"):
        monkeypatch.setattr(f"torch.nn.attention.{name}_flash_attention_impl", getattr(made, name))
    return made


def functions(objective: str, backend: str, has: Installed) -> list[tuple[Reach, Attend]]:
    config = asked(run_of(objective), "auto", "bf16")
    return [(kind.reach, attend_by(backend, kind, config, has)) for kind in layer_kinds(config)[:2]]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize(
    ("backend", "has"), [("varlen", BARE), ("flash", AMPERE), ("flash", HOPPER), ("te", HOPPER), ("sdpa", OLD_TORCH)]
)
def test_every_back_end_is_given_window_direction_and_pieces(
    calls: stand_ins.Calls, backend: str, has: Installed, objective: str
) -> None:
    packed = rows_of(PIECES, 0, sum(PIECES))
    for reach, attend in functions(objective, backend, has):
        qkv = torch.randn(sum(PIECES), 2, 3, 32, dtype=torch.float64)
        output = attend(qkv, reach, packed, None)
        expected = attention(qkv, list(packed.cu_seqlens), reach.left, reach.right)
        assert float((output - expected).abs().max()) < EXACT
    windows = [call["window_size"] for call in calls]
    wanted = [(-1, 0), (63, 0)] if objective == "clm" else [(-1, -1), (64, 64)]
    assert windows == ([] if backend == "sdpa" else wanted)
    assert all(call.get("scale") is None and not call.get("deterministic") for call in calls)
    if backend == "te":
        assert [call["mask"] for call in calls] == ["padding_causal" if objective == "clm" else "padding"] * 2
        assert [(call["heads"], call["channels"], call["layer_number"]) for call in calls] == [(2, 32, 1), (2, 32, 2)]
        assert all(call["format"] == "thd" and call["dropout"] == 0.0 for call in calls)


def test_flash_is_asked_for_deterministic_gradients(calls: stand_ins.Calls) -> None:
    config = asked(run_of("mlm"), "flash", "bf16", deterministic=True)
    attend = attend_by("flash", layer_kinds(config)[0], config, AMPERE)
    attend(torch.randn(8, 2, 3, 32), Reach(left=None, right=None), rows_of((8,), 0, 8), None)
    assert calls[0]["deterministic"]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize("backend", ["varlen", "flash", "native"])
def test_context_ranks_together_give_what_one_gives(
    groups: Groups, calls: stand_ins.Calls, backend: str, objective: str, ranks: int
) -> None:
    pieces = (200, 1, 61, 250)
    tokens = sum(pieces)
    has = CPU if backend == "native" else BARE
    for reach, attend in functions(objective, backend, has):
        qkv = torch.randn(tokens, 2, 3, 32, dtype=torch.float32 if backend == "native" else torch.float64)
        expected = attention(qkv, [0, *torch.tensor(pieces).cumsum(0).tolist()], reach.left, reach.right)
        for start in range(0, tokens, tokens // ranks):
            own = slice(start, start + tokens // ranks)
            exchange = stand_ins.WholeStream(groups.context, qkv[:, :, 1:], start)
            output = attend(qkv[own], reach, rows_of(pieces, start, tokens // ranks), exchange)  # type: ignore[arg-type]
            assert float((output - expected[own]).abs().max()) < (FP32 if backend == "native" else EXACT)


def rows_of(pieces: tuple[int, ...], start: int, length: int) -> PackedRows:
    """One context rank's part of a stream of pieces."""
    bounds = [0, *torch.tensor(pieces).cumsum(0).tolist()]
    return PackedRows(
        cu_seqlens=tuple(bounds),
        positions_T=torch.cat([torch.arange(piece) for piece in pieces])[start : start + length],
        first_token=start,
    )


@pytest.mark.parametrize("name", ["apex", "transformer_engine"])
def test_a_package_that_is_not_the_genuine_one_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"{name} is not NVIDIA's"):
        check_packages(cuda=True)


def test_transformer_engine_on_a_machine_without_cuda_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("pytorch", "common"):
        (tmp_path / "transformer_engine" / part).mkdir(parents=True)
    (tmp_path / "transformer_engine" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    check_packages(cuda=True)
    with pytest.raises(ConfigError, match="no CUDA device"):
        check_packages(cuda=False)


def test_a_package_that_breaks_the_import_of_megatron_core_is_named(tmp_path: Path) -> None:
    for part in ("pytorch", "common"):
        (tmp_path / "transformer_engine" / part).mkdir(parents=True)
    for module in ("", "pytorch", "common"):
        (tmp_path / "transformer_engine" / module / "__init__.py").write_text("raise OSError('libcuda.so.1')")
    search = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", "import megatron_ettin.parallel.megatron"],
        env={**os.environ, "PYTHONPATH": search, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert "ConfigError: transformer_engine is installed, but this machine has no CUDA device" in done.stderr


@pytest.mark.parametrize(
    ("recipe", "capability", "reason"),
    [
        ("current", None, "no CUDA device"),
        ("current", (8, 0), "needs a GPU of compute capability 8.9, and this one has 8.0"),
        ("blocks", (8, 9), "needs a GPU of compute capability 9.0, and this one has 8.9"),
    ],
)
def test_fp8_on_a_machine_without_it_is_refused_before_anything_is_built(
    groups: Groups, monkeypatch: pytest.MonkeyPatch, recipe: str, capability: tuple[int, int] | None, reason: str
) -> None:
    config = with_fp8(recipe)
    monkeypatch.setattr("megatron_ettin.model.layer.genuine", lambda name: True)
    monkeypatch.setattr("megatron_ettin.model.layer.compute_capability", lambda _: capability)
    with pytest.raises(ConfigError, match=reason):
        build_model(config, groups)


def test_fp8_without_transformer_engine_is_refused_where_torch_cannot_stand_in(
    groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatron_ettin.model.layer.compute_capability", lambda _: (9, 0))
    with pytest.raises(ConfigError, match="needs NVIDIA's Transformer Engine, which is not installed; use the recipe"):
        build_model(with_fp8("blocks"), groups)
    asked_for = with_fp8("current")
    asked_for = replace(asked_for, compute=replace(asked_for.compute, fp8_kernels="te"))
    with pytest.raises(ConfigError, match="compute.fp8_kernels=te needs NVIDIA's Transformer Engine"):
        build_model(asked_for, groups)
    with pytest.raises(ConfigError, match="compute.fp8_kernels=torch scales each tensor by its own numbers"):
        check(with_fields(with_fp8("blocks"), {"compute.fp8_kernels": "torch"}))


@pytest.mark.parametrize("ends", [True, False])
def test_torch_computes_in_fp8_the_layers_that_transformer_engine_would(
    groups: Groups, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr("megatron_ettin.model.layer.compute_capability", lambda _: (9, 0))
    config = with_fp8("current", ends)
    (model,) = build_model(config, groups)
    both = {ScaledColumns, ScaledRows}
    kinds = [{type(module) for module in layer.modules()} & both for layer in model.decoder.layers]
    assert kinds == ([set(), both, both, set()] if ends else [both] * 4)
    layers = "1 to 2" if ends else "0 to 3"
    assert fp8_report(config).startswith(f"linear layers of layers {layers} in fp8 by torch's scaled product")
    assert fp8_report(run_of("mlm", precision="bf16")) == ""


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_torchs_fp8_learns_nearly_what_bf16_does(
    groups: Groups, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """The whole model on a CPU, which has the same products; the noise of fp8 is a few percent of a gradient."""
    monkeypatch.setattr("megatron_ettin.model.layer.compute_capability", lambda _: (9, 0))
    batch = batch_of((208, 16, 288), with_fp8("current").model.vocabulary)
    found = []
    for config in (run_of(objective, precision="bf16"), with_fp8("current", False, objective)):
        (model,) = build_model(config, groups)
        loss = model(DeviceBatch.from_batch(batch, groups)).sum()
        loss.backward()
        found.append((float(loss), {name: p.grad.double().flatten() for name, p in model.named_parameters()}))
    (exact, ours), (loss, theirs) = found
    assert loss != exact and abs(loss / exact - 1) < FP8_LOSS
    for name, gradient in ours.items():
        alike = float(torch.nn.functional.cosine_similarity(gradient, theirs[name], dim=0))
        assert alike > FP8_ALIKE, (name, alike)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
@pytest.mark.parametrize(
    ("recipe", "ends", "scaled"),
    [("current", True, 2), ("current", False, 4), ("blocks", True, 2), ("blocks", False, 4), ("delayed", False, 4)],
)
def test_fp8_recipes_reach_the_layers_that_they_are_for(
    groups: Groups, objective: str, recipe: str, ends: bool, scaled: int
) -> None:
    config = with_fp8(recipe, ends, objective)
    with stand_ins.fp8() as log:
        (model,) = build_model(config, groups)
        loss = model(DeviceBatch.from_batch(batch_of(PIECES, config.model.vocabulary), groups))
        loss.sum().backward()
    a_layer = ["columns", "rows"] * 2  # QKV, attention output, both halves of the MLP, MLP output
    assert [name for name, _ in log.calls] == a_layer * config.model.layers
    in_force = [recipe if recipe == "delayed" or not ends or 0 < layer < 3 else None for layer in range(4)]
    assert [used for _, used in log.calls] == [used for used in in_force for _ in a_layer]
    assert {made["recipe"] for made in log.recipes} == {recipe}
    assert all(made["fp8_format"] == "hybrid" and not made.get("fp8_dpa") for made in log.recipes)
    assert sum(used is not None for used in in_force) == scaled
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_without_fp8_no_layer_is_transformer_engine_s(groups: Groups) -> None:
    with stand_ins.fp8() as log:
        build_model(run_of("mlm", precision="bf16"), groups)
    assert linear_classes(run_of("mlm", precision="bf16"), (9, 0), 1) == (ColumnLinear, RowLinear)
    assert not log.calls and not log.recipes


def with_fp8(recipe: str, ends: bool = True, objective: str = "mlm") -> RunConfig:
    config = run_of(objective, precision="fp8")
    return replace(config, compute=replace(config.compute, fp8_recipe=recipe, fp8_ends_in_bf16=ends))
