"""Where the time goes: every layer of LeNet, forward and backward, and how it grows with the batch and the image.

    python benchmarks/layers.py
"""

import os

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cnn_lenet as net
from testLeNet import get_lenet


def median_ms(function, *arguments, repeats=30):
    """Median time of function(*arguments) in milliseconds, after two calls to warm up."""
    seconds = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:]) * 1e3


def make_net(side, n):
    """LeNet for images of side x side, with random images and labels for one minibatch of n."""
    rng = np.random.RandomState(0)
    layers = get_lenet()
    layers[1].update(height=side, width=side, batch_size=n)
    params = net.init_convnet(layers, np.float32, rng)
    return layers, params, rng.rand(side * side, n).astype(np.float32), rng.randint(0, 10, n)


def flop_per_image(layers):
    """Multiplications and additions in the matrix products of a training iteration, for one image."""
    maps = net.feature_map_shapes(layers)
    total = 0
    for i, layer in layers.items():
        if layer['type'] == 'CONV':
            h_out, w_out, _ = maps[i]
            products = 2 if i == 2 else 3              # the input of the first layer needs no gradient
            total += products * 2 * h_out * w_out * layer['k'] ** 2 * maps[i - 1][2] * layer['num']
        elif layer['type'] in ('IP', 'LOSS'):
            total += 3 * 2 * np.prod(maps[i - 1]) * layer['num']
    return total


FUNCTIONS = {
    'CONV': (net.conv_layer_forward, net.conv_layer_backward),
    'POOLING': (net.pooling_layer_forward, net.pooling_layer_backward),
    'RELU': (net.relu_forward, net.relu_backward),
    'IP': (net.inner_product_forward, net.inner_product_backward),
}


def print_layers(n):
    """One thread, the block of columns that conv_net gives to each of its threads."""
    layers, params, data, labels = make_net(28, n)
    outputs = net.forward(params, layers, data)
    rng = np.random.RandomState(1)
    print(f'\none layer at a time, {n} images, one thread     forward  backward (ms)')
    for i in range(2, 8):
        layer, below = layers[i], outputs[i - 1]
        output = {**outputs[i], 'diff': rng.rand(*outputs[i]['data'].shape).astype(np.float32)}
        forward, backward = FUNCTIONS[layer['type']]
        param = [params[i - 1]] if layer['type'] in ('CONV', 'IP') else []
        print(f"layer {i} {layer['type']:38} {median_ms(forward, below, layer, *param):8.3f} "
              f"{median_ms(backward, output, below, layer, *param):9.3f}")
    wb = np.vstack([params[7]['w'], params[7]['b']])
    print(f"layer 8 {'LOSS':38} {median_ms(net.mlrloss, wb, outputs[7]['data'], labels, 10, 1):8.3f}")
    winc = {i: {key: np.zeros_like(value) for key, value in param.items()} for i, param in params.items()}
    print(f"{'sgd_momentum':46} {median_ms(net.sgd_momentum, .01, .02, .9, .0005, params, winc, params):8.3f}")
    print('(layer 2 backward includes the gradient of its input, which conv_net leaves out)')


def print_growth():
    print('\nconv_net            ms per image   GFLOP/s')
    for side, batches in ((28, (1, 4, 16, 64, 256, 1024)), (56, (64,)), (112, (64,))):
        for n in batches:
            layers, params, data, labels = make_net(side, n)
            repeats = 5 if n * side > 7000 else 20
            took = median_ms(net.conv_net, params, layers, data, labels, repeats=repeats) / n
            print(f'{side:3} x {side:3}, batch {n:4} {took:10.4f} {flop_per_image(layers) / took / 1e6:10.1f}')


if __name__ == '__main__':
    print_layers(32)
    print_growth()
