"""The solver (handout section 5.5): eqs. (9)-(13) and the learning rate."""

import numpy as np
import pytest
from helpers import arrays, network_and_batch

from cnn_lenet import conv_net, get_lr, sgd_momentum


@pytest.mark.parametrize('step, epsilon, gamma, power, expected', [
    (0, 0.01, 0.0001, 0.75, 0.01),
    (10000, 0.01, 0.0001, 0.75, 0.01 / 2 ** 0.75),
    (20000, 0.01, 0.0001, 0.75, 0.01 / 3 ** 0.75),
    (1, 0.5, 3, 2, 0.5 / 16),
    (7, 0.1, 0, 0.75, 0.1),
    (7, 0.1, 0.3, 0, 0.1),
])
def test_learning_rate(step, epsilon, gamma, power, expected):
    assert get_lr(step, epsilon, gamma, power) == pytest.approx(expected, rel=1e-14)


def dicts(seed, shapes=(((3, 2), (2,)), ((0,), (0,)), ((2, 4), (4,)))):
    rng = np.random.RandomState(seed)
    return {i: {'w': rng.randn(*w), 'b': rng.randn(*b)} for i, (w, b) in enumerate(shapes, 1)}


@pytest.mark.parametrize('w_rate, b_rate, mu, decay', [
    (0.01, 0.02, 0.9, 0.0005),
    (0.1, 0.3, 0.5, 0.2),
    (0.1, 0.2, 0, 0.1),                                          # no momentum
    (0.1, 0.2, 0.9, 0),                                          # no weight decay
    (0, 0.1, 0.9, 0.1),
    (1, 2, 1, 1),                                                # whole numbers
])
def test_several_steps(w_rate, b_rate, mu, decay):
    """theta = mu theta + rate (grad + decay w), w = w - theta, element by element; no decay on b."""
    params, winc = dicts(0), {i: {key: 0 * value for key, value in p.items()} for i, p in dicts(0).items()}
    expected = {(i, key): [[value, 0.] for value in params[i][key].flat] for i in params for key in 'wb'}
    for step in range(5):
        grad = dicts(step + 1)
        for (i, key), values in expected.items():
            rate = w_rate if key == 'w' else b_rate
            for state, g in zip(values, grad[i][key].flat):
                if key == 'w':
                    g = g + decay * state[0]
                state[1] = mu * state[1] + rate * g
                state[0] = state[0] - state[1]
        params, winc = sgd_momentum(w_rate, b_rate, mu, decay, params, winc, grad)
        for (i, key), values in expected.items():
            for found, column in ((params, 0), (winc, 1)):
                assert found[i][key].shape == grad[i][key].shape
                np.testing.assert_allclose(found[i][key].ravel(), [state[column] for state in values], rtol=1e-12,
                                           atol=1e-14)


def test_results_are_new_dicts():
    params, winc, grad = dicts(0), dicts(1), dicts(2)
    params_, winc_ = sgd_momentum(0.1, 0.2, 0.9, 0.1, params, winc, grad)
    assert params_ is not params and winc_ is not winc
    for i in params:
        assert params_[i] is not params[i] and winc_[i] is not winc[i] and params_[i] is not winc_[i]
    assert params_.keys() == winc_.keys() == params.keys()


@pytest.mark.parametrize('scalar', [float, np.float64, np.float32, np.array])
def test_a_rate_of_double_precision_leaves_single_precision_alone(scalar):
    """The rate is often a np.float64: the product of one with a float32 array would be float64."""
    single = [{i: {key: value.astype(np.float32) for key, value in p.items()} for i, p in dicts(seed).items()}
              for seed in range(3)]
    params_, winc_ = sgd_momentum(*(scalar(x) for x in (0.1, 0.2, 0.9, 0.1)), *single)
    assert {x.dtype for x in arrays([params_, winc_])} == {np.dtype(np.float32)}


def test_decay_is_the_gradient_of_the_regularised_loss():
    """Without a gradient of the loss a step shrinks w by rate * decay (eq. 12) and leaves b."""
    params, zero = dicts(0), {i: {key: 0 * value for key, value in p.items()} for i, p in dicts(0).items()}
    params_, _ = sgd_momentum(0.1, 0.2, 0.9, 0.5, params, zero, zero)
    for i in params:
        np.testing.assert_allclose(params_[i]['w'], params[i]['w'] * (1 - 0.1 * 0.5), rtol=1e-14)
        np.testing.assert_array_equal(params_[i]['b'], params[i]['b'])


def test_a_network_learns_a_batch_by_heart():
    """Steps along conv_net's gradients bring the cost down to where every answer is right."""
    params, layers, data, labels = network_and_batch('lenet in small', n=6)
    winc = {i: {key: np.zeros_like(value) for key, value in p.items()} for i, p in params.items()}
    first, _ = conv_net(params, layers, data, labels)
    for step in range(150):
        cp, grad = conv_net(params, layers, data, labels)
        rate = get_lr(step, 0.05, 0.0001, 0.75)
        params, winc = sgd_momentum(rate, 2 * rate, 0.9, 0.0005, params, winc, grad)
    assert cp['percent'] == 1
    assert cp['cost'] < first['cost'] / 5
