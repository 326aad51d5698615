"""Digits drawn with the mouse: the image that is made of them, and the window, driven by matplotlib's own events."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import mnist, reader
from matplotlib import pyplot
from matplotlib.backend_bases import KeyEvent, MouseEvent

import draw_digits
import testLeNet
from cnn_lenet import forward, predict
from draw_digits import draw_strokes, split_digits
from read_digits import to_mnist
from vis_data import first_maps, rounded, tile

LENET = testLeNet.get_lenet()
SEVEN = [[(0, 0), (0.5, 0.02), (0.2, 1)], [(0.1, 0.5), (0.5, 0.5)]]        # strokes, as the mouse draws them
FOUR = [[(0.1, 0), (0, 0.6), (0.6, 0.6)], [(0.61, 0.1), (0.58, 1)]]        # the second a little beside the first
ONE = [[(0.5, 0.1), (0.5, 0.5), (0.5, 0.9)]]


# The image

def test_mnists_own_digits_come_back_as_they_are():
    """They have been through it already: as long as 20 pixels, and their centre of mass within half a pixel. Only the
    one in a hundred with the thinnest or the thickest strokes is changed."""
    images = mnist(False)[4].T[:300].reshape(-1, 28, 28)
    same = [np.allclose(to_mnist(image), image, atol=1e-6) for image in images]
    assert np.mean(same) > 0.98


@pytest.mark.parametrize('height, width, size', [(100, 100, (20, 20)), (50, 100, (10, 20)), (90, 36, (20, 8)),
                                                 (20, 200, (2, 20)), (10, 10, (20, 20))])
def test_a_rectangle_is_scaled_with_its_proportions_and_moved_to_the_middle(height, width, size):
    canvas = np.zeros((300, 250))
    line = max(height, width) // 10                        # as wide as MNIST's strokes
    canvas[17:17 + height, 31:31 + width] = 1
    canvas[17 + line:17 + height - line, 31 + line:31 + width - line] = 0
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
    np.testing.assert_array_equal(to_mnist(0 * canvas), np.zeros((28, 28)))


# The pen

def moved(strokes, size, left, top=0):
    return [[(left + size * x, top + size * y) for x, y in stroke] for stroke in strokes]


@pytest.mark.parametrize('size', [0.03, 0.9])
def test_the_size_and_the_place_of_a_drawing_do_not_matter(size):
    expected = to_mnist(draw_strokes(SEVEN))
    image = to_mnist(draw_strokes(moved(SEVEN, size, 1.3, 0.05)))
    assert abs(image - expected).mean() < 0.01 and expected.mean() > 0.05


def test_a_line_is_as_high_as_mnists_digits_and_as_wide_as_the_pen():
    image = to_mnist(draw_strokes([[(2, 0.1), (2, 0.3)]]))
    rows, columns = np.nonzero(image)
    assert np.ptp(rows) + 1 == 20 and np.ptp(columns) + 1 <= 4
    assert image.sum() == pytest.approx(2 * draw_digits.PEN_RADIUS / 5 * 20, rel=0.2)       # in whole pixels


@pytest.mark.parametrize('num', [3, 200])
def test_the_number_of_points_that_the_mouse_reports_of_a_line_does_not_matter(num):
    few, many = (to_mnist(draw_strokes([np.linspace((2.2, 0.1), (2, 0.3), n)])) for n in (2, num))
    np.testing.assert_allclose(few, many, atol=0.3)


@pytest.mark.parametrize('size', [0.05, 0.8])
def test_what_lies_above_one_another_is_one_digit_and_what_stands_side_by_side_is_several(size):
    seven, [one], four = moved(SEVEN, size, 0), moved([[(1, 0), (1, 1)]], size, -0.35 * size), moved(FOUR, size, size)
    assert split_digits([four[0], seven[1], one, seven[0], four[1]]) == [seven[::-1], [one], four]
    assert split_digits([]) == []


# The window

@pytest.fixture(scope='module')
def one_window():
    """One for all tests, since the first drawing takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyplot, 'show', lambda block: None)
        draw_digits.open_drawing_window(reader(), LENET, mnist(False)[4][:, :20])
    figure = pyplot.gcf()
    figure.canvas.draw()
    figure.set_layout_engine('none')                       # everything has its place now
    yield figure.window
    pyplot.close(figure)


