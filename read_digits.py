"""Read photos of handwritten digits with a saved model.

    python read_digits.py photo.jpg     read a photo: print its digits, and write photo-read.png
    python read_digits.py --help        all flags

The model is lenet.mat, which python testLeNet.py makes; --model PATH takes another.
"""

import argparse
import collections
import io
import os
import sys

import testLeNet  # which sets up BLAS, and so comes before NumPy

# isort: split
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps  # Pillow, which matplotlib brings
from scipy import ndimage

from cnn_lenet import predict
from testLeNet import errors_in_one_line, load_model, write_whole

# ---------------------------------------------------------------------------------------------------------------
# The image that the net gets
# ---------------------------------------------------------------------------------------------------------------


def to_mnist(canvas):
    """Make a drawing into an image as MNIST's authors made theirs.

    canvas  (height, width) of any size: 0 where nothing is drawn, up to 1 where there is ink

    Returns (28, 28) pixels in 0..1. Strokes far thinner or thicker than any of MNIST are brought to a usual width. The
    drawing's bounding box is scaled to fit 20 x 20, with its proportions; every pixel is the mean of the area that it
    covers, which makes the edges grey; then the whole is moved so that its centre of mass comes to the middle of the
    image, by whole pixels. An empty canvas gives an empty image.
    Source: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998,
    section III A, and the MNIST page. The middle is pixel (14, 14), as in all of MNIST, to within half a pixel.
    """
    if not canvas.any():
        return np.zeros((28, 28), np.float32)
    digit = _scaled(with_usual_strokes(ink_box(canvas)), 20)
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
    inked = np.pad(_scaled(box, round(20 * pixel)) > 0.5, round(2 * pixel))
    if not inked.any():
        return box
    outside = ndimage.distance_transform_edt(~inked) - ndimage.distance_transform_edt(inked)      # of the outline
    wanted = pixel * (2.2 if width < 1.3 else 3)
    return ink_box(np.clip(0.5 + (wanted - stroke_width(inked)) / 2 - outside, 0, 1))


def stroke_width(ink):
    """How wide the strokes of ink (h, w) in 0..1 are, in pixels: twice the area over the length of the outline, which
    is the sum of the gradient's magnitude."""
    ink = np.pad(np.asarray(ink, np.float32), 1)
    outline = np.hypot(np.diff(ink, axis=0, append=0), np.diff(ink, axis=1, append=0)).sum()
    return 2 * ink.sum() / max(outline, 1e-9)


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

LONGEST_SIDE = 1600                     # of the copy of a photo that is read, in pixels
EIGHT = np.ones((3, 3))                 # pixels are neighbours along the diagonal, too
BLUE, ORANGE = '#0072B2', '#D55E00'     # Okabe and Ito's palette, safe for colour-blind readers

# box: (top, bottom, left, right) in pixels of the photo; image: (28, 28) as the net got it; probabilities: (10,)
Digit = collections.namedtuple('Digit', 'box image probabilities')


def load_photo(path):
    """Read a picture file: (h, w, 3) float32 in 0..1, upright, and no side longer than LONGEST_SIDE.

    Raises ValueError if it can't be read. What is transparent becomes the paper: white, or black beneath light
    ink.
    """
    try:
        with Image.open(path) as picture:
            scale = LONGEST_SIDE / max(picture.size)
            picture.draft(None, [int(scale * side) for side in picture.size])   # a large JPEG is decoded at half size
            picture = ImageOps.exif_transpose(picture)
            if picture.mode[0] in 'IF':                             # 16 bit, which Pillow would cut off at 8
                grey = np.asarray(picture, np.float32)
                picture = Image.fromarray((grey * (255 / max(grey.max(), 1))).astype(np.uint8))
            picture = picture.convert('RGBA')
            picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path}: not a picture that can be read ({error})') from None
    pixels = np.asarray(picture, np.float32) / 255
    colour, opaque = pixels[..., :3], pixels[..., 3:]
    if opaque.all():
        return colour
    light_ink = np.sum(colour * opaque) > 0.5 * 3 * np.sum(opaque)
    return colour * opaque + (1 - opaque) * (1 - light_ink)


