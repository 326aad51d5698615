"""Digits drawn with the mouse: the image that is made of them, and the window, driven by matplotlib's own events."""

import numpy as np
import pytest
from matplotlib.backend_bases import KeyEvent, MouseEvent
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

import read_digits
import testLeNet
from cnn_lenet import conv_net, forward, get_lr, init_convnet, load_mnist, predict, sgd_momentum
from read_digits import DrawingWindow, to_mnist

LENET = testLeNet.get_lenet()


@pytest.fixture(scope='module')
def mnist():
    """3,000 images of MNIST to train on and 1,000 to test on."""
    xtrain, ytrain, _, _, xtest, ytest = load_mnist(True, np.float32, np.random.RandomState(0))
    return xtrain[:, :3000], ytrain[:3000], xtest[:, :1000], ytest[:1000]


@pytest.fixture(scope='module')
def params(mnist):
    """LeNet after 150 iterations: good enough to tell digits from one another."""
    xtrain, ytrain, *_ = mnist
    rng = np.random.RandomState(0)
    params = init_convnet(LENET, np.float32, rng)
    param_winc = {i: {key: np.zeros_like(value) for key, value in param.items()} for i, param in params.items()}
    for t in range(150):
        index = rng.randint(len(ytrain), size=64)
        _, param_grad = conv_net(params, LENET, xtrain[:, index], ytrain[index])
        rate = get_lr(t, 0.01, 0.0001, 0.75)
        params, param_winc = sgd_momentum(rate, 2 * rate, 0.9, 0.0005, params, param_winc, param_grad)
    return params


# The image

def test_mnists_own_digits_come_back_as_they_are(mnist):
    """They have been through it already: as long as 20 pixels, and their centre of mass within half a pixel."""
    _, _, x, _ = mnist
    for image in x.T.reshape(-1, 28, 28):
        np.testing.assert_allclose(to_mnist(image), image, atol=1e-6)


def test_digits_enlarged_and_moved_are_read_as_well_as_before(mnist, params):
    _, _, x, y = mnist
    rng = np.random.RandomState(0)
    drawn = np.empty_like(x)
    for j, image in enumerate(x.T.reshape(-1, 28, 28)):
        large = np.clip(ndimage.zoom(image, rng.uniform(2, 9), order=1), 0, 1)
        canvas = np.zeros((280, 280))
        top, left = rng.randint(281 - np.array(large.shape))
        canvas[top:top + large.shape[0], left:left + large.shape[1]] = large
        drawn[:, j] = to_mnist(canvas).ravel()
    before, after = (np.mean(predict(params, LENET, images).argmax(axis=0) == y) for images in (x, drawn))
    assert before > 0.85
    assert after > before - 0.02


@pytest.mark.parametrize('height, width, size', [(100, 100, (20, 20)), (50, 100, (10, 20)), (90, 30, (20, 7)),
                                                 (3, 200, (1, 20)), (1, 1, (20, 20))])
def test_a_rectangle_is_scaled_with_its_proportions_and_moved_to_the_middle(height, width, size):
    canvas = np.zeros((300, 250))
    canvas[17:17 + height, 31:31 + width] = 1
    image = to_mnist(canvas)
    rows, columns = np.nonzero(image)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == size
    np.testing.assert_allclose(image[image > 0], 1, rtol=1e-6)
    assert abs(rows.mean() - 14) <= 0.5 and abs(columns.mean() - 14) <= 0.5


def test_grey_is_the_share_of_the_area_that_is_inked():
    canvas = np.zeros((60, 60))
    canvas[:, :31] = canvas[:, -1] = 1                     # pixels of 3 x 3: ten columns full, one and the last a third
    row = to_mnist(canvas).max(axis=0)
    np.testing.assert_allclose(row[row > 0], [1] * 10 + [1 / 3] * 2, rtol=1e-6)
    assert row.shape == (28,)


def test_the_middle_is_the_centre_of_mass_but_no_ink_leaves_the_image():
    canvas = np.zeros((100, 100))
    canvas[:20] = canvas[:, 50] = 1                        # a T: most of its ink is on top
    image = to_mnist(canvas)
    assert image[8:, 14].all() and image[27].any() and not image[:8].any()
    np.testing.assert_allclose(image.sum(), canvas.sum() / 25, rtol=1e-6)


def test_an_empty_canvas_gives_an_empty_image():
    np.testing.assert_array_equal(to_mnist(np.zeros((280, 280))), np.zeros((28, 28)))


# The window

