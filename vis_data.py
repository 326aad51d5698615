"""See what the net sees: feature maps, training curve and mistakes of a saved model (handout section 7).

    python vis_data.py                  reads lenet.mat, which python testLeNet.py makes
    python vis_data.py --image 12       another test image
    python vis_data.py --help           all flags

It writes three pictures and says where they are:

    features.png    a test image and what layers 2 and 3 make of it (Q8)
    training.png    cost, training percent and test accuracy over the iterations
    mistakes.png    the most confident mistakes, and the confusion matrix

Each is drawn by a function that takes arrays and structures and returns a matplotlib Figure. pyplot is not needed.
"""

import argparse
import io
import os
import sys

if __name__ == '__main__':
    import signal
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))     # no traceback for Ctrl-C
    # One BLAS thread, as in testLeNet.py: `predict` spreads the images over the cores itself.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from cnn_lenet import feature_map_shapes, forward, load_mnist, load_params, predict, write_whole

DPI = 150                # of the PNG files
BLUE, ORANGE, GREY = '#0072B2', '#D55E00', '#999999'     # Okabe and Ito's, which colour-blind readers tell apart
MAP_COLOURS, IMAGE_COLOURS, COUNT_COLOURS = 'viridis', 'gray', 'Blues'
STYLE = {'font.size': 10, 'axes.titlesize': 11, 'axes.titlelocation': 'left', 'figure.titlesize': 11,
         'axes.spines.top': False, 'axes.spines.right': False, 'legend.frameon': False}
LAYER_NAMES = {'DATA': 'input', 'CONV': 'convolution', 'POOLING': 'max pooling', 'IP': 'inner product', 'RELU': 'ReLU'}


# ---------------------------------------------------------------------------------------------------------------
# Features (Q8)
# ---------------------------------------------------------------------------------------------------------------

# Sizes in pixels of the PNG. A pixel of a map is a whole number of them, so that all come out equally large; only
# maps too large for that are shrunk.
WIDTH = 1290             # of the widest grid of maps
HEIGHT = 1000            # of the tallest
TILE = 120               # longer side of a map
SINGLE_TILE = 224        # longer side of a map that is alone, such as the input image; height of the probabilities
MIN_TILE = 24            # shorter side of a map, even if the longer one becomes longer by that
MAX_ZOOM = 16            # side of a map's pixel, at most
GAP = 10                 # between maps
NUMBER = 24              # strip above a map, for its number
DIGIT = 12               # width of a digit of that
TITLE = 45               # strip above a grid, for its title
HEADLINE = 80            # strip at the top
MARGIN = 45              # left, right and below a grid
BAR = 22                 # width of a colour bar
BAR_HEIGHT = 60          # of the shortest colour bar
BAR_ROOM = 90            # strip for a colour bar and its numbers
TITLE_PAD = 9            # points below a title


