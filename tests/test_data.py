"""load_mnist, and the data file itself."""

import hashlib
import tracemalloc

import numpy as np
import pytest
import scipy.io

import cnn_lenet
from cnn_lenet import MNIST_FILE, load_mnist


@pytest.fixture(scope='module')
def mnist():
    """The variables of mnist_all.mat, as they lie in the file."""
    return scipy.io.loadmat(MNIST_FILE)


@pytest.fixture
def mnist_file(tmp_path, monkeypatch):
    """Write another data file, from bytes or from a dict of variables, and have it read."""
    path = tmp_path / 'mnist_all.mat'
    monkeypatch.setattr(cnn_lenet, 'MNIST_FILE', path)

    def write(content):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            scipy.io.savemat(path, content)

    return write


def expected_parts(mnist, fullset, shuffle):
    """The three parts, drawn as the handout's code draws them: (uint8 images, one a row; digits)."""
    images, digits, orders = {}, {}, {}
    for name, count in (('train', 60000), ('test', 10000)):
        images[name] = np.concatenate([mnist[f'{name}{digit}'] for digit in range(10)])
        digits[name] = np.array([digit for digit in range(10) for _ in mnist[f'{name}{digit}']])
        orders[name] = np.arange(count)
        shuffle(orders[name])
    share = 1 if fullset else 20
    for name, part in (('train', orders['train'][10000:]), ('train', orders['train'][:10000]),
                       ('test', orders['test'])):
        kept = part[:len(part) // share]
        yield images[name][kept], digits[name][kept]


# The file

def test_class_counts(mnist):
    """As many images of each digit as LeCun, Cortes and Burges have."""
    assert [len(mnist[f'train{digit}']) for digit in range(10)] == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert [len(mnist[f'test{digit}']) for digit in range(10)] == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_digest_of_the_pixels(mnist):
    digest = hashlib.sha256()
    for name in ('train', 'test'):
        for digit in range(10):
            assert mnist[f'{name}{digit}'].dtype == np.uint8
            digest.update(mnist[f'{name}{digit}'].tobytes())
    assert digest.hexdigest() == '7c10294c67b639de8f83465d100ca1aeef34d0f422dea714dc17b471eba6dd92'


def test_images_stand_upright(mnist):
    """The mean 1 is a vertical stroke: taller than wide, when a row of 784 pixels is read as 28 rows of 28."""
    rows, columns = np.nonzero(mnist['train1'].mean(axis=0).reshape(28, 28) > 64)
    assert np.ptp(rows) > 2 * np.ptp(columns)


# load_mnist

@pytest.mark.parametrize('fullset, sizes', [(True, (50000, 10000, 10000)), (False, (2500, 500, 500))])
@pytest.mark.parametrize('private', [False, True])
def test_draws(mnist, fullset, sizes, private):
    """60,000 training indices are shuffled, then 10,000 test indices, by the global generator or a private one."""
    np.random.seed(3)
    expected = list(expected_parts(mnist, fullset, np.random.shuffle))
    drawn = np.random.rand()                                     # the next draw shows the generator's state
    np.random.seed(3 if not private else 4)
    rng = np.random.RandomState(3)
    result = load_mnist(fullset, dtype=np.float32, rng=rng) if private else load_mnist(fullset)
    assert (rng if private else np.random).rand() == drawn
    if private:
        assert np.random.rand() == np.random.RandomState(4).rand()
    assert isinstance(result, list) and len(result) == 6
    for x, y, (images, digits), size in zip(result[::2], result[1::2], expected, sizes):
        assert x.shape == (784, size) and y.shape == (size,)
        assert x.dtype == (np.float32 if private else np.float64)
        np.testing.assert_array_equal(y, digits)
        np.testing.assert_array_equal(x[:, ::97], images[::97].T.astype(x.dtype) / x.dtype.type(255))
        assert x.min() == 0 and x.max() == 1


def test_fullset_is_the_default():
    np.random.seed(0)
    assert [x.shape[-1] for x in load_mnist(dtype=np.float32)] == [50000, 50000, 10000, 10000, 10000, 10000]


def test_labels_are_whole_numbers_that_conv_net_takes():
    y = load_mnist(False, rng=np.random.RandomState(0))[1]
    assert np.issubdtype(y.dtype, np.integer)
    assert sorted(set(y.tolist())) == list(range(10))


def test_precision_changes_nothing_else():
    double, single = (load_mnist(False, dtype, np.random.RandomState(0)) for dtype in (np.float64, np.float32))
    for a, b in zip(double, single):
        np.testing.assert_array_equal(a.astype(b.dtype), b)


def test_the_file_is_found_from_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(load_mnist(False)[1]) == 2500


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

@pytest.mark.parametrize('share', [0, 0.001, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(mnist_file, share):
    whole = MNIST_FILE.read_bytes()
    mnist_file(whole[:int(share * len(whole))])
    with pytest.raises(ValueError, match=r'mnist_all\.mat'):
        load_mnist()


@pytest.mark.parametrize('content', [b'5' * 1000, b'\x89HDF\r\n\x1a\n' + bytes(1000),
                                     b'MATLAB 5.0 MAT-file' + bytes(2000)])
def test_a_file_of_another_format_is_named(mnist_file, content):
    mnist_file(content)
    with pytest.raises(ValueError, match=r'mnist_all\.mat'):
        load_mnist()


def blank_images(**changed):
    """As many images as MNIST has, all of the digit 0 and all black; some of the variables changed."""
    variables = {f'{name}{digit}': np.zeros((0, 784), np.uint8) for name in ('train', 'test') for digit in range(10)}
    variables['train0'], variables['test0'] = (np.zeros((count, 784), np.uint8) for count in (60000, 10000))
    variables.update(changed)
    return {name: value for name, value in variables.items() if value is not None}


@pytest.mark.parametrize('changed, words', [
    (None, ['train0', 'missing', 'train9']),
    (dict(train3=None), ['train3', 'missing']),
    (dict(test7=None), ['test7', 'missing', 'test9']),
    (dict(train2=np.zeros((5, 784))), ['train2', 'float64', 'uint8']),
    (dict(test0=np.zeros((5, 783), np.uint8)), ['test0', r'\(5, 783\)', '784']),
    (dict(train9=np.zeros((784, 5), np.uint8)), ['train9', r'\(784, 5\)', '784']),
    (dict(train0=np.zeros((28, 28, 5), np.uint8)), ['train0', r'\(28, 28, 5\)', '784']),
    (dict(train0='a word'), ['train0', 'uint8']),
    (dict(train0=np.zeros((59999, 784), np.uint8)), ['train0', 'train9', '59999', '60000']),
    (dict(test0=np.zeros((10001, 784), np.uint8)), ['test0', 'test9', '10001', '10000']),
])
def test_a_foreign_file_is_named_and_the_variable(mnist_file, changed, words):
    mnist_file({'x': np.ones(3)} if changed is None else blank_images(**changed))
    with pytest.raises(ValueError, match=r'mnist_all\.mat') as error:
        load_mnist()
    for word in words:
        error.match(word)
