"""LeNet from scratch: a convolutional net in NumPy, trained by SGD with momentum.

This is the code of CMU 10-601's homework 7 (spring 2017), but for the training script and the pictures, in the order in
which one would explain it: data, parameters, layers (each forward beside its backward), loss, network, solver, gradient
check. Section, question and equation numbers are the handout's; docs/lecture.md has all of them. The last three
sections can be skipped at a first reading: what is checked, and what makes it fast.

Shapes are written the same way everywhere:

    n                number of images (columns); the handout's n, of filters or outputs, is `num`
    h, w, c          height, width and channels of a feature map
    (h*w*c, n)       `data` and `diff` of every layer: one column is one image, flattened from (h, w, c)
    (h, w, c, n)     the same array, reshaped (a view): the batch is the last, contiguous axis

A layer's input and its output are structures: dicts with `height`, `width`, `channel`, `batch_size` and `data`. On the
way back the output also has `diff`, the gradient of the loss with respect to its `data`. A backward function takes this
output and what the forward function took, and returns `input_od`, the gradient with respect to input['data'], which
becomes the `diff` of the layer below.

The network is a dict `layers` with the integer keys 1..l. Its parameters are a dict `params` whose key i-1 (not i, as
in the handout's text) holds the {'w': ..., 'b': ...} of layer i.

No function changes its arguments. Results have the precision of the arguments; layers convert integers to float64.
Mismatched arguments raise ValueError; a key missing in what a layer function is given raises KeyError.
"""

import concurrent.futures
import contextlib
import ctypes
import functools
import os
import pathlib
import threading

import numpy as np
import scipy.io
from numpy.polynomial.polynomial import polyfromroots

MNIST_FILE = pathlib.Path(__file__).resolve().parent / 'mnist_all.mat'

# ---------------------------------------------------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------------------------------------------------


