"""Q1 to Q7: each of the seven functions against its definition in the handout.

    python -m pytest tests/test_questions.py           all questions, then a table of them
    python -m pytest tests/test_questions.py -k Q4     one question (or: -k pooling_layer_backward)
    python -m pytest tests/test_questions.py -x        up to the first failure

Forward functions are compared with the handout's definitions, written as plain loops over single numbers (far too slow
to train with), backward functions with finite differences of those loops (section 8), and sgd_momentum with equations
(9), (10) and (13), one number at a time. No question's tests call another question's function, so the questions can be
solved in any order. Inputs are chosen so that every gradient is certain: no two numbers in a window are equal, and no
input of a ReLU is near 0.
"""

import _thread
import copy
import functools
import inspect
import itertools
import re
import sys
import threading
import time

import numpy as np
import pytest

if __name__ == '__main__':                             # python tests/test_questions.py: pytest finds cnn_lenet.py
    sys.exit(pytest.main([__file__, *sys.argv[1:]]))

import cnn_lenet
from testLeNet import not_written

# The handout's points.
QUESTIONS = {
    'Q1': ('pooling_layer_forward', 20),
    'Q2': ('relu_forward', 3),
    'Q3': ('inner_product_forward', 10),
    'Q4': ('pooling_layer_backward', 20),
    'Q5': ('relu_backward', 3),
    'Q6': ('inner_product_backward', 10),
    'Q7': ('sgd_momentum', 7),
}
SECONDS = 30     # that a function may take for the few numbers that it is given here
ENDLESS = set()  # functions that took longer: they are not called again
SAID = set()     # what has been said of a function, but for the sizes

RELU = {'type': 'RELU'}
SIZES = ('height', 'width', 'channel', 'batch_size')


def __tracebackhide__(error):
    """Tells pytest to leave the lines of this file out of a traceback, which then begins in the student's code."""
    return not error.errisinstance(pytest.fail.Exception)


def pooling(k, stride):
    return {'type': 'POOLING', 'k': k, 'stride': stride, 'pad': 0}


# Inputs

def structure(x):
    """The structure that holds the feature maps x, (h, w, c, n)."""
    return {**dict(zip(SIZES, x.shape)), 'data': np.array(x, np.float64).reshape(-1, x.shape[3])}


def feature_maps(structure, key='data', order=SIZES):
    """The reverse: (h, w, c, n). In another order of these axes they are mixed up."""
    maps = structure[key].reshape([structure[size] for size in order])
    return maps.transpose([order.index(size) for size in SIZES])


def one_image(*maps):
    """The structure of one image, from one table of numbers per channel."""
    return structure(np.stack([np.array(numbers, np.float64) for numbers in maps], axis=2)[..., None])


