"""`python testLeNet.py` as a user meets it: in a child process, on real MNIST."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import testLeNet
from cnn_lenet import load_params, save_params

ROOT = Path(testLeNet.__file__).resolve().parent


def run(folder, *flags, code=None, script=ROOT / 'testLeNet.py'):
    """Run the training script in `folder`, or `code` in its place. Returns the finished process."""
    start = ['-c', code, *flags] if code else [str(script), *flags]
    return subprocess.run([sys.executable, *start], cwd=folder, text=True, capture_output=True, timeout=120,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})


def without_time(text):
    return re.sub(r'training time: .*', '', text)


def assert_one_line_of_error(process, *words):
    assert process.returncode not in (0, -signal.SIGKILL)
    assert 'Traceback' not in process.stderr
    last = process.stderr.strip().splitlines()[-1]
    for word in words:
        assert str(word) in last


def assert_same_params(one, other):
    for i in one:
        for key in 'wb':
            np.testing.assert_array_equal(one[i][key], other[i][key])


def test_lenet_is_that_of_table_2():
    layers = testLeNet.get_lenet()
    assert [layers[i]['type'] for i in range(1, 9)] == [
        'DATA', 'CONV', 'POOLING', 'CONV', 'POOLING', 'IP', 'RELU', 'LOSS']
    assert (layers[1]['height'], layers[1]['width'], layers[1]['channel'], layers[1]['batch_size']) == (28, 28, 1, 64)
    assert [(layers[i]['num'], layers[i]['k'], layers[i]['stride'], layers[i]['pad']) for i in (2, 4)] == [
        (20, 5, 1, 0), (50, 5, 1, 0)]
    assert [(layers[i]['k'], layers[i]['stride'], layers[i]['pad']) for i in (3, 5)] == [(2, 2, 0)] * 2
    assert (layers[6]['num'], layers[6]['init_type'], layers[8]['num']) == (500, 'uniform', 10)


def test_a_few_hundred_iterations_on_real_mnist_pass_90_percent(tmp_path):
    process = run(tmp_path, '--max-iter', '300', '--test-interval', '150')
    assert process.returncode == 0
    assert process.stderr == ''
    cost, test = r'cost = (\d+\.\d{6}) training_percent = [01]\.\d{6}\n', r'\ntest accuracy: 0\.\d{6}\n\n'
    pattern = cost + test + cost + cost + test + r'final test accuracy: (0\.\d{6})\ntraining time: \d+\.\d s for 300 '
    found = re.fullmatch(pattern + r'iterations\n', process.stdout)
    assert found, process.stdout
    assert float(found[4]) > 0.9
    params, extra = load_params(tmp_path / 'lenet.mat')
    assert extra['iteration'] == 300
    assert extra['history']['train'].shape == (300, 3)
    assert extra['history']['test'].shape == (2, 2)
    assert all(value.dtype == np.float32 for param in params.values() for value in param.values())


def test_the_same_seed_gives_the_same_output(tmp_path):
    flags = '--max-iter', '12', '--display-interval', '1', '--batch-size', '50', '--seed', '7'
    first, again = run(tmp_path, *flags), run(tmp_path, *flags)
    assert first.returncode == 0
    assert without_time(first.stdout) == without_time(again.stdout)
    other = run(tmp_path, *flags[:-1], '8')
    assert without_time(other.stdout) != without_time(first.stdout)


def test_an_epoch_uses_every_image_once_and_every_minibatch_is_full():
    m, size = 23, 5
    state = {'order': np.array([], int), 'used': 0, 'rng': np.random.RandomState(0), 'recipe': {'batch_size': size}}
    batches = [testLeNet.next_minibatch(state, m) for _ in range(46)]     # 230 images: ten epochs
    assert all(len(batch) == size for batch in batches)
    epochs = np.concatenate(batches).reshape(10, m)
    assert all(sorted(epoch) == list(range(m)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize('flags', [
    ('--max-iter', '0'), ('--batch-size', '-3'), ('--display-interval', 'ten'), ('--test-interval', '0'),
    ('--snapshot', '0.5'), ('--seed', '-1'), ('--seed', '4294967296')])
def test_a_bad_flag_is_named_with_its_value(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        testLeNet.main(list(flags))
    assert stop.value.code == 2
    assert f'argument {flags[0]}: {flags[1]!r} is not a whole number' in capsys.readouterr().err


def test_a_minibatch_larger_than_the_training_set_is_an_error(capsys):
    with pytest.raises(SystemExit):
        testLeNet.main(['--batch-size', '3001'])
    assert 'argument --batch-size: 3001 is more than the 3000 images' in capsys.readouterr().err


def test_help_lists_the_flags(tmp_path):
    process = run(tmp_path, '--help')
    assert process.returncode == 0
    for flag in ('--fullset', '--max-iter', '--batch-size', '--display-interval', '--test-interval', '--snapshot',
                 '--seed', '--model', '--resume'):
        assert flag in process.stdout


def test_a_cost_that_is_not_finite_stops_the_training_and_keeps_the_last_model(tmp_path):
    assert run(tmp_path, '--max-iter', '2').returncode == 0
    before = (tmp_path / 'lenet.mat').read_bytes()
    process = run(tmp_path, '--max-iter', '50', code='import testLeNet\ntestLeNet.epsilon = 1e9\ntestLeNet.main()')
    assert_one_line_of_error(process, 'iteration', 'learning rate 9.99', 'cost is')
    assert len(process.stderr.splitlines()) == 1
    assert (tmp_path / 'lenet.mat').read_bytes() == before


@pytest.mark.parametrize('damage', ['missing', 'cut short', 'foreign'])
def test_a_bad_mnist_file_is_one_line_of_error(tmp_path, damage):
    for name in ('testLeNet.py', 'cnn_lenet.py'):
        shutil.copy(ROOT / name, tmp_path)
    if damage != 'missing':
        content = (ROOT / 'mnist_all.mat').read_bytes()
        (tmp_path / 'mnist_all.mat').write_bytes(content[:100000] if damage == 'cut short' else b'foreign' * 100)
    process = run(tmp_path, '--max-iter', '1', script=tmp_path / 'testLeNet.py')
    assert_one_line_of_error(process, 'mnist_all.mat')
    assert len(process.stderr.splitlines()) == 1


def start(folder, *flags):
    """Start the training and wait for its first line."""
    process = subprocess.Popen([sys.executable, str(ROOT / 'testLeNet.py'), '--display-interval', '1', *flags],
                               cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith('cost = ')
    return process


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_and_resumed_ends_as_if_it_had_not_been(tmp_path, number):
    process = start(tmp_path, '--max-iter', '100000', '--batch-size', '700', '--model', 'stopped.mat')
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    done = load_params(tmp_path / 'stopped.mat')[1]['iteration']
    assert stderr == (f'stopped after iteration {done}, saved stopped.mat; to go on: '
                      'python testLeNet.py --resume --model stopped.mat\n')

    last = str(done + 7)                               # 700 images of 3,000: the resumed run begins a new epoch
    resumed = run(tmp_path, '--resume', '--model', 'stopped.mat', '--max-iter', last)
    whole = run(tmp_path, '--max-iter', last, '--batch-size', '700', '--model', 'whole.mat', '--display-interval', '1')
    assert resumed.returncode == whole.returncode == 0
    assert without_time(resumed.stdout).splitlines()[-2:] == without_time(whole.stdout).splitlines()[-2:]
    (params, extra), (whole_params, whole_extra) = (load_params(tmp_path / f'{name}.mat') for name in
                                                    ('stopped', 'whole'))
    assert_same_params(params, whole_params)
    assert_same_params(extra['param_winc'], whole_extra['param_winc'])
    np.testing.assert_array_equal(extra['history']['train'], whole_extra['history']['train'])


def test_resuming_at_any_iteration_gives_the_same_parameters(tmp_path):
    rng = np.random.RandomState(5)
    flags = '--batch-size', '40', '--test-interval', '4', '--display-interval', '3'
    assert run(tmp_path, '--max-iter', '90', '--model', 'whole.mat', *flags).returncode == 0
    for stop in np.sort(rng.choice(np.arange(1, 90), 2, replace=False)):
        command = ('--resume',) if (tmp_path / 'parts.mat').exists() else flags
        assert run(tmp_path, '--model', 'parts.mat', '--max-iter', str(stop), *command).returncode == 0
    assert run(tmp_path, '--model', 'parts.mat', '--max-iter', '90', '--resume').returncode == 0
    parts, whole = load_params(tmp_path / 'parts.mat'), load_params(tmp_path / 'whole.mat')
    assert_same_params(parts[0], whole[0])
    for name in ('train', 'test'):
        np.testing.assert_array_equal(parts[1]['history'][name], whole[1]['history'][name])


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A folder with a model that has done 3 iterations."""
    folder = tmp_path_factory.mktemp('saved')
    assert run(folder, '--max-iter', '3').returncode == 0
    return folder


