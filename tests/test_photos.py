"""Photos of digits, made of MNIST's test images: what is found on many kinds of paper, and what the user sees."""

import functools
import itertools
import sys

import numpy as np
import pytest
from helpers import mnist, reader
from PIL import Image
from scipy import ndimage

import read_digits
import testLeNet
from cnn_lenet import predict
from read_digits import Digit, character, draw_reading, load_photo, read_photo, to_mnist
from testLeNet import save_params

LENET = testLeNet.get_lenet()


def read(photo):
    return read_photo(np.asarray(photo, np.float32), reader(), LENET)


def text(lines):
    return '\n'.join(''.join(map(character, line)) for line in lines)


@functools.cache
def surely_read():
    """Numbers of the test images that the net reads right and surely: on these it soon finds one way to read a photo
    good enough, as a net that is trained to the end does on most."""
    probabilities = predict(reader(), LENET, mnist(True)[4][:, :1000])
    return np.flatnonzero((probabilities.max(axis=0) > 0.99) & (probabilities.argmax(axis=0) == mnist(True)[5][:1000]))


def choose(count, seed):
    return np.random.RandomState(seed).choice(surely_read(), count, replace=False)


# Pages

def write(numbers, size=40, slope=0, gap=0.4):
    """Two lines of MNIST's test images as ink (h, w) in 0..1, the longer side of each digit `size` pixels long."""
    pitch = int(size * (1 + gap))
    half = len(numbers) // 2
    ink = np.zeros((6 * size, (half + 1) * pitch + 3 * size))
    for j, number in enumerate(numbers):
        digit = np.pad(read_digits.ink_box(mnist(True)[4][:, number].reshape(28, 28)), 1)
        zoom = size / (max(digit.shape) - 2)
        digit = np.clip(3 * ndimage.zoom(digit, zoom, order=1, grid_mode=True, mode='nearest') - 1, 0, 1)
        row, column = divmod(j, half)
        left = int(2 * size + column * pitch)
        top = int((1.2 + 2 * row) * size + slope * (left - ink.shape[1] / 2) + (size - len(digit)) / 2)
        view = ink[top:top + digit.shape[0], left:left + digit.shape[1]]
        np.maximum(view, digit, out=view)
    return ndimage.gaussian_filter(ink, 0.5)


def photograph(ink, colour=(0.1, 0.1, 0.15), paper=(0.9, 0.88, 0.85), light=None, lines=None, noise=0.01):
    """A photo (h, w, 3) of ink on paper. light, lines: functions of (y, x), in pixels: a factor of the brightness,
    and how dark the lines of the paper are."""
    place = np.mgrid[:ink.shape[0], :ink.shape[1]]
    blank = np.array(paper) * (1 - (lines(*place) if lines else 0 * ink))[..., None]
    photo = blank + ink[..., None] * (np.minimum(colour, blank) - blank)
    return with_grain(photo * (light(*place)[..., None] if light else 1), noise)


def with_grain(photo, noise):
    photo = photo + noise * np.random.RandomState(0).randn(*photo.shape)
    return np.clip(photo, 0, 1).astype(np.float32)


def gradient(y, x):
    return 0.3 + 0.7 * x / x.max()


def shadow(y, x):
    return 1 - 0.5 * ndimage.gaussian_filter((x + y > 0.6 * x.max()).astype(float), 1)


def ruled(y, x):
    return 0.35 * ((y + 0.02 * x) % 51 < 2)


def squared(y, x):
    return np.maximum(ruled(y, x), ruled(x, -y))


def table_beside(photo):
    photo = photo.copy()
    photo[:20] = photo[:, -35:] = 0.12
    return photo


def table_around(photo, slant=0):
    photo = np.pad(photo, ((60, 60), (60, 150), (0, 0)), constant_values=0.1)
    return ndimage.rotate(photo, slant, reshape=False, order=1, mode='nearest') if slant else with_grain(photo, 0.02)


