"""The training script as the tests run it: in this process, or in one of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

import testLeNet
from testLeNet import load_params

ROOT = Path(testLeNet.__file__).resolve().parent
SCRIPT = ROOT / 'testLeNet.py'
DEADLINE = 180                                         # seconds after which a child is given up


def main(*flags, signals=testLeNet.SIGNALS):
    """testLeNet.main(flags) in this process, as the script. Returns the exit status, or the line of error."""
    try:
        return testLeNet.main([str(flag) for flag in flags], signals)
    except SystemExit as stop:
        return stop.code


# The script with a few random images in place of MNIST, for a child that is not about them: half as long a start.
FEW_IMAGES = '''
import numpy, testLeNet
def load_mnist(fullset, dtype, rng):
    return [part for m in (640, 64, 6) for part in (rng.rand(784, m).astype(dtype), rng.randint(10, size=m))]
testLeNet.load_mnist = load_mnist
'''
MAIN = '\nimport sys, testLeNet\nsys.exit(testLeNet.main(signals=testLeNet.SIGNALS))\n'
ON_FEW_IMAGES = FEW_IMAGES + MAIN


def command(*flags, code=None):
    """The command line of the script, or of `code` in its place."""
    return [sys.executable, *(['-c', code] if code else [str(SCRIPT)]), *map(str, flags)]


def environment():
    return {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': '1'}


def run(folder, *flags, code=None, **options):
    """Run the script in `folder`, as a child. Returns the finished process."""
    options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options}
    with signals_not_ignored():
        return subprocess.run(command(*flags, code=code), cwd=folder, text=True, timeout=DEADLINE, env=environment(),
                              **options)


@contextlib.contextmanager
def started(folder, *flags, code=None, **options):
    """The script as a child that is still running. It is killed at the deadline, and at the end of the block."""
    options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options}
    with signals_not_ignored():
        process = subprocess.Popen(command(*flags, code=code), cwd=folder, text=True, env=environment(), **options)
    watchdog = threading.Timer(DEADLINE, process.kill)      # so that no read from the child waits for ever
    watchdog.start()
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        watchdog.cancel()
        watchdog.join()


@contextlib.contextmanager
def signals_not_ignored():
    """A child started in this block can be interrupted, even if the tests run under nohup or in the background."""
    before = {number: signal.getsignal(number) for number in testLeNet.SIGNALS}
    try:
        for number, handler in before.items():
            if handler == signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def without_time(text):
    return re.sub(r'training time: .*', '', text)


def assert_one_line_of_error(process, *words):
    assert process.returncode in (1, 2)
    assert 'Traceback' not in process.stderr
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith('testLeNet.py: error: ')
    for word in words:
        assert str(word) in last


def assert_same_params(one, other):
    assert one.keys() == other.keys()
    for i in one:
        for key in 'wb':
            np.testing.assert_array_equal(one[i][key], other[i][key])


def assert_same_run(path, other_path):
    """Two saved runs are in the same state, bit for bit, but for the time that they took."""
    (params, extra), (other_params, other) = load_params(path), load_params(other_path)
    assert_same_params(params, other_params)
    assert_same_params(extra['param_winc'], other['param_winc'])
    for name in ('train', 'test'):
        np.testing.assert_array_equal(extra['history'][name], other['history'][name])
    np.testing.assert_array_equal(extra['order'], other['order'])
    assert extra['iteration'] == other['iteration']


def iterations(path):
    return load_params(path)[1]['iteration']
