"""See what the net sees: feature maps, training curve and mistakes of a saved model (handout section 7).

    python vis_data.py                  reads lenet.mat, which python testLeNet.py makes
    python vis_data.py --image 12       another test image
    python vis_data.py --help           all flags

It writes three pictures and says where they are:

    features.png    a test image, the filters of layer 2, and what layers 2 and 3 make of the image (Q8)
    training.png    cost, training percent and test accuracy over the iterations
    mistakes.png    the most confident mistakes, and the confusion matrix

Each is drawn by a function that takes arrays and structures and returns a matplotlib Figure.
"""

import argparse
import io
import math
import os
import sys

import testLeNet  # which sets up BLAS, and so comes before NumPy

if __name__ == '__main__' and '--show' not in sys.argv and 'IPython' not in sys.modules:
    os.environ['MPLBACKEND'] = 'agg'           # pictures need no toolkit; a notebook shows them

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.colors import Normalize
from matplotlib.ticker import LogLocator

from cnn_lenet import forward, load_mnist, predict
from testLeNet import errors_in_one_line, load_model, write_whole

DPI = 150                # of the PNG files
BLUE, ORANGE, GREY = '#0072B2', '#D55E00', '#999999'     # Okabe and Ito's palette, safe for colour-blind readers
STYLE = {'font.size': 10, 'axes.titlesize': 11, 'axes.titlelocation': 'left', 'figure.titlesize': 11,
         'axes.spines.top': False, 'axes.spines.right': False, 'legend.frameon': False}
LAYER_NAMES = {'CONV': 'convolution', 'POOLING': 'max pooling', 'RELU': 'ReLU'}
COLUMNS = 10             # maps in a row


# ---------------------------------------------------------------------------------------------------------------
# Features (Q8)
# ---------------------------------------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def draw_features(params, layers, image, name='image'):
    """An image, the filters of layer 2, and the maps that layers 2 and 3 make of the image (Q8).

    params, layers  a network on MNIST
    image           (784,) pixels in 0..1
    name            what the headline calls the image

    Returns the Figure: an axes for the image, one for the probabilities, and one for each set of filters or maps,
    which share one colour scale.
    """
    outputs = forward(params, layers, image[:, None])
    probabilities = predict(params, layers, image[:, None])[:, 0]
    num_filters = {'filters': layers[2]['num']} if layers[2]['type'] == 'CONV' else {}
    num_maps = count_maps(outputs)
    figure = pyplot.figure()
    axes = _layout(figure, 2.3, {'image': 2.6, 'probabilities': 8}, num_filters | num_maps)

    figure.suptitle(f'{name}: {headline(probabilities)}', x=0.024, ha='left', fontsize=14)
    draw_image(axes['image'], image.reshape(28, 28), 'layer 1: input, 28 x 28')
    bars = draw_probabilities(axes['probabilities'], probabilities)
    numbers = [rounded(p) if p >= 0.005 else '' for p in probabilities]
    axes['probabilities'].bar_label(bars, numbers, padding=2, fontsize=8)
    if num_filters:
        k = layers[2]['k']
        filters = np.moveaxis(params[1]['w'].reshape(k, k, -1), 2, 0)
        largest = abs(filters).max()
        _draw_maps(axes['filters'], filters, f'the {len(filters)} filters of layer 2, {k} x {k}',
                   -largest, largest, 'RdBu_r')
    for i in num_maps:
        draw_layer(axes[i], i, layers, outputs[i])
    return figure


def count_maps(outputs):
    """How many maps layers 2 and 3 make: dict, without a layer whose outputs are single numbers."""
    return {i: outputs[i]['channel'] for i in (2, 3) if i in outputs and outputs[i]['height'] > 1}


def headline(probabilities):
    best = int(np.argmax(probabilities))
    return f'predicted class {best}, probability {rounded(probabilities[best])}'


def rounded(p):
    """The probability p with four digits. What is less than 1 never rounds up to 1."""
    text = f'{p:.4f}'
    return text if p == 1 or float(text) < 1 else '> 0.9999'


