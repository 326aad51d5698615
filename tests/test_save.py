"""Saved models: the same bits come back, or an error that names the file; what was saved is never lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io

import cnn_lenet
from cnn_lenet import init_convnet, load_params, save_params

ROOT = Path(cnn_lenet.__file__).resolve().parent

LAYERS = {
    1: {'type': 'DATA', 'height': 5, 'width': 4, 'channel': 1, 'batch_size': 3},
    2: {'type': 'CONV', 'num': 2, 'k': 2, 'stride': 1, 'pad': 0, 'group': 1},
    3: {'type': 'RELU'},
    4: {'type': 'IP', 'num': 1, 'init_type': 'gaussian'},
    5: {'type': 'LOSS', 'num': 2},
}


def small_params(dtype=np.float32, seed=0):
    return init_convnet(LAYERS, dtype, np.random.RandomState(seed))


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    else:
        assert one == other


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_parameters_come_back_bit_for_bit(tmp_path, dtype):
    """Shapes too: a w of one row or one column, a b of one element, the empty arrays of a layer without any."""
    params = small_params(dtype)
    params[1]['w'][0, 0] = -0.0
    params[1]['w'][1, 0] = np.finfo(dtype).smallest_subnormal
    params[1]['b'][:] = np.nan, np.inf
    save_params(tmp_path / 'm.mat', params)
    loaded, extra = load_params(tmp_path / 'm.mat')
    assert extra == {}
    assert list(loaded) == list(params)
    for i in params:
        for key in 'wb':
            assert_same(loaded[i][key], params[i][key])


def test_what_belongs_to_a_run_comes_back(tmp_path):
    extra = {
        'layers': LAYERS, 'recipe': {'seed': 2 ** 32 - 1, 'epsilon': 0.01, 'name': 'LeNet', 'nothing': ''},
        'iteration': 12345678901, 'param_winc': small_params(seed=1),
        'random_state': np.random.RandomState(3).get_state(legacy=False),
        'history': {'train': np.random.RandomState(4).rand(1, 3), 'test': np.zeros((0, 2))},
        'order': np.random.RandomState(5).permutation(7).astype(np.int32),
    }
    save_params(tmp_path / 'm.mat', small_params(), **extra)
    loaded = load_params(tmp_path / 'm.mat')[1]
    assert_same({key: loaded[key] for key in extra}, extra)
    rng = np.random.RandomState()
    rng.set_state(loaded['random_state'])
    assert rng.rand() == np.random.RandomState(3).rand()


def test_any_reader_of_mat_files_opens_it(tmp_path):
    """In Octave params{2}.w is the w of params[2]: a cell array of structs."""
    params = small_params()
    save_params(tmp_path / 'm.mat', params, layers=LAYERS)
    content = scipy.io.loadmat(tmp_path / 'm.mat')
    assert content['params'].shape == (1, 4)
    np.testing.assert_array_equal(content['params'][0, 0][0, 0]['w'], params[1]['w'])
    assert content['layers'][0, 1][0, 0]['type'][0] == 'CONV'


def test_saving_changes_no_argument(tmp_path):
    params, history = small_params(), {'train': np.ones((2, 3))}
    save_params(tmp_path / 'm.mat', params, history=history)
    assert_same(params, small_params())
    assert_same(history, {'train': np.ones((2, 3))})


@pytest.mark.parametrize('value', [None, [object()], np.zeros((2, 2, 2)), {0: 1.0}, {1: 1.0, 3: 1.0}])
def test_what_a_mat_file_does_not_hold_is_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(TypeError, match='cannot save'):
        save_params(tmp_path / 'm.mat', small_params(), value=value)
    assert os.listdir(tmp_path) == []


def test_every_damaged_byte_is_noticed(tmp_path):
    path = tmp_path / 'm.mat'
    save_params(path, small_params())
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match='m.mat'):
            load_params(path)


def test_every_cut_is_noticed(tmp_path):
    path = tmp_path / 'm.mat'
    save_params(path, small_params())
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match='m.mat'):
            load_params(path)


def test_a_file_that_somebody_made_by_hand_is_no_model(tmp_path):
    """Even with a checksum that is right."""
    path = tmp_path / 'm.mat'
    scipy.io.savemat(path, {'weights': np.ones(3)})
    content = bytearray(path.read_bytes())
    content[:116] = cnn_lenet._HEADER.ljust(116)
    content[cnn_lenet._DIGEST] = cnn_lenet._digest(content)
    path.write_bytes(content)
    with pytest.raises(ValueError, match='m.mat: not a saved model'):
        load_params(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='missing.mat'):
        load_params(tmp_path / 'missing.mat')


@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_when_the_disk_fails_the_old_file_stays(tmp_path, monkeypatch, step):
    path = tmp_path / 'm.mat'
    save_params(path, small_params(seed=0))

    def fail(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match='cannot save: No space left on device.*m.mat'):
        save_params(path, small_params(seed=1))
    assert os.listdir(tmp_path) == ['m.mat']
    assert_same(load_params(path)[0][1]['w'], small_params(seed=0)[1]['w'])


def test_a_link_is_followed_and_kept(tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'm.mat').symlink_to(tmp_path / 'disk' / 'real.mat')
    save_params(tmp_path / 'm.mat', small_params())
    assert (tmp_path / 'm.mat').is_symlink()
    assert load_params(tmp_path / 'disk' / 'real.mat')[0].keys() == {1, 2, 3, 4}


def test_a_process_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    """The child saves on and on, every file full of one number; it is killed while it does so."""
    path, rng = tmp_path / 'm.mat', np.random.RandomState(0)
    code = ('import sys, numpy as np\nfrom cnn_lenet import save_params\nnumber = 0\nwhile True:\n'
            '    number += 1\n'
            '    save_params(sys.argv[1], {1: {"w": np.full((700, 700), number), "b": np.zeros(1)}}, number=number)\n'
            '    print(number, flush=True)\n')
    for _ in range(10):
        child = subprocess.Popen([sys.executable, '-c', code, str(path)], stdout=subprocess.PIPE,
                                 env={**os.environ, 'PYTHONPATH': str(ROOT)})
        child.stdout.readline()
        time.sleep(rng.rand() * 0.06)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        params, extra = load_params(path)
        assert np.all(params[1]['w'] == extra['number'])
