"""The inner product layer (handout section 2.1, eq. 3, Q3 and Q6)."""

import numpy as np
import pytest
from helpers import check_gradients, inner_product, random_params, structure, with_diff

from cnn_lenet import finite_difference, inner_product_backward, inner_product_forward

GEOMETRIES = [
    # h, w, c, n, num
    (1, 1, 1, 1, 1),
    (1, 1, 7, 3, 4),
    (3, 2, 2, 5, 3),
    (2, 5, 1, 1, 6),
    (4, 1, 3, 33, 2),
]


@pytest.mark.parametrize('h, w, c, n, num', GEOMETRIES)
def test_forward_is_a_weighted_sum_and_a_bias(h, w, c, n, num):
    input, param = structure(h, w, c, n), random_params((h * w * c, num))
    output = inner_product_forward(input, inner_product(num), param)
    assert tuple(output[key] for key in ('height', 'width', 'channel', 'batch_size')) == (1, 1, num, n)
    assert output['data'].shape == (num, n)
    for j in range(num):
        for image in range(n):
            expected = sum(param['w'][i, j] * input['data'][i, image] for i in range(h * w * c)) + param['b'][j]
            np.testing.assert_allclose(output['data'][j, image], expected, atol=1e-12)


@pytest.mark.parametrize('h, w, c, n, num', GEOMETRIES)
def test_gradients_agree_with_finite_differences(h, w, c, n, num):
    input, param, layer = structure(h, w, c, n), random_params((h * w * c, num)), inner_product(num)
    output = with_diff(inner_product_forward(input, layer, param))
    param_grad, input_od = inner_product_backward(output, input, layer, param)
    check_gradients(lambda x, param: inner_product_forward(x, layer, param), output, input, param_grad, input_od,
                    param)
    approx = finite_difference(output, input, 1e-6, lambda x: inner_product_forward(x, layer, param))
    np.testing.assert_allclose(input_od, approx, atol=1e-6)


@pytest.mark.parametrize('h, w, c, n, num', GEOMETRIES)
def test_gradients_are_sums_over_the_batch(h, w, c, n, num):
    input, param, layer = structure(h, w, c, n), random_params((h * w * c, num)), inner_product(num)
    output = with_diff(inner_product_forward(input, layer, param))
    param_grad, input_od = inner_product_backward(output, input, layer, param)
    x, diff = input['data'], output['diff']
    np.testing.assert_allclose(param_grad['w'], sum(np.outer(x[:, i], diff[:, i]) for i in range(n)), atol=1e-12)
    np.testing.assert_allclose(param_grad['b'], sum(diff[:, i] for i in range(n)), atol=1e-12)
    np.testing.assert_allclose(input_od, np.stack([param['w'].dot(diff[:, i]) for i in range(n)], axis=1), atol=1e-12)
    assert {key: value.shape for key, value in param_grad.items()} == {'w': (h * w * c, num), 'b': (num,)}
