"""LeNet from scratch: a convolutional net in NumPy, trained by SGD with momentum.

This is the whole of CMU 10-601's homework 7 (spring 2017) in one module, in the order in which one would
explain it: data, parameters, layers (each forward beside its backward), loss, network, solver, gradient check.
Section and equation numbers in the docstrings are the handout's.

Shapes are written the same way everywhere:

    n                number of images (columns)
    h, w, c          height, width and channels of a feature map
    (h*w*c, n)       `data` and `diff` of every layer: one column is one image, flattened from (h, w, c)
    (h, w, c, n)     the same array, reshaped (a view): the batch is the last, contiguous axis

An input or output of a layer is a dict with `height`, `width`, `channel`, `batch_size` and `data`; on the way
back it also holds `diff`, the gradient of the loss with respect to `data`. The network is a dict `layers` with
the integer keys 1..l, its parameters a dict `params` whose key i-1 holds the {'w': ..., 'b': ...} of layer i.

No function changes its arguments.
"""

import concurrent.futures
import contextlib
import ctypes
import errno
import functools
import hashlib
import io
import os
import pathlib

import numpy as np
import scipy.io
from numpy.lib.stride_tricks import sliding_window_view

MNIST_FILE = pathlib.Path(__file__).resolve().parent / 'mnist_all.mat'

# ---------------------------------------------------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------------------------------------------------


def load_mnist(fullset=True, dtype=np.float64, rng=np.random):
    """Load MNIST from `mnist_all.mat`, which lies beside this module, and shuffle it (section 1, instructions).

    fullset  True for all images; False for the first twentieth of each of the three parts
    dtype    float type of the images
    rng      what shuffles: `np.random` (the global generator) or a `np.random.RandomState`

    Returns [xtrain, ytrain, xvalidate, yvalidate, xtest, ytest]. An x is (784, m) with pixels in [0, 1], a y is
    (m,) with the digits 0..9; m is 50,000, 10,000 and 10,000, or 2,500, 500 and 500.
    Raises FileNotFoundError if there is no such file, ValueError if it is damaged or not MNIST, or dtype is no float.
    """
    _check_float(dtype)
    variables = _read_mnist_file(MNIST_FILE)
    train_order, test_order = np.arange(60000), np.arange(10000)
    rng.shuffle(train_order)
    rng.shuffle(test_order)
    result = []
    for part, order in (('train', train_order[10000:]), ('train', train_order[:10000]), ('test', test_order)):
        if not fullset:
            order = order[:len(order) // 20]
        digits = [variables[f'{part}{digit}'] for digit in range(10)]
        images = np.concatenate(digits)[order]
        labels = np.repeat(np.arange(10), [len(rows) for rows in digits])[order]
        result += [np.divide(images, 255, dtype=dtype).T, labels]
    return result


def _check_float(dtype):
    if not np.issubdtype(dtype, np.floating):
        raise ValueError(f'dtype is {np.dtype(dtype)}; expected a float type such as float32 or float64')


def _read_mnist_file(path):
    """The variables train0..train9 and test0..test9 of the MAT-file: uint8, one row of 784 pixels an image."""
    names = [f'{part}{digit}' for part in ('train', 'test') for digit in range(10)]
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, 'no such file; it should hold train0..train9 and test0..test9', str(path))
    with open(path, 'rb') as file:
        try:
            variables = scipy.io.loadmat(file)
        except Exception:  # scipy raises whatever a damaged file happens to trip over
            raise ValueError(f'{path}: variable {_first_unreadable(file, names)} cannot be read; expected a whole '
                             'MAT-file with train0..train9 and test0..test9') from None
    for name in names:
        if name not in variables:
            raise ValueError(f'{path}: variable {name} is missing; expected train0..train9 and test0..test9')
        found = variables[name]
        if found.dtype != np.uint8 or found.ndim != 2 or found.shape[1] != 784:
            raise ValueError(f'{path}: variable {name} is {found.dtype} of shape {found.shape}; '
                             'expected uint8 of shape (images, 784)')
    for part, expected in (('train', 60000), ('test', 10000)):
        found = sum(len(variables[name]) for name in names if name.startswith(part))
        if found != expected:
            raise ValueError(f'{path}: variables {part}0..{part}9 hold {found} images; expected {expected}')
    return variables


def _first_unreadable(file, names):
    """The first of the variables that the MAT-file does not give."""
    for name in names:
        file.seek(0)
        try:
            scipy.io.loadmat(file, variable_names=[name])[name]
        except Exception:
            return name
    return f'after {names[-1]}'


# ---------------------------------------------------------------------------------------------------------------
# Layers as data, and their parameters
# ---------------------------------------------------------------------------------------------------------------

# The keys of each type of layer, and the least value that makes sense for those that are whole numbers.
LAYER_KEYS = {
    'DATA': {'height': 1, 'width': 1, 'channel': 1, 'batch_size': 1},
    'CONV': {'num': 1, 'k': 1, 'stride': 1, 'pad': 0, 'group': 1},
    'POOLING': {'k': 1, 'stride': 1, 'pad': 0},
    'IP': {'num': 1, 'init_type': None},
    'RELU': {},
    'LOSS': {'num': 2},
}


