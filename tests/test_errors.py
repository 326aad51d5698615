"""Bad arguments: an error that names the thing, what was found and what was expected. Every rule once."""

import numpy as np
import pytest
from helpers import (
    RELU,
    conv,
    data_layer,
    inner_product,
    loss,
    network,
    network_and_batch,
    pooling,
    raises,
    random_params,
    structure,
    with_diff,
)

import cnn_lenet as c

# Layers. 'lenet in small' is DATA 10x10x1, CONV k 3, POOLING 2/2, CONV k 3, POOLING 2/2, IP, RELU, LOSS.

KINDS = ['DATA', 'CONV', 'POOLING', 'IP', 'RELU', 'LOSS']
WRONG_LAYERS = [
    # layer, its new content, words of the message
    (3, {'type': 'TANH'}, ['layer 3', "'TANH'", *KINDS]),
    (3, {**pooling(2, 2), 'type': ['POOLING']}, ['layer 3', 'POOLING', *KINDS]),
    (3, {}, ['layer 3', 'type', *KINDS]),
    (3, None, ['layer 3', 'type', *KINDS]),
    (1, conv(2, 3), ['layer 1', "'CONV'", "'DATA'"]),
    (8, inner_product(3), ['layer 8', "'IP'", "'LOSS'"]),
    (6, loss(3), ['layer 6', "'LOSS'", 'last']),
    (3, data_layer(8, 8, 2, 5), ['layer 3', "'DATA'", 'first']),
    # windows and groups
    (2, conv(2, 5, stride=4, pad=1), ['layer 2', 'CONV', 'k = 5', 'stride = 4', 'tile', '12']),
    (3, pooling(3, 2), ['layer 3', 'POOLING', 'k = 3', 'stride = 2', 'tile', '8']),
    (2, conv(2, 15, pad=2), ['layer 2', 'CONV', 'k = 15', 'larger', '14']),
    (5, pooling(3, 1), ['layer 5', 'POOLING', 'k = 3', 'larger', '2']),
    (3, pooling(2, 2, pad=1), ['layer 3', 'POOLING', 'pad = 1', '0']),
    (2, conv(2, 3, group=2), ['layer 2', 'CONV', 'group = 2', 'channel = 1', 'divide']),
    (4, conv(3, 3, group=2), ['layer 4', 'CONV', 'group = 2', 'num = 3', 'divide']),
    # values
    (1, data_layer(0, 10, 1, 5), ['layer 1', 'height = 0', 'at least 1']),
    (1, data_layer(10, 10, 1, 0), ['layer 1', 'batch_size = 0', 'at least 1']),
    (2, conv(2.5, 3), ['layer 2', 'num = 2.5', 'whole number']),
    (2, conv('2', 3), ['layer 2', "num = '2'", 'whole number']),
    (2, conv(2, 3, stride=0), ['layer 2', 'stride = 0', 'at least 1']),
    (2, conv(2, 3, pad=-1), ['layer 2', 'pad = -1', 'at least 0']),
    (2, conv(2, 3, group=0), ['layer 2', 'group = 0', 'at least 1']),
    (3, pooling(0, 1), ['layer 3', 'k = 0', 'at least 1']),
    (6, inner_product(-4), ['layer 6', 'num = -4', 'at least 1']),
    (6, inner_product(4, 'normal'), ['layer 6', "'normal'", "'uniform'", "'gaussian'"]),
    (8, loss(1), ['layer 8', 'num = 1', 'at least 2']),
]


@pytest.mark.parametrize('i, layer, words', WRONG_LAYERS, ids=str)
def test_layers_that_make_no_network(i, layer, words):
    with raises(*words):
        c.init_convnet({**network('lenet in small'), i: layer})


@pytest.mark.parametrize('i, key', [(i, key) for i in (1, 2, 3, 6, 8) for key in network('lenet in small')[i]
                                    if key != 'type'])
def test_a_layer_that_lacks_a_key(i, key):
    layers = network('lenet in small')
    del layers[i][key]
    with raises(f"layer {i} ({layers[i]['type']}) lacks the key '{key}'"):
        c.init_convnet(layers)


