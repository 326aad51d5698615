"""What else users and graders do to these functions: odd arguments, damaged files, values at the edge."""

import warnings

import numpy as np
import pytest
from helpers import (
    RELU,
    arrays,
    conv,
    inner_product,
    network,
    network_and_batch,
    pooling,
    raises,
    random_params,
    structure,
    with_diff,
)

import cnn_lenet as c


@pytest.fixture
def mnist_file(tmp_path, monkeypatch):
    whole = c.MNIST_FILE.read_bytes()
    path = tmp_path / 'mnist_all.mat'
    monkeypatch.setattr(c, 'MNIST_FILE', path)
    return path, whole


def test_missing_file_is_a_FileNotFoundError_that_names_the_variables(mnist_file):
    with pytest.raises(FileNotFoundError, match=r'train0.*test9.*mnist_all\.mat'):
        c.load_mnist()


@pytest.mark.parametrize('share, variable', [(0, 'train0'), (0.5, 'train5'), (0.9, 'test2'), (0.999, 'test9')])
def test_truncated_file_names_the_variable(mnist_file, share, variable):
    path, whole = mnist_file
    path.write_bytes(whole[:int(share * len(whole))])
    with pytest.raises(ValueError, match=rf'mnist_all\.mat.*{variable}'):
        c.load_mnist()


@pytest.mark.parametrize('content', [b'5' * 1000, b'\x89HDF\r\n\x1a\n' + bytes(1000)])
def test_foreign_format_names_the_variables(mnist_file, content):
    mnist_file[0].write_bytes(content)
    with pytest.raises(ValueError, match=r'mnist_all\.mat.*train0'):
        c.load_mnist()


@pytest.mark.parametrize('empty', ['missing', None, {}])
def test_params_may_leave_out_the_layers_that_have_none(empty):
    params, layers, data, labels = network_and_batch('lenet in small')
    changed = {i: p for i, p in params.items() if p['w'].size}
    if empty != 'missing':
        changed = {**{i: empty for i in params}, **changed}
    cp, grad = c.conv_net(changed, layers, data, labels)
    expected_cp, expected = c.conv_net(params, layers, data, labels)
    assert cp == expected_cp
    for found, array in zip(arrays(grad), arrays(expected)):
        np.testing.assert_array_equal(found, array)


def test_percent_of_right_answers_alone_is_1():
    params, layers, data, _ = network_and_batch('two classes', 107)
    answers = c.predict(params, layers, data).argmax(axis=0)
    assert c.conv_net(params, layers, data, answers)[0]['percent'] == 1


def test_forward_owns_its_memory():
    params, layers, data, _ = network_and_batch('lenet in small')
    assert not np.shares_memory(c.forward(params, layers, data)[1]['data'], data)


@pytest.mark.parametrize('call', [
    lambda params, layers, data, labels: c.conv_net(params, layers, data.tolist(), labels),
    lambda params, layers, data, labels: c.predict(params, layers, data.tolist()),
    lambda params, layers, data, labels: c.forward(params, layers, data.tolist())])
def test_data_as_a_list(call):
    """Taken, or refused by name."""
    try:
        call(*network_and_batch('lenet in small'))
    except (ValueError, TypeError) as error:
        assert 'data' in str(error) and 'list' in str(error)


def test_structure_data_and_w_as_lists():
    input = structure(2, 2, 1, 1)
    for call in (lambda: c.relu_forward({**input, 'data': input['data'].tolist()}, RELU),
                 lambda: c.inner_product_forward(input, inner_product(1), {'w': [[1.]] * 4, 'b': [0.]}),
                 lambda: c.conv_layer_forward(input, conv(1, 2), {'w': [[1.]] * 4, 'b': [0.]})):
        try:
            call()
        except (ValueError, TypeError) as error:
            assert 'list' in str(error)


@pytest.mark.parametrize('layers', [{}, None, [1, 2]])
def test_layers_that_are_no_network(layers):
    with raises('layers', repr(layers)):
        c.init_convnet(layers)


def test_unhashable_type():
    with raises('layer 3', 'POOLING'):
        c.init_convnet({**network('lenet in small'), 3: {**pooling(2, 2), 'type': ['POOLING']}})


def test_whole_number_images_and_filters_with_a_float_bias():
    input = {'height': 2, 'width': 2, 'channel': 1, 'batch_size': 1, 'data': np.array([[1], [2], [3], [4]])}
    out = c.conv_layer_forward(input, conv(1, 2), {'w': np.ones((4, 1), int), 'b': np.array([0.5])})
    assert out['data'] == 10.5


def test_a_huge_float_label_is_named_as_it_is():
    params, layers, data, _ = network_and_batch('lenet in small')
    with raises('1e+300', '0..2'):
        c.conv_net(params, layers, data, np.full(5, 1e300))


