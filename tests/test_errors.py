"""Bad arguments: an error that names the thing, what was found and what was expected. Every rule once."""

import functools
import threading
import time

import numpy as np
import pytest
from helpers import conv, loss, network, network_and_batch, pooling, raises, random_params, structure, with_diff

import cnn_lenet as c


def init(i, layer):
    """A network whose layer i is wrong. It is DATA 10x10x1, CONV k 3, POOLING 2/2, CONV k 3, POOLING 2/2, IP, RELU,
    LOSS."""
    return c.init_convnet({**network('lenet in small'), i: layer})


def train(**wrong):
    """conv_net on five images with some of its arguments replaced: params, data, labels."""
    params, layers, data, labels = network_and_batch('lenet in small')
    return c.conv_net(*{'params': params, 'layers': layers, 'data': data, 'labels': labels, **wrong}.values())


def params(i, **wrong):
    right = network_and_batch('lenet in small')[0]
    return {**right, i: {**right[i], **wrong}}


KINDS = ['DATA', 'CONV', 'POOLING', 'IP', 'RELU', 'LOSS']
LABELS = [0, 1, 2, 0, 1]
INPUT = structure(6, 5, 2, 3)
CONV, CONV_PARAM = conv(4, 2, group=2), random_params((4, 4))
IP, IP_PARAM = {'type': 'IP', 'num': 4}, random_params((60, 4))

