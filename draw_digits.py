"""Draw digits with the mouse, and watch a saved model read them.

    python draw_digits.py               opens a window
    python draw_digits.py --help        all flags

The model is lenet.mat, which python testLeNet.py makes; --model PATH takes another.
"""

import argparse
import itertools
import os
import sys
import time

import testLeNet  # which sets up BLAS, and so comes before NumPy

# isort: split
try:
    import matplotlib
except ValueError as error:                # MPLBACKEND names no backend
    sys.exit(f'draw_digits.py: error: MPLBACKEND: {error}')
import numpy as np
from matplotlib import pyplot
from matplotlib.widgets import Button
from scipy import ndimage

import vis_data
from cnn_lenet import forward, load_mnist, predict
from read_digits import Digit, character, ink_box, to_mnist
from testLeNet import errors_in_one_line, load_model
from vis_data import first_maps, rounded, set_probabilities, tile

PROMPT = 'draw a digit here, or several side by side'
PEN_RADIUS = 6           # on a canvas of 100 x 100 pixels: digits then have as much ink as MNIST's


class DrawingWindow:
    """A field to draw digits in, and what the net makes of them, which follows while one draws.

    figure          the Figure to draw in
    params, layers  a network on MNIST
    images          (784, n) images whose maps set the colour scales, which then stay the same

    While a program is busy, toolkits merge the moves of the mouse, which turns a curve into a polygon. So a move only
    adds a point, and a timer redraws what changes, part by part, over the pixels of what stays.
    """

    def __init__(self, figure, params, layers, images):
        self.figure, self.params, self.layers = figure, params, layers
        self.strokes = []                # each a list of points (x, y) in heights of the field; the last may still grow
        self.drawing = False             # is the mouse button down?
        self.changed = False             # since all parts were last redrawn

        outputs = forward(params, layers, images)
        maps = vis_data.count_maps(outputs)
        rows = [['words', 'clear'], ['field', 'image'], *([i, 'probabilities'] for i in maps or ['field'])]
        axes = figure.subplot_mosaic(rows, width_ratios=(7, 2.5), height_ratios=[0.5] + [2] * (len(rows) - 1))
        axes['words'].set_axis_off()
        self.words = axes['words'].text(0, 1, '', va='top', fontsize=12, linespacing=1.3, in_layout=False)
        self.field = axes['field']
        self.field.set(xlim=(0, 3.7), ylim=(1, 0), aspect='equal', anchor='W', facecolor='black', xticks=[], yticks=[],
                       title=PROMPT, xlabel='c clear, u undo, s save, q quit')
        self.ink, = self.field.plot([], [], 'white', lw=4, solid_capstyle='round', solid_joinstyle='round')
        self.image = vis_data.draw_image(axes['image'], np.zeros((28, 28)), 'what the net gets, 28 x 28')
        self.bars = vis_data.draw_probabilities(axes['probabilities'], np.zeros(10))
        self.maps = {i: vis_data.draw_layer(axes[i], i, layers, outputs[i]) for i in maps}
        self.parts = {self.field: [self.ink], axes['words']: [self.words], axes['image']: [self.image],
                      axes['probabilities']: self.bars, **{image.axes: [image] for image in self.maps.values()}}
        self.turns = itertools.cycle(self.parts)
        for artist in itertools.chain(*self.parts.values()):
            artist.set_animated(True)                    # so that drawing the window leaves it out
        self.button = Button(axes['clear'], 'clear', hovercolor='0.85')      # its own: another would redraw all
        self.button.ax.spines[:].set_visible(False)
        self.button.on_clicked(lambda event: self.keep([]))

        for name in ('button_press_event', 'motion_notify_event', 'button_release_event'):
            figure.canvas.mpl_connect(name, self.on_mouse)
        figure.canvas.mpl_connect('key_press_event', self.on_key)
        figure.canvas.mpl_connect('draw_event', self.on_draw)
        figure.canvas.mpl_connect('close_event', lambda event: self.timer.stop())
        self.timer = figure.canvas.new_timer(interval=33, callbacks=[(self.on_timer, (), {})])
        self.timer.start()

    def on_mouse(self, event):
        """A stroke begins with the left button on the field, and ends where the button is released."""
        if event.name == 'button_press_event' and event.button == 1 and event.inaxes is self.field:
            self.strokes.append([])
            self.drawing = self.changed = True
        if self.drawing:
            # Not event.xdata, which is None beyond the edges of the field.
            self.strokes[-1].append(self.field.transData.inverted().transform((event.x, event.y)))
        if self.drawing and event.name == 'button_release_event':
            self.drawing = False
            if not np.ptp(self.strokes[-1], axis=0).any():
                self.strokes.pop()                       # a click that brought the window to the front, not a digit
            self.entitle(PROMPT)

    def on_key(self, event):
        if event.key in ('c', 'u'):
            self.keep(self.strokes[:-1] if event.key == 'u' else [])
        elif event.key == 's':
            self.save()

    def keep(self, strokes):
        self.strokes, self.drawing, self.changed = strokes, False, True
        self.entitle(PROMPT)

    def entitle(self, title):
        """Say something above the field, if it is not what is said there already: this redraws the whole window."""
        if title != self.field.get_title('left'):
            self.field.set_title(title, loc='left')
            self.figure.canvas.draw()

    def save(self):
        """Save the window under a name that is still free, and say in it which."""
        path = next(path for path in map('drawn-{}.png'.format, itertools.count(1)) if not os.path.lexists(path))
        self.entitle(PROMPT)                             # which is what the picture is to say
        try:
            vis_data.save_figure(path, self.figure)
            self.entitle(f'saved as {path}')
        except OSError as error:                         # not the end: the drawing is still there
            self.entitle(testLeNet.one_line(error))

    def on_draw(self, event):
        """All but the animated artists has been drawn: remember its pixels; the timer adds the rest."""
        self.pixels = {ax: self.figure.canvas.copy_from_bbox(ax.bbox.padded(2)) for ax in self.parts}
        self.changed = True

    def on_timer(self):
        """Redraw what has changed: while one draws, the ink and one other part in turn, so that no move waits long."""
        if not self.changed:
            return
        begin, canvas = time.perf_counter(), self.figure.canvas
        points = [point for stroke in self.strokes for point in (*stroke, (np.nan, np.nan))]
        self.ink.set_data(*np.reshape(points, (-1, 2)).T)
        turn = next(self.turns)
        if turn is self.field or not self.drawing:
            self.read()
        for ax, artists in self.parts.items():
            if ax in (self.field, turn) or not self.drawing:
                canvas.restore_region(self.pixels[ax])
                for artist in artists:
                    ax.draw_artist(artist)
                canvas.blit(ax.bbox.padded(2))
        if hasattr(canvas, 'queue_draw'):                # matplotlib's blit does nothing in GTK 4
            canvas.queue_draw()
        self.changed = self.drawing
        self.timer.interval = max(33, 3000 * (time.perf_counter() - begin))      # ms: three quarters are for the mouse

    def read(self):
        """Let the net read what is drawn; the image, maps and probabilities are those of the digit drawn last."""
        digits = split_digits(self.strokes)
        boxes = [ink_box(draw_strokes(digit)) for digit in digits]
        images = np.array(list(map(to_mnist, boxes)) or np.zeros((1, 28, 28)), np.float32)
        last = next((j for j, digit in enumerate(digits) if digit[-1] is self.strokes[-1]), 0)
        outputs = forward(self.params, self.layers, images[last].reshape(784, 1))
        probabilities = predict(self.params, self.layers, images.reshape(-1, 784).T).T
        p = probabilities[last] if digits else np.zeros(10)
        self.image.set_data(images[last])
        for i, image in self.maps.items():
            image.set_data(tile(first_maps(outputs[i])))
        set_probabilities(self.bars, p)
        row = [character(Digit((0, box.shape[0], 0, box.shape[1]), *rest))
               for box, *rest in zip(boxes, images, probabilities)]
        second, best = p.argsort()[-2:]
        chance = rounded(p[second]) if p[second] >= 0.00005 else '< 0.0001'
        note = f'last drawn: {best}, probability {rounded(p[best])}, second guess {second} with {chance}'
        self.words.set_text(f"read: {' '.join(row)}\n{note}" if digits else 'nothing drawn yet')


