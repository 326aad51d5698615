"""The inner product layer (handout section 2.1, eq. 3, Q3 and Q6): what test_questions.py does not ask for."""

import numpy as np
import pytest
from helpers import assert_same, check_backward, inner_product, random_params, sizes, structure, with_diff

from cnn_lenet import inner_product_backward, inner_product_forward


@pytest.mark.parametrize('h, w, c, n, num', [(1, 1, 1, 1, 1), (2, 5, 1, 1, 6), (4, 1, 3, 33, 2)])
def test_sums_over_the_inputs_and_over_the_images(h, w, c, n, num):
    """A batch of one, and one of many."""
    input, param, layer = structure(h, w, c, n), random_params((h * w * c, num)), inner_product(num)
    output = with_diff(inner_product_forward(input, layer, param))
    param_grad, input_od = inner_product_backward(output, input, layer, param)
    x, diff = input['data'], output['diff']
    assert sizes(output) == (1, 1, num, n)
    expected = [[sum(param['w'][:, j] * x[:, image]) + param['b'][j] for image in range(n)] for j in range(num)]
    np.testing.assert_allclose(output['data'], expected, atol=1e-12)
    np.testing.assert_allclose(param_grad['w'], sum(np.outer(x[:, i], diff[:, i]) for i in range(n)), atol=1e-12)
    np.testing.assert_allclose(param_grad['b'], sum(diff[:, i] for i in range(n)), atol=1e-12)
    np.testing.assert_allclose(input_od, np.stack([param['w'].dot(diff[:, i]) for i in range(n)], axis=1), atol=1e-12)
    check_backward(lambda x, param: inner_product_forward(x, layer, param), output, input, input_od, param, param_grad)


def test_a_structure_may_hold_data_and_diff_alone():
    input, param, layer = structure(2, 3, 1, 4), random_params((6, 5)), inner_product(5)
    output = with_diff(inner_product_forward(input, layer, param))
    bare = inner_product_forward({'data': input['data']}, layer, param)
    np.testing.assert_array_equal(bare['data'], output['data'])
    assert_same(inner_product_backward({'diff': output['diff']}, {'data': input['data']}, layer, param),
                inner_product_backward(output, input, layer, param))
