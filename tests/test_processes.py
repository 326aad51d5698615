"""What only a process of its own can show: importing, peak memory, and the same digits run after run."""

import os
import pathlib
import subprocess
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent


def run(script, cwd, **environment):
    """Standard output of a Python process that runs `script`; it must end well and write nothing else."""
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(TOP), str(TOP / 'tests')]),
                   'PYTHONDONTWRITEBYTECODE': '1', **environment}
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
p = cnn_lenet.predict(params, layers, data)
assert p.shape == (10, 10000) and p.dtype == np.{dtype} and abs(p.sum() - 10000) < 1
print(peak() - before)
""", tmp_path))
    assert megabytes < 150


@pytest.mark.parametrize('blas_threads, networks', [('1', ['lenet in small', 'LeNet']), ('2', ['lenet in small'])])
def test_the_same_digits_run_after_run(tmp_path, blas_threads, networks):
    """Cost, gradients and predictions: again and again, and from several threads at once."""
    script = f"""
import concurrent.futures, hashlib
import numpy as np
import cnn_lenet
from helpers import arrays, network_and_batch

def digest(case):
    cp, grad = cnn_lenet.conv_net(*case)
    parts = [cp['cost'], cp['percent'], *arrays(grad), cnn_lenet.predict(*case[:3])]
    return hashlib.sha256(b''.join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

for name in {networks}:
    case = network_and_batch(name, 70, dtype=np.float32)
    again = {{digest(case) for _ in range(4)}}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        at_once = set(pool.map(digest, [case] * 6))
    assert len(again) == 1 and at_once == again, (again, at_once)
    print(*again)
"""
    environment = {'OPENBLAS_NUM_THREADS': blas_threads, 'OMP_NUM_THREADS': blas_threads}
    first, second = (run(script, tmp_path, **environment) for _ in range(2))
    assert first == second and len(first.split()) == len(networks)


def test_blas_threads_change_the_speed_alone(tmp_path):
    """With BLAS on one thread conv_net uses threads of its own; the gradients stay the same but for rounding."""
    script = """
import numpy as np
import cnn_lenet
from helpers import network_and_batch
cp, grad = cnn_lenet.conv_net(*network_and_batch('lenet in small', 70))
print(cp['cost'], cp['percent'], *(float((g[key] * np.arange(g[key].size).reshape(g[key].shape)).sum())
                                   for g in grad.values() for key in 'wb'))
"""
    one, two = ([float(x) for x in run(script, tmp_path, OPENBLAS_NUM_THREADS=n).split()] for n in '12')
    assert len(one) == 16 and one == pytest.approx(two, rel=1e-9, abs=1e-12)
