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
SIGNALS = [getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if hasattr(signal, name)]
DEADLINE = 120                                         # seconds after which a child is given up

LAYERS = {2: {'type': 'CONV', 'num': 2, 'k': 5, 'stride': 1, 'pad': 0, 'group': 1},
          3: {'type': 'POOLING', 'k': 4, 'stride': 4, 'pad': 0}, 4: {'type': 'IP', 'num': 6, 'init_type': 'uniform'},
          5: {'type': 'RELU'}, 6: {'type': 'LOSS', 'num': 10}}


def small_lenet(batch_size):
    """A network on MNIST with which an iteration takes a millisecond."""
    return {1: {'type': 'DATA', 'height': 28, 'width': 28, 'channel': 1, 'batch_size': batch_size}, **LAYERS}


def few_images(fullset, dtype, rng):
    """300, 50 and 50 random images in place of MNIST, shuffled like it by the generator of the run."""
    images = np.random.RandomState(0)
    sets = [(images.rand(784, m).astype(dtype), images.randint(10, size=m)) for m in (300, 50, 50)]
    orders = [rng.permutation(len(labels)) for _, labels in sets]
    return [part[..., order] for both, order in zip(sets, orders) for part in both]


def shrink(monkeypatch):
    """Have main() train the small network on the few images."""
    monkeypatch.setattr(testLeNet, 'get_lenet', small_lenet)
    monkeypatch.setattr(testLeNet, 'load_mnist', few_images)


def main(*flags):
    """testLeNet.main(flags) in this process. Returns the exit status (None: all is well), or the line of error."""
    try:
        return testLeNet.main([str(flag) for flag in flags])
    except SystemExit as stop:
        return stop.code


# The script in a child: a small network, a few images, and signals as at a terminal, whatever they are for the tests.
SMALL = '''
import signal
import testLeNet, training_script
testLeNet.get_lenet, testLeNet.load_mnist = training_script.small_lenet, training_script.few_images
for number in training_script.SIGNALS:
    signal.signal(number, signal.SIG_DFL)
'''
MAIN = 'testLeNet.run_script()\n'


@contextlib.contextmanager
def started(folder, *flags, code=SMALL + MAIN, **options):
    """The script as a child that is still running. It is killed at the deadline, and at the end of the block."""
    options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options}
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH')]))
    process = subprocess.Popen([sys.executable, '-c', code, *map(str, flags)], cwd=folder, text=True, **options,
                               env={**os.environ, 'PYTHONPATH': path, 'PYTHONDONTWRITEBYTECODE': '1'})
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


def run(folder, *flags, **options):
    """The script as a child that has finished, with what it has written."""
    with started(folder, *flags, **options) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def without_time(text):
    return re.sub(r'training time: .*', '', text)


def assert_same_run(path, other_path):
    """Two saved runs are in the same state, bit for bit, but for the time that they took."""
    (params, extra), (other_params, other) = load_params(path), load_params(other_path)
    for one, two in ((params, other_params), (extra['param_winc'], other['param_winc'])):
        np.testing.assert_equal(one, two)
    for name in ('history', 'order', 'iteration', 'random_state'):
        np.testing.assert_equal(extra[name], other[name])


def iterations(path='lenet.mat'):
    return load_params(path)[1]['iteration']
