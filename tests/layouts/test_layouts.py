"""The layout never changes the result beyond rounding; checked in real gloo processes."""

from __future__ import annotations

import pytest
from torch import Tensor

from tests.layouts.cases import CASES, FAULTS, RATE, SLOW_CASES, WITHOUT_DROPOUT, Case, reference_of
from tests.layouts.harness import Named, launch

LOSS = 1e-6
"""Relative. Sums of a few thousand fp32 terms in another order."""
NORM = 1e-6
"""Relative, likewise."""
GRADIENT = 5e-6
"""Of each tensor's norm: fp32 rounding (6e-8) grows along the backward pass; 6e-7 is what layouts show."""
WEIGHT = 1e-3
"""In learning rates, for the mean over a tensor; 2e-5 is what layouts show."""
WEIGHT_MOST = 1.0
"""In learning rates, for one element: a gradient that is rounding noise moves its weight by up to one rate."""

WORK = "tests.layouts.training:compare"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Named]:
    """All default cases and the seeded faults, one launch for each number of ranks."""
    return launch(WORK, (*CASES, *FAULTS, WITHOUT_DROPOUT), tmp_path_factory.mktemp("layouts"))


@pytest.fixture(scope="module")
def slow_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Named]:
    """The remaining cases."""
    return launch(WORK, SLOW_CASES, tmp_path_factory.mktemp("slow-layouts"), timeout=1800.0)


def by_name(cases: tuple[Case, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@by_name(CASES)
def test_initial_weights_do_not_depend_on_the_layout(results: dict[str, Named], case: Case) -> None:
    assert_initial_weights_equal(results[case.name], results[reference_of(case)])


@by_name(CASES)
def test_loss_and_labels_do_not_depend_on_the_layout(results: dict[str, Named], case: Case) -> None:
    assert_losses_close(results[case.name], results[reference_of(case)])


@by_name(CASES)
def test_every_gradient_equals_that_of_one_process(results: dict[str, Named], case: Case) -> None:
    assert_gradients_close(results[case.name], results[reference_of(case)])


@by_name(CASES)
def test_weights_after_three_steps_equal_those_of_one_process(results: dict[str, Named], case: Case) -> None:
    assert_weights_close(results[case.name], results[reference_of(case)])


def test_the_layouts_are_compared_with_dropout_on(results: dict[str, Named]) -> None:
    name = "gradient/layers.0.attention_out.weight"
    assert relative(results[WITHOUT_DROPOUT.name][name], results["mlm-one"][name]) > 0.1


@by_name(FAULTS)
def test_a_skipped_reduction_is_noticed(results: dict[str, Named], case: Case) -> None:
    with pytest.raises(AssertionError):
        assert_gradients_close(results[case.name], results[reference_of(case)])


@pytest.mark.slow
@by_name(SLOW_CASES)
def test_large_layouts_equal_one_process(slow_results: dict[str, Named], case: Case) -> None:
    got, expected = slow_results[case.name], slow_results[reference_of(case)]
    assert_initial_weights_equal(got, expected)
    assert_losses_close(got, expected)
    assert_gradients_close(got, expected)
    assert_weights_close(got, expected)


def assert_initial_weights_equal(got: Named, expected: Named) -> None:
    for name, tensor in named(expected, "initial/").items():
        assert tensor.equal(got[name]), name


def assert_losses_close(got: Named, expected: Named) -> None:
    assert got["labels"] == expected["labels"]
    assert float(got["flops"]) == pytest.approx(float(expected["flops"]), rel=1e-12), "of padding none is counted"
    assert got["losses"].tolist() == pytest.approx(expected["losses"].tolist(), rel=LOSS)
    assert float(got["held_out"]) == pytest.approx(float(expected["held_out"]), rel=LOSS)


def assert_gradients_close(got: Named, expected: Named) -> None:
    assert float(got["norm"]) == pytest.approx(float(expected["norm"]), rel=NORM)
    for name, tensor in named(expected, "gradient/").items():
        assert relative(got[name], tensor) < GRADIENT, name


def assert_weights_close(got: Named, expected: Named) -> None:
    for name, tensor in named(expected, "weight/").items():
        difference = (got[name] - tensor).abs() / RATE
        assert float(difference.mean()) < WEIGHT, name
        assert float(difference.max()) < WEIGHT_MOST, name


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm().clamp(min=1e-12))


def named(result: Named, prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in result.items() if name.startswith(prefix)}
