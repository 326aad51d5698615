"""The handout's autograder has no broadcasting, so the seven graded functions combine arrays of equal shape only."""

import numpy as np
import pytest
from helpers import inner_product, map_arrays, pooling, random_params, structure, with_diff

import cnn_lenet


class Strict(np.ndarray):
    """An array that combines, element by element, with scalars and arrays of its own shape alone."""

    combined = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        arrays = [x for x in (*inputs, *out) if np.ndim(x)]
        if ufunc.signature is None and len(inputs) > 1:              # with a signature it is a product: matmul
            if method not in ('__call__', 'reduce', 'accumulate'):
                raise TypeError(f'{ufunc.__name__}.{method} combines arrays of any shapes')
            if method == '__call__' and len({x.shape for x in map(np.asarray, arrays)}) > 1:
                raise TypeError(f'{ufunc.__name__} of arrays of shapes {[np.shape(x) for x in arrays]}')
        Strict.combined += 1
        if out:
            kwargs['out'] = tuple(np.asarray(x) for x in out)
        where = kwargs.get('where')
        if isinstance(where, Strict):
            kwargs['where'] = np.asarray(where)
        result = getattr(ufunc, method)(*(np.asarray(x) if isinstance(x, Strict) else x for x in inputs), **kwargs)
        if out:
            return out[0] if len(out) == 1 else out
        return result.view(Strict) if isinstance(result, np.ndarray) else result


def strict(value):
    return map_arrays(lambda array: array.view(Strict), value)


def calls():
    """The arguments of the seven functions."""
    input = structure(6, 4, 2, 5)
    relu, pool, ip, param = {'type': 'RELU'}, pooling(2, 1), inner_product(3), random_params((48, 3))
    dicts = [{1: random_params((4, 3), seed), 2: {'w': np.array([]), 'b': np.array([])}} for seed in range(3)]
    return {
        'pooling_layer_forward': (input, pool),
        'pooling_layer_backward': (with_diff(cnn_lenet.pooling_layer_forward(input, pool)), input, pool),
        'relu_forward': (input, relu),
        'relu_backward': (with_diff(cnn_lenet.relu_forward(input, relu)), input, relu),
        'inner_product_forward': (input, ip, param),
        'inner_product_backward': (with_diff(cnn_lenet.inner_product_forward(input, ip, param)), input, ip, param),
        'sgd_momentum': (0.01, 0.02, 0.9, 0.0005, *dicts),
    }


@pytest.mark.parametrize('name', calls())
def test_graded_functions_do_not_broadcast(name):
    args = calls()[name]
    expected = getattr(cnn_lenet, name)(*args)
    before = Strict.combined
    found = getattr(cnn_lenet, name)(*strict(args))
    assert Strict.combined > before                              # the function did compute with the strict arrays
    map_arrays(lambda array: np.testing.assert_allclose(*array), pairs(found, expected))


def pairs(found, expected):
    """Both results in one: every array becomes a stack of the two."""
    if isinstance(expected, np.ndarray):
        return np.stack([np.asarray(found), expected])
    if isinstance(expected, dict):
        return {key: pairs(found[key], expected[key]) for key in expected}
    if isinstance(expected, (list, tuple)):
        return [pairs(*both) for both in zip(found, expected)]
    return expected


@pytest.mark.parametrize('combine', [
    lambda a: a + np.ones(3),
    lambda a: np.ones((2, 1)) * a,
    lambda a: np.maximum(a, np.zeros((1, 3))),
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


def test_strict_arrays_combine_with_equals_and_scalars():
    a = strict(np.ones((2, 3)))
    np.testing.assert_array_equal(np.asarray(a + a * 2 - np.ones((2, 3))), 2 * np.ones((2, 3)))
    np.testing.assert_array_equal(np.asarray(a @ np.ones((3, 2))), 3 * np.ones((2, 2)))
    np.testing.assert_array_equal(np.asarray(a.sum(axis=1)), [3, 3])
    a += a
    np.testing.assert_array_equal(np.asarray(a), 2 * np.ones((2, 3)))
