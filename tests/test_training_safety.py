"""Whatever goes wrong, no training is lost: what is saved stays, what was trained is saved, and the message helps."""

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from training_script import (
    FEW_IMAGES,
    MAIN,
    ON_FEW_IMAGES,
    ROOT,
    assert_one_line_of_error,
    assert_same_run,
    command,
    iterations,
    main,
    run,
    started,
)

import cnn_lenet
import testLeNet
from testLeNet import load_params, save_params

pty, resource = (pytest.importorskip(name, reason='these tests are written for POSIX') for name in ('pty', 'resource'))

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
NOW = 'finishing this iteration, then saving; Ctrl-C again to stop now\n'


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def noted_signals():
    """A signal that the script does not take fails the test, and not the process that runs the tests."""
    def missed(number, frame):
        raise AssertionError(f'{signal.Signals(number).name} went past the script')

    before = {number: signal.signal(number, missed) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def quick(monkeypatch, noted_signals):
    """A few random images in place of MNIST, minibatches of 4. Returns testLeNet.main with that."""
    rng = np.random.RandomState(0)
    data = [part for m in (30, 10, 6) for part in (rng.rand(784, m).astype(np.float32), rng.randint(10, size=m))]
    monkeypatch.setattr(testLeNet, 'load_mnist', lambda *_: data)
    monkeypatch.setattr(testLeNet, 'batch_size', 4)
    return main


def at_iteration(monkeypatch, number, event):
    """Have event() called in the middle of that iteration of each run, in the main thread."""
    conv_net, calls = testLeNet.conv_net, []

    def conv_net_with_event(*arguments):
        result = conv_net(*arguments)
        calls.append(1)
        if len(calls) == number:
            event()
        return result

    monkeypatch.setattr(testLeNet, 'conv_net', conv_net_with_event)


# ---------------------------------------------------------------------------------------------------------------
# A model that is there already
# ---------------------------------------------------------------------------------------------------------------


def test_a_longer_run_is_kept_beside_the_new_one(quick, capfd):
    assert quick('--max-iter', 5) == 0
    longer = Path('lenet.mat').read_bytes()
    Path('lenet-1.mat').write_bytes(b'another that was kept before')
    capfd.readouterr()
    assert quick('--max-iter', 4, '--snapshot', 2) == 0
    assert capfd.readouterr().err == 'the old lenet.mat is kept beside the new one, as lenet-2.mat\n'
    assert sorted(os.listdir()) == ['lenet-1.mat', 'lenet-2.mat', 'lenet.mat']
    assert Path('lenet-1.mat').read_bytes() == b'another that was kept before'
    assert Path('lenet-2.mat').read_bytes() == longer
    assert iterations('lenet.mat') == 4


def test_a_run_that_is_interrupted_early_keeps_the_longer_one(quick, monkeypatch):
    assert quick('--max-iter', 5) == 0
    at_iteration(monkeypatch, 2, lambda: signal.raise_signal(signal.SIGINT))
    assert quick() == 130
    assert iterations('lenet.mat') == 2 and iterations('lenet-1.mat') == 5


@pytest.mark.parametrize('before', [3, 4])
def test_a_run_that_is_no_longer_is_replaced(quick, capfd, before):
    assert quick('--max-iter', before, '--seed', 1) == 0
    assert quick('--max-iter', 4) == quick('--max-iter', 6, '--resume') == 0
    assert capfd.readouterr().err == ''
    assert os.listdir() == ['lenet.mat'] and iterations('lenet.mat') == 6


@pytest.mark.parametrize('content', [b'', b'a diary', 'parameters alone', 'damaged'])
def test_a_file_that_is_no_run_is_kept(quick, content):
    if content in ('parameters alone', 'damaged'):
        assert quick('--max-iter', 1) == 0
    if content == 'parameters alone':
        save_params('lenet.mat', load_params('lenet.mat')[0])
    elif content == 'damaged':
        Path('lenet.mat').write_bytes(Path('lenet.mat').read_bytes()[:-1])
    else:
        Path('lenet.mat').write_bytes(content)
    before = Path('lenet.mat').read_bytes()
    assert quick('--max-iter', 2) == 0
    assert Path('lenet-1.mat').read_bytes() == before and iterations('lenet.mat') == 2


def test_a_longer_run_behind_a_symbolic_link_is_kept_beside_itself(quick):
    os.mkdir('models')
    os.symlink('models/real.mat', 'lenet.mat')
    assert quick('--max-iter', 5) == quick('--max-iter', 4) == 0
    assert sorted(os.listdir()) == ['lenet.mat', 'models'] and os.path.islink('lenet.mat')
    assert iterations('models/real.mat') == 4 and iterations('models/real-1.mat') == 5


@pytest.mark.parametrize('before', [0, 1, 9])
def test_a_full_disk_costs_neither_the_last_model_nor_the_results(quick, tmp_path, capfd, before):
    """The disk is full once a file has a megabyte; a LeNet takes three."""
    if before:
        assert quick('--max-iter', before) == 0
    old = [path.read_bytes() for path in tmp_path.iterdir()]
    capfd.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 20, limits[1]))
    try:
        status = quick('--max-iter', 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    printed = capfd.readouterr()
    [line] = printed.err.splitlines()
    assert line.startswith('testLeNet.py: error: ') and 'cannot save' in line and 'lenet.mat' in line
    assert status == 1 and 'final test accuracy' in printed.out
    assert [path.read_bytes() for path in tmp_path.iterdir()] == old
    assert os.listdir(tmp_path) == ['lenet.mat'] * (before > 0)


# ---------------------------------------------------------------------------------------------------------------
# Where no model can be saved
# ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def never(monkeypatch):
    """No iteration may begin."""
    def conv_net(*_):
        raise AssertionError('the training has begun')

    monkeypatch.setattr(testLeNet, 'conv_net', conv_net)


@pytest.mark.parametrize('path', ['', '.', 'new/', 'no/such/folder/lenet.mat', 'pipe', 'file/lenet.mat',
                                  pytest.param('/proc/lenet.mat', marks=pytest.mark.skipif(
                                      not os.path.isdir('/proc/self'), reason='no folder in which nobody can write')),
                                  'a' * 300])
def test_a_path_at_which_no_model_can_be_saved_is_found_out_before_the_training(quick, never, path):
    os.mkfifo('pipe')
    Path('file').touch()
    error = quick('--model', path)
    assert error.startswith('testLeNet.py: error: ') and '\n' not in error
    assert path in error and 'None' not in error
    assert sorted(os.listdir()) == ['file', 'pipe']


# Root may write everywhere, unless its child gives that right up for good (capability 1, CAP_DAC_OVERRIDE).
AS_ANYBODY = ('import ctypes, os, sys\n'
              'if os.getuid() == 0 and ctypes.CDLL(None).prctl(24, 1, 0, 0, 0): sys.exit("no such right")\n'
              'os.execv(sys.executable, [sys.executable, *sys.argv[1:]])')


def run_as_anybody(folder, *flags):
    process = run(folder, *command(*flags)[1:], code=AS_ANYBODY)
    if process.stderr.strip() == 'no such right':
        pytest.skip('root may write everywhere here')
    return process


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='rights are given up as Linux has them')
@pytest.mark.parametrize('read_only, exists', [('folder', False), ('folder', True), ('file', True)])
def test_without_permission_to_write_the_training_does_not_begin(quick, tmp_path, read_only, exists):
    folder = tmp_path / 'folder'
    folder.mkdir()
    model = folder / 'lenet.mat'
    if exists:
        assert quick('--max-iter', 1, '--model', model) == 0
    before = model.read_bytes() if exists else None
    read_only = folder if read_only == 'folder' else model
    mode = read_only.stat().st_mode
    read_only.chmod(0o555)
    try:
        process = run_as_anybody(folder, '--max-iter', 1)
    finally:
        read_only.chmod(mode)
    assert_one_line_of_error(process, 'cannot save: Permission denied: lenet.mat')
    assert process.stdout == ''
    assert os.listdir(folder) == ['lenet.mat'] * exists
    assert not exists or model.read_bytes() == before


