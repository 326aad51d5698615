"""Programs written for the handout's cnn_lenet.py run against this one: its driver, a student's layers, the README."""

import copy
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from helpers import RELU, conv, inner_product, loss, network_and_batch, pooling, zeros_like

import cnn_lenet

TOP = Path(cnn_lenet.__file__).resolve().parent


def original_driver(max_iter):
    """The handout's testLeNet.py, main() with get_lenet() in it, in today's Python. Gives what it printed."""
    lines = []
    np.random.seed(100000)
    layers = {
        1: {'type': 'DATA', 'height': 28, 'width': 28, 'channel': 1, 'batch_size': 64},
        2: conv(20, 5), 3: pooling(2, 2), 4: conv(50, 5), 5: pooling(2, 2), 6: inner_product(500), 7: RELU.copy(),
        8: loss(10)}
    fullset = False
    xtrain, ytrain, xvalidate, yvalidate, xtest, ytest = cnn_lenet.load_mnist(fullset)
    xtrain = np.hstack([xtrain, xvalidate])
    ytrain = np.hstack([ytrain, yvalidate])
    m_train = xtrain.shape[1]
    batch_size = 64
    mu, epsilon, gamma, power, weight_decay, w_lr, b_lr = 0.9, 0.01, 0.0001, 0.75, 0.0005, 1, 2

    params = cnn_lenet.init_convnet(layers)
    param_winc = copy.deepcopy(params)
    for l_idx in range(1, len(layers)):
        param_winc[l_idx]['w'] = np.zeros(param_winc[l_idx]['w'].shape)
        param_winc[l_idx]['b'] = np.zeros(param_winc[l_idx]['b'].shape)

    indices = np.arange(m_train)
    np.random.shuffle(indices)
    for step in range(max_iter):
        layers[2]['iteration'] = step                            # one public script keeps it there
        idx = indices[step * batch_size:(step + 1) * batch_size]
        cp, param_grad = cnn_lenet.conv_net(params, layers, xtrain[:, idx], ytrain[idx])
        w_rate = cnn_lenet.get_lr(step, epsilon * w_lr, gamma, power)
        b_rate = cnn_lenet.get_lr(step, epsilon * b_lr, gamma, power)
        params, param_winc = cnn_lenet.sgd_momentum(w_rate, b_rate, mu, weight_decay, params, param_winc, param_grad)
        lines.append('cost = %f training_percent = %f' % (cp['cost'], cp['percent']))    # noqa: UP031

    layers[1]['batch_size'] = xtest.shape[1]
    cptest, _ = cnn_lenet.conv_net(params, layers, xtest, ytest)
    layers[1]['batch_size'] = 64
    lines.append('\ntest accuracy: %f\n' % (cptest['percent']))  # noqa: UP031
    return lines


def test_the_original_driver_runs_and_learns():
    *displays, test = original_driver(10)
    costs = [float(re.fullmatch(r'cost = (\d\.\d{6}) training_percent = [01]\.\d{6}', line)[1]) for line in displays]
    assert costs[0] == pytest.approx(np.log(10), abs=0.1) and np.mean(costs[-5:]) < np.mean(costs[:5]) - 0.005
    assert 0.15 < float(re.fullmatch(r'\ntest accuracy: ([01]\.\d{6})\n', test)[1]) <= 1


def costs_of_training(steps=5):
    params, layers, data, labels = network_and_batch('lenet in small', 40)
    winc, costs = zeros_like(params), []
    for step in range(steps):
        cp, grad = cnn_lenet.conv_net(params, layers, data, labels, threads=1)      # two would print at once
        rate = cnn_lenet.get_lr(step, 0.1, 0.0001, 0.75)
        params, winc = cnn_lenet.sgd_momentum(rate, 2 * rate, 0.9, 0.0005, params, winc, grad)
        costs.append(cp['cost'])
    return costs


def test_a_students_loops_train_to_the_same_costs(monkeypatch, capsys):
    """Seven functions image by image, window by window; one of them prints."""
    expected = costs_of_training()
    student = runpy.run_path(str(TOP / 'tests' / 'submissions' / 'loops.py'))
    graded = ['pooling_layer_forward', 'relu_forward', 'inner_product_forward', 'pooling_layer_backward',
              'relu_backward', 'inner_product_backward', 'sgd_momentum']
    for name in graded:
        monkeypatch.setattr(cnn_lenet, name, student[name])
    assert costs_of_training() == pytest.approx(expected, abs=1e-9)
    assert 'pooling 4 4' in capsys.readouterr().out
    assert expected[-1] < expected[0] - 0.01


@pytest.mark.parametrize('block', re.findall(r'^```python\n(.*?)^```', (TOP / 'README.md').read_text('utf-8'),
                                             flags=re.DOTALL | re.MULTILINE), ids=lambda block: block.split('\n')[1])
def test_every_python_block_of_the_readme_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, 'README.md', 'exec'), {'__name__': 'readme'})
