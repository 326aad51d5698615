"""The loss: softmax regression with weights of its own (handout sections 2.5 and 2.6, eqs. 1, 2, 4 and 5)."""

import math

import numpy as np
import pytest
from helpers import numerical_gradient

from cnn_lenet import mlrloss, softmax

every_size = pytest.mark.parametrize('inputs, n, K', [(1, 1, 2), (3, 5, 2), (4, 1, 3), (2, 40, 10), (6, 7, 4)])


def case(inputs, n, K):
    rng = np.random.RandomState(0)
    return rng.randn(inputs + 1, K - 1), rng.randn(inputs, n), rng.randint(K, size=n), K


def logits_of(wb, X):
    """(K, n), the last class's fixed at 0."""
    return np.array([[w @ x + b for x in X.T] for *w, b in wb.T] + [[0.] * X.shape[1]])


@every_size
def test_nll_is_the_sum_of_minus_log_p(inputs, n, K):
    wb, X, y, K = case(inputs, n, K)
    expected = 0
    for label, s in zip(y, logits_of(wb, X).T):
        expected -= math.log(math.exp(s[label]) / sum(math.exp(s[k]) for k in range(K)))
    assert mlrloss(wb, X, y, K, 1)[0] == pytest.approx(expected, rel=1e-12)


@every_size
def test_gradients_agree_with_finite_differences(inputs, n, K):
    wb, X, y, K = case(inputs, n, K)
    _, g, od, _ = mlrloss(wb, X, y, K, 1)
    np.testing.assert_allclose(g, numerical_gradient(lambda wb: mlrloss(wb, X, y, K, 0)[0], wb), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(od, numerical_gradient(lambda X: mlrloss(wb, X, y, K, 0)[0], X), rtol=1e-6, atol=1e-7)


@every_size
def test_percent_is_the_share_of_right_answers(inputs, n, K):
    wb, X, y, K = case(inputs, n, K)
    answers = logits_of(wb, X).argmax(axis=0)
    assert mlrloss(wb, X, y, K, 1)[3] == pytest.approx(np.mean(answers == y))
    assert mlrloss(wb, X, answers, K, 1)[3] == 1
    assert mlrloss(wb, X, (answers + 1) % K, K, 1)[3] == 0
    assert mlrloss(wb, X, answers, K, 0)[3] == 0                 # no prediction was asked for


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('size', [1e2, 1e3, 1e4])
@pytest.mark.parametrize('y', [0, 1, 2])
def test_large_logits_give_finite_and_right_results(dtype, size, y):
    """Logits (size, -size, 0): the loss is 0, 2 size and size to the last digit, for labels 0, 1 and 2."""
    wb, X = np.array([[1, -1], [0, 0]], dtype), np.array([[size]], dtype)
    nll, g, od, percent = mlrloss(wb, X, np.array([y]), 3, 1)
    assert nll == (0, 2 * size, size)[y] and percent == (y == 0)
    d = np.array([1. - (y == 0), 0. - (y == 1)])                 # p - [label], p = (1, 0, 0)
    np.testing.assert_allclose(g, [size * d, d], atol=1e-30)
    np.testing.assert_allclose(od, [[d[0] - d[1]]], atol=1e-30)


@pytest.mark.parametrize('dtype', [np.int32, np.uint8, np.float64])
def test_whole_numbers_of_any_type_are_labels(dtype):
    wb, X, y, K = case(3, 5, 4)
    for found, expected in zip(mlrloss(wb, X, y.astype(dtype), K, 1), mlrloss(wb, X, y, K, 1)):
        np.testing.assert_array_equal(found, expected)


def test_softmax_is_the_handouts_formula():
    logits = np.random.RandomState(0).randn(4, 3)
    np.testing.assert_allclose(softmax(logits), np.exp(logits) / (np.ones((4, 4)) @ np.exp(logits)), rtol=1e-13)
    np.testing.assert_allclose(softmax(logits + 1e4), softmax(logits), rtol=1e-10)     # a shift changes nothing
    np.testing.assert_array_equal(softmax(np.array([[1e4, -1e4], [0, 0]])), [[1, 0], [0, 1]])
