"""Read handwritten digits with a saved model.

    python read_digits.py --draw        draw digits with the mouse and watch the net read them
    python read_digits.py --help        all flags

The model is lenet.mat, which python testLeNet.py makes; --model PATH takes another.
"""

import argparse
import sys

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.backend_bases import MouseButton
from matplotlib.widgets import Button

import testLeNet
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
    headline,
    layout,
    load_model,
    save_figure,
    set_probabilities,
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

FIELD = 280              # side of the field to draw in, in pixels
PEN = 9                  # radius of the pen: strokes a tenth as wide as a digit is high, as in MNIST


class DrawingWindow:
    """A field to draw a digit in, and what the net makes of it, which follows while one draws.

    figure          the Figure to draw in
    params, layers  a network on MNIST
    images          (784, n) images whose maps set the colour scales, which then stay the same
    path            where the key s saves the figure
    """

    @matplotlib.rc_context(STYLE)
    def __init__(self, figure, params, layers, images, path):
        self.figure, self.params, self.layers, self.path = figure, params, layers, path
        self.drawings = [np.zeros((FIELD, FIELD))]   # one more with every stroke; the last is the one that is shown
        self.pen = None                              # (x, y) in the field while the mouse button is down
        self.background = None                       # the pixels of the window without what moves

        outputs = forward(params, layers, images)
        num_maps = count_maps(outputs)
        axes = layout(figure, 3, {'field': 2.6, 'picture': 2.6, 'probabilities': 3.5}, num_maps)
        self.field = draw_image(axes['field'], self.drawings[0], 'draw a digit here')
        self.field.axes.set_xlabel('keys: c clear, u undo, s save, q quit', loc='left')
        self.picture = draw_image(axes['picture'], np.zeros((28, 28)), 'what the net gets, 28 x 28')
        self.bars = draw_probabilities(axes['probabilities'], np.zeros(10))
        self.headline = axes['probabilities'].set_title('')
        self.maps = {i: draw_layer(axes[i], i, layers, outputs[i]) for i in num_maps}
        self.button = Button(figure.add_axes((0.925, 0.94, 0.06, 0.04)), 'clear')
        self.button.ax.spines[:].set_visible(False)

        self.moving = [self.field, self.picture, self.headline, *self.bars, *sum(self.maps.values(), [])]
        for artist in self.moving:
            artist.set_animated(True)                # so that drawing the window leaves it out
        self.button.on_clicked(lambda event: self.keep(self.drawings[:1]))
        for name, method in (('button_press_event', self.on_press), ('motion_notify_event', self.on_move),
                             ('button_release_event', self.on_release), ('key_press_event', self.on_key),
                             ('draw_event', self.on_draw)):
            figure.canvas.mpl_connect(name, method)
        self.update()

    def on_press(self, event):
        if event.inaxes is self.field.axes and event.button == MouseButton.LEFT:
            self.drawings.append(self.drawings[-1])
            self.pen = self.position(event)
            self.on_move(event)

    def on_move(self, event):
        if self.pen is not None:
            position = self.position(event)
            self.drawings[-1] = np.maximum(self.drawings[-1], _line(self.pen, position))
            self.pen = position
            self.update()

    def on_release(self, event):
        self.pen = None

    def position(self, event):
        """Where in the field the mouse is, also beyond its edges: (x, y) in pixels of the drawing."""
        return self.field.axes.transData.inverted().transform((event.x, event.y))

    def on_key(self, event):
        if event.key == 'c':
            self.keep(self.drawings[:1])
        elif event.key == 'u':
            self.keep(self.drawings[:-1] or self.drawings)
        elif event.key == 's':
            self.save()
        elif event.key == 'q':
            pyplot.close(self.figure)

    def keep(self, drawings):
        self.drawings, self.pen = drawings, None
        self.update()

    def save(self):
        try:
            save_figure(self.path, self.figure)
            print(self.path, flush=True)
        except OSError as error:                     # not the end: the drawing is still there
            print(f'read_digits.py: error: {testLeNet.one_line(error)}', file=sys.stderr)

    def update(self):
        """Show the drawing and what the net makes of it. Redrawing what moves takes 25 ms, the window 110."""
        image = to_mnist(self.drawings[-1])
        outputs = forward(self.params, self.layers, image.reshape(784, 1))
        probabilities = predict(self.params, self.layers, image.reshape(784, 1))[:, 0]
        self.field.set_data(self.drawings[-1])
        self.picture.set_data(image)
        self.headline.set_text(headline(probabilities) if image.any() else 'nothing drawn yet')
        set_probabilities(self.bars, probabilities)
        for i, images in self.maps.items():
            for picture, values in zip(images, first_maps(outputs[i])):
                picture.set_data(values)
        if self.background is not None:
            self.figure.canvas.restore_region(self.background)
            self.draw_moving()
            self.figure.canvas.blit(self.figure.bbox)

    def on_draw(self, event):
        """The whole window has been drawn but for what moves: remember its pixels, and add what moves."""
        if not self.figure.canvas.is_saving():
            self.background = self.figure.canvas.copy_from_bbox(self.figure.bbox)
            self.draw_moving()

    def draw_moving(self):
        for artist in self.moving:
            self.figure.draw_artist(artist)


def _line(start, end):
    """(FIELD, FIELD): the ink of the pen's line from start to end, (x, y) each. The ends are round, the edges grey."""
    x, y = np.arange(FIELD) - start[0], np.arange(FIELD)[:, None] - start[1]
    dx, dy = end - start
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)     # of the line, its point nearest to x, y
    return np.clip(PEN + 0.5 - np.hypot(x - along * dx, y - along * dy), 0, 1)


def open_drawing_window(params, layers, images, path):
    """Let the user draw until the window is closed; the arguments are those of DrawingWindow."""
    with matplotlib.rc_context({'toolbar': 'None'}):
        figure = pyplot.figure('Draw a digit')
    figure.canvas.mpl_disconnect(figure.canvas.manager.key_press_handler_id)     # c, s and q mean something else there
    figure.window = DrawingWindow(figure, params, layers, images, path)          # kept: callbacks are weak references
    pyplot.show()


# ---------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------


def main(argv=None):
    """Open the window to draw in."""
    flags = get_parser().parse_args(argv)
    with errors_in_one_line('read_digits.py'):
        params, layers, _ = load_model(flags.model)
        *_, images, _ = load_mnist(False, np.float32, np.random.RandomState(testLeNet.seed))
        check_display('--draw')
    open_drawing_window(params, layers, images[:, :100], 'drawn.png')


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