def test_an_infinite_gradient_stays_where_it_is():
    input = {'height': 2, 'width': 2, 'channel': 1, 'batch_size': 1, 'data': np.array([[1.], [2.], [-3.], [4.]])}
    od = c.relu_backward({'diff': np.full((4, 1), np.inf)}, input, RELU)
    np.testing.assert_array_equal(od, [[np.inf], [np.inf], [0], [np.inf]])


def test_the_callers_errstate_holds_in_every_thread():
    params, layers, data, labels = network_and_batch('lenet in small', 70, dtype=np.float32)
    with warnings.catch_warnings(record=True) as seen, np.errstate(all='ignore'):
        warnings.simplefilter('always')
        c.conv_net(params, layers, data * np.float32(3e38), labels)
    assert not seen


@pytest.mark.parametrize('layer, words', [
    (conv(4, 7, group=2), ['k = 7', 'larger']), (conv(4, 2, group=4), ['group = 4', 'channel = 2']),
    (conv(3, 2, group=2), ['group = 2', 'num = 3'])])
def test_conv_backward_blames_the_layer_not_the_parameters(layer, words):
    input, param = structure(6, 5, 2, 3), random_params((4, 4))
    output = with_diff(c.conv_layer_forward(input, conv(4, 2, group=2), param))
    with raises(*words):
        c.conv_layer_backward(output, input, layer, param)


@pytest.mark.parametrize('key', ['k', 'stride', 'pad', 'group', 'num'])
def test_a_layer_function_called_with_a_key_missing(key):
    layer = conv(4, 2, group=2)
    del layer[key]
    with raises(repr(key)):
        c.conv_layer_forward(structure(6, 5, 2, 3), layer, random_params((4, 4)))


@pytest.mark.parametrize('layer', [pooling(2, 0), pooling(2, -1), pooling(0, 1), pooling(2.0, 1), pooling(2, 1.0)])
def test_a_layer_function_called_with_a_value_out_of_range(layer):
    with pytest.raises(ValueError, match='(k|stride) = .*expected'):
        c.pooling_layer_forward(structure(6, 5, 2, 3), layer)


@pytest.mark.parametrize('layer', [conv(4, 2, stride=0), conv(4, 2, pad=-1), conv(4, 2, group=0)])
def test_a_conv_function_called_with_a_value_out_of_range(layer):
    with pytest.raises(ValueError, match='(stride|pad|group) = .*expected'):
        c.conv_layer_forward(structure(6, 5, 2, 3), layer, random_params((8, 4)))


@pytest.mark.parametrize('key', ['height', 'batch_size', 'data'])
def test_a_structure_with_a_key_missing(key):
    input = structure(2, 2, 1, 1)
    del input[key]
    with raises(repr(key)):
        c.relu_forward(input, RELU)


def test_a_backward_call_without_diff():
    input = structure(2, 2, 1, 1)
    with raises("'diff'"):
        c.relu_backward(c.relu_forward(input, RELU), input, RELU)


def test_sgd_momentum_names_what_is_missing():
    params = {1: random_params((3, 2)), 2: random_params((4, 5))}
    with raises('param_grad', '2'):
        c.sgd_momentum(.1, .1, .9, 0, params, params, {1: params[1]})


def test_gradients_of_layers_without_parameters_have_the_parameters_precision():
    params, layers, data, labels = network_and_batch('lenet in small', dtype=np.float32)
    _, grad = c.conv_net(params, layers, np.abs(9 * data).astype(np.uint8), labels)
    assert {a.dtype for a in arrays(grad)} == {np.dtype(np.float32)}


def test_pooling_backward_of_a_nan_window_keeps_the_gradient():
    input = {'height': 2, 'width': 2, 'channel': 1, 'batch_size': 1, 'data': np.array([[1.], [np.nan], [3.], [4.]])}
    output = {**c.pooling_layer_forward(input, pooling(2, 2)), 'diff': np.array([[5.]])}
    np.testing.assert_array_equal(c.pooling_layer_backward(output, input, pooling(2, 2)), [[0], [5], [0], [0]])


def test_pooling_backward_goes_by_the_input_not_by_what_output_holds():
    input = structure(2, 2, 1, 1)
    output = with_diff(c.pooling_layer_forward(input, pooling(2, 2)))
    expected = c.pooling_layer_backward(output, input, pooling(2, 2))
    found = c.pooling_layer_backward({**output, 'data': output['data'] + 1e-9}, input, pooling(2, 2))
    np.testing.assert_array_equal(found, expected)


def test_mlrloss_of_no_images():
    with pytest.raises(ValueError, match='X'):
        c.mlrloss(np.zeros((2, 1)), np.ones((1, 0)), np.zeros(0, int), 2, 1)


@pytest.mark.parametrize('call', [lambda: c.init_convnet(network('lenet in small'), dtype=int),
                                  lambda: c.load_mnist(False, dtype=int)])
def test_dtype_is_a_float_type(call):
    with pytest.raises((ValueError, TypeError), match='dtype.*int.*expected'):
        call()