def test_the_file_of_mnist_is_no_place_for_a_model(tmp_path):
    for name in ('testLeNet.py', 'cnn_lenet.py', 'mnist_all.mat'):
        shutil.copy(ROOT / name, tmp_path)
    code = 'import sys\nsys.path.insert(0, ".")' + MAIN
    process = run(tmp_path, '--max-iter', 1, '--model', './mnist_all.mat', code=code)
    assert_one_line_of_error(process, './mnist_all.mat', 'MNIST')
    assert process.stdout == ''
    assert (tmp_path / 'mnist_all.mat').read_bytes() == (ROOT / 'mnist_all.mat').read_bytes()


def test_trying_the_path_does_not_touch_the_model_that_is_there(quick, monkeypatch):
    assert quick('--max-iter', 1) == 0
    before, content = os.stat('lenet.mat'), Path('lenet.mat').read_bytes()
    at_iteration(monkeypatch, 1, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        testLeNet.main([])
    after = os.stat('lenet.mat')
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert Path('lenet.mat').read_bytes() == content and os.listdir() == ['lenet.mat']


# ---------------------------------------------------------------------------------------------------------------
# Signals
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('number', SIGNALS)
@pytest.mark.parametrize('model, quoted', [('lenet.mat', ''), ('my model.mat', " --model 'my model.mat'")])
def test_a_signal_ends_the_run_after_the_iteration(quick, monkeypatch, capfd, number, model, quoted):
    handlers = [signal.getsignal(each) for each in SIGNALS]
    at_iteration(monkeypatch, 3, lambda: signal.raise_signal(number))
    assert quick('--model', model) == 128 + number
    assert capfd.readouterr().err == (
        f'{NOW}stopped after iteration 3, saved {model}; to go on: python testLeNet.py --resume{quoted}\n')
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    assert iterations(model) == 3
    assert quick(*shlex.split(f'--resume{quoted} --max-iter 15')) == 0           # an epoch is 10 iterations
    assert quick('--max-iter', 15, '--model', 'whole.mat') == 0
    assert_same_run(model, 'whole.mat')


def test_a_hangup_that_comes_twice_saves_all_the_same(quick, monkeypatch):
    def hangup():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)

    at_iteration(monkeypatch, 2, hangup)
    assert quick() == 129
    assert iterations('lenet.mat') == 2


