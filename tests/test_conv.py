"""Convolution (handout section 2.3) against plain loops and numerical gradients; im2col and col2im."""

import itertools

import numpy as np
import pytest
from helpers import assert_same, check_backward, conv, feature_map, random_params, sizes, structure, with_diff

from cnn_lenet import col2im_conv, conv_layer_backward, conv_layer_forward, im2col_conv

GEOMETRIES = [
    # h, w, c, n, k, stride, pad, num, group
    (4, 4, 1, 2, 2, 1, 0, 2, 1),
    (5, 5, 1, 3, 5, 1, 0, 2, 1),    # one window
    (5, 7, 2, 3, 3, 1, 0, 3, 1),    # not square
    (7, 5, 2, 2, 3, 2, 0, 3, 1),    # windows overlap by one
    (6, 4, 3, 2, 2, 2, 0, 2, 1),    # windows side by side
    (7, 4, 1, 2, 1, 3, 0, 2, 1),    # windows with gaps
    (3, 5, 2, 2, 3, 1, 1, 2, 1),
    (4, 6, 1, 2, 5, 1, 2, 2, 1),
    (5, 3, 2, 2, 3, 2, 2, 2, 1),
    (2, 3, 1, 1, 1, 1, 1, 2, 1),    # windows that see padding alone
    (4, 5, 4, 2, 2, 1, 0, 6, 2),
    (5, 5, 3, 1, 3, 2, 1, 3, 3),    # every filter sees one channel
    (1, 1, 1, 1, 1, 1, 0, 1, 1),
    (4, 5, 11, 2, 3, 1, 0, 2, 1),   # many channels
    (5, 3, 12, 2, 3, 2, 1, 4, 2),
    (3, 4, 16, 1, 2, 1, 1, 4, 4),
    (3, 3, 40, 2, 1, 2, 0, 2, 1),
    (5, 3, 22, 2, 3, 1, 1, 2, 1),   # so many that it is computed with fewer multiplications
    (6, 3, 2, 40, 2, 1, 0, 2, 2),   # many images
]
every_geometry = pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)


