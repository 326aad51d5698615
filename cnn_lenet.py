"""LeNet from scratch: a convolutional net in NumPy, trained by SGD with momentum.

This is the whole of CMU 10-601's homework 7 (spring 2017) in one module, in the order in which one would explain it:
data, parameters, layers (each forward beside its backward), loss, network, solver, gradient check, saving. Section,
question and equation numbers are the handout's. The last two sections can be skipped at a first reading: what is
checked, and how the work is spread over the cores.

Shapes are written the same way everywhere:

    n                number of images (columns); the handout's n, of filters or outputs, is `num`
    h, w, c          height, width and channels of a feature map
    (h*w*c, n)       `data` and `diff` of every layer: one column is one image, flattened from (h, w, c)
    (h, w, c, n)     the same array, reshaped (a view): the batch is the last, contiguous axis

What goes into a layer and what comes out is a dict with `height`, `width`, `channel`, `batch_size` and `data`, called
a structure here; on the way back it also holds `diff`, the gradient of the loss with respect to `data`. `od` is the
same gradient of a layer's input, which a backward function returns for the layer below, as `input_od`. The network is a
dict `layers` with the integer keys 1..l, its parameters a dict `params` whose key i-1 (not i, as in the handout's text)
holds the {'w': ..., 'b': ...} of layer i. Backward functions take `input`, `layer` and `param` as forward functions do.

No function changes its arguments. Results have the precision of the arguments; layers turn whole numbers into float64.
What does not fit together raises ValueError; a key missing in what a layer function is given raises KeyError.
"""

import concurrent.futures
import contextlib
import ctypes
import functools
import glob
import hashlib
import io
import json
import os
import pathlib
import secrets
import threading

import numpy as np
import scipy.io
from numpy.lib.stride_tricks import as_strided

try:
    import fcntl
except ImportError:                                    # Windows, where an open file cannot be removed anyway
    fcntl = None

MNIST_FILE = pathlib.Path(__file__).resolve().parent / 'mnist_all.mat'

# ---------------------------------------------------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------------------------------------------------


def load_mnist(fullset=True, dtype=np.float64, rng=np.random):
    """Load MNIST from `mnist_all.mat` in the folder of this module, and shuffle it (section 6).

    fullset  True for all images; False for a twentieth of each of the three parts, the first once they are shuffled
    dtype    float type of the images
    rng      source of random numbers: `np.random` (the global generator), a RandomState or a Generator

    Returns [xtrain, ytrain, xvalidate, yvalidate, xtest, ytest]. An x is (784, m) with pixels in [0, 1], a y is
    (m,) with the digits 0..9; m is 50,000, 10,000 and 10,000, or 2,500, 500 and 500.
    Raises FileNotFoundError if there is no such file, ValueError if it is damaged or not MNIST.
    """
    _check_float(dtype)
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
    parts = []
    with open(MNIST_FILE, 'rb') as file:
        try:
            variables = scipy.io.loadmat(file)
            for part, count in (('train', 60000), ('test', 10000)):
                digits = [variables[f'{part}{digit}'] for digit in range(10)]
                images = np.concatenate(digits)
                if images.shape != (count, 784) or images.dtype != np.uint8:
                    raise ValueError('these are other images')
                parts.append((images, np.repeat(np.arange(10), [len(rows) for rows in digits])))
        except Exception:  # scipy raises all sorts of errors on a damaged file
            raise ValueError(f'{MNIST_FILE}: damaged, or not MNIST; expected a MAT-file with train0..train9 (60,000 '
                             'images) and test0..test9 (10,000), uint8, one row of 784 pixels per image') from None
    return parts


# ---------------------------------------------------------------------------------------------------------------
# Parameters
# ---------------------------------------------------------------------------------------------------------------


def init_convnet(layers, dtype=np.float64, rng=np.random):
    """Draw the initial parameters of a network (section 5.4.1).

    layers  dict, key i in 1..l is layer i
    dtype   float type of the parameters
    rng     source of random numbers, as for `load_mnist`

    Returns params: dict, key i-1 is {'w': ..., 'b': ...} of layer i, two empty arrays for a layer that has none.
    Weights are uniform in +-sqrt(3 / (h*w*c)), where (h, w, c) is the layer's input feature map, or, in an inner
    product with `init_type` 'gaussian', normal with sqrt(3 / (h*w*c)) as standard deviation. Biases are 0.
    """
    _check_float(dtype)
    shapes = feature_map_shapes(layers)
    _check_init_types(layers)
    params = {}
    for i, (w_shape, b_shape) in _param_shapes(layers, shapes).items():
        layer, scale = layers[i], np.sqrt(3 / np.prod(shapes[i - 1]))
        if layer['type'] == 'IP' and layer['init_type'] == 'gaussian':
            w = scale * rng.standard_normal(w_shape)
        else:
            w = 2 * scale * rng.uniform(size=w_shape) - scale
        params[i - 1] = {'w': w.astype(dtype), 'b': np.zeros(b_shape, dtype)}
    return params


def feature_map_shapes(layers):
    """Shape (h, w, c) of the output of every layer but LOSS: dict, keys 1..l-1 as in `layers` (section 2)."""
    _check_layers(layers)
    shapes = {1: (layers[1]['height'], layers[1]['width'], layers[1]['channel'])}
    for i in range(2, len(layers)):
        layer, (h, w, c) = layers[i], shapes[i - 1]
        try:
            if layer['type'] == 'CONV':
                _check_group(layer, c)
                shapes[i] = (*_output_size(h, w, layer), layer['num'])
            elif layer['type'] == 'POOLING':
                shapes[i] = (*_output_size(h, w, layer), c)
            elif layer['type'] == 'RELU':
                shapes[i] = h, w, c
            elif layer['type'] == 'IP':
                shapes[i] = 1, 1, layer['num']
        except ValueError as error:
            raise ValueError(f"layer {i} ({layer['type']}): {error}") from None
    return shapes