@pytest.mark.parametrize('number', SIGNALS)
def test_a_signal_that_is_ignored_stays_ignored(quick, monkeypatch, capfd, number):
    """That is what nohup does with SIGHUP."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        at_iteration(monkeypatch, 1, lambda: signal.raise_signal(number))
        assert quick('--max-iter', 3) == 0
    finally:
        signal.signal(number, before)
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize('number', SIGNALS)
def test_a_run_that_gets_a_signal_from_outside_saves(tmp_path, number):
    with started(tmp_path, '--display-interval', 1, '--max-iter', 10 ** 6, code=ON_FEW_IMAGES) as process:
        assert process.stdout.readline().startswith('cost = ')
        process.send_signal(number)
        _, errors = process.communicate()
    done = iterations(tmp_path / 'lenet.mat')
    assert process.returncode == 128 + number
    assert errors == f'{NOW}stopped after iteration {done}, saved lenet.mat; to go on: python testLeNet.py --resume\n'


# In a program that imports the script, or a notebook, signals mean what they mean there.


def test_an_imported_run_leaves_signals_alone_and_saves_at_ctrl_c(quick, monkeypatch, capfd):
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []
    at_iteration(monkeypatch, 3, lambda: seen.extend(signal.getsignal(number) for number in SIGNALS))
    assert quick('--max-iter', 3, signals=()) == 0 and seen == before

    def interrupt():
        raise KeyboardInterrupt
    at_iteration(monkeypatch, 2, interrupt)
    capfd.readouterr()
    with pytest.raises(KeyboardInterrupt):
        testLeNet.main(['--resume', '--max-iter', '9'])
    assert capfd.readouterr().err.startswith('stopped after iteration 4, saved lenet.mat; to go on: ')
    assert iterations('lenet.mat') == 4


def test_an_imported_run_prints_where_python_prints_and_needs_no_main_thread(quick, monkeypatch, capfd):
    """A notebook replaces the streams, and has no file descriptors for them."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, 'stdout', out)
    monkeypatch.setattr(sys, 'stderr', err)
    assert quick('--max-iter', 3, signals=()) == 0
    thread = threading.Thread(target=quick, args=('--max-iter', 2), kwargs={'signals': ()})
    thread.start()
    thread.join()
    assert out.getvalue().count('final test accuracy') == 2
    assert err.getvalue() == 'the old lenet.mat is kept beside the new one, as lenet-1.mat\n'
    assert capfd.readouterr() == ('', '')


