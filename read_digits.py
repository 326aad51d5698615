"""Read photos of handwritten digits with a saved model.

    python read_digits.py photo.jpg     read a photo: print its digits, and write photo-read.png
    python read_digits.py --help        all flags

The model is lenet.mat, which python testLeNet.py makes; --model PATH takes another.
"""

import argparse
import collections
import functools
import importlib.util
import io
import itertools
import os
import sys
import warnings

from testLeNet import errors_in_one_line, load_model, one_line, write_whole  # sets up BLAS, and so is before NumPy

# isort: split
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps  # Pillow, which matplotlib brings
from scipy import ndimage

from cnn_lenet import predict

# ---------------------------------------------------------------------------------------------------------------
# The image that the net gets
# ---------------------------------------------------------------------------------------------------------------


def to_mnist(canvas):
    """Make a drawing into an image as MNIST's authors made theirs: (28, 28) pixels in 0..1.

    canvas  (height, width) of any size: 0 where nothing is drawn, up to 1 where there is ink

    Strokes far thinner or thicker than MNIST's are brought to a usual width. The drawing's bounding box is scaled to
    fit 20 x 20, with its proportions; then the whole is moved so that its centre of mass comes to the middle of the
    image, pixel (14, 14), by whole pixels. An empty canvas gives an empty image.
    Source: LeCun et al., Gradient-based learning applied to document recognition, 1998, section III A; the MNIST page.
    """
    if not canvas.any():
        return np.zeros((28, 28), np.float32)
    digit = scaled(with_usual_strokes(ink_box(canvas)), 20)
    room = 28 - np.array(digit.shape)
    top, left = np.clip(np.round(14 - np.array(ndimage.center_of_mass(digit))).astype(int), 0, room)
    return np.pad(digit, ((top, room[0] - top), (left, room[1] - left))).astype(np.float32)


def with_usual_strokes(box):
    """The ink (h, w) of a digit; if its strokes are unlike MNIST's, with others around the same middle.

    On digits 20 pixels long, MNIST's strokes are 2.4 pixels wide, and 99 of 100 digits have 1.3 to 4.5.
    """
    width = stroke_width(box) * 20 / max(box.shape)
    if 1.3 <= width <= 4.5:
        return box
    pixel = max(6, max(box.shape) / 20)                             # of MNIST's, in pixels of `inked`
    large = scaled(box, round(20 * pixel))
    inked = np.pad(large > large.max() / 2, round(2 * pixel))
    outside = ndimage.distance_transform_edt(~inked) - ndimage.distance_transform_edt(inked)      # of the outline
    return ink_box(np.clip(0.5 + (2.4 * pixel - stroke_width(inked)) / 2 - outside, 0, 1))


def stroke_width(ink):
    """How wide strokes are, in pixels, by their ink (h, w): twice the area over the outline's length."""
    ink = np.pad(np.asarray(ink, np.float32), 1)
    outline = np.hypot(np.diff(ink, axis=0, append=0), np.diff(ink, axis=1, append=0)).sum()      # of the gradient
    return 2 * ink.sum() / max(outline, 1e-9)


def ink_box(canvas):
    """The part of a canvas (h, w) within the bounding box of its ink."""
    rows, columns = np.flatnonzero(canvas.any(axis=1)), np.flatnonzero(canvas.any(axis=0))
    return canvas[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1] if len(rows) else canvas[:0, :0]


def scaled(box, longest):
    """Scale an image (h, w) so that its longer side has so many pixels, each the mean of the area that it covers."""
    for n, m in zip(box.shape, [max(1, round(longest * side / max(box.shape))) for side in box.shape]):
        edges = np.linspace(0, n, m + 1)                            # of the m new pixels in place of n
        before = np.clip(edges[:, None] - np.arange(n), 0, 1)       # how much of each old pixel is before each edge
        box = (np.diff(before, axis=0) @ box * m / n).T
    return box


# ---------------------------------------------------------------------------------------------------------------
# Photos
# ---------------------------------------------------------------------------------------------------------------

LONGEST_SIDE = 1600                     # of the copy of a photo that is read, in pixels
LEAST, ENOUGH, KNOWN = -0.3, 0.85, 0.45     # sureness that may count, and that needs no other; probability of no ?
EIGHT = np.ones((3, 3))                 # pixels are neighbours along the diagonal, too
BLUE, ORANGE = '#0072B2', '#D55E00'     # Okabe and Ito's palette, safe for colour-blind readers

