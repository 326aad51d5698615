"""Max pooling (handout section 2.4, Q1 and Q4): odd geometries, ties and special values, against plain loops."""

import itertools

import numpy as np
import pytest
from helpers import feature_map, pooling, sizes, structure, with_diff

from cnn_lenet import pooling_layer_backward, pooling_layer_forward

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
    (6, 4, 2, 40, 2, 1),   # many images
]


def image(*rows):
    """One image of one channel."""
    return {'height': len(rows), 'width': len(rows[0]), 'channel': 1, 'batch_size': 1,
            'data': np.array(rows, float).reshape(-1, 1)}


def windows_of(input, layer):
    """(i, j, channel, image) of every output, and (row, column) of every element of its window, row by row."""
    k, stride = layer['k'], layer['stride']
    h_out, w_out = ((input[key] - k) // stride + 1 for key in ('height', 'width'))
    for index in itertools.product(range(h_out), range(w_out), range(input['channel']), range(input['batch_size'])):
        yield index, [(index[0] * stride + a, index[1] * stride + b) for a in range(k) for b in range(k)]


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
@pytest.mark.parametrize('values', [lambda x: x, lambda x: (x > 0).astype(float)], ids=['all different', '0 and 1'])
def test_every_window_gives_its_maximum_and_the_first_of_equal_maxima_gets_the_gradient(geometry, values):
    h, w, c, n, k, stride = geometry
    input, layer = structure(h, w, c, n), pooling(k, stride)
    input['data'] = values(input['data'])
    output = with_diff(pooling_layer_forward(input, layer))
    assert sizes(output) == ((h - k) / stride + 1, (w - k) / stride + 1, c, n)
    x, od = feature_map(input), np.zeros((h, w, c, n))
    for index, places in windows_of(input, layer):
        window = [x[place][index[2:]] for place in places]
        assert feature_map(output)[index] == max(window)
        od[places[window.index(max(window))]][index[2:]] += feature_map(output, 'diff')[index]   # index: the first
    input_od = pooling_layer_backward(output, input, layer)
    assert input_od.shape == input['data'].shape
    np.testing.assert_allclose(input_od, od.reshape(input_od.shape), atol=1e-13)


@pytest.mark.parametrize('input, stride, diff, expected', [
    (image([0, 0], [0, 0]), 2, [[5]], [[5], [0], [0], [0]]),                # a blank window: to the top left
    (image([-0., 0], [0, 0]), 2, [[5]], [[5], [0], [0], [0]]),              # -0.0 equals 0.0
    (image([1, 3], [3, 2]), 2, [[5]], [[0], [5], [0], [0]]),
    (image([-np.inf] * 2, [-np.inf] * 2), 2, [[5]], [[5], [0], [0], [0]]),
    # The middle of 3x3 is the maximum of all four windows and gets the sum of their gradients.
    (image([0, 0, 0], [0, 1, 0], [0, 0, 0]), 1, [[1], [2], [4], [8]], [[0]] * 4 + [[15]] + [[0]] * 4),
])
def test_where_the_gradient_goes(input, stride, diff, expected):
    output = {**pooling_layer_forward(input, pooling(2, stride)), 'diff': np.array(diff, float)}
    np.testing.assert_array_equal(pooling_layer_backward(output, input, pooling(2, stride)), expected)
    # The maxima are computed where `output` does not hold them.
    np.testing.assert_array_equal(pooling_layer_backward({'diff': output['diff']}, input, pooling(2, stride)), expected)


@pytest.mark.parametrize('place', range(6))
@pytest.mark.parametrize('k, stride', [(2, 1), (2, 2), (1, 1)])
def test_nan_in_a_window_gives_nan(place, k, stride):
    input, layer = structure(4, 6, 1, 1), pooling(k, stride)
    input['data'][place * 4] = np.nan
    out = feature_map(pooling_layer_forward(input, layer))
    for index, places in windows_of(input, layer):
        assert np.isnan(out[index]) == any(np.isnan(feature_map(input)[place][index[2:]]) for place in places)
