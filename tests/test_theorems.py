"""What must hold of the layers whatever their code is."""

import numpy as np
import pytest
from helpers import conv, feature_map, inner_product, pooling, random_params, structure, with_diff

import cnn_lenet as c


@pytest.mark.parametrize('size, channels', [(1, 3), (4, 1), (5, 8)])
def test_a_window_as_large_as_the_image_makes_a_convolution_an_inner_product(size, channels):
    input, param = structure(size, size, channels, 6), random_params((size * size * channels, 7))
    one = with_diff(c.conv_layer_forward(input, conv(7, size), param))
    other = with_diff(c.inner_product_forward(input, inner_product(7), param))
    np.testing.assert_allclose(one['data'], other['data'], atol=1e-12)
    one_grad, one_od = c.conv_layer_backward(one, input, conv(7, size), param)
    other_grad, other_od = c.inner_product_backward(other, input, inner_product(7), param)
    np.testing.assert_allclose(one_od, other_od, atol=1e-12)
    for key in 'wb':
        np.testing.assert_allclose(one_grad[key], other_grad[key], atol=1e-12)


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('down, right', [(1, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize('layer', [
    lambda x, stride: c.conv_layer_forward(x, conv(4, 3, stride), random_params((18, 4))),
    lambda x, stride: c.pooling_layer_forward(x, pooling(3, stride))], ids=['convolution', 'pooling'])
def test_a_shifted_image_gives_shifted_maps(layer, stride, down, right):
    """Moved by so many strides, the maps move by so many places; what enters at the edge is new."""
    input = structure(15, 9, 2, 2)
    shifted = structure(15, 9, 2, 2, seed=1)
    old = feature_map(input)[:15 - down * stride, :9 - right * stride]
    feature_map(shifted)[down * stride:, right * stride:] = old
    before, after = feature_map(layer(input, stride)), feature_map(layer(shifted, stride))
    h, w = before.shape[:2]
    np.testing.assert_allclose(after[down:, right:], before[:h - down, :w - right], atol=1e-12)


@pytest.mark.parametrize('k', [1, 2, 3])
def test_pooling_without_overlap_keeps_the_sum_of_the_gradient(k):
    """Of every channel of every image: each window passes its gradient on, to one element."""
    input = structure(6, 12, 3, 4)
    output = with_diff(c.pooling_layer_forward(input, pooling(k, k)))
    input_od = c.pooling_layer_backward(output, input, pooling(k, k)).reshape(6, 12, 3, 4)
    np.testing.assert_allclose(input_od.sum(axis=(0, 1)), feature_map(output, 'diff').sum(axis=(0, 1)), atol=1e-12)
    assert np.count_nonzero(input_od) == output['diff'].size


def test_two_classes_are_logistic_regression():
    """p(class 0) = 1 / (1 + exp(-(w.T x + b))); the gradient is that of the cross entropy."""
    rng = np.random.RandomState(0)
    w, b, X, y = rng.randn(5), 0.3, rng.randn(5, 20), rng.randint(2, size=20)
    p = 1 / (1 + np.exp(-(w @ X + b)))
    is_0 = 1 - y
    nll, g, od, percent = c.mlrloss(np.append(w, b)[:, None], X, y, 2, 1)
    np.testing.assert_allclose(nll, -np.sum(is_0 * np.log(p) + y * np.log(1 - p)), rtol=1e-12)
    np.testing.assert_allclose(g[:, 0], [*(X @ (p - is_0)), np.sum(p - is_0)], atol=1e-12)
    np.testing.assert_allclose(od, np.outer(w, p - is_0), atol=1e-12)
    assert percent == np.mean((p > 0.5) == is_0)