@pytest.mark.parametrize('flags, words', [
    (('--seed', '1'), ('--seed', '1', 'which has 9')),
    (('--batch-size', '32'), ('--batch-size', '32', 'which has 64')),
    (('--fullset',), ('--fullset', 'True', 'which has False')),
    (('--max-iter', '2'), ('--max-iter', '2', 'has done 3 iterations'))])
def test_a_flag_that_contradicts_the_saved_run_is_named(saved, flags, words):
    before = (saved / 'lenet.mat').read_bytes()
    assert_one_line_of_error(run(saved, '--resume', *flags), *words)
    assert (saved / 'lenet.mat').read_bytes() == before


def test_flags_that_agree_with_the_saved_run_are_taken(saved, tmp_path):
    shutil.copy(saved / 'lenet.mat', tmp_path)
    process = run(tmp_path, '--resume', '--seed', '9', '--batch-size', '64', '--no-fullset', '--max-iter', '4')
    assert process.returncode == 0
    assert load_params(tmp_path / 'lenet.mat')[1]['iteration'] == 4


def test_a_recipe_that_contradicts_the_saved_run_is_named(saved):
    process = run(saved, '--resume', code='import testLeNet\ntestLeNet.epsilon = 0.5\ntestLeNet.main()')
    assert_one_line_of_error(process, 'epsilon', '0.5', 'which has 0.01')


