"""What concerns the whole process: importing, peak memory, the same digits run after run, threads of BLAS."""

import concurrent.futures
import ctypes
import hashlib
import os
import runpy
import sys
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers import arrays, module_of, network_and_batch
from training_script import ROOT, run

import cnn_lenet


def output_of(code, folder):
    """Standard output of a new Python process, which must end well and write nothing else."""
    process = run(folder, code=code)
    assert (process.stderr, process.returncode) == ('', 0)
    return process.stdout


def test_import_has_no_side_effects(tmp_path):
    """Nothing printed, no thread started, no random number drawn, no variable set, no file touched."""
    assert output_of("""
import os, signal, threading
import numpy as np
np.random.seed(1)
environment, handling = dict(os.environ), np.geterr()
interrupt = signal.getsignal(signal.SIGINT)
import cnn_lenet
import testLeNet
assert threading.active_count() == 1, threading.enumerate()
assert np.random.rand() == np.random.RandomState(1).rand()
assert dict(os.environ) == environment
assert np.geterr() == handling
assert signal.getsignal(signal.SIGINT) == interrupt
assert os.listdir() == []
""", tmp_path) == ''


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='peak memory is read from /proc')
def test_predict_on_many_images_takes_bounded_memory(tmp_path):
    """LeNet's feature maps of 4,000 images would fill a gigabyte. VmHWM is the process's peak, in kB; unlike
    ru_maxrss it does not begin with the peak of the process that started this one."""
    megabytes = float(output_of("""
import numpy as np
import cnn_lenet
from testLeNet import get_lenet

def peak():
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) for line in status if line.startswith('VmHWM')) / 1024

layers, rng = get_lenet(), np.random.default_rng(0)
params = cnn_lenet.init_convnet(layers, rng=np.random.RandomState(0))
data = rng.random((784, 4000))
before = peak()
p = cnn_lenet.predict(params, layers, data, threads=2)
assert p.shape == (10, 4000) and abs(p.sum() - 4000) < 1
print(peak() - before)
""", tmp_path))
    assert megabytes < 150


def digest(case):
    """Cost, gradients and predictions of a network, to the last bit."""
    cp, grad = cnn_lenet.conv_net(*case)
    parts = [cp['cost'], cp['percent'], *arrays(grad), cnn_lenet.predict(*case[:3])]
    return hashlib.sha256(b''.join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def digests():
    return [digest(network_and_batch(name, 70, dtype=np.float32)) for name in ('lenet in small', 'LeNet')]


def test_the_same_digits_however_many_threads_blas_has(tmp_path, monkeypatch):
    """In one process and the next."""
    for number in '12':
        monkeypatch.setenv('OPENBLAS_NUM_THREADS', number)
        monkeypatch.setenv('OMP_NUM_THREADS', number)
        assert output_of('import test_processes; print(*test_processes.digests())', tmp_path).split() == digests()


# A BLAS whose number of threads the module cannot set: Accelerate, MKL, BLIS, or OpenBLAS on Windows. The scripts ask
# for one thread in the environment, which a BLAS reads when it is loaded.

BLAS_VARIABLES = ['OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'BLIS_NUM_THREADS',
                  'VECLIB_MAXIMUM_THREADS']


@pytest.mark.parametrize('set_before, expected', [(True, 2), (False, 1)])
def test_columns_are_spread_over_the_cores_where_blas_has_one_thread(monkeypatch, set_before, expected):
    """Elsewhere the calling thread does it all, since BLAS may use all cores. The layer lets nobody pass before as
    many threads as expected are in it, so that none of them can take all the columns."""
    for name in BLAS_VARIABLES:
        monkeypatch.setenv(name, '1' if set_before else '2')
    monkeypatch.setattr(ctypes, 'CDLL', lambda path: object())      # a library without OpenBLAS's functions
    monkeypatch.setattr(os, 'register_at_fork', lambda **functions: None, raising=False)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 2)
    module = module_of(Path(cnn_lenet.__file__).read_text(encoding='utf-8'))
    seen, right, meeting = set(), module.relu_forward, threading.Barrier(expected)

    def relu_forward(input, layer):
        meeting.wait(60)
        seen.add(threading.current_thread())
        return right(input, layer)

    module.relu_forward = relu_forward
    module.conv_net(*network_and_batch('lenet in small', 320))
    assert len(seen) == expected and (expected == 2 or seen == {threading.current_thread()})


