"""Where the time of a training iteration goes, and how it grows with the batch and the image.

    python benchmarks/layers.py                  both tables
    python benchmarks/layers.py --in-sequence    each function, alone in a loop and in its place in an iteration
    python benchmarks/layers.py --growth         conv_net by batch and image size

A function that runs alone in a loop finds its arrays in the cache. In its place in an iteration it does not, so that
is the time that counts. In a wait (ru_nvcsw) a thread sleeps until another one wakes it.
"""

import argparse
import contextlib
import functools
import inspect
import os
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import testLeNet  # which sets up BLAS, and so comes before NumPy

get_lenet = testLeNet.get_lenet

import numpy as np

import cnn_lenet as net

BATCH = 64
WARM_UP, ITERATIONS = 20, 150

LAYER_NAMES = {2: 'conv1', 3: 'pool1', 4: 'conv2', 5: 'pool2', 6: 'inner product', 7: 'ReLU', 8: 'loss'}

# The functions that conv_net calls: for which type of layer, what each computes, and in how many matrix products (one
# less for the lowest layer, whose input needs no gradient).
FUNCTIONS = {
    'conv_layer_forward': ('CONV', 'forward', 1),
    'pooling_layer_forward': ('POOLING', 'forward', 0),
    'inner_product_forward': ('IP', 'forward', 1),
    'relu_forward': ('RELU', 'forward', 0),
    'mlrloss': ('LOSS', 'forward and backward', 3),
    'relu_backward': ('RELU', 'backward', 0),
    'inner_product_backward': ('IP', 'backward', 2),
    'pooling_layer_backward': ('POOLING', 'backward', 0),
    'conv_layer_backward': ('CONV', 'backward', 2),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--in-sequence', action='store_true', help='only the table of the functions in an iteration')
    parser.add_argument('--growth', action='store_true', help='only the table by batch and image size')
    flags = parser.parse_args()
    if flags.in_sequence or not flags.growth:
        print_in_sequence()
    if flags.growth or not flags.in_sequence:
        print_growth()


def median_ms(function, *arguments, repeats=30):
    """Median time of function(*arguments) in milliseconds, after two calls to warm up."""
    seconds = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:]) * 1e3


# ---------------------------------------------------------------------------------------------------------------
# Each function in its place in an iteration
# ---------------------------------------------------------------------------------------------------------------


def print_in_sequence():
    """Milliseconds of every function of an iteration on MNIST: alone, in its place, and its products alone."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    layers = get_lenet()
    samples = first_arguments(layers)
    (one, own), (many, many_own) = train(layers, threads=1), train(layers, threads=None)
    rate = gemm_rate()
    print(f'\nOne training iteration of LeNet, {BATCH} images: medians of {ITERATIONS} iterations in milliseconds.')
    print(f'Products alone: at {rate:.0f} GFLOP/s, the rate of one core in large float32 products.\n')
    print(f"{'':26}|{'one call':^48}|{'all calls of an iteration':^32}")
    print(f"{'':26}|{'':8}{'products':>10}{'alone in':>10}{'in its place on':>20}|{'':8}{'in their place on':>24}")
    print(f"{'':26}|{'images':>8}{'alone':>10}{'a loop':>10}{'1 thread':>10}{f'{cores} threads':>10}"
          f"|{'calls':>8}{'1 thread':>12}{f'{cores} threads':>12}")
    for row, arguments in samples.items():
        function, i = row
        products = flop(function, layers, i, arguments) / rate / 1e6
        alone = median_ms(getattr(net, function), *arguments)
        print(f"{f'{LAYER_NAMES[i]} {FUNCTIONS[function][1]}':26}|{images(arguments):8}{products:10.2f}{alone:10.2f}"
              f"{one[row]['call']:10.2f}{many[row]['call']:10.2f}"
              f"|{one[row]['calls']:8.0f}{one[row]['iteration']:12.2f}{many[row]['iteration']:12.2f}")
    for table, numbers in ((one, own), (many, many_own)):
        numbers['all functions, added up'] = sum(times['iteration'] for times in table.values())
    for title in own:
        print(f"{title:26}|{'':48}|{'':8}{own[title]:12.2f}{many_own[title]:12.2f}")


@contextlib.contextmanager
def recorded(layers, record):
    """Within this block every call of one of FUNCTIONS also calls record((name, layer number), arguments, seconds)."""
    originals = {name: getattr(net, name) for name in FUNCTIONS}

    def recording(name, function):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*arguments, **keywords):
            arguments = signature.bind(*arguments, **keywords).args
            began = time.perf_counter()
            result = function(*arguments)
            seconds = time.perf_counter() - began
            record((name, layer_number(layers, name, arguments)), arguments, seconds)
            return result
        return call

    for name, function in originals.items():
        setattr(net, name, recording(name, function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(net, name, function)


def first_arguments(layers):
    """What every function is called with first in an iteration: dict, (function name, layer number): arguments."""
    samples = {}
    with recorded(layers, lambda row, arguments, _: samples.setdefault(row, arguments)):
        for _ in training(layers, threads=1, iterations=1):
            pass
    return samples


def train(layers, threads):
    """Train, and take the time of every function in its place.

    Returns a dict, (function name, layer number): median milliseconds per call and per iteration, and the number of
    calls in an iteration; and a dict with the medians of what `training` yields.
    """
    calls, iterations = [], []
    with recorded(layers, lambda row, arguments, seconds: calls.append((row, seconds))):
        for numbers in training(layers, threads, WARM_UP + ITERATIONS):
            iterations.append((list(calls), numbers))
            calls.clear()
    iterations, own = zip(*iterations[WARM_UP:])
    table = {}
    for row in dict.fromkeys(row for iteration in iterations for row, _ in iteration):
        times = [[seconds for found, seconds in iteration if found == row] for iteration in iterations]
        table[row] = {'call': statistics.median(sum(times, [])) * 1e3,
                      'iteration': statistics.median(map(sum, times)) * 1e3,
                      'calls': statistics.median(map(len, times))}
    return table, {name: statistics.median(numbers[name] for numbers in own) for name in own[0]}


def training(layers, threads, iterations):
    """Train on MNIST, and yield a dict with the milliseconds and the waits of every iteration."""
    rng = np.random.RandomState(0)
    xtrain, ytrain, *_ = net.load_mnist(True, np.float32, rng)
    params = net.init_convnet(layers, np.float32, rng)
    winc = {i: {key: np.zeros_like(value) for key, value in param.items()} for i, param in params.items()}
    order = rng.permutation(len(ytrain))
    for t in range(iterations):
        index = order[t * BATCH:(t + 1) * BATCH]
        waits, times = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw, [time.perf_counter()]
        _, param_grad = net.conv_net(params, layers, xtrain[:, index], ytrain[index], threads)
        times.append(time.perf_counter())
        params, winc = net.sgd_momentum(0.01, 0.02, 0.9, 0.0005, params, winc, param_grad)
        times.append(time.perf_counter())
        yield {'conv_net': (times[1] - times[0]) * 1e3, 'sgd_momentum': (times[2] - times[1]) * 1e3,
               'the whole iteration': (times[2] - times[0]) * 1e3,
               'waits in it (ru_nvcsw)': resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - waits}


def layer_number(layers, function, arguments):
    """Which layer a function was called for: the one among its arguments, otherwise the first of its type."""
    numbers = [i for i, layer in layers.items() if layer['type'] == FUNCTIONS[function][0]]
    return next((i for i in numbers if any(argument is layers[i] for argument in arguments)), numbers[0])


def images(arguments):
    """How many columns a function was called with: those of its structure, or of its second array."""
    structure = next((argument for argument in arguments if isinstance(argument, dict) and 'data' in argument), None)
    return structure['data'].shape[1] if structure else arguments[1].shape[-1]


def flop(function, layers, i, arguments):
    """Multiplications and additions in a function's matrix products, of a convolution in the plain ones."""
    weights = net.init_convnet(layers)[i - 1]['w']
    h_out, w_out, _ = feature_maps(layers).get(i, (1, 1, 0))
    products = FUNCTIONS[function][2] - (function == 'conv_layer_backward' and i == 2)
    return products * 2 * h_out * w_out * weights.size * images(arguments)