@pytest.mark.parametrize('layers, words', [
    ({i - 1: layer for i, layer in network('lenet in small').items()}, [str(list(range(8))), 'integers', '1']),
    ({str(i): layer for i, layer in network('lenet in small').items()}, ["'1'", 'integers', '1']),
    ({i: layer for i, layer in network('lenet in small').items() if i != 4}, ['[1, 2, 3, 5, 6, 7, 8]', 'integers']),
    ({}, ['{}']), (None, ['None']), ([1, 2], ['[1, 2]']),
], ids=['from 0', 'strings', 'a gap', 'empty', 'None', 'list'])
def test_layers_have_the_keys_1_to_l(layers, words):
    with raises('layers', *words):
        c.init_convnet(layers)


# Parameters, data and labels

def call(name, params, layers, data, labels, **keywords):
    rest = {'forward': [data], 'predict': [data], 'conv_net': [data, labels]}[name]
    return getattr(c, name)(params, layers, *rest, **keywords)


@pytest.mark.parametrize('name', ['forward', 'predict', 'conv_net'])
def test_every_function_of_a_network_checks_its_arguments(name):
    params, layers, data, labels = network_and_batch('lenet in small')
    with raises("layer 3 (POOLING) lacks the key 'stride'"):
        call(name, params, {**layers, 3: {'type': 'POOLING', 'k': 2, 'pad': 0}}, data, labels)
    with raises('params[1]', '(9, 2)'):
        call(name, {**params, 1: {**params[1], 'w': np.zeros((8, 2))}}, layers, data, labels)
    with raises('data', '(99, 5)', '100'):
        call(name, params, layers, data[:-1], labels)


@pytest.mark.parametrize('key, inner, found, expected', [
    (1, 'w', (18,), (9, 2)), (1, 'b', (1,), (2,)), (1, 'b', (2, 1), (2,)), (3, 'w', (9, 3), (18, 3)),
    (5, 'w', (5, 3), (3, 5)), (7, 'w', (5, 3), (5, 2)), (7, 'b', (3,), (2,)), (7, 'w', (0,), (5, 2)),
])
def test_shapes_of_parameters(key, inner, found, expected):
    params, layers, data, labels = network_and_batch('lenet in small')
    params[key][inner] = np.zeros(found)
    with raises(f'params[{key}][{inner!r}]', layers[key + 1]['type'], found, expected):
        c.conv_net(params, layers, data, labels)


@pytest.mark.parametrize('params, words', [
    (lambda params: {**params, 3: {'w': params[3]['w']}}, ["params[3]['b']", 'CONV']),
    (lambda params: {i: param for i, param in params.items() if i != 7}, ["params[7]['w']", 'LOSS']),
    (lambda params: {**params, 5: None}, ['params[5]', 'IP']),
    (lambda params: list(params.values()), ['params', 'list', 'dict']),
    (lambda params: None, ['params', 'NoneType', 'dict']),
])
def test_missing_parameters(params, words):
    right, layers, data, labels = network_and_batch('lenet in small')
    with raises(*words):
        c.conv_net(params(right), layers, data, labels)


@pytest.mark.parametrize('shape, words', [
    ((101, 5), ['100', 'height 10', 'width 10', 'channel 1']), ((100,), ['100']), ((10, 10, 5), ['100']),
    ((100, 0), ['at least one']), ((100, 4), ['batch_size', '5']), ((100, 6), ['batch_size', '5']),
])
def test_shape_of_data(shape, words):
    params, layers, _, labels = network_and_batch('lenet in small')
    with raises('data', *words):
        c.conv_net(params, layers, np.zeros(shape), np.zeros(shape[-1], int))