def init_convnet(layers, dtype=np.float64, rng=np.random):
    """Draw the first parameters of a network (section 5.4.1).

    layers  dict, key i in 1..l is layer i
    dtype   float type of the parameters
    rng     what draws: `np.random` (the global generator) or a `np.random.RandomState`

    Returns params: dict, key i-1 is {'w': ..., 'b': ...} of layer i, two empty arrays for a layer without any.
    Weights are uniform in +-sqrt(3 / (h*w*c)), where (h, w, c) is the layer's input feature map: the more inputs are
    added up, the smaller they are. (For an inner product with `init_type` 'gaussian' that is their standard deviation.)
    Biases are 0.
    Raises ValueError for layers that do not make a network, or a dtype that is no float.
    """
    _check_float(dtype)
    maps = feature_map_shapes(layers)
    params = {}
    for i, (w_shape, b_shape) in _param_shapes(layers, maps).items():
        scale = np.sqrt(3 / np.prod(maps[i]))
        if not w_shape:
            w = np.array([])
        elif layers[i + 1].get('init_type') == 'gaussian':
            w = scale * rng.randn(*w_shape)
        else:
            w = 2 * scale * rng.rand(*w_shape) - scale
        params[i] = {'w': w.astype(dtype), 'b': np.zeros(b_shape or 0, dtype)}
    return params


def feature_map_shapes(layers):
    """Shape (h, w, c) of what each layer gives out: dict, keys 1..l-1 as in `layers` (section 2).

    This is where the layers are checked. Raises ValueError for a first layer that is not DATA or a last one that
    is not LOSS, an unknown or missing type or key, a value out of range, windows that do not tile their input.
    """
    if not isinstance(layers, dict) or not layers or set(layers) != set(range(1, len(layers) + 1)):
        found = f'has the keys {list(layers)}' if isinstance(layers, dict) and layers else f'is {layers!r}'
        raise ValueError(f'layers {found}; expected a dict with the integers 1, 2, ..., l as keys')
    last = len(layers)
    for i in range(1, last + 1):
        _check_layer(i, layers[i])
    for i, expected in ((1, 'DATA'), (last, 'LOSS')):
        if layers[i]['type'] != expected:
            raise ValueError(f"layer {i} has type {layers[i]['type']!r}; expected {expected!r}")
    for i in range(2, last):
        if layers[i]['type'] in ('DATA', 'LOSS'):
            raise ValueError(f"layer {i} has type {layers[i]['type']!r}; that is for the first or the last layer")
    height, width, channel = (layers[1][key] for key in ('height', 'width', 'channel'))
    maps = {1: (height, width, channel)}
    for i in range(2, last):
        layer = layers[i]
        try:
            if layer['type'] == 'CONV':
                height, width = _output_size(height, width, layer)
                _check_group(layer, channel)
                channel = layer['num']
            elif layer['type'] == 'POOLING':
                _check_pool_pad(layer)
                height, width = _output_size(height, width, layer)
            elif layer['type'] == 'IP':
                height, width, channel = 1, 1, layer['num']
        except ValueError as error:
            raise ValueError(f"layer {i} ({layer['type']}): {error}") from None
        maps[i] = (height, width, channel)
    return maps


def _check_layer(i, layer):
    """Raise ValueError unless layer i has a known type, just the keys of that type, and sensible values."""
    kind = layer.get('type') if isinstance(layer, dict) else None
    if not isinstance(kind, str) or kind not in LAYER_KEYS:
        raise ValueError(f'layer {i} has type {kind!r}; expected one of {", ".join(LAYER_KEYS)}')
    keys = LAYER_KEYS[kind]
    for key in keys:
        if key not in layer:
            raise ValueError(f"layer {i} ({kind}) lacks the key {key!r}; expected {', '.join(['type', *keys])}")
    for key, value in layer.items():
        if key == 'type':
            continue
        if key not in keys:
            raise ValueError(f"layer {i} ({kind}) has the unknown key {key!r}; "
                             f"expected {', '.join(['type', *keys])}")
        if key == 'init_type':
            if value not in ('uniform', 'gaussian'):
                raise ValueError(f"layer {i} ({kind}) has init_type {value!r}; expected 'uniform' or 'gaussian'")
        else:
            _check_count(f'layer {i} ({kind})', key, value, keys[key])


def _check_count(owner, name, value, least):
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f'{owner} has {name} = {value!r}; expected a whole number of at least {least}')


def _get(owner, mapping, *names):
    """The values under these keys of a layer, a structure or parameters. Raises ValueError if one is missing."""
    for name in names:
        if name not in mapping:
            raise ValueError(f'{owner} lacks the key {name!r}; it has {", ".join(map(repr, mapping))}; '
                             f'expected {", ".join(map(repr, names))} too')
    return [mapping[name] for name in names]


