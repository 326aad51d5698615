"""init_convnet, forward, predict and conv_net."""

import os

import numpy as np
import pytest
from helpers import NETWORKS, assert_same, data_layer, loss, network, network_and_batch, numerical_gradient

from cnn_lenet import (
    conv_layer_forward,
    conv_net,
    forward,
    init_convnet,
    inner_product_forward,
    pooling_layer_forward,
    predict,
    relu_forward,
)
from testLeNet import get_lenet

every_network = pytest.mark.parametrize('name', NETWORKS)


# Parameters

def feature_map_sizes(layers):
    """(h, w, c) of every layer's output but LOSS's, by the formulas of section 2."""
    sizes = {}
    for i in range(1, len(layers)):
        layer = layers[i]
        if layer['type'] == 'DATA':
            sizes[i] = layer['height'], layer['width'], layer['channel']
        elif layer['type'] == 'IP':
            sizes[i] = 1, 1, layer['num']
        elif layer['type'] == 'RELU':
            sizes[i] = sizes[i - 1]
        else:
            h, w, c = sizes[i - 1]
            h, w = ((size + 2 * layer['pad'] - layer['k']) // layer['stride'] + 1 for size in (h, w))
            sizes[i] = h, w, layer.get('num', c)
    return sizes


def expected_params(layers, rng):
    """The handout's draws, one layer after the other."""
    sizes, params = feature_map_sizes(layers), {}
    for i in range(2, len(layers) + 1):
        layer, (h, w, c) = layers[i], sizes[i - 1]
        scale = np.sqrt(3 / (h * w * c))
        if layer['type'] in ('RELU', 'POOLING'):
            params[i - 1] = {'w': np.array([]), 'b': np.array([])}
            continue
        rows = layer['k'] ** 2 * c // layer['group'] if layer['type'] == 'CONV' else h * w * c
        cols = layer['num'] - 1 if layer['type'] == 'LOSS' else layer['num']
        if layer.get('init_type') == 'gaussian':
            drawn = scale * rng.randn(rows, cols)
        else:
            drawn = 2 * scale * rng.rand(rows, cols) - scale
        params[i - 1] = {'w': drawn, 'b': np.zeros(cols)}
    return params


def assert_params_equal(found, expected, dtype):
    assert found.keys() == expected.keys()
    for i in expected:
        assert found[i].keys() == {'w', 'b'}
        for key in 'wb':
            np.testing.assert_array_equal(found[i][key], expected[i][key].astype(dtype), strict=True)


@pytest.mark.parametrize('name', [*NETWORKS, 'LeNet'])
def test_init_draws_from_the_global_generator(name):
    layers = network(name)
    np.random.seed(5)
    expected = expected_params(layers, np.random)
    drawn = np.random.rand()
    np.random.seed(5)
    assert_params_equal(init_convnet(layers), expected, np.float64)
    assert np.random.rand() == drawn


@pytest.mark.parametrize('name', [*NETWORKS, 'LeNet'])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_init_draws_from_a_private_generator(name, dtype):
    """The same numbers in either precision; the global generator is left alone."""
    layers = network(name)
    np.random.seed(6)
    params = init_convnet(layers, dtype=dtype, rng=np.random.RandomState(5))
    assert np.random.rand() == np.random.RandomState(6).rand()
    assert_params_equal(params, expected_params(layers, np.random.RandomState(5)), dtype)


def test_lenets_numbers_of_parameters():
    """Table 2: filters 5*5*1*20 and 5*5*20*50, inner products 800*500 and 500*9."""
    params = init_convnet(get_lenet(), rng=np.random.RandomState(0))
    sizes = {i: (param['w'].size, param['b'].size) for i, param in params.items()}
    assert sizes == {1: (500, 20), 2: (0, 0), 3: (25000, 50), 4: (0, 0), 5: (400000, 500), 6: (0, 0), 7: (4500, 9)}


# Forward

@every_network
@pytest.mark.parametrize('n', [1, 5, 70])
def test_forward_gives_every_layers_output(name, n):
    params, layers, data, _ = network_and_batch(name, n)
    outputs = forward(params, layers, data)
    assert list(outputs) == list(range(1, len(layers)))
    np.testing.assert_array_equal(outputs[1]['data'], data)
    for i, size in feature_map_sizes(layers).items():
        output = outputs[i]
        assert (output['height'], output['width'], output['channel']) == size
        assert output['batch_size'] == n
        assert output['data'].shape == (np.prod(size), n)
    for i in range(2, len(layers)):
        function = {'CONV': conv_layer_forward, 'POOLING': pooling_layer_forward, 'RELU': relu_forward,
                    'IP': inner_product_forward}[layers[i]['type']]
        param = [params[i - 1]] if layers[i]['type'] in ('CONV', 'IP') else []
        expected = function(outputs[i - 1], layers[i], *param)
        np.testing.assert_allclose(outputs[i]['data'], expected['data'], rtol=1e-12, atol=1e-13)


def probabilities(params, layers, data):
    """Softmax of the topmost inner product, whose last logit is 0 (eqs. 1 and 4)."""
    last = len(layers)
    top = forward(params, layers, data)[last - 1]['data']
    w, b = params[last - 1]['w'], params[last - 1]['b']
    e = np.exp(np.array([w.T @ x + b for x in top.T]).T)
    e = np.vstack([e, np.ones(data.shape[1])])
    return e / e.sum(axis=0)


@every_network
@pytest.mark.parametrize('n', [1, 31, 32, 33, 70])
def test_predict_is_the_softmax_of_the_forward_pass(name, n):
    """For any number of columns, whatever batch_size the DATA layer states."""
    params, layers, data, _ = network_and_batch(name, n)
    p = predict(params, network(name, n=5), data)
    assert p.shape == (layers[len(layers)]['num'], n)
    np.testing.assert_allclose(p.sum(axis=0), np.ones(n), rtol=1e-14)
    np.testing.assert_allclose(p, probabilities(params, layers, data), rtol=1e-10, atol=1e-14)


def test_predict_of_a_thousand_images():
    params, layers, data, _ = network_and_batch('lenet in small', 1000)
    p = predict(params, layers, data)
    np.testing.assert_allclose(p.sum(axis=0), np.ones(1000), rtol=1e-14)
    np.testing.assert_allclose(p, probabilities(params, layers, data), rtol=1e-10, atol=1e-14)


def test_predict_does_not_depend_on_the_neighbours():
    params, layers, data, _ = network_and_batch('lenet in small', 70)
    order = np.random.RandomState(1).permutation(70)
    np.testing.assert_allclose(predict(params, layers, data[:, order]), predict(params, layers, data)[:, order],
                               rtol=1e-12)


@pytest.mark.parametrize('cores', [1, 2, 3, 8])
def test_the_number_of_cores_changes_nothing(cores, monkeypatch):
    """Columns keep their order and sums their digits, however many blocks are under way at once."""
    params, layers, data, labels = network_and_batch('lenet in small', 300)
    expected = predict(params, layers, data), *conv_net(params, layers, data, labels)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: cores)
    assert_same((predict(params, layers, data), *conv_net(params, layers, data, labels)), expected)
    np.testing.assert_allclose(expected[0], probabilities(params, layers, data), rtol=1e-10, atol=1e-14)


