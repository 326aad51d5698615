"""`testLeNet.py` trains as the handout says, prints what it should, and resumes where it stopped."""

import io
import itertools
import re
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from training_script import MAIN, ROOT, assert_same_run, iterations, main, run, shrink, without_time

import cnn_lenet
import testLeNet
from cnn_lenet import conv_net, get_lr, init_convnet, load_mnist, predict, sgd_momentum
from testLeNet import load_params, save_params


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(monkeypatch):
    """A small network and a few random images in place of LeNet and MNIST."""
    shrink(monkeypatch)


# The recipe

def test_lenet_is_that_of_table_2():
    assert [tuple(layer.values()) for layer in testLeNet.get_lenet(batch_size=32).values()] == [
        ('DATA', 28, 28, 1, 32), ('CONV', 20, 5, 1, 0, 1), ('POOLING', 2, 2, 0), ('CONV', 50, 5, 1, 0, 1),
        ('POOLING', 2, 2, 0), ('IP', 500, 'uniform'), ('RELU',), ('LOSS', 10)]
    assert testLeNet.get_lenet()[1]['batch_size'] == 64


def test_three_iterations_are_those_of_the_handout(capfd):
    """The handout's constants, written out: mu 0.9, epsilon 0.01, gamma 0.0001, power 0.75, weight decay 0.0005, the
    rate of b twice that of w, minibatches of 64 out of training and validation images together."""
    assert main('--max-iter', 3, '--display-interval', 1, '--test-interval', 2, '--seed', 4) is None
    printed = without_time(capfd.readouterr().out)

    rng = np.random.RandomState(4)
    xtrain, ytrain, xvalidate, yvalidate, xtest, ytest = load_mnist(False, np.float32, rng)
    xtrain, ytrain = np.hstack([xtrain, xvalidate]), np.hstack([ytrain, yvalidate])
    layers = testLeNet.get_lenet()
    params = init_convnet(layers, np.float32, rng)
    winc = {i: {key: np.zeros_like(param[key]) for key in 'wb'} for i, param in params.items()}
    order = rng.permutation(3000)
    expected, accuracies = '', {}
    for t in range(3):
        index = order[64 * t:64 * (t + 1)]
        cp, grad = conv_net(params, layers, xtrain[:, index], ytrain[index])
        rate = get_lr(t, 0.01, 0.0001, 0.75)
        params, winc = sgd_momentum(rate * 1, rate * 2, 0.9, 0.0005, params, winc, grad)
        expected += f"cost = {cp['cost']:f} training_percent = {cp['percent']:f}\n"
        accuracies[t + 1] = np.mean(predict(params, layers, xtest).argmax(axis=0) == ytest)
        if t + 1 == 2:
            expected += f'\ntest accuracy: {accuracies[2]:f}\n\n'
    expected += f'final test accuracy: {accuracies[3]:f} of 500 images\n\n'

    assert printed == expected
    saved_params, saved = load_params('lenet.mat')
    np.testing.assert_equal(saved_params, params)
    np.testing.assert_equal(saved['param_winc'], winc)


