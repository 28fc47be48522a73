"""The layout never changes the result beyond rounding; checked in real gloo processes."""

from __future__ import annotations

import pytest
from torch import Tensor

from tests.layouts.cases import CASES, RATE, Case, reference_of
from tests.layouts.harness import Named, launch

LOSS = 1e-6
"""Relative. Sums of a few thousand fp32 terms in another order."""
NORM = 1e-6
"""Relative, likewise."""
GRADIENT = 5e-6
"""Of each tensor's norm: fp32 rounding (6e-8) grows along the backward pass; 6e-7 is what layouts show."""
WEIGHT = 0.05
"""In learning rates, for the mean over a tensor: an update is about one rate, and only elements whose gradient is
rounding noise may move differently."""
WEIGHT_MOST = 6.0
"""In learning rates, for one element: three steps in opposite directions."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Named]:
    """All cases, one launch for each number of ranks."""
    return launch("tests.layouts.training:compare", CASES, tmp_path_factory.mktemp("layouts"))


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm().clamp(min=1e-12))


def named(result: Named, prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in result.items() if name.startswith(prefix)}


@each_case
def test_initial_weights_do_not_depend_on_the_layout(results: dict[str, Named], case: Case) -> None:
    expected, got = results[reference_of(case)], results[case.name]
    for name, tensor in named(expected, "initial/").items():
        assert tensor.equal(got[name]), name


@each_case
def test_loss_and_labels_do_not_depend_on_the_layout(results: dict[str, Named], case: Case) -> None:
    expected, got = results[reference_of(case)], results[case.name]
    assert got["labels"] == expected["labels"]
    assert got["losses"].tolist() == pytest.approx(expected["losses"].tolist(), rel=LOSS * 10)
    assert float(got["losses"][0]) == pytest.approx(float(expected["losses"][0]), rel=LOSS)


@each_case
def test_every_gradient_equals_that_of_one_process(results: dict[str, Named], case: Case) -> None:
    expected, got = results[reference_of(case)], results[case.name]
    assert float(got["norm"]) == pytest.approx(float(expected["norm"]), rel=NORM)
    for name, tensor in named(expected, "gradient/").items():
        assert relative(got[name], tensor) < GRADIENT, name


@each_case
def test_weights_after_three_steps_equal_those_of_one_process(results: dict[str, Named], case: Case) -> None:
    expected, got = results[reference_of(case)], results[case.name]
    for name, tensor in named(expected, "weight/").items():
        difference = (got[name] - tensor).abs() / RATE
        assert float(difference.mean()) < WEIGHT, name
        assert float(difference.max()) < WEIGHT_MOST, name
