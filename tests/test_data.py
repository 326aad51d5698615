"""load_mnist, and the data file itself."""

import hashlib
import tracemalloc

import helpers
import numpy as np
import pytest
import scipy.io
from helpers import assert_memory_error, raises

import cnn_lenet
from cnn_lenet import MNIST_FILE, load_mnist


@pytest.fixture(scope='module')
def mnist():
    """The variables of mnist_all.mat, as they lie in the file."""
    return scipy.io.loadmat(MNIST_FILE)


def test_images_of_each_digit(mnist):
    """As many as LeCun, Cortes and Burges have; their pixels by a digest."""
    names = [[f'{part}{digit}' for digit in range(10)] for part in ('train', 'test')]
    assert [[len(mnist[name]) for name in part] for part in names] == [
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]]
    digest = hashlib.sha256()
    for name in sum(names, []):
        assert mnist[name].dtype == np.uint8
        digest.update(mnist[name].tobytes())
    assert digest.hexdigest() == '7c10294c67b639de8f83465d100ca1aeef34d0f422dea714dc17b471eba6dd92'


def check_parts(parts, mnist, fullset, dtype, rng):
    """The three parts are what the handout's code draws: 60,000 indices are shuffled, then 10,000."""
    train_order, test_order = np.arange(60000), np.arange(10000)
    rng.shuffle(train_order)
    rng.shuffle(test_order)
    orders = train_order[10000:], train_order[:10000], test_order
    assert isinstance(parts, list) and len(parts) == 6
    for x, y, name, order in zip(parts[::2], parts[1::2], ('train', 'train', 'test'), orders):
        order = order[:len(order) // (1 if fullset else 20)]
        assert (x.shape, y.shape, x.dtype) == ((784, len(order)), (len(order),), dtype)
        assert np.issubdtype(y.dtype, np.integer)
        digits = [mnist[f'{name}{digit}'] for digit in range(10)]
        np.testing.assert_array_equal(y, np.repeat(np.arange(10), [len(rows) for rows in digits])[order])
        images = np.concatenate(digits)[order[::97]]
        np.testing.assert_array_equal(x[:, ::97], images.T.astype(dtype) / dtype(255))


def test_the_full_set(mnist):
    """The default, in double precision; here in single precision, as other tests take it."""
    assert load_mnist.__defaults__[:2] == (True, np.float64)
    check_parts(helpers.mnist(True), mnist, True, np.float32, np.random.RandomState(0))


def test_the_global_generator_shuffles(mnist):
    np.random.seed(3)
    parts, drawn = load_mnist(False), np.random.rand()           # the next draw shows the generator's state
    rng = np.random.RandomState(3)
    check_parts(parts, mnist, False, np.float64, rng)
    assert drawn == rng.rand()


def test_a_generator_of_ones_own_leaves_the_global_one_alone(mnist, tmp_path, monkeypatch):
    """The file is found from any directory; and the small set is not cut out of the full one, as floats 220 MB."""
    monkeypatch.chdir(tmp_path)
    np.random.seed(4)
    tracemalloc.start()
    try:
        parts = load_mnist(False, np.float32, np.random.RandomState(3))
        assert tracemalloc.get_traced_memory()[1] < 70000 * 784 * 4
    finally:
        tracemalloc.stop()
    assert np.random.rand() == np.random.RandomState(4).rand()
    check_parts(parts, mnist, False, np.float32, np.random.RandomState(3))


# Files that are not MNIST

@pytest.mark.parametrize('write, error, words', [
    (lambda file, mnist: None, FileNotFoundError, []),
    (lambda file, mnist: file.write_bytes(MNIST_FILE.read_bytes()[:MNIST_FILE.stat().st_size // 2]), ValueError,
     ['damaged', 'expected', 'train0', 'test9']),
    (lambda file, mnist: scipy.io.savemat(file, {  # the same pixels, but as floats
        **{name: value for name, value in mnist.items() if not name.startswith('__')}, 'test9': mnist['test9'] / 255}),
     ValueError, ['expected']),
], ids=['missing', 'cut off', 'other images'])
def test_a_wrong_file_is_named(mnist, tmp_path, monkeypatch, write, error, words):
    monkeypatch.setattr(cnn_lenet, 'MNIST_FILE', tmp_path / 'mnist_all.mat')
    write(cnn_lenet.MNIST_FILE, mnist)
    with raises('mnist_all.mat', *words, error=error):
        load_mnist()


def test_want_of_memory_is_not_damage():
    """The images are 55 MB."""
    assert_memory_error('cnn_lenet.load_mnist(False)', 20)
