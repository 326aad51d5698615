"""Whatever goes wrong, no training is lost: what is saved stays, what was trained is saved, and the message helps."""

import io
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import training_script
from training_script import MAIN, SIGNALS, SMALL, assert_same_run, iterations, main, run, started

import cnn_lenet
import testLeNet
from testLeNet import load_params

on_posix = pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason='signals and terminals as POSIX has them')

STOPPED = 'stopped after iteration {}, saved {}; to go on: python testLeNet.py --resume{}'


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """A small network and a few random images, in a folder of its own. An epoch is 5 iterations and a bit."""
    monkeypatch.chdir(tmp_path)
    training_script.shrink(monkeypatch)


def raiser(error):
    def raises(*_, **__):
        raise error
    return raises


def at_iteration(monkeypatch, number, event):
    """Have event() called in the middle of that iteration of each run."""
    right, calls = testLeNet.sgd_momentum, []

    def sgd_momentum(*arguments):
        calls.append(1)
        if len(calls) == number:
            event()
        return right(*arguments)

    monkeypatch.setattr(testLeNet, 'sgd_momentum', sgd_momentum)


def at_save(monkeypatch, *numbers, error=KeyboardInterrupt):
    """Have the error raised in the middle of those saves, or of all. Returns the list of all saves."""
    right, saves = os.fsync, []

    def fsync(descriptor):
        saves.append(1)
        if len(saves) in numbers or not numbers:
            raise error
        right(descriptor)

    monkeypatch.setattr(os, 'fsync', fsync)
    return saves


# A model that is there already, and places where none can be saved

def test_a_new_run_keeps_the_model_that_was_there_once(capfd):
    assert main('--max-iter', 5, '--model', 'my.mat') is None
    old = Path('my.mat').read_bytes()
    Path('my-before.mat').write_bytes(b'an earlier one')
    capfd.readouterr()
    assert main('--max-iter', 6, '--model', 'my.mat', '--snapshot', 2) is None
    assert main('--max-iter', 8, '--model', 'my.mat', '--resume', '--snapshot', 1) is None
    assert capfd.readouterr().err == 'the old my.mat is kept as my-before.mat until the next new run\n'
    assert sorted(os.listdir()) == ['my-before.mat', 'my.mat']
    assert Path('my-before.mat').read_bytes() == old and iterations('my.mat') == 8