def _layout(figure, height, top, num_maps):
    """Divide the figure: a row on top, and below it one for each set of maps. Returns a dict of axes.

    height    of the row on top, in inches
    top       dict, name of an axes in that row -> how wide it is, relative to the others
    num_maps  dict, name of an axes for maps -> how many there are
    """
    rows = [list(top)] + [[name] * len(top) for name in num_maps]
    # A title and rows of maps, as high as maps are that fill the width.
    inches = [height] + [0.4 + 0.97 * math.ceil(num / COLUMNS) for num in num_maps.values()]
    figure.set_size_inches(9.8, 0.4 + sum(inches))
    figure.set_layout_engine('constrained', h_pad=0.08, rect=(0.02, 0.01, 0.96, 0.985))
    return figure.subplot_mosaic(rows, width_ratios=list(top.values()), height_ratios=inches)


def draw_image(ax, image, title):
    ax.set(xticks=[], yticks=[], title=title, anchor='W')
    ax.spines[:].set_visible(False)
    return ax.imshow(image, cmap='gray', vmin=0, vmax=1)


def draw_probabilities(ax, probabilities):
    ax.set(title='probability of each class', ylim=(0, 1.12), yticks=[0, 0.5, 1], xticks=range(10))
    bars = ax.bar(range(10), probabilities)
    set_probabilities(bars, probabilities)
    return bars


def set_probabilities(bars, probabilities):
    for k, (bar, p) in enumerate(zip(bars, probabilities)):
        bar.set(height=p, facecolor=BLUE if k == np.argmax(probabilities) else GREY)


def draw_layer(ax, i, layers, output):
    """The maps that layer i makes of the first image; the colour scale is that of all images."""
    maps, data = first_maps(output), output['data']
    num, h, w = maps.shape
    title = f"layer {i}: {LAYER_NAMES[layers[i]['type']]}, {num} maps of {h} x {w}"
    return _draw_maps(ax, maps, title, data.min(), data.max(), 'viridis')


def first_maps(output):
    """The maps that a layer makes of the first image: (c, h, w)."""
    return np.moveaxis(output['data'][:, 0].reshape(output['height'], output['width'], -1), 2, 0)


def _draw_maps(ax, maps, title, least, most, colours):
    """Draw maps (num, h, w), numbered, on one colour scale. Returns the AxesImage, whose data are `tile(maps)`."""
    tiles = tile(maps)
    image = ax.imshow(tiles, norm=Normalize(least, most), cmap=colours, interpolation='nearest')
    height, width = tiles.shape[0] / math.ceil(len(maps) / COLUMNS), tiles.shape[1] / COLUMNS
    for j in range(len(maps)):
        row, column = divmod(j, COLUMNS)
        ax.text((column + 0.46) * width, (row + 0.14) * height, j + 1, ha='center', va='bottom', fontsize=7.5,
                color='0.35')
    ax.set_axis_off()
    ax.set_title(title, pad=5)
    ax.figure.colorbar(image, ax=ax, aspect=12, fraction=0.03, pad=0.01)
    return image


def tile(maps):
    """Maps (num, h, w) side by side, ten in a row, as one image, with NaN above each and to its right.

    One image is drawn much faster than twenty. Small maps are enlarged, so that gaps are whole pixels.
    """
    scale = max(1, round(24 / maps.shape[2]))
    maps = maps.repeat(scale, axis=1).repeat(scale, axis=2)
    num, h, w = maps.shape
    maps = np.pad(maps, ((0, -num % COLUMNS), (round(0.2 * h), 0), (0, round(0.08 * w))), constant_values=np.nan)
    rows = maps.reshape(-1, COLUMNS, *maps.shape[1:])
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