class Mouse:
    """Sends matplotlib's events to a DrawingWindow that has been drawn once."""

    def __init__(self, params, images, path):
        self.canvas = FigureCanvasAgg(Figure())
        self.window = DrawingWindow(self.canvas.figure, params, LENET, images, path)
        self.canvas.draw()
        self.canvas.figure.set_layout_engine('none')       # everything has its place now

    def at(self, name, x, y, button=1):
        """An event at (x, y) of the field, in pixels of the drawing."""
        MouseEvent(name, self.canvas, *self.window.field.axes.transData.transform((x, y)), button)._process()

    def draw(self, *points, button=1):
        self.at('button_press_event', *points[0], button)
        for point in points[1:]:
            self.at('motion_notify_event', *point, button)
        self.at('button_release_event', *points[-1], button)

    def key(self, key):
        KeyEvent('key_press_event', self.canvas, key)._process()

    def click_clear(self):
        x, y = self.window.button.ax.bbox.min + 5
        for name in ('button_press_event', 'button_release_event'):
            MouseEvent(name, self.canvas, x, y, 1)._process()

    @property
    def drawing(self):
        return np.array(self.window.field.get_array())


@pytest.fixture
def mouse(params, mnist, tmp_path):
    return Mouse(params, mnist[2][:, :20], str(tmp_path / 'drawn.png'))


def test_a_stroke_leaves_ink_and_the_whole_window_follows(mouse, params):
    mouse.at('button_press_event', 100, 50)
    for y in (100, 200):
        mouse.at('motion_notify_event', 100, y)
        drawing = mouse.drawing
        assert drawing[50:y, 100].min() == 1 and drawing[:, 130:].max() == 0
        image = to_mnist(drawing)
        np.testing.assert_array_equal(mouse.window.picture.get_array(), image)
        outputs, p = (function(params, LENET, image.reshape(784, 1)) for function in (forward, predict))
        np.testing.assert_array_equal([bar.get_height() for bar in mouse.window.bars], p[:, 0])
        assert mouse.window.headline.get_text().startswith(f'predicted class {p.argmax()}, ')
        for i, num, side in ((2, 20, 24), (3, 20, 12)):
            maps = np.moveaxis(outputs[i]['data'].reshape(side, side, num), 2, 0)
            np.testing.assert_array_equal([shown.get_array() for shown in mouse.window.maps[i]], maps)


def test_a_vertical_line_is_a_one(mouse):
    mouse.draw((140, 30), (140, 130), (138, 240))
    assert mouse.window.headline.get_text().startswith('predicted class 1, ')


def test_without_the_button_on_the_field_nothing_is_drawn(mouse):
    mouse.at('motion_notify_event', 100, 100)
    mouse.draw((-50, 100), (100, 100))
    mouse.draw((100, 100), (200, 100), button=3)
    assert mouse.drawing.max() == 0 and mouse.window.headline.get_text() == 'nothing drawn yet'
    mouse.draw((100, 100), (400, 100))                     # begun on the field, it may leave
    assert mouse.drawing[100, 100:].min() == 1


def test_u_takes_one_stroke_back_and_c_or_the_button_all(mouse):
    mouse.draw((50, 50), (50, 200))
    first = mouse.drawing
    mouse.draw((150, 50), (150, 200))
    mouse.key('u')
    np.testing.assert_array_equal(mouse.drawing, first)
    mouse.key('u')
    mouse.key('u')
    assert mouse.drawing.max() == 0
    for clear in (lambda: mouse.key('c'), mouse.click_clear):
        mouse.draw((50, 50), (50, 200))
        mouse.draw((150, 50), (150, 200))
        clear()
        assert mouse.drawing.max() == 0


def test_s_saves_the_figure_and_drawing_goes_on(mouse, tmp_path, capsys):
    mouse.draw((50, 50), (50, 200))
    mouse.key('s')
    path = tmp_path / 'drawn.png'
    assert capsys.readouterr() == (f'{path}\n', '') and path.stat().st_size > 10000
    mouse.draw((150, 50), (150, 200))
    assert mouse.drawing[50:200, 150].min() == 1
    path.unlink()
    path.mkdir()
    mouse.key('s')                                         # can't be written: one line, and the window stays
    out, error = capsys.readouterr()
    assert out == '' and error.startswith('read_digits.py: error: ') and error.count('\n') == 1
    mouse.key('c')
    assert mouse.drawing.max() == 0


def test_what_is_shown_while_drawing_is_what_a_full_draw_shows(mouse):
    mouse.canvas.draw()
    mouse.draw((50, 50), (150, 60), (80, 200))
    mouse.key('s')                                         # draws in another size
    mouse.draw((150, 50), (150, 200))
    follows = np.array(mouse.canvas.buffer_rgba())
    mouse.canvas.draw()
    np.testing.assert_array_equal(follows, mouse.canvas.buffer_rgba())
    assert follows.std() > 1


def test_q_closes_the_window(mouse, monkeypatch):
    closed = []
    monkeypatch.setattr(read_digits.pyplot, 'close', closed.append)
    mouse.key('q')
    assert closed == [mouse.canvas.figure]
