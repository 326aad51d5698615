"""The solver (handout section 5.5): eqs. (9)-(13) and the learning rate."""

import numpy as np
import pytest
from helpers import arrays, map_arrays, zeros_like

from cnn_lenet import get_lr, sgd_momentum


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


def dicts(seed):
    rng = np.random.RandomState(seed)
    shapes = ((3, 2), (2,)), ((0,), (0,)), ((2, 4), (4,))        # layer 2 has no parameters
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
    params, winc = dicts(0), zeros_like(dicts(0))
    expected = {(i, key): [[value, 0.] for value in params[i][key].flat] for i in params for key in 'wb'}
    for step in range(5):
        grad = dicts(step + 1)
        params, winc = sgd_momentum(w_rate, b_rate, mu, decay, params, winc, grad)
        for (i, key), states in expected.items():
            rate, key_decay = (w_rate, decay) if key == 'w' else (b_rate, 0)
            for state, g in zip(states, grad[i][key].flat):
                state[1] = mu * state[1] + rate * (g + key_decay * state[0])
                state[0] = state[0] - state[1]
            for found, column in ((params, 0), (winc, 1)):
                assert found[i][key].shape == grad[i][key].shape
                np.testing.assert_allclose(found[i][key].ravel(), [state[column] for state in states], rtol=1e-12,
                                           atol=1e-14)


@pytest.mark.parametrize('scalar', [float, np.float64, np.float32, np.array])
def test_a_rate_of_double_precision_leaves_single_precision_alone(scalar):
    """The rate is often a np.float64: the product of one with a float32 array would be float64."""
    single = [map_arrays(np.float32, dicts(seed)) for seed in range(3)]
    params_, winc_ = sgd_momentum(*(scalar(x) for x in (0.1, 0.2, 0.9, 0.1)), *single)
    assert {x.dtype for x in arrays([params_, winc_])} == {np.dtype(np.float32)}
