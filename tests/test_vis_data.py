"""The pictures of vis_data.py: what is on each of them, and the script in a child process."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from helpers import RELU, conv, data_layer, feature_map, inner_product, loss, mnist, raises

import testLeNet
import vis_data
from cnn_lenet import forward, init_convnet, predict
from testLeNet import save_params
from vis_data import draw_features, draw_mistakes, draw_training

ROOT = Path(vis_data.__file__).resolve().parent
LENET = testLeNet.get_lenet()
PARAMS = init_convnet(LENET, np.float32, np.random.RandomState(0))
HISTORY = {'train': np.stack([np.arange(1, 501), 2 / np.arange(1, 501), np.linspace(0, 1, 500)], axis=1),
           'test': np.array([[250, 0.5], [500, 0.9]])}


def titles(figure):
    return {ax.get_title(loc='left'): ax for ax in figure.axes}


def maps_on(ax, h, w, scale=1):
    """The twenty maps (20, h, w) on an axes, after a look at what is between them: nothing."""
    [image] = ax.get_images()
    tiles = np.ma.filled(image.get_array(), np.nan)
    rows = tiles.reshape(2, len(tiles) // 2, 10, -1).swapaxes(1, 2).reshape(20, len(tiles) // 2, -1)
    maps = rows[:, -scale * h:, :scale * w]
    assert np.isnan(rows).sum() == rows.size - maps.size > 0
    for row in range(1, scale):
        np.testing.assert_array_equal(maps[:, row::scale], maps[:, ::scale])
    return maps[:, ::scale, ::scale]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A small network, which is drawn quickly."""
    path = tmp_path_factory.mktemp('model') / 'lenet.mat'
    layers = {1: data_layer(28, 28, 1, 1), 2: loss(10)}
    params = init_convnet(layers, np.float32, np.random.RandomState(0))
    save_params(path, params, layers=layers, recipe={'seed': 0, 'fullset': False}, history=HISTORY)
    return path


@pytest.fixture
def few_images(monkeypatch):
    """Test images 0 to 4, in place of MNIST's."""
    monkeypatch.setattr(vis_data, 'load_mnist', lambda *_: [np.full((784, 5), 0.5, np.float32), np.arange(5)] * 3)


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    vis_data.pyplot.close('all')


# Features

@pytest.fixture(scope='module')
def features():
    image = np.random.RandomState(1).rand(784).astype(np.float32)
    return image, titles(draw_features(PARAMS, LENET, image, 'test image 5 (true class 3)'))


@pytest.mark.parametrize('i, title', [(2, 'layer 2: convolution, 20 maps of 24 x 24'),
                                      (3, 'layer 3: max pooling, 20 maps of 12 x 12')])
def test_features_are_the_maps_of_each_layer_on_one_scale(features, i, title):
    image, axes = features
    expected = np.moveaxis(feature_map(forward(PARAMS, LENET, image[:, None])[i])[:, :, :, 0], 2, 0)
    np.testing.assert_array_equal(maps_on(axes[title], *expected.shape[1:], scale=i - 1), expected)
    assert axes[title].get_images()[0].get_clim() == (expected.min(), expected.max())
    assert [text.get_text() for text in axes[title].texts] == [str(number) for number in range(1, 21)]


def test_filters_are_those_of_layer_2_on_a_scale_symmetric_about_0(features):
    ax = features[1]['the 20 filters of layer 2, 5 x 5']
    np.testing.assert_array_equal(maps_on(ax, 5, 5, scale=5).reshape(20, 25), PARAMS[1]['w'].T)
    largest = abs(PARAMS[1]['w']).max()
    assert ax.get_images()[0].get_clim() == (-largest, largest)


def test_features_show_the_image_its_class_and_the_probabilities(features):
    image, axes = features
    p = predict(PARAMS, LENET, image[:, None])[:, 0]
    np.testing.assert_array_equal(axes['layer 1: input, 28 x 28'].get_images()[0].get_array().ravel(), image)
    bars = axes['probability of each class']
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], p)
    assert [text.get_text() for text in bars.texts] == [f'{value:.4f}' if value >= 0.005 else '' for value in p]
    assert bars.figure.get_suptitle() == \
        f'test image 5 (true class 3): predicted class {p.argmax()}, probability {p.max():.4f}'


