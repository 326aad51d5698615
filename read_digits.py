"""Read handwritten digits with a saved model.

    python read_digits.py --draw        draw digits with the mouse and watch the net read them
    python read_digits.py --help        all flags

The model is lenet.mat, which python testLeNet.py makes; --model PATH takes another.
"""

import argparse
import itertools
import os
import sys
import time

import testLeNet  # which sets up BLAS, and so comes before NumPy

if __name__ == '__main__':
    try:
        import matplotlib
    except ValueError as error:                # MPLBACKEND names no backend
        sys.exit(f'read_digits.py: error: MPLBACKEND: {error}')

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.backend_bases import MouseButton
from matplotlib.widgets import Button
from scipy import ndimage

from cnn_lenet import forward, load_mnist, predict
from vis_data import (
    STYLE,
    check_display,
    count_maps,
    draw_image,
    draw_layer,
    draw_probabilities,
    errors_in_one_line,
    first_maps,
    load_model,
    rounded,
    save_figure,
    set_probabilities,
    tile,
)

# ---------------------------------------------------------------------------------------------------------------
# The image that the net gets
# ---------------------------------------------------------------------------------------------------------------


def to_mnist(canvas):
    """Make a drawing into an image as MNIST's authors made theirs.

    canvas  (height, width) of any size: 0 where nothing is drawn, up to 1 where there is ink

    Returns (28, 28) pixels in 0..1. The drawing's bounding box is scaled to fit 20 x 20, with its proportions; every
    pixel is the mean of the area that it covers, which makes the edges grey; then the whole is moved so that its
    centre of mass comes to the middle of the image, by whole pixels. An empty canvas gives an empty image.
    Source: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998,
    section III A, and the MNIST page. The middle is pixel (14, 14): so it is in all of MNIST, half a pixel at most off.
    """
    image = np.zeros((28, 28), np.float32)
    rows, columns = np.flatnonzero(canvas.any(axis=1)), np.flatnonzero(canvas.any(axis=0))
    if not len(rows):
        return image
    box = canvas[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    h, w = (max(1, round(20 * side / max(box.shape))) for side in box.shape)
    digit = _area_means(box.shape[0], h) @ box @ _area_means(box.shape[1], w).T
    top = 14 - np.average(np.arange(h), weights=digit.sum(axis=1))
    left = 14 - np.average(np.arange(w), weights=digit.sum(axis=0))
    top, left = np.clip(round(top), 0, 28 - h), np.clip(round(left), 0, 28 - w)
    image[top:top + h, left:left + w] = digit
    return image


def _area_means(n, m):
    """The matrix (m, n) that scales n pixels to m: row i holds how much of new pixel i each old one covers."""
    edges = np.linspace(0, n, m + 1)
    before = np.clip(edges[:, None] - np.arange(n), 0, 1)          # how much of each old pixel is before each edge
    return np.diff(before, axis=0) * m / n


# ---------------------------------------------------------------------------------------------------------------
# The window to draw in
# ---------------------------------------------------------------------------------------------------------------

PEN_WIDTH = 0.035        # on the screen, of the field's height
PEN_RADIUS = 1.2         # in what the net gets, in its pixels: digits then have as much ink as MNIST's, 100 pixels
FINE = 5                 # a stroke is drawn in pixels so many times finer than MNIST's


class DrawingWindow:
    """A field to draw digits in, and what the net makes of them, which follows while one draws.

    figure          the Figure to draw in
    params, layers  a network on MNIST
    images          (784, n) images whose maps set the colour scales, which then stay the same

    Every point that the mouse reports is kept. While a program is busy, toolkits keep only the mouse's latest position,
    which turns a curve into a polygon. So a move of the mouse adds a point and does nothing else, and a timer redraws
    the window, part by part, at most 30 times a second.
    """

    @matplotlib.rc_context(STYLE)
    def __init__(self, figure, params, layers, images):
        self.figure, self.params, self.layers = figure, params, layers
        self.strokes = []                # each a list of points (x, y) in heights of the field; the last may still grow
        self.drawing = False             # is the mouse button down?
        self.changed = False             # since the net last read what is drawn
        self.waiting = []                # axes that do not show yet what the net has read
        self.pause = 0                   # until when only the ink is redrawn, if one draws
        self.backgrounds = {}            # axes -> its pixels without what moves

        outputs = forward(params, layers, images)
        maps = count_maps(outputs)
        rows = [['words', 'clear'], ['field', 'image'], *([i, 'probabilities'] for i in maps or ['field'])]
        figure.set_size_inches(9.8, 6.6)                 # a screen of 768 lines has room for it
        figure.set_layout_engine('constrained', rect=(0.02, 0.01, 0.96, 0.98))
        axes = figure.subplot_mosaic(rows, width_ratios=(7, 2.5), height_ratios=[0.5] + [2] * (len(rows) - 1))
        axes['words'].set_axis_off()
        self.words = axes['words'].text(0, 0.95, '', va='top', fontsize=15, in_layout=False)
        self.note = axes['words'].text(0, 0.05, '', va='bottom', in_layout=False)
        self.field = axes['field']
        self.field.set(xlim=(0, 3.7), ylim=(1, 0), aspect='equal', anchor='W', facecolor='black', xticks=[], yticks=[],
                       title='draw a digit here, or several side by side (c clear, u undo, s save, q quit)')
        self.field.spines[:].set_visible(False)
        self.ink, = self.field.plot([], [], color='white', solid_capstyle='round', solid_joinstyle='round')
        self.image = draw_image(axes['image'], np.zeros((28, 28)), 'what the net gets, 28 x 28')
        self.bars = draw_probabilities(axes['probabilities'], np.zeros(10))
        self.maps = {i: draw_layer(axes[i], i, layers, outputs[i]) for i in maps}
        self.button = Button(axes['clear'], 'clear')
        self.button.ax.spines[:].set_visible(False)
        self.button.on_clicked(lambda event: self.keep([]))

        self.moving = {self.field: [self.ink], axes['words']: [self.words, self.note], axes['image']: [self.image],
                       axes['probabilities']: self.bars, **{image.axes: [image] for image in self.maps.values()}}
        for artist in itertools.chain(*self.moving.values()):
            artist.set_animated(True)                    # so that drawing the window leaves it out
        self.connect()
        self.read()

    def connect(self):
        canvas = self.figure.canvas
        for name, method in (('button_press_event', self.on_press), ('motion_notify_event', self.on_move),
                             ('button_release_event', self.on_release), ('key_press_event', self.on_key),
                             ('draw_event', self.on_draw), ('close_event', self.on_close)):
            canvas.mpl_connect(name, method)
        self.timer = canvas.new_timer(interval=30)       # milliseconds
        self.timer.add_callback(self.on_timer)
        self.timer.start()

    def on_close(self, event):
        self.timer.stop()

    def on_press(self, event):
        if event.inaxes is self.field and event.button == MouseButton.LEFT:
            self.strokes.append([])
            self.drawing = True
            self.pause = time.perf_counter() + 0.2       # not before there is something to read
            self.on_move(event)

    def on_move(self, event):
        if self.drawing:                                 # also beyond the edges of the field
            self.strokes[-1].append(self.field.transData.inverted().transform((event.x, event.y)))
            self.changed = True

    def on_release(self, event):
        self.on_move(event)
        self.drawing = False

    def on_key(self, event):
        if event.key == 'c':
            self.keep([])
        elif event.key == 'u':
            self.keep(self.strokes[:-1])
        elif event.key == 's':
            self.save()
        elif event.key == 'q':
            pyplot.close(self.figure)

    def keep(self, strokes):
        self.strokes, self.drawing, self.changed = strokes, False, True

    def save(self):
        """Save the window under a name that is still free."""
        path = next(path for path in map('drawn-{}.png'.format, itertools.count(1)) if not os.path.lexists(path))
        try:
            save_figure(path, self.figure)
            self.note.set_text(f'saved as {path}')
        except OSError as error:                         # not the end: the drawing is still there
            self.note.set_text(testLeNet.one_line(error))
        self.figure.canvas.draw()                        # saving has drawn in another size

    def on_timer(self):
        """Redraw the ink, and the rest part by part, which may take a quarter of the time while one draws."""
        begin = time.perf_counter()
        if self.changed:
            points = [point for stroke in self.strokes for point in (*stroke, (np.nan, np.nan))]
            self.ink.set_data(*np.reshape(points, (-1, 2)).T)
            self.show(self.field)
        if self.drawing and begin < self.pause:
            return
        if self.changed and not self.waiting:
            self.read()
        while self.waiting:
            self.show(self.waiting.pop(0))
            if time.perf_counter() - begin > 0.01:
                break
        end = time.perf_counter()
        self.pause = end + 3 * (end - begin)

    def read(self):
        """Let the net read what is drawn; the maps and probabilities are those of the digit drawn last."""
        self.changed = False
        digits = split_digits(self.strokes)
        images = [to_mnist(draw_strokes(digit)) for digit in digits] or [np.zeros((28, 28), np.float32)]
        last = next((j for j, digit in enumerate(digits) if digit[-1] is self.strokes[-1]), 0)
        columns = np.reshape(images, (-1, 784)).T
        outputs = forward(self.params, self.layers, columns[:, [last]])
        probabilities = predict(self.params, self.layers, columns)
        self.image.set_data(images[last])
        for i, image in self.maps.items():
            image.set_data(tile(first_maps(outputs[i])))
        p = probabilities[:, last] if digits else np.zeros(10)
        set_probabilities(self.bars, p)
        if digits:
            second = np.argsort(p)[-2]
            row = probabilities.argmax(axis=0)
            self.words.set_text(f"read: {' '.join(map(str, row))}")
            self.note.set_text((f'last drawn: {row[last]}, ' if len(row) > 1 else '') +
                               f'probability {rounded(p.max())}, second guess {second} with {rounded(p[second])}')
        else:
            self.words.set_text('nothing drawn yet')
            self.note.set_text('')
        self.waiting = [ax for ax in self.moving if ax is not self.field]

    def on_draw(self, event):
        """The whole window has been drawn but for what moves: remember its pixels, and add what moves."""
        canvas = self.figure.canvas
        if not canvas.is_saving():
            self.ink.set_linewidth(PEN_WIDTH * self.field.bbox.height * 72 / self.figure.dpi)
            self.backgrounds = {ax: canvas.copy_from_bbox(ax.bbox.padded(2)) for ax in self.moving}
            for ax in self.moving:
                self.draw_moving(ax)

    def draw_moving(self, ax):
        for artist in self.moving[ax]:
            ax.draw_artist(artist)

    def show(self, ax):
        """Redraw what moves in an axes, and nothing else."""
        canvas = self.figure.canvas
        if ax in self.backgrounds:
            canvas.restore_region(self.backgrounds[ax])
            self.draw_moving(ax)
            canvas.blit(ax.bbox.padded(2))
            if hasattr(canvas, 'queue_draw'):            # matplotlib's blit does nothing in GTK 4
                canvas.queue_draw()


def split_digits(strokes):
    """The digits of a row, from left to right: a list of lists of strokes, in the order in which they were drawn.

    strokes  list of strokes, each a list of points (x, y)

    A stroke belongs to a digit if it lies above or below it with a third of its width, or of the digit's.
    """
    columns = [np.array(stroke).T for stroke in strokes]
    margin = 0.02 * max((np.ptp(y) for _, y in columns), default=0)      # since an upright line has no width
    edges = [(x.min() - margin, x.max() + margin) for x, _ in columns]
    digits = []                                                          # lists of indices of strokes
    for j in sorted(range(len(strokes)), key=edges.__getitem__):
        left, right = edges[j]
        if digits:
            begin, end = edges[digits[-1][0]][0], max(edges[i][1] for i in digits[-1])
            if min(right, end) - left >= min(right - left, end - begin) / 3:
                digits[-1].append(j)
                continue
        digits.append([j])
    return [[strokes[j] for j in sorted(digit)] for digit in digits]


def draw_strokes(strokes):
    """Draw the strokes of a digit, whatever their size, as large as `to_mnist` makes them, only finer.

    strokes  list of strokes, each a list of points (x, y)

    Returns a canvas for `to_mnist`: square, 0..1.
    """
    strokes = [np.array(stroke) for stroke in strokes]
    points = np.concatenate(strokes)
    side = max(np.ptp(points, axis=0).max(), 1e-3)       # a click has none
    blank = np.ones((20 * FINE, 20 * FINE), bool)
    for stroke in strokes:
        stroke = FINE * ((20 - 2 * PEN_RADIUS) / side * (stroke - points.min(axis=0)) + PEN_RADIUS)
        length = np.insert(np.cumsum(np.hypot(*np.diff(stroke, axis=0).T)), 0, 0)    # of the stroke up to each point
        x, y = (np.interp(np.arange(0, length[-1] + 0.5, 0.5), length, column) for column in stroke.T)
        blank[y.astype(int), x.astype(int)] = False
    return np.clip(FINE * PEN_RADIUS + 0.5 - ndimage.distance_transform_edt(blank), 0, 1)


def open_drawing_window(params, layers, images):
    """Let the user draw until the window is closed; the arguments are those of DrawingWindow."""
    with matplotlib.rc_context({'toolbar': 'None'}):
        figure = pyplot.figure('Draw a digit')
    figure.canvas.mpl_disconnect(figure.canvas.manager.key_press_handler_id)     # c, s and q mean something else there
    figure.window = DrawingWindow(figure, params, layers, images)                # kept: callbacks are weak references
    pyplot.show(block=True)


# ---------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------


def main(argv=None):
    """Open the window to draw in."""
    flags = get_parser().parse_args(argv)
    with errors_in_one_line('read_digits.py'):
        check_display('--draw')
        params, layers, _ = load_model(flags.model)
        *_, images, _ = load_mnist(False, np.float32, np.random.RandomState(testLeNet.seed))
    open_drawing_window(params, layers, images[:, :100])


def get_parser():
    parser = argparse.ArgumentParser(prog='read_digits.py', description='Read handwritten digits with a saved model.')
    parser.add_argument('--draw', action='store_true', required=True,
                        help='draw digits with the mouse and watch the net read them')
    parser.add_argument('--model', metavar='PATH', default='lenet.mat',
                        help='the model that python testLeNet.py saved (default: lenet.mat)')
    return parser


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:               # no traceback for Ctrl-C
        sys.exit(130)