def _output_size(h, w, layer):
    """(h_out, w_out): how many windows fit down and across, (h + 2 pad - k) / stride + 1 (section 2.3)."""
    _check_windows(h, w, layer)
    k, stride, pad = layer['k'], layer['stride'], layer['pad']
    return (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1


def _param_shapes(layers, shapes):
    """Shapes of (w, b) of every layer but DATA: dict, keys 2..l as in `layers`; (0,) where there are no parameters."""
    result = {}
    for i in range(2, len(layers) + 1):
        layer, (h, w, c) = layers[i], shapes[i - 1]
        if layer['type'] == 'CONV':
            result[i] = (layer['k'] ** 2 * c // layer['group'], layer['num']), (layer['num'],)
        elif layer['type'] == 'IP':
            result[i] = (h * w * c, layer['num']), (layer['num'],)
        elif layer['type'] == 'LOSS':
            result[i] = (h * w * c, layer['num'] - 1), (layer['num'] - 1,)
        else:
            result[i] = (0,), (0,)
    return result


# ---------------------------------------------------------------------------------------------------------------
# What the layers share
# ---------------------------------------------------------------------------------------------------------------


def _columns(structure):
    """The data of a structure as floats, (h*w*c, n)."""
    _check_structure(structure)
    return _floats(structure['data'])


def _feature_map(structure):
    """The data of a structure as floats, (h, w, c, n)."""
    data = _columns(structure)
    return data.reshape([structure[key] for key in ('height', 'width', 'channel', 'batch_size')])


def _structure(data, h, w, c):
    """The structure that a layer returns. data: an array of h*w*c*n elements, any shape with n last."""
    n = data.shape[-1]
    return {'height': h, 'width': w, 'channel': c, 'batch_size': n, 'data': data.reshape(h * w * c, n)}


def _diff(output, rows, n):
    """The gradient with respect to what a layer returned, as floats, (rows, n)."""
    diff = _floats(output['diff'])
    _check_equal('diff has shape', diff.shape, (rows, n))
    return diff


def _weights(param, rows, num):
    """(w, b) of a layer: w (rows, num), b (num,)."""
    w, b = np.asanyarray(param['w']), np.asanyarray(param['b'])
    _check_equal("param['w'] has shape", w.shape, (rows, num))
    _check_equal("param['b'] has shape", b.shape, (num,))
    return w, b


def _floats(array):
    """An array as it is if it holds floats, otherwise as float64."""
    array = np.asanyarray(array)
    return array if array.dtype.kind == 'f' else array.astype(np.float64)


# ---------------------------------------------------------------------------------------------------------------
# Convolution (section 2.3)
# ---------------------------------------------------------------------------------------------------------------


def conv_layer_forward(input, layer, param):
    """Convolution, forward: out[i, j] = w.T @ window(i, j) + b for every window (section 2.3).

    input  structure, data (h*w*c, n)
    layer  `num` filters of k x k, `stride`, `pad` (zeros on all sides), `group`
    param  w (k*k*c/group, num), rows over (kernel row, kernel column, channel); b (num,)

    Returns output: structure, data (h_out*w_out*num, n).
    """
    x = _feature_map(input)                                                      # (h, w, c, n)
    c = x.shape[2]
    groups = _groups(layer, c)
    w, b = _weights(param, layer['k'] ** 2 * c // layer['group'], layer['num'])
    out = _join([_correlate(x[:, :, channels], w[:, filters], layer) for channels, filters in groups])
    out += b[:, None]                                                            # (h_out, w_out, num, n)
    return _structure(out, *out.shape[:3])


def _correlate(x, w, layer):
    """w.T @ window(i, j) for every window of x (h, w, c, n): (h_out, w_out, num, n)."""
    windows = _window_parts(x, layer)                                            # each (h_out, w_out, rows, n)
    w_parts = np.split(w, len(windows))                                          # each (rows, num)
    out = w_parts[0].T @ windows[0]
    for w_part, part in zip(w_parts[1:], windows[1:]):
        out += w_part.T @ part
    return out


def conv_layer_backward(output, input, layer, param, need_input_od=True):
    """Convolution, backward (eqs. 7 and 8).

    output         structure of `conv_layer_forward` with `diff` (h_out*w_out*num, n)
    need_input_od  False if nothing below needs the gradient with respect to the input

    Returns param_grad, {'w': ..., 'b': ...} in the shapes of `param`, summed over the batch, and input_od, the
    gradient with respect to input['data'], (h*w*c, n), or None if it is not needed.
    """
    x = _feature_map(input)
    height, width, c, n = x.shape
    groups = _groups(layer, c)
    w, _ = _weights(param, layer['k'] ** 2 * c // layer['group'], layer['num'])
    h_out, w_out = _output_size(height, width, layer)
    diff = _diff(output, h_out * w_out * layer['num'], n).reshape(h_out, w_out, layer['num'], n)
    param_grad = {'w': np.hstack([_conv_w_grad(x[:, :, channels], diff[:, :, filters], layer)
                                  for channels, filters in groups]),
                  'b': diff.sum(axis=(0, 1)).sum(axis=1)}                        # 7 times as fast as axis=(0, 1, 3)
    if not need_input_od:
        return param_grad, None
    od = _join([_conv_input_od(w[:, filters], diff[:, :, filters], layer, height, width) for _, filters in groups])
    return param_grad, od.reshape(height * width * c, n)


def _conv_w_grad(x, diff, layer):
    """The sum of window(i, j) @ diff[i, j].T over all windows: (k*k*c, num)."""
    h_out, w_out, num, n = diff.shape
    k, stride = layer['k'], layer['stride']
    if not _has_long_rows(x, layer):
        windows, = _window_parts(x, layer)                                       # (h_out, w_out, k*k*c, n)
        return (windows @ diff.swapaxes(2, 3)).sum(axis=(0, 1))
    # The same sum, with one product for all windows side by side, which saves 3 % of an iteration. rows[r] is row r of
    # the padded image as the windows see it, k*c numbers for each of the w_out places across: row a of all windows
    # (i, j) of the same i is rows[a + stride * i].
    x = _padded(x, layer['pad'])
    rows = np.stack([x[:, b:b + stride * w_out:stride].swapaxes(1, 2) for b in range(k)], axis=1)
    rows = rows.reshape(x.shape[0], -1, w_out * n)                               # (h, k*c, w_out*n)
    diff = diff.swapaxes(2, 3).reshape(h_out, w_out * n, num)
    return np.vstack([(rows[a:a + stride * h_out:stride] @ diff).sum(axis=0) for a in range(k)])


def _conv_input_od(w, diff, layer, height, width):
    """The sum of w @ diff[i, j] at the place of window(i, j) in the image: (height, width, c, n)."""
    h_out, w_out, num, n = diff.shape
    k, pad = layer['k'], layer['pad']
    c = w.shape[0] // k ** 2
    od = np.zeros((height + 2 * pad, width + 2 * pad, c, n), np.result_type(w, diff))
    places = _places(layer, h_out, w_out)
    # One product for each row of the kernel, not for each position in it, saves 10 % of an iteration with OpenBLAS's
    # AVX2 kernels, 1 % with its AVX-512 kernels.
    for a, row in enumerate(w.reshape(k, k * c, num)):
        values = (row @ diff).reshape(h_out, w_out, k, c, n)
        for b in range(k):
            od[places[a * k + b]] += values[:, :, b]
    return od[pad:pad + height, pad:pad + width]


def _window_parts(x, layer):
    """The windows of x (h, w, c, n), cut up into parts (h_out, w_out, rows, n) that have k*k*c rows together.

    A part is one row of every window, a view: its k*c numbers lie beside each other in memory. If such a row is too
    short for a fast product, there is one part, a copy of all windows. (LeNet's second convolution, 32 images: 1.3 ms
    with rows, 1.8 with one product for each position in the window. Its first, with one channel: 0.6 ms with rows, 12.7
    with positions, 0.3 with the copy.)
    """
    k, stride = layer['k'], layer['stride']
    h_out, w_out = _output_size(*x.shape[:2], layer)
    x = _padded(x, layer['pad'])
    c, n = x.shape[2:]
    down, across, *within = x.strides                  # bytes from an element to the next, in each dimension
    windows = as_strided(x, (h_out, w_out, k, k, c, n), (stride * down, stride * across, down, across, *within),
                         writeable=False)
    parts = [windows[:, :, a] for a in range(k)] if _has_long_rows(x, layer) else [windows]
    return [part.reshape(h_out, w_out, -1, n) for part in parts]


def _has_long_rows(x, layer):
    """Whether a row of a window, k*c numbers, is long enough for a fast product (see `_window_parts`)."""
    return layer['k'] * x.shape[2] >= 32


def _places(layer, h_out, w_out):
    """Where each of the k*k positions in a window lies in the image, in row-major order.

    x[place] is (h_out, w_out, ...): what all windows have at that position, as a view of the (padded) image x.
    """
    k, stride = layer['k'], layer['stride']
    return [(slice(a, a + stride * h_out, stride), slice(b, b + stride * w_out, stride))
            for a in range(k) for b in range(k)]


def _padded(x, pad):
    """x (h, w, ...) with `pad` rows and columns of zeros on all sides."""
    return np.pad(x, [(pad, pad), (pad, pad)] + [(0, 0)] * (x.ndim - 2)) if pad else x


def _groups(layer, c):
    """(channels, filters) of each group, as slices: group g's filters see only group g's channels."""
    _check_group(layer, c)
    c, num = c // layer['group'], layer['num'] // layer['group']
    return [(slice(g * c, (g + 1) * c), slice(g * num, (g + 1) * num)) for g in range(layer['group'])]


def _join(maps):
    """The feature maps (h, w, c, n) of all groups in one, channels beside channels."""
    return np.concatenate(maps, axis=2) if len(maps) > 1 else maps[0]


def im2col_conv(input_n, layer, h_out, w_out):
    """The windows of one image as columns (section 6). The layers above take those of all images: `_window_parts`.

    input_n  structure of one image: `data` has h*w*c elements
    Returns (k*k*c, h_out*w_out): column i*w_out + j is the window at (i, j), flattened from (k, k, c).
    """
    h, w, c = input_n['height'], input_n['width'], input_n['channel']
    _check_equal('(h_out, w_out) is', (h_out, w_out), _output_size(h, w, layer))
    x = _padded(np.reshape(input_n['data'], (h, w, c)), layer['pad'])
    windows = np.stack([x[place] for place in _places(layer, h_out, w_out)])     # (k*k, h_out, w_out, c)
    return windows.transpose(0, 3, 1, 2).reshape(-1, h_out * w_out)


def col2im_conv(col, input, layer, h_out, w_out):
    """The adjoint of `im2col_conv`: add every column at its window's place in the image (section 6).

    col    (k*k*c, h_out*w_out), or anything that reshapes to it
    input  structure that gives height, width and channel of the image
    Returns (h, w, c): where windows overlap their values are added up. The padding is cut off.
    """
    h, w, c = input['height'], input['width'], input['channel']
    k, pad = layer['k'], layer['pad']
    _check_equal('(h_out, w_out) is', (h_out, w_out), _output_size(h, w, layer))
    windows = np.reshape(col, (k * k, c, h_out, w_out)).transpose(0, 2, 3, 1)    # (k*k, h_out, w_out, c)
    im = np.zeros((h + 2 * pad, w + 2 * pad, c), windows.dtype)
    for place, values in zip(_places(layer, h_out, w_out), windows):
        im[place] += values
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
    largest = _window_maxima(_feature_map(input), layer)                         # (h_out, w_out, c, n)
    return _structure(largest, *largest.shape[:3])


def pooling_layer_backward(output, input, layer):
    """Max pooling, backward: each window's gradient goes to its largest element (eq. 8, Q4).

    output  structure with `diff` (h_out*w_out*c, n), the gradient with respect to the output

    Returns input_od (h*w*c, n). Of several equal maxima the first in row-major order gets the whole gradient;
    where windows overlap, an element that is the maximum of several gets the sum.
    """
    x = _feature_map(input)
    largest = _window_maxima(x, layer)
    h_out, w_out, c, n = largest.shape
    diff = _diff(output, h_out * w_out * c, n).reshape(largest.shape)
    od = np.zeros(x.shape, diff.dtype)
    waiting = np.ones(diff.shape, bool)                # windows whose largest element has not been met yet
    for place in _places(layer, h_out, w_out):
        chosen = x[place] == largest
        chosen &= waiting
        waiting ^= chosen
        if layer['stride'] >= layer['k']:              # no overlap, so nothing to add up: saves 3 % of an iteration
            np.multiply(diff, chosen, out=od[place])
        else:
            od[place] += diff * chosen
    return od.reshape(-1, n)


def _window_maxima(x, layer):
    """The largest value of every window of x (h, w, c, n): (h_out, w_out, c, n). A NaN in a window gives NaN."""
    first, *others = _places(layer, *_output_size(*x.shape[:2], layer))
    largest = x[first].copy()
    for place in others:
        np.maximum(largest, x[place], out=largest)
    return largest


# ---------------------------------------------------------------------------------------------------------------
# ReLU (section 2.2)
# ---------------------------------------------------------------------------------------------------------------


def relu_forward(input, layer=None):
    """ReLU, forward: max(0, x) of every element (section 2.2, Q2).

    input  structure, data (h*w*c, n); `layer` is not used

    Returns output: structure of the same size.
    """
    x = _columns(input)
    return {**input, 'data': np.maximum(x, 0)}


def relu_backward(output, input, layer=None):
    """ReLU, backward: the gradient passes where the input was positive (eq. 8, Q5).

    output  structure with `diff`, the gradient with respect to the output, in the shape of input['data']

    Returns input_od, in the same shape. At exactly 0 the gradient is 0.
    """
    x = _columns(input)
    diff = _diff(output, *x.shape)
    return np.where(x > 0, diff, np.zeros_like(diff))


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
    x = _columns(input)                                                          # (h*w*c, n)
    w, b = _weights(param, x.shape[0], layer['num'])
    b = np.tile(b, (x.shape[1], 1)).T                  # (num, n); not b[:, None]: the handout rules out broadcasting
    return _structure(w.T @ x + b, 1, 1, layer['num'])


def inner_product_backward(output, input, layer, param):
    """Inner product, backward (eqs. 7 and 8, Q6).

    output  structure with `diff` (num, n), the gradient with respect to the output

    Returns param_grad, {'w': ..., 'b': ...} in the shapes of `param`, summed over the batch, and input_od,
    the gradient with respect to input['data'], (h*w*c, n).
    """
    x = _columns(input)                                                          # (h*w*c, n)
    w, _ = _weights(param, x.shape[0], layer['num'])
    diff = _diff(output, layer['num'], x.shape[1])
    return {'w': x @ diff.T, 'b': diff.sum(axis=1)}, w @ diff


# ---------------------------------------------------------------------------------------------------------------
# Loss: inner product -> softmax -> negative log-likelihood (sections 2.5, 2.6)
# ---------------------------------------------------------------------------------------------------------------


def mlrloss(wb, X, y, K, prediction):
    """Softmax regression with weights of its own: cost and gradients (eqs. 2, 4 and 5).

    wb          (inputs+1, K-1): w stacked on b; the last class's logit is fixed at 0
    X           (inputs, n)
    y           (n,) labels, whole numbers in 0..K-1
    K           number of classes
    prediction  1 to count the right answers, anything else not to

    Returns nll, the sum of -log(p of the label) over the batch; g, its gradient with respect to wb; od, the
    gradient with respect to X; percent, the share of right answers in 0..1 (0 when prediction is not 1).
    """
    wb, X = np.asarray(wb), np.asarray(X)
    _check_loss(wb, X, K)
    y = _check_labels(y, X.shape[1], K)
    log_p = _log_probabilities(wb, X)                                            # (K, n)
    images = np.arange(X.shape[1])
    nll = -log_p[y, images].sum()
    d = np.exp(log_p)                                                            # d nll / d logits: p, - 1 at the label
    d[y, images] -= 1
    d = d[:-1]                                                                   # the last logit is fixed
    g = np.vstack([X @ d.T, d.sum(axis=1)])
    percent = np.mean(log_p.argmax(axis=0) == y) if prediction == 1 else 0
    return nll, g, wb[:-1] @ d, percent


def softmax(logits):
    """Probabilities (K, n) of logits (K, n): exp(s_j) / sum_k exp(s_k), column by column (eq. 1)."""
    return np.exp(_log_softmax(logits))


def _log_softmax(logits):
    """Logarithms of the probabilities. A softmax does not change when all logits are moved: with the largest at 0
    no exponential is too large for a float, and no logarithm is that of 0."""
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
    shapes, data = _check_network(params, layers, data)
    return _forward(params, layers, shapes, data, 1, len(layers) - 1)


def _forward(params, layers, shapes, data, first, last, look_for_nan=False):
    """The outputs of the layers first..last: dict. `data` is the output of layer `first`, which is not computed.

    look_for_nan: raise ValueError if a layer function is the first to give numbers that are nan or infinite.
    """
    # A copy: the columns become contiguous, and a layer that changes its input does not change the caller's array.
    outputs = {first: _structure(np.array(data, order='C'), *shapes[first])}
    for i in range(first + 1, last + 1):
        layer, below = layers[i], outputs[i - 1]
        if layer['type'] == 'CONV':
            output = conv_layer_forward(below, layer, params[i - 1])
        elif layer['type'] == 'POOLING':
            output = pooling_layer_forward(below, layer)
        elif layer['type'] == 'RELU':
            output = relu_forward(below, layer)
        elif layer['type'] == 'IP':
            output = inner_product_forward(below, layer, params[i - 1])
        outputs[i] = _check_forward(i, layer, output, shapes[i], data.shape[1])
        if look_for_nan:
            _check_numbers(i, layer, 'forward', outputs[i], below, params.get(i - 1))
    return outputs


def predict(params, layers, data, threads=None):
    """Class probabilities of images (section 1.3).

    data     (h*w*c, n), any number of columns: memory stays bounded
    threads  how many to use: None for one per core, 1 for the calling thread alone; the result is the same

    Returns (num, n): column j sums to 1; the index of its largest element is the prediction for image j.
    """
    shapes, data = _check_network(params, layers, data)
    last = len(layers)
    spatial = max(i for i, layer in layers.items() if layer['type'] in ('DATA', 'CONV', 'POOLING'))
    wb = np.vstack([params[last - 1]['w'], params[last - 1]['b']])

    def probabilities(block):
        # Convolutions are fastest on a few columns, whose feature maps fit in the cache; inner products on many, for
        # which the weights are read once. Together this takes two thirds of the time of blocks of 32 for all layers.
        x = data[:, block]
        features = [_forward(params, layers, shapes, x[:, few], 1, spatial)[spatial]['data']
                    for few in _blocks(x.shape[1], 64)]
        top = _forward(params, layers, shapes, np.hstack(features), spatial, last - 1)[last - 1]['data']
        return np.exp(_log_probabilities(wb, top))

    with _one_blas_thread():
        return np.hstack(list(_spread(probabilities, _blocks(data.shape[1], 256), threads)))


def conv_net(params, layers, data, labels, threads=None):
    """Cost and gradients of the network on one minibatch: feed forward, then backpropagation (sections 5.2, 5.3).

    data     (h*w*c, n) with n = layers[1]['batch_size']
    labels   (n,) whole numbers in 0..num-1
    threads  as for `predict`

    Returns cp, with `cost` (mean negative log-likelihood) and `percent` (share of right answers, 0..1), and
    param_grad, in the shapes of `params`, the gradient of the mean cost.
    """
    shapes, data = _check_network(params, layers, data)
    labels = _check_batch(layers, data, labels)
    n = len(labels)

    def block_sums(block):
        return _forward_backward(params, layers, shapes, data[:, block], labels[block], n)

    cost, right, param_grad = 0, 0, None
    with _one_blas_thread():
        # Added up in the order of the columns, whichever thread finishes first: same seed, same digits. Of blocks of
        # 16 columns, a product takes about as long as of 32.
        for block_cost, block_right, block_grad in _spread(block_sums, _blocks(n, 32), threads):
            cost, right = cost + block_cost, right + block_right
            param_grad = block_grad if param_grad is None else {
                i: {key: param_grad[i][key] + block_grad[i][key] for key in 'wb'} for i in param_grad}
    if not all(np.isfinite(x).all() for grad in param_grad.values() for x in grad.values()):
        # Once more, to find the layer function that is to blame: code that is right does not pay for the search.
        _forward_backward(params, layers, shapes, data, labels, n, look_for_nan=True)
    return {'cost': float(cost), 'percent': right / n}, param_grad


def _forward_backward(params, layers, shapes, data, labels, n, look_for_nan=False):
    """What these columns add to cost, number of right answers and param_grad of a minibatch of n columns."""
    last = len(layers)
    outputs = _forward(params, layers, shapes, data, 1, last - 1, look_for_nan)
    wb = np.vstack([params[last - 1]['w'], params[last - 1]['b']])
    nll, g, od, percent = mlrloss(wb, outputs[last - 1]['data'], labels, layers[last]['num'], 1)
    g, od = g / n, od / n                              # from here on all gradients are those of the mean cost

    param_grad = {i: {'w': np.array([], g.dtype), 'b': np.array([], g.dtype)} for i in range(1, last)}
    param_grad[last - 1] = {'w': g[:-1], 'b': g[-1]}
    # Nothing below the lowest layer that has parameters needs a gradient.
    lowest = min(i for i, layer in layers.items() if layer['type'] in ('CONV', 'IP', 'LOSS'))
    for i in range(last - 1, lowest - 1, -1):
        layer, below, output = layers[i], outputs[i - 1], {**outputs[i], 'diff': od}
        if layer['type'] == 'CONV':
            found = conv_layer_backward(output, below, layer, params[i - 1], need_input_od=i > lowest)
        elif layer['type'] == 'POOLING':
            found = pooling_layer_backward(output, below, layer)
        elif layer['type'] == 'RELU':
            found = relu_backward(output, below, layer)
        elif layer['type'] == 'IP':
            found = inner_product_backward(output, below, layer, params[i - 1])
        grad, od = _check_backward(i, layer, found, below, params.get(i - 1))
        param_grad[i - 1].update(grad)
        if look_for_nan:
            _check_numbers(i, layer, 'backward', {**grad, 'od': od}, output, below, params.get(i - 1))
    return nll / n, round(percent * len(labels)), param_grad


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
    params, param_winc, param_grad   dicts of the same shapes: parameters, accumulated gradients (theta), gradients

    Returns params_ and param_winc_, new dicts.
    """
    _check_solver(params, param_winc, param_grad)
    # Python's own floats: a rate that is a np.float64 would turn float32 parameters into float64.
    w_rate, b_rate, mu, decay = float(w_rate), float(b_rate), float(mu), float(decay)
    params_, param_winc_ = {}, {}
    for i in params:
        params_[i], param_winc_[i] = {}, {}
        for key, rate, key_decay in (('w', w_rate, decay), ('b', b_rate, 0.0)):
            value, theta, grad = params[i][key], param_winc[i][key], param_grad[i][key]
            theta = mu * theta + rate * (grad + key_decay * value)
            params_[i][key], param_winc_[i][key] = value - theta, theta
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
    f = sum(output['diff'] * forward(x)['data']). Compare with the input_od of a backward function. It is computed
    in float64, one forward pass per element (for ReLU, the default as in the handout, one for all).
    """
    _check_difference(output, h)
    data = _columns(input)
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
    """Compare the gradients of `conv_net` with central differences of its cost, (f(x + h) - f(x - h)) / 2h.

    params, layers, data, labels   as for `conv_net`
    count   how many entries of each w and b are compared, chosen at random
    rng     source of random numbers, as for `load_mnist`; by default one that chooses the same entries every time
    h       the small step

    Returns a dict: for every layer i that has parameters its largest error, max |exact - approximate| over the entries
    of w and b, relative to the largest of them. Right gradients give 1e-6 or less. If all of them are 0, which proves
    nothing, the error is nan. Computed in float64.
    """
    rng = np.random.RandomState(0) if rng is None else rng
    params = {i: {key: np.array(value, np.float64) for key, value in param.items()} for i, param in params.items()}
    data = np.array(data, np.float64)

    def cost_with(i, key, index, step):
        value = params[i][key].copy()
        value.flat[index] += step
        return conv_net({**params, i: {**params[i], key: value}}, layers, data, labels)[0]['cost']

    _, param_grad = conv_net(params, layers, data, labels)
    errors = {}
    for i, param in params.items():
        exact, approximate = [], []
        for key, value in param.items():
            for index in rng.permutation(value.size)[:count]:
                exact.append(param_grad[i][key].flat[index])
                approximate.append((cost_with(i, key, index, h) - cost_with(i, key, index, -h)) / (2 * h))
        if exact:
            largest = np.abs([exact, approximate]).max()
            errors[i + 1] = float(np.abs(np.subtract(exact, approximate)).max() / largest) if largest else np.nan
    return errors


# ---------------------------------------------------------------------------------------------------------------
# Saving (section 7)
# ---------------------------------------------------------------------------------------------------------------

# A MAT-file begins with 116 bytes of free text, which MATLAB, Octave and scipy skip. Ours holds the digest of
# everything else in the file, so that a damaged file is recognised before anything in it is trusted.
_HEADER = b'MATLAB 5.0 MAT-file, LeNet in NumPy, sha256 '
_DIGEST = slice(len(_HEADER), len(_HEADER) + 64)


def save_params(path, params, **extra):
    """Save parameters, and whatever belongs to them, as a MAT-file that MATLAB and Octave open (section 7).

    path    the file; what is there is replaced only once the new file is complete and on disk
    params  dict, keys 1..l-1: a cell array in Octave, so that params{i}.w is the w of params[i]
    extra   more variables: numbers, strings, arrays of one or two dimensions, dicts with names as keys (structs in
            Octave) or with the keys 1..m (cell arrays)

    Raises OSError if the file cannot be written (what was there is still there), TypeError for a value of another kind.
    """
    layout = {}
    variables = {name: _to_mat(value, name, layout) for name, value in {'params': params, **extra}.items()}
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {**variables, 'numpy_layout': json.dumps(layout)}, oned_as='column', long_field_names=True)
    content = bytearray(buffer.getbuffer())
    content[:116] = _HEADER.ljust(116)
    content[_DIGEST] = _digest(content)
    write_whole(path, content)


def load_params(path):
    """Load what `save_params` saved: (params, extra), extra a dict of the other variables.

    Numbers (as Python's own), strings, dicts and arrays come back as they were, in their order in memory too; but True
    and False come back as 1 and 0, float16 as float64. A MAT-file from elsewhere is loaded if it holds `params` as
    `save_params` describes them; other arrays of one column then come back with one dimension. Nothing in the file is
    executed.
    Raises FileNotFoundError if there is no such file, OSError if it cannot be read, ValueError if it is damaged or
    holds no parameters.
    """
    with open(path, 'rb') as file:
        content = file.read()
    if content.startswith(_HEADER) and content[_DIGEST] != _digest(content):
        raise ValueError(f'{path}: damaged or cut short; its {len(content)} bytes do not match their checksum')
    try:
        variables = scipy.io.loadmat(io.BytesIO(content), struct_as_record=False)
        layout = json.loads(str(variables.pop('numpy_layout', ['{}'])[0]))
        extra = {name: _from_mat(value, name, layout) for name, value in variables.items() if not name.startswith('__')}
        return {i: _as_param(param) for i, param in extra.pop('params').items()}, extra
    except Exception as error:  # scipy raises all sorts of errors on foreign files
        raise ValueError(f'{path}: not a saved model, a MAT-file in which params{{i}} has w (rows, num) and b (num); '
                         f'{type(error).__name__}: {error}') from None


def _digest(content):
    """SHA-256, in hexadecimal, of a saved file but for the place where the digest itself stands."""
    return hashlib.sha256(content[:_DIGEST.start] + content[_DIGEST.stop:]).hexdigest().encode()


def _to_mat(value, name, layout):
    """A value as scipy saves it: dicts with the keys 1..m as cell arrays, other dicts as structs.

    A MAT-file knows neither arrays of one dimension nor C and Fortran order: `layout` keeps both for each array.
    """
    if isinstance(value, dict) and value and all(isinstance(key, (int, np.integer)) for key in value):
        if sorted(value) != list(range(1, len(value) + 1)):
            raise TypeError(f'cannot save a dict with the keys {sorted(value)}; expected names or 1..m')
        cells = np.empty((1, len(value)), object)
        for key in value:
            cells[0, key - 1] = _to_mat(value[key], f'{name}.{key}', layout)
        return cells
    if isinstance(value, dict):
        return {str(key): _to_mat(item, f'{name}.{key}', layout) for key, item in value.items()}
    if isinstance(value, str):
        return value
    value = np.asarray(value)
    if value.dtype.kind not in 'biuf' or value.ndim > 2:
        raise TypeError(f'cannot save a value of type {value.dtype} with {value.ndim} dimensions; '
                        'expected numbers, strings, dicts or arrays of one or two dimensions')
    layout[name] = [value.shape, 'F' if np.isfortran(value) else 'C']
    return value


def _from_mat(value, name, layout):
    """The reverse of `_to_mat`. An array that `layout` does not know has two dimensions, one if it is a column."""
    if value.dtype == object and value.size and isinstance(value.flat[0], scipy.io.matlab.mat_struct):
        struct = value.flat[0]
        return {field: _from_mat(getattr(struct, field), f'{name}.{field}', layout) for field in struct._fieldnames}
    if value.dtype == object:
        return {i: _from_mat(cell, f'{name}.{i}', layout) for i, cell in enumerate(value.ravel(), 1)}
    if value.dtype.kind == 'U':
        return str(value[0]) if value.size else ''
    shape, order = layout.get(name, (None, 'C'))
    if shape is None or np.prod(shape) != value.size:
        shape = () if value.size == 1 else (value.size,) if value.shape[1] <= 1 else value.shape
    value = np.array(value.reshape(shape), order=order)
    return value.item() if value.ndim == 0 else value


def _as_param(param):
    """A loaded {'w': ..., 'b': ...} as w (rows, num) and b (num,), whatever dimensions a MAT-file gave them."""
    num = np.size(param['b'])
    if num > 1 and num not in np.shape(param['b']):
        raise ValueError(f"b is {_brief(param['b'])}")
    return {'w': np.reshape(param['w'], (-1, num) if num else 0), 'b': np.reshape(param['b'], num)}


def write_whole(path, content):
    """Write bytes to a file: it then holds all of them, or, whatever happens meanwhile, what it held before.

    Raises OSError if that fails.
    """
    path = os.path.realpath(path)
    try:
        _remove_leftovers(path)
        with _temporary_file(path) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if not fcntl:                          # Windows replaces no file that is open
                    file.close()
                os.replace(file.name, path)
            except BaseException:
                os.remove(file.name)
                raise
    except OSError as error:
        raise OSError(error.errno, f'cannot save: {error.strerror}', path) from None


def _temporary_file(path):
    """A new file in the folder of `path`, so that it can take its place; locked for as long as it is being written."""
    while True:
        file = open(f'{path}.{secrets.token_hex(4)}.tmp', 'xb')
        if _lock(file) is not False and os.path.exists(file.name):      # nobody has taken it for a leftover
            return file
        file.close()


def _remove_leftovers(path):
    """Remove the temporary files of saves that were killed: those that nobody has locked."""
    for name in glob.glob(glob.escape(path) + '.????????.tmp'):
        with contextlib.suppress(OSError), open(name, 'rb') as file:
            if _lock(file):
                os.remove(name)


def _lock(file):
    """Lock a file until it is closed. Returns False if somebody else has, None if its file system has no locks."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


# ---------------------------------------------------------------------------------------------------------------
# What is checked
#
# A reader who skips this section misses the rules that layers, parameters, data and labels follow, and what the network
# expects of a layer function. Nothing is computed here, though some checks return what they looked up or converted.
# They are for what would otherwise give a wrong result silently, or an error that comes late or says little.
# ---------------------------------------------------------------------------------------------------------------

# The keys that each type of layer needs, and the least value that makes sense.
_LAYER_KEYS = {
    'DATA': {'height': 1, 'width': 1, 'channel': 1, 'batch_size': 1},
    'CONV': {'num': 1, 'k': 1, 'stride': 1, 'pad': 0, 'group': 1},
    'POOLING': {'k': 1, 'stride': 1, 'pad': 0},
    'IP': {'num': 1},
    'RELU': {},
    'LOSS': {'num': 2},
}

# What computes each type of layer, with the question that asks for it.
_FUNCTIONS = {
    'CONV': {'forward': 'conv_layer_forward', 'backward': 'conv_layer_backward'},
    'POOLING': {'forward': 'pooling_layer_forward (Q1)', 'backward': 'pooling_layer_backward (Q4)'},
    'RELU': {'forward': 'relu_forward (Q2)', 'backward': 'relu_backward (Q5)'},
    'IP': {'forward': 'inner_product_forward (Q3)', 'backward': 'inner_product_backward (Q6)'},
}


# Layers

def _check_layers(layers):
    """The keys are 1..l, DATA comes first and LOSS last, and each layer has what it needs."""
    if not isinstance(layers, dict) or not layers or set(layers) != set(range(1, len(layers) + 1)):
        raise ValueError(f'layers is {_brief(layers)}; expected a dict with the integers 1, 2, ..., l as keys')
    for i, layer in layers.items():
        kind = layer.get('type') if isinstance(layer, dict) else None
        allowed = {1: ['DATA'], len(layers): ['LOSS']}.get(i, ['CONV', 'POOLING', 'RELU', 'IP'])
        if kind not in allowed:
            raise ValueError(f'layer {i} has type {_brief(kind)}; expected {" or ".join(map(repr, allowed))} '
                             '(DATA is the first layer, LOSS the last)')
        for key, least in _LAYER_KEYS[kind].items():
            if key not in layer:
                raise ValueError(f'layer {i} ({kind}) lacks the key {key!r}; '
                                 f'expected type, {", ".join(_LAYER_KEYS[kind])}')
            _check_count(f'layer {i} ({kind}) has {key}', layer[key], least)


def _check_init_types(layers):
    for i, layer in layers.items():
        if layer['type'] == 'IP' and 'init_type' not in layer:
            raise ValueError(f"layer {i} (IP) lacks the key 'init_type'; expected 'uniform' or 'gaussian'")
        if layer['type'] == 'IP' and layer['init_type'] not in ('uniform', 'gaussian'):
            raise ValueError(f"layer {i} (IP) has init_type {_brief(layer['init_type'])}; "
                             "expected 'uniform' or 'gaussian'")


def _check_windows(height, width, layer):
    """Windows tile the padded height and width; integer division would hide a remainder."""
    k, stride, pad = layer['k'], layer['stride'], layer['pad']
    if layer.get('type') == 'POOLING' and pad:
        raise ValueError(f"pooling has pad = {pad}; expected 0: the handout's pooling has no padding")
    for axis, size in (('height', height + 2 * pad), ('width', width + 2 * pad)):
        if k > size:
            raise ValueError(f'the window k = {k} is larger than the padded {axis}; expected at most {size}')
        if (size - k) % stride:
            raise ValueError(f'windows with k = {k} and stride = {stride} do not tile the padded {axis} {size}: '
                             f'expected {size} - k to be a multiple of stride')


def _check_group(layer, c):
    for name, value in (('channel', c), ('num', layer['num'])):
        if value % layer['group']:
            raise ValueError(f"group = {layer['group']} does not divide {name} = {value}; expected a divisor")


# Arguments

def _check_float(dtype):
    if not np.issubdtype(dtype, np.floating):
        raise ValueError(f'dtype is {np.dtype(dtype)}; expected a float type such as float32 or float64')


def _check_equal(what, found, expected):
    if found != expected:
        raise ValueError(f'{what} {tuple(map(int, found))}; expected {tuple(map(int, expected))}')


def _check_count(name, value, least):
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f'{name} = {_brief(value)}; expected a whole number of at least {least}')


def _check_structure(structure):
    """`data` has a row for each of h*w*c, if those are given, and a column for each image."""
    if not isinstance(structure, dict):
        raise TypeError(f'a layer was given {_brief(structure)}; expected a structure, a dict with data')
    shape = np.shape(structure['data'])
    h, w, c, n = (structure.get(key) for key in ('height', 'width', 'channel', 'batch_size'))
    if None not in (h, w, c, n) and shape != (h * w * c, n):
        raise ValueError(f'data has shape {shape}; expected {(int(h * w * c), int(n))}: height {h} * width {w} * '
                         f'channel {c} rows and batch_size = {n} columns')


def check_params(params, layers, name='params', finite=False):
    """Raise ValueError unless `params`, called `name` in the message, fits the layers (and is finite, if it must be).

    Returns the shapes of the feature maps, as `feature_map_shapes` does.
    """
    shapes = feature_map_shapes(layers)
    if not isinstance(params, dict):
        raise ValueError(f'{name} is {_brief(params)}; expected a dict')
    for i, expected in _param_shapes(layers, shapes).items():
        for key, shape in zip('wb', expected):
            if shape != (0,):                          # the entries of a layer without parameters may be missing
                entry = f"{name}[{i - 1}][{key!r}], a parameter of layer {i} ({layers[i]['type']}),"
                try:
                    found = np.asarray(params[i - 1][key])
                except (LookupError, TypeError):
                    raise ValueError(f'{entry} is missing; expected an array of shape {shape}') from None
                _check_equal(f'{entry} has shape', found.shape, shape)
                if finite and not np.isfinite(found).all():
                    raise ValueError(f'{entry} has numbers that are nan or infinite')
    return shapes


def _check_network(params, layers, data):
    """params and data fit the layers. Returns the shapes of the feature maps, and data as an array."""
    shapes = check_params(params, layers)
    data = np.asarray(data)
    h, w, c = map(int, shapes[1])
    if data.ndim != 2 or data.shape[0] != h * w * c or data.shape[1] == 0:
        raise ValueError(f'data has shape {data.shape}; expected {h * w * c} rows (height {h} * width {w} * channel '
                         f'{c}) and a column per image, at least one')
    return shapes, data


def _check_batch(layers, data, labels):
    """There are as many columns as layers[1] says, and a label for each. Returns the labels as `_check_labels` does."""
    n, expected = data.shape[1], layers[1]['batch_size']
    if n != expected:
        raise ValueError(f"data has {n} columns; expected layers[1]['batch_size'] = {expected}")
    return _check_labels(labels, n, layers[len(layers)]['num'])


def _check_labels(y, n, K):
    """There are n labels in 0..K-1. Returns them as an array of integers."""
    y = np.asarray(y)
    if y.shape != (n,):
        raise ValueError(f'labels have shape {y.shape}; expected ({n},), one per column of data')
    if y.dtype.kind not in 'iu' and not (y.dtype.kind == 'f' and np.all(np.isfinite(y) & (y == np.floor(y)))):
        raise ValueError(f'labels are {y.dtype} such as {_brief(y[0])}; expected whole numbers')
    wrong = (y < 0) | (y >= K)
    if wrong.any():
        raise ValueError(f'label {y[wrong][0]} at position {int(wrong.argmax())}; expected labels in 0..{K - 1}')
    return y.astype(np.intp, copy=False)


def _check_loss(wb, X, K):
    if X.ndim != 2 or X.shape[1] == 0 or wb.shape != (X.shape[0] + 1, K - 1):
        raise ValueError(f'wb has shape {wb.shape} for X of shape {X.shape} and K = {K}; '
                         'expected wb (inputs + 1, K - 1) and X (inputs, n), n at least 1')


def _check_solver(params, param_winc, param_grad):
    """The three have the same keys and shapes: NumPy would stretch an array of one element to any shape."""
    for name, tree in (('params', params), ('param_winc', param_winc), ('param_grad', param_grad)):
        if not isinstance(tree, dict):
            raise ValueError(f'{name} is {_brief(tree)}; expected a dict')
        if missing := params.keys() - tree.keys():
            raise ValueError(f'{name} lacks the keys {sorted(missing)}; expected those of params, {sorted(params)}')
        for i in params:
            for key in 'wb':
                found, expected = tree[i][key], params[i][key]
                if not isinstance(found, np.ndarray) or found.shape != expected.shape:
                    raise ValueError(f'{name}[{i}][{key!r}] is {_brief(found)}; expected an array'
                                     + ('' if tree is params else f' of the shape that params has, {expected.shape}'))


def _check_difference(output, h):
    if h == 0:
        raise ValueError('h is 0; expected a small step such as 1e-6')
    if not isinstance(output, dict) or 'diff' not in output:
        raise ValueError(f"output is {_brief(output)}; expected a structure with 'diff', the gradient of the loss with "
                         'respect to its data')


# What the layer functions return

def _check_forward(i, layer, output, shape, n):
    """A forward function returned a structure of this shape (h, w, c) for n images. Returns it."""
    keys = 'height', 'width', 'channel', 'batch_size', 'data'
    if not isinstance(output, dict) or not output.keys() >= set(keys):
        missing = [key for key in keys if isinstance(output, dict) and key not in output]
        found = f'a dict without {", ".join(map(repr, missing))}' if missing else _brief(output)
        raise _wrong_return(i, layer, 'forward', found, f'a dict with {", ".join(keys)}')
    h, w, c = shape
    found = output['height'], output['width'], output['channel'], output['batch_size']
    # The outputs of an inner product may count as num x 1 x 1 as well.
    if found != (h, w, c, n) and not (layer['type'] == 'IP' and sorted(found[:3]) == [1, 1, c] and found[3] == n):
        raise _wrong_return(i, layer, 'forward', f'{", ".join(keys[:4])} = {_brief(found)}', (h, w, c, n))
    _check_array(i, layer, 'forward', 'data', output['data'], (h * w * c, n))
    return {**output, 'height': h, 'width': w, 'channel': c}


def _check_backward(i, layer, found, below, param):
    """A backward function returned input_od, and before it param_grad if the layer has parameters. Returns both."""
    grad, od = {}, found
    if layer['type'] in ('CONV', 'IP'):
        if not isinstance(found, (tuple, list)) or len(found) != 2 or not isinstance(found[0], dict):
            raise _wrong_return(i, layer, 'backward', _brief(found),
                                'param_grad, a dict with w and b, and input_od, an array')
        grad, od = {key: found[0].get(key) for key in 'wb'}, found[1]
        for key in 'wb':
            _check_array(i, layer, 'backward', f'param_grad[{key!r}]', grad[key], param[key].shape)
    if od is not None or layer['type'] != 'CONV':      # a convolution need not have it
        _check_array(i, layer, 'backward', 'input_od', od, below['data'].shape)
    return grad, od


def _check_array(i, layer, direction, name, found, shape):
    if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype.kind not in 'fiub':
        raise _wrong_return(i, layer, direction, f'{name} = {_brief(found)}',
                            f'an array of shape {tuple(map(int, shape))}')


def _check_numbers(i, layer, direction, found, *given):
    """The arrays in `found` are finite, if all that the function was given is of moderate size. (What comes of huge
    numbers is not the function's fault: training has diverged, as the cost shows.)"""
    def arrays(structure):
        return [value for value in (structure or {}).values() if isinstance(value, np.ndarray) and value.size]

    if all(np.abs(array).max() < 1e6 for structure in given for array in arrays(structure)):
        for array in arrays(found):
            if not np.isfinite(array).all():
                raise _wrong_return(i, layer, direction, f'{np.count_nonzero(~np.isfinite(array))} numbers of '
                                    f'{array.size} that are nan or infinite', 'finite numbers')


def _wrong_return(i, layer, direction, found, expected):
    return ValueError(f"layer {i}: {_FUNCTIONS[layer['type']][direction]} returned {found}; expected {expected}")


def _brief(value):
    """A value in a few words, for a message: arrays by their shapes."""
    if isinstance(value, np.ndarray):
        return f'an array of shape {value.shape}' + ('' if value.dtype.kind in 'fiub' else f' and type {value.dtype}')
    if isinstance(value, tuple) and any(isinstance(item, (np.ndarray, dict)) for item in value):
        return ' and '.join(map(_brief, value))
    if isinstance(value, dict):
        text = f'a dict with the keys {list(value)}'
    else:
        text = f'a list {value}' if isinstance(value, list) else repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


# ---------------------------------------------------------------------------------------------------------------
# How the work is spread over the cores
#
# The columns of a minibatch go through the network in blocks, each on a thread of its own: NumPy lets other threads run
# while it computes. A reader who skips this section misses why that is faster than one thread, not what is computed.
# ---------------------------------------------------------------------------------------------------------------


def _blocks(n, size):
    """The columns 0..n-1 cut up evenly into slices of at most `size`."""
    count = -(-n // size)
    return [slice(n * j // count, n * (j + 1) // count) for j in range(count)]


def _spread(function, blocks, threads):
    """Yield function(block) for every block, in order. threads: how many share the work, None for one per core."""
    if threads is None:
        threads = _free_cores()
    _check_count('threads', threads, 1)
    _keep_freed_memory()
    threads = min(len(blocks), threads)
    errors = np.geterr()

    def in_thread(block):
        with np.errstate(**errors):                    # the caller's, which hold for its own thread only
            return function(block)

    for j in range(0, len(blocks), threads):
        # This thread takes the first block of each round, so that it need not wait to be woken up.
        others = [_thread_pool(threads - 1, os.getpid()).submit(in_thread, block)
                  for block in blocks[j + 1:j + threads]]
        try:
            own = function(blocks[j])
        finally:
            concurrent.futures.wait(others)            # also if this block fails, so that nothing is left running
        yield own
        for other in others:
            yield other.result()


@functools.cache
def _thread_pool(threads, process):
    """Threads that stay, as starting them takes 0.3 ms. process: its number, since a fork does not inherit threads."""
    return concurrent.futures.ThreadPoolExecutor(threads, 'cnn_lenet')


@functools.cache
def _keep_freed_memory():
    """Have the C library keep the memory of freed arrays for the next ones, which takes a third off an iteration.

    By default glibc gives the memory of a large array back to the kernel, and the next array fetches it again page
    by page: 1,900 page faults for a block of 32 images, 9.6 ms against 6.7. It stops doing so for sizes up to that
    of the largest array freed so far (32 MB at most), so this makes one and lets it go, once.
    """
    np.empty(31 << 20, np.uint8)


def _free_cores():
    """The number of cores we may use, or 1 if we cannot keep BLAS from using them all itself."""
    if _blas_threads() is None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


_blas_lock = threading.Lock()
_blas_state = {'users': 0, 'before': None}             # how many calls are at work, and what BLAS had before the first


@contextlib.contextmanager
def _one_blas_thread():
    """Within this block BLAS uses one thread, since its threads on top of ours are slower than either alone: 32 to
    58 ms for a minibatch instead of 15 to 20. Afterwards it has as many as before, even where such blocks overlap."""
    functions = _blas_threads()
    if functions is None:
        yield
        return
    get, put = functions
    with _blas_lock:
        if _blas_state['users'] == 0:
            _blas_state['before'] = get()
            put(1)
        _blas_state['users'] += 1
    try:
        yield
    finally:
        with _blas_lock:
            _blas_state['users'] -= 1
            if _blas_state['users'] == 0:
                put(_blas_state['before'])


@functools.cache
def _blas_threads():
    """The functions of NumPy's OpenBLAS that get and set its number of threads; None if NumPy has another BLAS."""
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)      # loaded already, and linked with BLAS
    for name in ('scipy_openblas_{}_num_threads64_', 'openblas_{}_num_threads64_', 'openblas_{}_num_threads'):
        if hasattr(library, name.format('set')):
            return getattr(library, name.format('get')), getattr(library, name.format('set'))
    return None
