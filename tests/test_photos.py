"""Photos of digits, made of MNIST's test images: what is found on many kinds of paper, and what the user sees."""

import sys

import numpy as np
import pytest
from helpers import trained_lenet
from PIL import Image
from scipy import ndimage

import read_digits
import testLeNet
from cnn_lenet import load_mnist, predict
from read_digits import Digit, character, draw_reading, load_photo, read_photo, to_mnist
from testLeNet import save_params

LENET = testLeNet.get_lenet()
*_, XTEST, YTEST = load_mnist(True, np.float32, np.random.RandomState(0))


@pytest.fixture(scope='session')
def params():
    """LeNet after 300 iterations: reads 19 of 20 digits."""
    xtrain, ytrain, *_ = load_mnist(True, np.float32, np.random.RandomState(0))
    return trained_lenet(xtrain, ytrain, 300)


# Pages

def write(numbers, size=60, slope=0, marker=0, gap=0.4):
    """Two lines of MNIST's test images as ink (h, w) in 0..1, the longer side of each digit `size` pixels long."""
    pitch = int(size * (1 + gap))
    half = len(numbers) // 2
    ink = np.zeros((6 * size, (half + 1) * pitch + 3 * size))
    for j, number in enumerate(numbers):
        digit = np.pad(read_digits.ink_box(XTEST[:, number].reshape(28, 28)), 1)
        zoom = size / (max(digit.shape) - 2)
        digit = np.clip(3 * ndimage.zoom(digit, zoom, order=1, grid_mode=True, mode='nearest') - 1, 0, 1)
        if marker:
            digit = ndimage.grey_dilation(np.pad(digit, marker), footprint=np.hypot(*np.ogrid[-3:4, -3:4]) <= marker)
        row, column = divmod(j, half)
        left = int(2 * size + column * pitch)
        top = int((1.2 + 2 * row) * size + slope * (left - ink.shape[1] / 2) + (size - len(digit)) / 2)
        view = ink[top:top + digit.shape[0], left:left + digit.shape[1]]
        np.maximum(view, digit, out=view)
    return ndimage.gaussian_filter(ink, 0.5)


def photograph(ink, rng, ink_colour=(0.1, 0.1, 0.15), paper=(0.9, 0.88, 0.85), light=1, lines=0, noise=0.01):
    """A photo (h, w, 3) of ink on paper; light and lines (h, w) are factors of its brightness."""
    blank = np.array(paper) * (1 - np.zeros_like(ink) - lines)[..., None]
    photo = (blank + ink[..., None] * (np.minimum(ink_colour, blank) - blank)) * np.expand_dims(light * np.ones(1), -1)
    return np.clip(photo + noise * rng.randn(*photo.shape), 0, 1).astype(np.float32)


def ruled(ink, squared=False):
    y, x = np.mgrid[:ink.shape[0], :ink.shape[1]]
    return 0.35 * (((y + 0.02 * x) % 71 < 2) | squared & ((x - 0.02 * y) % 71 < 2))


def in_shadow(ink):
    y, x = np.mgrid[:ink.shape[0], :ink.shape[1]]
    return 1 - 0.5 * ndimage.gaussian_filter((x + y > ink.sum(axis=0).size * 0.6).astype(float), 1)


def on_table(photo):
    photo = photo.copy()
    photo[:20] = photo[:, -35:] = 0.12
    return photo


def in_the_middle_of_a_table(photo, rng):
    photo = np.pad(photo, ((60, 80), (90, 60), (0, 0)), constant_values=0.12)
    return np.clip(photo + 0.02 * rng.randn(*photo.shape), 0, 1).astype(np.float32)


def dry(ink, rng):
    """Ink of a marker that gives little in places."""
    streaks = ndimage.gaussian_filter(rng.randn(*ink.shape), (1, 3))
    return ink * np.clip(0.8 + 0.3 * streaks / streaks.std(), 0.1, 1)


KINDS = {
    'plain': lambda ink, rng: photograph(ink, rng),
    'gradient of light': lambda ink, rng: photograph(ink, rng, light=np.linspace(0.3, 1, ink.shape[1])),
    'hard shadow': lambda ink, rng: photograph(ink, rng, light=in_shadow(ink)),
    'grain': lambda ink, rng: photograph(ink, rng, noise=0.08),
    'ruled': lambda ink, rng: photograph(ink, rng, lines=ruled(ink)),
    'squared': lambda ink, rng: photograph(ink, rng, lines=ruled(ink, squared=True)),
    'red ink': lambda ink, rng: photograph(ink, rng, ink_colour=(0.75, 0.2, 0.2)),
    'blue ink on yellow': lambda ink, rng: photograph(ink, rng, ink_colour=(0.2, 0.2, 0.6), paper=(0.9, 0.85, 0.5)),
    'pencil': lambda ink, rng: photograph(ink, rng, ink_colour=(0.6, 0.6, 0.6)),
    'light on dark': lambda ink, rng: 1 - photograph(ink, rng),
    'dark table': lambda ink, rng: on_table(photograph(ink, rng)),
    'dark table all around': lambda ink, rng: in_the_middle_of_a_table(photograph(ink, rng), rng),
    'dry marker': lambda ink, rng: photograph(dry(ink, rng), rng),
}
WRITING = {'20 pixels': {'size': 20}, '200 pixels': {'size': 200}, 'marker': {'marker': 3},
           'rising': {'slope': -0.1}, 'falling': {'slope': 0.1}}


