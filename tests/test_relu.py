"""ReLU (handout section 2.2, Q2 and Q5)."""

import numpy as np
import pytest
from helpers import RELU, check_backward, sizes, structure, with_diff

from cnn_lenet import relu_backward, relu_forward


@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (1, 1, 500, 2), (3, 4, 2, 5), (5, 1, 3, 1)])
def test_relu_is_the_larger_of_0_and_x_and_its_gradient_passes_where_x_is_positive(shape):
    input = structure(*shape)
    output = with_diff(relu_forward(input, RELU))
    assert sizes(output) == shape
    np.testing.assert_array_equal(output['data'], np.where(input['data'] > 0, input['data'], 0))
    input_od = relu_backward(output, input, RELU)
    np.testing.assert_array_equal(input_od, np.where(input['data'] > 0, output['diff'], 0))
    check_backward(lambda x, _: relu_forward(x, RELU), output, input, input_od)


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