def load_mnist(fullset=True, dtype=np.float64, rng=np.random):
    """Load MNIST from `mnist_all.mat` in the folder of this module, and shuffle it (section 6).

    fullset  True for all images; False for a twentieth of each of the three parts, taken after shuffling
    dtype    float type of the images
    rng      source of random numbers: `np.random` (the global generator), a RandomState or a Generator

    Returns [xtrain, ytrain, xvalidate, yvalidate, xtest, ytest]. An x is (784, m) with pixels in [0, 1], a y is
    (m,) with the digits 0..9; m is 50,000, 10,000 and 10,000, or 2,500, 500 and 500.
    Raises FileNotFoundError if there is no such file, ValueError if it is damaged or not MNIST.
    """
    train, test = _read_mnist_file()
    train_order, test_order = np.arange(60000), np.arange(10000)
    rng.shuffle(train_order)
    rng.shuffle(test_order)
    result = []
    for (images, labels), order in ((train, train_order[10000:]), (train, train_order[:10000]), (test, test_order)):
        if not fullset:
            order = order[:len(order) // 20]
        result += [np.divide(images[order], 255, dtype=dtype).T, labels[order]]
    return result


def _read_mnist_file():
    """(images, labels) of the training and of the test images: uint8, one row of 784 pixels per image; digits."""
    with open(MNIST_FILE, 'rb') as file:
        try:
            variables = scipy.io.loadmat(file)
            digits = [[variables[f'{part}{digit}'] for digit in range(10)] for part in ('train', 'test')]
            images = [np.concatenate(part) for part in digits]
        except MemoryError:
            raise
        except Exception:  # scipy raises all sorts of errors on a damaged file
            images = []
    if [(part.shape, part.dtype) for part in images] != [((60000, 784), np.uint8), ((10000, 784), np.uint8)]:
        raise ValueError(f'{MNIST_FILE}: damaged, or not MNIST; expected a MAT-file with train0..train9 (60,000 '
                         'images) and test0..test9 (10,000), uint8, one row of 784 pixels per image')
    return [(rows, np.repeat(np.arange(10), [len(digit) for digit in part])) for rows, part in zip(images, digits)]


# ---------------------------------------------------------------------------------------------------------------
# Parameters
# ---------------------------------------------------------------------------------------------------------------


def init_convnet(layers, dtype=np.float64, rng=np.random):
    """Draw the initial parameters of a network (section 5.4.1).

    layers  dict, key i in 1..l is layer i
    dtype   float type of the parameters
    rng     source of random numbers, as for `load_mnist`

    Returns params: dict, key i-1 is {'w': ..., 'b': ...} of layer i, two empty arrays for a layer that has none.
    Weights are uniform in +-sqrt(3 / (h*w*c)), where (h, w, c) is the layer's input feature map (in convolutions too,
    as in the original), or normal with sqrt(3 / (h*w*c)) as standard deviation: an inner product's `init_type` says
    which, 'uniform' or 'gaussian'. Biases are 0.
    """
    shapes, w_shapes = _shapes(layers)
    params = {}
    for i, w_shape in w_shapes.items():
        scale = np.sqrt(3 / np.prod(shapes[i - 1]))
        init_type = layers[i].get('init_type') if layers[i]['type'] == 'IP' else 'uniform'
        if init_type == 'uniform':
            w = 2 * scale * rng.uniform(size=w_shape) - scale
        elif init_type == 'gaussian':
            w = scale * rng.standard_normal(w_shape)
        else:
            raise ValueError(f"layer {i} (IP) has init_type {init_type!r}; expected 'uniform' or 'gaussian'")
        params[i - 1] = {'w': w.astype(dtype), 'b': np.zeros(w_shape[-1:], dtype)}
    return params


def _shapes(layers):
    """(h, w, c) of every layer's output, keys 1..l-1; and (rows, num) of every layer's w, keys 2..l, or (0,)."""
    _check_layers(layers)
    shapes, w_shapes = {1: tuple(layers[1][key] for key in ('height', 'width', 'channel'))}, {}
    for i in range(2, len(layers) + 1):
        try:
            shapes[i], w_shapes[i] = _layer_shapes(layers[i], *shapes[i - 1])
        except ValueError as error:
            raise ValueError(f"layer {i} ({layers[i]['type']}): {error}") from None
    del shapes[len(layers)]                            # the output of LOSS is a number
    return shapes, w_shapes


def _layer_shapes(layer, h, w, c):
    """Output shape and w shape of a layer whose input is (h, w, c)."""
    if layer['type'] == 'CONV':
        groups = _groups(layer.get('group', 1), c, layer['num'])
        return (*_output_size(h, w, layer), layer['num']), (layer['k'] ** 2 * c // len(groups), layer['num'])
    if layer['type'] == 'POOLING':
        return (*_output_size(h, w, layer), c), (0,)
    if layer['type'] == 'RELU':
        return (h, w, c), (0,)
    if layer['type'] == 'IP':
        return (1, 1, layer['num']), (h * w * c, layer['num'])
    if layer['type'] == 'LOSS':
        return (), (h * w * c, layer['num'] - 1)
    raise ValueError('unknown type; expected a branch for it in _layer_shapes')


def _output_size(h, w, layer):
    """(h_out, w_out): how many windows fit down and across, (h + 2 pad - k) / stride + 1 (section 2.3)."""
    return _checked_output_size(h, w, layer['k'], layer['stride'], layer['pad'], layer.get('type') == 'POOLING')


# ---------------------------------------------------------------------------------------------------------------
# What the layers share
# ---------------------------------------------------------------------------------------------------------------


def _floats(array):
    """An array as it is if it holds floats, otherwise as float64."""
    array = np.asarray(array)
    return array if array.dtype.kind == 'f' else array.astype(np.float64)


def _feature_map(structure):
    """The data of a structure as floats, (h, w, c, n)."""
    return _floats(structure['data']).reshape(
        structure['height'], structure['width'], structure['channel'], structure['batch_size'])


def _structure(data, h, w, c):
    """The structure that a layer returns. data: an array of h*w*c*n elements, any shape with n last."""
    n = data.shape[-1]
    return {'height': h, 'width': w, 'channel': c, 'batch_size': n, 'data': data.reshape(h * w * c, n)}


def _diff(output, rows, n):
    """The gradient with respect to a layer's output, as floats, (rows, n)."""
    diff = _floats(output['diff'])
    if diff.shape != (rows, n):
        raise ValueError(f'diff has shape {diff.shape}; expected {(rows, n)}')
    return diff


def _weights(param, rows, num):
    """(w, b) of a layer: w (rows, num), b (num,)."""
    w, b = param['w'], param['b']
    if w.shape != (rows, num) or b.shape != (num,):
        raise ValueError(f"param['w'] and param['b'] have shapes {w.shape} and {b.shape}; "
                         f'expected {(rows, num)} and {(num,)}')
    return w, b


# ---------------------------------------------------------------------------------------------------------------
# Convolution (section 2.3)
# ---------------------------------------------------------------------------------------------------------------


def conv_layer_forward(input, layer, param):
    """Convolution, forward: out[i, j] = w.T @ window(i, j) + b for every window (section 2.3).

    input  structure, data (h*w*c, n)
    layer  `num` filters of k x k, `stride`, `pad` (zeros on all sides), `group` (1 if it is missing)
    param  w (k*k*c/group, num), rows over (kernel row, kernel column, channel); b (num,)

    Returns output: structure, data (h_out*w_out*num, n). A NaN may reach windows above and below those that it is in.
    """
    x = _feature_map(input)                                                      # (h, w, c, n)
    height, width, c, n = x.shape
    h_out, w_out = _output_size(height, width, layer)
    groups = _groups(layer.get('group', 1), c, layer['num'])
    w, b = _weights(param, layer['k'] ** 2 * c // len(groups), layer['num'])
    correlate = _correlate_in_strips if _strips_pay(x, w, layer, h_out) else _correlate     # fewer multiplications
    out = _side_by_side([correlate(x[:, :, channels], w[:, filters], layer, h_out, w_out)
                         for channels, filters in groups], axis=2)
    out += np.repeat(b, n).reshape(-1, n)              # (num, n), 1 % of an iteration faster than b[:, None]
    return _structure(out, h_out, w_out, layer['num'])                           # (h_out, w_out, num, n)


def _correlate(x, w, layer, h_out, w_out):
    """w.T @ window(i, j) for every window of x (h, w, c, n): (h_out, w_out, num, n)."""
    return w.T @ _windows(x, layer, h_out, w_out)


def conv_layer_backward(output, input, layer, param, need_input_od=True):
    """Convolution, backward (eqs. 7 and 8).

    output         structure of `conv_layer_forward` with `diff` (h_out*w_out*num, n)
    need_input_od  False if nothing below needs the gradient with respect to the input

    Returns param_grad, {'w': ..., 'b': ...} in the shapes of `param`, summed over the batch, and input_od, the
    gradient with respect to input['data'], (h*w*c, n), or None if it is not needed.
    """
    x = _feature_map(input)
    height, width, c, n = x.shape
    groups = _groups(layer.get('group', 1), c, layer['num'])
    w, _ = _weights(param, layer['k'] ** 2 * c // len(groups), layer['num'])
    h_out, w_out = _output_size(height, width, layer)
    diff = _diff(output, h_out * w_out * layer['num'], n).reshape(h_out, w_out, layer['num'], n)
    gradients = _gradients_in_strips if _strips_pay(x, w, layer, h_out) else _gradients
    w_grads, ods = zip(*[gradients(x[:, :, channels], w[:, filters], diff[:, :, filters], layer, need_input_od)
                         for channels, filters in groups])
    param_grad = {'w': _side_by_side(w_grads, axis=1),
                  'b': diff.sum(axis=(0, 1)).sum(axis=1)}                        # 7 times as fast as axis=(0, 1, 3)
    return param_grad, _side_by_side(ods, axis=2).reshape(height * width * c, n) if need_input_od else None


def _gradients(x, w, diff, layer, need_input_od):
    """The gradients with respect to w, the sum of window(i, j) @ diff[i, j].T over all windows, and to x, the sum of
    w @ diff[i, j] at the place of window(i, j) in the image: (k*k*c, num), and (h, w, c, n) or None."""
    k, pad = layer['k'], layer['pad']
    (height, width, c, n), (h_out, w_out, num, _) = x.shape, diff.shape
    # One product for each height i, with all windows (i, j) side by side: it sums over j and over the images.
    windows = _windows(x, layer, h_out, w_out).swapaxes(1, 2).reshape(h_out, k * k * c, w_out * n)
    d = diff.swapaxes(1, 2).reshape(h_out, num, w_out * n)
    w_grad = (windows @ d.swapaxes(1, 2)).sum(axis=0)
    if not need_input_od:
        return w_grad, None
    od = np.zeros((height + 2 * pad, width + 2 * pad, c, n), np.result_type(w, diff))
    for w_here, position in zip(w.reshape(k * k, c, num), _positions(layer, h_out, w_out)):
        od[position] += w_here @ diff                  # one position in all windows at once
    return w_grad, od[pad:pad + height, pad:pad + width]


def _windows(x, layer, h_out, w_out):
    """All windows (i, j) of x (h, w, c, n): (h_out, w_out, k*k*c, n).

    copies[r, b, :, j] is pixel (r, j * stride + b) of the (padded) image: what row r has in column b of window j. The k
    rows from i * stride on hold, one after the other in memory, the k*k*c numbers of the windows (i, j). So the windows
    are a view of k copies of x, where im2col makes k*k.
    """
    k, stride = layer['k'], layer['stride']
    x = _padded(x, layer['pad'])
    h, _, c, n = x.shape
    copies = np.empty((h, k, c, w_out, n), x.dtype)
    for b in range(k):
        copies[:, b] = x[:, b:b + stride * w_out:stride].swapaxes(1, 2)
    # How far it is in memory to the window below, to the next window, to the next number of a window, and to the next
    # image. (To ask sliding_window_view for this view takes 6 % of an iteration.)
    row, _, number, window, image = copies.strides
    return np.ndarray((h_out, w_out, k * k * c, n), x.dtype, copies, strides=(stride * row, window, number, image))


def _positions(layer, h_out, w_out):
    """Where each of the k*k positions in a window lies in the image, in row-major order: x[position] is
    (h_out, w_out, ...), what all windows have at that position, as a view of the (padded) image x."""
    k, stride = layer['k'], layer['stride']
    return [(slice(a, a + stride * h_out, stride), slice(b, b + stride * w_out, stride))
            for a in range(k) for b in range(k)]


def _padded(x, pad):
    """x (h, w, ...) with `pad` rows and columns of zeros on all sides."""
    return np.pad(x, [(pad, pad), (pad, pad)] + [(0, 0)] * (x.ndim - 2)) if pad else x


@functools.cache                                       # checked once, not in every call
def _groups(group, c, num):
    """(channels, filters) of each group, as slices: group g's filters see only group g's channels."""
    _check_count('group', group, 1)
    if c % group or num % group:
        raise ValueError(f'group = {group} does not divide both channel = {c} and num = {num}; expected a divisor')
    c, num = c // group, num // group
    return [(slice(g * c, (g + 1) * c), slice(g * num, (g + 1) * num)) for g in range(group)]


def _side_by_side(arrays, axis):
    """What all groups give, in one array."""
    return np.concatenate(arrays, axis) if len(arrays) > 1 else arrays[0]


def im2col_conv(input_n, layer, h_out, w_out):
    """The windows of one image as columns (section 6). The layers above take those of all images: `_windows`.

    input_n  structure of one image: `data` has h*w*c elements
    Returns (k*k*c, h_out*w_out): column i*w_out + j is the window at (i, j), flattened from (k, k, c).
    """
    h, w, c = input_n['height'], input_n['width'], input_n['channel']
    x = _padded(np.reshape(input_n['data'], (h, w, c)), layer['pad'])
    windows = np.stack([x[position] for position in _positions(layer, h_out, w_out)])     # (k*k, h_out, w_out, c)
    return windows.transpose(0, 3, 1, 2).reshape(-1, h_out * w_out)


def col2im_conv(col, input, layer, h_out, w_out):
    """The adjoint of `im2col_conv`: add every column at its window's place in the image (section 6).

    col    (k*k*c, h_out*w_out), or anything that reshapes to it
    input  structure that gives height, width and channel of the image
    Returns (h, w, c): where windows overlap their values are added up. The padding is cut off.
    """
    h, w, c = input['height'], input['width'], input['channel']
    k, pad = layer['k'], layer['pad']
    windows = np.reshape(col, (k * k, c, h_out, w_out)).transpose(0, 2, 3, 1)    # (k*k, h_out, w_out, c)
    im = np.zeros((h + 2 * pad, w + 2 * pad, c), windows.dtype)
    for position, values in zip(_positions(layer, h_out, w_out), windows):
        im[position] += values
    return im[pad:pad + h, pad:pad + w]


# ---------------------------------------------------------------------------------------------------------------
# Max pooling (section 2.4)
# ---------------------------------------------------------------------------------------------------------------


def pooling_layer_forward(input, layer):
    """Max pooling, forward: the largest value of every window, channel by channel (section 2.4, Q1).

    input  structure, data (h*w*c, n)
    layer  windows of k x k, `stride`; `pad` is 0

    Returns output: structure, data (h_out*w_out*c, n).
    """
    x = _feature_map(input)                                                      # (h, w, c, n)
    first, *others = _positions(layer, *_output_size(*x.shape[:2], layer))
    largest = x[first].copy()                                                    # (h_out, w_out, c, n)
    for position in others:
        np.maximum(largest, x[position], out=largest)  # NaN if one of them is
    return _structure(largest, *largest.shape[:3])


def pooling_layer_backward(output, input, layer):
    """Max pooling, backward: each window's gradient goes to its largest element (eq. 8, Q4).

    output  structure with `diff` (h_out*w_out*c, n), the gradient with respect to the output; `data` are the maxima,
            which are computed again if it is not there

    Returns input_od (h*w*c, n). Of several equal maxima the first in row-major order gets the whole gradient;
    where windows overlap, an element that is the maximum of several gets the sum.
    """
    x = _feature_map(input)
    h_out, w_out = _output_size(*x.shape[:2], layer)
    c, n = x.shape[2:]
    diff = _diff(output, h_out * w_out * c, n).reshape(h_out, w_out, c, n)
    maxima = output['data'] if 'data' in output else pooling_layer_forward(input, layer)['data']
    maxima = np.reshape(maxima, diff.shape)
    tiled = layer['stride'] == layer['k']              # every element is in one window: nothing is to be added up
    od = (np.empty if tiled else np.zeros)(x.shape, diff.dtype)                  # 3 % of an iteration
    waiting = np.ones(diff.shape, bool)                # windows whose largest element has not been met yet
    for position in _positions(layer, h_out, w_out):
        chosen = x[position] == maxima
        chosen &= waiting                              # of several equal maxima only the first is chosen
        waiting ^= chosen
        if tiled:
            np.multiply(diff, chosen, out=od[position])
        else:
            od[position] += diff * chosen
    return od.reshape(-1, n)


# ---------------------------------------------------------------------------------------------------------------
# ReLU (section 2.2)
# ---------------------------------------------------------------------------------------------------------------


def relu_forward(input, layer=None):
    """ReLU, forward: max(0, x) of every element (section 2.2, Q2).

    input  structure, data (h*w*c, n); `layer` is not used

    Returns output: structure of the same size.
    """
    x = _floats(input['data'])
    return {**input, 'data': np.maximum(x, 0)}


def relu_backward(output, input, layer=None):
    """ReLU, backward: the gradient passes where the input was positive (eq. 8, Q5).

    output  structure with `diff`, the gradient with respect to the output, in the shape of input['data']

    Returns input_od, in the same shape. At exactly 0 the gradient is 0.
    """
    x = _floats(input['data'])
    diff = _diff(output, *x.shape)
    return diff * (x > 0)


# ---------------------------------------------------------------------------------------------------------------
# Inner product (section 2.1)
# ---------------------------------------------------------------------------------------------------------------


def inner_product_forward(input, layer, param):
    """Inner product (fully connected layer), forward: w.T x + b for every column x (eq. 3, Q3).

    input  structure, data (h*w*c, n)
    layer  `num` outputs
    param  w (h*w*c, num), b (num,)

    Returns output: structure of height 1, width 1 and channel num, data (num, n).
    """
    x = _floats(input['data'])                                                          # (h*w*c, n)
    w, b = _weights(param, x.shape[0], layer['num'])
    return _structure(w.T @ x + b[:, None], 1, 1, layer['num'])


def inner_product_backward(output, input, layer, param):
    """Inner product, backward (eqs. 7 and 8, Q6).

    output  structure with `diff` (num, n), the gradient with respect to the output

    Returns param_grad, {'w': ..., 'b': ...} in the shapes of `param`, summed over the batch, and input_od,
    the gradient with respect to input['data'], (h*w*c, n).
    """
    x = _floats(input['data'])                                                          # (h*w*c, n)
    w, _ = _weights(param, x.shape[0], layer['num'])
    n = x.shape[1]
    diff = _diff(output, layer['num'], n)
    w_grad = x @ diff.T if n > 1 else x * diff.T       # the same for a column and a row, but 0.3 ms faster in LeNet
    return {'w': w_grad, 'b': diff.sum(axis=1)}, w @ diff


# ---------------------------------------------------------------------------------------------------------------
# Loss: inner product -> softmax -> negative log-likelihood (sections 2.5, 2.6)
# ---------------------------------------------------------------------------------------------------------------


def mlrloss(wb, X, y, K, prediction):
    """The last inner product, softmax and loss in one: cost and gradients (eqs. 2, 4 and 5).

    wb          (inputs+1, K-1): w stacked on b; the last class's logit is fixed at 0
    X           (inputs, n)
    y           (n,) labels, whole numbers in 0..K-1
    K           number of classes
    prediction  1 to count the right answers, anything else not to

    Returns nll, the sum of -log(p of the label) over the batch; g, its gradient with respect to wb; od, the
    gradient with respect to X; percent, the share of right answers in 0..1 (0 when prediction is not 1).
    """
    wb, X = np.asarray(wb), np.asarray(X)
    if X.ndim != 2 or wb.shape != (X.shape[0] + 1, K - 1):
        raise ValueError(f'wb has shape {wb.shape} for X of shape {X.shape} and K = {K}; '
                         'expected wb (inputs + 1, K - 1) and X (inputs, n)')
    y = _check_labels(y, X.shape[1], K)
    log_p = _log_probabilities(wb, X)                                            # (K, n)
    images = np.arange(X.shape[1])
    nll = -log_p[y, images].sum()
    d = np.exp(log_p)                                                            # d nll / d logits: p,
    d[y, images] -= 1                                                            # minus 1 at the label
    d = d[:-1]                                                                   # the last logit is fixed
    g = np.vstack([X @ d.T, d.sum(axis=1)])
    percent = (log_p.argmax(axis=0) == y).mean() if prediction == 1 else 0
    return nll, g, wb[:-1] @ d, percent


def softmax(logits):
    """Probabilities (K, n) of logits (K, n): exp(s_j) / sum_k exp(s_k), column by column (eq. 1)."""
    return np.exp(_log_softmax(logits))


def _log_softmax(logits):
    """Logarithms of the probabilities. A softmax does not change when one number is subtracted from all logits; with
    the largest at 0, exp cannot overflow and log never sees 0."""
    logits = logits - logits.max(axis=0)
    return logits - np.log(np.exp(logits).sum(axis=0))


def _log_probabilities(wb, X):
    """Logarithms of the class probabilities (K, n) of an inner product and a softmax (eq. 4)."""
    logits = wb[:-1].T @ X + wb[-1][:, None]                                     # (K-1, n); that of the last class is 0
    return _log_softmax(np.vstack([logits, np.zeros_like(logits[:1])]))


# ---------------------------------------------------------------------------------------------------------------
# Network
# ---------------------------------------------------------------------------------------------------------------


def forward(params, layers, data):
    """Forward pass of the whole network but its LOSS (section 5.2).

    data  (h*w*c, n), any number of columns

    Returns outputs: dict, keys 1..l-1 as in `layers`, the structure that each layer returns.
    """
    shapes, params, data = _check_network(params, layers, data)
    return _forward(params, layers, shapes, data, 1, len(layers) - 1)


def _functions():
    """What computes each type of layer: dict, type -> (forward, backward). It is made anew in every pass, so that a
    function that a program has put in the place of one of these is the one that is called.

    A new type of layer is two such functions, a row here, and its shapes in `_layer_shapes`. If it has a w, its
    functions get `param` and return `param_grad` as those of an inner product do.
    """
    return {'CONV': (conv_layer_forward, conv_layer_backward),
            'POOLING': (pooling_layer_forward, pooling_layer_backward),
            'RELU': (relu_forward, relu_backward),
            'IP': (inner_product_forward, inner_product_backward)}


def _forward(params, layers, shapes, data, first, last):
    """The outputs of the layers first..last: dict. `data` is the output of layer `first`, which is not computed."""
    # A copy: the columns become contiguous, and a layer that changes its input does not change the caller's array.
    outputs = {first: _structure(np.array(data, order='C'), *shapes[first])}
    functions = _functions()
    for i in range(first + 1, last + 1):
        function, _ = functions[layers[i]['type']]
        param = [params[i - 1]] if i - 1 in params else []
        output = function(dict(outputs[i - 1]), layers[i], *param)
        outputs[i] = _check_output(i, function, output, *shapes[i], data.shape[1])
    return outputs


def predict(params, layers, data, threads=None):
    """Class probabilities of images (section 1.3).

    data     (h*w*c, n), any number of columns: memory stays bounded
    threads  how many to use: None for one per core, 1 for the calling thread alone; the result is the same

    Returns (num, n): column j sums to 1; the index of its largest element is the prediction for image j.
    """
    shapes, params, data = _check_network(params, layers, data)
    last = len(layers)
    # The layer below the first inner product, which is where feature maps end.
    last_map = min(i for i, layer in layers.items() if layer['type'] in ('IP', 'LOSS')) - 1
    wb = np.vstack([params[last - 1]['w'], params[last - 1]['b']])

    def probabilities(block):
        # Convolutions are fastest on a few columns, whose feature maps fit in the cache; inner products on many, for
        # which the weights are read once. Together this takes two thirds of the time of blocks of 32 for all layers.
        x = data[:, block]
        x = np.hstack([_forward(params, layers, shapes, x[:, few], 1, last_map)[last_map]['data']
                       for few in _blocks(x.shape[1], 64)])
        x = _forward(params, layers, shapes, x, last_map, last - 1)[last - 1]['data']
        return np.exp(_log_probabilities(wb, x))

    return np.hstack(list(_in_threads(probabilities, _blocks(data.shape[1], 256), threads)))


def conv_net(params, layers, data, labels, threads=None):
    """Cost and gradients of the network on one minibatch: feed forward, then backpropagation (sections 5.2, 5.3).

    data     (h*w*c, n) with n = layers[1]['batch_size']
    labels   (n,) whole numbers in 0..num-1
    threads  as for `predict`

    Returns cp, with `cost` (mean negative log-likelihood) and `percent` (share of right answers, 0..1), and
    param_grad, in the shapes of `params`, the gradient of the mean cost.
    """
    shapes, params, data = _check_network(params, layers, data)
    n = data.shape[1]
    if n != layers[1]['batch_size']:
        raise ValueError(f"data has {n} columns; expected layers[1]['batch_size'] = {layers[1]['batch_size']}")
    labels = _check_labels(labels, n, layers[len(layers)]['num'])

    def block_sums(block):
        return _forward_backward(params, layers, shapes, data[:, block], labels[block], n)

    # Blocks of 32, since a product of 16 columns takes about as long. They are added up in the order of the columns,
    # whichever thread finishes first, so that the same seed gives the same result to the last bit.
    cost, right, grads = 0, 0, None
    for block_cost, block_right, block_grads in _in_threads(block_sums, _blocks(n, 32), threads):
        cost, right = cost + block_cost, right + block_right
        grads = block_grads if grads is None else {
            i: {key: grads[i][key] + block_grads[i][key] for key in 'wb'} for i in grads}
    empty = grads[len(layers) - 1]['b'][:0]            # what a layer without parameters has
    param_grad = {i: grads.get(i) or {'w': empty.copy(), 'b': empty.copy()} for i in range(1, len(layers))}
    return {'cost': float(cost), 'percent': right / n}, param_grad


def _forward_backward(params, layers, shapes, data, labels, n):
    """What these columns add to the cost of a minibatch of n columns, to the number of right answers, and to the
    gradients of the layers that have parameters: dict, keys as in `params`."""
    last = len(layers)
    outputs = _forward(params, layers, shapes, data, 1, last - 1)
    wb = np.vstack([params[last - 1]['w'], params[last - 1]['b']])
    nll, g, od, percent = mlrloss(wb, outputs[last - 1]['data'], labels, layers[last]['num'], 1)
    g, od = g / n, od / n                              # from here on all gradients are those of the mean cost
    grads = {last - 1: {'w': g[:-1], 'b': g[-1]}}
    lowest = min(params) + 1                           # the lowest layer that has any: below it, no gradient is needed
    functions = _functions()
    for i in range(last - 1, lowest - 1, -1):
        _, function = functions[layers[i]['type']]
        options = {'need_input_od': i > lowest} if layers[i]['type'] == 'CONV' else {}
        param = [params[i - 1]] if i - 1 in params else []
        od = function({**outputs[i], 'diff': od}, outputs[i - 1], layers[i], *param, **options)
        if param:                                      # then it has returned param_grad, too
            grads[i - 1], od = _check_gradients(i, function, od, *param)
        if i > lowest:
            _check_array(i, function, 'input_od', od, outputs[i - 1]['data'].shape)
    return nll / n, round(percent * len(labels)), grads           # a count of right answers, which adds up exactly


# ---------------------------------------------------------------------------------------------------------------
# Solver (section 5.5)
# ---------------------------------------------------------------------------------------------------------------


def get_lr(step, epsilon, gamma, power):
    """Learning rate of iteration `step`: epsilon / (1 + gamma * step) ** power (eq. 11)."""
    return float(epsilon / (1 + gamma * step) ** power)


def sgd_momentum(w_rate, b_rate, mu, decay, params, param_winc, param_grad):
    """One step of SGD with momentum and weight decay (eqs. 9, 10 and 13, Q7).

    w_rate, b_rate  learning rates of w and b
    mu              momentum
    decay           weight decay (lambda); on w only
    params, param_winc, param_grad   dicts of the same shapes: parameters, accumulated gradients (theta), gradients;
            empty arrays where a layer has no parameters

    Returns params_ and param_winc_, new dicts.
    """
    # Python's own floats: a rate that is a np.float64 would turn float32 parameters into float64.
    w_rate, b_rate, mu, decay = float(w_rate), float(b_rate), float(mu), float(decay)
    params_, param_winc_ = {}, {}
    for i in params:
        params_[i], param_winc_[i] = {}, {}
        for key, rate, key_decay in (('w', w_rate, decay), ('b', b_rate, 0.0)):
            value, theta, grad = params[i][key], param_winc[i][key], param_grad[i][key]
            step = grad + key_decay * value
            step *= rate                               # in place: 1 % of an iteration
            step += mu * theta
            params_[i][key], param_winc_[i][key] = value - step, step
    return params_, param_winc_


# ---------------------------------------------------------------------------------------------------------------
# Gradient check (section 8)
# ---------------------------------------------------------------------------------------------------------------


def finite_difference(output, input, h, forward=relu_forward):
    """The gradient of any layer with respect to its input, approximated by finite differences (eq. 14).

    output   structure with `diff`, the gradient of the loss with respect to the layer's output
    input    structure, data (h*w*c, n)
    h        the small step, such as 1e-6
    forward  the layer, as a function of the input structure alone, such as
             `lambda x: conv_layer_forward(x, layer, param)`

    Returns input_od_approx, in the shape of input['data']: for every element x of it, (f(x + h) - f(x)) / h with
    f = sum(output['diff'] * forward(x)['data']), in float64, by one forward pass per element (for ReLU, the default as
    in the handout, one for all). Compare with the input_od of a backward function. At a kink (a ReLU's input that is
    exactly 0, equal elements of a pooling window) it is the slope to the right, so that a right input_od may differ.
    """
    data = _floats(input['data'])
    x = data.astype(np.float64)
    before = forward({**input, 'data': x.copy()})['data']
    diff = _diff(output, *before.shape)

    def difference(shifted):
        # Differences first, then the sum: large values that do not change drop out without rounding errors.
        return diff * (forward({**input, 'data': shifted})['data'] - before) / h

    if forward is relu_forward:
        approx = difference(x + h)                     # no element affects another: all are shifted at once
    else:
        approx = np.empty_like(x)
        for index in np.ndindex(x.shape):
            shifted = x.copy()
            shifted[index] += h
            approx[index] = difference(shifted).sum()
    return approx.astype(data.dtype, copy=False)


def check_gradients(params, layers, data, labels, count=10, rng=None, h=1e-7):
    """Compare the gradients of `conv_net` with finite differences of its cost f.

    params, layers, data, labels   as for `conv_net`
    count   how many entries of each w and b are compared, chosen at random
    rng     source of random numbers, as for `load_mnist`; by default one that chooses the same entries every time
    h       the small step

    Returns a dict: for every layer i that has parameters its largest error over these entries, relative to the largest
    of their gradients. Right gradients give 1e-6 or less; if all are 0, which proves nothing, it is nan.
    An error is how far a gradient lies outside the interval between the slopes to the left, (f(x) - f(x - h)) / h, and
    to the right, (f(x + h) - f(x)) / h, in float64. Nearly always the two are the same. They differ at a kink (with a
    bias of 0, a blank patch makes many inputs of a ReLU exactly 0), where every value between them passes.
    """
    rng = np.random.RandomState(0) if rng is None else rng
    params = {i: {key: np.array(value, np.float64) for key, value in param.items()} for i, param in params.items()}
    data = np.array(data, np.float64)

    def cost_with(i, key, index, step):
        value = params[i][key].copy()
        value.flat[index] += step
        return conv_net({**params, i: {**params[i], key: value}}, layers, data, labels)[0]['cost']

    cp, param_grad = conv_net(params, layers, data, labels)
    errors = {}
    for i, param in params.items():
        exact, slopes = [], []
        for key, value in param.items():
            for index in rng.permutation(value.size)[:count]:
                exact.append(param_grad[i][key].flat[index])
                slopes.append(((cp['cost'] - cost_with(i, key, index, -h)) / h,
                               (cost_with(i, key, index, h) - cp['cost']) / h))
        if exact:
            outside = np.abs(exact - np.clip(exact, np.min(slopes, axis=1), np.max(slopes, axis=1)))
            largest = max(np.abs(exact).max(), np.abs(slopes).max())
            errors[i + 1] = float(outside.max() / largest) if largest else np.nan
    return errors


# ---------------------------------------------------------------------------------------------------------------
# What is checked
#
# Here the homework ends: what follows is checks and speed. These are the rules that layers, parameters, data and labels
# follow, and what the network expects of a layer function. Without one of them something would be wrong in silence, or
# fail late with a message that says little.
# ---------------------------------------------------------------------------------------------------------------

# The keys that a layer needs, and the least value that makes sense.
_LAYER_KEYS = {
    'DATA': {'height': 1, 'width': 1, 'channel': 1, 'batch_size': 1},
    'CONV': {'num': 1, 'k': 1, 'stride': 1, 'pad': 0},
    'POOLING': {'k': 1, 'stride': 1, 'pad': 0},
    'IP': {'num': 1},
    'LOSS': {'num': 2},
}


def _check_layers(layers):
    """The keys are 1..l, DATA comes first and LOSS last, and each layer has what it needs."""
    if not isinstance(layers, dict) or not layers or set(layers) != set(range(1, len(layers) + 1)):
        raise ValueError(f'layers is {_brief(layers)}; expected a dict with the integers 1, 2, ..., l as keys')
    kinds = list(_functions())
    for i, layer in layers.items():
        kind = layer.get('type') if isinstance(layer, dict) else None
        allowed = ['DATA'] if i == 1 else ['LOSS'] if i == len(layers) else kinds
        if kind not in allowed:
            raise ValueError(f'layer {i} has type {_brief(kind)}; expected {" or ".join(map(repr, allowed))} '
                             '(DATA is the first layer, LOSS the last)')
        for key, least in _LAYER_KEYS.get(kind, {}).items():
            if key not in layer:
                raise ValueError(f'layer {i} ({kind}) lacks the key {key!r}; '
                                 f'expected type, {", ".join(_LAYER_KEYS[kind])}')
            _check_count(f'layer {i} ({kind}) has {key}', layer[key], least)


@functools.cache                                       # checked once, not in every call
def _checked_output_size(h, w, k, stride, pad, is_pooling):
    """What `_output_size` returns. Windows tile the padded image; integer division would hide a remainder."""
    if is_pooling and pad:
        raise ValueError(f"pooling has pad = {pad}; expected 0: the handout's pooling has no padding")
    for axis, size in (('height', h + 2 * pad), ('width', w + 2 * pad)):
        if k > size:
            raise ValueError(f'the window k = {k} is larger than the padded {axis}; expected at most {size}')
        if (size - k) % stride:
            raise ValueError(f'windows with k = {k} and stride = {stride} do not tile the padded {axis} {size}: '
                             f'expected {size} - k to be a multiple of stride')
    return (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1


def _check_count(name, value, least):
    if type(value) is bool or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f'{name} = {_brief(value)}; expected a whole number of at least {least}')


def check_params(params, layers, name='params', finite=False):
    """Raise ValueError unless `params`, called `name` in the message, fits the layers (and is finite, if it must be).

    Returns the shapes (h, w, c) of the outputs of all layers but LOSS, and `params` as arrays, without the entries of
    layers that have none.
    """
    shapes, w_shapes = _shapes(layers)
    if not isinstance(params, dict):
        raise ValueError(f'{name} is {_brief(params)}; expected a dict')
    arrays = {i - 1: {} for i, w_shape in w_shapes.items() if w_shape != (0,)}
    for i in arrays:
        for key, shape in (('w', w_shapes[i + 1]), ('b', w_shapes[i + 1][-1:])):
            entry = f"{name}[{i}][{key!r}], a parameter of layer {i + 1} ({layers[i + 1]['type']}),"
            try:
                value = arrays[i][key] = np.asarray(params[i][key])
            except (LookupError, TypeError):
                raise ValueError(f'{entry} is missing; expected an array of shape {shape}') from None
            if value.shape != shape:
                raise ValueError(f'{entry} has shape {value.shape}; expected {shape}')
            if finite and not np.isfinite(value).all():
                raise ValueError(f'{entry} has numbers that are nan or infinite')
    return shapes, arrays


def _check_network(params, layers, data):
    """params and data fit the layers. Returns what `check_params` does, and data as an array."""
    shapes, params = check_params(params, layers)
    data = np.asarray(data)
    h, w, c = map(int, shapes[1])
    if data.ndim != 2 or data.shape[0] != h * w * c or data.shape[1] == 0:
        raise ValueError(f'data has shape {data.shape}; expected {h * w * c} rows (height {h} * width {w} * channel '
                         f'{c}) and a column per image, at least one')
    return shapes, params, data


def _check_labels(y, n, K):
    """There are n labels, whole numbers in 0..K-1. Returns them as an array of integers."""
    y = np.asarray(y)
    if y.shape != (n,):
        raise ValueError(f'labels have shape {y.shape}; expected ({n},), one per column of data')
    wrong = (y < 0) | (y >= K) if y.dtype.kind in 'iu' else ~np.isin(y, range(K))      # 1 % of an iteration faster
    if wrong.any():
        raise ValueError(f'label {y[wrong][0]} at position {int(wrong.argmax())}; expected labels in 0..{K - 1}, '
                         'whole numbers')
    return y.astype(np.intp, copy=False)


def _check_output(i, function, output, h, w, c, n):
    """A forward function returned a structure with data of h*w*c rows. Returns it with the sizes that it has."""
    if not isinstance(output, dict) or 'data' not in output:
        raise _wrong_return(i, function, _brief(output), 'a dict with height, width, channel, batch_size, data')
    _check_array(i, function, 'data', output['data'], (h * w * c, n))
    return {**output, 'height': h, 'width': w, 'channel': c, 'batch_size': n}


def _check_gradients(i, function, result, param):
    """The backward function of a layer with parameters returned param_grad and input_od. Returns both."""
    are_dicts = [isinstance(part, dict) for part in result] if isinstance(result, (tuple, list)) else []
    if are_dicts == [False, True]:
        raise _wrong_return(i, function, 'input_od, param_grad', 'param_grad, input_od: the two results are swapped')
    if are_dicts != [True, False]:
        raise _wrong_return(i, function, _brief(result), 'param_grad, a dict with w and b, and input_od, an array')
    grad, od = result
    for key in 'wb':
        _check_array(i, function, f'param_grad[{key!r}]', grad.get(key), param[key].shape)
    return {'w': grad['w'], 'b': grad['b']}, od        # a dict of ours: the function may use its own again


def _check_array(i, function, name, value, shape):
    if type(value) is not np.ndarray or value.shape != shape or value.dtype.kind not in 'fiub':
        raise _wrong_return(i, function, f'{name} = {_brief(value)}', f'a plain array of shape {shape}')


def _wrong_return(i, function, value, expected):
    return ValueError(f'layer {i}: {function.__name__} returned {value}; expected {expected}')


def _brief(value):
    """A value in a few words, for a message: arrays by their shapes."""
    if isinstance(value, np.ndarray):
        kind = 'an array' if type(value) is np.ndarray else f'a np.{type(value).__name__}'
        return f'{kind} of shape {value.shape} and type {value.dtype}'
    if isinstance(value, (list, tuple)):
        return f'a {type(value).__name__} of {len(value)}'
    text = f'a dict with the keys {list(value)}' if isinstance(value, dict) else repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


# ---------------------------------------------------------------------------------------------------------------
# A convolution with fewer multiplications
#
# What `_correlate` and `_gradients` compute can be had with up to 2.5 times fewer multiplications, which takes a fifth
# off an iteration of LeNet, where it is used in layer 4. Skip this section unless you want to know how it is done;
# docs/fast_convolution.md derives it, with an example that can be worked by hand.
#
# Down one column of an image, k weights w slide over p = m + k - 1 numbers x and give m outputs: m k products. But a
# convolution and its two gradients are products of polynomials, of degrees m - 1 and k - 1, or the transposes of such
# products, and a polynomial of degree p - 1 is known from its values at p points: p products, 8 for k = 5 and m = 4,
# not 20. Three matrices that depend on the points alone lead to the values and back:
#
#     D (p, m)    row q holds the powers 0 to m - 1 of point q: D d are the values of the polynomial d
#     W (p, k)    row q holds the powers 0 to k - 1 of point q
#     X (p, p)    row q holds the coefficients of the polynomial that is 1 at point q and 0 at the others
#
# With d the gradient with respect to the outputs, and products element by element,
#
#     out = D.T ((W w) (X x))        dw = W.T ((D d) (X x))        dx = X.T ((D d) (W w))
#
# In a layer x[j], w[a] and d[i] are whole rows: of all images (width, c, n), of all filters (k, c, num), and of the
# gradient (w_out, num, n); their "product" is a convolution along the row, in the plain way, or one of its gradients.
# The image is cut into strips of p rows that overlap by k - 1, each of which gives m rows of the output.
#
# The price: rounding errors are three to four times those of the plain sums, a NaN or an infinity makes NaN of all rows
# of its strips, and in float32 a gradient with respect to the input overflows from 1e34 on, not only from 3e38.
# Sources: Toom (1963), Cook (1966), Winograd (1980), Lavin and Gray (2015).
# ---------------------------------------------------------------------------------------------------------------

# The p points. Pairs of opposite sign and of reciprocals keep the rounding errors small.
_POINTS = np.array([1 / 4, 3 / 4, 4 / 3, 4, -1 / 4, -3 / 4, -4 / 3, -4])


def _strips_pay(x, w, layer, h_out):
    """Whether the functions below can be used, and were measured faster than the plain ones: where a window's rows have
    64 numbers or more (with fewer, the products are too small to repay D, W and X) and a third of the row products is
    saved, of which there are p for each strip, not k for each row."""
    k, p = layer['k'], len(_POINTS)
    m = p + 1 - k
    return (layer['stride'] == 1 and m > 0 and w.shape[0] // k >= 64
            and -(-h_out // m) * p <= 2 / 3 * h_out * k         # h_out / m, rounded up, is the number of strips
            and np.result_type(x, w) in (np.float32, np.float64))


@functools.cache
def _strip_matrices(k, dtype):
    """The matrices D (p, m), W (p, k) and X (p, p) for kernels of k rows, as explained above."""
    m = len(_POINTS) + 1 - k
    powers = np.vander(_POINTS, increasing=True)                                 # (p, p)
    X = []                                             # the transposed inverse of `powers`, but right in every digit
    for point in _POINTS:
        others = _POINTS[_POINTS != point]
        X.append(polyfromroots(others) / np.prod(point - others))                # coefficients, lowest power first
    return [np.array(matrix, dtype) for matrix in (powers[:, :m], powers[:, :k], X)]


def _times(matrix, rows):
    """matrix @ rows, where a row is an array of any shape."""
    return (matrix @ rows.reshape(matrix.shape[1], -1)).reshape(-1, *rows.shape[1:])


def _correlate_in_strips(x, w, layer, h_out, w_out):
    """What `_correlate` returns: D.T ((W w) (X x)) for every strip."""
    k = layer['k']
    D, W, X = _strip_matrices(k, np.result_type(x, w))
    x = _padded(x, layer['pad'])
    (p, m), (c, n), num = D.shape, x.shape[2:], w.shape[1]
    w_values = _times(W, w.reshape(k, k * c, num)).swapaxes(1, 2)[:, None]       # (p, 1, num, k*c)
    out = np.empty((h_out, w_out, num, n), w_values.dtype)
    for i in range(0, h_out, m):
        x_rows, out_rows = x[i:i + p], out[i:i + m]    # in the last strip, rows that are not there count as 0
        x_values = _times(X[:, :len(x_rows)], x_rows)                            # (p, width, c, n)
        # k columns of c channels lie one after the other in memory, so the windows are a view: (p, w_out, k*c, n).
        windows = np.ndarray((p, w_out, k * c, n), x_values.dtype, x_values, strides=x_values.strides)
        products = (w_values @ windows).reshape(p, -1)
        np.matmul(D[:, :len(out_rows)].T, products, out=out_rows.reshape(len(out_rows), -1))
    return out


def _gradients_in_strips(x, w, diff, layer, need_input_od):
    """What `_gradients` returns: W.T ((D d) (X x)), summed over the strips, and X.T ((D d) (W w)) for every strip."""
    k, pad = layer['k'], layer['pad']
    D, W, X = _strip_matrices(k, np.result_type(x, w, diff))
    x = _padded(x, pad)
    (p, m), (h, width, c, n), (h_out, w_out, num, _) = D.shape, x.shape, diff.shape
    w_values = _times(W, w.reshape(k, k * c, num))[:, None]                      # (p, 1, k*c, num)
    w_sums = np.zeros((p, k, c, num), w_values.dtype)                            # (D d) (X x) of all strips
    od = np.zeros(x.shape, w_values.dtype)
    for i in range(0, h_out, m):
        x_rows, d_rows = x[i:i + p], diff[i:i + m]     # in the last strip, rows that are not there count as 0
        d_values = _times(D[:, :len(d_rows)], d_rows)                            # (p, w_out, num, n)
        if need_input_od:
            products = (w_values @ d_values).reshape(p, w_out, k, c, n)
            x_sums = np.zeros((p, width, c, n), d_values.dtype)                  # (D d) (W w) of this strip
            for b in reversed(range(k)):               # one column in all windows at once
                x_sums[:, b:b + w_out] += products[:, :, b]
            od[i:i + p] += _times(X[:, :len(x_rows)].T, x_sums)
        x_values = _times(X[:, :len(x_rows)], x_rows)                            # (p, width, c, n)
        # As in `_gradients`, one product for all windows of a row: what they have in column b is
        # x_beside[..., b*n:(b + w_out)*n].
        x_beside = np.ascontiguousarray(x_values.swapaxes(1, 2)).reshape(p, c, width * n)
        d_beside = d_values.swapaxes(1, 2).reshape(p, 1, num, w_out * n)
        point, channel, image = x_beside.strides
        windows = np.ndarray((p, k, c, w_out * n), x_beside.dtype, x_beside, strides=(point, n * image, channel, image))
        w_sums += windows @ d_beside.swapaxes(2, 3)
    w_grad = _times(W.T, w_sums).reshape(k * k * c, num)
    return w_grad, od[pad:h - pad, pad:width - pad] if need_input_od else None


# ---------------------------------------------------------------------------------------------------------------
# How the work is spread over the cores
#
# The columns of a minibatch go through the network in blocks, each on a thread of its own: NumPy lets other threads run
# while it computes. Skip this section unless you want to know how; it changes nothing in what is computed.
# ---------------------------------------------------------------------------------------------------------------


def _blocks(n, size):
    """The columns 0..n-1 cut up evenly into slices of at most `size`."""
    count = -(-n // size)
    return [slice(n * j // count, n * (j + 1) // count) for j in range(count)]


def _in_threads(function, blocks, threads):
    """Yield function(block) for every block, in order. threads: how many share the work, None for one per core."""
    _keep_freed_memory()
    with _one_blas_thread() as spreading_pays:
        if threads is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
            threads = cores if spreading_pays else 1
        _check_count('threads', threads, 1)
        # The calling thread takes one too, if they are few: 5 % off an iteration.
        own = blocks if threads == 1 or len(blocks) == 1 else blocks[:1] if len(blocks) <= threads else []
        others = [_thread_pool(threads).submit(function, block) for block in blocks[len(own):]]
        try:
            yield from map(function, own)
            for future in others:
                yield future.result()
        finally:
            # After an error in one block no other is begun, and those that run are waited for.
            for future in others:
                future.cancel()
            concurrent.futures.wait(others)


@functools.cache
def _thread_pool(threads):
    """Threads that stay, as starting them takes 0.3 ms."""
    return concurrent.futures.ThreadPoolExecutor(threads, 'cnn_lenet')


@functools.cache
def _keep_freed_memory():
    """Have the C library keep the memory of freed arrays for the next ones, which takes a third off an iteration.

    By default glibc gives it back to the kernel, and the next array fetches it again page by page: 1,900 page faults
    for a block of 32 images. It no longer does so up to the size of the largest array freed so far (32 MB at most).
    """
    np.empty(31 << 20, np.uint8)


_blas_lock = threading.Lock()
_blas_state = {'users': 0, 'before': None}             # how many calls are at work, and what BLAS had before the first


@contextlib.contextmanager
def _one_blas_thread():
    """Within this block BLAS uses one thread, since its threads on top of ours are slower than either alone: 32 to
    58 ms for a minibatch instead of 15 to 20. Afterwards it has as many as before, even where such blocks overlap.

    Yields whether BLAS is known to use one thread; if not, our threads would compete with its own.
    """
    functions = _blas_threads()
    if functions is None:                              # another BLAS: one thread if these were set before it was loaded
        yield os.environ.get('OMP_NUM_THREADS') == os.environ.get('VECLIB_MAXIMUM_THREADS') == '1'
        return
    get, put = functions
    with _blas_lock:
        if _blas_state['users'] == 0:
            _blas_state['before'] = get()
            put(1)
        _blas_state['users'] += 1
    try:
        yield True
    finally:
        with _blas_lock:
            _blas_state['users'] -= 1
            if _blas_state['users'] == 0:
                put(_blas_state['before'])


def _after_fork():
    """A forked child has none of its parent's threads: a lock that one of them held would never be released."""
    global _blas_lock
    _blas_lock = threading.Lock()
    _blas_state['users'] = 0
    _thread_pool.cache_clear()


if hasattr(os, 'register_at_fork'):                    # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def _blas_threads():
    """The functions of NumPy's OpenBLAS that get and set its number of threads; None if NumPy has another BLAS."""
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)      # loaded already, and linked with BLAS
    for name in ('scipy_openblas_{}_num_threads64_', 'openblas_{}_num_threads64_', 'openblas_{}_num_threads'):
        if hasattr(library, name.format('set')):
            return getattr(library, name.format('get')), getattr(library, name.format('set'))
    return None