def split_digits(strokes):
    """Group strokes, lists of points (x, y), into digits: a list of lists of strokes, from left to right.

    A stroke belongs to a digit if the two overlap, from left to right, by a third of the narrower one.
    """
    columns = [np.transpose(stroke) for stroke in strokes]
    margin = 0.02 * max((np.ptp(y) for _, y in columns), default=0)      # since an upright line has no width
    digits = []                                                          # left edge, right edge, indices of strokes
    for left, right, j in sorted((min(x) - margin, max(x) + margin, j) for j, (x, _) in enumerate(columns)):
        if digits and min(right, digits[-1][1]) - left >= min(right - left, digits[-1][1] - digits[-1][0]) / 3:
            digits[-1][1] = max(right, digits[-1][1])
            digits[-1][2].append(j)
        else:
            digits.append([left, right, [j]])
    return [[strokes[j] for j in sorted(indices)] for _, _, indices in digits]


def draw_strokes(strokes):
    """Draw the strokes of a digit, lists of points (x, y), as large as fits on a canvas (100, 100) of ink in 0..1."""
    points = np.concatenate(strokes)
    side = max(np.ptp(points, axis=0).max(), 1e-3)       # it has none before the first move
    blank = np.ones((100, 100), bool)
    for stroke in strokes:
        stroke = PEN_RADIUS + (100 - 2 * PEN_RADIUS) * (stroke - points.min(axis=0)) / side
        x, y = ndimage.zoom(stroke, (100, 1), order=1, mode='nearest').astype(int).T     # so many points leave no gap
        blank[y, x] = False
    return np.clip(PEN_RADIUS + 0.5 - ndimage.distance_transform_edt(blank), 0, 1)