@pytest.mark.parametrize('above, expected', [
    ([conv(13, 3), RELU, inner_product(20)], ['the 13 filters of layer 2, 3 x 3',
                                              'layer 2: convolution, 13 maps of 26 x 26',
                                              'layer 3: ReLU, 13 maps of 26 x 26']),
    ([inner_product(20), RELU], []),
    ([], [])])
def test_other_networks_show_what_maps_they_have(above, expected):
    layers = dict(enumerate([data_layer(28, 28, 1, 1), *above, loss(10)], 1))
    params = init_convnet(layers, rng=np.random.RandomState(0))
    axes = titles(draw_features(params, layers, np.full(784, 0.5)))
    assert [title for title in axes if 'layer 2' in title or 'layer 3' in title] == expected


@pytest.mark.parametrize('p, text', [(0.99994, '0.9999'), (0.99996, '> 0.9999'), (1, '1.0000'), (0.25, '0.2500'),
                                     (np.float32(0.999999), '> 0.9999')])
def test_no_probability_is_rounded_to_1(p, text):
    assert vis_data.rounded(p) == text


# Training

def test_training_shows_every_value_the_running_mean_and_the_tests():
    upper, lower = draw_training(HISTORY, 500).axes
    for ax, column in ((upper, 1), (lower, 2)):
        np.testing.assert_array_equal(ax.lines[0].get_xydata(), HISTORY['train'][:, [0, column]])
        x, y = ax.lines[1].get_xydata()[0]
        assert (x, y) == (13, pytest.approx(HISTORY['train'][:25, column].mean()))     # 13: the middle of 1..25
    np.testing.assert_array_equal(lower.lines[2].get_xydata(), HISTORY['test'])
    assert lower.lines[2].get_label() == 'accuracy on 500 test images (last: 90.00%)'
    assert 'log' in upper.get_ylabel() and 'stretched' in lower.get_ylabel()


def test_a_run_of_one_iteration_is_drawn(tmp_path):
    figure = draw_training({'train': HISTORY['train'][:1], 'test': np.zeros((0, 2))}, 500)
    vis_data.save_figure(tmp_path / 't.png', figure)
    assert [len(ax.lines) for ax in figure.axes] == [1, 1]


# Mistakes

@pytest.mark.parametrize('wrong', [0, 5, 15])
def test_mistakes_are_shown_from_the_most_confident_on(wrong):
    rng = np.random.RandomState(0)
    images, probabilities = rng.rand(784, 40), rng.dirichlet(np.full(10, 0.3), 40).T
    predicted = probabilities.argmax(axis=0)
    labels = predicted.copy()
    labels[rng.permutation(40)[:wrong]] += 1
    labels %= 10
    figure = draw_mistakes(images, labels, probabilities)
    *shown, confusion = figure.axes
    expected = sorted(np.flatnonzero(labels != predicted), key=lambda j: -probabilities[:, j].max())[:12]
    assert len(shown) == len(expected)
    for ax, j in zip(shown, expected):
        assert ax.get_title() == f'true {labels[j]}\npredicted {predicted[j]}'
        np.testing.assert_array_equal(ax.get_images()[0].get_array().ravel(), images[:, j])
    left, right = (part.get_suptitle() for part in figure.subfigs)
    assert left == (f'mistakes: the most confident {len(expected)} of {wrong}' if wrong else 'no mistakes')
    assert right.startswith(f'confusion matrix: {wrong} of 40 test images wrong')
    hint = figure.subfigs[0].get_supxlabel()
    assert hint.endswith(f'python vis_data.py --image {expected[0]}') if wrong else not hint
    pairs = list(zip(predicted, labels))
    assert {text.get_position(): int(text.get_text()) for text in confusion.texts} == {
        place: pairs.count(place) for place in np.ndindex(10, 10)}


# Loading and errors