def test_an_epoch_uses_every_image_once_and_every_minibatch_is_full(monkeypatch):
    """23 numbered images in place of MNIST, minibatches of 5, 46 iterations: ten epochs, stopped once in the middle."""
    m, used = 23, []

    def few_images(fullset, dtype, rng):
        number = np.tile(np.arange(m), (784, 1))
        return [number[:, :20], np.arange(20), number[:, 20:], np.arange(20, m), number[:, :1], np.zeros(1)]

    def note(params, layers, data, labels, threads):
        assert data.shape == (784, 5) and (data == labels).all()
        used.extend(labels)
        return {'cost': 1.0, 'percent': 0.5}, params

    monkeypatch.setattr(testLeNet, 'load_mnist', few_images)
    monkeypatch.setattr(testLeNet, 'conv_net', note)
    monkeypatch.setattr(testLeNet, 'predict', lambda *_: np.zeros((10, 1)))
    assert main('--batch-size', 5, '--max-iter', 12) is main('--resume', '--max-iter', 46) is None
    epochs = np.reshape(used, (10, m))
    assert all(sorted(epoch) == list(range(m)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_the_script_learns_mnist_and_saves_what_it_did(tmp_path):
    process = run(tmp_path, '--max-iter', 60, code='import testLeNet\n' + MAIN)
    assert (process.returncode, process.stderr) == (0, '')
    found = re.fullmatch(r'final test accuracy: (0\.\d{6}) of 500 images\n'
                         r'training time: \d+\.\d s for 60 iterations\n', process.stdout)
    assert float(found[1]) > 0.6
    params, saved = load_params('lenet.mat')
    assert saved['history']['train'].shape == (60, 3) and saved['iteration'] == 60
    assert saved['recipe']['seed'] == 9 and saved['layers'] == testLeNet.get_lenet()
    assert all(value.dtype == np.float32 for param in params.values() for value in param.values())


# The same digits

def test_the_output_depends_on_the_seed_and_not_on_the_number_of_threads(small, capfd):
    outputs = []
    for seed, threads in ((7, 1), (7, 1), (7, 2), (7, 5), (8, 1)):
        assert main('--max-iter', 3, '--display-interval', 1, '--batch-size', 70, '--seed', seed,
                    '--threads', threads) is None
        outputs.append(without_time(capfd.readouterr().out))
    assert outputs[0] == outputs[1] == outputs[2] == outputs[3] != outputs[4]


def test_one_thread_is_the_main_thread(small, monkeypatch):
    seen, relu_forward = set(), cnn_lenet.relu_forward
    monkeypatch.setattr(cnn_lenet, 'relu_forward',
                        lambda *given: seen.add(threading.current_thread()) or relu_forward(*given))
    assert main('--max-iter', 2, '--threads', 1) is None
    assert seen == {threading.main_thread()}


@pytest.mark.parametrize('batch_size', [1, 33, 40, 400])
def test_resuming_at_any_iteration_gives_the_same_parameters(small, batch_size):
    flags = '--batch-size', batch_size, '--test-interval', 4, '--display-interval', 3
    # Of 33, an epoch is 11 iterations; 400 are more than there are images.
    assert main('--max-iter', 24, '--model', 'whole.mat', *flags) is None
    for part, stop in enumerate(sorted(np.random.RandomState(5).choice(np.arange(1, 24), 3, replace=False))):
        assert main('--max-iter', stop, '--model', 'parts.mat', *(('--resume',) if part else flags)) is None
    assert main('--max-iter', 24, '--model', 'parts.mat', '--resume', '--no-fullset', *flags) is None
    assert_same_run('parts.mat', 'whole.mat')


# Flags, and what a resumed run takes from its model

@pytest.mark.parametrize('flags', [
    ('--max-iter', '0'), ('--batch-size', '-3'), ('--display-interval', 'ten'), ('--test-interval', '0'),
    ('--snapshot', '0.5'), ('--threads', '0')])
def test_a_bad_flag_is_named_with_its_value(flags, capfd):
    assert main(*flags) == 2
    assert f'argument {flags[0]}: {flags[1]!r} is not a whole number' in capfd.readouterr().err


@pytest.mark.parametrize('seed', ['-1', '4294967296'])
def test_a_seed_out_of_range_is_one_line_of_error(seed):
    assert main('--seed', seed) == 'testLeNet.py: error: Seed must be between 0 and 2**32 - 1'


def test_help_lists_the_flags_and_their_defaults(capfd):
    assert main('--help') == 0
    text = ' '.join(capfd.readouterr().out.split())
    for flag in ('--fullset', '--max-iter', '--batch-size', '--display-interval', '--test-interval', '--snapshot',
                 '--seed', '--threads', '--model', '--resume'):
        assert flag in text
    for default in (False, 10000, 64, 100, 500, 5000, 9, 'lenet.mat'):
        assert text.count(f'(default: {default})') == 1


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A model of the small network that has done 3 iterations."""
    path = tmp_path_factory.mktemp('saved') / 'lenet.mat'
    with pytest.MonkeyPatch.context() as monkeypatch:
        shrink(monkeypatch)
        assert main('--max-iter', 3, '--model', path) is None
    return path


@pytest.fixture
def saved(trained, small):
    return trained


@pytest.mark.parametrize('flags, words', [
    (('--seed', 1), '--seed: the run saved in lenet.mat has 9'),
    (('--batch-size', 32), '--batch-size: the run saved in lenet.mat has 64'),
    (('--fullset',), '--fullset: the run saved in lenet.mat has False'),
    (('--max-iter', 2), '--max-iter: the run saved in lenet.mat has done 3 iterations')])
def test_a_flag_that_contradicts_the_saved_run_is_named(saved, capfd, flags, words):
    shutil.copy(saved, 'lenet.mat')
    assert main('--resume', *flags) == 2
    assert words in capfd.readouterr().err
    assert Path('lenet.mat').read_bytes() == saved.read_bytes()


def test_a_recipe_that_was_changed_counts_from_there_on_and_is_named(saved, monkeypatch, capfd):
    shutil.copy(saved, 'lenet.mat')
    monkeypatch.setattr(testLeNet, 'epsilon', 0.001)
    assert main('--resume', '--max-iter', 4) is main('--resume', '--max-iter', 5) is None
    assert capfd.readouterr().err == 'epsilon is 0.001 from here on, as testLeNet.py has it; it was 0.01 in lenet.mat\n'
    assert load_params('lenet.mat')[1]['recipe']['epsilon'] == 0.001


def test_a_model_of_another_architecture_is_not_resumed(saved, monkeypatch):
    monkeypatch.setattr(testLeNet, 'get_lenet', lambda batch_size: {1: {'type': 'DATA'}})
    assert 'its layers are not those of get_lenet()' in main('--resume', '--model', saved)


@pytest.mark.parametrize('name', [
    'param_winc', 'layers', 'recipe', 'iteration', 'seconds', 'order', 'history', 'random_state'])
def test_a_model_that_lacks_something_is_not_resumed(saved, name):
    params, extra = load_params(saved)
    del extra[name]
    save_params('lenet.mat', params, **extra)
    assert main('--resume') == f"testLeNet.py: error: lenet.mat: no run to resume (KeyError: '{name}')"


@pytest.mark.parametrize('content', [b'', b'no model at all', 'damaged'])
def test_what_is_not_a_model_is_not_resumed(saved, content):
    whole = bytearray(saved.read_bytes())
    whole[len(whole) // 2] ^= 1
    Path('lenet.mat').write_bytes(whole if content == 'damaged' else content)
    error = main('--resume')
    assert error.startswith('testLeNet.py: error: lenet.mat: ') and '\n' not in error


@pytest.mark.parametrize('path, command', [
    ('lenet.mat', 'python testLeNet.py makes one'),
    ('my models/it is.mat', "python testLeNet.py --model 'my models/it is.mat' makes one")])
def test_without_a_model_one_line_says_how_to_make_it(path, command):
    assert main('--resume', '--model', path) == f'testLeNet.py: error: {path}: no such file; {command}'


def test_resuming_a_finished_run_reports_it_again(saved, capfd):
    assert main('--resume', '--model', saved) is None
    printed = capfd.readouterr().out
    assert re.fullmatch(r'final test accuracy: 0\.\d{6} of 50 images\ntraining time: \d+\.\d s for 3 iterations\n',
                        printed)


# The script as a process

def test_a_bad_mnist_file_is_one_line_of_error(monkeypatch):
    Path('mnist_all.mat').write_bytes((ROOT / 'mnist_all.mat').read_bytes()[:100000])
    monkeypatch.setattr(cnn_lenet, 'MNIST_FILE', Path('mnist_all.mat').resolve())
    error = main('--max-iter', 1)
    assert error.startswith('testLeNet.py: error: ') and 'mnist_all.mat' in error and '\n' not in error


def test_main_without_arguments_has_the_defaults_whatever_the_programs_own_flags(small, monkeypatch):
    """A notebook's kernel has -f kernel.json."""
    monkeypatch.setattr('sys.argv', ['ipykernel_launcher.py', '-f', 'kernel.json'])
    monkeypatch.setattr(testLeNet, 'max_iter', 2)
    assert testLeNet.main() is None and iterations() == 2


def test_progress_is_one_line_on_a_terminal(small, monkeypatch, capfd):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, 'stderr', Terminal())
    monkeypatch.setattr(testLeNet.time, 'perf_counter', itertools.count(0, 0.06).__next__)       # for each iteration
    assert main('--max-iter', 6, '--display-interval', 3) is None
    shown = re.findall(r'\r\x1b\[Kiteration (\d)/6  \d+%  cost \d\.\d{6}  0\.06 s per iteration  0:00 left',
                       sys.stderr.getvalue())
    assert shown == ['2', '4', '5']                    # at most ten times a second
    assert '\n' not in sys.stderr.getvalue() and sys.stderr.getvalue().endswith('\r\x1b[K')
    assert 'per iteration' not in capfd.readouterr().out