def dry(ink):
    """Ink of a marker that gives little in places."""
    streaks = ndimage.gaussian_filter(np.random.RandomState(0).randn(*ink.shape), (1, 3))
    return ink * np.clip(0.8 + 0.3 * streaks / streaks.std(), 0.1, 1)


PAGES = {
    '20 pixels': lambda n: photograph(write(n, size=20)),
    '80 pixels': lambda n: photograph(write(n, size=80)),
    'rising, gradient of light': lambda n: photograph(write(n, slope=-0.25, gap=0.8), light=gradient),
    'grain': lambda n: photograph(write(n, size=50), noise=0.08),
    'squared': lambda n: photograph(write(n), lines=squared),
    'ruled, grey ink': lambda n: photograph(write(n), (0.4, 0.4, 0.4), lines=ruled),
    'pale red on yellow': lambda n: photograph(write(n), (0.9, 0.65, 0.5), paper=(0.9, 0.85, 0.5)),
    'pencil': lambda n: photograph(write(n), (0.6, 0.6, 0.6)),
    'light on dark': lambda n: 1 - photograph(write(n)),
    'pencil, dark table all around': lambda n: table_around(photograph(write(n), (0.6, 0.6, 0.6))),
    'dry marker': lambda n: photograph(dry(write(n))),
    'all at once': lambda n: table_beside(photograph(write(n, slope=0.05), (0.7, 0.2, 0.2), light=shadow, lines=ruled)),
}


@pytest.mark.parametrize('kind', PAGES)
def test_every_digit_on_a_page_is_found_and_read(kind):
    """In two lines of as many digits."""
    numbers = choose(8, seed=1)
    lines = read(PAGES[kind](numbers))
    assert [len(line) for line in lines] == [4, 4]
    found = [digit.probabilities.argmax() for line in lines for digit in line]
    assert np.sum(found != mnist(True)[5][numbers]) <= 1


def test_a_page_that_lies_on_its_side_or_upside_down_is_read_and_its_boxes_are_in_the_photo_as_it_is():
    photo = photograph(write(choose(16, seed=3)))
    upright = read(photo)
    place = np.zeros(photo.shape[:2], bool)
    top, bottom, left, right = upright[0][0].box
    place[top:bottom, left:right] = True
    for turns in (1, 2, 3):
        turned = read(np.rot90(photo, turns))
        assert abs(sum(map(len, turned)) - 16) <= 2
        rows, columns = np.nonzero(np.rot90(place, turns))
        assert any(np.allclose(digit.box, (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1), atol=3)
                   for digit in turned[0])


# Digits drawn with one pen, as polygons (x, y) in heights of the digit.
POLYGONS = {2: [(0, 0.2), (0.3, 0), (0.6, 0.2), (0.5, 0.5), (0, 1), (0.65, 1)], 7: [(0, 0), (0.6, 0), (0.25, 1)],
            0: [(0.3, 0), (0.08, 0.2), (0, 0.5), (0.08, 0.8), (0.3, 1), (0.52, 0.8), (0.6, 0.5), (0.52, 0.2), (0.3, 0)]}


def drawn(digit, pen, margin, height=60):
    """A picture (h, w, 3) of a digit in black on white; the pen is a share of the digit's height."""
    corners = height * np.array(POLYGONS[digit])
    points = ndimage.zoom(corners, (2000 / len(corners), 1), order=1, mode='nearest', grid_mode=True)
    h, w = (points.max(axis=0)[::-1] + pen * height + 2).astype(int)
    blank = np.ones((h, w), bool)
    x, y = (points + pen * height / 2).astype(int).T
    blank[y, x] = False
    ink = np.clip(pen * height / 2 + 0.5 - ndimage.distance_transform_edt(blank), 0, 1)
    ink = np.pad(ink, margin) if margin > 0 else ink[-margin:margin, -margin:margin]
    return np.repeat(1 - ink[..., None], 3, axis=2).astype(np.float32)


