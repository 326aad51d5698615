"""What several test files share: random structures, small networks, numerical gradients, a look into nested results."""

import functools
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import cnn_lenet
import testLeNet

# Layers


def data_layer(h, w, c, n):
    return {'type': 'DATA', 'height': h, 'width': w, 'channel': c, 'batch_size': n}


def conv(num, k, stride=1, pad=0, group=1):
    return {'type': 'CONV', 'num': num, 'k': k, 'stride': stride, 'pad': pad, 'group': group}


def pooling(k, stride, pad=0):
    return {'type': 'POOLING', 'k': k, 'stride': stride, 'pad': pad}


def inner_product(num, init_type='uniform'):
    return {'type': 'IP', 'num': num, 'init_type': init_type}


RELU = {'type': 'RELU'}


def loss(num):
    return {'type': 'LOSS', 'num': num}


# Shape of the image, and what stands above it.
NETWORKS = {
    'softmax regression': ((2, 3, 1), [loss(3)]),
    'two classes': ((3, 3, 1), [inner_product(4), RELU, loss(2)]),
    'inner products': ((2, 2, 2), [inner_product(5, 'gaussian'), inner_product(4), RELU, loss(4)]),
    'lenet in small': ((10, 10, 1), [conv(2, 3), pooling(2, 2), conv(3, 3), pooling(2, 2), inner_product(5), RELU,
                                     loss(3)]),
    'stride, pad, group, not square': ((7, 5, 2), [conv(4, 3, stride=2, pad=1, group=2), RELU, pooling(2, 1),
                                                   inner_product(4, 'gaussian'), RELU, loss(3)]),
    'overlapping windows': ((7, 7, 2), [conv(3, 2, stride=1), pooling(4, 1), conv(2, 2, stride=1), RELU, loss(3)]),
    'no parameters at the bottom': ((6, 4, 2), [RELU, pooling(2, 2), conv(4, 2, group=2), pooling(1, 1), loss(5)]),
    'convolution over convolution': ((4, 4, 1), [conv(2, 2), conv(2, 2, pad=1), conv(3, 1), loss(3)]),
    'many channels': ((3, 4, 1), [conv(16, 1), RELU, conv(2, 2), loss(2)]),
    'ends in a pooling': ((5, 5, 1), [inner_product(12), RELU, conv(6, 1, group=3), pooling(1, 1), loss(2)]),
}


def network(name, n=5):
    """layers of LeNet or a network of NETWORKS for minibatches of n images."""
    if name == 'LeNet':
        return {**testLeNet.get_lenet(), 1: data_layer(28, 28, 1, n)}
    shape, above = NETWORKS[name]
    return {i: dict(layer) for i, layer in enumerate([data_layer(*shape, n), *above], 1)}


def network_and_batch(name, n=5, seed=0, dtype=np.float64):
    """Random params (biases too), layers, random data and random labels of a network."""
    layers = network(name, n)
    rng = np.random.RandomState(seed)
    params = cnn_lenet.init_convnet(layers, dtype, rng)
    for param in params.values():
        param['b'] = rng.randn(*param['b'].shape).astype(dtype) / 10
    h, w, c = (layers[1][key] for key in ('height', 'width', 'channel'))
    data = rng.randn(h * w * c, n).astype(dtype)
    return params, layers, data, rng.randint(layers[len(layers)]['num'], size=n)


# What goes in and out of a layer


def structure(h, w, c, n, seed=0, dtype=np.float64):
    """A layer's input: a random feature map of n images."""
    data = np.random.RandomState(seed).randn(h * w * c, n).astype(dtype)
    return {'height': h, 'width': w, 'channel': c, 'batch_size': n, 'data': data}


def feature_map(structure, key='data'):
    """`structure[key]` as (h, w, c, n)."""
    return structure[key].reshape(structure['height'], structure['width'], structure['channel'], -1)


def sizes(structure):
    return tuple(structure[key] for key in ('height', 'width', 'channel', 'batch_size'))


def with_diff(output, seed=1):
    """The structure `output` with a random gradient."""
    diff = np.random.RandomState(seed).randn(*output['data'].shape).astype(output['data'].dtype)
    return {**output, 'diff': diff}


def random_params(shape, seed=2, dtype=np.float64):
    """w of that shape, and b to go with it."""
    rng = np.random.RandomState(seed)
    return {'w': rng.randn(*shape).astype(dtype), 'b': rng.randn(shape[1]).astype(dtype)}


def zeros_like(params):
    return map_arrays(np.zeros_like, params)


# Numerical gradients


def numerical_gradient(f, x, h=1e-6):
    """The gradient of the number f(x) with respect to the array x, by central differences."""
    gradient = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += h
        below[index] -= h
        gradient[index] = (f(above) - f(below)) / (2 * h)
    return gradient