def _output_size(height, width, layer):
    """(h_out, w_out): how many windows fit down and across, (h + 2 pad - k) / stride + 1 (section 2.3)."""
    k, stride, pad = _get('the layer', layer, 'k', 'stride', 'pad')
    for name, value, least in (('k', k, 1), ('stride', stride, 1), ('pad', pad, 0)):
        _check_count('the layer', name, value, least)
    counts = []
    for axis, size in (('height', height), ('width', width)):
        room = size + 2 * pad - k
        if room < 0:
            raise ValueError(f'the window k = {k} is larger than the padded {axis}; expected at most {size + 2 * pad}')
        if room % stride:
            raise ValueError(f'windows with k = {k} and stride = {stride} do not tile the padded {axis} '
                             f'{size + 2 * pad}: expected {size + 2 * pad} - k to be a multiple of stride')
        counts.append(room // stride + 1)
    return tuple(counts)


def _check_group(layer, channel):
    num, group = _get('the layer', layer, 'num', 'group')
    _check_count('the layer', 'group', group, 1)
    for name, value in (('channel', channel), ('num', num)):
        if value % group:
            raise ValueError(f'group = {group} does not divide {name} = {value}; expected a divisor')


def _check_pool_pad(layer):
    pad, = _get('the layer', layer, 'pad')
    if pad != 0:
        raise ValueError(f"pooling has pad = {pad}; expected 0: the handout's pooling has no padding")


def _param_shapes(layers, maps):
    """Shapes of (w, b) by key of `params`: layer i's stand under i-1. () for a layer without parameters."""
    shapes = {}
    for i in range(2, len(layers) + 1):
        layer, inputs = layers[i], int(np.prod(maps[i - 1]))
        if layer['type'] == 'CONV':
            rows = layer['k'] ** 2 * maps[i - 1][2] // layer['group']
            shapes[i - 1] = (rows, layer['num']), (layer['num'],)
        elif layer['type'] == 'IP':
            shapes[i - 1] = (inputs, layer['num']), (layer['num'],)
        elif layer['type'] == 'LOSS':
            shapes[i - 1] = (inputs, layer['num'] - 1), (layer['num'] - 1,)
        else:
            shapes[i - 1] = (), ()
    return shapes


def _check_params(params, layers, maps):
    """Raise ValueError unless `params` has the shapes that `layers` asks for."""
    if not isinstance(params, dict):
        raise ValueError(f'params is of type {type(params).__name__}; expected a dict')
    for i, shapes in _param_shapes(layers, maps).items():
        for key, shape in zip('wb', shapes):
            if not shape:                              # a layer without parameters
                continue
            try:
                found = np.shape(params[i][key])
            except (KeyError, TypeError):
                raise ValueError(f"params[{i}][{key!r}], a parameter of layer {i + 1} ({layers[i + 1]['type']}), "
                                 f'is missing; expected an array of shape {shape}') from None
            if found != shape:
                raise ValueError(f"params[{i}][{key!r}], a parameter of layer {i + 1} ({layers[i + 1]['type']}), "
                                 f'has shape {found}; expected {shape}')


# ---------------------------------------------------------------------------------------------------------------
# What the layers share
# ---------------------------------------------------------------------------------------------------------------


def _feature_map(structure, key='data'):
    """View `structure[key]`, (h*w*c, n), as (h, w, c, n). Raises ValueError if it has another shape."""
    h, w, c, n, data = _get('the structure', structure, 'height', 'width', 'channel', 'batch_size', key)
    data = np.asanyarray(data)
    if data.ndim != 2 or data.shape[0] != h * w * c:
        raise ValueError(f'{key} has shape {data.shape}; expected {h * w * c} rows '
                         f'(height {h} * width {w} * channel {c}) and a column per image')
    if data.shape[1] != n:
        raise ValueError(f'{key} has {data.shape[1]} columns; expected batch_size = {n}')
    return data.reshape(h, w, c, n)


def _structure(data, height, width, channel):
    """The dict that a layer gives out. data: any shape whose size is height*width*channel*n, n last."""
    n = data.shape[-1]
    return {'height': height, 'width': width, 'channel': channel, 'batch_size': n,
            'data': data.reshape(height * width * channel, n)}


def _weights(param, rows, columns):
    """(w, b) of a layer. Raises ValueError unless their shapes are (rows, columns) and (columns,)."""
    w, b = map(np.asanyarray, _get('param', param, 'w', 'b'))
    for key, found, expected in (('w', w, (rows, columns)), ('b', b, (columns,))):
        if found.shape != expected:
            raise ValueError(f'param[{key!r}] has shape {found.shape}; expected {expected}')
    return w, b


def _diff(output, shape):
    """output['diff']. Raises ValueError unless it has this shape."""
    diff = np.asanyarray(*_get('output', output, 'diff'))
    if diff.shape != shape:
        raise ValueError(f'diff has shape {diff.shape}; expected that of the output, {shape}')
    return diff


# ---------------------------------------------------------------------------------------------------------------
# Convolution (section 2.3)
# ---------------------------------------------------------------------------------------------------------------


def _windows(x, layer):
    """Every window of x, as a view: (h, w, c, n) -> (h_out, w_out, k, k, c, n). x is padded with zeros first."""
    k, stride, pad = layer['k'], layer['stride'], layer['pad']
    if pad:
        x = np.pad(x, ((pad, pad), (pad, pad), (0, 0), (0, 0)))
    windows = sliding_window_view(x, (k, k), axis=(0, 1))[::stride, ::stride]    # (h_out, w_out, c, n, k, k)
    return windows.transpose(0, 1, 4, 5, 2, 3)


def im2col_conv(input_n, layer, h_out, w_out):
    """The windows of one image as columns (section 6).

    input_n  structure of one image: `data` has h*w*c elements
    Returns (k*k*c, h_out*w_out): column i*w_out + j is the window at (i, j), flattened from (k, k, c).
    Raises ValueError if h_out and w_out are not the number of windows.
    """
    h, w, c = input_n['height'], input_n['width'], input_n['channel']
    _check_output_size(h, w, layer, h_out, w_out)
    if np.size(input_n['data']) != h * w * c:
        raise ValueError(f"data has {np.size(input_n['data'])} elements; expected one image, {h} * {w} * {c}")
    windows = _windows(np.reshape(input_n['data'], (h, w, c, 1)), layer)
    return windows.reshape(h_out * w_out, -1).T.copy()


def col2im_conv(col, input, layer, h_out, w_out):
    """The reverse of `im2col_conv`: add every column at its window's place in the image (section 6).

    col    (k*k*c, h_out*w_out), or anything that reshapes to it
    input  structure that gives height, width and channel of the image
    Returns (h, w, c): where windows overlap their values are added up. The padding is cut off.
    Raises ValueError if h_out and w_out are not the number of windows, or col does not fit.
    """
    h, w, c = input['height'], input['width'], input['channel']
    k, stride, pad = layer['k'], layer['stride'], layer['pad']
    _check_output_size(h, w, layer, h_out, w_out)
    if np.size(col) != k * k * c * h_out * w_out:
        raise ValueError(f'col has shape {np.shape(col)}; expected ({k * k * c}, {h_out * w_out})')
    windows = np.reshape(col, (k, k, c, h_out, w_out))
    im = np.zeros((h + 2 * pad, w + 2 * pad, c), windows.dtype)
    for a in range(k):
        for b in range(k):
            im[a:a + stride * h_out:stride, b:b + stride * w_out:stride] += windows[a, b].transpose(1, 2, 0)
    return im[pad:pad + h, pad:pad + w].copy()


def _check_output_size(height, width, layer, h_out, w_out):
    expected = _output_size(height, width, layer)
    if (h_out, w_out) != expected:
        raise ValueError(f'(h_out, w_out) is {(h_out, w_out)}; expected {expected}')


def _groups(layer, channel):
    """(channels, filters) of each group, as slices: group g's filters see group g's channels alone."""
    _check_group(layer, channel)
    c, f = channel // layer['group'], layer['num'] // layer['group']
    return [(slice(g * c, (g + 1) * c), slice(g * f, (g + 1) * f)) for g in range(layer['group'])]


def _kernel_parts(layer, c):
    """The rows (or columns) of the kernel, as slices: each part gives one product of the convolution.

    One row at a time needs no copy of the windows: row a of a window is a piece of the image as it lies in memory.
    With few channels such a piece is too short for a fast product, and the windows are copied whole.
    """
    k = layer['k']
    return [slice(a, a + 1) for a in range(k)] if k * c >= 32 else [slice(0, k)]


def conv_layer_forward(input, layer, param):
    """Convolution, forward: every filter is multiplied with every window (section 2.3).

    input  structure, data (h*w*c, n)
    layer  `num` filters of k x k, `stride`, `pad` (zeros on all sides), `group`
    param  w (k*k*c/group, num), rows over (kernel row, kernel column, channel); b (num,)

    Returns output: structure, data (h_out*w_out*num, n).
    Raises ValueError if data, windows, group or parameters do not fit.
    """
    x = _feature_map(input)
    h, w, c, n = x.shape
    h_out, w_out = _output_size(h, w, layer)
    groups = _groups(layer, c)
    weights, bias = _weights(param, layer['k'] ** 2 * c // layer['group'], layer['num'])

    windows = _windows(x, layer)                                                 # (h_out, w_out, k, k, c, n)
    kernel = weights.reshape(layer['k'], layer['k'], -1, layer['num'])           # (k, k, c/group, num)
    out = np.empty((h_out, w_out, layer['num'], n), np.result_type(x, weights, bias))
    for channels, filters in groups:
        for part in _kernel_parts(layer, c):
            col = windows[:, :, part, :, channels].reshape(h_out, w_out, -1, n)
            w_part = kernel[part, :, :, filters].reshape(col.shape[2], -1)
            if part.start == 0:
                np.matmul(w_part.T, col, out=out[:, :, filters])
            else:
                out[:, :, filters] += np.matmul(w_part.T, col)
    out += bias[:, None]
    return _structure(out, h_out, w_out, layer['num'])


def conv_layer_backward(output, input, layer, param):
    """Convolution, backward (eqs. 7 and 8).

    output  structure of `conv_layer_forward` with `diff` (h_out*w_out*num, n)
    Returns param_grad, {'w': ..., 'b': ...} in the shapes of `param`, summed over the batch, and input_od,
    the gradient with respect to input['data'], (h*w*c, n).
    Raises ValueError if shapes do not fit.
    """
    return _conv_param_grad(output, input, layer, param), _conv_input_od(output, input, layer, param)


def _conv_shapes(output, input, layer, param):
    """The arrays of the backward pass, checked: x (h, w, c, n), diff (h_out, w_out, num, n), w (k, k, c/group, num)."""
    x = _feature_map(input)
    h, w, c, n = x.shape
    h_out, w_out = _output_size(h, w, layer)
    _check_group(layer, c)
    weights, _ = _weights(param, layer['k'] ** 2 * c // layer['group'], layer['num'])
    diff = _diff(output, (h_out * w_out * layer['num'], n)).reshape(h_out, w_out, layer['num'], n)
    return x, diff, weights.reshape(layer['k'], layer['k'], -1, layer['num'])


def _conv_param_grad(output, input, layer, param):
    """d loss / d w is the sum, over images and windows, of window times diff; d loss / d b that of diff."""
    x, diff, kernel = _conv_shapes(output, input, layer, param)
    h_out, w_out, num, n = diff.shape
    c = x.shape[2]
    # With the channels before the columns of the image, in memory too, column b of all windows in a row of the output
    # is one matrix (k*c, w_out*n), and the sum over columns and images one long product: 1.2 ms against 1.5 with a
    # short product for every window (LeNet's second convolution, 64 images, two threads).
    windows = _windows(x.swapaxes(1, 2).copy().swapaxes(1, 2), layer)            # (h_out, w_out, k, k, c, n)
    windows = windows.transpose(0, 2, 3, 4, 1, 5)                                # (h_out, k, k, c, w_out, n)
    diff = diff.swapaxes(1, 2).reshape(h_out, num, w_out * n)
    w_grad = np.empty(kernel.shape, np.result_type(x, diff))
    for channels, filters in _groups(layer, c):
        for part in _kernel_parts(layer, c):
            col = windows[:, :, part, channels].reshape(h_out, -1, w_out * n)
            grad = np.matmul(col, diff[:, filters].swapaxes(1, 2)).sum(axis=0)
            place = w_grad[:, part, :, filters]
            place[...] = grad.reshape(place.shape)
    return {'w': w_grad.reshape(-1, num), 'b': diff.sum(axis=2).sum(axis=0)}


def _conv_input_od(output, input, layer, param):
    """d loss / d input: every window's place receives w times that window's diff."""
    x, diff, kernel = _conv_shapes(output, input, layer, param)
    h, w, c, n = x.shape
    h_out, w_out, num, _ = diff.shape
    k, stride, pad = layer['k'], layer['stride'], layer['pad']
    kernel = kernel.reshape(k, -1, num)                                          # (k, k*c/group, num)
    od = np.zeros((h + 2 * pad, w + 2 * pad, c, n), np.result_type(kernel, diff))
    for channels, filters in _groups(layer, c):
        for a in range(k):
            rows = np.matmul(kernel[a, :, filters], diff[:, :, filters])         # row a of all windows
            rows = rows.reshape(h_out, w_out, k, -1, n)
            for j in range(w_out):
                od[a:a + stride * h_out:stride, j * stride:j * stride + k, channels] += rows[:, j]
    return od[pad:pad + h, pad:pad + w].reshape(h * w * c, n)


# ---------------------------------------------------------------------------------------------------------------
# Max pooling (section 2.4)
# ---------------------------------------------------------------------------------------------------------------


def pooling_layer_forward(input, layer):
    """Max pooling, forward: the largest value of every window, channel by channel (section 2.4, Q1).

    input  structure, data (h*w*c, n)
    layer  windows of k x k, `stride`; `pad` must be 0

    Returns output: structure, data (h_out*w_out*c, n). A NaN in a window gives NaN.
    Raises ValueError if data or windows do not fit, or pad is not 0.
    """
    _check_pool_pad(layer)
    x = _feature_map(input)
    h_out, w_out = _output_size(input['height'], input['width'], layer)
    k, stride = layer['k'], layer['stride']
    # Corner (a, b) of all windows at once is a strided view of x, so the maximum over a window
    # is k*k whole-array maxima.
    out = x[:stride * h_out:stride, :stride * w_out:stride].copy()         # (h_out, w_out, c, n)
    for a in range(k):
        for b in range(k):
            corner = x[a:a + stride * h_out:stride, b:b + stride * w_out:stride]
            np.maximum(out, corner, out=out)
    return _structure(out, h_out, w_out, input['channel'])


def pooling_layer_backward(output, input, layer):
    """Max pooling, backward: each window's gradient goes to its largest element (Q4).

    output  structure with `diff` (h_out*w_out*c, n), the gradient with respect to the output
    Returns input_od (h*w*c, n). Of several equal maxima the first in row-major order gets the whole gradient;
    where windows overlap, an element that is the maximum of several gets the sum.
    Raises ValueError if shapes do not fit, or pad is not 0.
    """
    _check_pool_pad(layer)
    x = _feature_map(input)
    h, w, c, n = x.shape
    h_out, w_out = _output_size(h, w, layer)
    diff = _diff(output, (h_out * w_out * c, n)).reshape(h_out, w_out, c, n)
    k, stride = layer['k'], layer['stride']
    largest = functools.reduce(np.maximum, (x[a:a + stride * h_out:stride, b:b + stride * w_out:stride]
                                            for a in range(k) for b in range(k)))    # (h_out, w_out, c, n)
    any_nan = np.isnan(largest).any()
    od = np.zeros(x.shape, diff.dtype)
    waiting = np.ones(diff.shape, bool)                # windows whose largest element is still to come
    for a in range(k):
        for b in range(k):
            rows, columns = slice(a, a + stride * h_out, stride), slice(b, b + stride * w_out, stride)
            corner = x[rows, columns]
            chosen = corner == largest
            if any_nan:
                chosen |= np.isnan(corner)
            chosen &= waiting
            waiting ^= chosen
            if stride >= k:                            # no window overlaps another: nothing to add up, 0.1 ms less
                np.multiply(diff, chosen, out=od[rows, columns])
            else:
                od[rows, columns] += diff * chosen
    return od.reshape(-1, od.shape[-1])


# ---------------------------------------------------------------------------------------------------------------
# ReLU (section 2.2)
# ---------------------------------------------------------------------------------------------------------------


def relu_forward(input, layer=None):
    """ReLU, forward: max(0, x) of every element (section 2.2, Q2).

    input  structure, data (h*w*c, n); `layer` is not used
    Returns output: structure of the same size.
    Raises ValueError if data does not have h*w*c rows and batch_size columns.
    """
    x = _feature_map(input)
    return _structure(np.maximum(x, 0), *x.shape[:3])


def relu_backward(output, input, layer=None):
    """ReLU, backward: the gradient passes where the input was positive (Q5).

    output  structure with `diff`, the gradient with respect to the output, in the shape of input['data']
    Returns input_od, in the same shape. At exactly 0 the gradient is 0.
    Raises ValueError if shapes do not fit.
    """
    x = _feature_map(input)
    x = x.reshape(-1, x.shape[-1])                                         # (h*w*c, n)
    diff = _diff(output, x.shape)
    return np.where(x > 0, diff, 0).astype(diff.dtype, copy=False)


# ---------------------------------------------------------------------------------------------------------------
# Inner product (section 2.1)
# ---------------------------------------------------------------------------------------------------------------


def inner_product_forward(input, layer, param):
    """Inner product (fully connected layer), forward: w.T x + b for every column x (eq. 3, Q3).

    input  structure, data (h*w*c, n)
    layer  `num` outputs
    param  w (h*w*c, num), b (num,)

    Returns output: structure of height 1, width 1 and channel num, data (num, n).
    Raises ValueError if data or parameters do not fit.
    """
    x = _feature_map(input)
    x = x.reshape(-1, x.shape[-1])                                         # (h*w*c, n)
    num, = _get('the layer', layer, 'num')
    w, b = _weights(param, x.shape[0], num)
    b = np.tile(b, (x.shape[1], 1)).T                                      # (num, n)
    return _structure(w.T @ x + b, 1, 1, num)


def inner_product_backward(output, input, layer, param):
    """Inner product, backward (eqs. 7 and 8, Q6).

    output  structure with `diff` (num, n)
    Returns param_grad, {'w': ..., 'b': ...} in the shapes of `param`, summed over the batch, and input_od,
    the gradient with respect to input['data'], (h*w*c, n).
    Raises ValueError if shapes do not fit.
    """
    x = _feature_map(input)
    x = x.reshape(-1, x.shape[-1])                                         # (h*w*c, n)
    num, = _get('the layer', layer, 'num')
    w, _ = _weights(param, x.shape[0], num)
    diff = _diff(output, (num, x.shape[1]))
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
    Raises ValueError if shapes do not fit or a label is not one of 0..K-1.
    """
    wb, X = np.asarray(wb), np.asarray(X)
    if X.ndim != 2 or X.shape[1] == 0 or wb.shape != (X.shape[0] + 1, K - 1):
        raise ValueError(f'wb has shape {wb.shape} for X of shape {X.shape} and K = {K}; '
                         'expected wb (inputs + 1, K - 1) and X (inputs, n), n at least 1')
    y = _check_labels(y, X.shape[1], K)
    log_p = _log_softmax(_logits(wb[:-1], wb[-1], X))                      # (K, n)
    images = np.arange(X.shape[1])
    nll = -log_p[y, images].sum()
    d = np.exp(log_p)                                                      # d nll / d logits = p - [label]
    d[y, images] -= 1
    d = d[:-1]                                                             # the last logit is fixed
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


def _logits(w, b, X):
    """(K, n): w.T X + b for the first K-1 classes, 0 for the last."""
    logits = w.T @ X + b[:, None]
    return np.vstack([logits, np.zeros((1, X.shape[1]), logits.dtype)])


def _check_labels(y, n, K):
    """y as a 1-d integer array. Raises ValueError unless it holds n labels of 0..K-1."""
    y = np.asarray(y)
    if y.shape != (n,):
        raise ValueError(f'labels have shape {y.shape}; expected ({n},), one per column of data')
    if not np.issubdtype(y.dtype, np.integer):
        if not np.issubdtype(y.dtype, np.floating) or not np.all(np.isfinite(y) & (y == np.floor(y))):
            raise ValueError(f'labels are {y.dtype} such as {y.flat[0] if y.size else None!r}; expected whole numbers')
    wrong = (y < 0) | (y >= K)
    if wrong.any():
        raise ValueError(f'label {y[wrong][0]} at position {int(wrong.argmax())}; expected labels in 0..{K - 1}')
    return y.astype(np.intp, copy=False)


# ---------------------------------------------------------------------------------------------------------------
# Network
# ---------------------------------------------------------------------------------------------------------------

# Columns that go through the network together. A block's feature maps then fit in a core's cache, and a minibatch
# of 64 makes two blocks, one for each of two cores.
BLOCK = 32


def forward(params, layers, data):
    """Forward pass of the whole network but its LOSS (section 5.2).

    data  (h*w*c, n), any number of columns
    Returns outputs: dict, keys 1..l-1 as in `layers`, the structure that each layer gives out.
    Raises ValueError if layers, parameters and data do not fit.
    """
    maps = feature_map_shapes(layers)
    _check_params(params, layers, maps)
    data = _check_data(data, maps[1])
    return _forward(params, layers, maps, data)


def _check_data(data, image_shape):
    """data as an array. Raises ValueError unless it holds images of this shape, one a column."""
    data = np.asanyarray(data)
    h, w, c = image_shape
    if data.ndim != 2 or data.shape[0] != h * w * c:
        raise ValueError(f'data has shape {data.shape}; expected {h * w * c} rows '
                         f'(height {h} * width {w} * channel {c}) and a column per image')
    if data.shape[1] == 0:
        raise ValueError('data has 0 columns; expected at least one image')
    return data


def _forward(params, layers, maps, data):
    """`forward` on arguments that have been checked."""
    outputs = {1: _structure(np.array(data, order='C'), *maps[1])}
    for i in range(2, len(layers)):
        layer, below = layers[i], outputs[i - 1]
        if layer['type'] == 'CONV':
            outputs[i] = conv_layer_forward(below, layer, params[i - 1])
        elif layer['type'] == 'POOLING':
            outputs[i] = pooling_layer_forward(below, layer)
        elif layer['type'] == 'RELU':
            outputs[i] = relu_forward(below, layer)
        elif layer['type'] == 'IP':
            outputs[i] = inner_product_forward(below, layer, params[i - 1])
        _assert_shape(i, layer, 'data', outputs[i]['data'], (np.prod(maps[i]), data.shape[1]))
    return outputs


def _assert_shape(i, layer, name, found, expected):
    assert found.shape == expected, f"layer {i} ({layer['type']}) gave {name} {found.shape}; expected {expected}"


def predict(params, layers, data, threads=None):
    """Class probabilities of images (section 1.3).

    data     (h*w*c, n), any number of columns
    threads  how many to use: None for one a core, 1 for the calling thread alone; the result is the same
    Returns (num, n): column j sums to 1; its largest element's index is the prediction for image j.
    Works through the columns in blocks, so that memory stays bounded.
    Raises ValueError if layers, parameters and data do not fit.
    """
    maps = feature_map_shapes(layers)
    _check_params(params, layers, maps)
    data = _check_data(data, maps[1])
    last = len(layers)

    def block_probabilities(columns):
        top = _forward(params, layers, maps, data[:, columns])[last - 1]['data']
        return softmax(_logits(params[last - 1]['w'], params[last - 1]['b'], top))

    return np.hstack(list(_map_blocks(block_probabilities, data.shape[1], threads)))


def conv_net(params, layers, data, labels, threads=None):
    """Cost and gradients of the network on one minibatch: feed forward, then backpropagation (sections 5.2, 5.3).

    data    (h*w*c, n) with n = layers[1]['batch_size']
    labels  (n,) whole numbers in 0..num-1
    threads how many to use: None for one a core, 1 for the calling thread alone; the result is the same

    Returns cp, with `cost` (mean negative log-likelihood) and `percent` (share of right answers, 0..1), and
    param_grad, in the shapes of `params`, the gradient of the mean cost.
    Raises ValueError if layers, parameters, data and labels do not fit.
    """
    maps = feature_map_shapes(layers)
    _check_params(params, layers, maps)
    data = _check_data(data, maps[1])
    n = data.shape[1]
    if layers[1]['batch_size'] != n:
        raise ValueError(f"data has {n} columns; expected layers[1]['batch_size'] = {layers[1]['batch_size']}")
    labels = _check_labels(labels, n, layers[len(layers)]['num'])

    def block_sums(columns):
        return _forward_backward(params, layers, maps, data[:, columns], labels[columns], n)

    # The blocks' sums are added in the order of the columns, whichever thread was first: same seed, same digits.
    blocks = _map_blocks(block_sums, n, threads)
    cost, right, param_grad = next(blocks)
    for block_cost, block_right, block_grad in blocks:
        cost, right = cost + block_cost, right + block_right
        for i in param_grad:
            for key in 'wb':
                param_grad[i][key] += block_grad[i][key]
    return {'cost': float(cost), 'percent': right / n}, param_grad


def _forward_backward(params, layers, maps, data, labels, n):
    """What a block adds to the cost, the number of right answers and the param_grad of a minibatch of n columns."""
    last = len(layers)
    outputs = _forward(params, layers, maps, data)
    wb = np.vstack([params[last - 1]['w'], params[last - 1]['b']])
    nll, g, od, percent = mlrloss(wb, outputs[last - 1]['data'], labels, layers[last]['num'], 1)
    g, od = g / n, od / n                              # from here on all gradients are those of the mean cost
    param_grad = {last - 1: {'w': g[:-1], 'b': g[-1]}}

    # Below the lowest layer that has parameters nothing needs a gradient.
    lowest = min(i for i in range(2, last + 1) if layers[i]['type'] in ('CONV', 'IP', 'LOSS'))
    for i in range(last - 1, 1, -1):
        layer, below = layers[i], outputs[i - 1]
        param_grad[i - 1] = {'w': np.array([], wb.dtype), 'b': np.array([], wb.dtype)}
        if i < lowest:
            continue
        output = {**outputs[i], 'diff': od}
        if layer['type'] == 'CONV' and i == lowest:
            param_grad[i - 1], od = _conv_param_grad(output, below, layer, params[i - 1]), None
        elif layer['type'] == 'CONV':
            param_grad[i - 1], od = conv_layer_backward(output, below, layer, params[i - 1])
        elif layer['type'] == 'POOLING':
            od = pooling_layer_backward(output, below, layer)
        elif layer['type'] == 'RELU':
            od = relu_backward(output, below, layer)
        elif layer['type'] == 'IP':
            param_grad[i - 1], od = inner_product_backward(output, below, layer, params[i - 1])
        if od is not None:
            _assert_shape(i, layer, 'od', od, below['data'].shape)
        if layer['type'] in ('CONV', 'IP'):
            for key in 'wb':
                _assert_shape(i, layer, key, param_grad[i - 1][key], params[i - 1][key].shape)
    return nll / n, round(percent * len(labels)), dict(sorted(param_grad.items()))


def _map_blocks(function, n, threads=None):
    """function(columns) for every block of at most BLOCK of n columns, in order, on as many threads as help."""
    _keep_freed_memory()
    blocks = -(-n // BLOCK)
    edges = [n * j // blocks for j in range(blocks + 1)]
    columns = [slice(first, end) for first, end in zip(edges, edges[1:])]
    threads = min(blocks, threads or _free_cores())
    errors = np.geterr()

    def in_thread(block):
        with np.errstate(**errors):                    # the caller's, which hold for its own thread only
            return function(block)

    for j in range(0, blocks, threads):
        # This thread takes the first block of each round, so that it need not wait to be woken up.
        others = [_thread_pool(threads - 1, os.getpid()).submit(in_thread, block)
                  for block in columns[j + 1:j + threads]]
        yield function(columns[j])
        for other in others:
            yield other.result()


@functools.cache
def _thread_pool(threads, process):
    """The threads for this process: one that was forked off does not inherit them. Starting them takes 0.3 ms."""
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
    """How many threads of ours the machine has room for: all cores if BLAS leaves them to us, otherwise one.

    Threads of ours on top of threads of BLAS are slower than either. BLAS is asked, never told.
    """
    if _blas_thread_counter()() != 1:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


@functools.cache
def _blas_thread_counter():
    """NumPy's BLAS's own function that tells how many threads it uses; one that tells None if there is none."""
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)      # loaded already, and linked with BLAS
    for name in ('scipy_openblas_get_num_threads64_', 'openblas_get_num_threads64_', 'openblas_get_num_threads'):
        if hasattr(library, name):
            return getattr(library, name)
    return lambda: None


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
    Raises ValueError if the keys or shapes differ.
    """
    w_rate, b_rate, mu, decay = float(w_rate), float(b_rate), float(mu), float(decay)
    for name, other in (('param_winc', param_winc), ('param_grad', param_grad)):
        if missing := params.keys() - other.keys():
            raise ValueError(f'{name} lacks the keys {sorted(missing)}; expected those of params, {sorted(params)}')
    params_, param_winc_ = {}, {}
    for i in params:
        params_[i], param_winc_[i] = {}, {}
        for key, rate, key_decay in (('w', w_rate, decay), ('b', b_rate, 0.0)):
            value, theta, grad = params[i][key], param_winc[i][key], param_grad[i][key]
            if not value.shape == theta.shape == grad.shape:
                raise ValueError(f'[{i}][{key!r}] has shape {value.shape} in params, {theta.shape} in param_winc '
                                 f'and {grad.shape} in param_grad; expected the same shape in all three')
            # theta = mu * theta + rate * (grad + key_decay * value), with fewer temporary arrays: LeNet's 0.43 million
            # parameters take 0.36 ms in place of 0.41.
            step = key_decay * value
            step += grad
            step *= rate
            theta = mu * theta
            theta += step
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
    in float64, one forward pass an element.
    Raises ValueError if h is 0 or diff does not have the shape of what `forward` gives.
    """
    if h == 0:
        raise ValueError('h is 0; expected a small step such as 1e-6')
    x = np.array(input['data'], np.float64)
    diff = output['diff']
    before = forward({**input, 'data': x.copy()})['data']
    if np.shape(diff) != before.shape:
        raise ValueError(f'diff has shape {np.shape(diff)}; expected that of the output, {before.shape}')
    approx = np.empty_like(x)
    for index in np.ndindex(x.shape):
        shifted = x.copy()
        shifted[index] += h
        # Differences first, then the sum: large values that do not change drop out without rounding errors.
        approx[index] = (diff * (forward({**input, 'data': shifted})['data'] - before)).sum() / h
    return approx.astype(np.result_type(input['data'], np.float32), copy=False)


# ---------------------------------------------------------------------------------------------------------------
# Saving (section 7)
# ---------------------------------------------------------------------------------------------------------------

# A MAT-file begins with 116 bytes of free text, which MATLAB, Octave and scipy skip. Ours holds the digest of
# everything else in the file, so that a damaged file is recognised before anything in it is believed.
_HEADER = b'MATLAB 5.0 MAT-file, LeNet in NumPy, sha256 '
_DIGEST = slice(len(_HEADER), len(_HEADER) + 64)


def save_params(path, params, **extra):
    """Save parameters, and whatever belongs to them, as a MAT-file that MATLAB and Octave open (section 7).

    path    the file; what is there is replaced only once the new file is complete and on disk
    params  dict, keys 1..l-1: a cell array in Octave, so that params{i}.w is the w of params[i]
    extra   more variables: numbers, strings, arrays of one or two dimensions, dicts with names as keys (structs in
            Octave) or with the keys 1..m (cell arrays)

    Raises OSError if the file can't be written (the file that was there is then still there), TypeError for a
    value of another kind.
    """
    variables = {name: _to_mat(value) for name, value in {'params': params, **extra}.items()}
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, oned_as='column', long_field_names=True)
    content = bytearray(buffer.getbuffer())
    content[:116] = _HEADER.ljust(116)
    content[_DIGEST] = _digest(content)
    write_whole(path, content)


def write_whole(path, content):
    """Write bytes to a file: it then holds all of them, or, whatever happens meanwhile, what it held before.

    Raises OSError if that fails.
    """
    path = os.path.realpath(path)
    temporary = path + '.tmp'                          # in the same folder, so that it can take the file's place
    try:
        with open(temporary, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, f'cannot save: {error.strerror}', path) from None
        raise
    _flush_folder(os.path.dirname(path))


def load_params(path):
    """Load what `save_params` saved: (params, extra), extra a dict of the other variables.

    Numbers, strings, dicts and two-dimensional arrays come back as they were; an array of one column comes back
    with one dimension (a w has two, a b one, always). Nothing in the file is executed.
    Raises FileNotFoundError if there is no such file, OSError if it can't be read, ValueError if it isn't a whole
    file of `save_params`.
    """
    with open(path, 'rb') as file:
        content = file.read()
    if not content.startswith(_HEADER):
        raise ValueError(f'{path}: not a saved model; expected a MAT-file written by save_params')
    if content[_DIGEST] != _digest(content):
        raise ValueError(f'{path}: damaged or cut short; its {len(content)} bytes do not match their checksum')
    try:
        variables = scipy.io.loadmat(io.BytesIO(content), struct_as_record=False)
        extra = {name: _from_mat(value, name) for name, value in variables.items() if not name.startswith('__')}
        return extra.pop('params'), extra
    except Exception as error:  # the checksum is right, so somebody made this file by hand
        raise ValueError(f'{path}: not a saved model ({type(error).__name__}: {error})') from None


def _digest(content):
    """SHA-256, in hexadecimal, of a saved file but for the place where the digest itself stands."""
    hash = hashlib.sha256(content[:_DIGEST.start])
    hash.update(memoryview(content)[_DIGEST.stop:])
    return hash.hexdigest().encode()


def _flush_folder(folder):
    """Have a rename in this folder reach the disk; not every system can open a folder for that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _to_mat(value):
    """A value as scipy saves it: dicts with the keys 1..m as cell arrays, other dicts as structs."""
    if isinstance(value, dict) and value and all(isinstance(key, (int, np.integer)) for key in value):
        if sorted(value) != list(range(1, len(value) + 1)):
            raise TypeError(f'cannot save a dict with the keys {sorted(value)}; expected names or 1..m')
        cells = np.empty((1, len(value)), object)
        for key in value:
            cells[0, key - 1] = _to_mat(value[key])
        return cells
    if isinstance(value, dict):
        return {str(key): _to_mat(item) for key, item in value.items()}
    if isinstance(value, str):
        return value
    value = np.asarray(value)
    if value.dtype.kind not in 'biuf' or value.ndim > 2:
        raise TypeError(f'cannot save a value of type {value.dtype} with {value.ndim} dimensions; '
                        'expected numbers, strings, dicts or arrays of one or two dimensions')
    return value


def _from_mat(value, name):
    """The reverse of `_to_mat`. name: the variable or field, which tells a w (two dimensions) from a b (one)."""
    if value.dtype == object and isinstance(value[0, 0], scipy.io.matlab.mat_struct):
        struct = value[0, 0]
        return {field: _from_mat(getattr(struct, field), field) for field in struct._fieldnames}
    if value.dtype == object:
        return {i: _from_mat(cell, name) for i, cell in enumerate(value.ravel(), 1)}
    if value.dtype.kind == 'U':
        return str(value[0]) if value.size else ''
    if name == 'b' or value.shape[1] <= 1 and (name != 'w' or value.size == 0):
        value = value.ravel()
    return value.item() if value.size == 1 and name not in ('w', 'b') else value