ENDLESS = '''
import threading, cnn_lenet, testLeNet
everywhere = threading.Barrier(2)
def pooling_layer_forward(*_):
    if everywhere.wait() == 0:
        print('in the loop', flush=True)
    while True:
        pass
cnn_lenet.pooling_layer_forward = pooling_layer_forward
'''


@pytest.mark.parametrize('threads, first, second', [
    (1, signal.SIGINT, signal.SIGINT), (2, signal.SIGINT, signal.SIGINT), (2, signal.SIGTERM, signal.SIGTERM),
    (1, signal.SIGHUP, signal.SIGTERM)])
def test_a_second_signal_ends_an_endless_loop(tmp_path, threads, first, second):
    code = FEW_IMAGES + ENDLESS.replace('Barrier(2)', f'Barrier({threads})') + MAIN
    with started(tmp_path, '--threads', threads, code=code) as process:
        assert process.stdout.readline() == 'in the loop\n'
        process.send_signal(first)
        assert process.stderr.readline() == NOW
        process.send_signal(second)
        assert process.wait() == 128 + second
        assert ' in pooling_layer_forward\n' in process.stderr.read()
    assert os.listdir(tmp_path) == []


def test_a_terminal_that_is_closed_costs_nothing(tmp_path):
    """The kernel then sends SIGHUP, and nothing can be printed any more."""
    terminal, child = pty.openpty()
    code = 'import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n' + ON_FEW_IMAGES
    with started(tmp_path, '--display-interval', 1, '--max-iter', 10 ** 6, code=code, stdin=child, stdout=child,
                 stderr=child, start_new_session=True) as process:
        os.close(child)
        shown = b''
        while b'cost = ' not in shown:
            shown += os.read(terminal, 4096)
        os.close(terminal)
        assert process.wait() == 129
    assert iterations(tmp_path / 'lenet.mat') >= 1


# ---------------------------------------------------------------------------------------------------------------
# Output that goes nowhere
# ---------------------------------------------------------------------------------------------------------------


def assert_stopped_for_want_of_output(folder, returncode, errors, reason):
    done = iterations(folder / 'lenet.mat')
    assert done >= 1
    assert errors == (f'testLeNet.py: error: standard output: {reason}\n'
                      f'stopped after iteration {done}, saved lenet.mat; to go on: python testLeNet.py --resume\n')
    assert returncode == 1


def test_output_that_nobody_reads_any_more_ends_and_saves_the_run(tmp_path):
    with started(tmp_path, '--display-interval', 1, '--max-iter', 10 ** 6, code=ON_FEW_IMAGES) as process:
        assert process.stdout.readline().startswith('cost = ')
        process.stdout.close()
        errors = process.stderr.read()
        process.wait()
    assert_stopped_for_want_of_output(tmp_path, process.returncode, errors, 'Broken pipe')


needs_full_device = pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no device that is always full')


@needs_full_device
def test_output_to_a_full_disk_ends_and_saves_the_run(tmp_path):
    with open('/dev/full', 'w') as full:
        process = run(tmp_path, '--display-interval', 1, code=ON_FEW_IMAGES, stdout=full)
    assert_stopped_for_want_of_output(tmp_path, process.returncode, process.stderr, 'No space left on device')


@needs_full_device
def test_results_that_cannot_be_printed_are_an_error_of_a_run_that_is_saved(tmp_path):
    with open('/dev/full', 'w') as full:
        process = run(tmp_path, '--max-iter', 2, code=ON_FEW_IMAGES, stdout=full)
    assert process.stderr == 'testLeNet.py: error: standard output: No space left on device\n'
    assert process.returncode == 1 and iterations(tmp_path / 'lenet.mat') == 2


def test_a_run_without_any_output_trains(tmp_path):
    code = ('import os, sys\nos.close(1)\nos.close(2)\n'
            'os.execv(sys.executable, [sys.executable, *sys.argv[1:]])')
    assert run(tmp_path, *command('--max-iter', 2, code=ON_FEW_IMAGES)[1:], code=code).returncode == 0
    assert iterations(tmp_path / 'lenet.mat') == 2


# ---------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------


def raises(*_, **__):
    raise error_of_a_student


