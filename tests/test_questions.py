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


def pooling(k, stride):
    return {'type': 'POOLING', 'k': k, 'stride': stride, 'pad': 0}


def inner_product(num):
    return {'type': 'IP', 'num': num, 'init_type': 'uniform'}


# ---------------------------------------------------------------------------------------------------------------
# Inputs
# ---------------------------------------------------------------------------------------------------------------


def structure(x):
    """The structure that holds the feature maps x, (h, w, c, n)."""
    return {**dict(zip(SIZES, x.shape)), 'data': np.array(x, np.float64).reshape(-1, x.shape[3])}


def feature_maps(structure):
    """The reverse: (h, w, c, n)."""
    return structure['data'].reshape([structure[key] for key in SIZES])


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


# ---------------------------------------------------------------------------------------------------------------
# Definitions
# ---------------------------------------------------------------------------------------------------------------


def relu_by_definition(input):
    """relu(x) = max(0, x) (section 2.2)."""
    return {**input, 'data': np.array([[max(0., x) for x in row] for row in input['data']])}


def window(input, layer, i, j, channel, image):
    """The k x k numbers that entry (i, j, channel, image) of the output is the largest of (section 2.4)."""
    top, left = i * layer['stride'], j * layer['stride']
    return feature_maps(input)[top:top + layer['k'], left:left + layer['k'], channel, image]