@pytest.fixture
def window(one_window, tmp_path, monkeypatch):
    """The window with nothing drawn."""
    monkeypatch.chdir(tmp_path)
    press(one_window, 'c')
    return one_window


def send(window, event, point, button=1):
    """A mouse event at a point of the field, (x, y) in its heights."""
    MouseEvent(event, window.figure.canvas, *window.field.transData.transform(point), button)._process()


def draw(window, *strokes, button=1):
    for stroke in strokes:
        send(window, 'button_press_event', stroke[0], button)
        for point in stroke[1:]:
            send(window, 'motion_notify_event', point, button)
        send(window, 'button_release_event', stroke[-1], button)
    window.on_timer()


def press(window, key):
    KeyEvent('key_press_event', window.figure.canvas, key)._process()
    window.on_timer()


def ink(window):
    """The points (n, 2) that are shown."""
    points = window.ink.get_xydata()
    return points[~np.isnan(points[:, 0])]


def test_every_point_is_kept_and_the_whole_window_follows_before_the_button_is_released(window):
    circle = [(1 + 0.3 * np.cos(t), 0.5 + 0.4 * np.sin(t)) for t in np.linspace(0, 6, 200)]
    send(window, 'button_press_event', circle[0])
    for point in circle[1:]:                               # all before the first redrawing
        send(window, 'motion_notify_event', point)
    for _ in range(10):
        window.on_timer()
    np.testing.assert_allclose(ink(window), circle, atol=0.01)
    image = to_mnist(draw_strokes(window.strokes))
    np.testing.assert_array_equal(window.image.get_array(), image)
    outputs, p = (function(reader(), LENET, image.reshape(784, 1)) for function in (forward, predict))
    np.testing.assert_array_equal([bar.get_height() for bar in window.bars], p[:, 0])
    best, second = p[:, 0].argsort()[:-3:-1]
    read = best if p[best, 0] >= 0.45 else '?'
    chance = rounded(p[second, 0]).replace('0.0000', '< 0.0001')
    assert window.words.get_text() == (f'read: {read}\nlast drawn: {best}, probability {rounded(p[best, 0])}, '
                                       f'second guess {second} with {chance}')
    for i in (2, 3):
        np.testing.assert_array_equal(np.ma.filled(window.maps[i].get_array(), np.nan), tile(first_maps(outputs[i])))


def test_digits_side_by_side_are_read_as_a_row_and_the_last_drawn_is_shown(window):
    draw(window, *moved(ONE, 1, 2), *moved(ONE, 1, 0), *moved(ONE, 1, 1), [(1.3, 0.5), (1.7, 0.5)])
    row, note = window.words.get_text().splitlines()
    assert row.startswith('read: 1 ') and row.endswith(' 1') and len(row) == len('read: 1 4 1')
    assert note.startswith(f'last drawn: {row[8]}, probability ') or row[8] == '?'         # the cross in the middle


def test_without_a_move_with_the_button_on_the_field_nothing_is_drawn(window):
    send(window, 'motion_notify_event', (1, 0.5))
    draw(window, [(-0.1, 0.5), (1, 0.5)])
    draw(window, [(1, 0.5), (2, 0.5)], button=3)
    draw(window, [(1, 0.5)])                               # nor by a click
    assert window.words.get_text() == 'nothing drawn yet' and len(ink(window)) == 0
    assert [bar.get_height() for bar in window.bars] == [0] * 10
    draw(window, [(1, 0.5), (9, 0.5)])                     # begun on the field, it may leave
    np.testing.assert_allclose(ink(window), [[1, 0.5], [9, 0.5], [9, 0.5]], atol=0.01)


