"""What concerns the whole process: importing, peak memory, the same digits run after run, threads of BLAS."""

import concurrent.futures
import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import network_and_batch

import cnn_lenet

TOP = Path(cnn_lenet.__file__).resolve().parent


def run(script, cwd, **environment):
    """Standard output of a Python process that runs `script`; it must end well and write nothing else.

    A variable that is None is taken out of the environment.
    """
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(TOP), str(TOP / 'tests')]),
                   'PYTHONDONTWRITEBYTECODE': '1', **environment}
    environment = {name: value for name, value in environment.items() if value is not None}
    done = subprocess.run([sys.executable, '-W', 'error', '-c', script], cwd=cwd, env=environment, text=True,
                          capture_output=True, timeout=300)
    assert done.stderr == '' and done.returncode == 0
    return done.stdout


def test_import_has_no_side_effects(tmp_path):
    """Nothing printed, no thread started, no random number drawn, no variable set, no file touched."""
    out = run("""
import os, threading
import numpy as np
np.random.seed(1)
environment, handling = dict(os.environ), np.geterr()
import cnn_lenet
assert threading.active_count() == 1, threading.enumerate()
assert np.random.rand() == np.random.RandomState(1).rand()
assert dict(os.environ) == environment
assert np.geterr() == handling
assert os.listdir() == []
""", tmp_path)
    assert out == ''


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='peak memory is read from /proc')
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_predict_on_ten_thousand_images_takes_bounded_memory(tmp_path, dtype):
    """LeNet's feature maps of 10,000 images would fill gigabytes. VmHWM is the process's peak, in kB; unlike
    ru_maxrss it does not begin with the peak of the process that started this one."""
    megabytes = float(run(f"""
import numpy as np
import cnn_lenet
from testLeNet import get_lenet

def peak():
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) for line in status if line.startswith('VmHWM')) / 1024

layers, rng = get_lenet(), np.random.default_rng(0)
params = cnn_lenet.init_convnet(layers, np.{dtype}, np.random.RandomState(0))
data = rng.random((784, 10000), np.{dtype})
before = peak()
p = cnn_lenet.predict(params, layers, data, threads=2)
assert p.shape == (10, 10000) and p.dtype == np.{dtype} and abs(p.sum() - 10000) < 1
print(peak() - before)
""", tmp_path))
    assert megabytes < 150


def test_the_same_digits_however_many_threads_blas_has(tmp_path):
    """Cost, gradients and predictions: again and again, from several threads at once, in one process and the next."""
    script = """
import concurrent.futures, hashlib
import numpy as np
import cnn_lenet
from helpers import arrays, network_and_batch

def digest(case):
    cp, grad = cnn_lenet.conv_net(*case)
    parts = [cp['cost'], cp['percent'], *arrays(grad), cnn_lenet.predict(*case[:3])]
    return hashlib.sha256(b''.join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

for name in ('lenet in small', 'LeNet'):
    case = network_and_batch(name, 70, dtype=np.float32)
    again = {digest(case) for _ in range(3)}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        at_once = set(pool.map(digest, [case] * 6))
    assert len(again) == 1 and at_once == again, (again, at_once)
    print(*again)
"""
    def with_threads(number):
        return run(script, tmp_path, OPENBLAS_NUM_THREADS=number, OMP_NUM_THREADS=number)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        outputs = list(pool.map(with_threads, ('1', '2', None)))
    assert len(outputs[0].split()) == 2 and outputs == [outputs[0]] * 3


# A BLAS whose number of threads the module cannot set: Accelerate, MKL, BLIS, or OpenBLAS on Windows.

FOREIGN_BLAS = """
import ctypes, os, threading
ctypes.CDLL = lambda path: object()                              # a library without OpenBLAS's functions
os.sched_getaffinity = lambda process: {0, 1}
import cnn_lenet
from helpers import network_and_batch
seen, right = set(), cnn_lenet.relu_forward
def relu_forward(input, layer):
    seen.add(threading.current_thread())
    return right(input, layer)
cnn_lenet.relu_forward = relu_forward
cnn_lenet.conv_net(*network_and_batch('lenet in small', 320))
print(len(seen), threading.main_thread() in seen)
"""


@pytest.mark.parametrize('before, expected', [
    ('import testLeNet\n', '2 False'),                          # as the scripts do, which import NumPy after that
    ('import numpy, testLeNet\n', '1 True'),
    ('', '1 True'),                                              # one thread of ours, since BLAS may use all cores
])
def test_columns_are_spread_over_the_cores_where_blas_has_one_thread(tmp_path, before, expected):
    nothing_set = dict.fromkeys(BLAS_VARIABLES)
    assert run(before + FOREIGN_BLAS, tmp_path, **nothing_set).strip() == expected


BLAS_VARIABLES = ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'BLIS_NUM_THREADS',
                  'VECLIB_MAXIMUM_THREADS')


@pytest.mark.parametrize('script', ['testLeNet', 'vis_data', 'read_digits'])
def test_the_scripts_ask_every_blas_for_one_thread_before_numpy_is_imported(tmp_path, script):
    """But for one whose number the user has set."""
    code = ('import warnings\nwarnings.simplefilter("ignore")\n'               # matplotlib 3.8 gives some
            f'import {script}, os\nprint(*(os.environ[name] for name in {BLAS_VARIABLES}))')
    variables = {**dict.fromkeys(BLAS_VARIABLES), 'MKL_NUM_THREADS': '3'}
    assert run(code, tmp_path, **variables).split() == ['1', '1', '3', '1', '1']


# While conv_net and predict work, NumPy's BLAS has one thread; afterwards it has what it had before.

def numpys_openblas():
    """OpenBLAS's functions that tell and set its number of threads, in the library that NumPy has loaded, or None."""
    try:
        with open('/proc/self/maps') as maps:
            loaded = {fields[5] for line in maps if len(fields := line.split(maxsplit=5)) == 6}
    except OSError:                                              # not Linux
        return None
    loaded = sorted(path.strip() for path in loaded if 'openblas' in os.path.basename(path))
    for path in sorted(loaded, key=lambda path: 'numpy' not in path):      # SciPy may have one of its own
        library = ctypes.CDLL(path)
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