@pytest.mark.parametrize('labels, words', [
    (np.zeros(4, int), ['(4,)', '(5,)']),
    (np.zeros((1, 5), int), ['(1, 5)', '(5,)']),
    ([0, 1, 2, 3, 0], ['3', 'position 3', '0..2']),
    ([0, -1, 2, 0, 7], ['-1', 'position 1', '0..2']),
    ([0., 1, 1e300, 0, 1], ['1e+300', 'position 2', '0..2']),
    ([0, 1, 0.5, 0, 1], ['whole numbers']),
    ([0, 1, np.nan, 0, 1], ['whole numbers']),
    ([True, False, True, True, False], ['bool', 'whole numbers']),
    (['0', '1', '2', '0', '1'], ['whole numbers']),
    ([0, 1, None, 0, 1], ['whole numbers']),
])
def test_labels_are_whole_numbers_of_classes(labels, words):
    with raises('label' if 'position' in ' '.join(words) else 'labels', *words):
        c.mlrloss(np.zeros((5, 2)), np.zeros((4, 5)), np.array(labels), 3, 1)


def test_conv_net_checks_the_labels_of_the_whole_batch():
    params, layers, data, labels = network_and_batch('lenet in small', 70)
    with raises('label 3', 'position 69', '0..2'):
        c.conv_net(params, layers, data, [*labels[:-1], 3])


@pytest.mark.parametrize('threads', [0, -1, 1.5])
def test_number_of_threads(threads):
    with raises('threads', threads, 'at least 1'):
        c.predict(*network_and_batch('lenet in small')[:3], threads=threads)


@pytest.mark.parametrize('call', [lambda: c.init_convnet(network('lenet in small'), dtype=int),
                                  lambda: c.load_mnist(False, dtype=int)])
def test_dtype_is_a_float_type(call):
    with raises('dtype', 'int64', 'float32'):
        call()


# What a layer function returns is checked where the network calls it: students write seven of them.

def wrong_shape(output, *_):
    return {**output, 'data': output['data'][:-1]}


def not_finite(output, *_):
    return {**output, 'data': np.full(output['data'].shape, np.nan)}


STRUCTURE = ['dict', 'height', 'width', 'channel', 'batch_size', 'data']


@pytest.mark.parametrize('i, name, question, change, words', [
    (3, 'pooling_layer_forward', 'Q1', lambda output: None, ['None', *STRUCTURE]),
    (3, 'pooling_layer_forward', 'Q1', lambda output: output['data'], STRUCTURE),
    (3, 'pooling_layer_forward', 'Q1', lambda output: {key: output[key] for key in STRUCTURE[1:-1]}, ["'data'"]),
    (3, 'pooling_layer_forward', 'Q1', wrong_shape, ['(31, 5)', '(32, 5)']),
    (3, 'pooling_layer_forward', 'Q1', not_finite, ['finite']),
    (7, 'relu_forward', 'Q2', lambda output: None, ['None', *STRUCTURE]),
    (7, 'relu_forward', 'Q2', lambda output: {**output, 'data': output['data'].tolist()}, ['list']),
    (6, 'inner_product_forward', 'Q3', wrong_shape, ['(4, 5)', '(5, 5)']),
    (6, 'inner_product_forward', 'Q3', not_finite, ['finite']),
    (5, 'pooling_layer_backward', 'Q4', lambda od: None, ['None', '(12, 5)']),
    (5, 'pooling_layer_backward', 'Q4', lambda od: od * np.inf, ['finite']),
    (7, 'relu_backward', 'Q5', lambda od: {'diff': od}, ['dict', '(5, 5)']),
    (7, 'relu_backward', 'Q5', lambda od: od.T[:, :1], ['(5, 1)', '(5, 5)']),
    (6, 'inner_product_backward', 'Q6', lambda pair: pair[::-1], ['param_grad', 'input_od']),
    (6, 'inner_product_backward', 'Q6', lambda pair: None, ['None', 'param_grad', 'input_od']),
    (6, 'inner_product_backward', 'Q6', lambda pair: pair[0], ['dict', 'param_grad', 'input_od']),
    (6, 'inner_product_backward', 'Q6', lambda pair: ({'w': pair[0]['w']}, pair[1]), ["'b'"]),
    (6, 'inner_product_backward', 'Q6', lambda pair: ({**pair[0], 'w': pair[0]['w'].T}, pair[1]), ['(5, 3)', '(3, 5)']),
    (6, 'inner_product_backward', 'Q6', lambda pair: (pair[0], pair[1].T), ['(5, 3)', '(3, 5)']),
])
def test_what_a_layer_function_returns(monkeypatch, i, name, question, change, words):
    right = getattr(c, name)
    monkeypatch.setattr(c, name, lambda *args: change(right(*args)))
    with raises(f'layer {i}', name, question, *words) as error:
        c.conv_net(*network_and_batch('lenet in small'))
    assert len(str(error.value)) < 300 and 'np.' not in str(error.value)