def test_u_takes_one_stroke_back_and_c_or_the_button_all(window):
    draw(window, *ONE)
    first = ink(window)
    draw(window, [(1, 0.1), (1, 0.9)])
    for expected in (first, first[:0], first[:0]):
        press(window, 'u')
        np.testing.assert_array_equal(ink(window), expected)
    for clear in ('c', 'button'):
        draw(window, *FOUR)
        if clear == 'button':
            x, y = window.field.transData.inverted().transform(window.button.ax.bbox.min + 5)
            draw(window, [(x, y)])
        else:
            press(window, clear)
        assert len(ink(window)) == 0 and window.words.get_text() == 'nothing drawn yet'


def test_s_saves_under_a_free_name_that_the_window_shows_until_the_next_change(window, tmp_path, monkeypatch):
    prompt = window.field.get_title('left')
    (tmp_path / 'drawn-1.png').write_bytes(b'an earlier drawing')
    draw(window, *ONE)
    press(window, 's')
    assert window.field.get_title('left') == 'saved as drawn-2.png' != prompt
    draw(window, *moved(ONE, 1, 1))
    assert window.field.get_title('left') == prompt
    press(window, 's')
    assert window.field.get_title('left') == 'saved as drawn-3.png'
    press(window, 'u')
    assert window.field.get_title('left') == prompt
    assert (tmp_path / 'drawn-1.png').read_bytes() == b'an earlier drawing'
    assert all((tmp_path / name).stat().st_size > 10000 for name in ('drawn-2.png', 'drawn-3.png'))

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    press(window, 's')                                     # an error is one line, and the window stays
    [line] = window.field.get_title('left').splitlines()
    assert 'No space left on device' in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ['drawn-1.png', 'drawn-2.png', 'drawn-3.png']
    draw(window, [(1, 0.1), (1, 0.9)])
    assert len(ink(window)) == 7 and window.words.get_text().startswith('read: 1 1\n')


def test_what_is_redrawn_part_by_part_equals_the_whole_window_drawn_anew(window):
    draw(window, *FOUR)
    draw(window, *moved(ONE, 1, 1))
    follows = np.array(window.figure.canvas.buffer_rgba())
    window.figure.canvas.draw()
    window.on_timer()
    np.testing.assert_array_equal(follows, window.figure.canvas.buffer_rgba())
    assert follows.std() > 1


def test_what_no_digit_explains_is_a_question_mark_as_on_photos(window):
    draw(window, [(0.1, 0.5), (1.5, 0.5)])                 # a dash: wider than any digit
    assert window.words.get_text().startswith('read: ?\n')


def test_the_window_fits_a_screen_of_768_lines_and_q_closes_it(window):
    assert window.figure.canvas.get_width_height()[1] < 700                # and a title and a task bar beside it
    KeyEvent('key_press_event', window.figure.canvas, 'q')._process()
    assert not pyplot.fignum_exists(window.figure.number)


# The script

@pytest.mark.parametrize('backend, words', [('agg', ['MPLBACKEND', 'agg']),
                                            ('module://matplotlib_inline.backend_inline', ['inline']),
                                            ('nothing', ['MPLBACKEND', 'nothing'])])
def test_a_backend_without_windows_is_one_line(tmp_path, backend, words):
    script = Path(draw_digits.__file__).resolve()
    process = subprocess.run([sys.executable, script], cwd=tmp_path, text=True, capture_output=True,
                             timeout=300, env={**os.environ, 'MPLBACKEND': backend})
    [line] = process.stderr.splitlines()
    assert process.returncode == 1 and process.stdout == '' and line.startswith('draw_digits.py: error: ')
    assert all(word in line for word in words)