def feature_maps(layers):
    """(h, w, c) of every layer's output but the loss's, found by one image sent through: dict, keys as in `layers`."""
    image = np.zeros((np.prod([layers[1][key] for key in ('height', 'width', 'channel')]), 1), np.float32)
    outputs = net.forward(net.init_convnet(layers, np.float32), layers, image)
    return {i: tuple(output[key] for key in ('height', 'width', 'channel')) for i, output in outputs.items()}


def gemm_rate():
    """Rate of one core in large float32 products, in GFLOP/s."""
    size = 1024
    a, b = (np.random.RandomState(i).rand(size, size).astype(np.float32) for i in (0, 1))
    return 2 * size ** 3 / median_ms(np.matmul, a, b, repeats=10) / 1e6


# ---------------------------------------------------------------------------------------------------------------
# Growth
# ---------------------------------------------------------------------------------------------------------------


def print_growth():
    print('\nconv_net            ms per image   GFLOP/s')
    for side, batches in ((28, (1, 4, 16, 64, 256, 1024)), (56, (64,)), (112, (64,))):
        for n in batches:
            layers, params, data, labels = make_net(side, n)
            repeats = 5 if n * side > 7000 else 20
            took = median_ms(net.conv_net, params, layers, data, labels, repeats=repeats) / n
            print(f'{side:3} x {side:3}, batch {n:4} {took:10.4f} {flop_per_image(layers) / took / 1e6:10.1f}')


def make_net(side, n):
    """LeNet for images of side x side, with random images and labels for one minibatch of n."""
    rng = np.random.RandomState(0)
    layers = get_lenet()
    layers[1].update(height=side, width=side, batch_size=n)
    params = net.init_convnet(layers, np.float32, rng)
    return layers, params, rng.rand(side * side, n).astype(np.float32), rng.randint(0, 10, n)


def flop_per_image(layers):
    """Multiplications and additions in the matrix products of a training iteration, for one image."""
    shapes, params = feature_maps(layers), net.init_convnet(layers)
    total = 0
    for i in range(2, len(layers) + 1):
        h_out, w_out, _ = shapes[i] if layers[i]['type'] == 'CONV' else (1, 1, 0)
        products = 2 if i == 2 else 3                  # the input of the first layer needs no gradient
        total += products * 2 * h_out * w_out * params[i - 1]['w'].size
    return total


if __name__ == '__main__':
    main()
