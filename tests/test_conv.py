"""Convolution (handout section 2.3) against plain loops and finite differences; im2col and col2im."""

import itertools

import numpy as np
import pytest
from helpers import check_gradients, feature_map, random_params, structure, with_diff

from cnn_lenet import col2im_conv, conv_layer_backward, conv_layer_forward, finite_difference, im2col_conv

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
    (6, 3, 2, 40, 2, 1, 0, 2, 2),
]


def case(h, w, c, n, k, stride, pad, num, group):
    layer = {'type': 'CONV', 'num': num, 'k': k, 'stride': stride, 'pad': pad, 'group': group}
    return structure(h, w, c, n), layer, random_params((k * k * c // group, num))


def windows_of(x, layer):
    """(i, j, filter, its channels, the window of the padded x that it sees) of every output; x is (h, w, c, n)."""
    k, stride, pad = layer['k'], layer['stride'], layer['pad']
    h, w, c, n = x.shape
    padded = np.zeros((h + 2 * pad, w + 2 * pad, c, n))
    padded[pad:pad + h, pad:pad + w] = x
    h_out, w_out = (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1
    c_group, num_group = c // layer['group'], layer['num'] // layer['group']
    for i, j, f in itertools.product(range(h_out), range(w_out), range(layer['num'])):
        group = f // num_group
        place = (slice(i * stride, i * stride + k), slice(j * stride, j * stride + k),
                 slice(group * c_group, (group + 1) * c_group))
        yield i, j, f, place, padded


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_forward_is_the_sum_over_every_window(geometry):
    input, layer, param = case(*geometry)
    output = conv_layer_forward(input, layer, param)
    h, w, c, n, k, stride, pad, num, group = geometry
    assert (output['height'], output['width']) == ((h + 2 * pad - k) / stride + 1, (w + 2 * pad - k) / stride + 1)
    assert (output['channel'], output['batch_size']) == (num, n)
    out = feature_map(output)
    for i, j, f, place, padded in windows_of(feature_map(input), layer):
        filter = param['w'][:, f].reshape(k, k, c // group)
        for image in range(n):
            expected = (filter * padded[place][..., image]).sum() + param['b'][f]
            np.testing.assert_allclose(out[i, j, f, image], expected, atol=1e-12)


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_backward_adds_every_window_up(geometry):
    input, layer, param = case(*geometry)
    output = with_diff(conv_layer_forward(input, layer, param))
    param_grad, input_od = conv_layer_backward(output, input, layer, param)

    h, w, c, n, k, _, pad, num, group = geometry
    diff = feature_map(output, 'diff')
    w_grad, b_grad = np.zeros(param['w'].shape), np.zeros(num)
    padded_od = np.zeros((h + 2 * pad, w + 2 * pad, c, n))
    for i, j, f, place, padded in windows_of(feature_map(input), layer):
        filter = param['w'][:, f].reshape(k, k, c // group)
        for image in range(n):
            w_grad[:, f] += (padded[place][..., image] * diff[i, j, f, image]).ravel()
            b_grad[f] += diff[i, j, f, image]
            padded_od[place][..., image] += filter * diff[i, j, f, image]
    np.testing.assert_allclose(param_grad['w'], w_grad, atol=1e-11)
    np.testing.assert_allclose(param_grad['b'], b_grad, atol=1e-11)
    np.testing.assert_allclose(input_od, padded_od[pad:pad + h, pad:pad + w].reshape(h * w * c, n), atol=1e-11)


@pytest.mark.parametrize('geometry', GEOMETRIES[:-1], ids=str)
def test_gradients_agree_with_finite_differences(geometry):
    input, layer, param = case(*geometry)
    output = with_diff(conv_layer_forward(input, layer, param))
    param_grad, input_od = conv_layer_backward(output, input, layer, param)
    check_gradients(lambda x, param: conv_layer_forward(x, layer, param), output, input, param_grad, input_od, param)
    approx = finite_difference(output, input, 1e-6, lambda x: conv_layer_forward(x, layer, param))
    np.testing.assert_allclose(input_od, approx, atol=1e-6)


def test_gradient_of_each_bias_is_the_sum_over_its_own_channel():
    """The handout's code added the sum over everything to every bias's gradient."""
    input, layer, param = case(4, 5, 2, 3, 2, 1, 0, 3, 1)
    output = with_diff(conv_layer_forward(input, layer, param))
    output['diff'] = feature_map(output, 'diff').copy()
    output['diff'][:, :, 1] = 0
    output['diff'] = output['diff'].reshape(output['data'].shape)
    param_grad, _ = conv_layer_backward(output, input, layer, param)
    assert param_grad['b'][1] == 0
    np.testing.assert_allclose(param_grad['b'], feature_map(output, 'diff').sum(axis=(0, 1, 3)), atol=1e-12)


def test_gradients_are_sums_over_the_batch():
    input, layer, param = case(5, 4, 2, 3, 2, 1, 0, 3, 1)
    output = with_diff(conv_layer_forward(input, layer, param))
    param_grad, input_od = conv_layer_backward(output, input, layer, param)
    sums = {'w': 0, 'b': 0}
    for image in range(3):
        one = {**input, 'batch_size': 1, 'data': input['data'][:, [image]]}
        one_out = {**output, 'batch_size': 1, 'data': output['data'][:, [image]], 'diff': output['diff'][:, [image]]}
        one_grad, one_od = conv_layer_backward(one_out, one, layer, param)
        np.testing.assert_allclose(input_od[:, [image]], one_od, atol=1e-12)
        sums = {key: sums[key] + one_grad[key] for key in sums}
    np.testing.assert_allclose(param_grad['w'], sums['w'], atol=1e-11)
    np.testing.assert_allclose(param_grad['b'], sums['b'], atol=1e-11)


def test_a_group_sees_its_own_channels_only():
    input, layer, param = case(4, 4, 4, 2, 3, 1, 0, 6, 2)
    before = feature_map(conv_layer_forward(input, layer, param))
    changed = feature_map(input).copy()
    changed[:, :, 2:] += 1                                       # the channels of the second group
    after = feature_map(conv_layer_forward({**input, 'data': changed.reshape(input['data'].shape)}, layer, param))
    np.testing.assert_array_equal(after[:, :, :3], before[:, :, :3])
    assert (after[:, :, 3:] != before[:, :, 3:]).all()


def test_the_filter_is_not_flipped():
    """'We multiply the filter weights with a local region': a lone 1 picks the pixel at its own place."""
    layer = {'type': 'CONV', 'num': 1, 'k': 2, 'stride': 1, 'pad': 0, 'group': 1}
    input = {'height': 2, 'width': 2, 'channel': 1, 'batch_size': 1, 'data': np.array([[1.], [2.], [3.], [4.]])}
    for place in range(4):
        w = np.zeros((4, 1))
        w[place] = 1
        assert conv_layer_forward(input, layer, {'w': w, 'b': np.zeros(1)})['data'].item() == place + 1


# im2col and col2im take one image; its structure's data may be a column of a batch, 1-d or 2-d.

def im2col_case(h, w, c, n, k, stride, pad, num, group):
    layer = {'type': 'CONV', 'num': num, 'k': k, 'stride': stride, 'pad': pad, 'group': group}
    h_out, w_out = (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1
    return structure(h, w, c, 1), layer, h_out, w_out


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_im2col_has_a_window_in_every_column(geometry):
    """Rows run over (kernel row, kernel column, channel), columns over the windows, row by row."""
    input, layer, h_out, w_out = im2col_case(*geometry)
    col = im2col_conv(input, layer, h_out, w_out)
    k, stride, pad, c = layer['k'], layer['stride'], layer['pad'], input['channel']
    assert col.shape == (k * k * c, h_out * w_out)
    x = feature_map(input)[..., 0]
    for i, j, a, b, channel in itertools.product(range(h_out), range(w_out), range(k), range(k), range(c)):
        row, column = i * stride + a - pad, j * stride + b - pad
        inside = 0 <= row < input['height'] and 0 <= column < input['width']
        assert col[(a * k + b) * c + channel, i * w_out + j] == (x[row, column, channel] if inside else 0)


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_col2im_is_the_adjoint_of_im2col(geometry):
    """<im2col(x), y> = <x, col2im(y)> for every x and y: overlapping windows are added up, padding is cut off."""
    input, layer, h_out, w_out = im2col_case(*geometry)
    col = im2col_conv(input, layer, h_out, w_out)
    y = np.random.RandomState(3).randn(*col.shape)
    im = col2im_conv(y, input, layer, h_out, w_out)
    assert im.shape == (input['height'], input['width'], input['channel'])
    np.testing.assert_allclose((col * y).sum(), (input['data'].ravel() * im.ravel()).sum(), atol=1e-11)


def test_col2im_counts_the_windows_over_each_pixel():
    """3x3 pixels under 2x2 windows at stride 1: a corner lies in one, an edge in two, the middle in four."""
    layer = {'type': 'CONV', 'num': 1, 'k': 2, 'stride': 1, 'pad': 0, 'group': 1}
    im = col2im_conv(np.ones((4, 4)), structure(3, 3, 1, 1), layer, 2, 2)
    np.testing.assert_array_equal(im[..., 0], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])


def test_im2col_takes_a_column_of_a_batch():
    """As the handout's convolution calls it: data is one 1-d column."""
    input, layer = structure(4, 5, 2, 3), {'type': 'CONV', 'num': 1, 'k': 2, 'stride': 1, 'pad': 0, 'group': 1}
    one = {'height': 4, 'width': 5, 'channel': 2, 'data': input['data'][:, 1]}
    column = {**one, 'batch_size': 1, 'data': input['data'][:, [1]]}
    np.testing.assert_array_equal(im2col_conv(one, layer, 3, 4), im2col_conv(column, layer, 3, 4))


@pytest.mark.parametrize('geometry', [g for g in GEOMETRIES if g[-1] == 1], ids=str)
def test_im2col_and_col2im_make_the_convolution(geometry):
    """The handout's way, image by image: w.T @ im2col + b forward, col2im(w @ diff) backward."""
    input, layer, param = case(*geometry)
    output = with_diff(conv_layer_forward(input, layer, param))
    _, input_od = conv_layer_backward(output, input, layer, param)
    size = output['height'], output['width']
    for image in range(input['batch_size']):
        one = {**input, 'batch_size': 1, 'data': input['data'][:, image]}
        out = im2col_conv(one, layer, *size).T @ param['w'] + param['b']                    # (h_out*w_out, num)
        np.testing.assert_allclose(output['data'][:, image], out.ravel(), atol=1e-12)
        diff = output['diff'][:, image].reshape(-1, layer['num'])
        od = col2im_conv(param['w'] @ diff.T, one, layer, *size)
        np.testing.assert_allclose(input_od[:, image], od.ravel(), atol=1e-12)
