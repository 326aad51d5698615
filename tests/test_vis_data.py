"""The pictures of vis_data.py: what is on each of them, and the script in a child process."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from helpers import RELU, conv, data_layer, feature_map, inner_product, loss, pooling, raises
from matplotlib.text import Text

import testLeNet
import vis_data
from cnn_lenet import forward, init_convnet, load_mnist, predict, save_params
from vis_data import confusion_matrix, draw_features, draw_mistakes, draw_training

ROOT = Path(vis_data.__file__).resolve().parent
PICTURES = ['features.png', 'mistakes.png', 'training.png']


def network(*layers):
    return dict(enumerate(layers, 1))


# layers, and the titles that belong above the three groups of maps
NETWORKS = {
    'lenet': (testLeNet.get_lenet(), ['layer 1: input, 28 x 28', 'layer 2: convolution, 20 maps of 24 x 24',
                                      'layer 3: max pooling, 20 maps of 12 x 12']),
    'not square': (network(data_layer(6, 10, 1, 1), conv(7, 2), RELU, loss(3)),
                   ['layer 1: input, 6 x 10', 'layer 2: convolution, 7 maps of 5 x 9',
                    'layer 3: ReLU, 7 maps of 5 x 9']),
    'in colour': (network(data_layer(12, 12, 3, 1), conv(64, 3, pad=1), pooling(2, 2), loss(26)),
                  ['layer 1: input, 3 channels of 12 x 12', 'layer 2: convolution, 64 maps of 12 x 12',
                   'layer 3: max pooling, 64 maps of 6 x 6']),
    'two channels': (network(data_layer(8, 5, 2, 1), pooling(1, 1), conv(1, 5, pad=1), inner_product(3), loss(2)),
                     ['layer 1: input, 2 channels of 8 x 5', 'layer 2: max pooling, 2 maps of 8 x 5',
                      'layer 3: convolution, 1 map of 6 x 3']),
    'no maps': (network(data_layer(4, 4, 1, 1), inner_product(120), RELU, loss(4)),
                ['layer 1: input, 4 x 4', 'layer 2: inner product, 120 values', 'layer 3: ReLU, 120 values']),
    'one layer': (network(data_layer(3, 3, 1, 1), loss(2)), ['layer 1: input, 3 x 3']),
    'larger than the page': (network(data_layer(2, 1500, 1, 1), conv(2, 2), RELU, loss(2)),
                             ['layer 1: input, 2 x 1500', 'layer 2: convolution, 2 maps of 1 x 1499',
                              'layer 3: ReLU, 2 maps of 1 x 1499']),
}


@functools.cache
def features(network, n=3, column=1, **more):
    """(the figure, outputs, probabilities) for one of n random images and a network of NETWORKS."""
    layers = NETWORKS[network][0]
    rng = np.random.RandomState(0)
    params = init_convnet(layers, rng=rng)
    x = rng.rand(layers[1]['height'] * layers[1]['width'] * layers[1]['channel'], n)
    outputs, probabilities = forward(params, layers, x), predict(params, layers, x)
    return draw_features(outputs, layers, probabilities, column=column, **more), outputs, probabilities


def axes_with_maps(figure):
    return [ax for ax in figure.axes if ax.get_images()]


def texts_of(figure):
    """Every text that drawing the figure draws, with its box in pixels."""
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        draw = Text.draw
        patch.setattr(Text, 'draw', lambda text, renderer: (drawn.append(text), draw(text, renderer)))
        figure.draw_without_rendering()
    return [(text.get_text(), text.get_window_extent()) for text in dict.fromkeys(drawn)
            if text.get_visible() and text.get_text().strip()]


def assert_readable(figure, expected):
    """No text leaves the figure, none covers another; the expected one is among them."""
    texts = texts_of(figure)
    assert expected in [text for text, _ in texts]
    page = figure.bbox
    for text, box in texts:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, text
    for i, (text, box) in enumerate(texts):
        for other, other_box in texts[:i]:
            overlap = (min(box.x1, other_box.x1) - max(box.x0, other_box.x0),
                       min(box.y1, other_box.y1) - max(box.y0, other_box.y0))
            assert min(overlap) <= 0.1, f'{text!r} covers {other!r}'


# Features

@pytest.mark.parametrize('name', NETWORKS)
def test_features_are_the_maps_of_each_layer_under_its_title(name):
    figure, outputs, _ = features(name)
    groups = axes_with_maps(figure)
    assert [ax.get_title(loc='left') for ax in groups] == NETWORKS[name][1]
    for i, ax in enumerate(groups, 1):
        maps = feature_map(outputs[i])[:, :, :, 1]
        shown = [image.get_array() for image in ax.get_images()]
        expected = [maps] if i == 1 and maps.shape[2] == 3 else np.moveaxis(maps, 2, 0)
        assert len(shown) == len(expected)
        for found, values in zip(shown, expected):
            np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize('name', NETWORKS)
def test_maps_of_a_layer_share_one_scale_and_its_colour_bar(name):
    figure, outputs, _ = features(name)
    bars = [ax for ax in figure.axes if hasattr(ax, '_colorbar')]
    groups = axes_with_maps(figure)
    if outputs[1]['channel'] == 3:
        groups = groups[1:]                      # an image in colour has no scale
    assert len(bars) == len(groups)
    for ax, bar in zip(groups, bars):
        values = np.array([image.get_array() for image in ax.get_images()])
        for image in ax.get_images():
            assert image.norm is ax.get_images()[0].norm
            assert image.get_interpolation() == 'nearest'
        assert (image.norm.vmin, image.norm.vmax) == (values.min(), values.max())
        assert bar.get_ylim() == pytest.approx((values.min(), values.max()))
        assert image.get_cmap().name == bar._colorbar.cmap.name


@pytest.mark.parametrize('name', NETWORKS)
def test_maps_do_not_overlap_and_keep_their_proportions(name):
    figure, _, _ = features(name)
    for ax in axes_with_maps(figure):
        places = []
        for image in ax.get_images():
            x0, x1, y1, y0 = image.get_extent()
            assert 0 <= x0 < x1 <= ax.get_xlim()[1] and 0 <= y0 < y1 <= ax.get_ylim()[0]
            h, w = image.get_array().shape[:2]
            assert (y1 - y0) / (x1 - x0) == pytest.approx(h / w)
            assert all(x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0 for a0, a1, b0, b1 in places)
            places.append((x0, x1, y0, y1))


def test_a_pixel_of_a_map_is_a_whole_number_of_pixels_of_the_file(tmp_path):
    """Read the maps back from the file: every pixel of a map is a square of one colour, its own.

    Its rim is left out: older matplotlib is off by one there.
    """
    figure, outputs, _ = features('lenet')
    vis_data.save_figure(tmp_path / 'f.png', figure)
    picture = matplotlib.image.imread(tmp_path / 'f.png')
    for ax in axes_with_maps(figure):
        box = ax.get_position()
        left, top = box.x0 * picture.shape[1], (1 - box.y1) * picture.shape[0]
        for image in ax.get_images():
            h, w = image.get_array().shape
            x0, x1, y1, y0 = image.get_extent()
            zoom = (x1 - x0) / w
            assert zoom == int(zoom) > 2
            rows, columns = (round(start + first) for start, first in ((top, y0), (left, x0)))
            tile = picture[rows:rows + int(h * zoom), columns:columns + int(w * zoom)]
            pixels = tile.reshape(h, int(zoom), w, int(zoom), 4)[:, 1:-1, :, 1:-1]
            expected = image.get_cmap()(image.norm(image.get_array()))[:, None, :, None]
            np.testing.assert_allclose(pixels, np.broadcast_to(expected, pixels.shape), atol=1 / 255)


@pytest.mark.parametrize('name', NETWORKS)
def test_title_says_predicted_class_and_probability(name):
    figure, _, probabilities = features(name, label=1, name='test image 5')
    best = probabilities[:, 1].argmax()
    assert figure.get_suptitle() == (f'test image 5 (true class 1): predicted class {best}, '
                                     f'probability {probabilities[best, 1]:.4f}')
    bars = next(ax for ax in figure.axes if ax.get_title(loc='left') == 'probability of each class').patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], probabilities[:, 1])
    figure, _, _ = features(name)
    assert 'true' not in figure.get_suptitle()


@pytest.mark.parametrize('p, text', [(0.99994, '0.9999'), (0.99996, '> 0.9999'), (1, '1.0000'), (0.25, '0.2500'),
                                     (np.float32(0.999999), '> 0.9999')])
def test_no_probability_is_rounded_to_1(p, text):
    assert vis_data._probability(p) == text


@pytest.mark.parametrize('value', [0, -3.5, np.nan])
def test_maps_that_are_all_alike_are_drawn_too(value, tmp_path):
    layers, _ = NETWORKS['not square']
    outputs = {i: {'height': h, 'width': w, 'channel': c, 'batch_size': 1, 'data': np.full((h * w * c, 1), value)}
               for i, (h, w, c) in {1: (6, 10, 1), 2: (5, 9, 7), 3: (5, 9, 7)}.items()}
    vis_data.save_figure(tmp_path / 'f.png', draw_features(outputs, layers, np.array([[1.], [0.], [0.]])))


@pytest.mark.parametrize('name', NETWORKS)
def test_text_of_features_is_readable(name):
    assert_readable(features(name, label=0)[0], NETWORKS[name][1][0])


def test_an_image_in_colour_beyond_0_and_1_is_scaled():
    layers, _ = NETWORKS['in colour']
    x = np.random.RandomState(0).rand(432, 1) * 3 - 1
    outputs = forward(init_convnet(layers, rng=np.random.RandomState(1)), layers, x)
    figure = draw_features(outputs, layers, np.full((26, 1), 1 / 26))
    shown = axes_with_maps(figure)[0].get_images()[0].get_array()
    np.testing.assert_allclose(shown, ((x - x.min()) / np.ptp(x)).reshape(12, 12, 3))


def test_a_column_that_is_not_there_is_an_error():
    with pytest.raises(IndexError):
        features('not square', n=2, column=2)


# Training

def history(m, every=10):
    t = np.arange(1, m + 1.)
    tests = t[every - 1::every]
    return {'train': np.stack([t, 2 / t, 1 - 1 / (t + 1)], axis=1), 'test': np.stack([tests, 1 - 1 / tests], axis=1)}


@pytest.mark.parametrize('m', [1, 2, 39, 500])
def test_training_shows_every_value_and_their_running_mean(m):
    values = history(m)
    figure = draw_training(values)
    upper, lower = figure.axes
    assert upper.get_ylabel() == 'cost (log scale)' and upper.get_yscale() == 'log'
    assert lower.get_xlabel() == 'iteration' and lower.get_ylabel() == 'share of images classified right'
    for ax, column in ((upper, 1), (lower, 2)):
        np.testing.assert_array_equal(ax.lines[0].get_xydata(), values['train'][:, [0, column]])
    if m == 500:
        np.testing.assert_allclose(upper.lines[1].get_ydata()[0], values['train'][:25, 1].mean())
        assert upper.lines[1].get_xdata()[0] == 13          # the middle of 1..25
    if len(values['test']):
        np.testing.assert_array_equal(lower.lines[-1].get_xydata(), values['test'])
    labels = [text.get_text() for text in lower.get_legend().get_texts()]
    means = [f'running mean over {m // 20}'] if m >= 40 else []
    last = [f"test accuracy (last: {values['test'][-1, 1]:.2%})"] if len(values['test']) else []
    assert labels == ['training percent of a minibatch', *means, *last]


@pytest.mark.parametrize('m', [1, 500])
def test_legend_covers_nothing(m):
    figure = draw_training(history(m))
    figure.draw_without_rendering()
    for ax in figure.axes:
        assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1


@pytest.mark.parametrize('m', [0, 1, 30, 12345])
def test_text_of_training_is_readable(m):
    assert_readable(draw_training(history(m)), 'iteration')


def test_without_any_iteration_training_says_so(tmp_path):
    figure = draw_training({'train': np.zeros((0, 3)), 'test': np.zeros((0, 2))})
    assert [[text.get_text() for text in ax.texts] for ax in figure.axes] == [['no iterations yet']] * 2
    vis_data.save_figure(tmp_path / 't.png', figure)


def test_share_scale_keeps_the_order_and_comes_back():
    lower = draw_training(history(500)).axes[1]
    transform = lower.yaxis.get_transform()
    shares = np.linspace(0, 1, 1001)
    assert np.all(np.diff(transform.transform(shares)) > 0)
    np.testing.assert_allclose(transform.inverted().transform(transform.transform(shares)), shares, atol=1e-12)


@pytest.mark.parametrize('cost', [0, 1e-30])
def test_a_cost_of_0_is_drawn_too(cost, tmp_path):
    train = np.array([[1, 0, 1], [2, cost, 1]])
    vis_data.save_figure(tmp_path / 't.png', draw_training({'train': train, 'test': np.zeros((0, 2))}))


def test_a_history_of_another_shape_is_an_error():
    with raises("history['train']", (4, 2), '(rows, 3)'):
        draw_training({'train': np.ones((4, 2)), 'test': np.zeros((0, 2))})


# Mistakes

def answers(n=40, num=10, wrong=15, shape=(6, 5, 1), seed=0):
    """images, labels, probabilities of n images of which just `wrong` are classified wrong."""
    rng = np.random.RandomState(seed)
    probabilities = rng.dirichlet(np.full(num, 0.3), n).T
    labels = probabilities.argmax(axis=0)
    labels[rng.permutation(n)[:wrong]] += 1
    return rng.rand(np.prod(shape), n), labels % num, probabilities


@pytest.mark.parametrize('wrong, shape, num', [
    (0, (6, 5, 1), 10), (1, (6, 5, 1), 10), (5, (4, 4, 3), 2), (12, (6, 5, 1), 10), (15, (3, 7, 2), 26)])
def test_mistakes_are_shown_from_the_most_confident_on(wrong, shape, num):
    images, labels, probabilities = answers(wrong=wrong, shape=shape, num=num)
    figure = draw_mistakes(images, labels, probabilities, shape)
    *shown, _ = figure.axes
    confidence = [probabilities[:, j].max() for j in range(40)]
    predicted = [probabilities[:, j].argmax() for j in range(40)]
    expected = sorted((j for j in range(40) if predicted[j] != labels[j]), key=lambda j: -confidence[j])[:12]
    assert len(shown) == len(expected) == min(wrong, 12)
    for ax, j in zip(shown, expected):
        assert ax.get_title() == f'true {labels[j]}\npredicted {predicted[j]}'
        assert ax.get_xlabel() == f'image {j}\np = {vis_data._probability(confidence[j])}'
        image = images[:, j].reshape(shape)
        np.testing.assert_allclose(ax.get_images()[0].get_array(), image if shape[2] == 3 else image.mean(axis=2))
    title = figure.subfigs[0].get_suptitle()
    assert title == (f'mistakes: the most confident {len(expected)} of {wrong}' if wrong else 'no mistakes')


def test_confusion_matrix_counts_true_and_predicted():
    counts = confusion_matrix(np.array([0, 2, 2, 1, 2]), np.array([0, 1, 1, 1, 2]), 3)
    np.testing.assert_array_equal(counts, [[1, 0, 0], [0, 1, 0], [0, 2, 1]])


@pytest.mark.parametrize('wrong', [0, 15])
def test_confusion_matrix_is_drawn_with_its_numbers(wrong):
    images, labels, probabilities = answers(wrong=wrong)
    figure = draw_mistakes(images, labels, probabilities, (6, 5, 1))
    ax = figure.axes[-1]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('predicted class', 'true class')
    counts = confusion_matrix(labels, probabilities.argmax(axis=0), 10)
    assert counts.sum() == 40 and counts.sum() - counts.trace() == wrong
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (column, row): str(counts[row, column]) for row in range(10) for column in range(10)}
    coloured = ax.get_images()[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(coloured), np.eye(10, dtype=bool))
    np.testing.assert_array_equal(coloured.filled(0), counts * (1 - np.eye(10)))
    assert f'{wrong} of 40 images wrong ({wrong / 40:.2%})' in figure.subfigs[1].get_suptitle()


@pytest.mark.parametrize('wrong, num', [(0, 10), (15, 10), (15, 26)])
def test_text_of_mistakes_is_readable(wrong, num):
    images, labels, probabilities = answers(wrong=wrong, num=num)
    assert_readable(draw_mistakes(images, labels, probabilities, (6, 5, 1)), 'predicted class')


# All of them

def test_arguments_are_left_as_they_are():
    images, labels, probabilities = answers()
    values = history(50)
    arrays = [images, labels, probabilities, *values.values()]
    copies = [array.copy() for array in arrays]
    draw_mistakes(images, labels, probabilities, (6, 5, 1))
    draw_training(values)
    for array, copy in zip(arrays, copies):
        np.testing.assert_array_equal(array, copy)
    layers, _ = NETWORKS['in colour']
    x = np.random.RandomState(0).rand(432, 1) * 3 - 1      # not within 0..1
    outputs = forward(init_convnet(layers, rng=np.random.RandomState(1)), layers, x)
    copies = {i: output['data'].copy() for i, output in outputs.items()}
    draw_features(outputs, layers, np.full((26, 1), 1 / 26))
    for i, output in outputs.items():
        np.testing.assert_array_equal(output['data'], copies[i])


# The script

def run(folder, *flags, code=None, **environment):
    """Run vis_data.py in `folder`, without a display, or `code` in its place. Returns the finished process."""
    start = ['-c', code] if code else [str(ROOT / 'vis_data.py'), *map(str, flags)]
    display = 'DISPLAY', 'WAYLAND_DISPLAY', 'MPLBACKEND'
    kept = {name: value for name, value in os.environ.items() if name not in display}
    return subprocess.run([sys.executable, *start], cwd=folder, text=True, capture_output=True, timeout=60,
                          env={**kept, 'PYTHONPATH': os.pathsep.join([str(ROOT), str(folder)]), **environment})


def assert_one_line_of_error(process, *words):
    assert process.returncode == 1
    assert process.stdout == ''
    [line] = process.stderr.splitlines()
    for word in words:
        assert str(word) in line


def save_run(path, layers=None, **changes):
    """A run of testLeNet.py that has not learned anything yet."""
    layers = layers or testLeNet.get_lenet()
    params = init_convnet(layers, np.float32, np.random.RandomState(0))
    saved = {'layers': layers, 'recipe': {'seed': 3, 'fullset': False}, 'iteration': 20, 'history': history(20)}
    save_params(path, params, **{**saved, **changes})
    return params


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp('model') / 'lenet.mat'
    save_run(path)
    return path


def test_script_writes_three_pictures_and_says_where(model):
    process = run(model.parent, '--image', 9999)
    assert (process.returncode, process.stderr) == (0, '')
    assert sorted(Path(line).name for line in process.stdout.splitlines()) == PICTURES
    assert sorted(os.listdir(model.parent)) == sorted([*PICTURES, 'lenet.mat'])
    for line in process.stdout.splitlines():
        picture = matplotlib.image.imread(model.parent / line)
        assert min(picture.shape[:2]) > 800 and picture.std() > 0.05


def test_first_test_image_is_that_of_the_training_run(model, monkeypatch):
    """Image 0 is the first that testLeNet.py tests on, whichever set it trains on."""
    params, saved = vis_data.load_model(model)
    seen = {}
    monkeypatch.setattr(vis_data, 'predict', lambda params, layers, images: np.full((10, images.shape[1]), 0.1))
    monkeypatch.setattr(vis_data, 'draw_features', lambda outputs, *_, **more: seen.update(more, outputs=outputs))
    vis_data.drawings(params, saved, vis_data.get_parser().parse_args([]))['features.png']()
    *_, xtest, ytest = load_mnist(False, np.float32, np.random.RandomState(3))
    np.testing.assert_array_equal(seen['outputs'][1]['data'], xtest[:, :1])
    assert seen['label'] == ytest[0]


def test_without_a_model_one_line_says_how_to_make_one(tmp_path):
    assert_one_line_of_error(run(tmp_path), 'lenet.mat: no such file', 'python testLeNet.py makes one')
    assert os.listdir(tmp_path) == []
    with raises('other.mat: no such file; python testLeNet.py --model other.mat makes one'):
        vis_data.load_model('other.mat')


def test_image_out_of_range(model, tmp_path):
    process = run(tmp_path, '--model', model, '--image', 10000)
    assert_one_line_of_error(process, '--image', 10000, '0..9999')
    assert os.listdir(tmp_path) == []


def test_a_folder_that_can_not_be_made(tmp_path):
    (tmp_path / 'file').touch()
    with raises('--out', tmp_path / 'file'):
        vis_data.make_folder(str(tmp_path / 'file'))


def test_a_picture_that_can_not_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / 'training.png').mkdir()
    with pytest.raises(OSError, match='cannot save'):
        vis_data.save_figure(str(tmp_path / 'training.png'), draw_training(history(1)))
    assert os.listdir(tmp_path) == ['training.png']


SMALL = network(data_layer(6, 10, 1, 1), conv(7, 2), RELU, loss(3))


@pytest.mark.parametrize('changes, words', [
    ({'layers': SMALL}, [(6, 10, 1), 3, (28, 28, 1), 10]),
    ({'recipe': {'epsilon': 0.1}}, ['recipe', 'seed']),
    ({'history': 5}, ['history']),
])
def test_a_model_of_another_kind_is_an_error_that_names_the_file(tmp_path, changes, words):
    save_run(tmp_path / 'm.mat', **changes)
    with raises(tmp_path / 'm.mat', *words):
        vis_data.load_model(str(tmp_path / 'm.mat'))


def test_layers_that_do_not_fit_the_parameters_are_an_error_that_names_the_file(tmp_path):
    params = save_run(tmp_path / 'm.mat')
    layers = testLeNet.get_lenet()
    layers[6]['num'] = 400
    save_params(tmp_path / 'm.mat', params, layers=layers, recipe={'seed': 0}, history=history(1))
    with raises(tmp_path / 'm.mat', (800, 500), (800, 400)):
        vis_data.load_model(str(tmp_path / 'm.mat'))


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / 'lenet.mat').write_bytes(b'MATLAB 5.0 MAT-file' + bytes(200))
    assert_one_line_of_error(run(tmp_path), 'lenet.mat')


def test_show_without_a_display_is_an_error(tmp_path):
    code = ('import vis_data\n'
            'try: vis_data.show([])\n'
            'except ValueError as error: print(error)')
    process = run(tmp_path, code=code)
    assert (process.returncode, process.stderr) == (0, '')
    assert process.stdout.startswith('argument --show: there is no display')


def test_show_opens_a_window_for_each_picture(model, tmp_path):
    """A backend of our own stands in for windows. The folder is made."""
    (tmp_path / 'windows.py').write_text(
        'from matplotlib.backend_bases import FigureManagerBase\n'
        'from matplotlib.backends.backend_agg import FigureCanvasAgg\n'
        'class FigureManager(FigureManagerBase):\n'
        '    @classmethod\n'
        '    def pyplot_show(cls, *, block=None):\n'
        '        from matplotlib import pyplot\n'
        '        for number in pyplot.get_fignums():\n'
        '            print("shown", len(pyplot.figure(number).axes))\n'
        'class FigureCanvas(FigureCanvasAgg):\n'
        '    manager_class = FigureManager\n')
    process = run(tmp_path, '--model', model, '--show', '--out', 'new/pictures', MPLBACKEND='module://windows')
    assert (process.returncode, process.stderr) == (0, '')
    assert [line for line in process.stdout.splitlines() if line.startswith('shown')] == [
        'shown 7', 'shown 2', 'shown 13']
    assert sorted(os.listdir(tmp_path / 'new' / 'pictures')) == PICTURES


def test_import_has_no_side_effects_and_drawing_needs_no_pyplot(tmp_path):
    code = ('import os, random, sys, threading; import numpy as np\n'
            'before = np.random.get_state()[1].tolist(), random.getstate()\n'
            'import vis_data\n'
            'assert before == (np.random.get_state()[1].tolist(), random.getstate())\n'
            'assert threading.active_count() == 1 and os.listdir(".") == []\n'
            'figure = vis_data.draw_training({"train": np.ones((2, 3)), "test": np.ones((1, 2))})\n'
            'vis_data.save_figure("t.png", figure)\n'
            'assert "matplotlib.pyplot" not in sys.modules')
    process = run(tmp_path, code=code)
    assert (process.returncode, process.stdout, process.stderr) == (0, '', '')
    assert os.listdir(tmp_path) == ['t.png']