def assert_read(photo, numbers, params):
    """Two lines of as many digits, read as well as the images that they were made of."""
    lines = read_photo(photo, params, LENET)
    assert [len(line) for line in lines] == [len(numbers) // 2] * 2
    found = np.array([digit.probabilities.argmax() for line in lines for digit in line])
    known = predict(params, LENET, XTEST[:, numbers]).argmax(axis=0)
    assert np.mean(found == YTEST[numbers]) >= np.mean(known == YTEST[numbers]) - 0.1
    assert np.mean(found == known) >= 0.9


@pytest.mark.parametrize('kind', KINDS)
def test_every_digit_on_a_page_is_found_and_read(kind, params):
    rng = np.random.RandomState(1)
    numbers = rng.choice(1000, 24, replace=False)
    assert_read(KINDS[kind](write(numbers), rng), numbers, params)


@pytest.mark.parametrize('writing', WRITING)
def test_size_stroke_and_slope_do_not_matter(writing, params):
    rng = np.random.RandomState(2)
    numbers = rng.choice(1000, 10, replace=False)
    assert_read(photograph(write(numbers, **WRITING[writing]), rng), numbers, params)


@pytest.mark.parametrize('turns', [1, 3])
def test_a_page_that_lies_on_its_side_is_read_and_its_boxes_are_in_the_photo_as_it_is(turns, params):
    rng = np.random.RandomState(4)
    numbers = rng.choice(1000, 24, replace=False)
    photo = photograph(write(numbers), rng)
    upright, turned = read_photo(photo, params, LENET), read_photo(np.rot90(photo, turns), params, LENET)
    assert abs(sum(map(len, turned)) - 24) <= 2
    top, bottom, left, right = upright[0][0].box
    place = np.zeros(photo.shape[:2], bool)
    place[top:bottom, left:right] = True
    rows, columns = np.nonzero(np.rot90(place, turns))
    assert any(np.allclose(digit.box, (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1), atol=3)
               for digit in turned[0])


# Digits drawn with one pen, as polygons (x, y) in heights of the digit.
POLYGONS = {1: [(0.1, 0), (0, 1)], 2: [(0, 0.2), (0.3, 0), (0.6, 0.2), (0.5, 0.5), (0, 1), (0.65, 1)],
            3: [(0, 0.1), (0.35, 0), (0.6, 0.2), (0.25, 0.45), (0.6, 0.7), (0.35, 1), (0, 0.9)],
            7: [(0, 0), (0.6, 0), (0.25, 1)],
            0: [(0.3, 0), (0.08, 0.2), (0, 0.5), (0.08, 0.8), (0.3, 1), (0.52, 0.8), (0.6, 0.5), (0.52, 0.2), (0.3, 0)]}


def drawn(digit, pen, margin, height=100):
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


@pytest.mark.parametrize('margin', [40, 4, -3], ids=['in the middle', 'fills the picture', 'cut at the edge'])
@pytest.mark.parametrize('light', [False, True])
def test_one_digit_drawn_with_any_pen_is_read(margin, light, params):
    """Pens of 1 to 20 % of the digit's height. A small net takes some of them for other digits."""
    right = []
    for pen in (0.01, 0.04, 0.1, 0.2) if margin > 0 else (0.06, 0.1):    # cut off of a thin line, all is gone
        for digit in (2, 3, 7, 0):
            photo = drawn(digit, pen, margin)
            lines = read_photo(1 - photo if light else photo, params, LENET)
            right.append([[d.probabilities.argmax() for d in line] for line in lines] == [[digit]])
    assert np.mean(right) >= 0.6


@pytest.mark.parametrize('light', [False, True])
def test_tight_mosaics_of_small_digits_are_read(light, params):
    numbers = np.random.RandomState(6).choice(1000, 30, replace=False).reshape(5, 6)
    tiles = XTEST[:, numbers].reshape(28, 28, 5, 6)[2:26, 2:26]
    mosaic = tiles.transpose(2, 0, 3, 1).reshape(120, 144).repeat(2, 0).repeat(2, 1)[..., None].repeat(3, 2)
    lines = read_photo(mosaic if light else 1 - mosaic, params, LENET)
    assert abs(sum(map(len, lines)) - 30) <= 5


def test_all_that_matters_for_finding_at_once(params):
    rng = np.random.RandomState(3)
    numbers = rng.choice(1000, 24, replace=False)
    ink = write(numbers, slope=0.05)
    photo = photograph(ink, rng, (0.7, 0.2, 0.2), light=in_shadow(ink), lines=ruled(ink))
    assert_read(on_table(photo), numbers, params)


def test_digits_that_touch_are_cut(params):
    numbers = np.flatnonzero(np.isin(YTEST, (3, 5, 6)))[[2, 3, 4, 5]]
    photo = photograph(write(numbers, size=80, gap=-0.35), np.random.RandomState(0))       # the upper two touch
    assert [len(line) for line in read_photo(photo, params, LENET)] == [2, 2]


def test_a_loose_bar_belongs_to_its_digit_and_specks_to_none(params):
    ink = np.zeros((300, 400))
    for left in (60, 160, 260):                            # fives: a bar, a gap, the rest
        ink[60:68, left + 10:left + 60] = 1
        ink[74:110, left:left + 8] = ink[102:110, left:left + 50] = ink[102:150, left + 42:left + 50] = 1
        ink[142:150, left:left + 50] = 1
    ink[200:206, 100:106] = ink[20:25, 300:306] = ink[128:134, 232:238] = 1
    line, = read_photo(photograph(ink, np.random.RandomState(0)), params, LENET)
    for digit, left in zip(line, (60, 160, 260)):
        np.testing.assert_allclose(digit.box, (60, 150, left, left + 60), atol=2)
    assert len(line) == 3


@pytest.mark.parametrize('photo', [
    np.ones((300, 400, 3)), np.zeros((300, 400, 3)), np.ones((1, 1, 3)),
    photograph(np.zeros((300, 400)), np.random.RandomState(0), noise=0.05),
    photograph(np.zeros((300, 400)), np.random.RandomState(0), light=np.linspace(0.2, 1, 400)),
    photograph(np.zeros((300, 400)), np.random.RandomState(0), light=in_shadow(np.zeros((300, 400)))),
    photograph(np.zeros((300, 400)), np.random.RandomState(0), lines=ruled(np.zeros((300, 400)), squared=True)),
    on_table(photograph(np.zeros((300, 400)), np.random.RandomState(0))),
    photograph(np.pad(np.ones((80, 120)), ((100, 120), (130, 150))), np.random.RandomState(0))],
    ids=['white', 'black', 'one pixel', 'grain', 'gradient of light', 'shadow', 'squared', 'dark table', 'blob'])
def test_nothing_is_read_where_nothing_is_written(photo, params):
    assert read_photo(np.asarray(photo, np.float32), params, LENET) == []


# The image that the net gets

@pytest.mark.parametrize('radius', [2, 4, 8, 20, 40])
def test_a_pen_of_any_width_gives_strokes_like_mnists(radius):
    """A ring, of which LeNet sees a 0: thin, as wide as MNIST's strokes, and thick."""
    canvas = np.clip(radius + 0.5 - abs(np.hypot(*np.mgrid[-150:151, -150:151]) - 100), 0, 1)
    width = read_digits.stroke_width(read_digits.ink_box(to_mnist(canvas)))
    assert 1.2 < width < 4.6


def test_a_line_of_one_pixel_is_read_whole_however_large():
    image = to_mnist(np.eye(1000))
    assert (image.diagonal()[5:23] > 0.9).all() and image.sum() > 40


# Files, and what is printed

def save(pixels, path, **kwargs):
    Image.fromarray(pixels).save(path, **kwargs)
    return load_photo(path)


def test_all_formats_give_the_same_photo(tmp_path):
    photo = photograph(write(np.arange(8), size=30), np.random.RandomState(0))
    photo[0, 0] = 1                                        # 16 bits are scaled by their brightest pixel
    pixels = (255 * photo).astype(np.uint8)
    grey = pixels[..., :1].repeat(3, axis=2)
    turned = Image.Exif()
    turned[0x0112] = 6                                     # the top of the photo is at the right of the pixels
    np.testing.assert_allclose(save(pixels, tmp_path / 'a.png'), photo, atol=0.005)
    np.testing.assert_allclose(save(np.rot90(pixels), tmp_path / 'b.png', exif=turned), photo, atol=0.005)
    np.testing.assert_allclose(save(np.rot90(pixels), tmp_path / 'c.jpg', exif=turned, quality=95), photo, atol=0.15)
    np.testing.assert_allclose(save(grey[..., 0], tmp_path / 'd.png'), grey / 255, atol=0.005)
    np.testing.assert_allclose(save(grey[..., 0].astype(np.uint16) * 257, tmp_path / 'e.png') * grey.max() / 255,
                               grey / 255, atol=0.005)


@pytest.mark.parametrize('ink', [0, 255])
def test_where_a_picture_is_transparent_there_is_paper_and_a_large_one_is_made_smaller(ink, tmp_path):
    pixels = np.full((2400, 3200, 4), ink, np.uint8)
    pixels[..., 3] = 0
    pixels[1000:1200, 1000:1200, 3] = 255
    photo = save(pixels, tmp_path / 'a.png')
    assert photo.shape == (1200, 1600, 3)
    assert (photo[550, 550] == ink / 255).all() and (photo[0, 0] == 1 - ink / 255).all()


def test_a_large_jpeg_is_made_smaller(tmp_path):
    assert save(np.zeros((2400, 3200, 3), np.uint8), tmp_path / 'a.jpg').shape == (1200, 1600, 3)


def digit(p):
    return Digit((10, 50, 20, 60), np.zeros((28, 28)), np.append(p, np.full(9, (1 - p) / 9)))


def test_a_digit_that_the_net_does_not_know_is_a_question_mark():
    assert [character(digit(p)) for p in (0.51, 0.49)] == ['0', '?']
    assert character(digit(0.99)._replace(image=np.pad(np.ones((9, 20)), ((9, 10), (4, 4))))) == '?'     # too wide


def test_the_picture_has_a_box_around_each_digit_whose_colour_tells_sure_from_unsure():
    """Six times as large as the photo, and 32 pixels below the top."""
    pictures = [draw_reading(np.ones((100, 200, 3)), [[digit(p)]]) for p in (0.99, 0.6, 0.3)]
    colours = [{picture.getpixel(place) for place in ((120, 200), (360, 200), (300, 92), (300, 332))}
               for picture in pictures]
    assert [len(colour) for colour in colours] == [1] * 3 and len(set.union(*colours)) == 3
    assert all(picture.getpixel((240, 200)) == (255, 255, 255) for picture in pictures)


@pytest.fixture
def model(params, tmp_path):
    path = tmp_path / 'lenet.mat'
    save_params(path, params, layers=LENET)
    return str(path)


def test_digits_go_to_standard_output_and_a_picture_beside_the_photo(model, params, tmp_path, capsys):
    photo = save((255 * photograph(write(np.arange(8)), np.random.RandomState(0))).astype(np.uint8), tmp_path / 'a.png')
    read_digits.main(['--model', model, str(tmp_path / 'a.png')])
    expected = '\n'.join(''.join(map(character, line)) for line in read_photo(photo, params, LENET)) + '\n'
    assert capsys.readouterr() == (expected, '')
    with Image.open(tmp_path / 'a-read.png') as picture:
        assert picture.width == 1200


@pytest.mark.parametrize('name, words', [('empty.png', 'no digits'), ('text.jpg', 'not a picture'),
                                         ('missing.png', 'No such file'), ('cut.png', 'not a picture')])
def test_what_cannot_be_read_is_one_line_and_does_not_stop_the_next_photo(name, words, model, tmp_path, capsys):
    save(np.full((90, 90, 3), 200, np.uint8), tmp_path / 'empty.png')
    (tmp_path / 'text.jpg').write_text('7')
    save((255 * photograph(write(np.arange(8)), np.random.RandomState(0))).astype(np.uint8), tmp_path / 'a.png')
    (tmp_path / 'cut.png').write_bytes((tmp_path / 'a.png').read_bytes()[:5000])
    with pytest.raises(SystemExit) as stop:
        read_digits.main(['--model', model, str(tmp_path / name), str(tmp_path / 'a.png')])
    out, error = capsys.readouterr()
    assert stop.value.code == 1 and out.count('\n') == 2
    assert error.startswith('read_digits.py: error: ') and error.count('\n') == 1 and words in error and name in error


def test_heic_without_its_reader_is_one_line_of_advice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    with pytest.raises(ValueError, match='a.HEIC: .*export .* JPEG.*pip install pillow-heif'):
        load_photo(tmp_path / 'a.HEIC')


def test_the_picture_of_a_line_of_any_length_has_room_for_each_digit():
    picture = draw_reading(np.ones((100, 200, 3)), [[digit(0.99)] * 210])
    assert picture.width >= 210 * 28


def test_without_a_model_one_line_says_how_to_make_one(tmp_path):
    with pytest.raises(SystemExit, match='^read_digits.py: error: .*no such file; python testLeNet.py .*makes one$'):
        read_digits.main(['--model', str(tmp_path / 'none.mat'), 'a.png'])