RULES = [
    # Layers: types and order
    (lambda: init(3, {'type': 'TANH'}), ['layer 3', "'TANH'", *KINDS]),
    (lambda: init(3, None), ['layer 3', 'type', *KINDS]),
    (lambda: init(1, conv(2, 3)), ['layer 1', "'CONV'", "'DATA'"]),
    (lambda: init(8, IP), ['layer 8', "'IP'", "'LOSS'"]),
    (lambda: init(0, loss(3)), ['layers', '0', 'integers', '1']),
    (lambda: c.init_convnet({}), ['layers', 'a dict', 'integers 1, 2']),
    (lambda: c.init_convnet(None), ['layers', 'None']),
    # Layers: values
    (lambda: init(1, {**network('lenet in small')[1], 'height': 0}), ['layer 1', 'height = 0', 'at least 1']),
    (lambda: init(2, conv(2.5, 3)), ['layer 2', 'num = 2.5', 'whole number']),
    (lambda: init(2, conv(2, 3, stride=0)), ['layer 2', 'stride = 0', 'at least 1']),
    (lambda: init(2, conv(2, 3, pad=-1)), ['layer 2', 'pad = -1', 'at least 0']),
    (lambda: init(2, conv(2, 3, group=0)), ['layer 2', 'group = 0', 'at least 1']),
    (lambda: init(6, {**IP, 'init_type': 'normal'}), ['layer 6', "'normal'", "'uniform'", "'gaussian'"]),
    (lambda: init(8, loss(1)), ['layer 8', 'num = 1', 'at least 2']),
    # Layers: windows and groups
    (lambda: init(2, conv(2, 5, stride=4, pad=1)), ['layer 2', 'CONV', 'k = 5', 'stride = 4', 'tile', '12']),
    (lambda: init(3, pooling(3, 2)), ['layer 3', 'POOLING', 'k = 3', 'stride = 2', 'tile', '8']),
    (lambda: init(2, conv(2, 15, pad=2)), ['layer 2', 'CONV', 'k = 15', 'larger', '14']),
    (lambda: init(3, pooling(2, 2, pad=1)), ['layer 3', 'POOLING', 'pad = 1', '0']),
    (lambda: init(2, conv(2, 3, group=2)), ['layer 2', 'CONV', 'group = 2', 'channel = 1', 'divide']),
    (lambda: init(4, conv(3, 3, group=2)), ['layer 4', 'CONV', 'group = 2', 'num = 3', 'divide']),
    # Parameters
    (lambda: train(params=params(1, w=np.zeros((8, 2)))), ["params[1]['w']", 'CONV', '(8, 2)', '(9, 2)']),
    (lambda: train(params=params(1, b=np.zeros(1))), ["params[1]['b']", 'CONV', '(1,)', '(2,)']),
    (lambda: train(params=params(5, w=np.zeros((5, 3)))), ["params[5]['w']", 'IP', '(5, 3)', '(3, 5)']),
    (lambda: train(params={**params(1), 5: None}), ['params[5]', 'IP']),
    (lambda: train(params={1: params(1)[1]}), ["params[3]['w']", 'CONV']),
    (lambda: train(params=None), ['params', 'None', 'dict']),
    # Data and labels
    (lambda: train(data=np.zeros((101, 5))), ['data', '(101, 5)', '100', 'height 10', 'width 10', 'channel 1']),
    (lambda: train(data=np.zeros((100, 0)), labels=[]), ['data', 'at least one']),
    (lambda: train(data=np.zeros((100, 6)), labels=[*LABELS, 0]), ['data', '6 columns', "layers[1]['batch_size'] = 5"]),
    (lambda: train(labels=np.zeros(4, int)), ['labels', '(4,)', '(5,)']),
    (lambda: train(labels=[0, 1, 2, 3, 0]), ['label 3', 'position 3', '0..2']),
    (lambda: train(labels=[0, -1, 2, 0, 7]), ['label -1', 'position 1', '0..2']),
    (lambda: train(labels=[0, 1, 0.5, 0, 1]), ['labels', 'whole numbers']),
    (lambda: train(labels=[0, 1, None, 0, 1]), ['labels', 'whole numbers']),
    (lambda: c.mlrloss(np.zeros((5, 2)), np.zeros((4, 5)), [0, 1, 2, 3, 0], 3, 1), ['label 3', 'position 3', '0..2']),
    (lambda: c.mlrloss(np.zeros((5, 3)), np.zeros((4, 5)), LABELS, 3, 1), ['wb', '(5, 3)', '(4, 5)', 'K = 3']),
    (lambda: c.mlrloss(np.zeros((5, 2)), np.zeros(4), [0], 3, 1), ['X', '(4,)', '(inputs, n)']),
    (lambda: c.predict(*network_and_batch('lenet in small')[:3], threads=0), ['threads', '0', 'at least 1']),
    # The fifth argument of an older driver's conv_net
    (lambda: c.conv_net(*network_and_batch('lenet in small'), True), ['threads', 'True', 'whole number']),
    # Layer functions called directly: what would otherwise give a wrong result in silence
    (lambda: c.conv_layer_forward(INPUT, conv(4, 2, stride=3), random_params((8, 4))), ['k = 2', 'stride = 3', '6']),
    (lambda: c.conv_layer_forward(INPUT, CONV, {**CONV_PARAM, 'w': np.zeros((3, 4))}), ["'w'", '(3, 4)', '(4, 4)']),
    (lambda: c.conv_layer_forward(INPUT, CONV, {**CONV_PARAM, 'b': np.zeros(1)}), ["'b'", '(1,)', '(4,)']),
    (lambda: c.pooling_layer_forward(INPUT, pooling(2, 2)), ['k = 2', 'stride = 2', '5']),
    (lambda: c.inner_product_forward(INPUT, IP, {**IP_PARAM, 'w': np.zeros((60, 3))}), ["'w'", '(60, 3)', '(60, 4)']),
    (lambda: c.inner_product_forward(INPUT, IP, {**IP_PARAM, 'b': np.zeros(1)}), ["'b'", '(1,)', '(4,)']),
    # Gradient check
    (lambda: c.finite_difference(with_diff(INPUT), INPUT, 1e-6, lambda x: c.pooling_layer_forward(x, pooling(2, 1))),
     ['diff', '(60, 3)', '(40, 3)']),
]


@pytest.mark.parametrize('call, words', RULES, ids=[', '.join(words) for _, words in RULES])
def test_every_rule(call, words):
    with raises(*words):
        call()


@pytest.mark.parametrize('i, key', [(i, key) for i in (1, 2, 3, 6, 8) for key in network('lenet in small')[i]
                                    if key not in ('type', 'group', 'init_type')])
def test_a_layer_that_lacks_a_key(i, key):
    layers = network('lenet in small')
    del layers[i][key]
    with raises(f"layer {i} ({layers[i]['type']}) lacks the key '{key}'"):
        c.init_convnet(layers)