# box: (top, bottom, left, right) in pixels of the photo; image: (28, 28) as the net got it; probabilities: (10,)
Digit = collections.namedtuple('Digit', 'box image probabilities')

# other: is the ink light where it seems dark, or dark where it seems light? widest: strokes there may be, as a share of
# the photo's shorter side. ruled: are there lines to erase? doubt: how much surer a reading found this way must be.
Way = collections.namedtuple('Way', 'other widest ruled doubt')
WAYS = [Way(False, 1 / 30, False, 0), Way(False, 1, False, 0.05),           # most photos; one digit that fills it
        Way(False, 1 / 30, True, 0.25),                                      # ruled and squared paper
        Way(True, 1 / 30, False, 0.1), Way(True, 1, False, 0)]


def load_photo(path):
    """Read a picture file: (h, w, 3) float32 in 0..1, upright, and no side longer than LONGEST_SIDE.

    Raises FileNotFoundError or ValueError if it can't be read. What is transparent becomes the paper: white, or black
    beneath light ink.
    """
    advice = '; export it as JPEG, or pip install pillow-heif' if str(path).lower().endswith(('.heic', '.heif')) else ''
    if advice and importlib.util.find_spec('pillow_heif'):
        importlib.import_module('pillow_heif').register_heif_opener()
    try:
        with Image.open(path) as picture:
            picture.draft(None, [LONGEST_SIDE * side // max(picture.size) for side in picture.size])  # JPEG: half size
            picture = ImageOps.exif_transpose(picture)
            if picture.mode[0] in 'IF':                             # 16 bit, which Pillow would cut off at 8
                picture = Image.fromarray(np.uint8(255.0 * np.asarray(picture) / max(1, picture.getextrema()[1])))
            picture = picture.convert('RGBA')
            picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file') from None
    except Image.DecompressionBombError:
        raise ValueError(f'{path}: over {2 * Image.MAX_IMAGE_PIXELS // 10 ** 6} megapixels; make it smaller') from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f'{path}: not a picture that can be read ({error}){advice}') from None
    colour, opaque = np.split(np.asarray(picture, np.float32) / 255, [3], axis=2)
    paper = np.sum(colour * opaque) <= 0.5 * 3 * np.sum(opaque)
    return colour if opaque.all() else colour * opaque + (1 - opaque) * paper


def lightness(photo):
    """Does the ink in a photo (h, w, 3) seem to be lighter than the paper? Yes if positive, surely beyond 3 or -3.

    Ink is what there is less of: so the differences from the mean around each pixel are skewed to its side. Around
    means the whole photo, for thick strokes, down to a sixteenth, for writing on a sheet on a table.
    """
    step = max(1, min(photo.shape[:2]) // 100)
    few = photo[::step, ::step].mean(axis=2)
    skewness = 0
    for size in [min(few.shape) // part + 1 for part in (1, 2, 4, 8, 16)]:
        difference = few - ndimage.uniform_filter(few, size)
        square, cube = (ndimage.uniform_filter(difference ** power, size) for power in (2, 3))
        skewness += np.mean(cube / (square + 1e-4) ** 1.5)
    return skewness


def to_grey(photo):
    """Make a photo (h, w, 3) one without colour: (h, w). Of red, green and blue, each in proportion to its mean, the
    least is taken, since ink of any colour swallows at least one of them."""
    return functools.reduce(np.minimum, np.moveaxis(photo / (photo.mean(axis=0).mean(axis=0) + 1e-6), 2, 0))


def darkness(grey, width):
    """How much darker every pixel of `grey` (h, w) is than the paper beneath: 0 for paper, 1 for black on white.

    Paper is what a closing leaves: of all squares that contain the pixel, the least of their brightest pixels. So
    strokes, `width` pixels wide, narrower than a square, vanish, while a shadow's edge stays sharp. The quotient with
    the paper takes out light and shadow. Where strokes fill the photo, its brightest pixel is paper.
    """
    size = 2 * int(1.75 * width) + 5                                     # odd
    grey = ndimage.gaussian_filter(grey, np.clip(width / 6, 0.5, 3), truncate=3)                  # against noise
    paper = grey.max()
    if size <= min(grey.shape):
        paper = ndimage.grey_closing(np.pad(grey, size, mode='symmetric'), (size, size))[size:-size, size:-size]
    return (paper - grey) / np.maximum(paper, max(grey.max() / 2, 1e-3))       # the grain of a dark table stays faint


def find_ink(grey, way):
    """Ink, and its connected parts, in a photo (h, w) of dark ink: as of `ink_parts`.

    The squares of `darkness` must be wider than strokes, but no wider than needed: the corners of shadows, where they
    do not fit in, are taken for ink. So the strokes are measured twice, the widest that can be at first, and with
    every other pixel, for speed.
    """
    width, step = min(grey.shape) * way.widest, 2 if min(grey.shape) > 200 else 1
    for _ in range(2):
        _, labels, _ = ink_parts(grey[::step, ::step], width / step, way.ruled)
        if labels.any():
            width = step * stroke_width(labels > 0)
    return ink_parts(grey, width, way.ruled)


def ink_parts(grey, width, ruled):
    """Ink, and its connected parts. grey, width: as of `darkness`. ruled: are there lines to erase?

    Returns the darkness (h, w), the number of the part that each pixel is in (h, w), 0 for none, and how much ink there
    is, also of what is no part. Ink is what stands out from noise and is at least a quarter as dark as the ink of this
    photo is on average; a part of it must have a core that is 0.6 times as dark.
    """
    dark = darkness(grey, width)
    lighter, light = np.percentile(dark[::2, ::2], (10, 25))             # of paper, even where ink fills half a picture
    noise = (light - lighter) / 0.607                                    # its standard deviation
    light, noise = (light, noise) if noise < 0.3 else (lighter, 0)       # 0.3: paper has less, so it is ink's outline
    dark -= light + 0.674 * noise
    low = max(5 * noise, 0.06)
    for _ in ('all ink', 'what is dark enough'):
        all_ink = erase_lines(dark > low) if ruled else dark > low
        ink = without_frame(all_ink)
        level = np.average(dark[ink], weights=dark[ink] ** 2) if ink.any() else 1
        low = max(4 * noise, 0.25 * level, 0.06)
    core = ink & (dark > max(1.75 * low, 0.6 * level))
    return dark, ndimage.label(ndimage.binary_propagation(core, EIGHT, ink), EIGHT)[0], dark[all_ink].sum()


def without_frame(ink):
    """Ink (h, w) of bools without what is no digit at the photo's edge: what is wider than digits are, and what lies
    along it, such as a table, unless the photo is as narrow as a 1. A thick 8 cut off on all sides is not along one."""
    labels, num = ndimage.label(ink, EIGHT)
    sides = np.array([np.bincount(side, minlength=num + 1) for side in (labels[0], labels[-1], *labels[:, [0, -1]].T)])
    h, w = np.array([(0, 0)] + [[side.stop - side.start for side in place] for place in ndimage.find_objects(labels)]).T
    touching = sides.sum(axis=0)
    along = touching > (0.9 if ink.shape[1] > 0.36 * ink.shape[0] else 2) * (h + w)
    along &= (sides > 0.9 * np.array([w, w, h, h])).any(axis=0)
    return ink & ~((touching > 0) & (along | (w > 1.5 * h)))[labels]


def erase_lines(mask):
    """Ink (h, w) of bools without the lines of ruled or squared paper: chains of flat runs that are forty times as long
    as strokes are wide, or cross the whole photo. What crosses a line, and so is thicker than it there, stays."""
    width = stroke_width(mask)
    run, thick = (2 * int(times * width / 2) + 1 for times in (5, 2))
    for _ in ('lines across', 'lines down'):
        padded = np.pad(mask, ((0, 0), (run, run)), mode='edge').astype(np.uint8)
        runs = ndimage.grey_opening(padded, (1, run))[:, run:-run]
        labels, _ = ndimage.label(runs, EIGHT)
        longest = min(40 * width, 0.95 * mask.shape[1])
        lines = np.array([False] + [x.stop - x.start > longest for _, x in ndimage.find_objects(labels)])[labels]
        thicker = ndimage.grey_opening(mask.astype(np.uint8), (thick, 1)) > 0
        mask = (mask & (thicker | ~ndimage.maximum_filter(lines, 3))).T
    return mask


def join_parts(labels):
    """Join the parts of ink that make one digit: (labels, height), as of `ink_parts`, with one label for all of them,
    and how high digits are, in pixels.

    Specks and what is far larger than the other parts are dropped. A part less than half as high as digits are belongs
    to the nearest large one, if that is near: so does the loose bar of a 5.
    """
    if not labels.any():
        return labels, 0
    places = ndimage.find_objects(labels)
    top, bottom, left, right = np.array([(y.start, y.stop, x.start, x.stop) for y, x in places]).T
    h, w = bottom - top, right - left
    height = np.median(h[labels[labels > 0] - 1])                    # of the part that a pixel of ink is in
    fits = (np.maximum(h, w) > 0.15 * height) & (np.maximum(h, w) < 6 * height) & (height >= 12)        # less is noise
    high = np.flatnonzero(fits & (h >= height / 2))
    digit = np.zeros(len(h) + 1, int)                                # the new label for each old one
    digit[high + 1] = np.arange(len(high)) + 1
    for i in np.flatnonzero(fits & (h < height / 2)):
        gap = np.max([top[i] - bottom[high], top[high] - bottom[i], left[i] - right[high], left[high] - right[i]], 0)
        if gap.min(initial=height) < 0.2 * height:
            digit[i + 1] = gap.argmin() + 1
    return digit[labels], height


def read_images(images, params, layers):
    """Probabilities (n, 10) of the classes for a list of n images (28, 28): the mean over the images as they are,
    turned a little, and moved by a pixel, which leaves the net unsure of what is no digit, or one upside down."""
    changed = [ndimage.rotate(images, angle, axes=(2, 1), reshape=False, order=1) for angle in (-10, 10)]
    changed += [np.roll(images, shift, axis=(1, 2)) for shift in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))]
    return predict(params, layers, np.reshape(changed, (-1, 784)).T).T.reshape(7, -1, 10).mean(axis=0)


def cut(canvas, height, params, layers):
    """Cut digits that touch, `height` pixels high: a list of canvases (h, w), each with the ink in 0..1 of one digit.

    What the net does not know, and is not narrow, is cut along a straight line, upright or slanted, through little ink;
    what is nearly two digits high, level. Of the cuts, the one whose halves the net is surest of is made, if it is
    surer of both than of the whole. Halves may be cut again; those too wide to be judged count as 0.95. If the canvas
    is not wide, both must be known far better, and be nearly as high as it is.
    """
    h, w = ink_box(canvas).shape
    wide, tall = w > 1.3 * max(h, height), h > 1.8 * max(w, height)               # tall: two lines touch
    if w < 0.6 * h and not tall:
        return [canvas]
    whole = read_images([to_mnist(canvas)], params, layers).max() if w <= 2 * h and not tall else 0
    if whole > 0.7:
        return [canvas]
    sure, least = (max(0.5, whole), 0.5) if wide else (0.7, 0.2) if tall else (min(0.95, whole + 0.4), 0.9)
    rows, columns = np.indices(canvas.shape)
    slanted = [columns + np.round((rows - h / 2) * slant).astype(int) for slant in (-0.5, -0.25, 0, 0.25, 0.5)]
    cuts = []
    for line in [rows] if tall else slanted:                                      # the number of each pixel's line
        ink = ndimage.uniform_filter1d(np.bincount(line.clip(0, max(h, w)).ravel(), canvas.ravel()), 3)
        lowest = (ink == ndimage.minimum_filter1d(ink, h // 4 + 1)) & (np.diff(ink, prepend=np.inf) < 0)
        cuts += [(ink[x], x, line) for x in np.flatnonzero(lowest & (ink < 2.5 * stroke_width(canvas)))]
    pairs = ((canvas * (line < x), canvas * (line >= x)) for _, x, line in sorted(cuts, key=lambda cut: cut[0]))
    pairs = (halves for halves in pairs if min(len(ink_box(half)) for half in halves) > least * h)
    best = [canvas]
    for halves in itertools.islice(pairs, 4):
        judged = [to_mnist(half) for half in halves if ink_box(half).shape[1] < 1.3 * max(h, height)]
        surer = read_images(judged, params, layers).max(axis=1).min() if judged else 0.95
        if surer > sure:
            best, sure = halves, surer
    return best if len(best) == 1 else [part for half in best for part in cut(half, height, params, layers)]


def find_lines(boxes, height, turns=0):
    """Lines of writing, from top to bottom: lists of indices into boxes (n, 4), each from left to right.

    All lines are taken to slope the same way: by what brings the most digits to the same heights. A new line begins
    where two heights that follow one another are 0.4 digits apart. turns: as of `read_ink`
    """
    y, x = boxes[:, :2].mean(axis=1), boxes[:, 2:].mean(axis=1)
    for _ in range(turns):
        y, x = -x, y

    def agreement(slope):
        level = y - slope * x
        return np.exp(-(np.subtract.outer(level, level) / (0.4 * height)) ** 2).sum() - 10 * abs(slope)

    level = y - max(np.linspace(-0.3, 0.3, 61), key=agreement) * x
    order = np.argsort(level)
    lines = np.split(order, np.flatnonzero(np.diff(level[order]) > 0.4 * height) + 1)
    return [sorted(line, key=x.__getitem__) for line in lines]


def read_photo(photo, params, layers):
    """Find and read the digits of a photo (h, w, 3) in 0..1: a list of lines of writing, each a list of Digit.

    The photo is read in several ways, until the net is sure; otherwise the surest reading counts, be it that there is
    nothing, of sureness LEAST. Where there are more than three digits, the photo may lie on its side.
    """
    light = lightness(photo)
    greys = [to_grey(photo), to_grey(1 - photo)][::-1 if light > 0 else 1]
    readings = [(LEAST, [])]                                           # sureness, lines, ink, doubt
    for way in WAYS:
        found = find_ink(greys[way.other], way)
        doubt = way.doubt + way.other * 0.1 * abs(light)
        lines, sure = read_ink(*found, params, layers, way.other)
        readings.append((sure - doubt, lines, found, doubt))
        if sure - doubt > ENOUGH:
            return lines
    page = max(readings, key=lambda reading: (sum(map(len, reading[1])) > 3, reading[0]))
    if sum(map(len, page[1])) > 3:
        for turns in (1, 3, 2):
            lines, sure = read_ink(*page[2], params, layers, True, turns)
            readings.append((sure - page[3], lines, *page[2:]))
    return max(readings, key=lambda reading: reading[0])[1]


def read_ink(dark, labels, total, params, layers, unusual=False, turns=0):
    """Read ink as found by `find_ink`, turned to the left so many times: (lines as of `read_photo`, sureness). Of what
    is unusual, ink from another side or the gaps between what seems to be ink, a few parts often look like digits."""
    rows, columns = (np.rot90(i, turns) for i in np.indices(dark.shape))
    labels, height = join_parts(np.rot90(labels, turns))
    dark, shape = np.rot90(dark, turns), dark.shape
    boxes, images, inks = [], [], []
    for i, place in enumerate(ndimage.find_objects(ndimage.grey_dilation(labels, (3, 3))), 1):
        ink = labels[place] == i
        canvas = np.clip(2 * dark[place] / np.percentile(dark[place][ink], 75) - 0.5, 0, 1)  # paper's grain goes
        canvas *= (canvas > 0.15) & ndimage.binary_dilation(ink, EIGHT)
        width, longest = stroke_width(canvas), max(ink_box(canvas).shape)
        if width > 0.36 * longest or canvas.sum() > 5.5 * width * longest:       # a blob or a grid, not writing
            continue
        parts = cut(canvas, height, params, layers)
        for part in parts:
            y, x = rows[place][part > 0], columns[place][part > 0]
            boxes.append((y.min(), y.max() + 1, x.min(), x.max() + 1))
            images.append(to_mnist(part))
            inks.append(dark[place][ink & (part > 0)].sum() * (1 if len(parts) == 1 else 0.8))
    if not boxes:
        return [], 0
    digits = [Digit(*digit) for digit in zip(boxes, images, read_images(images, params, layers))]
    lines = [[digits[i] for i in line] for line in find_lines(np.array(boxes), height, turns)]
    return lines, sureness(digits, inks, total, shape) - (1 / len(digits) if unusual and len(digits) > 1 else 0)


def sureness(digits, inks, total, shape):
    """How sure the net is of a reading, up to 1: the share of the `total` ink that is in known digits, each times its
    probability to the power of three, less what a few digits may be by chance. Any stroke looks like a 1; but a single
    digit that fills the photo, of this shape, is hardly chance. inks: how much ink each digit has, 0.8 times if cut.
    """
    known = np.array([digit.probabilities.max() ** 3 * (character(digit) != '?') for digit in digits])
    num = sum(known[[character(digit) != '1' for digit in digits]])
    fills = max(np.diff(digits[0].box)[::2] / shape) if len(digits) == 1 else 0           # its height or its width
    return np.dot(known, inks) / total - 0.9 * (1 - fills) / (1 + num)


def character(digit):
    """The class that the net finds most probable; `?` if the probability is below KNOWN, or where digits touch so that
    they could not be cut: no digit is twice as wide as it is high."""
    h, w = ink_box(digit.image).shape
    return str(digit.probabilities.argmax()) if digit.probabilities.max() >= KNOWN and w <= 2 * h else '?'


def draw_reading(photo, lines):
    """Show what was read where: a Pillow image of the photo (h, w, 3) in 0..1 with boxes around the digits of the lines
    (as of `read_photo`) and, below it, what the net was given."""
    longest, margin = max(map(len, lines)), 32
    cell = max(30, 1200 // max(12, longest))
    width = max(1200, cell * longest)
    scale = width / photo.shape[1]
    upper = Image.fromarray(np.uint8(255 * photo)).resize((width, round(scale * photo.shape[0])))
    lower = upper.height + 2 * margin
    picture = Image.new('RGB', (width, lower + len(lines) * (cell + margin)), 'white')
    picture.paste(upper, (0, margin))
    draw = ImageDraw.Draw(picture)
    try:
        font = ImageFont.load_default(28)
    except TypeError:                                                # Pillow before 10.1 has a small one only
        font = ImageFont.load_default()
    draw.text((8, -2), f'probability: blue at least 0.9, orange at least {KNOWN}, black less', 'black', font)
    draw.text((8, lower - margin - 2), 'what the net was given, 28 x 28 pixels each', 'black', font)
    for row, line in enumerate(lines):
        for column, digit in enumerate(line):
            p, text = digit.probabilities.max(), character(digit)
            colour = BLUE if p >= 0.9 else ORANGE if p >= KNOWN else 'black'
            top, bottom, left, right = (scale * edge for edge in digit.box)
            draw.rectangle((left, margin + top, right, margin + bottom), outline=colour, width=3)
            draw.text((left, margin + top - 4), text, colour, font, 'ls', stroke_width=3, stroke_fill='white')
            image = Image.fromarray(np.uint8(255 * digit.image)).resize((cell - 6, cell - 6), Image.Resampling.NEAREST)
            picture.paste(image, (column * cell, lower + row * (cell + margin)))
            draw.text(((column + 0.5) * cell, lower + row * (cell + margin) + cell), text, colour, font, 'ma')
    return picture


# ---------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------


def main(argv=None):
    """Read photos."""
    flags = get_parser().parse_args(argv)
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)    # of 90 megapixels, which are read well
    with errors_in_one_line('read_digits.py'):
        if flags.show:
            from vis_data import check_display, pyplot  # not at the top: without them, a photo is read 0.8 s sooner
            check_display('--show')
        params, layers, _ = load_model(flags.model)
    pictures = [print_reading(path, params, layers) for path in flags.photos]
    if flags.show:
        for picture in filter(None, pictures):
            pyplot.figure(figsize=(8, 8 * picture.height / picture.width)).add_axes((0, 0, 1, 1)).imshow(picture)
            pyplot.axis('off')
        pyplot.show()
    if None in pictures:
        sys.exit(1)


def print_reading(path, params, layers):
    """Print the digits of a photo, save the picture of its reading and return it; or print an error and return None."""
    try:
        photo = load_photo(path)
        lines = read_photo(photo, params, layers)
        if not lines:
            raise ValueError(f'{path}: no digits found; expected ink on paper, and digits that do not touch')
        for line in lines:
            print(''.join(map(character, line)), flush=True)
        picture, file = draw_reading(photo, lines), io.BytesIO()
        picture.save(file, 'PNG', compress_level=1)              # in a fifth of the time, and 15 % larger
        write_whole(f'{os.path.splitext(path)[0]}-read.png', file.getvalue())
        return picture
    except (OSError, ValueError) as error:
        print(f'read_digits.py: error: {one_line(error)}', file=sys.stderr)


def get_parser():
    parser = argparse.ArgumentParser(
        prog='read_digits.py', description='Read photos of handwritten digits with a saved model.',
        epilog='The digits of a photo go to standard output, a line for each line of writing; ? is a digit whose best '
               f'probability is below {KNOWN}. Next to photo.jpg, photo-read.png shows what was read where.')
    parser.add_argument('photos', metavar='photo', nargs='+', help='a picture of digits on paper: JPEG, PNG and others')
    parser.add_argument('--show', action='store_true', help='also show what was read where in a window')
    parser.add_argument('--model', metavar='PATH', default='lenet.mat', help='the saved model (default: lenet.mat)')
    return parser


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:               # no traceback for Ctrl-C
        sys.exit(130)
