"""Saved models: the same bits come back, or an error that names the file; what was saved is never lost."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import scipy.io
from helpers import arrays, assert_same, map_arrays, network, network_and_batch, raises

from cnn_lenet import predict
from testLeNet import load_model, load_params, save_params


def small_params(seed=0):
    """A w of one row and one of one column, a b of one element, the empty arrays of layers that have none."""
    rng, none = np.random.RandomState(seed), {'w': np.array([]), 'b': np.array([])}
    return {1: {'w': rng.randn(4, 2), 'b': rng.randn(2)}, 2: none, 3: {'w': rng.randn(24, 1), 'b': rng.randn(1)},
            4: {'w': rng.randn(1, 3), 'b': rng.randn(3)}, 5: {'w': rng.randn(1, 1), 'b': rng.randn(1)}}


EXTRA = {                                                        # such as belongs to a run
    'layers': network('lenet in small'), 'iteration': 12345678901,
    'param_winc': {1: {'w': np.eye(3), 'b': np.ones(3)}, 2: {'w': np.ones((3, 2)), 'b': np.ones(2)}},
    'recipe': {'seed': 2 ** 32 - 1, 'epsilon': 0.01, 'name': 'LeNet'},
    'random_state': np.random.RandomState(3).get_state(legacy=False),
    'history': {'train': np.random.RandomState(4).rand(2, 3)},
    'order': np.random.RandomState(5).permutation(7).astype(np.int32), 'number': 0.5,
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'm.mat'


# What was saved comes back

@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_parameters_come_back_bit_for_bit(path, dtype):
    params = map_arrays(lambda array: array.astype(dtype), small_params())
    params[1]['w'][:2, 0] = -0.0, np.finfo(dtype).smallest_subnormal
    params[1]['b'][:] = np.nan, np.inf
    save_params(path, params)
    loaded, extra = load_params(path)
    assert extra == {}
    assert_same(loaded, params)
    assert [array.tobytes() for array in arrays(loaded)] == [array.tobytes() for array in arrays(params)]


def test_what_belongs_to_a_run_comes_back(path):
    save_params(path, small_params(), **EXTRA)
    loaded = load_params(path)[1]
    assert_same(loaded, EXTRA)
    rng = np.random.RandomState()
    rng.set_state(loaded['random_state'])
    assert rng.rand() == np.random.RandomState(3).rand()


@pytest.mark.parametrize('order', [np.ascontiguousarray, np.asfortranarray])
def test_arrays_come_back_with_their_rows_in_sequence(path, order):
    """BLAS adds up in another order where the memory order is another, so that all loaded models compute alike."""
    save_params(path, map_arrays(order, small_params()), param_winc=EXTRA['param_winc'])
    loaded, extra = load_params(path)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in arrays([loaded, extra['param_winc']]))


# MAT-files of another hand

def scipy_again(path, version):
    """Change a filter and save as Octave does: the variables as they were read, without our header."""
    variables = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith('__')}
    variables['params'][0, 0][0, 0]['w'][0, 1] = 7
    scipy.io.savemat(path, variables, do_compression=version == '-v7', long_field_names=True)


def octave_again(path, version):
    if not shutil.which('octave-cli'):
        pytest.skip('needs Octave')
    command = f'load m.mat; params{{1}}.w(1, 2) = 7; save {version} m.mat'
    subprocess.run(['octave-cli', '--quiet', '--norc', '--eval', command], cwd=path.parent, check=True, timeout=300,
                   capture_output=True)


@pytest.mark.parametrize('save_again', [scipy_again, octave_again])
@pytest.mark.parametrize('version', ['-v6', '-v7'])
def test_a_model_that_octave_saved_again_is_loaded(path, save_again, version):
    save_params(path, small_params(), **EXTRA)
    save_again(path, version)
    expected = small_params()
    expected[1]['w'][0, 1] = 7
    assert_same(load_params(path), (expected, EXTRA))


def cells(params):
    """params as scipy saves a cell array of structs."""
    result = np.empty((1, len(params)), object)
    result[0, :] = list(params.values())
    return result


@pytest.mark.parametrize('b_shape', [(-1, 1), (1, -1)], ids=['columns', 'rows'])
def test_a_model_made_by_hand_in_octave_is_loaded(path, b_shape):
    """There are no arrays of one dimension there; an empty one is 0 x 0, and whole numbers are floats too."""
    params, layers, data, _ = network_and_batch('lenet in small')
    params[1]['w'] = np.round(params[1]['w'] * 9)
    by_hand = {i: {'w': p['w'], 'b': p['b'].reshape(b_shape)} if p['w'].size else
               {'w': np.zeros((0, 0)), 'b': np.zeros((0, 0))} for i, p in params.items()}
    by_hand[1]['w'] = by_hand[1]['w'].astype(np.int8)
    scipy.io.savemat(path, {'params': cells(by_hand)})
    loaded, extra = load_params(path)
    assert extra == {}
    assert {i: (p['w'].shape, p['b'].shape) for i, p in loaded.items() if p['w'].size} == {
        i: (p['w'].shape, p['b'].shape) for i, p in params.items() if p['w'].size}
    np.testing.assert_allclose(predict(loaded, layers, data), predict(params, layers, data), rtol=1e-10)


@pytest.mark.parametrize('variables', [
    {'weights': np.ones(3)}, {'params': 3.0}, {'params': 'lenet'}, {'params': cells({1: {'w': np.ones((4, 2))}})}],
    ids=['no params', 'params is a number', 'params is text', 'no b'])
def test_a_mat_file_that_holds_no_model_is_named(path, variables):
    scipy.io.savemat(path, variables)
    with raises(str(path), 'params'):
        load_params(path)


def test_a_matrix_is_never_reshaped_into_another(path):
    """Such as one that Octave has transposed: (num, inputs) where (inputs, num) is expected."""
    params = network_and_batch('LeNet')[0]
    params[7]['w'] = params[7]['w'].T
    save_params(path, params)
    with raises(str(path), 'params[7]', (9, 500), (500, 9)):
        load_model(path)


@pytest.mark.parametrize('content, words', [
    (b'', 'save -v7'), (bytes(1000), 'save -v7'), (b'# Created by Octave 7.3.0\n# name: params\n', 'save -v7'),
    (b'\x80\x04\x95' + bytes(100), 'a pickle, which is never loaded'),
    (b'(dp1\nI0\n', 'a pickle, which is never loaded')])
def test_a_file_of_another_format_is_named_with_what_is_expected(path, content, words):
    path.write_bytes(content)
    with raises(str(path), words) as error:
        load_params(path)
    assert '\n' not in str(error.value)


def test_a_missing_file_is_named(path):
    with raises(str(path), error=FileNotFoundError):
        load_params(path)


# Damage

@pytest.mark.parametrize('damage', [
    lambda content, at: content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1:],
    lambda content, at: content[:at]], ids=['a bit', 'a cut'])
def test_damage_is_noticed(path, damage):
    """The checksum of all the rest stands in the free text of 116 bytes that a MAT-file begins with."""
    save_params(path, small_params())
    content = path.read_bytes()
    for at in [*range(116, len(content), 23), len(content) - 1]:
        path.write_bytes(damage(content, at))
        with raises(str(path), 'damaged'):
            load_params(path)


# Nothing is lost

@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_when_the_disk_fails_the_old_file_stays(path, monkeypatch, step):
    save_params(path, small_params(seed=0))

    def fail(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match='cannot save: No space left on device.*m.mat'):
        save_params(path, small_params(seed=1))
    assert os.listdir(path.parent) == ['m.mat']
    assert_same(load_params(path)[0], small_params(seed=0))


def test_a_link_is_followed_and_kept(tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'm.mat').symlink_to(tmp_path / 'disk' / 'real.mat')
    save_params(tmp_path / 'm.mat', small_params())
    assert (tmp_path / 'm.mat').is_symlink()
    assert_same(load_params(tmp_path / 'disk' / 'real.mat')[0], small_params())


def test_a_save_that_was_killed_leaves_the_old_file_and_the_next_one_works(path, monkeypatch):
    save_params(path, small_params())
    with monkeypatch.context() as killed:              # before the end, and without any clearing up
        killed.setattr(os, 'replace', lambda *_: 1 / 0)
        killed.setattr(os, 'remove', lambda path: None)
        with pytest.raises(ZeroDivisionError):
            save_params(path, small_params(seed=1))
    assert_same(load_params(path)[0], small_params())
    save_params(path, small_params(seed=1))
    assert_same(load_params(path)[0], small_params(seed=1))


def test_two_processes_that_save_at_once_do_not_disturb_each_other(path, monkeypatch):
    """Another one saves while this one waits for the disk."""
    fsync = os.fsync

    def another_process_saves(descriptor):
        monkeypatch.setattr(os, 'fsync', fsync)
        with monkeypatch.context() as another:
            another.setattr(os, 'getpid', lambda: 12345)
            save_params(path, small_params(seed=1))
        assert_same(load_params(path)[0], small_params(seed=1))

    monkeypatch.setattr(os, 'fsync', another_process_saves)
    save_params(path, small_params())
    assert_same(load_params(path)[0], small_params())
    assert os.listdir(path.parent) == ['m.mat']
