"""The toy network of handout section 3, and its twelve questions, by hand.

The image X and the filters F1 and F2 are

    0 0 4 0        1 1        2 1
    0 2 5 0        2 0        0 2
    0 0 1 0
    0 0 2 0

Convolution: every window times the filter. For F1 that is x(i,j) + x(i,j+1) + 2 x(i+1,j), for F2
2 x(i,j) + x(i,j+1) + 2 x(i+1,j+1). Max pooling, 2 x 2 at stride 1:

    F1:  0  8 14    pooled:   8 14        F2:  4 14  8    pooled:  14 14
         2  7  7              7  7             2 11 10             11 11
         0  1  5                               0  5  2

The input to the inner product is the pooled map, channel by channel, row by row:

    x  = ( 8, 14, 7, 7, 14, 14, 11, 11)
    W1 = (1, 0.5, 1, 2, -1, 1, 1, -1)             8 + 7 + 7 + 14 - 14 + 14 + 11 - 11 =  36
         (0.5, 1, 2, 1, -0.5, 0.5, -1, 1)         4 + 14 + 14 + 7 - 7 + 7 - 11 + 11  =  39
         (0.25, -1, 1, 1, 0.5, -1, -1, -1)        2 - 14 + 7 + 7 + 7 - 14 - 11 - 11  = -27

ReLU gives (36, 39, 0). Softmax follows at once: the exponents differ by 3 and 39, so

    y2 = 1 / (e^-3 + 1 + e^-39) = 1 / 1.0497870684 = 0.9525741268
    y1 = e^-3 y2                = 0.0497870684 * 0.9525741268 = 0.0474258732
    y3 = e^-39 y2               = 1.1e-17, nothing at ten digits

The image shows a 1, the second of the classes 0, 1, 2. So J = -log y2 = log 1.0497870684 = 0.0485873516.

Backward: dJ/dy = (0, -1/y2, 0) = (0, -1.0497870684, 0). Through the softmax, dJ/ds = y - (0, 1, 0) =
(0.0474258732, -0.0474258732, 0). ReLU lets the first two pass (36 and 39 are positive) and stops the third.

    dJ/dW1(1,1) = dJ/ds1 * x1 = 0.0474258732 * 8 = 0.3794069854

Let a be 0.0474258732. To the pooled map of filter 1 (x1..x4) flows W1.T (a, -a, 0):

    (1 - 0.5) a, (0.5 - 1) a, (1 - 2) a, (2 - 1) a  =  a/2, -a/2, -a, a

and from there to each window's maximum: 8 at (1,2), 14 at (1,3), 7 at (2,2), and again (2,2), the first of the two
sevens in the last window. F1(1,1) meets X(i,j) at output (i,j):

    dJ/dF1(1,1) = a/2 X(1,2) - a/2 X(1,3) + (a - a) X(2,2) = 0 - 2 a + 0 = -0.0948517464
"""

import numpy as np
import pytest
from helpers import RELU, conv, data_layer, inner_product, loss, pooling, zeros_like

import cnn_lenet as c

LAYERS = {1: data_layer(4, 4, 1, 1), 2: conv(2, 2), 3: pooling(2, 1), 4: inner_product(3), 5: RELU, 6: loss(3)}
IMAGE = np.array([[0., 0, 4, 0],
                  [0, 2, 5, 0],
                  [0, 0, 1, 0],
                  [0, 0, 2, 0]])
F1 = np.array([[1., 1], [2, 0]])
F2 = np.array([[2., 1], [0, 2]])
W1 = np.array([[1, 0.5, 1, 2, -1, 1, 1, -1],
               [0.5, 1, 2, 1, -0.5, 0.5, -1, 1],
               [0.25, -1, 1, 1, 0.5, -1, -1, -1]])
LABEL = np.array([1])

# The handout's entry (i, j, k) stands at k*4 + i*2 + j, ours at (i*2 + j)*2 + k (all from 0): row r of our w is the
# handout's column CHANNEL_BY_CHANNEL[r].
CHANNEL_BY_CHANNEL = np.arange(8).reshape(2, 2, 2).transpose(1, 2, 0).ravel()
FILTERS = {'w': np.stack([F1.ravel(), F2.ravel()], axis=1), 'b': np.zeros(2)}
WEIGHTS = {'w': W1.T[CHANNEL_BY_CHANNEL], 'b': np.zeros(3)}

# Our loss has weights of its own and a last logit of 0. These take s3 off every s: the logits are (s1 - s3, s2 - s3,
# 0), and a shift of all logits leaves the softmax as it is. So softmax follows ReLU directly, as in the handout.
LOSS_WEIGHTS = {'w': np.array([[1., 0], [0, 1], [-1, -1]]), 'b': np.zeros(2)}

EMPTY = {'w': np.array([]), 'b': np.array([])}
PARAMS = {1: FILTERS, 2: EMPTY, 3: WEIGHTS, 4: EMPTY, 5: LOSS_WEIGHTS}


@pytest.fixture(scope='module')
def toy():
    """Every layer's output and gradient, one layer function after the other."""
    image = {'height': 4, 'width': 4, 'channel': 1, 'batch_size': 1, 'data': IMAGE.reshape(16, 1)}
    conv = c.conv_layer_forward(image, LAYERS[2], FILTERS)
    pool = c.pooling_layer_forward(conv, LAYERS[3])
    ip = c.inner_product_forward(pool, LAYERS[4], WEIGHTS)
    relu = c.relu_forward(ip, LAYERS[5])
    wb = np.vstack([LOSS_WEIGHTS['w'], LOSS_WEIGHTS['b']])
    nll, _, relu['diff'], percent = c.mlrloss(wb, relu['data'], LABEL, 3, 1)
    ip['diff'] = c.relu_backward(relu, ip, LAYERS[5])
    ip_grad, pool['diff'] = c.inner_product_backward(ip, pool, LAYERS[4], WEIGHTS)
    conv['diff'] = c.pooling_layer_backward(pool, conv, LAYERS[3])
    conv_grad, _ = c.conv_layer_backward(conv, image, LAYERS[2], FILTERS)
    return {'conv': conv, 'pool': pool, 'ip': ip, 'relu': relu, 'softmax': c.softmax(relu['data']), 'nll': nll,
            'percent': percent, 'ip_grad': ip_grad, 'W1_grad': ip_grad['w'][np.argsort(CHANNEL_BY_CHANNEL)].T,
            'conv_grad': conv_grad}