@matplotlib.rc_context(STYLE)
def draw_features(outputs, layers, probabilities, label=None, column=0, name='image', figure=None):
    """An image, and all maps that layers 2 and 3 make of it (Q8). The maps of a layer share one colour scale.

    outputs        dict of structures, as `cnn_lenet.forward` gives them for n images
    layers         the network's layers
    probabilities  (num, n) class probabilities, as `cnn_lenet.predict` gives them
    label          the image's true class, if it is known
    column         which of the n images, 0..n-1
    name           what the title calls the image
    figure         the Figure to draw in, such as `plt.figure()`; a new one if None

    Returns the Figure: one axes for the maps of each layer (and one for its colour bar), one for the probabilities.
    Raises IndexError if there is no such column.
    """
    figure = Figure() if figure is None else figure
    shown = [i for i in (1, 2, 3) if i in outputs]
    grids = {i: _Grid(_maps(outputs[i], column, i == 1), WIDTH // 2 - BAR_ROOM if i == 1 else WIDTH) for i in shown}
    heights = {i: max(grids[i].height, SINGLE_TILE if i == 1 else grids[i].strip + BAR_HEIGHT) for i in shown}
    width = MARGIN + WIDTH + BAR_ROOM + MARGIN
    height = HEADLINE + sum(TITLE + heights[i] + MARGIN for i in shown)
    figure.set_size_inches(width / DPI, height / DPI)

    def add_axes(x, y, w, h):
        """Axes w pixels wide and h high, their upper left corner x pixels from the left and y from the top."""
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    p = probabilities[:, column]
    figure.suptitle(_headline(name, p, label), x=MARGIN / width, y=1 - MARGIN / 1.5 / height, ha='left', va='top',
                    fontsize=14)
    y = HEADLINE
    for i in shown:
        y += TITLE
        grid = grids[i]
        ax = add_axes(MARGIN, y, grid.width, grid.height)
        mappable = grid.draw(ax, IMAGE_COLOURS if i == 1 else MAP_COLOURS)
        ax.set_title(f'layer {i}: {LAYER_NAMES[layers[i]["type"]]}, {_size(outputs[i], i == 1)}',
                     pad=TITLE_PAD / 2 if grid.strip else TITLE_PAD)
        if mappable:
            bar = add_axes(MARGIN + grid.width + GAP, y + grid.strip, BAR, max(grid.height - grid.strip, BAR_HEIGHT))
            figure.colorbar(mappable, cax=bar, ticks=MaxNLocator(int(min(8, max(2, grid.height // 50)))))
        if i == 1:
            _draw_probabilities(add_axes(MARGIN + WIDTH // 2, y, WIDTH // 2, SINGLE_TILE), p)
        y += heights[i] + MARGIN
    return figure


def _maps(structure, column, is_input):
    """The channels of one image as a list of (h, w); an input of three is one (h, w, 3), an image in colour."""
    h, w, c = structure['height'], structure['width'], structure['channel']
    maps = np.asarray(structure['data'])[:, column].reshape(h, w, c)
    return [_in_colour(maps)] if is_input and c == 3 else list(np.moveaxis(maps, 2, 0))


def _in_colour(image):
    """An image (h, w, 3) within 0..1: values beyond that are scaled."""
    low, high = min(0, image.min()), max(1, image.max())
    return (image - low) / (high - low)


def _size(structure, is_input):
    h, w, c = structure['height'], structure['width'], structure['channel']
    if is_input:
        return f'{h} x {w}' if c == 1 else f'{c} channels of {h} x {w}'
    if (h, w) == (1, 1):
        return f'{c} value{"s" * (c > 1)}'
    return f'{c} map{"s" * (c > 1)} of {h} x {w}'


def _headline(name, p, label):
    best = int(np.argmax(p))
    truth = '' if label is None else f' (true class {label})'
    return f'{name}{truth}: predicted class {best}, probability {_probability(p[best])}'


def _probability(p, digits=4):
    """p with that many digits, and no 1 for what is less."""
    below = 1 - 10 ** -digits
    return f'> {below:.{digits}f}' if below < p < 1 and round(float(p), digits) == 1 else f'{p:.{digits}f}'


class _Grid:
    """Where the maps of a layer go: as large as fits, as few empty places as can be."""

    def __init__(self, maps, width):
        self.maps = maps
        h, w = maps[0].shape[:2]
        tile = TILE if len(maps) > 1 else SINGLE_TILE
        zoom = min(max(tile // max(h, w), MIN_TILE // min(h, w), 1), MAX_ZOOM)
        self._set_zoom(zoom, h, w, width)
        while self.width > width or self.height > HEIGHT:
            zoom = zoom - 1 if zoom > 1 else zoom / 2
            self._set_zoom(zoom, h, w, width)

    def _set_zoom(self, zoom, h, w, width):
        n = len(self.maps)
        self.tile = h * zoom, w * zoom
        self.strip = NUMBER if n > 1 and w * zoom + GAP > DIGIT * len(str(n)) else 0
        room = max(1, min(n, int((width + GAP) // (w * zoom + GAP))))
        self.columns = min(range((room + 1) // 2, room + 1), key=lambda columns: (-n % columns, -columns))
        rows = -(-n // self.columns)
        self.width = self.columns * (w * zoom + GAP) - GAP
        self.pitch = h * zoom + (self.strip or GAP), w * zoom + GAP
        self.height = rows * self.pitch[0] - (0 if self.strip else GAP)     # strips above, gaps only in between

    def draw(self, ax, colours):
        """Draw every map in its place, in pixels. Returns what the colour bar shows, None for an image in colour."""
        ax.set(xlim=(0, self.width), ylim=(self.height, 0), autoscale_on=False)
        ax.set_axis_off()
        finite = [values[np.isfinite(values)] for values in self.maps]
        finite = np.concatenate(finite) if any(values.size for values in finite) else np.array([0, 1])
        mappable = ScalarMappable(Normalize(finite.min(), finite.max()), colours)
        for number, values in enumerate(self.maps):
            row, column = divmod(number, self.columns)
            x, y = column * self.pitch[1], row * self.pitch[0] + self.strip
            ax.imshow(values, norm=mappable.norm, cmap=mappable.cmap, interpolation='nearest', aspect='auto',
                      extent=(x, x + self.tile[1], y + self.tile[0], y))
            if self.strip:
                ax.text(x + self.tile[1] / 2, y - 3, str(number + 1), ha='center', va='bottom', fontsize=7.5,
                        color='0.35')
        return None if self.maps[0].ndim == 3 else mappable


def _draw_probabilities(ax, p):
    best = int(np.argmax(p))
    bars = ax.bar(np.arange(len(p)), p, color=[BLUE if k == best else GREY for k in range(len(p))])
    numbers = [_probability(value, 2) if k == best or len(p) <= 10 and value >= 0.005 else ''
               for k, value in enumerate(p)]
    ax.bar_label(bars, numbers, padding=2, fontsize=8)
    ax.set_title('probability of each class', pad=TITLE_PAD)
    ax.set(ylim=(0, 1.12), yticks=[0, 0.5, 1])
    _set_class_ticks(ax.xaxis, len(p))


def _set_class_ticks(axis, num):
    axis.set_major_locator(FixedLocator(range(num)) if num <= 20 else MaxNLocator(integer=True))


# ---------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def draw_training(history, figure=None):
    """Cost, training percent and test accuracy over the iterations.

    history  dict: `train` (m, 3) with the columns iteration, cost, training percent (0..1); `test` (t, 2) with the
             columns iteration, test accuracy (0..1). m and t may be 0.
    figure   the Figure to draw in, such as `plt.figure()`; a new one if None

    Returns the Figure: an axes for the cost, an axes for training percent and test accuracy.
    Raises ValueError if an array has another number of columns.
    """
    figure = Figure() if figure is None else figure
    figure.set_size_inches(9, 6.5)
    figure.set_layout_engine('constrained')
    train, test = _rows(history, 'train', 3), _rows(history, 'test', 2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    if len(train):
        _draw_curve(upper, train[:, 0], train[:, 1], 'cost')
        _draw_curve(lower, train[:, 0], train[:, 2], 'training percent')
    if len(test):
        lower.plot(test[:, 0], test[:, 1], 'o-', color=ORANGE, markersize=4, linewidth=1.2,
                   label=f'test accuracy (last: {test[-1, 1]:.2%})')

    _set_cost_scale(upper, train[train[:, 1] > 0, 1])
    lower.set(xlabel='iteration', ylabel='share of images classified right')
    last = max([1, *train[-1:, 0], *test[-1:, 0]])
    lower.set_xlim(-0.01 * last, 1.01 * last)
    _set_share_scale(lower)
    lower.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    lower.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f'{t:,.0f}'))
    for ax, rows in ((upper, len(train)), (lower, len(train) + len(test))):
        ax.grid(color='0.9', linewidth=0.6)
        ax.set_axisbelow(True)
        if rows:
            # Above the axes, where no curve can be.
            legend = ax.legend(loc='lower right', bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=3, fontsize=9)
            for handle in legend.legend_handles:
                handle.set(alpha=1, markersize=5)
        else:
            ax.text(0.5, 0.5, 'no iterations yet', transform=ax.transAxes, ha='center', va='center')
    return figure


def _rows(history, name, columns):
    rows = np.asarray(history[name], float)
    if rows.size == 0:
        return np.zeros((0, columns))
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise ValueError(f'history[{name!r}] has shape {rows.shape}; expected (rows, {columns})')
    return rows


def _draw_curve(ax, t, values, name):
    """Every value, faint, and their running mean, clear."""
    window = min(100, len(values) // 20)
    ax.plot(t, values, '.', color=BLUE, markersize=3 if window > 1 else 6, markeredgewidth=0,
            alpha=min(1, max(0.15, 300 / len(values))), label=f'{name} of a minibatch')
    if window > 1:
        mean = np.convolve(values, np.full(window, 1 / window), 'valid')
        middle = t[window // 2:][:len(mean)]
        ax.plot(middle, mean, color='black', linewidth=1.3, label=f'running mean over {window}')


def _set_cost_scale(ax, positive):
    """A logarithmic scale, if any cost is positive."""
    ax.set_ylabel('cost (log scale)' if len(positive) else 'cost')
    if len(positive):
        ax.set_yscale('log', nonpositive='clip')
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if positive.max() < 100 * positive.min() else (1,)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda cost, _: f'{cost:g}'))
        ax.yaxis.set_minor_formatter(NullFormatter())


def _set_share_scale(ax):
    """A scale of shares that draws the last percents apart: logarithmic in the share that is still wrong."""
    least = 0.001        # what is added to the wrong share, so that 1 has a place too
    ax.set_yscale('function', functions=(lambda p: -np.log10(np.maximum(1 - p + least, least / 2)),
                                         lambda s: 1 + least - 10. ** -s))
    ax.set(yticks=[0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1], ylim=(0, 1 + least / 4))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda p, _: f'{p:.0%}'))
    ax.yaxis.set_minor_locator(NullLocator())


# ---------------------------------------------------------------------------------------------------------------
# Mistakes
# ---------------------------------------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def draw_mistakes(images, labels, probabilities, image_shape, count=12, figure=None):
    """The images that the net gets wrong with the most confidence, beside the confusion matrix.

    images         (h*w*c, n)
    labels         (n,) true classes, 0..num-1
    probabilities  (num, n), as `cnn_lenet.predict` gives them
    image_shape    (h, w, c)
    count          how many mistakes to show at most
    figure         the Figure to draw in, such as `plt.figure()`; a new one if None

    Returns the Figure: an axes for each mistake, the most confident first, and one for the confusion matrix.
    Raises IndexError if a label is not one of the classes.
    """
    figure = Figure() if figure is None else figure
    figure.set_size_inches(11, 6.4)
    figure.set_layout_engine('constrained')
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, hspace=0.04)
    left, right = figure.subfigures(1, 2, width_ratios=(5, 6))
    predicted, confidence = probabilities.argmax(axis=0), probabilities.max(axis=0)
    wrong = np.flatnonzero(predicted != labels)
    shown = wrong[np.argsort(-confidence[wrong], kind='stable')][:count]

    left.suptitle('no mistakes' if not len(wrong) else
                  f'mistakes: the most confident {len(shown)} of {len(wrong):,}', x=0.02, ha='left')
    columns = 4
    axes = left.subplots(max(1, -(-count // columns)), columns, squeeze=False).ravel()
    for ax in axes[len(shown):]:
        ax.remove()
    for ax, image in zip(axes, shown):
        ax.imshow(_picture(images[:, image], image_shape), cmap=IMAGE_COLOURS, interpolation='nearest')
        ax.set(xticks=[], yticks=[], xlabel=f'image {image}\np = {_probability(confidence[image])}')
        ax.set_title(f'true {labels[image]}\npredicted {predicted[image]}', loc='center', fontsize='medium')
        ax.spines[:].set_visible(False)
    _draw_confusion(right, confusion_matrix(labels, predicted, len(probabilities)))
    return figure


def confusion_matrix(labels, predicted, num):
    """(num, num): row i, column j counts the images of class i for which class j is predicted."""
    counts = np.zeros((num, num), int)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def _picture(column, image_shape):
    """One column of images as imshow takes it: (h, w), the channels' mean unless they are colours, or (h, w, 3)."""
    image = np.reshape(column, image_shape)
    return _in_colour(image) if image_shape[2] == 3 else image.mean(axis=2)


def _draw_confusion(figure, counts):
    """Mistakes in colour; the diagonal is left grey, since its large counts would drown them."""
    num, total, right = len(counts), counts.sum(), np.trace(counts)
    ax = figure.subplots()
    mistakes = np.ma.masked_array(counts, np.eye(num, dtype=bool))
    top = max(1, mistakes.max() if num > 1 else 1)
    ax.imshow(mistakes, cmap=matplotlib.colormaps[COUNT_COLOURS].with_extremes(bad='0.88'), vmin=0, vmax=top)
    ax.set(xlabel='predicted class', ylabel='true class')
    for axis in (ax.xaxis, ax.yaxis):
        _set_class_ticks(axis, num)
    if num <= 20:
        for (row, column), found in np.ndenumerate(counts):
            colour = '0.65' if found == 0 else 'white' if row != column and found > 0.6 * top else 'black'
            ax.text(column, row, str(found), ha='center', va='center', color=colour, fontsize=min(9, 100 / num))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    wrong = total - right
    figure.suptitle(f'confusion matrix: {wrong:,} of {total:,} images wrong ({wrong / max(1, total):.2%})',
                    x=0.02, ha='left')


# ---------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------


def main(argv=None):
    """Write the three pictures. What goes wrong ends in one line and a non-zero exit."""
    flags = get_parser().parse_args(argv)
    try:
        params, saved = load_model(flags.model)
        draw = drawings(params, saved, flags)
        paths = [os.path.join(flags.out, name) for name in draw]
        figures = [function() for function in draw.values()]
        make_folder(flags.out)
        for path, figure in zip(paths, figures):
            save_figure(path, figure)
            print(path, flush=True)
        if flags.show:
            show(draw.values())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit('vis_data.py: error: nobody reads the output any more')
    except (OSError, ValueError) as error:
        text = f'{error.strerror}: {error.filename}' if isinstance(error, OSError) and error.strerror else str(error)
        sys.exit(f'vis_data.py: error: {" ".join(text.split())}')


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
    parser.add_argument('--show', action='store_true', help='also show them in windows')
    return parser


def load_model(path):
    """(params, saved) of a run that testLeNet.py saved. Raises ValueError if it is none, or not one on MNIST."""
    try:
        params, saved = load_params(path)
    except FileNotFoundError:
        model = '' if path == 'lenet.mat' else f' --model {path}'
        raise ValueError(f'{path}: no such file; python testLeNet.py{model} makes one') from None
    for name, keys in (('layers', ()), ('recipe', ('seed',)), ('history', ('train', 'test'))):
        if not isinstance(saved.get(name), dict) or not all(key in saved[name] for key in keys):
            raise ValueError(f"{path}: no run of testLeNet.py; it lacks {name}{' with ' * bool(keys)}{', '.join(keys)}")
    try:
        maps = feature_map_shapes(saved['layers'])
        forward(params, saved['layers'], np.zeros((np.prod(maps[1]), 1), np.float32))
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    num = saved['layers'][len(saved['layers'])]['num']
    if (*maps[1], num) != (28, 28, 1, 10):
        raise ValueError(f'{path}: the network takes images of shape {maps[1]} and tells {num} classes apart; '
                         'expected (28, 28, 1) and 10, as MNIST has')
    return params, saved


def drawings(params, saved, flags):
    """The pictures: dict, name of the file -> function that takes `figure` and draws it."""
    layers = saved['layers']
    *_, images, labels = load_mnist(True, np.float32, np.random.RandomState(saved['recipe']['seed']))
    if not 0 <= flags.image < len(labels):
        raise ValueError(f'argument --image: {flags.image} is out of range; expected 0..{len(labels) - 1}')
    probabilities = predict(params, layers, images)
    outputs = forward(params, layers, images[:, [flags.image]])
    image = {'probabilities': probabilities[:, [flags.image]], 'label': labels[flags.image],
             'name': f'test image {flags.image}'}
    return {
        'features.png': lambda figure=None: draw_features(outputs, layers, **image, figure=figure),
        'training.png': lambda figure=None: draw_training(saved['history'], figure),
        'mistakes.png': lambda figure=None: draw_mistakes(images, labels, probabilities, (28, 28, 1), figure=figure),
    }


def make_folder(path):
    """Make the folder if it is not there. Raises ValueError if that fails."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ValueError(f'argument --out: {path}: cannot make this folder: {error.strerror}') from None


def save_figure(path, figure):
    """Write a Figure as PNG, whole or not at all. Raises OSError if that fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format='png')
    write_whole(path, buffer.getbuffer())


def show(draw):
    """Show the pictures in windows, until they are closed. Raises ValueError if there is no display for them."""
    try:
        from matplotlib import pyplot
        for function in draw:
            function(figure=pyplot.figure())
    except ImportError as error:     # the backend that is asked for can't be had
        raise ValueError(f'argument --show: {error}') from None
    if pyplot.get_backend().lower() in ('agg', 'cairo', 'pdf', 'pgf', 'ps', 'svg', 'template'):
        raise ValueError('argument --show: there is no display, or no toolkit for windows such as tkinter')
    pyplot.show()


if __name__ == '__main__':
    main()
