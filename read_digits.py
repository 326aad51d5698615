"""Read handwritten digits with a saved model.

    python read_digits.py photo.jpg     read a photo: print its digits, and write photo-read.png
    python read_digits.py --draw        draw digits with the mouse and watch the net read them
    python read_digits.py --help        all flags

The model is lenet.mat, which python testLeNet.py makes; --model PATH takes another.
"""

import argparse
import collections
import itertools
import os
import sys
import time

import testLeNet  # which sets up BLAS, and so comes before NumPy

if __name__ == '__main__':
    if not {'--draw', '--show'} & set(sys.argv):
        os.environ['MPLBACKEND'] = 'agg'       # reading needs no toolkit, and a notebook's may not be there
    try:
        import matplotlib
    except ValueError as error:                # MPLBACKEND names no backend
        sys.exit(f'read_digits.py: error: MPLBACKEND: {error}')

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps
from scipy import ndimage

from cnn_lenet import forward, load_mnist, predict
from vis_data import (
    BLUE,
    ORANGE,
    STYLE,
    check_display,
    errors_in_one_line,
    load_model,
    save_figure,
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
    Strokes far thinner or thicker than any of MNIST are first brought to a usual width.
    Source: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998,
    section III A, and the MNIST page. The middle is pixel (14, 14): so it is in all of MNIST, half a pixel at most off.
    """
    image = np.zeros((28, 28), np.float32)
    if not canvas.any():
        return image
    digit = _scaled(with_usual_strokes(ink_box(canvas)), 20)
    h, w = digit.shape
    top = 14 - np.average(np.arange(h), weights=digit.sum(axis=1))
    left = 14 - np.average(np.arange(w), weights=digit.sum(axis=0))
    top, left = np.clip(round(top), 0, 28 - h), np.clip(round(left), 0, 28 - w)
    image[top:top + h, left:left + w] = digit
    return image


def with_usual_strokes(box):
    """The ink (h, w) of a digit; if its strokes are unlike MNIST's, with others around the same middle.

    On digits 20 pixels long, MNIST's strokes are 2.4 pixels wide, and 99 of 100 digits have 1.3 to 4.5.
    """
    width = stroke_width(box) * 20 / max(box.shape)
    if 1.3 <= width <= 4.5:
        return box
    inked = np.pad(_scaled(box, 120) > 0.5, 12)                     # six pixels are one of MNIST's
    if not inked.any():
        return box
    outside = ndimage.distance_transform_edt(~inked) - ndimage.distance_transform_edt(inked)
    wanted = 6 * (2.2 if width < 1.3 else 3)
    return ink_box(np.clip(0.5 + (wanted - stroke_width(inked)) / 2 - outside, 0, 1))


def stroke_width(ink):
    """How wide the strokes of ink (h, w) in 0..1 are, in pixels: twice the area over the length of the outline."""
    return 2 * ink.sum() / max(outlines(np.pad(ink, 1)).sum(), 1e-9)


def outlines(ink):
    """(h, w): the size of the gradient of ink (h, w), whose sum is the length of the outline."""
    ink = np.asarray(ink, np.float32)
    return np.hypot(np.diff(ink, axis=0, append=0), np.diff(ink, axis=1, append=0))


def ink_box(canvas):
    """The part of a canvas (h, w) within the bounding box of its ink."""
    rows, columns = np.flatnonzero(canvas.any(axis=1)), np.flatnonzero(canvas.any(axis=0))
    return canvas[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1] if len(rows) else canvas[:0, :0]


def _scaled(box, longest):
    """Scale an image (h, w) so that its longer side has so many pixels, each the mean of the area that it covers."""
    h, w = (max(1, round(longest * side / max(box.shape))) for side in box.shape)
    return _area_means(box.shape[0], h) @ box @ _area_means(box.shape[1], w).T


def _area_means(n, m):
    """The matrix (m, n) that scales n pixels to m: row i holds how much of new pixel i each old one covers."""
    edges = np.linspace(0, n, m + 1)
    before = np.clip(edges[:, None] - np.arange(n), 0, 1)          # how much of each old pixel is before each edge
    return np.diff(before, axis=0) * m / n


# ---------------------------------------------------------------------------------------------------------------
# Photos
# ---------------------------------------------------------------------------------------------------------------

LONGEST_SIDE = 1600      # of the copy of a photo that is read, in pixels

EIGHT = np.ones((3, 3))    # pixels are neighbours along the diagonal, too

# box: (top, bottom, left, right) in pixels of the photo; image: (28, 28) as the net got it; probabilities: (10,)
Digit = collections.namedtuple('Digit', 'box image probabilities')


def load_photo(path):
    """Read a picture file: (h, w, 3) float32 in 0..1, upright, and no side longer than LONGEST_SIDE.

    Raises OSError or ValueError if it can't be read. What is transparent becomes the paper: white, or black beneath
    light ink.
    """
    try:
        with Image.open(path) as picture:
            picture.draft(None, (LONGEST_SIDE, LONGEST_SIDE))       # a large JPEG is decoded at half its size: faster
            picture = ImageOps.exif_transpose(picture)
            opaque = picture.mode in ('1', 'L', 'RGB', 'CMYK', 'YCbCr') and 'transparency' not in picture.info
            picture = picture.convert('F' if picture.mode[0] in 'IF' else 'RGB' if opaque else 'RGBA')
            picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path}: not a picture that can be read ({error})') from None
    if picture.mode == 'F':                                         # 16 bit
        grey = np.asarray(picture)
        return np.repeat(grey[..., None] / max(grey.max(), 1e-9), 3, axis=2)
    pixels = np.asarray(picture, np.float32) / 255
    if opaque:
        return pixels
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    light_ink = np.average(colour.mean(axis=2), weights=alpha[..., 0] + 1e-9) > 0.5
    return colour * alpha + (1 - alpha) * (1 - light_ink)


def to_grey(photo, size):
    """Make a photo (h, w, 3) one of dark ink on light paper without colour: (h, w).

    size  of a square, in pixels, that no stroke covers

    Ink is what there is less of: if the differences from the mean around each pixel have their tail on the light side,
    the ink is light, and the photo is inverted. Colours count as much as ink differs from paper in them: for red ink,
    the green and the blue.
    """
    small = photo[::2, ::2]
    difference = small.mean(axis=2)
    difference = difference - ndimage.uniform_filter(difference, size)
    if np.sum(difference ** 3) > 0:
        photo, small = 1 - photo, 1 - small
    dark = np.stack([darkness(small[..., i], size // 2 | 1, 1) for i in range(3)], axis=2)
    weights = np.tensordot(dark.sum(axis=2) ** 3, dark.clip(0), 2) + 1e-9
    weights /= weights.sum() * np.percentile(small, 95, axis=(0, 1)).clip(0.1)
    return (photo @ weights.astype(np.float32)).clip(0)


def darkness(grey, size, blur):
    """How much darker every pixel is than the paper beneath: (h, w), 0 for paper, 1 for black on white.

    grey   (h, w) brightness, at least 0
    size   of a square, in pixels, that no stroke covers
    blur   standard deviation of a Gaussian that the photo is blurred with against noise, in pixels

    Paper is what a closing leaves: the brightness of the darkest square that fits around the pixel. So strokes vanish,
    while the edge of a shadow stays as sharp as it is. What lies outside of the photo counts as dark, so that a dark
    table that shows around the paper is paper too. The quotient with the paper takes out light and shadow.
    """
    grey = ndimage.gaussian_filter(grey, blur, truncate=3)
    paper = ndimage.grey_closing(np.pad(grey, size), (size, size))[size:-size, size:-size]
    bright = np.percentile(paper[::4, ::4], 95)
    return (paper - grey) / np.maximum(paper, max(bright / 4, 1e-3))             # noise in what is black stays small


def find_strokes(grey, size, blur):
    """Ink, and its connected parts: (dark, labels, width).

    grey, size, blur  as in `darkness`

    Returns the darkness (h, w) less that of bare paper, the number of the part that each pixel is in (h, w), 0 for
    none, and how wide strokes are, in pixels. Ink is what stands out from noise and is at least a third as dark as
    the ink of this photo is on average; a part of it must have a core of twice that. Parts that touch the photo's edge
    do not belong to a whole digit.
    """
    dark = darkness(grey, size, blur)
    dark = dark - np.median(dark[::3, ::3])
    noise = noise_level(dark, 2 * size)
    ink = dark[dark > np.maximum(5 * noise, 0.06)]
    level = np.sum(ink ** 3) / max(np.sum(ink ** 2), 1e-9)            # mean weighted towards the dark
    low = np.maximum(4 * noise, max(0.35 * level, 0.06))
    high = np.maximum(7 * noise, max(0.6 * level, 0.12))
    dark = erase_lines(dark, low)

    labels, num = ndimage.label(dark > low, EIGHT)
    keep = np.zeros(num + 1, bool)
    keep[labels[dark > high]] = True
    keep[np.concatenate([[0], labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False
    labels = (np.cumsum(keep) * keep)[labels]
    if not labels.any():
        return dark, labels, 0
    # Of all parts the median, weighted by the length of their outlines.
    beside = np.maximum(labels, np.maximum(np.roll(labels, -1, 0), np.roll(labels, -1, 1)))
    area = np.bincount(labels.ravel())[1:]
    outline = np.bincount(beside.ravel(), outlines(labels > 0).ravel())[1:]
    return dark, labels, weighted_median(2 * area / outline, outline * (area > 5))


def weighted_median(values, weights):
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return values[order][np.searchsorted(total, total[-1] / 2)]


def find_ink(photo):
    """The ink of a photo (h, w, 3): (dark, labels, width) as of `find_strokes`.

    The square that estimates the paper must be larger than strokes are wide, but no larger than needed, for the
    corners of shadows are taken for ink where it does not fit in. It starts at a quarter of a small copy's height and
    shrinks to what the strokes that are found ask for.
    """
    grey = to_grey(photo, min(photo.shape[:2]) // 4 | 1)
    step = -(-max(grey.shape) // 800)
    h, w = (side // step for side in grey.shape)
    small = grey[:h * step, :w * step].reshape(h, step, w, step).mean(axis=(1, 3))
    size, smaller = 2 * min(h, w), min(h, w) // 4
    while smaller < 0.85 * size:
        size = smaller
        _, _, width = find_strokes(small, size | 1, 1)
        smaller = max(9, int(3.5 * width))
    width *= step
    return find_strokes(grey, int(3.5 * width) + 4 | 1, np.clip(width / 6, 0.5, 3))


def noise_level(dark, side):
    """Standard deviation of bare paper's darkness (h, w) near each pixel: (h, w). In a shadow there is more.

    It is found for squares with sides of about so many pixels. Of normal noise, the quarter nearest to the mean lies
    within 0.3186 standard deviations; ink and lines are in the other quarters.
    """
    side = int(np.clip(side, min(dark.shape) // 12, min(dark.shape)))
    h, w = (n // side for n in dark.shape)
    squares = abs(dark[:h * side, :w * side]).reshape(h, side, w, side)[:, ::2, :, ::2]
    noise = np.percentile(squares, 25, axis=(1, 3)) / 0.3186
    return noise[np.minimum(np.arange(dark.shape[0]) // side, h - 1)[:, None],
                 np.minimum(np.arange(dark.shape[1]) // side, w - 1)]


def erase_lines(dark, low):
    """Darkness (h, w) without the lines of ruled or squared paper; `low` is the least that counts as ink.

    A line is thin and straight over forty times its width, which no stroke of a digit is, or across the whole photo;
    it may slope by 7 degrees. What crosses it, and so is thicker than it there, stays.
    """
    mask = dark > low
    longest = max((piece.stop - piece.start for part in ndimage.find_objects(ndimage.label(mask, EIGHT)[0])
                   for piece in part), default=0)
    if longest < 0.4 * min(dark.shape):
        return dark
    width = stroke_width(mask)
    without_rows = _erase_rows(dark, low, width)
    return _erase_rows(without_rows.T, low.T, width).T


def _erase_rows(dark, low, width):
    step = int(np.clip(width / 2, 1, 4))
    h, w = (side // step for side in dark.shape)
    mask = (dark > low)[:h * step, :w * step].reshape(h, step, w, step).any(axis=(1, 3))
    length = int(min(40 * width, dark.shape[1])) // step
    lines = np.zeros(dark.shape, bool)
    rows, columns = np.arange(h)[:, None], np.arange(w)
    for slope in np.arange(-0.12, 0.12, 2 / length):
        sloped = (rows + np.round(slope * columns).astype(int)) % h         # row r of mask[sloped, columns] slopes
        share = ndimage.uniform_filter1d(mask[sloped, columns].astype(np.float32), length, mode='constant')
        inked = ndimage.maximum_filter1d(share > 0.9, length)
        for i in range(step * step):
            lines[sloped * step + i // step, columns * step + i % step] |= inked
    lines = ndimage.maximum_filter1d(lines, 2 * step + 1, axis=0)
    thicker = ndimage.grey_opening(dark, (int(1.5 * width) + 2, 1))
    return np.where(lines, np.minimum(dark, thicker), dark)


def join_parts(labels, width):
    """Which parts make a digit: (groups, height), a list of lists of labels, and how high digits are, in pixels.

    labels, width  as of `find_strokes`

    Specks and what is far larger than the other parts are dropped. A part less than half as high as digits are belongs
    to the nearest large one, if that is near: so does the loose bar of a 5.
    """
    boxes = [(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in ndimage.find_objects(labels)]
    if not boxes:
        return [], 0
    top, bottom, left, right = np.array(boxes).T
    h, w = bottom - top, right - left
    area = np.bincount(labels.ravel())[1:]
    height = weighted_median(h, area)
    if height < 12:                                                  # grain: no net could read what is so small
        return [], 0
    fits = (area > width ** 2) & (np.maximum(h, w) > max(2 * width, 0.15 * height)) & (h < 3 * height)
    fits &= (w < 6 * height) & ((w < 3 * height) | (h > 0.4 * height))
    large = fits & (h >= 0.5 * height)
    groups = {i: [i + 1] for i in np.flatnonzero(large)}
    near = int(0.2 * height) + 1
    for i in np.flatnonzero(fits & ~large):
        window = labels[max(0, top[i] - near):bottom[i] + near, max(0, left[i] - near):right[i] + near]
        neighbours = np.append(False, large)[window]
        if neighbours.any():
            distance, place = ndimage.distance_transform_edt(~neighbours, return_indices=True)
            distance[window != i + 1] = np.inf
            closest = np.unravel_index(distance.argmin(), distance.shape)
            j = window[tuple(place[:, closest[0], closest[1]])] - 1
            together = max(bottom[i], bottom[j]) - min(top[i], top[j])
            if distance[closest] <= near and together < 1.4 * max(height, h[j]):
                groups[j].append(i + 1)
                continue
        if h[i] >= 0.4 * height:
            groups[i] = [i + 1]
    return list(groups.values()), height


def cut_out(dark, labels, places, group):
    """The ink of a group of parts: (canvas, top, left), the canvas in 0..1 and where it lies in the photo.

    Ink as dark as most of the digit is 1, so that a faint pencil counts as much as a marker.
    """
    top, left = (max(0, min(places[i - 1][axis].start for i in group) - 1) for axis in (0, 1))
    bottom, right = (max(places[i - 1][axis].stop for i in group) + 1 for axis in (0, 1))
    part, ink = np.isin(labels[top:bottom, left:right], group), dark[top:bottom, left:right]
    canvas = np.clip(ink / np.percentile(ink[part], 75), 0, 1) * ndimage.binary_dilation(part, EIGHT)
    return np.where(canvas > 0.15, canvas, 0), top, left


def read_images(images, params, layers):
    """Probabilities (n, 10) of the classes for a list of n images (28, 28)."""
    return predict(params, layers, np.reshape(images, (-1, 784)).T).T


def split(canvas, height, params, layers):
    """Cut digits that touch: a list of canvases of the same shape, each with the ink of one digit.

    canvas  (h, w) ink in 0..1
    height  of the photo's digits, in pixels

    A canvas that is wide, or that the net does not know, is cut along a straight line, upright or slanted, through
    little ink. Of all such cuts the one is taken whose worse half the net is surest of, if it is surer of it than of
    the whole. Halves may be cut again; one that is so wide that it must be is not judged.
    """
    h, w = ink_box(canvas).shape
    if w < 0.6 * h:
        return [canvas]
    whole = read_images([to_mnist(canvas)], params, layers).max()
    shape = w / max(h, height)
    if whole > 0.8 and shape < 1.3:
        return [canvas]
    halves = [half for left in cuts(canvas, shape > 1.3) for half in (canvas * left, canvas * ~left)]
    if not halves:
        return [canvas]
    sure = read_images(list(map(to_mnist, halves)), params, layers).max(axis=1)
    sure[[ink_box(half).shape[1] > 1.3 * max(h, height) for half in halves]] = 0.95
    sure = sure.reshape(-1, 2).min(axis=1)
    best = int(sure.argmax())
    if sure[best] < (0.5 if shape > 1.8 else whole if shape > 1.3 else min(0.9, whole + 0.2)):
        return [canvas]
    return [part for half in halves[2 * best:2 * best + 2] for part in split(half, height, params, layers)]


def cuts(canvas, wide):
    """Masks (h, w) of what is left of a possible cut, those through the least ink first, some for each digit.

    Through no more ink than one stroke is wide, two in a wide canvas; and both halves are about as high as the whole.
    """
    h, w = canvas.shape
    stroke, height = stroke_width(canvas), ink_box(canvas).shape[0]
    found = []
    for slant in (-0.5, -0.25, 0, 0.25, 0.5):
        line = np.arange(w) + np.round((np.arange(h)[:, None] - h / 2) * slant).astype(int)      # each pixel's line
        ink = np.bincount(np.clip(line, 0, w - 1).ravel(), canvas.ravel(), w)
        ink = ndimage.uniform_filter1d(ink, 3)
        thinnest = (ink == ndimage.minimum_filter1d(ink, max(3, h // 8))) & (ink < (2.5 if wide else 1.6) * stroke)
        for x in np.flatnonzero(thinnest):
            left = line < x
            if min(ink_box(canvas * half).shape[0] for half in (left, ~left)) > (0.5 if wide else 0.75) * height:
                found.append((ink[x], left))
    return [left for _, left in sorted(found, key=lambda cut: cut[0])[:8 * -(-w // h)]]


def find_lines(boxes, height):
    """Lines of writing, from top to bottom: lists of indices into boxes (n, 4), each from left to right.

    All lines are taken to slope the same way: by what brings the most digits to the same heights. From one digit to
    the next, a line may still rise or fall by two thirds of a digit's height.
    """
    y, x = boxes[:, :2].mean(axis=1), boxes[:, 2:].mean(axis=1)

    def agreement(slope):
        level = y - slope * x
        return np.exp(-((level[:, None] - level) / (0.4 * height)) ** 2).sum() - abs(slope)
    level = y - max(np.linspace(-0.3, 0.3, 61), key=agreement) * x
    lines = []
    for i in np.argsort(x):
        nearest = min(lines, key=lambda line: abs(level[line[-1]] - level[i]), default=[])
        if nearest and abs(level[nearest[-1]] - level[i]) < 0.67 * height:
            nearest.append(i)
        else:
            lines.append([i])
    return sorted(lines, key=lambda line: np.mean(level[line]))


def read_photo(photo, params, layers):
    """Find and read the digits of a photo (h, w, 3) in 0..1: a list of lines of writing, each a list of Digit."""
    dark, labels, width = find_ink(photo)
    groups, height = join_parts(labels, width)
    places = ndimage.find_objects(labels)
    images, boxes = [], []
    for group in groups:
        whole, top, left = cut_out(dark, labels, places, group)
        for canvas in split(whole, height, params, layers):
            rows, columns = (np.flatnonzero(canvas.any(axis=axis)) for axis in (1, 0))
            boxes.append((top + rows[0], top + rows[-1] + 1, left + columns[0], left + columns[-1] + 1))
            images.append(to_mnist(canvas))
    if not boxes:
        return []
    digits = list(map(Digit, boxes, images, read_images(images, params, layers)))
    return [[digits[i] for i in line] for line in find_lines(np.array(boxes), height)]


def character(digit):
    """The class that the net finds most probable; `?` if the probability is below 0.5, or where digits touch so that
    they could not be cut: no digit is twice as wide as it is high."""
    top, bottom, left, right = digit.box
    known = digit.probabilities.max() >= 0.5 and right - left < 2 * (bottom - top)
    return str(digit.probabilities.argmax()) if known else '?'


@matplotlib.rc_context(STYLE)
def draw_reading(photo, lines):
    """Show what was read where: a Figure of the photo (h, w, 3) in 0..1 and, below it, what the net was given.

    lines  as `read_photo` returns them
    """
    rows, columns = len(lines), max(10, *map(len, lines))
    sheet = np.ones((36 * rows, 30 * columns))                        # a place of 36 x 30 pixels for each image
    height = 8 * photo.shape[0] / photo.shape[1], 8 * sheet.shape[0] / sheet.shape[1]
    total = sum(height) + 0.7                                         # in inches, as height
    figure = pyplot.figure(figsize=(8, total))
    upper, lower = (figure.add_axes((0.01, bottom / total, 0.98, inches / total), frameon=False, xticks=[], yticks=[])
                    for bottom, inches in zip((height[1] + 0.4, 0.05), height))
    upper.imshow((255 * photo).astype(np.uint8), interpolation='nearest')
    for row, line in enumerate(lines):
        for column, digit in enumerate(line):
            p, text = digit.probabilities.max(), character(digit)
            colour = BLUE if p >= 0.9 else ORANGE if p >= 0.5 else 'black'
            top, bottom, left, right = digit.box
            upper.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linewidth=1.5))
            upper.text(left, top, text, color=colour, va='bottom', weight='bold',
                       bbox={'facecolor': 'white', 'alpha': 0.7, 'pad': 0.5, 'linewidth': 0})
            sheet[36 * row:36 * row + 28, 30 * column:30 * column + 28] = digit.image
            lower.text(30 * column + 14, 36 * row + 28, text, color=colour, ha='center', va='top',
                       fontsize=min(12, 160 / columns))
    lower.imshow(sheet, cmap='gray', vmin=0, vmax=1, interpolation='nearest')
    figure.text(0.01, 1 - 0.1 / total, 'probability: blue at least 0.9, orange at least 0.5, black less', va='top')
    figure.text(0.01, (height[1] + 0.1) / total, 'what the net was given, 28 x 28 pixels each')
    return figure


# ---------------------------------------------------------------------------------------------------------------
# The window to draw in
# ---------------------------------------------------------------------------------------------------------------

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
        from matplotlib.widgets import Button

        import vis_data  # not at the top of the file: without matplotlib, reading a photo starts 0.9 s sooner

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
                       title='draw a digit here, or several side by side', xlabel='c clear, u undo, s save, q quit')
        self.ink, = self.field.plot([], [], 'white', lw=4, solid_capstyle='round', solid_joinstyle='round')
        self.image = vis_data.draw_image(axes['image'], np.zeros((28, 28)), 'what the net gets, 28 x 28')
        self.bars = vis_data.draw_probabilities(axes['probabilities'], np.zeros(10))
        self.maps = {i: vis_data.draw_layer(axes[i], i, layers, outputs[i]) for i in maps}
        self.parts = {self.field: [self.ink], axes['words']: [self.words], axes['image']: [self.image],
                      axes['probabilities']: self.bars, **{image.axes: [image] for image in self.maps.values()}}
        self.turns = itertools.cycle(self.parts)
        for artist in itertools.chain(*self.parts.values()):
            artist.set_animated(True)                    # so that drawing the window leaves it out
        self.button = Button(axes['clear'], 'clear', hovercolor='0.85')      # as always: another would draw the window
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
            self.strokes[-1].append(self.field.transData.inverted().transform((event.x, event.y)))
        if self.drawing and event.name == 'button_release_event':
            self.drawing = False
            if not np.ptp(self.strokes[-1], axis=0).any():
                self.strokes.pop()                       # a click that brought the window to the front, not a digit

    def on_key(self, event):
        if event.key in ('c', 'u'):
            self.keep(self.strokes[:-1] if event.key == 'u' else [])
        elif event.key == 's':
            self.save()

    def keep(self, strokes):
        self.strokes, self.drawing, self.changed = strokes, False, True

    def save(self):
        """Save the window under a name that is still free, and say in it which."""
        path = next(path for path in map('drawn-{}.png'.format, itertools.count(1)) if not os.path.lexists(path))
        try:
            self.figure.savefig(path, dpi=150)
            self.field.set_title(f'saved as {path}', loc='left')
        except OSError as error:                         # not the end: the drawing is still there
            self.field.set_title(testLeNet.one_line(error), loc='left')
        self.figure.canvas.draw()                        # saving has drawn in another size

    def on_draw(self, event):
        """The window has been drawn but for what changes: remember its pixels, and let the timer add the rest."""
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
        self.timer.interval = max(33, 3000 * (time.perf_counter() - begin))      # ms: most of the time is for the mouse

    def read(self):
        """Let the net read what is drawn; the image, maps and probabilities are those of the digit drawn last."""
        from vis_data import first_maps, rounded, set_probabilities, tile

        digits = split_digits(self.strokes)
        images = np.array([to_mnist(draw_strokes(digit)) for digit in digits] or np.zeros((1, 28, 28)), np.float32)
        last = next((j for j, digit in enumerate(digits) if digit[-1] is self.strokes[-1]), 0)
        outputs = forward(self.params, self.layers, images[last].reshape(784, 1))
        probabilities = predict(self.params, self.layers, images.reshape(-1, 784).T)
        p = probabilities[:, last] if digits else np.zeros(10)
        self.image.set_data(images[last])
        for i, image in self.maps.items():
            image.set_data(tile(first_maps(outputs[i])))
        set_probabilities(self.bars, p)
        row = ' '.join(map(str, probabilities.argmax(axis=0)))
        second, best = p.argsort()[-2:]
        note = f'last drawn: {best}, probability {rounded(p[best])}, second guess {second} with {rounded(p[second])}'
        self.words.set_text(f'read: {row}\n{note}' if digits else 'nothing drawn yet')


def split_digits(strokes):
    """Group strokes, lists of points (x, y), into digits: a list of lists of strokes, from left to right.

    A stroke belongs to a digit if it lies above or below it with a third of its width, or of the digit's.
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
    from matplotlib import pyplot

    import vis_data

    keys = dict.fromkeys(['keymap.grid', 'keymap.grid_minor', 'keymap.xscale', 'keymap.yscale'], [])      # g, k, l
    with pyplot.rc_context({**vis_data.STYLE, 'toolbar': 'None', **keys}):
        figure = pyplot.figure('Draw a digit', figsize=(9.8, 6.6))       # a screen of 768 lines has room for it
        figure.set_layout_engine('constrained', rect=(0.02, 0.01, 0.96, 0.98))
        figure.window = DrawingWindow(figure, params, layers, images)    # kept: callbacks are weak references
        pyplot.show(block=True)


# ---------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------


def main(argv=None):
    """Read photos, or open the window to draw in."""
    parser = get_parser()
    flags = parser.parse_args(argv)
    if flags.draw == bool(flags.photos):
        parser.error('expected either photos to read or --draw')
    with errors_in_one_line('read_digits.py'):
        if flags.draw or flags.show:
            check_display('--draw' if flags.draw else '--show')
        params, layers, _ = load_model(flags.model)
    if flags.draw:
        *_, images, _ = load_mnist(False, np.float32, np.random.RandomState(testLeNet.seed))
        open_drawing_window(params, layers, images[:, :100])
    elif not all([print_reading(path, params, layers, flags.show) for path in flags.photos]):
        sys.exit(1)
    elif flags.show:
        pyplot.show()


def print_reading(path, params, layers, show):
    """Print the digits of a photo and write the picture of its reading. Returns whether this worked; if not, an
    error is printed, and the next photo can be read."""
    try:
        photo = load_photo(path)
        lines = read_photo(photo, params, layers)
        if not lines:
            raise ValueError(f'{path}: no digits found; expected ink on paper, no digit touching the edge of the photo')
        for line in lines:
            print(''.join(map(character, line)), flush=True)
        figure = draw_reading(photo, lines)
        save_figure(f'{os.path.splitext(path)[0]}-read.png', figure)
        if not show:
            pyplot.close(figure)
    except (OSError, ValueError) as error:
        print(f'read_digits.py: error: {testLeNet.one_line(error)}', file=sys.stderr)
        return False
    return True


def get_parser():
    parser = argparse.ArgumentParser(
        prog='read_digits.py', description='Read handwritten digits with a saved model.',
        epilog='The digits of a photo go to standard output, a line for each line of writing; ? is a digit whose best '
               'probability is below 0.5. Beside photo.jpg, photo-read.png shows what was read where.')
    parser.add_argument('photos', metavar='photo', nargs='*', help='a picture of digits on paper: JPEG, PNG and others')
    parser.add_argument('--draw', action='store_true', help='draw digits with the mouse and watch the net read them')
    parser.add_argument('--show', action='store_true', help='also show what was read where in a window')
    parser.add_argument('--model', metavar='PATH', default='lenet.mat',
                        help='the model that python testLeNet.py saved (default: lenet.mat)')
    return parser


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:               # no traceback for Ctrl-C
        sys.exit(130)