@pytest.mark.parametrize('found, expected', [                          # entries are counted from 1 in the handout
    (lambda toy: (toy['conv']['height'], toy['conv']['width']), (3, 3)),       # 1. (4 + 2*0 - 2) / 1 + 1
    (lambda toy: (toy['pool']['height'], toy['pool']['width']), (2, 2)),       # 2. (3 - 2) / 1 + 1
    (lambda toy: len(toy['relu']['data']), 3),                                 # 3. length of the ReLU
    (lambda toy: len(toy['softmax']), 3),                                      # 4. length of the softmax
    (lambda toy: toy['conv']['data'].reshape(3, 3, 2)[0, 0, 1], 4),            # 5. (1, 1, 2): 2*0 + 1*0 + 0*0 + 2*2
    (lambda toy: toy['pool']['data'].reshape(2, 2, 2)[1, 0, 0], 7),            # 6. (2, 1, 1): max(2, 7, 0, 1)
    (lambda toy: toy['relu']['data'][1, 0], 39),                               # 7. index 2 of the ReLU
    (lambda toy: toy['softmax'][1, 0], 0.9525741268),                          # 8. index 2 of the softmax
    (lambda toy: toy['nll'], 0.0485873516),                                    # 9. cross entropy
    (lambda toy: -1 / toy['softmax'][1, 0], -1.0497870684),                    # 10. dJ/dy2
    (lambda toy: toy['W1_grad'][0, 0], 0.3794069854),                          # 11. dJ/dW1(1,1)
    (lambda toy: toy['conv_grad']['w'][0, 0], -0.0948517464),                  # 12. dJ/dF1(1,1)
], ids=range(1, 13))
def test_the_twelve_questions(toy, found, expected):
    assert found(toy) == pytest.approx(expected, abs=5e-11)


def test_every_feature_map(toy):
    np.testing.assert_array_equal(toy['conv']['data'].reshape(3, 3, 2)[..., 0], [[0, 8, 14], [2, 7, 7], [0, 1, 5]])
    np.testing.assert_array_equal(toy['conv']['data'].reshape(3, 3, 2)[..., 1], [[4, 14, 8], [2, 11, 10], [0, 5, 2]])
    np.testing.assert_array_equal(toy['pool']['data'].reshape(2, 2, 2)[..., 0], [[8, 14], [7, 7]])
    np.testing.assert_array_equal(toy['pool']['data'].reshape(2, 2, 2)[..., 1], [[14, 14], [11, 11]])
    np.testing.assert_array_equal(toy['ip']['data'], [[36], [39], [-27]])
    np.testing.assert_array_equal(toy['relu']['data'], [[36], [39], [0]])
    assert toy['percent'] == 1                                          # the 1 is recognised


def test_every_gradient_on_the_way_back(toy):
    y, a = toy['softmax'][:, 0], 0.0474258732
    jacobian = np.diag(y) - np.outer(y, y)                              # dy_i / ds_j
    np.testing.assert_allclose(toy['relu']['diff'][:, 0], jacobian @ [0, -1 / y[1], 0], atol=1e-15)
    np.testing.assert_allclose(toy['relu']['diff'][:, 0], [a, -a, 0], atol=5e-11)
    x = np.array([8, 14, 7, 7, 14, 14, 11, 11])
    np.testing.assert_allclose(toy['W1_grad'], [a * x, -a * x, 0 * x], atol=1e-9)
    np.testing.assert_allclose(toy['pool']['diff'].reshape(2, 2, 2)[..., 0], [[a / 2, -a / 2], [-a, a]], atol=1e-10)
    np.testing.assert_allclose(toy['conv']['diff'].reshape(3, 3, 2)[..., 0],
                               [[0, a / 2, -a / 2], [0, 0, 0], [0, 0, 0]], atol=1e-10)


def test_the_network_as_a_whole_agrees(toy):
    """conv_net and predict give the numbers that the layers gave one by one; a step at a rate of 0.01 goes against
    the gradient: W1(1,1) = 1 - 0.01 * 0.3794069854, F1(1,1) = 1 + 0.01 * 0.0948517464."""
    cp, param_grad = c.conv_net(PARAMS, LAYERS, IMAGE.reshape(16, 1), LABEL)
    assert cp == {'cost': pytest.approx(toy['nll'], rel=1e-12), 'percent': 1}
    np.testing.assert_allclose(param_grad[1]['w'], toy['conv_grad']['w'], atol=1e-14)
    np.testing.assert_allclose(param_grad[3]['w'], toy['ip_grad']['w'], atol=1e-14)
    np.testing.assert_allclose(c.predict(PARAMS, LAYERS, IMAGE.reshape(16, 1)), toy['softmax'], atol=1e-14)
    params_, _ = c.sgd_momentum(0.01, 0.01, 0, 0, PARAMS, zeros_like(PARAMS), param_grad)
    assert params_[3]['w'][0, 0] == pytest.approx(0.996205930146, abs=1e-12)
    assert params_[1]['w'][0, 0] == pytest.approx(1.000948517464, abs=1e-12)
