"""The loss: softmax regression with weights of its own (handout sections 2.5 and 2.6, eqs. 1, 2, 4 and 5)."""

import math

import numpy as np
import pytest
from helpers import numerical_gradient

from cnn_lenet import mlrloss, softmax

SIZES = [(1, 1, 2), (3, 5, 2), (4, 1, 3), (2, 40, 10), (6, 7, 4)]   # inputs, n, K


def case(inputs, n, K, seed=0):
    rng = np.random.RandomState(seed)
    return rng.randn(inputs + 1, K - 1), rng.randn(inputs, n), rng.randint(K, size=n), K


def logits_of(wb, X, K):
    """(K, n), the last class's fixed at 0."""
    w, b = wb[:-1], wb[-1]
    return np.array([[w[:, j] @ x + b[j] for x in X.T] for j in range(K - 1)] + [[0.] * X.shape[1]])


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_nll_is_the_sum_of_minus_log_p(size):
    wb, X, y, K = case(*size)
    nll = mlrloss(wb, X, y, K, 1)[0]
    expected = 0
    for image, s in enumerate(logits_of(wb, X, K).T):
        p = [math.exp(s[j]) / sum(math.exp(s[k]) for k in range(K)) for j in range(K)]
        expected -= math.log(p[y[image]])
    assert nll == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_gradients_agree_with_finite_differences(size):
    wb, X, y, K = case(*size)
    _, g, od, _ = mlrloss(wb, X, y, K, 1)
    np.testing.assert_allclose(g, numerical_gradient(lambda wb: mlrloss(wb, X, y, K, 0)[0], wb), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(od, numerical_gradient(lambda X: mlrloss(wb, X, y, K, 0)[0], X), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_percent_is_the_share_of_right_answers(size):
    wb, X, y, K = case(*size)
    answers = logits_of(wb, X, K).argmax(axis=0)
    assert mlrloss(wb, X, y, K, 1)[3] == pytest.approx(np.mean(answers == y))
    assert mlrloss(wb, X, answers, K, 1)[3] == 1
    assert mlrloss(wb, X, (answers + 1) % K, K, 1)[3] == 0


def test_percent_is_0_when_no_prediction_is_asked_for():
    wb, X, y, K = case(3, 5, 4)
    answers = logits_of(wb, X, K).argmax(axis=0)
    assert mlrloss(wb, X, answers, K, 0)[3] == 0
    for found, expected in zip(mlrloss(wb, X, y, K, 0)[:3], mlrloss(wb, X, y, K, 1)[:3]):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('size', [1e2, 1e3, 1e4])
def test_large_logits_give_finite_and_right_results(dtype, size):
    """Logits (size, -size, 0): the loss is 0, 2 size and size to the last digit, for labels 0, 1 and 2."""
    X = np.array([[size, size, size]], dtype)
    wb = np.array([[1, -1], [0, 0]], dtype)
    for y, expected in ((0, 0), (1, 2 * size), (2, size)):
        nll, g, od, percent = mlrloss(wb, X[:, :1], np.array([y]), 3, 1)
        assert nll == expected
        assert percent == (y == 0)
        d = np.array([[1], [0]]) - np.array([[y == 0], [y == 1]])            # p - [label], p = (1, 0, 0)
        np.testing.assert_allclose(g, [[size * d[0, 0], size * d[1, 0]], [d[0, 0], d[1, 0]]], atol=1e-30)
        np.testing.assert_allclose(od, [[d[0, 0] - d[1, 0]]], atol=1e-30)
    nll, g, od, percent = mlrloss(wb, X, np.array([0, 1, 2]), 3, 1)
    assert nll == 3 * size and percent == pytest.approx(1 / 3)


def test_large_logits_of_both_signs_on_equal_terms():
    """Two classes at 1e4 each against a third at 0: p = (1/2, 1/2, 0)."""
    wb, X = np.array([[1., 1.], [0., 0.]]), np.array([[1e4]])
    nll, g, od, _ = mlrloss(wb, X, np.array([1]), 3, 1)
    assert nll == pytest.approx(math.log(2), rel=1e-12)
    np.testing.assert_allclose(g, [[5e3, -5e3], [0.5, -0.5]])
    np.testing.assert_allclose(od, [[0]])


@pytest.mark.parametrize('dtype', [np.int64, np.int32, np.uint8, np.float64])
def test_whole_numbers_of_any_type_are_labels(dtype):
    wb, X, y, K = case(3, 5, 4)
    for found, expected in zip(mlrloss(wb, X, y.astype(dtype), K, 1), mlrloss(wb, X, y, K, 1)):
        np.testing.assert_array_equal(found, expected)


def test_softmax_is_the_handouts_formula():
    logits = np.random.RandomState(0).randn(4, 3)
    expected = np.exp(logits) / (np.ones((4, 4)) @ np.exp(logits))
    np.testing.assert_allclose(softmax(logits), expected, rtol=1e-14)
    np.testing.assert_allclose(softmax(logits + 1e4), expected, rtol=1e-10)      # a shift changes nothing


def test_softmax_of_large_logits():
    np.testing.assert_array_equal(softmax(np.array([[1e4, -1e4], [0, 0]])), [[1, 0], [0, 1]])