def open_drawing_window(params, layers, images):
    """Let the user draw until the window is closed; the arguments are those of DrawingWindow."""
    keys = dict.fromkeys(['keymap.grid', 'keymap.grid_minor', 'keymap.xscale', 'keymap.yscale'], [])      # g, k, l
    with pyplot.rc_context({**vis_data.STYLE, 'toolbar': 'None', **keys}):
        figure = pyplot.figure('Draw a digit', figsize=(9.8, 6.6))       # a screen of 768 lines has room for it
        figure.set_layout_engine('constrained', rect=(0.02, 0.01, 0.96, 0.98))
        figure.window = DrawingWindow(figure, params, layers, images)    # kept: callbacks are weak references
        pyplot.show(block=True)


def main(argv=None):
    parser = argparse.ArgumentParser(prog='draw_digits.py', description='Draw digits; a saved model reads them.')
    parser.add_argument('--model', metavar='PATH', default='lenet.mat',
                        help='the model that python testLeNet.py saved (default: lenet.mat)')
    flags = parser.parse_args(argv)
    with errors_in_one_line('draw_digits.py'):
        check_window()
        params, layers, _ = load_model(flags.model)
        *_, images, _ = load_mnist(False, np.float32, np.random.RandomState(testLeNet.seed))
    open_drawing_window(params, layers, images[:, :100])


def check_window():
    """Raise ValueError, saying what is missing, if matplotlib can't open a window."""
    try:
        pyplot.switch_backend(matplotlib.get_backend())
    except ImportError as error:                         # MPLBACKEND asks for what is not installed
        raise ValueError(str(error)) from None
    backend = matplotlib.get_backend().lower()
    if backend in vis_data.WITHOUT_WINDOWS or 'inline' in backend:
        if os.environ.get('MPLBACKEND'):
            raise ValueError(f'MPLBACKEND asks for {backend}, which opens no windows; unset it')
        if sys.platform == 'linux' and not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
            raise ValueError('there is no display to open a window on')
        raise ValueError('there is no toolkit for windows, or the display cannot be reached; tkinter is one '
                         '(on Debian and Ubuntu: apt install python3-tk)')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:               # no traceback for Ctrl-C
        sys.exit(130)
