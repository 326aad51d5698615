"""Checking gradients (handout section 8): finite_difference for a layer, check_gradients for a whole net."""

import copy

import numpy as np
import pytest
from helpers import NETWORKS, assert_same, conv, data_layer, mnist, network_and_batch, pooling, structure, with_diff

import cnn_lenet
from cnn_lenet import check_gradients, finite_difference, relu_forward

# finite_difference; tests of every layer compare with it too.


@pytest.mark.parametrize('shape', [(1, 1, 500, 64), (3, 4, 2, 5)])
@pytest.mark.parametrize('h', [1e-3, 1e-6])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_of_relu_it_is_the_handouts(shape, h, dtype):
    """diff * (max(0, x + h) - max(0, x)) / h, element by element (eq. 14), computed in double precision."""
    input = structure(*shape, dtype=dtype)
    input['data'].flat[::3] = -h / 2                             # where x and x + h lie on the two sides of the kink
    x, output = input['data'].astype(np.float64), with_diff(relu_forward(input))
    expected = output['diff'] * (np.maximum(x + h, 0) - np.maximum(x, 0)) / h
    np.testing.assert_allclose(finite_difference(output, input, h), expected, rtol=1e-6, atol=1e-12)


def test_it_keeps_to_the_definition_when_h_is_large():
    """(f(x + h) - f(x)) / h of f = x^3 at h = 1 is 3 x^2 + 3 x + 1, not the derivative."""
    input = structure(1, 3, 1, 2)
    x = input['data']
    approx = finite_difference({'diff': np.ones((3, 2))}, input, 1.0, lambda x: {**x, 'data': x['data'] ** 3})
    np.testing.assert_allclose(approx, 3 * x ** 2 + 3 * x + 1, rtol=1e-10)


# check_gradients

RIGHT, WRONG = 1e-4, 1e-2                                        # relative errors below the one, above the other


@pytest.mark.parametrize('name', [*NETWORKS, 'LeNet'])
def test_right_gradients_pass_and_arguments_stay_as_they_were(name):
    args = network_and_batch(name)
    before = copy.deepcopy(args)
    errors = check_gradients(*args, count=3, rng=np.random.RandomState(0))
    assert errors.keys() == {i for i, layer in args[1].items() if layer['type'] in ('CONV', 'IP', 'LOSS')}
    assert all(error < RIGHT for error in errors.values())
    assert_same(args, before)


def test_parameters_of_single_precision_are_checked_in_double():
    errors = check_gradients(*network_and_batch('lenet in small', dtype=np.float32), rng=np.random.RandomState(0))
    assert all(error < RIGHT for error in errors.values())


# 'lenet in small' is DATA, CONV, POOLING, CONV, POOLING, IP, RELU, LOSS.
@pytest.mark.parametrize('name, i, change', [
    ('relu_backward', 7, lambda od, output, *_: output['diff']),               # passes everything
    ('pooling_layer_backward', 5, lambda od, *_: od / 4),                      # an average, not a maximum
    ('inner_product_backward', 6, lambda pair, *_: ({**pair[0], 'w': 2 * pair[0]['w']}, pair[1])),
    ('inner_product_backward', 6, lambda pair, *_: ({**pair[0], 'b': 0 * pair[0]['b']}, pair[1])),
    ('inner_product_backward', 6, lambda pair, *_: (pair[0], 2 * pair[1])),
])
def test_a_wrong_backward_function_shows_in_its_layer_or_below(monkeypatch, name, i, change):
    args = network_and_batch('lenet in small')
    right = getattr(cnn_lenet, name)
    monkeypatch.setattr(cnn_lenet, name, lambda *args: change(right(*args), *args))
    errors = check_gradients(*args, count=20, rng=np.random.RandomState(0))
    assert any(errors[j] > WRONG for j in errors if j <= i)
    assert all(errors[j] < RIGHT for j in errors if j > i)


def test_zeros_do_not_pass(monkeypatch):
    """A layer that gives zeros both ways hides everything below it: 0 - 0 is no proof that a gradient is right."""
    monkeypatch.setattr(cnn_lenet, 'relu_forward', lambda input, layer: {**input, 'data': 0 * input['data']})
    monkeypatch.setattr(cnn_lenet, 'relu_backward', lambda output, input, layer: 0 * input['data'])
    errors = check_gradients(*network_and_batch('lenet in small'), rng=np.random.RandomState(0))
    assert not any(errors[i] < RIGHT for i in (2, 4, 6))


# Kinks

def conv_relu_pool(n=4):
    """The usual order of today, on MNIST: most of an image is blank, and biases begin at 0, so that what a ReLU gets
    there is exactly 0."""
    layers = {1: data_layer(28, 28, 1, n), 2: conv(3, 5), 3: {'type': 'RELU'}, 4: pooling(2, 2),
              5: {'type': 'LOSS', 'num': 10}}
    images, labels = mnist(False)[:2]
    return cnn_lenet.init_convnet(layers, rng=np.random.RandomState(0)), layers, images[:, :n], labels[:n]


def test_right_gradients_pass_at_kinks():
    errors = check_gradients(*conv_relu_pool())
    assert all(error < RIGHT for error in errors.values()), errors


@pytest.mark.parametrize('factor', [0.7, 1.3])
@pytest.mark.parametrize('key', ['w', 'b'])
def test_a_gradient_that_is_wrong_by_thirty_percent_shows_beside_kinks(monkeypatch, factor, key):
    right = cnn_lenet.conv_layer_backward

    def wrong(*args, **options):
        grad, od = right(*args, **options)
        return {**grad, key: factor * grad[key]}, od

    monkeypatch.setattr(cnn_lenet, 'conv_layer_backward', wrong)
    params, layers, data, labels = conv_relu_pool()
    if key == 'b':
        params[1]['b'] = params[1]['b'] + 0.01                   # at 0 every slope between left and right is right
    assert check_gradients(params, layers, data, labels)[2] > WRONG