def distinct(*shape):
    """Numbers of both signs in random order, 0.1 apart, none nearer to 0 than 0.05. The first one is negative, so that
    its ReLU is the int 0 for some code, such as np.vectorize, which makes all the others ints too."""
    size = int(np.prod(shape))
    numbers = (np.random.RandomState(0).permutation(size) - size // 2 + 0.5) / 10
    return (numbers * -np.sign(numbers[0])).reshape(shape)


def random_params(rows, num):
    rng = np.random.RandomState(1)
    return {'w': rng.uniform(-1, 1, (rows, num)), 'b': rng.uniform(1, 2, num)}


def with_diff(output):
    """The output with a gradient of both signs, none of it near 0."""
    numbers = np.random.RandomState(2).uniform(1, 2, output['data'].size)
    numbers[::3] *= -1
    return {**output, 'diff': numbers.reshape(output['data'].shape)}


# Definitions

def relu_by_definition(input):
    """relu(x) = max(0, x) (section 2.2)."""
    return {**input, 'data': np.array([[max(0., x) for x in row] for row in input['data']])}


def window(maps, layer, i, j, channel, image):
    """The k x k numbers that entry (i, j, channel, image) of the output is the largest of (section 2.4)."""
    top, left = i * layer['stride'], j * layer['stride']
    return maps[top:top + layer['k'], left:left + layer['k'], channel, image]


def pooling_by_definition(input, layer):
    """(size - k) / stride + 1 windows each way, and the largest number of each (section 2.4)."""
    h_out, w_out = ((input[key] - layer['k']) // layer['stride'] + 1 for key in ('height', 'width'))
    maps, shape = feature_maps(input), (h_out, w_out, input['channel'], input['batch_size'])
    return structure(np.reshape([window(maps, layer, *place).max() for place in np.ndindex(shape)], shape))


def inner_product_by_definition(input, param):
    """f(x) = W x + b for every column x, where W is our w transposed (eq. 3)."""
    x, w, b = input['data'], param['w'], param['b']
    columns = range(x.shape[1])
    data = np.array([[sum(w[:, o] * x[:, image]) + b[o] for image in columns] for o in range(len(b))])
    return structure(data.reshape(1, 1, *data.shape))


def pooling_gradient(x, diff, layer):
    """The gradient of (diff * pooling(x)).sum() by finite differences: x (h, w, c, n), diff (h_out, w_out, c, n).

    One map at a time, which is faster, as no map acts on the output of another.
    """
    result = np.zeros(x.shape)
    for c, n in np.ndindex(x.shape[2:]):
        input, output = structure(x[:, :, [[c]], [[n]]]), {'diff': diff[:, :, c, n].reshape(-1, 1)}
        od = cnn_lenet.finite_difference(output, input, 1e-3, lambda x: pooling_by_definition(x, layer))
        result[:, :, c, n] = od.reshape(x.shape[:2])
    return result


# Calling and comparing

def call(name, *arguments):
    """What the function returns. Its own errors keep their traceback, with the line where they were raised."""
    question = next(question for question, (function, _) in QUESTIONS.items() if function == name)
    if question in not_written():
        fail(f'{question} is not written yet: {name} in cnn_lenet.py')
    if name in ENDLESS:
        fail(f'as above: {name} is not called again')
    function, given = getattr(cnn_lenet, name), copy.deepcopy(arguments)
    names = inspect.signature(function).parameters
    began, timer = time.monotonic(), threading.Timer(SECONDS, _thread.interrupt_main)    # Windows has no alarm signal
    timer.start()
    try:
        result = function(*given)
    except KeyboardInterrupt as interrupt:
        if time.monotonic() - began < SECONDS:
            raise                                      # somebody has pressed Ctrl-C
        ENDLESS.add(name)
        error = TimeoutError(f'{name} was stopped in the lines above, as it had not returned after {SECONDS} seconds')
        raise error.with_traceback(interrupt.__traceback__) from None
    except Exception as error:
        print(f'{name} was called with', *(f'    {key} = {describe(value)}' for key, value in zip(names, arguments)),
              sep='\n')
        if isinstance(error, KeyError) and error.args == ('diff',):
            print("'diff' is in the output alone: output['diff'] is the gradient with respect to output['data']")
        raise
    finally:
        timer.cancel()
    for argument, before, after in zip(names, arguments, given):
        if part := changed(argument, before, after):
            fail(f'{name} changed {part}, which belongs to its caller; work on a copy')
    return result


def describe(argument):
    """An argument in a few words: numbers as they are, the shape of arrays."""
    if isinstance(argument, dict):
        return '{' + ', '.join(f'{key!r}: {describe(value)}' for key, value in argument.items()) + '}'
    return f'array of shape {argument.shape}' if isinstance(argument, np.ndarray) else repr(argument)


def changed(name, before, after):
    """The first part of an argument that is not as it was before the call, such as input['data']; or None."""
    if isinstance(before, dict) and isinstance(after, dict):
        parts = (changed(f'{name}[{key!r}]', value, after.get(key)) for key, value in before.items())
        return next(filter(None, parts), None)
    return None if np.array_equal(before, after) else name


def on(input, layer):
    """The sizes that a function was called with."""
    sizes = [f'{key} {structure[key]}' for structure, keys in ((input, SIZES), (layer, ('k', 'stride', 'num')))
             for key in keys if key in structure]
    return f"({', '.join(sizes)})"


def fail(message):
    """Fail with a sentence; when it comes again, with other sizes perhaps, with `as above`."""
    about = re.sub(r' \(height .*?\)', '', message)
    repeated = about in SAID
    SAID.add(about)
    pytest.fail('as above' if repeated else message, pytrace=False)


def kind(value):
    if isinstance(value, np.ndarray):
        return f'an array of shape {value.shape}' if type(value) is np.ndarray else f'a np.{type(value).__name__}'
    if isinstance(value, dict):
        return f'a dict with the keys {list(value)}'
    return 'None' if value is None else f'a {type(value).__name__}'


def numbers(array):
    """A few numbers on one line; a single column as a row."""
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    text = np.array2string(array, precision=4, separator=', ', threshold=16, edgeitems=2)
    return ' '.join(text.split()).replace('[ ', '[').replace(' ]', ']').replace(' ,', ',')


def axis_mistakes(maxima, over, right, *given):
    """What a pooling function returns where axes are mixed up: pairs of a sentence and `data`.

    over   function of the maxima over more axes than those of a window, which gives the maps that come of them
    right  function of maps (h, w, c, n), which gives the right ones; `given` are pairs of a structure and the key of
           its maps. Some of them are read, or the result is put back, in another order of axes
    """
    n = maxima.shape[3]
    for axes, name in (((2,), 'channels'), ((3,), 'images'), ((2, 3), 'channels and images')):
        yield f'the maximum was taken over all {name}', over(maxima.max(axis=axes, keepdims=True)).reshape(-1, n)
    for order in list(itertools.permutations(SIZES))[1:]:
        place = next(place for place in range(4) if order[place] != SIZES[place])
        layout = f"({order[place].removesuffix('_size')} {('first', 'second', 'third')[place]})"
        for orders in itertools.product((order, SIZES), repeat=len(given)):
            values = 'values of' if order in orders else 'right values in'
            maps = right(*(feature_maps(*pair, read) for pair, read in zip(given, orders)))
            for written in (order, SIZES):
                yield (f"these are the {values} another layout {layout}, reshape({', '.join(order)})",
                       maps.transpose([SIZES.index(size) for size in written]).reshape(-1, n))


def check_array(name, found, expected, why, mistakes=()):
    """Fail unless an array holds the expected numbers; why(*place) says how the number at a place comes about.

    `mistakes` are pairs of a sentence and what that mistake returns: the first that matches is named.
    """
    if type(found) is not np.ndarray:
        fail(f'{name} is {kind(found)}; expected a plain array of shape {expected.shape}')
    if found.shape != expected.shape:
        fail(f'{name} has shape {found.shape}; expected {expected.shape}')
    if not np.issubdtype(found.dtype, np.number):
        fail(f'{name} is an array of type {found.dtype}; expected one of floats')
    with np.errstate(invalid='ignore'):
        wrong = ~(abs(found - expected) <= 1e-6 + 1e-5 * abs(expected))
    about, _, part = name.rpartition(': ')
    if wrong.any() and not found.any():
        fail(f'{name} is all zeros: put the result into ' + ("output['data']" if part == 'data' else part))
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        hint = next((f'{sentence}: ' for sentence, array in mistakes if np.allclose(found, array)), '')
        name = f'{about}: {hint}{part}'
        whole = f' (the array is of type {found.dtype})' if np.issubdtype(found.dtype, np.integer) else ''
        more = f'; {wrong.sum()} of {wrong.size} numbers differ' if wrong.size > 1 else ''
        fail(f'{name}{list(place)} is {found[place]:.6g}{whole}; expected {expected[place]:.6g}{why(*place)}{more}')


def check_keys(what, found, keys):
    if not isinstance(found, dict) or not set(keys) <= found.keys():
        fail(f'{what} {kind(found)}; expected a dict with the keys {list(keys)}')


def check_structure(name, found, expected, why, mistakes=()):
    """Fail unless a structure has the expected sizes and data."""
    check_keys(f'{name} returned', found, (*SIZES, 'data'))
    column = expected['height'] == expected['width'] == 1     # may count as num x 1 x 1 as well: the original's did
    for key in SIZES:
        allowed = (1, expected['channel']) if column and key != 'batch_size' else (expected[key],)
        if not isinstance(found[key], (int, np.integer)) or found[key] not in allowed:
            fail(f'{name} returned {key} = {found[key]!r}; expected {expected[key]}')
    check_array(f'{name}: data', found['data'], expected['data'], why, mistakes)


def check_pair(name, found, parts):
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        fail(f'{name} returned {kind(found)}; expected a pair: {parts}')
    if isinstance(found[0], np.ndarray) and isinstance(found[1], dict):
        fail(f'{name}: the two results are swapped: return {parts}')
    return found


def position(input, row, image):
    """A place in `data`, in the terms of feature maps."""
    i, j, channel = np.unravel_index(row, [input[key] for key in SIZES[:3]])
    return f'(row {i}, column {j}, channel {channel} of image {image})'


def products(*factors):
    """The sum of products as one would write it: 2 * 3 + (-1) * 0.5; with one factor, the sum of numbers."""
    return ' + '.join(' * '.join(map(factor, numbers)) for numbers in zip(*factors))


def factor(number):
    return f'({number:.4g})' if number < 0 else f'{number:.4g}'


# What both the forward and the backward functions are tried on

POOLINGS = {
    'side by side': ((6, 4, 2, 3), pooling(k=2, stride=2)),
    'overlapping': ((5, 7, 2, 2), pooling(k=3, stride=2)),
    'overlapping more': ((5, 4, 2, 3), pooling(k=3, stride=1)),
    'with gaps': ((5, 8, 2, 2), pooling(k=2, stride=3)),
}
each_pooling = pytest.mark.parametrize('shape, layer', POOLINGS.values(), ids=POOLINGS)

# What the convolution of section 3 gives to the pooling: the maps of filter 1 and filter 2.
TOY_MAPS = [[[0, 8, 14], [2, 7, 7], [0, 1, 5]],
            [[4, 14, 8], [2, 11, 10], [0, 5, 2]]]

# The inner product of section 3. There the input is taken channel by channel; here the channel is the last of
# (h, w, c), so the rows of w come in another order.
TOY_INPUT = one_image([[8, 14], [7, 7]], [[14, 14], [11, 11]])
TOY_PARAM = {'b': np.zeros(3), 'w': np.array([[1, 0.5, 1, 2, -1, 1, 1, -1],
                                              [0.5, 1, 2, 1, -0.5, 0.5, -1, 1],
                                              [0.25, -1, 1, 1, 0.5, -1, -1, -1]]).T[[0, 4, 1, 5, 2, 6, 3, 7]]}


# Feed forward (section 5.2)

class TestQ1_pooling_layer_forward:
    def check(self, input, layer, expected):
        def why(row, image):
            place = np.unravel_index(row, [expected[key] for key in SIZES[:3]])
            return (f', the largest number of the window {numbers(window(feature_maps(input), layer, *place, image))} '
                    f'{position(expected, row, image)}')

        maxima = feature_maps(expected)
        mistakes = axis_mistakes(maxima, lambda largest: np.broadcast_to(largest, maxima.shape),
                                 lambda x: feature_maps(pooling_by_definition(structure(x), layer)), (input, 'data'))
        found = call('pooling_layer_forward', input, layer)
        check_structure(f'pooling_layer_forward {on(input, layer)}', found, expected, why, mistakes)

    def test_toy_network(self):
        self.check(one_image(*TOY_MAPS), pooling(k=2, stride=1), one_image([[8, 14], [7, 7]], [[14, 14], [11, 11]]))

    @each_pooling
    def test_negative_numbers(self, shape, layer):
        input = structure(distinct(*shape) - 12)
        self.check(input, layer, pooling_by_definition(input, layer))


class TestQ2_relu_forward:
    def check(self, input, expected):
        found = call('relu_forward', input, RELU)
        check_structure(f'relu_forward {on(input, RELU)}', found, expected,
                        lambda *place: f", max(0, x) for x = input['data']{list(place)} = {input['data'][place]:.6g}")

    def test_toy_network(self):
        self.check(one_image([[36]], [[39]], [[-27]]), one_image([[36]], [[39]], [[0]]))

    def test_definition(self):
        input = structure(distinct(3, 2, 4, 5))
        self.check(input, relu_by_definition(input))


class TestQ3_inner_product_forward:
    def check(self, input, param, expected):
        def why(o, image):
            x, w, b = input['data'][:, image], param['w'][:, o], param['b'][o]
            return (f' = {factor(np.dot(w, x))} + {factor(b)}: the products of column {image} of data {numbers(x)} '
                    f'and column {o} of w {numbers(w)}, added up, plus b[{o}]')

        layer = {'type': 'IP', 'num': len(param['b']), 'init_type': 'uniform'}
        found = call('inner_product_forward', input, layer, param)
        check_structure(f'inner_product_forward {on(input, layer)}', found, expected, why)

    def test_toy_network(self):
        self.check(TOY_INPUT, TOY_PARAM, one_image([[36]], [[39]], [[-27]]))

    @pytest.mark.parametrize('shape, num', [((3, 2, 2, 4), 3), ((1, 1, 5, 3), 6)], ids=['maps', 'columns'])
    def test_definition(self, shape, num):
        input, param = structure(distinct(*shape)), random_params(int(np.prod(shape[:3])), num)
        self.check(input, param, inner_product_by_definition(input, param))


# Backward propagation (section 5.3)

class TestQ4_pooling_layer_backward:
    def check(self, output, input, layer, expected):
        diff = feature_maps(output, 'diff')

        def why(row, image):
            """Which windows the number lies in, of which it is the largest, and the gradients of those."""
            i, j, channel = np.unravel_index(row, [input[key] for key in SIZES[:3]])
            number = input['data'][row, image]
            places = [(*place, channel, image) for place in np.ndindex(diff.shape[:2])
                      if all(0 <= at - first * layer['stride'] < layer['k'] for at, first in zip((i, j), place))]
            windows = {place: window(feature_maps(input), layer, *place) for place in places}
            largest = [place for place, values in windows.items() if values.max() == number]
            this = f": input['data'][{row}, {image}] = {number:.6g} {position(input, row, image)} is"
            if not places:
                return f'{this} in no window'
            if not largest:
                return f'{this} not the largest number of the window ' + ' or '.join(map(numbers, windows.values()))
            total = f' = {products([diff[place] for place in largest])}' if len(largest) > 1 else ''
            return f'{total}{this} the largest number of the window ' + ', and of '.join(
                f'{numbers(windows[place])} (diff {diff[place]:.4g})' for place in largest)

        maxima = feature_maps(pooling_by_definition(input, layer))
        mistakes = axis_mistakes(
            maxima, lambda largest: pooling_gradient(feature_maps(input), diff * (maxima == largest), layer),
            lambda x, diff: pooling_gradient(x, diff, layer), (input, 'data'), (output, 'diff'))
        found = call('pooling_layer_backward', output, input, layer)
        check_array(f'pooling_layer_backward {on(input, layer)}: input_od', found, expected, why, mistakes)

    def test_by_hand(self):
        """The map of filter 2 again. 14 and 11 are each the largest of two windows, and get the gradient of both."""
        input, layer = one_image(TOY_MAPS[1]), pooling(k=2, stride=1)
        output = {**one_image([[14, 14], [11, 11]]), 'diff': np.array([[1.], [2], [3], [4]])}
        self.check(output, input, layer, one_image([[0, 1 + 2, 0], [0, 3 + 4, 0], [0, 0, 0]])['data'])

    @each_pooling
    def test_finite_difference(self, shape, layer):
        input = structure(distinct(*shape))
        output = with_diff(pooling_by_definition(input, layer))
        expected = pooling_gradient(feature_maps(input), feature_maps(output, 'diff'), layer)
        self.check(output, input, layer, expected.reshape(input['data'].shape))


class TestQ5_relu_backward:
    def check(self, output, input, expected):
        def why(*place):
            x, diff = input['data'][place], output['diff'][place]
            return (f" = diff{list(place)}: input['data']{list(place)} = {x:.6g} is positive" if x > 0 else
                    f": input['data']{list(place)} = {x:.6g} is not positive, and stops diff{list(place)} = {diff:.6g}")

        found = call('relu_backward', output, input, RELU)
        check_array(f'relu_backward {on(input, RELU)}: input_od', found, expected, why)

    def test_by_hand(self):
        """The three numbers of the toy network: the gradient of the third is stopped."""
        input = one_image([[36]], [[39]], [[-27]])
        output = {**one_image([[36]], [[39]], [[0]]), 'diff': np.array([[2.], [-3], [4]])}
        self.check(output, input, np.array([[2.], [-3], [0]]))

    def test_finite_difference(self):
        input = structure(distinct(3, 2, 4, 5))
        output = with_diff(relu_by_definition(input))
        self.check(output, input, cnn_lenet.finite_difference(output, input, 1e-3, relu_by_definition))


class TestQ6_inner_product_backward:
    input = structure(distinct(2, 3, 2, 5))
    param = random_params(12, 4)
    output = with_diff(inner_product_by_definition(input, param))

    def check(self, output, input, param, **expected):
        """expected: what is compared of w, b and input_od."""
        data, diff = input['data'], output['diff']
        why = {
            'w': lambda row, o: f', the sum over all images of data[{row}, image] * diff[{o}, image]: '
                                f'{products(data[row], diff[o])}',
            'b': lambda o: f', the sum over all images of diff[{o}, image]: {products(diff[o])}',
            'input_od': lambda row, image: f', the sum over all outputs of w[{row}, o] * diff[o, {image}]: '
                                           f"{products(param['w'][row], diff[:, image])}"}
        layer = {'type': 'IP', 'num': len(param['b']), 'init_type': 'uniform'}
        name = f'inner_product_backward {on(input, layer)}'
        found = call('inner_product_backward', output, input, layer, param)
        param_grad, input_od = check_pair(name, found, 'param_grad, input_od')
        check_keys(f'{name}: param_grad is', param_grad, ('w', 'b'))
        for key, numbers in expected.items():
            part, array = ('input_od', input_od) if key == 'input_od' else (f'param_grad[{key!r}]', param_grad[key])
            check_array(f'{name}: {part}', array, numbers, why[key])

    def test_toy_network(self):
        """dJ/dW1 is the gradient of the output times the input; a is the handout's dJ/ds1."""
        a = 0.0474258732
        output = {**one_image([[36]], [[39]], [[-27]]), 'diff': np.array([[a], [-a], [0]])}
        self.check(output, TOY_INPUT, TOY_PARAM, w=np.outer([8, 14, 14, 14, 7, 11, 7, 11], [a, -a, 0]),
                   b=np.array([a, -a, 0]))

    @pytest.mark.parametrize('key', ['w', 'b'])
    def test_param_grad(self, key):
        """By finite differences, where w and b take the place of the input."""
        expected = cnn_lenet.finite_difference(
            self.output, {'data': self.param[key]}, 1e-3,
            lambda x: inner_product_by_definition(self.input, {**self.param, key: x['data']}))
        self.check(self.output, self.input, self.param, **{key: expected})

    def test_input_od(self):
        expected = cnn_lenet.finite_difference(
            self.output, self.input, 1e-3, lambda x: inner_product_by_definition(x, self.param))
        self.check(self.output, self.input, self.param, input_od=expected)


# SGD with momentum (section 5.5)

class TestQ7_sgd_momentum:
    w_rate, b_rate, mu, decay = 0.1, 0.2, 0.9, 0.5

    def check(self, params, param_winc, param_grad, expected):
        found = call('sgd_momentum', self.w_rate, self.b_rate, self.mu, self.decay, params, param_winc, param_grad)
        params_, param_winc_ = check_pair('sgd_momentum', found, 'params_, param_winc_')

        def new_theta(i, key, *place):
            value, theta, grad = (mapping[i][key][place] for mapping in (params, param_winc, param_grad))
            if key == 'w':
                return (f', the new theta = {self.mu} * {factor(theta)} + {self.w_rate} * '
                        f'({grad:.4g} + {self.decay} * {factor(value)}) = '
                        'mu * theta + w_rate * (gradient + decay * w), equations (13) and (9)')
            return (f', the new theta = {self.mu} * {factor(theta)} + {self.b_rate} * {factor(grad)} = '
                    'mu * theta + b_rate * gradient, equation (9); b has no decay')

        def new_value(i, key, *place):
            return (f' = {params[i][key][place]:.4g} - {factor(expected[1][i][key][place])} = {key} - theta, '
                    'equation (10), where theta is the new one, as in param_winc_')

        # theta first: if it is wrong, so are the parameters.
        for name, part, right, why in (('param_winc_', param_winc_, expected[1], new_theta),
                                       ('params_', params_, expected[0], new_value)):
            check_keys(f'sgd_momentum: {name} is', part, right)
            for i in right:
                check_keys(f'sgd_momentum: {name}[{i}] is', part[i], ('w', 'b'))
                for key in right[i]:
                    check_array(f'sgd_momentum: {name}[{i}][{key!r}]', part[i][key], right[i][key],
                                functools.partial(why, i, key))

    def test_by_hand(self):
        """w: 0.9 * 0.5 + 0.1 * (-3 + 0.5 * 2) = 0.25, and 2 - 0.25. b: 0.9 * (-0.4) + 0.2 * 4 = 0.44, and 1 - 0.44."""
        one_number = [{1: {'w': np.array([[w]]), 'b': np.array([b])}} for w, b in ((2., 1.), (0.5, -0.4), (-3., 4.))]
        self.check(*one_number, [{1: {'w': np.array([[1.75]]), 'b': np.array([0.56])}},
                                 {1: {'w': np.array([[0.25]]), 'b': np.array([0.44])}}])

    def test_all_layers(self):
        """LeNet has layers without parameters too: their w and b are empty arrays, and stay so."""
        shapes = {1: (4, 3), 2: (0,), 3: (5, 2), 4: (0,), 5: (2, 4)}
        rng = np.random.RandomState(3)
        params, param_winc, param_grad = (
            {i: {'w': rng.randn(*shape), 'b': rng.randn(shape[-1])} for i, shape in shapes.items()} for _ in range(3))
        params_, param_winc_ = copy.deepcopy((params, param_winc))
        for i in params:
            for key, rate, decay in (('w', self.w_rate, self.decay), ('b', self.b_rate, 0)):
                for place in np.ndindex(params[i][key].shape):
                    gradient = param_grad[i][key][place] + decay * params[i][key][place]                        # (13)
                    theta = self.mu * param_winc[i][key][place] + rate * gradient                                # (9)
                    param_winc_[i][key][place], params_[i][key][place] = theta, params[i][key][place] - theta   # (10)
        self.check(params, param_winc, param_grad, (params_, param_winc_))