def case(h, w, c, n, k, stride, pad, num, group):
    return structure(h, w, c, n), conv(num, k, stride, pad, group), random_params((k * k * c // group, num))


def output_size(input, layer):
    return tuple((input[key] + 2 * layer['pad'] - layer['k']) // layer['stride'] + 1 for key in ('height', 'width'))


@pytest.mark.parametrize('geometry', GEOMETRIES[:-6], ids=str)      # the others take long
def test_gradients_agree_with_finite_differences(geometry):
    input, layer, param = case(*geometry)
    output = with_diff(conv_layer_forward(input, layer, param))
    param_grad, input_od = conv_layer_backward(output, input, layer, param)
    check_backward(lambda x, param: conv_layer_forward(x, layer, param), output, input, input_od, param, param_grad)


# With long rows, stride 1 and enough windows below each other, a convolution takes fewer multiplications: k = 2 to 7,
# in strips of 9 - k rows of the output.
LONG_ROWS = [
    (12, 12, 20, 8, 5, 1, 0, 50, 1),   # LeNet's second: two strips
    (12, 12, 20, 1, 5, 1, 0, 50, 1),   # of one image
    (8, 9, 20, 3, 5, 1, 0, 6, 1),      # one strip
    (7, 9, 20, 3, 5, 1, 0, 6, 1),      # with a row less
    (9, 7, 20, 3, 5, 1, 0, 6, 1),      # two strips, the second with one row
    (12, 5, 20, 3, 5, 1, 0, 6, 1),     # one window in every row
    (6, 9, 20, 3, 5, 1, 2, 6, 1),      # padding
    (15, 6, 40, 3, 2, 1, 0, 5, 1),
    (10, 7, 32, 2, 3, 1, 1, 8, 1),
    (13, 14, 72, 2, 3, 1, 2, 9, 3),    # groups
    (7, 11, 40, 2, 4, 1, 2, 6, 2),
    (9, 8, 12, 2, 6, 1, 3, 4, 1),
    (9, 8, 20, 2, 7, 1, 3, 4, 2),
    # Long rows, but too few windows below each other, a larger kernel, a stride, or a kernel of one row.
    (5, 7, 20, 3, 5, 1, 0, 6, 1),
    (5, 5, 20, 2, 5, 1, 0, 6, 1),
    (9, 8, 10, 2, 8, 1, 3, 4, 1),
    (9, 8, 10, 2, 9, 1, 4, 4, 1),
    (9, 11, 40, 2, 3, 2, 1, 4, 1),
    (6, 5, 80, 2, 1, 1, 0, 4, 1),
]


@pytest.mark.parametrize('dtype, tolerance', [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize('geometry', GEOMETRIES + LONG_ROWS, ids=str)
def test_both_ways_are_sums_over_the_positions_in_the_windows(geometry, dtype, tolerance):
    """In float64, but for an error of at most 1e-12 or 1e-5 of the largest value."""
    h, w, c, n, k, stride, pad, num, group = geometry
    input, layer = structure(h, w, c, n, dtype=dtype), conv(num, k, stride, pad, group)
    param = random_params((k * k * c // group, num), dtype=dtype)
    output = with_diff(conv_layer_forward(input, layer, param))
    param_grad, input_od = conv_layer_backward(output, input, layer, param)
    assert sizes(output) == (*output_size(input, layer), num, n)
    found = [feature_map(output), param_grad['w'], param_grad['b'], input_od.reshape(h, w, c, n)]
    for array, expected in zip(found, sums(*geometry, feature_map(input), param, feature_map(output, 'diff'))):
        assert array.dtype == dtype
        np.testing.assert_allclose(array, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def sums(h, w, c, n, k, stride, pad, num, group, x, param, diff):
    """Output, gradients with respect to w and b, and input_od: in float64, added up over positions in the windows."""
    kernel, b = param['w'].astype(np.float64).reshape(k, k, c // group, num), param['b'].astype(np.float64)
    padded = np.pad(x.astype(np.float64), ((pad, pad), (pad, pad), (0, 0), (0, 0)))
    diff = diff.astype(np.float64)
    out, w_grad, od = np.zeros(diff.shape), np.zeros(kernel.shape), np.zeros(padded.shape)
    for i, j, g in itertools.product(range(k), range(k), range(group)):
        channels, filters = slice(g * c // group, (g + 1) * c // group), slice(g * num // group, (g + 1) * num // group)
        place = slice(i, i + stride * len(out), stride), slice(j, j + stride * out.shape[1], stride), channels
        out[:, :, filters] += np.einsum('cf,ijcn->ijfn', kernel[i, j, :, filters], padded[place])
        w_grad[i, j, :, filters] = np.einsum('ijcn,ijfn->cf', padded[place], diff[:, :, filters])
        od[place] += np.einsum('cf,ijfn->ijcn', kernel[i, j, :, filters], diff[:, :, filters])
    return out + b[:, None], w_grad.reshape(-1, num), diff.sum(axis=(0, 1, 3)), od[pad:pad + h, pad:pad + w]


def test_without_a_group_there_is_one():
    input, layer, param = case(6, 5, 2, 3, 3, 1, 0, 4, 1)
    output = with_diff(conv_layer_forward(input, layer, param))
    backward = conv_layer_backward(output, input, layer, param)
    del layer['group']
    np.testing.assert_array_equal(conv_layer_forward(input, layer, param)['data'], output['data'])
    assert_same(conv_layer_backward(output, input, layer, param), backward)


# im2col and col2im take one image.


@every_geometry
def test_im2col_has_a_window_in_every_column(geometry):
    """Rows run over (kernel row, kernel column, channel), columns over the windows, row by row."""
    input, layer, _ = case(*geometry)
    k, stride, pad = layer['k'], layer['stride'], layer['pad']
    h_out, w_out = output_size(input, layer)
    col = im2col_conv({**input, 'data': input['data'][:, 0]}, layer, h_out, w_out)
    assert col.shape == (k * k * input['channel'], h_out * w_out)
    padded = np.pad(feature_map(input)[..., 0], ((pad, pad), (pad, pad), (0, 0)))
    for i, j in np.ndindex(h_out, w_out):
        window = padded[i * stride:i * stride + k, j * stride:j * stride + k]
        np.testing.assert_array_equal(col[:, i * w_out + j], window.ravel())


@every_geometry
def test_col2im_is_the_adjoint_of_im2col(geometry):
    """<im2col(x), y> = <x, col2im(y)> for every x and y: overlapping windows are added up, padding is cut off."""
    input, layer, _ = case(*geometry)
    one = {**input, 'batch_size': 1, 'data': input['data'][:, [0]]}
    col = im2col_conv(one, layer, *output_size(one, layer))
    y = np.random.RandomState(3).randn(*col.shape)
    im = col2im_conv(y, one, layer, *output_size(one, layer))
    assert im.shape == sizes(one)[:3]
    np.testing.assert_allclose((col * y).sum(), (one['data'].ravel() * im.ravel()).sum(), atol=1e-11)