# ---------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def draw_training(history, num_test):
    """Cost, training percent and test accuracy over the iterations.

    history   dict: `train` (m, 3) with the columns iteration, cost, training percent (0..1); `test` (t, 2) with the
              columns iteration, test accuracy (0..1). m is at least 1, t may be 0.
    num_test  how many images each test was made on

    Returns the Figure: an axes for the cost, an axes for training percent and test accuracy.
    """
    figure, (upper, lower) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6.5), layout='constrained')
    train, test = np.reshape(history['train'], (-1, 3)), np.reshape(history['test'], (-1, 2))
    iteration, cost, percent = train.T
    _draw_curve(upper, iteration, cost, 'cost')
    _draw_curve(lower, iteration, percent, 'training percent')
    if len(test):
        tested, accuracy = test.T
        lower.plot(tested, accuracy, 'o-', color=ORANGE, markersize=4, linewidth=1.2,
                   label=f'accuracy on {num_test:,} test images (last: {accuracy[-1]:.2%})')

    upper.set(ylabel='cost (log scale)', yscale='log')
    upper.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    upper.yaxis.set_major_formatter('{x:g}')
    upper.yaxis.set_minor_formatter('')
    lower.set(xlabel='iteration', ylabel='share of images classified right\n(stretched towards 100%)')
    lower.locator_params(axis='x', integer=True, min_n_ticks=1)
    lower.xaxis.set_major_formatter('{x:,.0f}')
    lower.margins(x=0.01)
    # Logarithmic in the share that is still wrong, which draws the last percents apart; + 0.001, so that 1 has a place.
    lower.set_yscale('function', functions=(lambda p: -np.log10(1.001 - p), lambda s: 1.001 - 10 ** -s))
    lower.set(yticks=[0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1], ylim=(0, 1.0002))
    lower.yaxis.set_major_formatter('{x:.0%}')
    for ax in (upper, lower):
        ax.grid(color='0.9', linewidth=0.6)
        ax.set_axisbelow(True)
        # Above the axes, where no curve can be.
        legend = ax.legend(loc='lower right', bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=3, fontsize=9)
        for handle in legend.legend_handles:
            handle.set(alpha=1, markersize=5)
    return figure