@pytest.mark.parametrize('call', [c.forward, c.predict, lambda *args: c.conv_net(*args, LABELS)])
def test_every_function_of_a_network_checks_its_arguments(call):
    params, layers, data, _ = network_and_batch('lenet in small')
    with raises("layer 3 (POOLING) lacks the key 'stride'"):
        call(params, {**layers, 3: {'type': 'POOLING', 'k': 2, 'pad': 0}}, data)
    with raises('params[1]', '(9, 2)'):
        call({**params, 1: {**params[1], 'w': np.zeros((8, 2))}}, layers, data)
    with raises('data', '(99, 5)', '100'):
        call(params, layers, data[:-1])


@pytest.mark.parametrize('forward, backward, rest', [
    (c.conv_layer_forward, c.conv_layer_backward, (CONV, CONV_PARAM)),
    (c.pooling_layer_forward, c.pooling_layer_backward, (pooling(2, 1),)),
    (c.relu_forward, c.relu_backward, ()),
    (c.inner_product_forward, c.inner_product_backward, (IP, IP_PARAM)),
])
def test_a_gradient_of_one_column_is_not_stretched_over_the_batch(forward, backward, rest):
    output = with_diff(forward(INPUT, *rest))
    with raises('diff', '1'):
        backward({**output, 'diff': output['diff'][:, :1]}, INPUT, *rest)


def test_a_missing_key_in_a_layer_function_is_pythons_own_error():
    with pytest.raises(KeyError, match='^\'diff\'$'):
        c.relu_backward({'data': INPUT['data']}, INPUT)


# What a layer function returns is checked where the network calls it: students write six of them.

@pytest.mark.parametrize('i, name, change, words', [
    (3, 'pooling_layer_forward', lambda output: None, ['None', 'data']),
    (3, 'pooling_layer_forward', lambda output: {**output, 'data': output['data'][1:]}, ['(31, 5)', '(32, 5)']),
    (7, 'relu_backward', lambda od: od[:, :1], ['(5, 1)', '(5, 5)']),
    (7, 'relu_forward', lambda output: {'data': output['data'].view(np.matrix)}, ['np.matrix', 'plain array']),
    (6, 'inner_product_backward', lambda pair: pair[::-1], ['param_grad, input_od', 'two results are swapped']),
    (6, 'inner_product_backward', lambda pair: ({**pair[0], 'w': pair[0]['w'].T}, pair[1]), ['(5, 3)', '(3, 5)']),
])
def test_what_a_layer_function_returns(monkeypatch, i, name, change, words):
    right = getattr(c, name)

    @functools.wraps(right)                            # which has its name
    def wrong(*args):
        return change(right(*args))

    monkeypatch.setattr(c, name, wrong)
    with raises(f'layer {i}', name, *words):
        train()


def test_an_error_inside_a_layer_function_passes_unchanged(monkeypatch):
    """Its traceback ends in the student's line."""
    monkeypatch.setattr(c, 'relu_forward', lambda input, layer: 1 / 0)
    with pytest.raises(ZeroDivisionError) as error:
        c.conv_net(*network_and_batch('lenet in small', 70), threads=2)
    assert error.traceback[-1].path.name == 'test_errors.py'


@pytest.mark.parametrize('n, threads', [(70, 3), (130, 2)])
def test_after_an_error_no_other_thread_is_at_work(monkeypatch, n, threads):
    """conv_net raises once every block that was begun has ended; n images are 3 or 5 blocks."""
    relu_forward, count = c.relu_forward, threading.Lock()
    both, begun, ended = threading.Barrier(2), [], []

    def failing_relu(input, layer):
        with count:
            begun.append(1)
            number = len(begun)
        if number <= 2:
            both.wait(60)                              # two blocks are at work when the first of them fails
        if number == 1:
            raise ZeroDivisionError
        time.sleep(0.1)
        ended.append(1)
        return relu_forward(input, layer)

    monkeypatch.setattr(c, 'relu_forward', failing_relu)
    with pytest.raises(ZeroDivisionError):
        c.conv_net(*network_and_batch('lenet in small', n), threads=threads)
    assert 1 <= len(begun) - 1 == len(ended)
