"""load_mnist, and the data file itself."""

import hashlib
import tracemalloc

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
    assert [len(mnist[f'train{digit}']) for digit in range(10)] == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert [len(mnist[f'test{digit}']) for digit in range(10)] == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    digest = hashlib.sha256()
    for name in ('train', 'test'):
        for digit in range(10):
            assert mnist[f'{name}{digit}'].dtype == np.uint8
            digest.update(mnist[f'{name}{digit}'].tobytes())
    assert digest.hexdigest() == '7c10294c67b639de8f83465d100ca1aeef34d0f422dea714dc17b471eba6dd92'


def expected_parts(mnist, fullset, rng):
    """The three parts, drawn as the handout's code draws them: (uint8 images, one a row; digits)."""
    train_order, test_order = np.arange(60000), np.arange(10000)
    rng.shuffle(train_order)
    rng.shuffle(test_order)
    for name, part in (('train', train_order[10000:]), ('train', train_order[:10000]), ('test', test_order)):
        kept = part[:len(part) // (1 if fullset else 20)]
        images = [mnist[f'{name}{digit}'] for digit in range(10)]
        digits = np.concatenate([np.full(len(rows), digit) for digit, rows in enumerate(images)])
        yield np.concatenate(images)[kept], digits[kept]


def check_parts(parts, expected, sizes, dtype):
    assert isinstance(parts, list) and len(parts) == 6
    for x, y, (images, digits), size in zip(parts[::2], parts[1::2], expected, sizes):
        assert (x.shape, y.shape, x.dtype) == ((784, size), (size,), dtype)
        assert np.issubdtype(y.dtype, np.integer)
        np.testing.assert_array_equal(y, digits)
        np.testing.assert_array_equal(x[:, ::97], images[::97].T.astype(dtype) / dtype(255))


@pytest.mark.parametrize('arguments, sizes', [((), (50000, 10000, 10000)), ((False,), (2500, 500, 500))])
def test_the_global_generator_shuffles_60000_indices_then_10000(mnist, arguments, sizes):
    np.random.seed(3)
    parts, drawn = load_mnist(*arguments), np.random.rand()      # the next draw shows the generator's state
    rng = np.random.RandomState(3)
    check_parts(parts, expected_parts(mnist, not arguments, rng), sizes, np.float64)
    assert drawn == rng.rand()


def test_a_generator_of_ones_own_leaves_the_global_one_alone(mnist, tmp_path, monkeypatch):
    """The file is found from any directory."""
    monkeypatch.chdir(tmp_path)
    np.random.seed(4)
    parts = load_mnist(False, np.float32, np.random.RandomState(3))
    assert np.random.rand() == np.random.RandomState(4).rand()
    check_parts(parts, expected_parts(mnist, False, np.random.RandomState(3)), (2500, 500, 500), np.float32)


def test_the_small_set_is_not_cut_out_of_the_full_one():
    """Less than half of the memory that 70,000 images take as floats."""
    tracemalloc.start()
    try:
        load_mnist(False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 70000 * 784 * 8 / 2


# Files that are not MNIST

@pytest.fixture
def mnist_file(tmp_path, monkeypatch):
    """Where the data file is looked for: nothing is there yet."""
    monkeypatch.setattr(cnn_lenet, 'MNIST_FILE', tmp_path / 'mnist_all.mat')
    return tmp_path / 'mnist_all.mat'


def test_a_missing_file_is_named(mnist_file):
    with raises('mnist_all.mat', error=FileNotFoundError):
        load_mnist()


def test_a_file_that_is_cut_off_is_named(mnist_file):
    whole = MNIST_FILE.read_bytes()
    mnist_file.write_bytes(whole[:len(whole) // 2])
    with raises('mnist_all.mat', 'train0', 'test9'):
        load_mnist()


def test_a_file_of_other_images_is_named(mnist, mnist_file):
    """The same pixels, but as floats."""
    pixels = {name: value for name, value in mnist.items() if not name.startswith('__')}
    scipy.io.savemat(mnist_file, {**pixels, 'test9': pixels['test9'] / 255})
    with raises('mnist_all.mat', 'expected'):
        load_mnist()


def test_want_of_memory_is_not_damage():
    """The images are 55 MB."""
    assert_memory_error('cnn_lenet.load_mnist(False)', 20)