def check_backward(forward, output, input, input_od, param=None, param_grad=None):
    """input_od and param_grad agree with the numerical gradients of sum(diff * output).

    forward  function of (input structure, param) that gives the output structure
    """
    def weighted_sum(data, param):
        return (output['diff'] * forward({**input, 'data': data}, param)['data']).sum()

    expected = numerical_gradient(lambda data: weighted_sum(data, param), input['data'])
    np.testing.assert_allclose(input_od, expected, rtol=1e-6, atol=1e-7)
    approx = cnn_lenet.finite_difference(output, input, 1e-6, lambda x: forward(x, param))
    np.testing.assert_allclose(input_od, approx, atol=1e-6)
    for key in param or ():
        expected = numerical_gradient(
            lambda value, key=key: weighted_sum(input['data'], {**param, key: value}), param[key])
        np.testing.assert_allclose(param_grad[key], expected, rtol=1e-6, atol=1e-7)


def trained_lenet(xtrain, ytrain, iterations):
    """The parameters of LeNet after so many iterations on random minibatches."""
    layers, rng = testLeNet.get_lenet(), np.random.RandomState(0)
    params = cnn_lenet.init_convnet(layers, np.float32, rng)
    param_winc = zeros_like(params)
    for t in range(iterations):
        index = rng.randint(len(ytrain), size=64)
        _, param_grad = cnn_lenet.conv_net(params, layers, xtrain[:, index], ytrain[index])
        rate = cnn_lenet.get_lr(t, 0.01, 0.0001, 0.75)
        params, param_winc = cnn_lenet.sgd_momentum(rate, 2 * rate, 0.9, 0.0005, params, param_winc, param_grad)
    return params


@functools.cache
def mnist(fullset):
    """What load_mnist returns, in single precision and shuffled with seed 0: read once for all tests, and read-only."""
    parts = cnn_lenet.load_mnist(fullset, np.float32, np.random.RandomState(0))
    for part in parts:
        part.flags.writeable = False
    return parts


@functools.cache
def reader():
    """LeNet's parameters after 300 iterations on all of MNIST, trained once for all tests: reads 19 of 20 digits."""
    return trained_lenet(*mnist(True)[:2], 300)


def module_of(source):
    """A module like cnn_lenet, with that source and a state of its own."""
    module = types.ModuleType('another_cnn_lenet')
    module.__file__ = cnn_lenet.__file__
    exec(compile(source, module.__name__, 'exec'), vars(module))
    return module


# Nested results


def arrays(value):
    """Every array in nested dicts, lists and tuples."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from arrays(inner)


def map_arrays(function, value):
    """Nested dicts, lists and tuples with function(array) in every array's place."""
    if isinstance(value, np.ndarray):
        return function(value)
    if isinstance(value, dict):
        return {key: map_arrays(function, inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_arrays(function, inner) for inner in value)
    return value


def assert_same(found, expected, check=np.testing.assert_array_equal):
    """The same nesting and keys, and the same numbers: digit for digit, or as `check` has it."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key], check)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for pair in zip(found, expected):
            assert_same(*pair, check)
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        check(found, expected)
    else:
        assert found == expected


def raises(*words, error=ValueError):
    """Expect an error whose message holds every one of these words (the thing, the found, the expected)."""
    patterns = [rf'(?=.*(?<!\w){re.escape(str(word))}(?!\w))' for word in words]
    return pytest.raises(error, match='(?s)^' + ''.join(patterns))


# Want of memory

LITTLE_MEMORY = """
import resource, sys, numpy as np, cnn_lenet, testLeNet
with open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, [used + (int(sys.argv[1]) << 20)] * 2)
try:
    {statement}
except MemoryError:
    print('MemoryError')
"""


def assert_memory_error(statement, megabytes, *arguments):
    """The statement raises MemoryError in a process that can have so many megabytes more (sys.argv[2:]: arguments)."""
    if not sys.platform.startswith('linux'):
        pytest.skip('only Linux lets a process limit its memory')
    child = subprocess.run([sys.executable, '-c', LITTLE_MEMORY.format(statement=statement), str(megabytes),
                            *map(str, arguments)], capture_output=True, text=True, timeout=300,
                           env={**os.environ, 'PYTHONPATH': str(Path(cnn_lenet.__file__).resolve().parent),
                                'PYTHONDONTWRITEBYTECODE': '1',
                                'MIMALLOC_ARENA_RESERVE': '0'})    # free-threaded Python reserves 1 GB otherwise
    assert (child.stdout, child.stderr) == ('MemoryError\n', '')