def test_an_error_inside_a_layer_function_passes_unchanged(monkeypatch):
    """Its traceback ends in the student's line."""
    monkeypatch.setattr(c, 'relu_forward', lambda input, layer: 1 / 0)
    with pytest.raises(ZeroDivisionError) as error:
        c.conv_net(*network_and_batch('lenet in small', 70), threads=2)
    assert error.traceback[-1].path.name == 'test_errors.py'


# Layer functions called directly: what would give a wrong result in silence is an error, a missing key is Python's.

INPUT = structure(6, 5, 2, 3)
CONV, CONV_PARAM = conv(4, 2, group=2), random_params((4, 4))
IP, IP_PARAM = inner_product(4), random_params((60, 4))


@pytest.mark.parametrize('call, words', [
    (lambda: c.conv_layer_forward(INPUT, conv(4, 2, stride=3), random_params((8, 4))), ['k = 2', 'stride = 3', '6']),
    (lambda: c.conv_layer_forward(INPUT, conv(4, 2, group=4), CONV_PARAM), ['group = 4', 'channel = 2']),
    (lambda: c.pooling_layer_forward(INPUT, pooling(2, 2)), ['k = 2', 'stride = 2', '5']),
    (lambda: c.pooling_layer_forward(INPUT, pooling(6, 1)), ['k = 6', '5']),
    (lambda: c.pooling_layer_forward(INPUT, pooling(2, 1, pad=1)), ['pad = 1', '0']),
    (lambda: c.conv_layer_forward({**INPUT, 'height': 7}, CONV, CONV_PARAM), ['data', '(60, 3)', '70']),
    (lambda: c.pooling_layer_forward({**INPUT, 'height': 7}, pooling(2, 1)), ['data', '(60, 3)', '70']),
    (lambda: c.conv_layer_forward(INPUT, CONV, {**CONV_PARAM, 'w': np.zeros((3, 4))}), ["'w'", '(3, 4)', '(4, 4)']),
    (lambda: c.conv_layer_forward(INPUT, CONV, {**CONV_PARAM, 'b': np.zeros(1)}), ["'b'", '(1,)', '(4,)']),
    (lambda: c.inner_product_forward(INPUT, IP, {**IP_PARAM, 'w': np.zeros((60, 3))}), ["'w'", '(60, 3)', '(60, 4)']),
    (lambda: c.inner_product_forward(INPUT, IP, {**IP_PARAM, 'b': np.zeros(1)}), ["'b'", '(1,)', '(4,)']),
    # Windows of 2 x 2 at stride 1 stand at 5 x 4 places in an image of 6 x 5.
    (lambda: c.im2col_conv(structure(6, 5, 2, 1), conv(1, 2), 4, 5), ['(4, 5)', '(5, 4)']),
    (lambda: c.col2im_conv(np.zeros((8, 20)), structure(6, 5, 2, 1), conv(1, 2), 4, 5), ['(4, 5)', '(5, 4)']),
    (lambda: c.col2im_conv(np.zeros((7, 20)), structure(6, 5, 2, 1), conv(1, 2), 5, 4), ['col', '(7, 20)', '(8, 20)']),
    (lambda: c.im2col_conv(INPUT, conv(1, 2), 5, 4), ['data', '180', 'one image']),
    # Loss
    (lambda: c.mlrloss(np.zeros((5, 3)), np.zeros((4, 5)), np.zeros(5, int), 3, 1), ['wb', '(5, 3)', '(4, 5)', 'K = 3']),
    (lambda: c.mlrloss(np.zeros((5, 2)), np.zeros(4), np.zeros(1, int), 3, 1), ['X', '(4,)', '(inputs, n)']),
    (lambda: c.mlrloss(np.zeros((2, 1)), np.ones((1, 0)), np.zeros(0, int), 2, 1), ['X', '(1, 0)']),
])
def test_sizes_that_contradict_each_other(call, words):
    with raises(*words):
        call()