def to_grey(photo):
    """Make a photo (h, w, 3) one of dark ink on light paper without colour: (h, w).

    Ink is what there is less of: if the differences from the mean around each pixel have their tail on the light side,
    the ink is light, and the photo is inverted. Of red, green and blue, each in proportion to its mean, the least is
    taken, since ink of any colour swallows at least one of them.
    """
    few = photo[::3, ::3].mean(axis=2)
    difference = few - ndimage.uniform_filter(few, min(few.shape) // 4 + 1)
    if np.sum(difference ** 3) > 0:
        photo = 1 - photo
    red, green, blue = np.moveaxis(photo / (photo.mean(axis=0).mean(axis=0) + 1e-6), 2, 0)
    return np.minimum(np.minimum(red, green), blue)    # 0.1 s faster than min(axis=2) of a large photo


def darkness(grey, width):
    """How much darker every pixel is than the paper beneath: (h, w), 0 for paper, 1 for black on white.

    grey   (h, w) brightness, at least 0
    width  of strokes, in pixels

    Paper is what a closing leaves: of all squares that contain the pixel, the least of their brightest pixels. So
    strokes, which are narrower than a square, vanish, while the edge of a shadow stays as sharp as it is. What lies
    outside of the photo counts as dark, so that a dark table that shows around the paper is paper too. The quotient
    with the paper takes out light and shadow.
    """
    size = 2 * int(1.75 * width) + 5                                     # odd
    grey = ndimage.gaussian_filter(grey, np.clip(width / 6, 0.5, 3), truncate=3)                  # against noise
    paper = ndimage.grey_closing(np.pad(grey, size), (size, size))[size:-size, size:-size]
    dark = (paper - grey) / np.maximum(paper, max(paper.max() / 2, 1e-3))      # the grain of a dark table stays faint
    return dark - np.median(dark)


def find_ink(photo):
    """Ink, and its connected parts, in a photo (h, w, 3): (dark, labels) as of `ink_parts`.

    The closing of `darkness` needs squares wider than strokes, but no wider than needed: the corners of shadows, where
    they do not fit in, are taken for ink. So the first squares are for the widest strokes that can be, and the next for
    the strokes that were found; only the last time every pixel counts, before every other one, for speed.
    """
    grey = to_grey(photo)
    width = min(grey.shape) / 30
    for _ in range(2):
        _, labels = ink_parts(grey[::2, ::2], width / 2)
        width = 2 * stroke_width(labels > 0)
    return ink_parts(grey, width)


def ink_parts(grey, width):
    """Ink, and its connected parts: (dark, labels). grey, width: as of `darkness`.

    Returns the darkness (h, w) and the number of the part that each pixel is in (h, w), 0 for none. Ink is what stands
    out from noise and is at least a third as dark as the ink of this photo is on average; a part of it must have a core
    nearly twice as dark. Parts that touch the photo's edge are dropped: their digit is cut off.
    """
    dark = darkness(grey, width)
    noise = 1.48 * np.median(abs(dark))                                  # its standard deviation, whatever ink there is
    ink = dark[dark > max(5 * noise, 0.06)]
    level = np.average(ink, weights=ink ** 2) if ink.size else 1
    low = max(4 * noise, 0.35 * level, 0.06)
    labels, num = ndimage.label(erase_lines(dark > low), EIGHT)
    keep = np.zeros(num + 1, bool)
    keep[labels[dark > 1.75 * low]] = True
    keep[np.concatenate([[0], labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False
    labels, _ = ndimage.label(keep[labels], EIGHT)
    return dark, labels


def erase_lines(mask):
    """Ink (h, w) of bools without the lines of ruled or squared paper.

    A line is straight, with ink in 90 % of it, over forty times the mean width of strokes, which no stroke of a digit
    is, or across the whole photo; it may slope by 7 degrees. What crosses it, and so is thicker than it there, stays.
    """
    width = stroke_width(mask)
    step = max(1, int(width / 2))
    for _ in ('lines across', 'lines down'):
        # For speed on a copy, each pixel the maximum of a square. small[row] is sheared: lines that slope become rows.
        small = ndimage.maximum_filter(mask, step, origin=-(step // 2))[::step, ::step].astype(np.float32)
        h, w = small.shape
        length = max(1, int(min(40 * width / step, w)))
        lines = np.zeros((h, w), bool)
        for slope in np.arange(-0.12, 0.12, 2 / length):
            row = (np.arange(h)[:, None] + np.round(slope * np.arange(w)).astype(int)) % h, np.arange(w)
            share = ndimage.uniform_filter1d(small[row], length, mode='constant')
            if share.max() > 0.9:
                lines[row] |= ndimage.maximum_filter1d(share > 0.9, length)
        if lines.any():
            lines = ndimage.maximum_filter1d(lines, 3, axis=0).repeat(step, 0).repeat(step, 1)
            thicker = ndimage.binary_opening(mask, np.ones((int(1.5 * width) + 2, 1)))
            mask = mask & (thicker | ~lines[:mask.shape[0], :mask.shape[1]])
        mask = mask.T
    return mask


def join_parts(labels):
    """Join the parts of ink that make one digit: (labels, height), with one label for all of them, and how high digits
    are, in pixels.

    labels  as of `ink_parts`

    Specks and what is far larger than the other parts are dropped. A part less than half as high as digits are belongs
    to the nearest large one, if that is near: so does the loose bar of a 5.
    """
    if not labels.any():
        return labels, 0
    places = ndimage.find_objects(labels)
    top, bottom, left, right = np.array([(y.start, y.stop, x.start, x.stop) for y, x in places]).T
    h, w = bottom - top, right - left
    height = np.median(h[labels[labels > 0] - 1])                    # of the part that a pixel of ink is in
    fits = (np.maximum(h, w) > 0.15 * height) & (h < 3 * height) & (w < 6 * height) & (height >= 12)    # less is noise
    large = np.flatnonzero(fits & (h >= height / 2))
    digit = np.zeros(len(h) + 1, int)                                # the new label for each old one
    digit[large + 1] = large + 1
    for i in np.flatnonzero(fits & (h < height / 2)):
        h_of_both = np.maximum(bottom[i], bottom[large]) - np.minimum(top[i], top[large])
        w_of_both = np.maximum(right[i], right[large]) - np.minimum(left[i], left[large])
        gap = np.maximum(h_of_both - h[i] - h[large], w_of_both - w[i] - w[large])
        gap[h_of_both > 1.4 * np.maximum(height, h[large])] = height         # too high for one digit
        if gap.min(initial=height) < 0.2 * height:
            digit[i + 1] = large[gap.argmin()] + 1
    return digit[labels], height


def cut_out(dark, part):
    """A digit's ink in 0..1, given the darkness (h, w) and which pixels are ink of it.

    Ink as dark as most of the digit is 1, so that a faint pencil counts as much as a marker.
    """
    canvas = np.clip(dark / np.percentile(dark[part], 75), 0, 1) * ndimage.binary_dilation(part, EIGHT)
    return np.where(canvas > 0.15, canvas, 0)


def read_images(images, params, layers):
    """Probabilities (n, 10) of the classes for a list of n images (28, 28)."""
    return predict(params, layers, np.reshape(images, (-1, 784)).T).T


def cut(canvas, height, params, layers):
    """Cut digits that touch: a list of canvases (h, w), each with the ink of one digit.

    canvas  (h, w) ink in 0..1
    height  of the photo's digits, in pixels

    A canvas that is wide, or that the net does not know, is cut along a straight line, upright or slanted, through
    little ink: the one whose halves the net is surest of. Halves may be cut again; those too wide to be judged count as
    0.95. If the canvas is not wide, both must be nearly as high as it is.
    """
    h, w = ink_box(canvas).shape
    wide = w > 1.3 * max(h, height)
    if not wide and (w < 0.6 * h or read_images([to_mnist(canvas)], params, layers).max() > 0.8):
        return [canvas]
    most, least_height, sure = (2.5, 0.5, 0.5) if wide else (1.6, 0.8, 0.9)
    most *= stroke_width(canvas)
    rows, columns = np.ogrid[:canvas.shape[0], :canvas.shape[1]]
    cuts = []
    for slant in (-0.5, -0.25, 0, 0.25, 0.5):
        line = columns + np.round((rows - h / 2) * slant).astype(int)             # each pixel's line
        ink = ndimage.uniform_filter1d(np.bincount(line.clip(0, w).ravel(), canvas.ravel()), 3)
        thinnest = (ink == ndimage.minimum_filter1d(ink, h // 4 + 1)) & (ink < most)
        for x in np.flatnonzero(thinnest):
            halves = canvas * (line < x), canvas * (line >= x)
            if min(ink_box(half).shape[0] for half in halves) > least_height * h:
                cuts.append((ink[x], halves))
    best = [canvas]
    for _, halves in sorted(cuts, key=lambda pair: pair[0])[:12]:
        judged = [to_mnist(half) for half in halves if ink_box(half).shape[1] < 1.3 * max(h, height)]
        surer = read_images(judged, params, layers).max(axis=1).min() if judged else 0.95
        if surer > sure:
            best, sure = halves, surer
    return best if len(best) == 1 else [part for half in best for part in cut(half, height, params, layers)]


def find_lines(boxes, height):
    """Lines of writing, from top to bottom: lists of indices into boxes (n, 4), each from left to right.

    All lines are taken to slope the same way: by what brings the most digits to the same heights. A new line begins
    where two heights that follow one another are 0.4 digits apart.
    """
    y, x = boxes[:, :2].mean(axis=1), boxes[:, 2:].mean(axis=1)

    def agreement(slope):
        level = y - slope * x
        return np.exp(-(np.subtract.outer(level, level) / (0.4 * height)) ** 2).sum() - abs(slope)   # or the flattest

    level = y - max(np.linspace(-0.3, 0.3, 61), key=agreement) * x
    order = np.argsort(level)
    lines = np.split(order, np.flatnonzero(np.diff(level[order]) > 0.4 * height) + 1)
    return [sorted(line, key=x.__getitem__) for line in lines]


def read_photo(photo, params, layers):
    """Find and read the digits of a photo (h, w, 3) in 0..1: a list of lines of writing, each a list of Digit."""
    dark, labels = find_ink(photo)
    labels, height = join_parts(labels)
    images, boxes = [], []
    for i, place in enumerate(ndimage.find_objects(labels), 1):
        if place:                                                    # None for a label that was dropped or joined
            place = tuple(slice(side.start - 1, side.stop + 1) for side in place)       # no part touches the edge
            for canvas in cut(cut_out(dark[place], labels[place] == i), height, params, layers):
                if stroke_width(canvas) < 0.28 * max(ink_box(canvas).shape):            # otherwise a blob, not writing
                    y, x = np.nonzero(canvas) + np.array([[side.start] for side in place])
                    boxes.append((y.min(), y.max() + 1, x.min(), x.max() + 1))
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


def draw_reading(photo, lines):
    """Show what was read where: a Pillow image of the photo (h, w, 3) in 0..1 and, below it, what the net was given.

    lines  as `read_photo` returns them
    """
    width, margin = 1200, 32
    scale, cell = width / photo.shape[1], width // max(12, *map(len, lines))
    upper = Image.fromarray(np.uint8(255 * photo)).resize((width, round(scale * photo.shape[0])))
    lower = upper.height + 2 * margin
    picture = Image.new('RGB', (width, lower + len(lines) * (cell + margin)), 'white')
    picture.paste(upper, (0, margin))
    draw = ImageDraw.Draw(picture)
    try:
        font = ImageFont.load_default(28)
    except TypeError:                                                # Pillow before 10.1 has a small one only
        font = ImageFont.load_default()
    draw.text((8, -2), 'probability: blue at least 0.9, orange at least 0.5, black less', 'black', font)
    draw.text((8, lower - margin - 2), 'what the net was given, 28 x 28 pixels each', 'black', font)
    for row, line in enumerate(lines):
        for column, digit in enumerate(line):
            p, text = digit.probabilities.max(), character(digit)
            colour = BLUE if p >= 0.9 else ORANGE if p >= 0.5 else 'black'
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
    with errors_in_one_line('read_digits.py'):
        if flags.show:
            try:
                from vis_data import check_display  # not at the top: without matplotlib, a photo is read 0.9 s sooner
            except ValueError as error:             # MPLBACKEND names no backend
                raise ValueError(f'MPLBACKEND: {error}') from None
            check_display('--show')
        params, layers, _ = load_model(flags.model)
    pictures = [print_reading(path, params, layers) for path in flags.photos]
    if flags.show:
        show(filter(None, pictures))
    if None in pictures:
        sys.exit(1)


def print_reading(path, params, layers):
    """Print the digits of a photo, and write the picture of its reading, which is returned. If this fails, print an
    error and return None, so that the next photo can be read."""
    try:
        photo = load_photo(path)
        lines = read_photo(photo, params, layers)
        if not lines:
            raise ValueError(f'{path}: no digits found; expected ink on paper, no digit touching the edge of the photo')
        for line in lines:
            print(''.join(map(character, line)), flush=True)
        picture, file = draw_reading(photo, lines), io.BytesIO()
        picture.save(file, 'PNG', compress_level=1)              # in a fifth of the time, and 15 % larger
        write_whole(f'{os.path.splitext(path)[0]}-read.png', file.getvalue())
        return picture
    except (OSError, ValueError) as error:
        print(f'read_digits.py: error: {testLeNet.one_line(error)}', file=sys.stderr)


def show(pictures):
    """Show pictures in a window each until all are closed."""
    from matplotlib import pyplot

    for picture in pictures:
        pyplot.figure(figsize=(8, 8 * picture.height / picture.width)).add_axes((0, 0, 1, 1)).imshow(picture)
        pyplot.axis('off')
    pyplot.show()


def get_parser():
    parser = argparse.ArgumentParser(
        prog='read_digits.py', description='Read photos of handwritten digits with a saved model.',
        epilog='The digits of a photo go to standard output, a line for each line of writing; ? is a digit whose best '
               'probability is below 0.5. Next to photo.jpg, photo-read.png shows what was read where.')
    parser.add_argument('photos', metavar='photo', nargs='+', help='a picture of digits on paper: JPEG, PNG and others')
    parser.add_argument('--show', action='store_true', help='also show what was read where in a window')
    parser.add_argument('--model', metavar='PATH', default='lenet.mat',
                        help='the model that python testLeNet.py saved (default: lenet.mat)')
    return parser


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:               # no traceback for Ctrl-C
        sys.exit(130)