class NumPyIsImported(Exception):
    """Raised by an import hook, with the environment at that moment."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == 'numpy':
            raise cls(dict(os.environ))


@pytest.mark.parametrize('script', sorted(path.name for path in ROOT.glob('*.py') if path.name != 'cnn_lenet.py'))
def test_the_scripts_ask_every_blas_for_one_thread_before_numpy_is_imported(monkeypatch, script):
    """But for one whose number the user has set."""
    for name in BLAS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('MKL_NUM_THREADS', '3')
    monkeypatch.setattr(sys, 'meta_path', [NumPyIsImported, *sys.meta_path])
    ours = {path.stem for path in ROOT.glob('*.py')}
    with mock.patch.dict(os.environ), mock.patch.dict(sys.modules), pytest.raises(NumPyIsImported) as stop:
        for name in list(sys.modules):
            if name.split('.')[0] in {'numpy', 'scipy', 'matplotlib', 'PIL', *ours}:
                del sys.modules[name]
        runpy.run_path(str(ROOT / script))
    assert [stop.value.args[0].get(name) for name in BLAS_VARIABLES] == ['1', '1', '3', '1', '1']


def test_the_scripts_ask_for_nothing_where_numpy_is_there_already(monkeypatch):
    """Its BLAS would not notice."""
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    runpy.run_path(str(ROOT / 'testLeNet.py'))
    assert 'OMP_NUM_THREADS' not in os.environ


# While conv_net and predict work, NumPy's BLAS has one thread; afterwards it has what it had before.

def numpys_openblas():
    """OpenBLAS's functions that tell and set its number of threads, as NumPy has loaded it, or None."""
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)      # which is linked with it
    for name in ('scipy_openblas_{}_num_threads64_', 'openblas_{}_num_threads64_', 'openblas_{}_num_threads'):
        if hasattr(library, name.format('set')):
            return getattr(library, name.format('get')), getattr(library, name.format('set'))
    return None


@pytest.fixture
def blas_threads():
    """The function that tells how many threads BLAS has: two, for the time of a test."""
    if not (functions := numpys_openblas()):
        pytest.skip('NumPy does not use OpenBLAS, or it cannot be found')
    tell, set_to = functions
    before = tell()
    set_to(2)
    if tell() != 2:
        pytest.skip('OpenBLAS has been built for one thread')
    yield tell
    set_to(before)


@pytest.mark.parametrize('threads', [1, 2])
def test_blas_has_one_thread_while_a_network_works(monkeypatch, blas_threads, threads):
    seen, right = set(), cnn_lenet.relu_forward

    def relu_forward(input, layer):
        seen.add(blas_threads())
        return right(input, layer)

    monkeypatch.setattr(cnn_lenet, 'relu_forward', relu_forward)
    params, layers, data, labels = network_and_batch('lenet in small', 70)
    for call in (lambda: cnn_lenet.predict(params, layers, data, threads),
                 lambda: cnn_lenet.conv_net(params, layers, data, labels, threads)):
        seen.clear()
        call()
        assert seen == {1} and blas_threads() == 2


@pytest.mark.parametrize('threads', [1, 2])
def test_blas_has_its_threads_back_after_an_error(monkeypatch, blas_threads, threads):
    monkeypatch.setattr(cnn_lenet, 'relu_forward', lambda input, layer: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cnn_lenet.conv_net(*network_and_batch('lenet in small', 70), threads)
    assert blas_threads() == 2


def test_blas_has_its_threads_back_after_two_callers_at_once(monkeypatch, blas_threads):
    """The one that comes second finds one thread, which is not what is to be put back."""
    both_within, right = threading.Barrier(2), cnn_lenet.relu_forward

    def relu_forward(input, layer):
        both_within.wait(timeout=120)
        assert blas_threads() == 1
        return right(input, layer)

    monkeypatch.setattr(cnn_lenet, 'relu_forward', relu_forward)
    params, layers, data, _ = network_and_batch('lenet in small', 5)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: cnn_lenet.predict(params, layers, data, 1), range(2)))
    np.testing.assert_array_equal(*found)
    assert blas_threads() == 2