def test_a_run_that_saves_nothing_moves_nothing(monkeypatch):
    Path('lenet.mat').write_bytes(b'a diary')
    Path('lenet-before.mat').write_bytes(b'an earlier one')
    at_iteration(monkeypatch, 1, raiser(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        main()
    assert Path('lenet.mat').read_bytes() == b'a diary'
    assert Path('lenet-before.mat').read_bytes() == b'an earlier one'


FULL = OSError(28, 'No space left on device')


def test_a_full_disk_does_not_cost_the_results(monkeypatch, capfd):
    at_save(monkeypatch, error=FULL)
    assert main('--max-iter', 2) == 1
    printed = capfd.readouterr()
    assert re.fullmatch('testLeNet.py: error: cannot save: No space left on device: .*lenet.mat\n', printed.err)
    assert 'final test accuracy' in printed.out and os.listdir() == []


def test_where_an_older_model_cannot_be_kept_the_training_ends_at_once(monkeypatch):
    Path('lenet.mat').write_bytes(b'old')
    at_save(monkeypatch, error=FULL)
    assert re.fullmatch('testLeNet.py: error: cannot save: No space left on device: .*lenet-before.mat', main())
    assert os.listdir() == ['lenet.mat'] and Path('lenet.mat').read_bytes() == b'old'


@pytest.mark.parametrize('path', ['', '.', 'no/such/folder/lenet.mat'])
def test_a_path_at_which_no_model_can_be_saved_is_found_out_before_the_training(path, capfd):
    assert main('--model', path) == 2
    assert f'argument --model: no model can be saved as {path!r}' in capfd.readouterr().err
    assert os.listdir() == []


# Ctrl-C

def interrupted(moment, flags):
    """Train with Ctrl-C at the n-th call or return of any function. Returns whether it came before the end."""
    def count(frame, event, argument):
        nonlocal moment
        moment -= event != 'c_call'                    # after which Python looks for signals, not before
        if moment == 0:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(count)
    try:
        main(*flags)
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


def resumed_if_saved(flags):
    return ['--resume', '--threads', 1] if os.path.exists('lenet.mat') else flags


def test_a_run_that_is_interrupted_at_any_moments_is_the_same_run():
    """8 runs through two epochs, with tests and snapshots, each with Ctrl-C at three moments drawn at random."""
    flags = '--max-iter', 12, '--test-interval', 2, '--snapshot', 3, '--threads', 1, '--seed', 3
    assert main(*flags, '--model', 'whole.mat') is None
    rng = np.random.RandomState(1)
    interruptions = 0
    for _ in range(8):
        for moment in rng.randint(3000, 25000, size=3):
            interruptions += interrupted(moment, resumed_if_saved(flags))
        assert main(*resumed_if_saved(flags)) is None
        assert_same_run('lenet.mat', 'whole.mat')
        os.remove('lenet.mat')
        assert os.listdir() == ['whole.mat']
    assert interruptions >= 8


@pytest.mark.parametrize('saves, iteration', [([1], 2), ([2], 4), ([3], 6), ([1, 2], 2), ([3, 4, 5], 6)])
def test_ctrl_c_in_the_middle_of_a_save_saves_again(monkeypatch, saves, iteration):
    """Of a snapshot, of the last save, or of what the first Ctrl-C saves."""
    at_save(monkeypatch, *saves)
    with pytest.raises(KeyboardInterrupt, match=STOPPED.format(iteration, 'lenet.mat', '')):
        main('--max-iter', 6, '--snapshot', 2)
    assert os.listdir() == ['lenet.mat'] and iterations() == iteration


@pytest.mark.parametrize('model, quoted', [('lenet.mat', ''), ('my model.mat', " --model 'my model.mat'")])
def test_in_a_notebook_one_line_says_how_to_go_on(monkeypatch, capfd, model, quoted):
    at_iteration(monkeypatch, 4, raiser(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt) as caught:
        main('--model', model)
    assert caught.value._render_traceback_() == [STOPPED.format(3, model, quoted)]
    assert capfd.readouterr() == ('', '')


def test_main_leaves_signals_alone_and_needs_neither_the_main_thread_nor_files(monkeypatch, capfd):
    """A notebook has its own signals and streams."""
    before = [signal.getsignal(number) for number in SIGNALS]
    seen, out, err = [], io.StringIO(), io.StringIO()
    at_iteration(monkeypatch, 3, lambda: seen.extend(signal.getsignal(number) for number in SIGNALS))
    monkeypatch.setattr(sys, 'stdout', out)
    monkeypatch.setattr(sys, 'stderr', err)
    assert main('--max-iter', 3) is None and seen == before
    at_iteration(monkeypatch, 2, raiser(ZeroDivisionError))
    thread = threading.Thread(target=lambda: pytest.raises(ZeroDivisionError, main, '--resume', '--max-iter', 9))
    thread.start()
    thread.join()
    assert out.getvalue().count('final test accuracy') == 1
    assert err.getvalue() == STOPPED.format(4, 'lenet.mat', '') + '\n'
    assert capfd.readouterr() == ('', '') and iterations() == 4


# The script itself, in a process

FOR_EVER = '--display-interval', 1, '--max-iter', 10 ** 6


@on_posix
@pytest.mark.parametrize('names', [['SIGINT'], ['SIGTERM', 'SIGHUP']], ids='+'.join)
def test_a_signal_saves_the_run_and_tells_how_to_go_on(tmp_path, names):
    """Some systems send SIGTERM and SIGHUP at once, as when one logs out."""
    with started(tmp_path, *FOR_EVER) as process:
        assert process.stdout.readline().startswith('cost = ')
        for name in names:
            process.send_signal(getattr(signal, name))
        errors = process.communicate()[1]
    assert errors == STOPPED.format(iterations(), 'lenet.mat', '') + '\n'
    assert process.returncode == 130


@on_posix
def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    """That is what nohup does with SIGHUP."""
    code = SMALL + ('signal.signal(signal.SIGHUP, signal.SIG_IGN)\nright = testLeNet.get_lr\n'
                    'testLeNet.get_lr = lambda *given: signal.raise_signal(signal.SIGHUP) or right(*given)\n') + MAIN
    process = run(tmp_path, '--max-iter', 3, code=code)
    assert (process.returncode, process.stderr) == (0, '') and iterations() == 3


ENDLESS = '''
import cnn_lenet, threading
everywhere, wait = threading.Barrier({threads}), cnn_lenet.concurrent.futures.wait
def wait_aloud(others):
    print('waiting for the other thread', flush=True)
    return wait(others)
def pooling_layer_forward(*_):
    if everywhere.wait() == 0:
        print('in the loop', flush=True)
    while True:
        pass
cnn_lenet.concurrent.futures.wait, cnn_lenet.pooling_layer_forward = wait_aloud, pooling_layer_forward
'''


@on_posix
@pytest.mark.parametrize('threads', [1, 2])
def test_an_endless_loop_ends_with_two_ctrl_c_at_most_and_is_shown(tmp_path, threads):
    code = SMALL + ENDLESS.format(threads=threads) + MAIN
    with started(tmp_path, '--threads', threads, code=code) as process:
        for line in ('in the loop\n', 'waiting for the other thread\n')[:threads]:
            assert process.stdout.readline() == line
            time.sleep(0.1)         # Python only notices a signal that comes while it begins to wait when it is done
            process.send_signal(signal.SIGINT)
        assert re.search(r'line \d+,? in pooling_layer_forward\n', process.stderr.read())
        assert process.wait() == 130
    assert os.listdir() == []


@on_posix
def test_a_loop_that_begins_late_is_shown_too_and_the_run_is_saved(tmp_path):
    # More than ten usual iterations, and a second: three were done since `began`.
    late = """
import cnn_lenet, itertools, time
began, calls, relu = time.perf_counter(), itertools.count(), cnn_lenet.relu_forward
def relu_forward(*arguments):
    start = time.perf_counter()
    while next(calls) >= 3:
        if time.perf_counter() - start > 1 + 4 * (start - began):
            print('in the loop', flush=True)
    return relu(*arguments)
cnn_lenet.relu_forward = relu_forward
"""
    with started(tmp_path, '--threads', '1', '--batch-size', '8', code=SMALL + late + MAIN) as process:
        assert process.stdout.readline() == 'in the loop\n'
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        shown = process.stderr.read()
        assert process.wait() == 130
    assert STOPPED.format(iterations(), 'lenet.mat', '') in shown and 'in relu_forward\n' in shown


@on_posix
def test_a_terminal_that_is_closed_costs_nothing(tmp_path):
    """The kernel then sends SIGHUP, and nothing can be printed any more."""
    terminal, child = os.openpty()
    code = 'import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n' + SMALL + MAIN
    with started(tmp_path, *FOR_EVER, code=code, stdin=child, stdout=child, stderr=child,
                 start_new_session=True) as process:
        os.close(child)
        shown = b''
        while b'cost = ' not in shown:
            shown += os.read(terminal, 4096)
        os.close(terminal)
        assert process.wait() == 130
    assert iterations() >= 1


def test_output_that_nobody_reads_any_more_ends_and_saves_the_run(tmp_path):
    """As with python testLeNet.py | head -1."""
    with started(tmp_path, *FOR_EVER) as process:
        assert process.stdout.readline().startswith('cost = ')
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait() == 130
    assert errors.startswith('standard output: ') and errors.count('\n') == 1
    assert errors.endswith(f"; {STOPPED.format(iterations(), 'lenet.mat', '')}\n")


def test_a_run_whose_last_lines_cannot_be_printed_is_saved_once(monkeypatch):
    saves = at_save(monkeypatch, 0)
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    monkeypatch.setattr(sys.stdout, 'write', raiser(FULL), raising=False)
    with pytest.raises(KeyboardInterrupt) as caught:
        main('--max-iter', 3)
    assert str(caught.value) == f"standard output: No space left on device; {STOPPED.format(3, 'lenet.mat', '')}"
    assert saves == [1] and iterations() == 3


def test_a_run_without_any_output_trains(monkeypatch):
    """This is what Python does where both are closed."""
    monkeypatch.setattr(sys, 'stdout', None)
    monkeypatch.setattr(sys, 'stderr', None)
    assert main('--max-iter', 2) is None and iterations() == 2


# Errors

@pytest.mark.parametrize('error', [ValueError('matmul: mismatch'), OSError('a file of mine')], ids=repr)
@pytest.mark.parametrize('module, name', [
    (cnn_lenet, 'pooling_layer_forward'), (cnn_lenet, 'inner_product_backward'), (testLeNet, 'sgd_momentum'),
    (testLeNet, 'get_lr'), (testLeNet, 'get_lenet'), (testLeNet, 'init_convnet')])
def test_an_error_in_what_a_student_writes_is_a_traceback_to_the_line(monkeypatch, module, name, error):
    monkeypatch.setattr(module, name, raiser(error))
    with pytest.raises(type(error)) as caught:
        main('--max-iter', 1)
    assert caught.value is error and caught.traceback[-1].name == 'raises'
    assert os.listdir() == []


def test_an_error_later_on_saves_the_iterations_before_it(monkeypatch, capfd):
    at_iteration(monkeypatch, 6, raiser(ZeroDivisionError))                 # at the beginning of an epoch
    with pytest.raises(ZeroDivisionError):
        main()
    assert capfd.readouterr().err == STOPPED.format(5, 'lenet.mat', '') + '\n'
    assert main('--resume', '--max-iter', 9) is main('--max-iter', 9, '--model', 'whole.mat') is None
    assert_same_run('lenet.mat', 'whole.mat')


@pytest.mark.parametrize('wrong', [
    lambda params: {}, lambda params: None, lambda params: {i: {'w': param['w']} for i, param in params.items()},
    lambda params: {**params, 1: {'w': 0.0, 'b': 0.0}},
    lambda params: {**params, 1: {**params[1], 'w': params[1]['w'] * np.nan}}])
def test_what_a_wrong_solver_makes_replaces_no_model(monkeypatch, wrong):
    assert main('--max-iter', 2) is None
    before = Path('lenet.mat').read_bytes()
    monkeypatch.setattr(testLeNet, 'sgd_momentum', lambda *given: (wrong(given[4]), given[5]))
    with pytest.raises((Exception, SystemExit)):
        testLeNet.main(['--resume', '--max-iter', '4', '--snapshot', '1'])
    assert Path('lenet.mat').read_bytes() == before and os.listdir() == ['lenet.mat']


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_a_run_that_diverges_is_one_line_of_error_and_keeps_the_last_model(monkeypatch, capfd):
    monkeypatch.setattr(testLeNet, 'epsilon', 1e9)
    assert main('--max-iter', 1) is None
    params = load_params('lenet.mat')[0]
    capfd.readouterr()
    error = main('--resume', '--max-iter', 50)
    assert re.fullmatch(r'testLeNet\.py: error: the cost is \S+ at iteration \d+: .*the learning rate is too large',
                        error), error
    assert capfd.readouterr().err == ''
    np.testing.assert_equal(load_params('lenet.mat')[0], params)
