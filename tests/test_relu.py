"""ReLU (handout section 2.2, Q2 and Q5), and finite_difference, whose default it is (section 8)."""

import numpy as np
import pytest
from helpers import check_gradients, inner_product, random_params, structure, with_diff

from cnn_lenet import finite_difference, inner_product_forward, relu_backward, relu_forward

RELU = {'type': 'RELU'}
SHAPES = [(1, 1, 1, 1), (1, 1, 500, 2), (3, 4, 2, 5), (5, 1, 3, 1)]


@pytest.mark.parametrize('shape', SHAPES)
def test_forward_is_the_larger_of_0_and_x(shape):
    input = structure(*shape)
    output = relu_forward(input, RELU)
    np.testing.assert_array_equal(output['data'], np.where(input['data'] > 0, input['data'], 0))
    assert tuple(output[key] for key in ('height', 'width', 'channel', 'batch_size')) == shape


@pytest.mark.parametrize('shape', SHAPES)
def test_the_gradient_passes_where_the_input_was_positive(shape):
    input = structure(*shape)
    output = with_diff(relu_forward(input, RELU))
    input_od = relu_backward(output, input, RELU)
    np.testing.assert_array_equal(input_od, np.where(input['data'] > 0, output['diff'], 0))
    check_gradients(lambda x, _: relu_forward(x, RELU), output, input, None, input_od)


def test_at_0_the_gradient_is_0():
    input = {'height': 1, 'width': 1, 'channel': 2, 'batch_size': 1, 'data': np.array([[0.], [-0.]])}
    output = {**relu_forward(input, RELU), 'diff': np.ones((2, 1))}
    np.testing.assert_array_equal(relu_backward(output, input, RELU), np.zeros((2, 1)))


def test_nan_stays_nan():
    input = {'height': 1, 'width': 1, 'channel': 1, 'batch_size': 2, 'data': np.array([[np.nan, 1.]])}
    np.testing.assert_array_equal(relu_forward(input, RELU)['data'], input['data'])


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('h', [1e-3, 1e-6])
def test_finite_difference_of_relu_is_the_handouts(shape, h):
    """diff * (max(0, x + h) - max(0, x)) / h, element by element (eq. 14)."""
    input = structure(*shape)
    input['data'].flat[::3] = -h / 2                             # where x and x + h lie on the two sides of the kink
    output = with_diff(relu_forward(input, RELU))
    expected = output['diff'] * (np.maximum(input['data'] + h, 0) - np.maximum(input['data'], 0)) / h
    approx = finite_difference(output, input, h)
    np.testing.assert_allclose(approx, expected, rtol=1e-7, atol=1e-12)
    assert approx.shape == input['data'].shape


def test_finite_difference_tells_a_wrong_gradient_from_a_right_one():
    input = structure(3, 2, 2, 4)
    output = with_diff(relu_forward(input, RELU))
    approx = finite_difference(output, input, 1e-6)
    np.testing.assert_allclose(approx, relu_backward(output, input, RELU), atol=1e-6)
    assert np.abs(approx - output['diff']).max() > 0.1


def test_finite_difference_of_another_layer_is_that_of_its_weighted_sum():
    """The gradient of sum(diff * (w.T x + b)) with respect to x is w diff, whatever x is."""
    input, param = structure(2, 2, 1, 3), random_params((4, 5))
    output = with_diff(inner_product_forward(input, inner_product(5), param))
    approx = finite_difference(output, input, 1e-5, lambda x: inner_product_forward(x, inner_product(5), param))
    np.testing.assert_allclose(approx, param['w'] @ output['diff'], atol=1e-8)


def test_finite_difference_keeps_to_the_definition_when_h_is_large():
    """(f(x + h) - f(x)) / h of f = x^3 at h = 1 is 3 x^2 + 3 x + 1, not the derivative."""
    input = structure(1, 3, 1, 2)
    output = {'diff': np.ones((3, 2))}
    approx = finite_difference(output, input, 1.0, forward=lambda x: {**x, 'data': x['data'] ** 3})
    x = input['data']
    np.testing.assert_allclose(approx, 3 * x ** 2 + 3 * x + 1, rtol=1e-10)