def pooling_by_definition(input, layer):
    """(size - k) / stride + 1 windows each way, and the largest number of each (section 2.4)."""
    h_out, w_out = ((input[key] - layer['k']) // layer['stride'] + 1 for key in ('height', 'width'))
    shape = h_out, w_out, input['channel'], input['batch_size']
    return structure(np.reshape([window(input, layer, *place).max() for place in np.ndindex(shape)], shape))


def inner_product_by_definition(input, param):
    """f(x) = W x + b for every column x, where W is our w transposed (eq. 3)."""
    x, w, b = input['data'], param['w'], param['b']
    columns = range(x.shape[1])
    data = np.array([[sum(w[:, o] * x[:, image]) + b[o] for image in columns] for o in range(len(b))])
    return structure(data.reshape(1, 1, *data.shape))


def gradient(f, array, h=1e-3):
    """The gradient of the number f(array), by central differences."""
    result = np.zeros(array.shape)
    for place in np.ndindex(array.shape):
        step = np.zeros(array.shape)
        step[place] = h
        result[place] = (f(array + step) - f(array - step)) / (2 * h)
    return result


# ---------------------------------------------------------------------------------------------------------------
# Calling and comparing
# ---------------------------------------------------------------------------------------------------------------


def call(name, *arguments):
    """What the function returns. Its own errors keep their traceback, with the line where they were raised."""
    __tracebackhide__ = True
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
    __tracebackhide__ = True
    about = re.sub(r' \(height .*?\)', '', message)
    repeated = about in SAID
    SAID.add(about)
    pytest.fail('as above' if repeated else message, pytrace=False)


def kind(value):
    if isinstance(value, np.ndarray):
        return f'an array of shape {value.shape}' if type(value) is np.ndarray else f'a np.{type(value).__name__}'
    return 'None' if value is None else f'a {type(value).__name__}'


def numbers(array):
    """A few numbers on one line; a single column as a row."""
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    text = np.array2string(array, precision=4, separator=', ', threshold=16, edgeitems=2)
    return ' '.join(text.split()).replace('[ ', '[').replace(' ]', ']').replace(' ,', ',')


def pooling_mistakes(input, layer, expected):
    """What known mistakes return: pairs of a sentence and `data`."""
    shape = [expected[key] for key in SIZES]
    x = feature_maps(input)
    for axes, over in (((2,), 'channels'), ((3,), 'images'), ((2, 3), 'channels and images')):
        largest = np.broadcast_to(x.max(axis=axes, keepdims=True), x.shape)
        data = pooling_by_definition(structure(largest), layer)['data']
        yield f'the maximum was taken over all {over}', data
    for order in itertools.permutations(range(4)):
        maps = np.reshape(input['data'], [x.shape[axis] for axis in order]).transpose(np.argsort(order))
        data = feature_maps(pooling_by_definition(structure(maps), layer)).transpose(order).reshape(-1, shape[3])
        first = 'batch' if order[0] == 3 else ('height', 'width', 'channel')[order[0]]
        yield f'these are the values of another layout ({first} first)', data


def check_array(name, found, expected, why, mistakes=()):
    """Fail unless an array holds the expected numbers; why(*place) says how the number at a place comes about.

    `mistakes` are pairs of a sentence and what that mistake returns: the first that matches is named.
    """
    __tracebackhide__ = True
    if type(found) is not np.ndarray:
        plain = 'a plain' if isinstance(found, np.ndarray) else 'an'
        fail(f'{name} is {kind(found)}; expected {plain} array of shape {expected.shape}')
    if found.shape != expected.shape:
        fail(f'{name} has shape {found.shape}; expected {expected.shape}')
    if not np.issubdtype(found.dtype, np.number):
        fail(f'{name} is an array of type {found.dtype}; expected one of floats')
    with np.errstate(invalid='ignore'):
        wrong = ~(abs(found - expected) <= 1e-6 + 1e-5 * abs(expected))
    if wrong.any() and not found.any():
        part = name.rpartition(': ')[2]
        fail(f'{name} is all zeros: put the result into ' + ("output['data']" if part == 'data' else part))
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        hint = next((f'{sentence}: ' for sentence, array in mistakes if np.allclose(found, array)), '')
        name = f'{name.removesuffix("data")}{hint}data' if hint else name
        whole = f' (the array is of type {found.dtype})' if np.issubdtype(found.dtype, np.integer) else ''
        more = f'; {wrong.sum()} of {wrong.size} numbers differ' if wrong.size > 1 else ''
        fail(f'{name}{list(place)} is {found[place]:.6g}{whole}; expected {expected[place]:.6g}{why(*place)}{more}')


def check_structure(name, found, expected, why, mistakes=()):
    """Fail unless a structure has the expected sizes and data."""
    __tracebackhide__ = True
    if not isinstance(found, dict):
        fail(f'{name} returned {kind(found)}; expected a dict with {", ".join(SIZES)}, data')
    for key in (*SIZES, 'data'):
        if key not in found:
            fail(f"{name} returned a dict without {key!r}; expected {', '.join(SIZES)}, data")
    column = expected['height'] == expected['width'] == 1     # may count as num x 1 x 1 as well: the original's did
    for key in SIZES:
        allowed = (1, expected['channel']) if column and key != 'batch_size' else (expected[key],)
        if not isinstance(found[key], (int, np.integer)) or found[key] not in allowed:
            fail(f'{name} returned {key} = {found[key]!r}; expected {expected[key]}')
    check_array(f'{name}: data', found['data'], expected['data'], why, mistakes)


def check_pair(name, found, parts):
    __tracebackhide__ = True
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        fail(f'{name} returned {kind(found)}; expected a pair: {parts}')
    if isinstance(found[0], np.ndarray) and isinstance(found[1], dict):
        fail(f'{name}: the two results are swapped: return {parts}')
    return found


def check_params(name, found, expected, why):
    """Fail unless a dict has a w and a b with the expected numbers."""
    __tracebackhide__ = True
    if not isinstance(found, dict):
        fail(f'{name} is {kind(found)}; expected a dict with w and b')
    for key in expected:
        if key not in found:
            fail(f'{name} has no {key!r}; expected w and b')
        check_array(f'{name}[{key!r}]', found[key], expected[key], lambda *place, key=key: why(key, *place))


def position(input, row, image):
    """A place in `data`, in the terms of feature maps."""
    i, j, channel = np.unravel_index(row, [input[key] for key in SIZES[:3]])
    return f'(row {i}, column {j}, channel {channel} of image {image})'


def products(*factors):
    """The sum of products as one would write it: 2 * 3 + (-1) * 0.5; with one factor, the sum of numbers."""
    return ' + '.join(' * '.join(map(factor, numbers)) for numbers in zip(*factors))


def factor(number):
    return f'({number:.4g})' if number < 0 else f'{number:.4g}'


# ---------------------------------------------------------------------------------------------------------------
# What both the forward and the backward functions are tried on
# ---------------------------------------------------------------------------------------------------------------

POOLINGS = {
    'side by side': ((6, 4, 2, 3), pooling(k=2, stride=2)),
    'overlapping': ((5, 7, 3, 2), pooling(k=3, stride=2)),
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
TOY_W = np.array([[1, 0.5, 1, 2, -1, 1, 1, -1],
                  [0.5, 1, 2, 1, -0.5, 0.5, -1, 1],
                  [0.25, -1, 1, 1, 0.5, -1, -1, -1]]).T[[0, 4, 1, 5, 2, 6, 3, 7]]
TOY_PARAM = {'w': TOY_W, 'b': np.zeros(3)}


# ---------------------------------------------------------------------------------------------------------------
# Feed forward (section 5.2)
# ---------------------------------------------------------------------------------------------------------------


class TestQ1_pooling_layer_forward:
    def check(self, input, layer, expected):
        __tracebackhide__ = True

        def why(row, image):
            place = np.unravel_index(row, [expected[key] for key in SIZES[:3]])
            return (f', the largest number of the window {numbers(window(input, layer, *place, image))} '
                    f'{position(expected, row, image)}')

        found = call('pooling_layer_forward', input, layer)
        check_structure(f'pooling_layer_forward {on(input, layer)}', found, expected, why,
                        pooling_mistakes(input, layer, expected))

    def test_toy_network(self):
        self.check(one_image(*TOY_MAPS), pooling(k=2, stride=1), one_image([[8, 14], [7, 7]], [[14, 14], [11, 11]]))

    @each_pooling
    def test_windows(self, shape, layer):
        input = structure(distinct(*shape))
        self.check(input, layer, pooling_by_definition(input, layer))

    def test_negative_numbers(self):
        input, layer = structure(distinct(4, 6, 2, 3) - 100), pooling(k=2, stride=2)
        self.check(input, layer, pooling_by_definition(input, layer))


class TestQ2_relu_forward:
    def check(self, input, expected):
        __tracebackhide__ = True
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
        __tracebackhide__ = True

        def why(o, image):
            x, w, b = input['data'][:, image], param['w'][:, o], param['b'][o]
            return (f' = {factor(np.dot(w, x))} + {factor(b)}: the products of column {image} of data {numbers(x)} '
                    f'and column {o} of w {numbers(w)}, added up, plus b[{o}]')

        layer = inner_product(len(param['b']))
        found = call('inner_product_forward', input, layer, param)
        check_structure(f'inner_product_forward {on(input, layer)}', found, expected, why)

    def test_toy_network(self):
        self.check(TOY_INPUT, TOY_PARAM, one_image([[36]], [[39]], [[-27]]))

    @pytest.mark.parametrize('shape, num', [((3, 2, 2, 4), 3), ((1, 1, 5, 3), 6)], ids=['maps', 'columns'])
    def test_definition(self, shape, num):
        input, param = structure(distinct(*shape)), random_params(int(np.prod(shape[:3])), num)
        self.check(input, param, inner_product_by_definition(input, param))


# ---------------------------------------------------------------------------------------------------------------
# Backward propagation (section 5.3)
# ---------------------------------------------------------------------------------------------------------------


class TestQ4_pooling_layer_backward:
    def check(self, output, input, layer, expected):
        __tracebackhide__ = True
        diff = feature_maps({**output, 'data': output['diff']})

        def why(row, image):
            """Which windows the number lies in, of which it is the largest, and the gradients of those."""
            i, j, channel = np.unravel_index(row, [input[key] for key in SIZES[:3]])
            number = input['data'][row, image]
            places = [(*place, channel, image) for place in np.ndindex(diff.shape[:2])
                      if all(0 <= at - first * layer['stride'] < layer['k'] for at, first in zip((i, j), place))]
            windows = {place: window(input, layer, *place) for place in places}
            largest = [place for place, values in windows.items() if values.max() == number]
            this = f": input['data'][{row}, {image}] = {number:.6g} {position(input, row, image)} is"
            if not places:
                return f'{this} in no window'
            if not largest:
                return f'{this} not the largest number of the window ' + ' or '.join(map(numbers, windows.values()))
            total = f' = {products([diff[place] for place in largest])}' if len(largest) > 1 else ''
            return f'{total}{this} the largest number of the window ' + ', and of '.join(
                f'{numbers(windows[place])} (diff {diff[place]:.4g})' for place in largest)

        found = call('pooling_layer_backward', output, input, layer)
        check_array(f'pooling_layer_backward {on(input, layer)}: input_od', found, expected, why)

    def test_by_hand(self):
        """The map of filter 2 again. 14 and 11 are each the largest of two windows, and get the gradient of both."""
        input, layer = one_image(TOY_MAPS[1]), pooling(k=2, stride=1)
        output = {**one_image([[14, 14], [11, 11]]), 'diff': np.array([[1.], [2], [3], [4]])}
        self.check(output, input, layer, one_image([[0, 1 + 2, 0], [0, 3 + 4, 0], [0, 0, 0]])['data'])

    @each_pooling
    def test_finite_difference(self, shape, layer):
        input = structure(distinct(*shape))
        output = with_diff(pooling_by_definition(input, layer))
        expected = cnn_lenet.finite_difference(output, input, 1e-3, lambda x: pooling_by_definition(x, layer))
        self.check(output, input, layer, expected)


class TestQ5_relu_backward:
    def check(self, output, input, expected):
        __tracebackhide__ = True

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

    def call(self, output, input, param):
        """What was called, and the param_grad and input_od that came back."""
        __tracebackhide__ = True
        layer = inner_product(len(param['b']))
        name = f'inner_product_backward {on(input, layer)}'
        found = call('inner_product_backward', output, input, layer, param)
        return name, *check_pair(name, found, 'param_grad, input_od')

    def check_param_grad(self, output, input, param, expected):
        __tracebackhide__ = True

        def why(key, *place):
            data, diff = input['data'][place[0]], output['diff'][place[-1]]
            if key == 'w':
                row, o = place
                return f", the sum over all images of data[{row}, image] * diff[{o}, image]: {products(data, diff)}"
            return f', the sum over all images of diff[{place[0]}, image]: {products(diff)}'

        name, param_grad, _ = self.call(output, input, param)
        check_params(f'{name}: param_grad', param_grad, expected, why)

    def test_toy_network(self):
        """dJ/dW1 is the gradient of the output times the input; a is the handout's dJ/ds1."""
        a = 0.0474258732
        output = {**one_image([[36]], [[39]], [[-27]]), 'diff': np.array([[a], [-a], [0]])}
        expected = {'w': np.outer([8, 14, 14, 14, 7, 11, 7, 11], [a, -a, 0]), 'b': np.array([a, -a, 0])}
        self.check_param_grad(output, TOY_INPUT, TOY_PARAM, expected)

    @pytest.mark.parametrize('key', ['w', 'b'])
    def test_param_grad(self, key):
        def weighted_sum(value):
            output = inner_product_by_definition(self.input, {**self.param, key: value})
            return (self.output['diff'] * output['data']).sum()

        self.check_param_grad(self.output, self.input, self.param, {key: gradient(weighted_sum, self.param[key])})

    def test_input_od(self):
        def why(row, image):
            w, diff = self.param['w'][row], self.output['diff'][:, image]
            return f', the sum over all outputs of w[{row}, o] * diff[o, {image}]: {products(w, diff)}'

        expected = cnn_lenet.finite_difference(
            self.output, self.input, 1e-3, lambda x: inner_product_by_definition(x, self.param))
        name, _, input_od = self.call(self.output, self.input, self.param)
        check_array(f'{name}: input_od', input_od, expected, why)


# ---------------------------------------------------------------------------------------------------------------
# SGD with momentum (section 5.5)
# ---------------------------------------------------------------------------------------------------------------


class TestQ7_sgd_momentum:
    w_rate, b_rate, mu, decay = 0.1, 0.2, 0.9, 0.5

    def step(self, params, param_winc, param_grad, expected):
        """Take a step and compare; returns what sgd_momentum returned."""
        __tracebackhide__ = True
        found = call('sgd_momentum', self.w_rate, self.b_rate, self.mu, self.decay, params, param_winc, param_grad)
        check_pair('sgd_momentum', found, 'params_, param_winc_')
        # theta first: if it is wrong, so are the parameters.
        for name, part, right in list(zip(('params_', 'param_winc_'), found, expected))[::-1]:
            if not isinstance(part, dict) or part.keys() != right.keys():
                fail(f'sgd_momentum: {name} is {kind(part)} with the keys {list(part)}; expected {list(right)}'
                     if isinstance(part, dict) else f'sgd_momentum: {name} is {kind(part)}; expected a dict')
            for i in right:
                def why(key, *place, i=i, name=name):
                    value, theta, grad = (mapping[i][key][place] for mapping in (params, param_winc, param_grad))
                    new = f'{self.mu} * {factor(theta)} + {getattr(self, key + "_rate")} * '
                    new += f'({grad:.4g} + {self.decay} * {factor(value)})' if key == 'w' else factor(grad)
                    rule = ('mu * theta + w_rate * (gradient + decay * w), equations (13) and (9)' if key == 'w' else
                            'mu * theta + b_rate * gradient, equation (9); b has no decay')
                    if name == 'param_winc_':
                        return f', the new theta = {new} = {rule}'
                    return (f' = {value:.4g} - {factor(expected[1][i][key][place])} = {key} - theta, equation (10), '
                            'where theta is the new one, as in param_winc_')

                check_params(f'sgd_momentum: {name}[{i}]', part[i], right[i], why)
        return found

    def by_equation(self, params, param_winc, param_grad):
        """Equations (13), (9) and (10) for every number on its own."""
        params_, param_winc_ = copy.deepcopy((params, param_winc))
        for i in params:
            for key, rate, decay in (('w', self.w_rate, self.decay), ('b', self.b_rate, 0)):
                for place in np.ndindex(params[i][key].shape):
                    gradient = param_grad[i][key][place] + decay * params[i][key][place]                        # (13)
                    theta = self.mu * param_winc[i][key][place] + rate * gradient                                # (9)
                    param_winc_[i][key][place], params_[i][key][place] = theta, params[i][key][place] - theta   # (10)
        return params_, param_winc_

    def test_by_hand(self):
        """w: 0.9 * 0.5 + 0.1 * (-3 + 0.5 * 2) = 0.25, and 2 - 0.25. b: 0.9 * (-0.4) + 0.2 * 4 = 0.44, and 1 - 0.44."""
        one_number = [{1: {'w': np.array([[w]]), 'b': np.array([b])}} for w, b in ((2., 1.), (0.5, -0.4), (-3., 4.))]
        self.step(*one_number, [{1: {'w': np.array([[1.75]]), 'b': np.array([0.56])}},
                                {1: {'w': np.array([[0.25]]), 'b': np.array([0.44])}}])

    def test_several_steps(self):
        params = {1: {'w': np.array([[2.]]), 'b': np.array([1.])}}
        param_winc = {1: {'w': np.zeros((1, 1)), 'b': np.zeros(1)}}
        for number in (3., -1., 2., 0.5):
            param_grad = {1: {'w': np.array([[number]]), 'b': np.array([-number])}}
            expected = self.by_equation(params, param_winc, param_grad)
            params, param_winc = self.step(params, param_winc, param_grad, expected)

    def test_all_layers(self):
        """LeNet has layers without parameters too: their w and b are empty arrays, and stay so."""
        shapes = {1: (4, 3), 2: (0,), 3: (5, 2), 4: (0,), 5: (2, 4)}
        rng = np.random.RandomState(3)
        params, param_winc, param_grad = (
            {i: {'w': rng.randn(*shape), 'b': rng.randn(shape[-1])} for i, shape in shapes.items()} for _ in range(3))
        self.step(params, param_winc, param_grad, self.by_equation(params, param_winc, param_grad))