@pytest.mark.parametrize('margin', [25, 3, -2], ids=['in the middle', 'fills the picture', 'cut at the edge'])
def test_one_digit_drawn_with_any_pen_is_read(margin):
    """Pens of 2 to 20 % of the digit's height, every other one light on dark. A small net takes some of them for
    other digits."""
    pens = (0.02, 0.08, 0.2) if margin > 0 else (0.06, 0.08, 0.1)          # cut off of a thin line, all is gone
    right = []
    for j, (digit, pen) in enumerate(itertools.product((2, 7, 0), pens)):
        photo = drawn(digit, pen, margin)
        right.append(text(read(1 - photo if j % 2 else photo)) == str(digit))
    assert sum(right) >= 6


@pytest.mark.parametrize('light', [False, True])
def test_strokes_that_fill_much_of_the_picture_are_ink(light):
    photo = drawn(7, 0.3, 2)
    assert text(read(1 - photo if light else photo)) == '7'


@pytest.mark.parametrize('margin', [-15, -20])
def test_light_ink_may_be_three_quarters_of_the_picture_and_cut_off_on_all_sides(margin):
    assert text(read(1 - drawn(0, 0.3, margin, height=240))) == '0'


@pytest.mark.parametrize('light', [False, True])
def test_a_1_nearly_as_wide_as_the_picture_is_read(light):
    photo = np.ones((300, 30, 3))
    photo[30:270, 6:24] = 0
    assert text(read(1 - photo if light else photo)) == '1'


