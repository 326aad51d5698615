"""Bad arguments: a ValueError that names the thing, what was found and what was expected."""

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

from cnn_lenet import (
    col2im_conv,
    conv_layer_backward,
    conv_layer_forward,
    conv_net,
    finite_difference,
    forward,
    im2col_conv,
    init_convnet,
    inner_product_backward,
    inner_product_forward,
    mlrloss,
    pooling_layer_backward,
    pooling_layer_forward,
    predict,
    relu_backward,
    relu_forward,
    sgd_momentum,
)

# Layers. 'lenet in small' is DATA 10x10x1, CONV k 3, POOLING 2/2, CONV k 3, POOLING 2/2, IP, RELU, LOSS.

KINDS = ['DATA', 'CONV', 'POOLING', 'IP', 'RELU', 'LOSS']
WRONG_LAYERS = [
    # layer, its new content, words of the message
    (3, {'type': 'TANH'}, ['layer 3', "'TANH'", *KINDS]),
    (3, {'type': 'pooling', 'k': 2, 'stride': 2, 'pad': 0}, ['layer 3', "'pooling'", *KINDS]),
    (3, {}, ['layer 3', 'type', *KINDS]),
    (3, None, ['layer 3', 'type', *KINDS]),
    (3, {**pooling(2, 2), 'strides': 2}, ['layer 3', 'POOLING', "'strides'", 'stride']),
    (7, {**RELU, 'num': 3}, ['layer 7', 'RELU', "'num'"]),
    (1, conv(2, 3), ['layer 1', "'CONV'", "'DATA'"]),
    (8, inner_product(3), ['layer 8', "'IP'", "'LOSS'"]),
    (8, RELU, ['layer 8', "'RELU'", "'LOSS'"]),
    (6, loss(3), ['layer 6', "'LOSS'", 'last']),
    (3, data_layer(8, 8, 2, 5), ['layer 3', "'DATA'", 'first']),
    # windows
    (2, conv(2, 3, stride=2), ['layer 2', 'CONV', 'k = 3', 'stride = 2', 'tile', '10']),
    (2, conv(2, 5, stride=4, pad=1), ['layer 2', 'CONV', 'k = 5', 'stride = 4', 'tile', '12']),
    (3, pooling(3, 2), ['layer 3', 'POOLING', 'k = 3', 'stride = 2', 'tile', '8']),
    (2, conv(2, 11), ['layer 2', 'CONV', 'k = 11', 'larger', '10']),
    (2, conv(2, 15, pad=2), ['layer 2', 'CONV', 'k = 15', 'larger', '14']),
    (3, pooling(9, 1), ['layer 3', 'POOLING', 'k = 9', 'larger', '8']),
    (5, pooling(3, 1), ['layer 5', 'POOLING', 'k = 3', 'larger', '2']),
    (3, pooling(2, 2, pad=1), ['layer 3', 'POOLING', 'pad = 1', '0', 'no padding']),
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


def call_all(params, layers, data, labels):
    """One call of each function that takes layers."""
    return [lambda: init_convnet(layers, rng=np.random.RandomState(0)), lambda: forward(params, layers, data),
            lambda: predict(params, layers, data), lambda: conv_net(params, layers, data, labels)]


def check_layers(layers, words):
    params, _, data, labels = network_and_batch('lenet in small')
    for call in call_all(params, layers, data, labels):
        with raises(*words):
            call()


@pytest.mark.parametrize('i, layer, words', WRONG_LAYERS, ids=str)
def test_layers_that_make_no_network(i, layer, words):
    check_layers({**network('lenet in small'), i: layer}, words)


@pytest.mark.parametrize('i, key', [(i, key) for i, layer in network('lenet in small').items() for key in layer])
def test_every_key_of_every_layer_is_needed(i, key):
    layers = network('lenet in small')
    kind = layers[i]['type']
    del layers[i][key]
    check_layers(layers, [f'layer {i}', 'type' if key == 'type' else repr(key), *([kind] if key != 'type' else KINDS)])


@pytest.mark.parametrize('rename', [
    lambda i: i - 1,                                             # from 0
    lambda i: str(i),
    lambda i: i if i < 4 else i + 1,                             # a gap
])
def test_layers_have_the_keys_1_to_l(rename):
    layers = {rename(i): layer for i, layer in network('lenet in small').items()}
    check_layers(layers, [repr(list(layers)), 'integers', '1'])


def test_data_alone_is_no_network():
    check_layers({1: data_layer(10, 10, 1, 5)}, ['layer 1', "'DATA'", "'LOSS'"])


# Parameters, data and labels

def functions_of_params(params, layers, data, labels):
    return call_all(params, layers, data, labels)[1:]


@pytest.mark.parametrize('key, inner, shape, expected', [
    (1, 'w', (8, 2), (9, 2)), (1, 'w', (9, 3), (9, 2)), (1, 'w', (18,), (9, 2)), (1, 'b', (1,), (2,)),
    (1, 'b', (2, 1), (2,)), (3, 'w', (9, 3), (18, 3)), (5, 'w', (5, 3), (3, 5)), (5, 'b', (6,), (5,)),
    (7, 'w', (5, 3), (5, 2)), (7, 'b', (3,), (2,)), (7, 'w', (0,), (5, 2)),
])
def test_shapes_of_parameters(key, inner, shape, expected):
    params, layers, data, labels = network_and_batch('lenet in small')
    params[key][inner] = np.zeros(shape)
    for call in functions_of_params(params, layers, data, labels):
        with raises(f'params[{key}][{inner!r}]', layers[key + 1]['type'], str(shape), str(expected)):
            call()


@pytest.mark.parametrize('key, inner', [(1, 'w'), (3, 'b'), (5, None), (7, None)])
def test_missing_parameters(key, inner):
    params, layers, data, labels = network_and_batch('lenet in small')
    if inner is None:
        del params[key]
    else:
        del params[key][inner]
    for call in functions_of_params(params, layers, data, labels):
        with raises(f'params[{key}][{inner or "w"!r}]', layers[key + 1]['type'], 'missing'):
            call()


@pytest.mark.parametrize('shape', [(99, 5), (101, 5), (100,), (10, 10, 5), (5, 100)])
def test_rows_of_data(shape):
    params, layers, _, labels = network_and_batch('lenet in small')
    for call in functions_of_params(params, layers, np.zeros(shape), labels):
        with raises('data', str(shape), '100', 'height 10', 'width 10', 'channel 1'):
            call()


def test_data_without_images():
    params, layers, data, labels = network_and_batch('lenet in small')
    for call in functions_of_params(params, layers, data[:, :0], labels[:0]):
        with raises('data', '0 columns', 'at least one'):
            call()


@pytest.mark.parametrize('columns, batch_size', [(4, 5), (6, 5), (1, 64)])
def test_batch_size_is_the_number_of_columns(columns, batch_size):
    params, _, data, labels = network_and_batch('lenet in small', columns)
    with raises("layers[1]['batch_size']", str(batch_size), f'{columns} columns'):
        conv_net(params, network('lenet in small', batch_size), data, labels)


@pytest.mark.parametrize('shape', [(4,), (6,), (0,), (5, 1), (1, 5), ()])
def test_one_label_a_column(shape):
    params, layers, data, _ = network_and_batch('lenet in small')
    labels = np.zeros(shape, int)
    with raises('labels', str(shape), '(5,)'):
        conv_net(params, layers, data, labels)
    with raises('labels', str(shape), '(5,)'):
        mlrloss(np.zeros((5, 2)), np.zeros((4, 5)), labels, 3, 1)


@pytest.mark.parametrize('labels, words', [
    ([0, 1, 2, 3, 0], ['3', 'position 3', '0..2']),
    ([0, -1, 2, 0, 7], ['-1', 'position 1', '0..2']),
    ([0., 1, 3, 0, 1], ['3', 'position 2', '0..2']),
    ([0, 1, 0.5, 0, 1], ['float64', 'whole numbers']),
    ([0, 1, np.nan, 0, 1], ['float64', 'whole numbers']),
    ([0, 1, np.inf, 0, 1], ['float64', 'whole numbers']),
    ([True, False, True, True, False], ['bool', 'whole numbers']),
    (['0', '1', '2', '0', '1'], ["'0'", 'whole numbers']),
    ([0, 1, None, 0, 1], ['object', 'whole numbers']),
    ([0j, 1, 2, 0, 1], ['complex128', 'whole numbers']),
])
def test_labels_are_whole_numbers_of_classes(labels, words):
    params, layers, data, _ = network_and_batch('lenet in small')
    with raises(*words):
        conv_net(params, layers, data, np.array(labels))
    with raises(*words):
        mlrloss(np.zeros((5, 2)), np.zeros((4, 5)), np.array(labels), 3, 1)


def test_a_label_in_a_later_block_is_checked_too():
    params, layers, data, labels = network_and_batch('lenet in small', 70)
    labels[69] = 3
    with raises('label 3', 'position 69', '0..2'):
        conv_net(params, layers, data, labels)


# Layer functions. Each is called with one argument changed.

INPUT = structure(6, 5, 2, 3)
LAYER_CALLS = {
    'conv': (conv_layer_forward, conv_layer_backward, (conv(4, 2, group=2), random_params((4, 4)))),
    'pooling': (pooling_layer_forward, pooling_layer_backward, (pooling(2, 1),)),
    'relu': (relu_forward, relu_backward, (RELU,)),
    'inner product': (inner_product_forward, inner_product_backward, (inner_product(4), random_params((60, 4)))),
}


@pytest.mark.parametrize('name', LAYER_CALLS)
@pytest.mark.parametrize('changed, words', [
    ({'height': 7}, ['(60, 3)', '70', 'height 7']),
    ({'channel': 4}, ['(60, 3)', '120', 'channel 4']),
    ({'data': np.zeros((59, 3))}, ['(59, 3)', '60']),
    ({'data': np.zeros(60)}, ['(60,)', '60']),
    ({'data': np.zeros((6, 5, 2, 3))}, ['(6, 5, 2, 3)', '60']),
    ({'batch_size': 4}, ['3 columns', 'batch_size = 4']),
])
def test_a_structure_that_contradicts_its_data(name, changed, words):
    forward, backward, rest = LAYER_CALLS[name]
    output = with_diff(forward(INPUT, *rest))
    with raises('data', *words):
        forward({**INPUT, **changed}, *rest)
    with raises('data', *words):
        backward(output, {**INPUT, **changed}, *rest)


@pytest.mark.parametrize('name', LAYER_CALLS)
@pytest.mark.parametrize('change', [lambda d: d[:-1], lambda d: d[:, :-1], lambda d: d.ravel(), lambda d: d[:, :1]])
def test_shape_of_diff(name, change):
    """A gradient of one column is not stretched over the batch."""
    forward, backward, rest = LAYER_CALLS[name]
    output = with_diff(forward(INPUT, *rest))
    wrong = change(output['diff'])
    rows = output['data'].shape[0]
    with pytest.raises(ValueError, match='diff') as error:
        backward({**output, 'diff': wrong}, INPUT, *rest)
    assert any(found in str(error.value) for found in (str(wrong.shape), f'{wrong.shape[-1]} columns'))
    assert any(expected in str(error.value) for expected in (str(output['diff'].shape), str(rows), 'batch_size = 3'))


@pytest.mark.parametrize('name, layer, words', [
    ('conv', conv(4, 2, stride=3, group=2), ['k = 2', 'stride = 3', 'tile', '6']),
    ('conv', conv(4, 2, stride=4, pad=1, group=2), ['k = 2', 'stride = 4', 'tile', '8']),
    ('conv', conv(4, 7, group=2), ['k = 7', 'larger', '6']),
    ('conv', conv(4, 2, group=4), ['group = 4', 'channel = 2', 'divide']),
    ('conv', conv(3, 2, group=2), ['group = 2', 'num = 3', 'divide']),
    ('pooling', pooling(2, 2), ['k = 2', 'stride = 2', 'tile', '5']),
    ('pooling', pooling(6, 1), ['k = 6', 'larger', '5']),
    ('pooling', pooling(2, 1, pad=1), ['pad = 1', '0', 'no padding']),
])
def test_windows_and_groups(name, layer, words):
    forward, backward, rest = LAYER_CALLS[name]
    output = with_diff(forward(INPUT, *rest))
    with raises(*words):
        forward(INPUT, layer, *rest[1:])
    with pytest.raises(ValueError):
        backward(output, INPUT, layer, *rest[1:])


@pytest.mark.parametrize('name', ['conv', 'inner product'])
@pytest.mark.parametrize('key', 'wb')
def test_shapes_of_a_layers_parameters(name, key):
    forward, backward, (layer, param) = LAYER_CALLS[name]
    output = with_diff(forward(INPUT, layer, param))
    wrong = {**param, key: param[key][:-1]}
    words = f'param[{key!r}]', str(wrong[key].shape), str(param[key].shape)
    with raises(*words):
        forward(INPUT, layer, wrong)
    with raises(*words):
        backward(output, INPUT, layer, wrong)


def test_pooling_output_of_another_size():
    """Windows of 2 give 5 x 4, windows of 5 give 2 x 1."""
    output = with_diff(pooling_layer_forward(INPUT, pooling(2, 1)))
    with raises('output', '(40, 3)', '(4, 3)'):
        pooling_layer_backward(output, INPUT, pooling(5, 1))


@pytest.mark.parametrize('size', [(4, 4), (5, 5), (4, 5)])
def test_number_of_windows_of_im2col_and_col2im(size):
    """Windows of 2 x 2 at stride 1 stand at 5 x 4 places in an image of 6 x 5."""
    one = structure(6, 5, 2, 1)
    with raises(str(size), '(5, 4)'):
        im2col_conv(one, conv(1, 2), *size)
    with raises(str(size), '(5, 4)'):
        col2im_conv(np.zeros((8, size[0] * size[1])), one, conv(1, 2), *size)


def test_im2col_takes_one_image():
    with raises('180', '6 * 5 * 2'):
        im2col_conv(INPUT, conv(1, 2), 5, 4)


def test_shape_of_col():
    with raises('col', '(7, 20)', '(8, 20)'):
        col2im_conv(np.zeros((7, 20)), structure(6, 5, 2, 1), conv(1, 2), 5, 4)


# Loss, solver, gradient check

@pytest.mark.parametrize('shape', [(5, 3), (4, 2), (5,), (6, 2)])
def test_shape_of_wb(shape):
    with raises('wb', str(shape), '(4, 5)', 'K = 3'):
        mlrloss(np.zeros(shape), np.zeros((4, 5)), np.zeros(5, int), 3, 1)


def test_X_of_one_dimension():
    with raises('X', '(4,)', '(inputs, n)'):
        mlrloss(np.zeros((5, 2)), np.zeros(4), np.zeros(1, int), 3, 1)


@pytest.mark.parametrize('name', ['params', 'param_winc', 'param_grad'])
@pytest.mark.parametrize('key, shape', [('w', (4, 5)), ('b', (5,))])
def test_sgd_momentum_wants_equal_shapes(name, key, shape):
    """An array of one element is not stretched."""
    dicts = {each: {1: random_params((3, 2)), 2: random_params((4, 5))} for each in ('params', 'param_winc',
                                                                                  'param_grad')}
    dicts[name][2][key] = np.zeros(1)
    with raises(f'[2][{key!r}]', '(1,)', str(shape), *dicts, 'same shape'):
        sgd_momentum(0.1, 0.2, 0.9, 0, **dicts)


def test_finite_difference_wants_a_step():
    output = with_diff(relu_forward(INPUT, RELU))
    with raises('h', '0', '1e-6'):
        finite_difference(output, INPUT, 0)


def test_finite_difference_wants_a_diff_of_the_outputs_shape():
    output = with_diff(relu_forward(INPUT, RELU))
    with raises('diff', '(60, 3)', '(40, 3)'):
        finite_difference(output, INPUT, 1e-6, lambda x: pooling_layer_forward(x, pooling(2, 1)))
