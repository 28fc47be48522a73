"""Probe and ranking give what their definitions and other libraries give."""

import numpy as np
import pytest

from megatron_ettin.evaluate.stdlib.probe import chosen_penalty, fit
from megatron_ettin.evaluate.stdlib.ranking import chance, gains, ranks_of

EQUAL = 1e-4
"""Of weights: two optimizers stop at slightly different places of one optimum."""


def clouds(classes=3, each=40, hidden=6, distance=1.5, seed=0):
    """Points around a centre for each class, in drawn order."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(classes), each))
    centres = distance * generator.standard_normal((classes, hidden))
    return 5 + 3 * (centres[labels] + generator.standard_normal((len(labels), hidden))), labels


@pytest.mark.parametrize("penalty", [1e-2, 1.0])
def test_the_probe_is_scikit_learns_logistic_regression(penalty):
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    states, labels = clouds()
    probe = fit(states, labels, 3, penalty)
    inputs = (states - states.mean(0)) / states.std(0)
    other = linear.LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-10, max_iter=10_000).fit(inputs, labels)
    assert np.abs(probe.weight_HC.T - other.coef_).max() < EQUAL
    assert (probe.predict(states) == other.predict(inputs)).all()


def test_at_the_optimum_every_class_is_predicted_as_often_as_it_is():
    """The bias has no penalty, so that the mean probability of a class is its share."""
    states, labels = clouds()
    probe = fit(states, labels, 3, 0.1)
    scores = (states - probe.mean_H) / probe.scale_H @ probe.weight_HC + probe.bias_C
    probabilities = np.exp(scores - scores.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    assert np.abs(probabilities.mean(0) - np.bincount(labels) / len(labels)).max() < EQUAL


def test_noise_chooses_a_strong_penalty_and_is_not_predicted():
    generator = np.random.default_rng(1)
    states, labels = generator.standard_normal((200, 80)), generator.integers(0, 2, 200)
    assert chosen_penalty(states, labels, 2) >= 0.1
    unseen, truth = generator.standard_normal((400, 80)), generator.integers(0, 2, 400)
    right = (fit(states, labels, 2, 1.0).predict(unseen) == truth).mean()
    assert abs(right - 0.5) < 0.1


def test_ranks_are_those_of_a_loop_and_equal_cosines_count_against_the_model():
    generator = np.random.default_rng(2)
    queries, documents = generator.standard_normal((7, 5)), generator.standard_normal((20, 5))
    documents[11] = documents[3]
    wanted = np.array([3, 11, 0, 1, 2, 3, 19])
    expected = []
    for query, own in zip(queries - queries.mean(0), wanted, strict=True):
        centred = documents - documents.mean(0)
        cosines = [query @ one / np.linalg.norm(query) / np.linalg.norm(one) for one in centred]
        expected.append(sum(cosine >= cosines[own] - 1e-12 for cosine in cosines))
    assert ranks_of(queries, documents, wanted).tolist() == expected


def test_gains_are_those_of_the_formula():
    assert gains(np.array([1, 3, 10, 11])).tolist() == pytest.approx([1, 0.5, 1 / np.log2(11), 0])
    generator = np.random.default_rng(3)
    drawn = gains(generator.integers(1, 201, 200_000)).mean()
    assert chance(200) == pytest.approx(drawn, rel=0.05)
