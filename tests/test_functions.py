"""What holds for every function: arguments stay as they were, results own their memory, the precision is kept."""

import copy

import numpy as np
import pytest
from helpers import (
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

import cnn_lenet

# Names stand apart from the arguments, so that every function is a test of its own.
NAMES = [
    'init_convnet', 'forward', 'predict', 'conv_net', 'conv_net, two blocks', 'im2col_conv', 'im2col_conv, 1x1',
    'col2im_conv', 'col2im_conv, 1x1', 'conv_layer_forward', 'conv_layer_forward, 1x1', 'conv_layer_backward',
    'conv_layer_backward, 1x1', 'pooling_layer_forward', 'pooling_layer_forward, 1x1', 'pooling_layer_backward',
    'pooling_layer_backward, 1x1', 'relu_forward', 'relu_backward', 'inner_product_forward', 'inner_product_backward',
    'mlrloss', 'softmax', 'sgd_momentum', 'finite_difference', 'finite_difference, inner product',
]


def arguments(name, dtype):
    """Arguments for a call of the function, with arrays of that precision."""
    function, _, variant = name.partition(', ')
    params, layers, data, labels = network_and_batch('stride, pad, group, not square', 5, dtype=dtype)
    input = structure(6, 4, 2, 5, dtype=dtype)
    one, col = structure(6, 4, 2, 1, dtype=dtype), np.random.RandomState(1).randn(8, 6).astype(dtype)
    ip_layer, ip_param = inner_product(3), random_params((48, 3), dtype=dtype)
    if variant == '1x1':
        conv_layer, conv_param, pool_layer = conv(4, 1, group=2), random_params((1, 4), dtype=dtype), pooling(1, 1)
        windows, col = (6, 4), np.random.RandomState(1).randn(2, 24).astype(dtype)
    else:
        conv_layer, conv_param = conv(4, 2, 2, 0, 2), random_params((4, 4), dtype=dtype)
        pool_layer, windows = pooling(2, 2), (3, 2)
    if function in ('init_convnet', 'forward', 'predict', 'conv_net'):
        if variant == 'two blocks':
            params, layers, data, labels = network_and_batch('lenet in small', 70, dtype=dtype)
        return {'init_convnet': (layers, dtype, np.random.RandomState(0)), 'forward': (params, layers, data),
                'predict': (params, layers, data), 'conv_net': (params, layers, data, labels)}[function]
    if function == 'finite_difference':
        if variant:
            output = with_diff(cnn_lenet.inner_product_forward(input, ip_layer, ip_param))
            return output, input, 1e-2, lambda x: cnn_lenet.inner_product_forward(x, ip_layer, ip_param)
        return with_diff(cnn_lenet.relu_forward(input, {'type': 'RELU'})), input, 1e-2
    if function == 'sgd_momentum':
        return 0.01, 0.02, 0.9, 0.0005, params, copy.deepcopy(params), copy.deepcopy(params)
    layer_arguments = {
        'im2col_conv': lambda: (one, conv_layer, *windows),
        'col2im_conv': lambda: (col, one, conv_layer, *windows),
        'conv_layer': lambda: (input, conv_layer, conv_param),
        'pooling_layer': lambda: (input, pool_layer),
        'relu': lambda: (input, {'type': 'RELU'}),
        'inner_product': lambda: (input, ip_layer, ip_param),
        'mlrloss': lambda: (np.vstack([ip_param['w'], ip_param['b']]), input['data'], np.array([0, 3, 1, 2, 2]), 4, 1),
        'softmax': lambda: (input['data'],),
    }
    stem = function.removesuffix('_forward').removesuffix('_backward')
    chosen = layer_arguments[stem]()
    if function.endswith('_backward'):
        return with_diff(getattr(cnn_lenet, f'{stem}_forward')(*chosen)), *chosen
    return chosen


def function_named(name):
    return getattr(cnn_lenet, name.partition(', ')[0])


every_function = pytest.mark.parametrize('name', NAMES)
both_precisions = pytest.mark.parametrize('dtype', [np.float32, np.float64])


def test_no_function_is_left_out():
    """Every public function of the module is here, but for those that have no arrays to keep or work with files."""
    public = {name for name, value in vars(cnn_lenet).items()
              if callable(value) and getattr(value, '__module__', '') == 'cnn_lenet' and not name.startswith('_')}
    elsewhere = {'load_mnist', 'save_params', 'load_params', 'write_whole', 'get_lr', 'feature_map_shapes'}
    assert public - elsewhere == {name.partition(', ')[0] for name in NAMES}


@every_function
@both_precisions
def test_arguments_stay_as_they_were(name, dtype):
    """Also when they cannot be written to."""
    args = arguments(name, dtype)
    rng_free = [arg for arg in args if not isinstance(arg, np.random.RandomState) and not callable(arg)]
    before = copy.deepcopy(rng_free)
    for array in arrays(args):
        array.flags.writeable = False
    function_named(name)(*args)
    assert_same(rng_free, before)


@every_function
def test_results_own_their_memory(name):
    """No result shares memory with an argument or with another result: writing into one changes nothing else."""
    args = arguments(name, np.float64)
    result = function_named(name)(*args)
    found = list(arrays(result))
    for i, array in enumerate(found):
        assert array.flags.writeable
        for other in [*arrays(args), *found[:i]]:
            assert array is not other
            assert not np.shares_memory(array, other)


@every_function
@both_precisions
def test_the_precision_is_kept(name, dtype):
    """float32 in, float32 out, and float64 likewise: no array of another type comes back."""
    result = function_named(name)(*arguments(name, dtype))
    assert {array.dtype for array in arrays(result)} == {np.dtype(dtype)}


@every_function
def test_single_precision_gives_the_same_numbers_but_for_rounding(name):
    double, single = (function_named(name)(*arguments(name, dtype)) for dtype in (np.float64, np.float32))
    for a, b in zip(arrays(double), arrays(single)):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


def fortran(array):
    return np.asfortranarray(array)


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


@every_function
@pytest.mark.parametrize('layout', [fortran, strided, reversed_view])
def test_the_layout_in_memory_does_not_matter(name, layout):
    args = arguments(name, np.float64)
    expected = function_named(name)(*arguments(name, np.float64))
    found = function_named(name)(*map_arrays(layout, args))
    for a, b in zip(arrays(found), arrays(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
