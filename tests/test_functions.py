"""What holds for every function: arguments stay as they were, results own their memory, the precision is kept."""

import copy

import numpy as np
import pytest
from helpers import (
    RELU,
    arrays,
    assert_same,
    conv,
    inner_product,
    map_arrays,
    network_and_batch,
    pooling,
    random_params,
    structure,
    with_diff,
)

import cnn_lenet as c


def layer_calls(name, forward, backward, *rest):
    """Arguments of a layer's two functions, for inputs of a precision."""
    def inputs(dtype):
        return structure(6, 4, 2, 5, dtype=dtype), *(with_dtype(value, dtype) for value in rest)

    return {f'{forward.__name__}, {name}': (forward, inputs),
            f'{backward.__name__}, {name}': (backward, lambda dtype: (with_diff(forward(*inputs(dtype))),
                                                                      *inputs(dtype)))}


def with_dtype(value, dtype):
    return map_arrays(lambda array: array.astype(dtype), value)


def random(*shape):
    return np.random.RandomState(1).randn(*shape)


def net(n=5, name='stride, pad, group, not square'):
    return lambda dtype: network_and_batch(name, n, dtype=dtype)


def image(dtype):
    return structure(6, 4, 2, 1, dtype=dtype)


IP = inner_product(3), random_params((48, 3))

# A call of every function: (function, its arguments as a function of the precision).
CALLS = {
    'init_convnet': (c.init_convnet, lambda dtype: (net()(dtype)[1], dtype, np.random.RandomState(0))),
    'forward': (c.forward, lambda dtype: net()(dtype)[:3]),
    'predict': (c.predict, lambda dtype: net()(dtype)[:3]),
    'conv_net': (c.conv_net, net()),
    'conv_net, two blocks': (c.conv_net, net(70, 'lenet in small')),
    'im2col_conv': (c.im2col_conv, lambda dtype: (image(dtype), conv(4, 2, 2), 3, 2)),
    'im2col_conv, 1x1': (c.im2col_conv, lambda dtype: (image(dtype), conv(4, 1), 6, 4)),
    'col2im_conv': (c.col2im_conv, lambda dtype: (random(8, 6).astype(dtype), image(dtype), conv(4, 2, 2), 3, 2)),
    'col2im_conv, 1x1': (c.col2im_conv, lambda dtype: (random(2, 24).astype(dtype), image(dtype), conv(4, 1), 6, 4)),
    **layer_calls('2x2', c.conv_layer_forward, c.conv_layer_backward, conv(4, 2, 2, 0, 2), random_params((4, 4))),
    **layer_calls('1x1', c.conv_layer_forward, c.conv_layer_backward, conv(4, 1, group=2), random_params((1, 4))),
    **layer_calls('2x2', c.pooling_layer_forward, c.pooling_layer_backward, pooling(2, 2)),
    **layer_calls('overlap', c.pooling_layer_forward, c.pooling_layer_backward, pooling(2, 1)),
    **layer_calls('1x1', c.pooling_layer_forward, c.pooling_layer_backward, pooling(1, 1)),
    **layer_calls('', c.relu_forward, c.relu_backward, RELU),
    **layer_calls('', c.inner_product_forward, c.inner_product_backward, *IP),
    'mlrloss': (c.mlrloss, lambda dtype: (random(49, 3).astype(dtype), random(48, 5).astype(dtype),
                                          np.array([0, 3, 1, 2, 2]), 4, 1)),
    'softmax': (c.softmax, lambda dtype: (random(48, 5).astype(dtype),)),
    'sgd_momentum': (c.sgd_momentum, lambda dtype: (0.01, 0.02, 0.9, 0.0005,
                                                    *(net()(dtype)[0] for _ in range(3)))),
    'finite_difference': (c.finite_difference, lambda dtype: (
        with_diff(structure(6, 4, 2, 5, dtype=dtype)), structure(6, 4, 2, 5, dtype=dtype), 1e-2)),
    'finite_difference, inner product': (c.finite_difference, lambda dtype: (
        with_diff(structure(1, 1, 3, 5, dtype=dtype)), structure(6, 4, 2, 5, dtype=dtype), 1e-2,
        lambda x: c.inner_product_forward(x, *with_dtype(IP, dtype)))),
}

every_call = pytest.mark.parametrize('function, arguments', CALLS.values(), ids=CALLS)
both_precisions = pytest.mark.parametrize('dtype', [np.float32, np.float64])


def test_no_function_is_left_out():
    """Every public function of the module is here, but for those that give no arrays or work with files."""
    public = {name for name, value in vars(c).items()
              if callable(value) and getattr(value, '__module__', '') == 'cnn_lenet' and not name.startswith('_')}
    elsewhere = {'load_mnist', 'save_params', 'load_params', 'write_whole', 'get_lr', 'feature_map_shapes',
                 'check_gradients'}
    assert public == elsewhere | {function.__name__ for function, _ in CALLS.values()}


@every_call
@both_precisions
def test_arguments_stay_as_they_were(function, arguments, dtype):
    """Also when they cannot be written to."""
    args = arguments(dtype)
    plain = [arg for arg in args if not isinstance(arg, np.random.RandomState) and not callable(arg)]
    before = copy.deepcopy(plain)
    for array in arrays(args):
        array.flags.writeable = False
    function(*args)
    assert_same(plain, before)


@every_call
def test_results_own_their_memory(function, arguments):
    """No result shares memory with an argument or with another result: writing into one changes nothing else."""
    args = arguments(np.float64)
    found = list(arrays(function(*args)))
    for i, array in enumerate(found):
        assert array.flags.writeable
        assert not any(np.shares_memory(array, other) for other in [*arrays(args), *found[:i]])
        assert all(array is not other for other in [*arrays(args), *found[:i]])        # empty arrays too


@every_call
def test_the_precision_is_kept_and_the_numbers_are_the_same_but_for_rounding(function, arguments):
    double, single = (list(arrays(function(*arguments(dtype)))) for dtype in (np.float64, np.float32))
    assert {array.dtype for array in double} == {np.dtype(np.float64)}
    assert {array.dtype for array in single} == {np.dtype(np.float32)}
    for a, b in zip(double, single):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', [name for name in CALLS if '_layer' in name or 'relu' in name or 'product_' in name])
def test_whole_numbers_give_double_precision(name):
    function, arguments = CALLS[name]
    args = map_arrays(lambda array: np.round(3 * array).astype(np.float64), arguments(np.float64))
    whole = map_arrays(lambda array: array.astype(np.int64), args)
    assert_same(function(*whole), function(*args), lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12))


def strided(array):
    """The same numbers, every other element of an array twice as long along every axis."""
    wide = np.full([2 * size for size in array.shape], 7, array.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def reversed_view(array):
    """The same numbers with negative strides."""
    flip = tuple(slice(None, None, -1) for _ in array.shape)
    return array[flip].copy()[flip]


@every_call
@pytest.mark.parametrize('layout', [np.asfortranarray, strided, reversed_view])
def test_the_layout_in_memory_does_not_matter(function, arguments, layout):
    expected = function(*arguments(np.float64))
    found = function(*map_arrays(layout, arguments(np.float64)))
    assert_same(list(arrays(found)), list(arrays(expected)),
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11))
