"""The handout's autograder has no broadcasting, so the seven graded functions combine arrays of equal shape only."""

import numpy as np
import pytest
from helpers import RELU, assert_same, inner_product, map_arrays, pooling, random_params, structure, with_diff

import cnn_lenet


class Strict(np.ndarray):
    """An array that combines, element by element, with scalars and arrays of its own shape alone."""

    combined = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        if ufunc.signature is None and len(inputs) > 1:              # with a signature it is a product: matmul
            if method not in ('__call__', 'reduce', 'accumulate'):
                raise TypeError(f'{ufunc.__name__}.{method} combines arrays of any shapes')
            shapes = {np.shape(x) for x in (*inputs, *out) if np.ndim(x)}
            if method == '__call__' and len(shapes) > 1:
                raise TypeError(f'{ufunc.__name__} of arrays of shapes {shapes}')
        Strict.combined += 1
        plain = {key: map_arrays(np.asarray, value) for key, value in kwargs.items()}
        if out:
            plain['out'] = tuple(map(np.asarray, out))
        result = getattr(ufunc, method)(*map_arrays(np.asarray, inputs), **plain)
        if out:
            return out[0] if len(out) == 1 else out
        return result.view(Strict) if isinstance(result, np.ndarray) else result


def strict(value):
    return map_arrays(lambda array: array.view(Strict), value)


INPUT = structure(6, 4, 2, 5)
RELU_ARGS, POOL_ARGS, IP_ARGS = (INPUT, RELU), (INPUT, pooling(2, 1)), (INPUT, inner_product(3), random_params((48, 3)))
DICTS = [{1: random_params((4, 3), seed), 2: {'w': np.array([]), 'b': np.array([])}} for seed in range(3)]


@pytest.mark.parametrize('function, args', [
    (cnn_lenet.pooling_layer_forward, POOL_ARGS),
    (cnn_lenet.pooling_layer_backward, (with_diff(cnn_lenet.pooling_layer_forward(*POOL_ARGS)), *POOL_ARGS)),
    (cnn_lenet.relu_forward, RELU_ARGS),
    (cnn_lenet.relu_backward, (with_diff(cnn_lenet.relu_forward(*RELU_ARGS)), *RELU_ARGS)),
    (cnn_lenet.inner_product_forward, IP_ARGS),
    (cnn_lenet.inner_product_backward, (with_diff(cnn_lenet.inner_product_forward(*IP_ARGS)), *IP_ARGS)),
    (cnn_lenet.sgd_momentum, (0.01, 0.02, 0.9, 0.0005, *DICTS)),
])
def test_graded_functions_do_not_broadcast(function, args):
    expected, before = function(*args), Strict.combined
    found = function(*strict(args))
    assert Strict.combined > before                              # the function did compute with the strict arrays
    assert_same(found, expected, lambda a, b: np.testing.assert_allclose(np.asarray(a), b))


@pytest.mark.parametrize('combine', [
    lambda a: a + np.ones(3),
    lambda a: np.ones((2, 1)) * a,
    lambda a: np.add(a, a[:1], out=a),
    lambda a: np.add(np.ones(3), np.ones(3), out=a),
    lambda a: a.__iadd__(np.ones(3)),
    lambda a: a == np.ones((2, 1)),
    lambda a: np.multiply.outer(a, a),
    lambda a: (a * 2) + np.ones(3),                              # a result is as strict as what it was made of
])
def test_strict_arrays_refuse_to_broadcast(combine):
    with pytest.raises(TypeError):
        combine(strict(np.ones((2, 3))))