error_of_a_student = None


@pytest.mark.parametrize('error', [ValueError('matmul: mismatch'), OSError('a file of mine'), FloatingPointError('0')],
                         ids=repr)
@pytest.mark.parametrize('module, name', [
    (cnn_lenet, 'pooling_layer_forward'), (cnn_lenet, 'inner_product_backward'), (testLeNet, 'conv_net'),
    (testLeNet, 'sgd_momentum'), (testLeNet, 'get_lr'), (testLeNet, 'get_lenet'), (testLeNet, 'init_convnet')])
def test_an_error_in_what_a_student_writes_is_a_traceback_to_the_line(quick, monkeypatch, module, name, error):
    monkeypatch.setitem(globals(), 'error_of_a_student', error)
    monkeypatch.setattr(module, name, raises)
    with pytest.raises(type(error)) as caught:
        testLeNet.main(['--max-iter', '1'])
    assert caught.value is error
    assert caught.traceback[-1].name == 'raises'
    assert os.listdir() == []


def test_the_traceback_ends_in_the_students_line(tmp_path):
    code = ('import cnn_lenet\ndef relu_forward(input, layer):\n    return input["dta"]\n'
            'cnn_lenet.relu_forward = relu_forward\n') + ON_FEW_IMAGES
    process = run(tmp_path, code=code)
    assert process.returncode == 1
    assert process.stderr.startswith('Traceback') and process.stderr.endswith("KeyError: 'dta'\n")
    assert [line for line in process.stderr.splitlines() if line.startswith('  File')][-1].endswith('in relu_forward')


def test_an_error_later_on_saves_the_iterations_before_it(quick, monkeypatch, capfd):
    at_iteration(monkeypatch, 11, lambda: 1 / 0)       # at the beginning of an epoch
    with pytest.raises(ZeroDivisionError):
        testLeNet.main([])
    assert capfd.readouterr().err == (
        'stopped after iteration 10, saved lenet.mat; to go on: python testLeNet.py --resume\n')
    assert quick('--resume', '--max-iter', 15) == quick('--max-iter', 15, '--model', 'whole.mat') == 0
    assert_same_run('lenet.mat', 'whole.mat')


def without_a_bias(params):
    return {i: {'w': param['w']} for i, param in params.items()}


@pytest.mark.parametrize('wrong', [
    lambda params: {}, lambda params: None, without_a_bias, lambda params: {**params, 1: {'w': 0.0, 'b': 0.0}},
    lambda params: {**params, 1: {**params[1], 'w': params[1]['w'] * np.nan}}])
def test_what_a_wrong_solver_makes_replaces_no_model(quick, monkeypatch, wrong):
    assert quick('--max-iter', 2) == 0
    before = Path('lenet.mat').read_bytes()
    monkeypatch.setattr(testLeNet, 'sgd_momentum', lambda *given: (wrong(given[4]), given[5]))
    with contextlib.suppress(Exception, SystemExit):
        testLeNet.main(['--resume', '--max-iter', '4', '--snapshot', '1'])
    assert Path('lenet.mat').read_bytes() == before and os.listdir() == ['lenet.mat']


def test_a_cost_that_is_not_finite_ends_the_training_and_keeps_the_last_model(quick, monkeypatch, capfd):
    assert quick('--max-iter', 2) == 0
    before = Path('lenet.mat').read_bytes()
    conv_net = testLeNet.conv_net
    monkeypatch.setattr(testLeNet, 'conv_net', lambda *given: ({'cost': np.nan, 'percent': 0.0}, conv_net(*given)[1]))
    assert quick('--resume', '--max-iter', 9) == (
        'testLeNet.py: error: the cost is nan at iteration 3: a layer function or sgd_momentum may be wrong (run '
        'python -m pytest), or the learning rate is too large')
    assert Path('lenet.mat').read_bytes() == before


def test_a_run_that_diverges_is_one_line_of_error(quick, monkeypatch, capfd):
    monkeypatch.setattr(testLeNet, 'epsilon', 1e9)
    error = quick('--max-iter', 50)
    assert re.fullmatch(r'testLeNet\.py: error: the cost is \S+ at iteration \d+: .*the learning rate is too large',
                        error), error
    assert capfd.readouterr().err == '' and os.listdir() == []