# Cost and gradients

@every_network
@pytest.mark.parametrize('n', [1, 5, 70])
def test_cost_is_the_mean_and_percent_the_share_of_right_answers(name, n):
    params, layers, data, labels = network_and_batch(name, n)
    cp, _ = conv_net(params, layers, data, labels)
    assert cp.keys() == {'cost', 'percent'}
    p = probabilities(params, layers, data)
    assert cp['cost'] == pytest.approx(np.mean([-np.log(p[labels[i], i]) for i in range(n)]), rel=1e-12)
    assert cp['percent'] == pytest.approx(np.mean(p.argmax(axis=0) == labels), rel=1e-12)


@pytest.mark.parametrize('n', [1, 22, 33, 49, 70, 98])
def test_percent_of_right_answers_alone_is_1(n):
    """Exactly, however many columns there are."""
    params, layers, data, _ = network_and_batch('two classes', n)
    answers = predict(params, layers, data).argmax(axis=0)
    assert conv_net(params, layers, data, answers)[0]['percent'] == 1
    assert conv_net(params, layers, data, 1 - answers)[0]['percent'] == 0


def check_whole_net(name, n):
    params, layers, data, labels = network_and_batch(name, n)
    _, param_grad = conv_net(params, layers, data, labels)
    assert list(param_grad) == list(params)
    for i in params:
        assert param_grad[i].keys() == {'w', 'b'}
        for key in 'wb':
            def cost(value, i=i, key=key):
                changed = {**params, i: {**params[i], key: value}}
                return conv_net(changed, layers, data, labels)[0]['cost']

            assert param_grad[i][key].shape == params[i][key].shape
            np.testing.assert_allclose(param_grad[i][key], numerical_gradient(cost, params[i][key]),
                                       rtol=1e-6, atol=1e-8, err_msg=f'layer {i + 1}, {key}')


@every_network
@pytest.mark.parametrize('n', [1, 5])
def test_gradients_of_the_whole_net_agree_with_finite_differences(name, n):
    check_whole_net(name, n)


@pytest.mark.parametrize('name', ['softmax regression', 'lenet in small', 'stride, pad, group, not square'])
def test_gradients_of_a_large_batch_agree_with_finite_differences(name):
    """More images than go through the network in one block."""
    check_whole_net(name, 70)


@every_network
def test_gradients_are_means_over_the_batch(name):
    """A batch's gradient is the mean of its images' gradients."""
    params, layers, data, labels = network_and_batch(name, 70)
    _, param_grad = conv_net(params, layers, data, labels)
    singles = [conv_net(params, network(name, n=1), data[:, [i]], labels[[i]])[1] for i in range(70)]
    for i in params:
        for key in 'wb':
            mean = sum(single[i][key] for single in singles) / 70
            np.testing.assert_allclose(param_grad[i][key], mean, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize('dtype', [np.int64, np.float64])
def test_images_of_whole_numbers(dtype):
    """Softmax regression takes them like the same numbers as floats."""
    params, layers, data, labels = network_and_batch('softmax regression', 5)
    data = np.round(data * 3)
    expected, expected_grad = conv_net(params, layers, data, labels)
    cp, grad = conv_net(params, layers, data.astype(dtype), labels)
    assert cp == expected
    np.testing.assert_array_equal(grad[1]['w'], expected_grad[1]['w'])


def test_a_network_of_any_depth():
    """Twelve layers: keys beyond 9 count as numbers, not as words."""
    layers = {1: data_layer(2, 2, 1, 3), **{i: {'type': 'IP', 'num': i, 'init_type': 'uniform'} for i in range(2, 12)},
              12: loss(4)}
    params = init_convnet(layers, rng=np.random.RandomState(0))
    assert [params[i]['w'].shape for i in range(1, 12)] == [(4, 2), *((i, i + 1) for i in range(2, 11)), (11, 3)]
    outputs = forward(params, layers, np.ones((4, 3)))
    assert [outputs[i]['channel'] for i in range(2, 12)] == list(range(2, 12))