def test_a_model_of_another_architecture_is_not_resumed(saved):
    code = ('import testLeNet\nlayers = testLeNet.get_lenet()\nlayers[6]["num"] = 400\n'
            'testLeNet.get_lenet = lambda: layers\ntestLeNet.main()')
    assert_one_line_of_error(run(saved, '--resume', code=code), 'lenet.mat', 'layers')


@pytest.mark.parametrize('content', [None, b'', b'no model at all', 'foreign', 'params alone', 'damaged'])
def test_what_is_not_a_saved_run_is_not_resumed(saved, tmp_path, content):
    path = tmp_path / 'lenet.mat'
    if content == 'foreign':
        shutil.copy(ROOT / 'mnist_all.mat', path)
    elif content == 'params alone':
        save_params(path, load_params(saved / 'lenet.mat')[0])
    elif content == 'damaged':
        whole = bytearray((saved / 'lenet.mat').read_bytes())
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
    elif content is not None:
        path.write_bytes(content)
    process = run(tmp_path, '--resume')
    assert_one_line_of_error(process, 'lenet.mat')
    assert len(process.stderr.splitlines()) == 1


def test_resuming_a_finished_run_reports_it_again(saved, tmp_path):
    shutil.copy(saved / 'lenet.mat', tmp_path)
    process = run(tmp_path, '--resume')
    assert process.returncode == 0
    assert re.fullmatch(r'final test accuracy: 0\.\d{6}\ntraining time: \d+\.\d s for 3 iterations\n', process.stdout)


def test_a_full_disk_costs_neither_the_last_model_nor_the_results(saved, tmp_path):
    """The disk is full once a file has a megabyte; a LeNet takes three."""
    shutil.copy(saved / 'lenet.mat', tmp_path)
    before = (tmp_path / 'lenet.mat').read_bytes()
    code = ('import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 20, 2 ** 20))\n'
            'import testLeNet\ntestLeNet.main()')
    process = run(tmp_path, '--max-iter', '2', code=code)
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1
    assert 'cannot save' in process.stderr and 'lenet.mat' in process.stderr
    assert 'final test accuracy' in process.stdout
    assert (tmp_path / 'lenet.mat').read_bytes() == before
    assert os.listdir(tmp_path) == ['lenet.mat']


@pytest.mark.parametrize('path', ['no/such/folder/lenet.mat', '.'])
def test_a_model_that_cannot_be_saved_is_an_error_before_the_training(tmp_path, path):
    process = run(tmp_path, '--max-iter', '5', '--model', path)
    assert_one_line_of_error(process, path)
    assert process.stdout == ''


def test_progress_is_one_line_on_a_terminal(tmp_path):
    terminal, child = pty.openpty()
    process = subprocess.Popen([sys.executable, str(ROOT / 'testLeNet.py'), '--max-iter', '60', '--model', 'm.mat'],
                               cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=child)
    os.close(child)
    shown = b''
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:                                    # the child has closed its end
        pass
    stdout, _ = process.communicate(timeout=60)
    os.close(terminal)
    assert process.returncode == 0
    text = shown.decode()
    assert re.search(r'\r\x1b\[Kiteration \d+/60  \d+%  \d+ iterations/s  \d+:\d\d left', text)
    assert '\n' not in text
    assert text.endswith('\r\x1b[K')
    assert 'iterations/s' not in stdout


def test_importing_the_script_has_no_side_effects(tmp_path):
    code = ('import os, numpy, threading\nbefore = dict(os.environ), numpy.random.get_state()[2]\nimport testLeNet\n'
            'assert (dict(os.environ), numpy.random.get_state()[2]) == before\n'
            'assert threading.active_count() == 1\ntestLeNet.get_lenet()')
    process = run(tmp_path, code=code)
    assert (process.returncode, process.stdout, process.stderr) == (0, '', '')
    assert os.listdir(tmp_path) == []
