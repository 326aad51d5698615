"""ReLU (handout section 2.2, Q2 and Q5): what test_questions.py does not ask for."""

import numpy as np
import pytest
from helpers import RELU, structure

from cnn_lenet import relu_backward, relu_forward


@pytest.mark.parametrize('x, y, slope', [(0., 0., 0), (-0., 0., 0), (np.inf, np.inf, 1), (-np.inf, 0., 0),
                                         (np.nan, np.nan, 0), (1e-300, 1e-300, 1)])
def test_special_values(x, y, slope):
    """At 0 the gradient is 0. NaN stays NaN."""
    input = {**structure(1, 1, 1, 1), 'data': np.array([[x]])}
    output = {**relu_forward(input, RELU), 'diff': np.array([[3.]])}
    np.testing.assert_array_equal(output['data'], [[y]])
    np.testing.assert_array_equal(relu_backward(output, input, RELU), [[3 * slope]])


def test_a_structure_may_hold_data_and_diff_alone():
    input = {'data': np.array([[1., -2.]])}
    np.testing.assert_array_equal(relu_forward(input, RELU)['data'], [[1, 0]])
    np.testing.assert_array_equal(relu_backward({'diff': np.array([[3., 4.]])}, input, RELU), [[3, 0]])