def test_a_picture_that_one_digit_fills_is_read_as_one_digit():
    """Small and large, dark and light, a quarter of the pictures each."""
    numbers = choose(12, seed=2)
    right = 0
    for j, (image, digit) in enumerate(zip(mnist(True)[4].T[numbers].reshape(-1, 28, 28), mnist(True)[5][numbers])):
        box = np.pad(read_digits.ink_box(image), 2)
        picture = ndimage.zoom(box, (28, 100)[j // 2 % 2] / max(box.shape), order=1).clip(0, 1)[..., None].repeat(3, 2)
        right += text(read(picture if j % 2 else 1 - picture)) == str(digit)
    assert right >= 10


@pytest.mark.parametrize('light', [False, True])
def test_tight_mosaics_of_small_digits_are_read(light):
    tiles = mnist(True)[4][:, choose(20, seed=6)].reshape(28, 28, 4, 5)[2:26, 2:26]
    mosaic = tiles.transpose(2, 0, 3, 1).reshape(96, 120).repeat(2, 0).repeat(2, 1)[..., None].repeat(3, 2)
    assert abs(sum(map(len, read(mosaic if light else 1 - mosaic))) - 20) <= 3


def test_digits_that_touch_are_cut():
    """Two in each line."""
    numbers = np.flatnonzero(np.isin(mnist(True)[5], (3, 5, 6)))
    photos = [photograph(write(numbers[first:first + 4], size=60, gap=-0.35)) for first in (2, 28, 32)]
    assert sum([len(line) for line in read(photo)] == [2, 2] for photo in photos) >= 2


def test_digits_above_one_another_that_touch_are_cut():
    """The second digit of the lower line is moved up to that of the upper one."""
    ink = write(np.random.RandomState(3).choice(1000, 8, replace=False))
    moved = np.zeros_like(ink)
    moved[:, 134:178] = np.roll(ink[:, 134:178] * (np.arange(len(ink)) > 100)[:, None], -42, axis=0)
    ink[100:, 134:178] = 0
    assert [len(line) for line in read(photograph(np.maximum(ink, moved)))] == [4, 1, 3]


def test_what_is_two_digits_high_is_two_even_where_the_net_takes_it_for_one():
    """Two 1s, the second of which begins where the first, at the end of a line, ends."""
    ink = write(choose(8, seed=5))
    ink[48:87, -60:-54] = ink[87:89, -59:-56] = ink[89:128, -60:-54] = 1
    assert [len(line) for line in read(photograph(ink))] == [5, 1, 4]


def test_of_digits_cut_off_by_the_edge_little_is_left_out_and_much_is_read():
    """The upper line is 40 pixels high, from 48 on."""
    ink = write(choose(8, seed=5))
    assert [len(line) for line in read(photograph(ink[76:]))] == [4]
    assert [len(line) for line in read(photograph(ink[52:]))] == [4, 4]


@pytest.mark.parametrize('slope', [-0.25, 0, 0.1])
def test_lines_of_writing_are_told_apart_however_they_slope(slope):
    x, y = np.arange(8) % 4 * 100 + np.array([0] * 4 + [30] * 4), np.repeat([0, 60], 4) + 8 * (np.arange(8) % 2)
    y = y + slope * x
    boxes = np.transpose([y, y + 40, x, x + 30])
    assert read_digits.find_lines(boxes[[7, 2, 0, 1, 5, 4, 3, 6]], 40) == [[2, 3, 1, 6], [5, 4, 7, 0]]


def test_a_loose_bar_belongs_to_its_digit_and_specks_to_none():
    ink = np.zeros((300, 400))
    for left in (60, 160, 260):                            # fives: a bar, a gap, the rest
        ink[60:68, left + 10:left + 60] = 1
        ink[74:110, left:left + 8] = ink[102:110, left:left + 50] = ink[102:150, left + 42:left + 50] = 1
        ink[142:150, left:left + 50] = 1
    ink[200:206, 100:106] = ink[20:25, 300:306] = ink[128:134, 222:228] = 1
    [line] = read(photograph(ink))
    np.testing.assert_allclose([digit.box for digit in line],
                               [(60, 150, left, left + 60) for left in (60, 160, 260)], atol=2)


PAPER = np.zeros((200, 270))
BLANK = {
    'white': np.ones((200, 270, 3)), 'black': np.zeros((200, 270, 3)), 'one pixel': np.ones((1, 1, 3)),
    'grain': photograph(PAPER, noise=0.05), 'gradient of light': photograph(PAPER, light=gradient),
    'shadow': photograph(PAPER, light=shadow), 'squared': photograph(PAPER, lines=squared),
    'dark table': table_beside(photograph(PAPER)), 'dark table all around': table_around(photograph(PAPER)),
    **{f'table slanted by {slant}': table_around(photograph(PAPER), slant) for slant in (-5, 8)},
    'blob': photograph(np.pad(np.ones((60, 90)), ((60, 80), (80, 100)))),
}


@pytest.mark.parametrize('kind', BLANK)
def test_nothing_is_read_where_nothing_is_written(kind):
    assert read(BLANK[kind]) == []


# The image that the net gets

@pytest.mark.parametrize('radius', [2, 8, 40])
def test_a_pen_of_any_width_gives_strokes_like_mnists(radius):
    """A ring, of which LeNet sees a 0: thin, as wide as MNIST's strokes, and thick."""
    canvas = np.clip(radius + 0.5 - abs(np.hypot(*np.mgrid[-150:151, -150:151]) - 100), 0, 1)
    width = read_digits.stroke_width(read_digits.ink_box(to_mnist(canvas)))
    assert 1.2 < width < 4.6


def test_a_line_of_one_pixel_is_read_whole_however_large():
    image = to_mnist(np.eye(600))
    assert (image.diagonal()[5:23] > 0.9).all() and image.sum() > 40


# Files, and what is printed

def save(pixels, path, **kwargs):
    Image.fromarray(pixels).save(path, **kwargs)
    return load_photo(path)


def test_all_formats_give_the_same_photo(tmp_path):
    photo = photograph(write(np.arange(8), size=30))
    photo[0, 0] = 1                                        # 16 bits are scaled by their brightest pixel
    pixels = (255 * photo).astype(np.uint8)
    grey = pixels[..., :1].repeat(3, axis=2)
    turned = Image.Exif()
    turned[0x0112] = 6                                     # the top of the photo is at the right of the pixels
    np.testing.assert_allclose(save(pixels, tmp_path / 'a.png'), photo, atol=0.005)
    np.testing.assert_allclose(save(np.rot90(pixels), tmp_path / 'c.jpg', exif=turned, quality=95), photo, atol=0.15)
    np.testing.assert_allclose(save(grey[..., 0], tmp_path / 'd.png'), grey / 255, atol=0.005)
    np.testing.assert_allclose(save(grey[..., 0].astype(np.uint16) * 257, tmp_path / 'e.png') * grey.max() / 255,
                               grey / 255, atol=0.005)


@pytest.mark.parametrize('ink', [0, 255])
def test_where_a_picture_is_transparent_there_is_paper_and_a_large_one_is_made_smaller(ink, tmp_path):
    pixels = np.full((1200, 3200, 4), ink, np.uint8)
    pixels[..., 3] = 0
    pixels[1000:1200, 1000:1200, 3] = 255
    photo = save(pixels, tmp_path / 'a.png')
    assert photo.shape == (600, 1600, 3)
    assert (photo[550, 550] == ink / 255).all() and (photo[0, 0] == 1 - ink / 255).all()


def digit(p):
    return Digit((10, 50, 20, 60), np.zeros((28, 28)), np.append(p, np.full(9, (1 - p) / 9)))


def test_a_digit_that_the_net_does_not_know_is_a_question_mark():
    assert [character(digit(p)) for p in (0.46, 0.44)] == ['0', '?']
    assert character(digit(0.99)._replace(image=np.pad(np.ones((9, 20)), ((9, 10), (4, 4))))) == '?'     # too wide


def test_the_picture_has_a_box_around_each_digit_whose_colour_tells_sure_from_unsure():
    """Six times as large as the photo, and 32 pixels below the top."""
    pictures = [draw_reading(np.ones((100, 200, 3)), [[digit(p)]]) for p in (0.99, 0.6, 0.3)]
    colours = [{picture.getpixel(place) for place in ((120, 200), (360, 200), (300, 92), (300, 332))}
               for picture in pictures]
    assert [len(colour) for colour in colours] == [1] * 3 and len(set.union(*colours)) == 3
    assert all(picture.getpixel((240, 200)) == (255, 255, 255) for picture in pictures)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / 'lenet.mat'
    save_params(path, reader(), layers=LENET)
    return str(path)


def test_digits_go_to_standard_output_and_a_picture_beside_each_photo_that_can_be_read(model, tmp_path, capsys):
    photo = save((255 * photograph(write(np.arange(4)))).astype(np.uint8), tmp_path / 'a.png')
    save(np.full((90, 90, 3), 200, np.uint8), tmp_path / 'empty.png')
    (tmp_path / 'text.jpg').write_text('7')
    (tmp_path / 'cut.png').write_bytes((tmp_path / 'a.png').read_bytes()[:5000])
    wrong = {'empty.png': 'no digits', 'text.jpg': 'not a picture', 'missing.png': 'missing.png: no such file',
             'cut.png': 'not a picture'}
    with pytest.raises(SystemExit) as stop:
        read_digits.main(['--model', model, *(str(tmp_path / name) for name in (*wrong, 'a.png'))])
    out, error = capsys.readouterr()
    assert stop.value.code == 1
    assert out == text(read(photo)) + '\n'
    for line, (name, words) in zip(error.splitlines(), wrong.items(), strict=True):
        assert line.startswith('read_digits.py: error: ') and name in line and words in line
    assert [path.name for path in tmp_path.glob('*-read.png')] == ['a-read.png']
    with Image.open(tmp_path / 'a-read.png') as picture:
        assert picture.width == 1200


def test_heic_without_its_reader_is_one_line_of_advice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    (tmp_path / 'a.HEIC').write_bytes(b'    ftypheic')
    with pytest.raises(ValueError, match='a.HEIC: .*export .* JPEG.*pip install pillow-heif'):
        load_photo(tmp_path / 'a.HEIC')


def test_the_picture_of_a_line_of_any_length_has_room_for_each_digit():
    picture = draw_reading(np.ones((100, 200, 3)), [[digit(0.99)] * 210])
    assert picture.width >= 210 * 28


def test_without_a_model_one_line_says_how_to_make_one(tmp_path):
    with pytest.raises(SystemExit, match='^read_digits.py: error: .*no such file; python testLeNet.py .*makes one$'):
        read_digits.main(['--model', str(tmp_path / 'none.mat'), 'a.png'])
