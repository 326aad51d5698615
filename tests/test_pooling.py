"""Max pooling (handout section 2.4, Q1 and Q4) against plain loops and finite differences."""

import itertools

import numpy as np
import pytest
from helpers import check_gradients, feature_map, pooling, structure, with_diff

from cnn_lenet import finite_difference, pooling_layer_backward, pooling_layer_forward

GEOMETRIES = [
    # h, w, c, n, k, stride
    (4, 4, 1, 2, 2, 2),
    (4, 6, 3, 2, 2, 2),    # not square
    (5, 5, 2, 3, 3, 1),    # overlapping windows
    (5, 7, 2, 2, 3, 2),    # overlapping windows, odd sizes
    (7, 4, 2, 1, 1, 3),    # gaps between the windows
    (8, 5, 1, 2, 2, 3),
    (3, 3, 2, 2, 3, 1),    # one window
    (3, 2, 2, 1, 1, 1),    # nothing to choose from
    (6, 4, 2, 40, 2, 1),
]


def windows_of(input, layer):
    """(i, j, channel, image) of every output, and (row, column) of every element of its window, row by row."""
    k, stride = layer['k'], layer['stride']
    h_out, w_out = (input['height'] - k) // stride + 1, (input['width'] - k) // stride + 1
    for index in itertools.product(range(h_out), range(w_out), range(input['channel']), range(input['batch_size'])):
        yield index, [(index[0] * stride + a, index[1] * stride + b) for a in range(k) for b in range(k)]


def check_against_loops(input, layer):
    x = feature_map(input)
    output = with_diff(pooling_layer_forward(input, layer))
    out, diff = feature_map(output), feature_map(output, 'diff')
    od = np.zeros(x.shape)
    for (i, j, c, image), places in windows_of(input, layer):
        values = [x[row, column, c, image] for row, column in places]
        assert out[i, j, c, image] == max(values)
        row, column = places[values.index(max(values))]                  # index: the first of equal values
        od[row, column, c, image] += diff[i, j, c, image]
    input_od = pooling_layer_backward(output, input, layer)
    assert input_od.shape == input['data'].shape
    np.testing.assert_allclose(input_od, od.reshape(input['data'].shape), atol=1e-13)


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_forward_and_backward_against_loops(geometry):
    h, w, c, n, k, stride = geometry
    input, layer = structure(h, w, c, n), pooling(k, stride)
    check_against_loops(input, layer)
    output = pooling_layer_forward(input, layer)
    assert (output['height'], output['width']) == ((h - k) / stride + 1, (w - k) / stride + 1)
    assert (output['channel'], output['batch_size']) == (c, n)


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_the_first_of_equal_maxima_gets_the_whole_gradient(geometry):
    """Images of zeros and ones, so that every window has several equal maxima."""
    h, w, c, n, k, stride = geometry
    input = structure(h, w, c, n)
    check_against_loops({**input, 'data': (input['data'] > 0).astype(float)}, pooling(k, stride))


def test_a_blank_window_sends_its_gradient_to_the_top_left():
    """-0.0 equals 0.0, so the first of them counts."""
    input = {'height': 2, 'width': 2, 'channel': 1, 'batch_size': 2,
             'data': np.array([[0., -0.], [0., 0.], [0., 0.], [0., 0.]])}
    output = {**pooling_layer_forward(input, pooling(2, 2)), 'diff': np.array([[3., 5.]])}
    input_od = pooling_layer_backward(output, input, pooling(2, 2))
    np.testing.assert_array_equal(input_od, [[3, 5], [0, 0], [0, 0], [0, 0]])


def test_a_maximum_of_several_windows_gets_the_sum_of_their_gradients():
    """The middle of 3x3 lies in all four windows."""
    input = {'height': 3, 'width': 3, 'channel': 1, 'batch_size': 1, 'data': np.zeros((9, 1))}
    input['data'][4] = 1
    output = {**pooling_layer_forward(input, pooling(2, 1)), 'diff': np.array([[1.], [2.], [4.], [8.]])}
    np.testing.assert_array_equal(output['data'], np.ones((4, 1)))
    expected = np.zeros((9, 1))
    expected[4] = 15
    np.testing.assert_array_equal(pooling_layer_backward(output, input, pooling(2, 1)), expected)


@pytest.mark.parametrize('geometry', GEOMETRIES[:-1], ids=str)
def test_gradient_agrees_with_finite_differences(geometry):
    h, w, c, n, k, stride = geometry
    input, layer = structure(h, w, c, n), pooling(k, stride)
    output = with_diff(pooling_layer_forward(input, layer))
    input_od = pooling_layer_backward(output, input, layer)
    check_gradients(lambda x, _: pooling_layer_forward(x, layer), output, input, None, input_od)
    approx = finite_difference(output, input, 1e-6, lambda x: pooling_layer_forward(x, layer))
    np.testing.assert_allclose(input_od, approx, atol=1e-6)


@pytest.mark.parametrize('place', range(6))
@pytest.mark.parametrize('k, stride', [(2, 1), (2, 2), (1, 1)])
def test_nan_in_a_window_gives_nan(place, k, stride):
    input, layer = structure(4, 6, 1, 1), pooling(k, stride)
    input['data'][place * 4] = np.nan
    out = feature_map(pooling_layer_forward(input, layer))
    for index, places in windows_of(input, layer):
        assert np.isnan(out[index]) == any(np.isnan(feature_map(input)[row, column, 0, 0]) for row, column in places)


def test_infinities_are_values_like_others():
    input = {'height': 1, 'width': 1, 'channel': 1, 'batch_size': 3, 'data': np.array([[np.inf, -np.inf, 0.]])}
    np.testing.assert_array_equal(pooling_layer_forward(input, pooling(1, 1))['data'], input['data'])
    input = {'height': 2, 'width': 2, 'channel': 1, 'batch_size': 1, 'data': np.full((4, 1), -np.inf)}
    output = {**pooling_layer_forward(input, pooling(2, 2)), 'diff': np.ones((1, 1))}
    np.testing.assert_array_equal(pooling_layer_backward(output, input, pooling(2, 2)), [[1], [0], [0], [0]])