def test_first_test_image_is_that_of_the_training_run(model, monkeypatch):
    """Image 0 is the first that testLeNet.py tests on, whichever set it trains on."""
    seen = []
    monkeypatch.setattr(vis_data, 'draw_features', lambda params, layers, *rest: seen.extend(rest) or sys.exit('drawn'))
    with pytest.raises(SystemExit, match='drawn'):
        vis_data.main(['--model', str(model), '--out', str(model.parent)])
    *_, xtest, ytest = mnist(False)
    np.testing.assert_array_equal(seen[0], xtest[:, 0])
    assert seen[1] == f'test image 0 (true class {ytest[0]})'


def test_parameters_alone_are_drawn_without_a_training_curve(tmp_path, few_images, monkeypatch, capsys):
    """What is left when Octave saves `params` again, and nothing else, or not enough of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['ipykernel_launcher.py', '-f', 'kernel.json'])        # of a notebook
    monkeypatch.setattr(vis_data, 'save_figure', lambda path, figure: None)
    save_params('lenet.mat', PARAMS)
    vis_data.main()
    printed = capsys.readouterr()
    assert [Path(line).name for line in printed.out.splitlines()] == ['features.png', 'mistakes.png']
    assert printed.err == 'lenet.mat: holds no history of its training, so there is no training.png\n'
    save_params('lenet.mat', PARAMS, history=HISTORY, recipe={'mu': 0.9})
    assert vis_data.load_model('lenet.mat')[2] is None


@pytest.mark.parametrize('flags, words', [
    (['--model', 'my model.mat'], ["my model.mat: no such file; python testLeNet.py --model 'my model.mat' makes"]),
    (['--image', '5'], ['argument --image: 5', '0..4']),
    (['--out', 'lenet.mat'], ['lenet.mat']),
    (['--out', 'taken'], ['cannot save', 'features.png']),
    (['--show'], ['argument --show: there is no display', 'agg'])])
def test_what_goes_wrong_is_one_line(model, few_images, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(model.parent)
    os.makedirs('taken/features.png', exist_ok=True)
    before = sorted(os.listdir())
    with pytest.raises(SystemExit) as stop:
        vis_data.main(flags)
    assert stop.value.code.startswith('vis_data.py: error: ') and '\n' not in stop.value.code
    for word in words:
        assert word in stop.value.code
    assert capsys.readouterr() == ('', '')
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize('params, layers, words', [
    (PARAMS, {**LENET, 6: {**LENET[6], 'num': 400}}, ['params[5]', (800, 500), (800, 400)]),
    ({**PARAMS, 7: {'w': np.zeros((500, 2)), 'b': np.zeros(2)}}, {**LENET, 8: loss(3)}, [(28, 28, 1), 3, 10])])
def test_a_model_that_is_none_on_mnist_is_an_error_that_names_the_file(tmp_path, params, layers, words):
    save_params(tmp_path / 'm.mat', params, layers=layers)
    with raises(tmp_path / 'm.mat', *words):
        vis_data.load_model(tmp_path / 'm.mat')


# Showing pictures, and the script as a process

@pytest.mark.parametrize('backend', ['module://matplotlib_inline.backend_inline', 'tkagg', 'nbagg'])
def test_pictures_can_be_shown_in_windows_and_in_notebooks(monkeypatch, backend):
    monkeypatch.setattr(vis_data.pyplot, 'switch_backend', lambda _: None)
    monkeypatch.setattr(matplotlib, 'get_backend', lambda: backend)
    vis_data.check_display('--show')


def test_three_pictures_are_written_and_it_is_said_where(model, few_images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    vis_data.main(['--model', str(model), '--image', '4', '--out', 'new'])
    paths = capsys.readouterr().out.splitlines()
    assert [Path(path).name for path in paths] == ['features.png', 'training.png', 'mistakes.png']
    for path in paths:
        assert min(matplotlib.image.imread(path).shape[:2]) > 400


def test_a_missing_file_is_named_as_it_was_typed_whatever_the_locale(tmp_path):
    process = subprocess.run([sys.executable, ROOT / 'vis_data.py', '--model', 'möde.mat'], cwd=tmp_path,
                             capture_output=True, encoding='utf-8', env={**os.environ, 'LC_ALL': 'C'})
    assert (process.returncode, process.stdout) == (1, '')
    assert process.stderr.startswith('vis_data.py: error: möde.mat: no such file; ')