def _draw_curve(ax, t, values, name):
    """Every value, faint, and their running mean, clear."""
    window = min(100, len(values) // 20)
    ax.plot(t, values, '.', color=BLUE, markersize=3 if window > 1 else 6, markeredgewidth=0,
            alpha=min(1, max(0.15, 300 / len(values))), label=f'{name} of a minibatch')
    if window > 1:
        mean = np.convolve(values, np.full(window, 1 / window), 'valid')
        ax.plot(t[window // 2:][:len(mean)], mean, color='black', linewidth=1.3, label=f'running mean over {window}')


# ---------------------------------------------------------------------------------------------------------------
# Mistakes
# ---------------------------------------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def draw_mistakes(images, labels, probabilities):
    """The twelve test images that the net gets wrong with the most confidence, beside the confusion matrix.

    images         (784, n) pixels in 0..1
    labels         (n,) true classes, 0..9
    probabilities  (10, n), as `cnn_lenet.predict` returns them

    Returns the Figure: an axes for each mistake, the most confident first, and one for the confusion matrix.
    """
    figure = pyplot.figure(figsize=(11, 6.4))
    figure.set_layout_engine('constrained', w_pad=0.1, h_pad=0.1, hspace=0.04)
    left, right = figure.subfigures(1, 2, width_ratios=(5, 6))
    predicted, confidence = probabilities.argmax(axis=0), probabilities.max(axis=0)
    wrong = np.flatnonzero(predicted != labels)
    shown = wrong[np.argsort(-confidence[wrong], kind='stable')][:12]

    left.suptitle(f'mistakes: the most confident {len(shown)} of {len(wrong):,}' if len(wrong) else 'no mistakes',
                  x=0.02, ha='left')
    for place, j in enumerate(shown, 1):
        ax = left.add_subplot(3, 4, place)
        draw_image(ax, images[:, j].reshape(28, 28), '')
        ax.set_title(f'true {labels[j]}\npredicted {predicted[j]}', loc='center', fontsize='medium')
        ax.set_xlabel(f'image {j}\np = {rounded(confidence[j])}'.replace('= >', '>'))
    if len(shown):
        left.supxlabel(f'what the net sees of the first: python vis_data.py --image {shown[0]}', fontsize='medium')
    _draw_confusion(right, confusion_matrix(labels, predicted))
    return figure


def confusion_matrix(labels, predicted):
    """(10, 10): row i, column j counts the images of class i for which class j is predicted."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def _draw_confusion(figure, counts):
    """Mistakes in colour; the diagonal is left grey, since its large counts would drown them."""
    ax = figure.subplots()
    mistakes = np.ma.masked_array(counts, np.eye(10, dtype=bool))
    top = max(1, mistakes.max())
    ax.imshow(mistakes, cmap=matplotlib.colormaps['Blues'].with_extremes(bad='0.88'), vmin=0, vmax=top)
    ax.set(xlabel='predicted class', ylabel='true class', xticks=range(10), yticks=range(10))
    for (row, column), count in np.ndenumerate(counts):
        colour = '0.65' if count == 0 else 'white' if row != column and count > 0.6 * top else 'black'
        ax.text(column, row, str(count), ha='center', va='center', color=colour, fontsize=9)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    wrong, total = mistakes.sum(), counts.sum()
    figure.suptitle(f'confusion matrix: {wrong:,} of {total:,} test images wrong ({wrong / total:.2%})',
                    x=0.02, ha='left')


# ---------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------


def main(argv=()):
    """Write the pictures. argv: flags, as strings; in a notebook sys.argv is the kernel's own."""
    flags = get_parser().parse_args(argv)
    with errors_in_one_line('vis_data.py'):
        if flags.show:
            check_display('--show')
        params, layers, run = load_model(flags.model)
        rng = np.random.RandomState(run['seed'] if run else testLeNet.seed)
        *_, images, labels = load_mnist(True, np.float32, rng)
        if not 0 <= flags.image < len(labels):
            raise ValueError(f'argument --image: {flags.image} is out of range; expected 0..{len(labels) - 1}')
        os.makedirs(flags.out, exist_ok=True)

    # Outside of errors_in_one_line, since what is wrong in a layer function wants Python's traceback.
    image, name = images[:, flags.image], f'test image {flags.image} (true class {labels[flags.image]})'
    figures = {'features.png': draw_features(params, layers, image, name)}
    if run:
        figures['training.png'] = draw_training(run['history'], run['num_test'])
    else:
        print(f'{flags.model}: holds no history of its training, so there is no training.png', file=sys.stderr)
    figures['mistakes.png'] = draw_mistakes(images, labels, predict(params, layers, images))
    with errors_in_one_line('vis_data.py'):
        for name, figure in figures.items():
            path = os.path.join(flags.out, name)
            save_figure(path, figure)
            print(path, flush=True)
    if flags.show:
        pyplot.show()


def get_parser():
    parser = argparse.ArgumentParser(
        prog='vis_data.py', description='Draw the features, the training curve and the mistakes of a saved model.')
    parser.add_argument('--model', metavar='PATH', default='lenet.mat',
                        help='the model that python testLeNet.py saved (default: lenet.mat)')
    parser.add_argument('--image', metavar='INDEX', type=int, default=0,
                        help='which test image to show the features of, from 0, in the order of the training run '
                             '(default: 0, the first)')
    parser.add_argument('--out', metavar='FOLDER', default='.',
                        help='where the pictures go; made if it is not there (default: the current folder)')
    parser.add_argument('--show', action='store_true', help='also show the pictures, in windows or in the notebook')
    return parser


def save_figure(path, figure):
    """Write a Figure as PNG, whole or not at all. Raises OSError if that fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format='png')
    write_whole(path, buffer.getvalue())


# matplotlib's backends that only write files
WITHOUT_WINDOWS = ('agg', 'cairo', 'pdf', 'pgf', 'ps', 'svg', 'template')


def check_display(flag):
    """Raise ValueError, naming the flag that asks to show pictures, if matplotlib can neither open windows nor show
    them in a notebook."""
    try:
        pyplot.switch_backend(matplotlib.get_backend())
    except (ImportError, RuntimeError) as error:         # MPLBACKEND asks for what is not installed
        raise ValueError(f'argument {flag}: {error}') from None
    backend = matplotlib.get_backend().lower()
    if backend in WITHOUT_WINDOWS:
        raise ValueError(f'argument {flag}: there is no display, no toolkit for windows such as tkinter, or MPLBACKEND '
                         f'asks for a backend without windows; this one is {backend} (in IPython: %matplotlib tk)')


if __name__ == '__main__':
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:                            # no traceback for Ctrl-C
        sys.exit(130)
