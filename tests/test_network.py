"""init_convnet, forward, predict and conv_net."""

import contextlib
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import NETWORKS, assert_same, map_arrays, module_of, network, network_and_batch

import cnn_lenet
from cnn_lenet import conv_net, forward, init_convnet, predict

every_network = pytest.mark.parametrize('name', NETWORKS)
every_network_and_lenet = pytest.mark.parametrize('name', [*NETWORKS, 'LeNet'])


# Shapes and parameters

def expected_shapes(layers):
    """(h, w, c) of every layer's output but LOSS's, by the formulas of section 2."""
    shapes = {1: tuple(layers[1][key] for key in ('height', 'width', 'channel'))}
    for i in range(2, len(layers)):
        layer, (h, w, c) = layers[i], shapes[i - 1]
        if layer['type'] in ('CONV', 'POOLING'):
            h, w = ((size + 2 * layer['pad'] - layer['k']) // layer['stride'] + 1 for size in (h, w))
        elif layer['type'] == 'IP':
            h, w = 1, 1
        shapes[i] = h, w, layer.get('num', c)
    return shapes


def expected_params(layers, rng):
    """The handout's draws, one layer after the other."""
    shapes, params = expected_shapes(layers), {}
    for i in range(2, len(layers) + 1):
        layer, (h, w, c) = layers[i], shapes[i - 1]
        scale = np.sqrt(3 / (h * w * c))
        if layer['type'] in ('RELU', 'POOLING'):
            params[i - 1] = {'w': np.array([]), 'b': np.array([])}
            continue
        rows = layer['k'] ** 2 * c // layer['group'] if layer['type'] == 'CONV' else h * w * c
        columns = layer['num'] - 1 if layer['type'] == 'LOSS' else layer['num']
        gaussian = layer.get('init_type') == 'gaussian'
        size = rows, columns
        w = scale * rng.standard_normal(size) if gaussian else 2 * scale * rng.uniform(size=size) - scale
        params[i - 1] = {'w': w, 'b': np.zeros(columns)}
    return params


@every_network_and_lenet
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_parameters_are_the_handouts_draws(name, dtype):
    """From the global generator, or from one of one's own; nothing else is drawn, and no draw depends on dtype."""
    layers, rng = network(name), np.random.RandomState(5)
    expected = map_arrays(lambda array: array.astype(dtype), expected_params(layers, rng))
    np.random.seed(5)
    assert_same(init_convnet(layers, dtype), expected)
    assert np.random.rand() == rng.rand()
    assert_same(init_convnet(layers, dtype, np.random.RandomState(5)), expected)
    assert np.random.rand() == rng.rand()                        # the global one has not been touched


@every_network
def test_numpys_newer_generators_draw_too(name):
    layers, rng = network(name), np.random.default_rng(5)
    assert_same(init_convnet(layers, rng=np.random.default_rng(5)), expected_params(layers, rng))


def test_lenets_numbers_of_parameters():
    """Table 2: filters 5*5*1*20 and 5*5*20*50, inner products 800*500 and 500*9."""
    params = init_convnet(network('LeNet'), rng=np.random.RandomState(0))
    sizes = {i: (param['w'].size, param['b'].size) for i, param in params.items()}
    assert sizes == {1: (500, 20), 2: (0, 0), 3: (25000, 50), 4: (0, 0), 5: (400000, 500), 6: (0, 0), 7: (4500, 9)}


# Forward

@every_network
@pytest.mark.parametrize('n', [1, 5, 70])
def test_forward_gives_every_layers_output(name, n):
    params, layers, data, _ = network_and_batch(name, n)
    outputs = forward(params, layers, data)
    assert list(outputs) == list(range(1, len(layers)))
    np.testing.assert_array_equal(outputs[1]['data'], data)
    for i, (h, w, c) in expected_shapes(layers).items():
        assert tuple(outputs[i][key] for key in ('height', 'width', 'channel', 'batch_size')) == (h, w, c, n)
        assert outputs[i]['data'].shape == (h * w * c, n)
    for i in range(2, len(layers)):
        names = {'CONV': 'conv_layer', 'POOLING': 'pooling_layer', 'RELU': 'relu', 'IP': 'inner_product'}
        function = getattr(cnn_lenet, names[layers[i]['type']] + '_forward')
        param = [params[i - 1]] if layers[i]['type'] in ('CONV', 'IP') else []
        expected = function(outputs[i - 1], layers[i], *param)
        np.testing.assert_allclose(outputs[i]['data'], expected['data'], rtol=1e-12, atol=1e-13)


def probabilities(params, layers, data):
    """Softmax of the topmost inner product, whose last logit is 0 (eqs. 1 and 4)."""
    last = len(layers)
    top = forward(params, layers, data)[last - 1]['data']
    w, b = params[last - 1]['w'], params[last - 1]['b']
    e = np.exp(np.array([w.T @ x + b for x in top.T]).T)
    e = np.vstack([e, np.ones(data.shape[1])])
    return e / e.sum(axis=0)


@pytest.mark.parametrize('name, n', [(name, n) for name in NETWORKS for n in (1, 33, 70)] + [('lenet in small', 1000)])
def test_predict_is_the_softmax_of_the_forward_pass(name, n):
    """For any number of columns, whatever batch_size the DATA layer states."""
    params, layers, data, _ = network_and_batch(name, n)
    p = predict(params, network(name, n=5), data)
    assert p.shape == (layers[len(layers)]['num'], n)
    np.testing.assert_allclose(p.sum(axis=0), np.ones(n), rtol=1e-13)
    np.testing.assert_allclose(p, probabilities(params, layers, data), rtol=1e-10, atol=1e-14)


# Cost and gradients

@every_network
@pytest.mark.parametrize('n', [1, 5, 70, 107])
def test_cost_is_the_mean_and_percent_the_share_of_right_answers(name, n):
    params, layers, data, labels = network_and_batch(name, n)
    cp, _ = conv_net(params, layers, data, labels)
    assert cp.keys() == {'cost', 'percent'}
    p = probabilities(params, layers, data)
    assert cp['cost'] == pytest.approx(np.mean([-np.log(p[labels[i], i]) for i in range(n)]), rel=1e-12)
    answers = p.argmax(axis=0)
    assert cp['percent'] == np.mean(answers == labels)           # exactly: right answers are counted
    assert conv_net(params, layers, data, answers)[0]['percent'] == 1


@every_network
@pytest.mark.parametrize('n', [1, 5, 70])
def test_gradients_of_the_whole_net_agree_with_finite_differences(name, n):
    """Along random directions: the slope of the cost is the sum of gradient * direction."""
    params, layers, data, labels = network_and_batch(name, n)
    _, param_grad = conv_net(params, layers, data, labels)
    assert list(param_grad) == list(params)
    rng, h = np.random.RandomState(1), 1e-7
    for i, key in [(i, key) for i in params for key in 'wb']:
        assert param_grad[i].keys() == {'w', 'b'} and param_grad[i][key].shape == params[i][key].shape
        for _ in range(3):
            direction = rng.randn(*params[i][key].shape)
            above, below = (conv_net({**params, i: {**params[i], key: params[i][key] + step * direction}},
                                     layers, data, labels)[0]['cost'] for step in (h, -h))
            slope = (above - below) / (2 * h)
            assert (param_grad[i][key] * direction).sum() == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize('empty', ['missing', None, {}])
def test_params_may_leave_out_the_layers_that_have_none(empty):
    params, layers, data, labels = network_and_batch('lenet in small')
    del layers[6]['init_type']                                   # read by init_convnet alone
    changed = {i: p if p['w'].size else empty for i, p in params.items() if p['w'].size or empty != 'missing'}
    assert_same(conv_net(changed, layers, data, labels), conv_net(params, layers, data, labels))


# Threads

@pytest.mark.parametrize('threads', [1, 2, 3, 8])
def test_the_number_of_threads_changes_nothing(threads):
    """Columns keep their order and sums their digits, however many blocks are under way at once."""
    params, layers, data, labels = network_and_batch('lenet in small', 300)
    assert_same(predict(params, layers, data, threads), predict(params, layers, data))
    assert_same(conv_net(params, layers, data, labels, threads), conv_net(params, layers, data, labels))


def test_a_layer_function_may_return_the_same_dict_again(monkeypatch):
    case, right, shared = network_and_batch('lenet in small', 70), cnn_lenet.inner_product_backward, {}
    expected = conv_net(*case)

    def sharing(*args):
        param_grad, input_od = right(*args)
        shared.update(param_grad)
        return shared, input_od

    monkeypatch.setattr(cnn_lenet, 'inner_product_backward', sharing)
    assert_same(conv_net(*case, threads=1), expected)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes are not forked here')
@pytest.mark.filterwarnings('ignore:This process .* is multi-threaded')
def test_a_forked_child_has_threads_of_its_own(tmp_path):
    """Also if another thread was at work in the parent: the child has none of the parent's threads, but its locks."""
    case = network_and_batch('lenet in small', 70)
    expected = conv_net(*case, threads=2)[0]['cost']
    in_layer, forked, right = threading.Event(), threading.Event(), cnn_lenet.relu_forward

    def relu_forward(input, layer):
        if threading.current_thread() is other:
            in_layer.set()
            forked.wait(60)
        return right(input, layer)

    other = threading.Thread(target=lambda: predict(*case[:3], threads=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cnn_lenet, 'relu_forward', relu_forward)
        other.start()
        assert in_layer.wait(60)
        with contextlib.ExitStack() as held:                      # as if that thread were just about to release them
            for lock in [value for value in vars(cnn_lenet).values() if isinstance(value, type(threading.Lock()))]:
                held.enter_context(lock)
            child = os.fork()
            if child == 0:
                signal.alarm(60)                                  # which ends a child that waits for ever
                os._exit(int(conv_net(*case, threads=2)[0]['cost'] != expected))
        forked.set()
        other.join()
    assert os.waitpid(child, 0)[1] == 0


# A new type of layer

LEAKY_RELU = """
def leaky_relu_forward(input, layer):
    return {**input, 'data': np.where(input['data'] > 0, input['data'], 0.1 * input['data'])}


def leaky_relu_backward(output, input, layer):
    return np.where(input['data'] > 0, output['diff'], 0.1 * output['diff'])


# ------"""


def test_a_new_type_of_layer_takes_three_edits_of_the_module():
    """Its two functions, a row, its shapes; then its gradients are right."""
    source = Path(cnn_lenet.__file__).read_text(encoding='utf-8')
    for old, new in (("# ------", LEAKY_RELU),
                     ("'RELU': (relu_forward, relu_backward),",
                      "'RELU': (relu_forward, relu_backward), 'LEAKY': (leaky_relu_forward, leaky_relu_backward),"),
                     ("if layer['type'] == 'RELU':", "if layer['type'] in ('RELU', 'LEAKY'):")):
        assert old in source
        source = source.replace(old, new, 1)
    module = module_of(source)
    params, layers, data, labels = network_and_batch('lenet in small')
    layers[7] = {'type': 'LEAKY'}
    errors = module.check_gradients(params, layers, data, labels)
    assert errors.keys() == {2, 4, 6, 8} and max(errors.values()) < 1e-5
