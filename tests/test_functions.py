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

INPUT, ONE, COLUMNS = structure(6, 4, 2, 5), structure(6, 4, 2, 1), np.random.RandomState(1).randn(8, 6)
IP = inner_product(3), random_params((48, 3))
NET, LARGE_BATCH = network_and_batch('stride, pad, group, not square'), network_and_batch('lenet in small', 70)


def both_ways(variant, forward, backward, *args):
    return {f'{forward.__name__}{variant}': (forward, args),
            f'{backward.__name__}{variant}': (backward, (with_diff(forward(*args)), *args))}


LAYER_CALLS = {
    **both_ways('', c.conv_layer_forward, c.conv_layer_backward, INPUT, conv(4, 2, 2, 0, 2), random_params((4, 4))),
    **both_ways(', 1x1', c.conv_layer_forward, c.conv_layer_backward, INPUT, conv(4, 1), random_params((2, 4))),
    **both_ways('', c.pooling_layer_forward, c.pooling_layer_backward, INPUT, pooling(2, 2)),
    **both_ways(', overlap', c.pooling_layer_forward, c.pooling_layer_backward, INPUT, pooling(2, 1)),
    **both_ways(', 1x1', c.pooling_layer_forward, c.pooling_layer_backward, INPUT, pooling(1, 1)),
    **both_ways('', c.relu_forward, c.relu_backward, INPUT, RELU),
    **both_ways('', c.inner_product_forward, c.inner_product_backward, INPUT, *IP),
}
CALLS = {
    **LAYER_CALLS,
    'forward': (c.forward, NET[:3]),
    'predict': (c.predict, NET[:3]),
    'conv_net': (c.conv_net, NET),
    'conv_net, large batch': (c.conv_net, LARGE_BATCH),
    'im2col_conv': (c.im2col_conv, (ONE, conv(4, 2, 2), 3, 2)),
    'im2col_conv, 1x1': (c.im2col_conv, (ONE, conv(4, 1), 6, 4)),
    'col2im_conv': (c.col2im_conv, (COLUMNS, ONE, conv(4, 2, 2), 3, 2)),
    'col2im_conv, 1x1': (c.col2im_conv, (COLUMNS, structure(6, 1, 8, 1), conv(4, 1), 6, 1)),
    'mlrloss': (c.mlrloss, (COLUMNS[:, :3], COLUMNS[:7], np.array([0, 3, 1, 2, 2, 0]), 4, 1)),
    'softmax': (c.softmax, (COLUMNS,)),
    'sgd_momentum': (c.sgd_momentum, (0.01, 0.02, 0.9, 0.0005, NET[0], NET[0], NET[0])),
    'finite_difference': (c.finite_difference, (with_diff(INPUT), INPUT, 1e-2)),
    'finite_difference, inner product': (c.finite_difference, (
        with_diff(structure(1, 1, 3, 5)), INPUT, 1e-2, lambda x: c.inner_product_forward(x, *IP))),
}

every_call = pytest.mark.parametrize('function, args', CALLS.values(), ids=CALLS)
both_precisions = pytest.mark.parametrize('dtype', [np.float32, np.float64])


def with_dtype(args, dtype):
    """A copy of the arguments, floats in that precision."""
    return map_arrays(lambda array: array.astype(dtype if array.dtype.kind == 'f' else array.dtype), args)


def test_no_function_is_left_out():
    """Every public function of the module is here, but for those that take no arrays or give none."""
    public = {name for name, value in vars(c).items()
              if callable(value) and getattr(value, '__module__', '') == 'cnn_lenet' and not name.startswith('_')}
    elsewhere = {'load_mnist', 'init_convnet', 'get_lr', 'check_params', 'check_gradients'}
    assert public <= elsewhere | {function.__name__ for function, _ in CALLS.values()}


@every_call
@both_precisions
def test_arguments_stay_as_they_were(function, args, dtype):
    """Also when they cannot be written to."""
    args = with_dtype(args, dtype)
    before = copy.deepcopy(args)
    for array in arrays(args):
        array.flags.writeable = False
    function(*args)
    assert_same(args, before)


@every_call
def test_results_own_their_memory(function, args):
    """No result shares memory with an argument or with another result: writing into one changes nothing else."""
    found = list(arrays(function(*args)))
    for i, array in enumerate(found):
        assert array.flags.writeable
        for other in [*arrays(args), *found[:i]]:
            assert array is not other and not np.shares_memory(array, other)


@every_call
def test_the_precision_is_kept_and_the_numbers_are_the_same_but_for_rounding(function, args):
    double, single = (list(arrays(function(*with_dtype(args, dtype)))) for dtype in (np.float64, np.float32))
    assert {array.dtype for array in double} == {np.dtype(np.float64)}
    assert {array.dtype for array in single} == {np.dtype(np.float32)}
    for a, b in zip(double, single):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('function, args', LAYER_CALLS.values(), ids=LAYER_CALLS)
def test_whole_numbers_give_double_precision(function, args):
    args = map_arrays(lambda array: np.round(3 * array), args)
    whole = with_dtype(args, np.int64)
    assert_same(function(*whole), function(*args), lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12))


def strided(array):
    """The same numbers, every other element of an array twice as long along every axis."""
    return np.kron(array, np.ones((2,) * array.ndim, array.dtype))[(slice(None, None, 2),) * array.ndim]


def reversed_view(array):
    """The same numbers with negative strides."""
    flip = (slice(None, None, -1),) * array.ndim
    return array[flip].copy()[flip]


@every_call
@pytest.mark.parametrize('layout', [np.asfortranarray, strided, reversed_view])
def test_the_layout_in_memory_does_not_matter(function, args, layout):
    assert_same(list(arrays(function(*map_arrays(layout, args)))), list(arrays(function(*args))),
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11))