@pytest.mark.parametrize('forward, backward, rest', [
    (c.conv_layer_forward, c.conv_layer_backward, (CONV, CONV_PARAM)),
    (c.pooling_layer_forward, c.pooling_layer_backward, (pooling(2, 1),)),
    (c.relu_forward, c.relu_backward, (RELU,)),
    (c.inner_product_forward, c.inner_product_backward, (IP, IP_PARAM)),
])
def test_a_gradient_of_one_column_is_not_stretched_over_the_batch(forward, backward, rest):
    output = with_diff(forward(INPUT, *rest))
    with raises('diff', '1'):
        backward({**output, 'diff': output['diff'][:, :1]}, INPUT, *rest)


@pytest.mark.parametrize('call, key', [
    (lambda: c.pooling_layer_forward(INPUT, {'type': 'POOLING', 'k': 2, 'pad': 0}), 'stride'),
    (lambda: c.pooling_layer_forward(INPUT, {'type': 'POOLING', 'stride': 1, 'pad': 0}), 'k'),
    (lambda: c.conv_layer_forward({'data': INPUT['data']}, CONV, CONV_PARAM), 'height'),
    (lambda: c.conv_layer_forward(INPUT, CONV, {'w': CONV_PARAM['w']}), 'b'),
    (lambda: c.inner_product_forward(INPUT, IP, {'b': IP_PARAM['b']}), 'w'),
    (lambda: c.relu_backward({'data': INPUT['data']}, INPUT, RELU), 'diff'),
])
def test_a_missing_key_is_pythons_own_error(call, key):
    with pytest.raises(KeyError) as error:
        call()
    assert error.value.args == (key,)


@pytest.mark.parametrize('function, rest', [(c.relu_forward, ()), (c.inner_product_forward, (IP, IP_PARAM)),
                                            (c.pooling_layer_forward, (pooling(2, 1),)),
                                            (c.conv_layer_forward, (CONV, CONV_PARAM))])
def test_an_array_in_place_of_a_structure_is_not_printed(function, rest):
    with pytest.raises((TypeError, ValueError), match='dict') as error:
        function(np.random.RandomState(0).rand(784, 64), *rest)
    assert len(str(error.value)) < 200 and '\n' not in str(error.value)


# Solver, gradient check

SGD_PARAMS = {1: random_params((3, 2)), 2: random_params((4, 5))}


@pytest.mark.parametrize('name, wrong, words', [
    *((name, None, ['None']) for name in ('params', 'param_winc', 'param_grad')),
    ('params', {1: {'w': 1.0, 'b': 2.0}}, ["[1]['w']", '(3, 2)']),
    ('param_winc', {**SGD_PARAMS, 2: {'w': np.ones((4, 5)), 'b': np.ones(1)}}, ["[2]['b']", '(1,)', '(5,)']),
    ('param_grad', {1: SGD_PARAMS[1]}, ['2']),
    ('param_grad', {1: SGD_PARAMS[1], 2: None}, ['2']),
])
def test_sgd_momentum_wants_dicts_of_equal_shapes(name, wrong, words):
    """An array of one element is not stretched."""
    dicts = {'params': SGD_PARAMS, 'param_winc': SGD_PARAMS, 'param_grad': SGD_PARAMS, name: wrong}
    with raises(name, *words, error=(TypeError, ValueError)):
        c.sgd_momentum(0.1, 0.2, 0.9, 0, **dicts)


@pytest.mark.parametrize('output, h, forward, words', [
    (with_diff(INPUT), 0, c.relu_forward, ['h', '0', '1e-6']),
    (with_diff(INPUT), 1e-6, lambda x: c.pooling_layer_forward(x, pooling(2, 1)), ['diff', '(60, 3)', '(40, 3)']),
    (INPUT, 1e-6, c.relu_forward, ["'diff'", 'expected']),
])
def test_finite_difference_wants_a_step_and_a_diff(output, h, forward, words):
    with raises(*words):
        c.finite_difference(output, INPUT, h, forward)
