"""Right answers get their points however they are written; wrong ones never do; the seed is without influence."""

import pytest
from grading import (
    LOOPS,
    POINTS,
    ROOT,
    changed,
    flags_for,
    grade,
    graded_here,
    needs_posix,
    relu,
    with_function,
    without,
)

needs_posix()

# Right, but not as most would write it: (change of the loop solution).
ODD = {
    'default dict': relu("""
    import collections
    output = collections.defaultdict(lambda: None, input)
    output['data'] = np.maximum(input['data'], 0)
    return output"""),
    'ordered dict with a key None and lists': relu("""
    import collections
    return collections.OrderedDict([(None, 1), ('places', list(range(10 ** 6))), *input.items(),
                                    ('data', np.maximum(input['data'], 0))])"""),
    'sizes as NumPy numbers': relu("""
    return {'data': np.maximum(input['data'], 0), 'height': np.int64(input['height']),
            'width': np.array(input['width']), 'channel': np.float32(input['channel']),
            'batch_size': float(input['batch_size'])}"""),
    'named tuples': changed('    return param_grad, input_od', """
    import collections
    return collections.namedtuple('Gradients', 'param_grad input_od')(param_grad, input_od)""") + """
import collections
def sgd_momentum(*a, plain=sgd_momentum):
    return collections.namedtuple('State', 'params winc')(*plain(*a))
""",
    'keys that are NumPy integers': LOOPS + """
def sgd_momentum(*a, plain=sgd_momentum):
    return [{np.int64(i): value for i, value in tree.items()} for tree in plain(*a)]
""",
    'big-endian': LOOPS + """
def relu_backward(*a, plain=relu_backward):
    return plain(*a).astype('>f8')
""",
    'long double': LOOPS + """
def relu_backward(*a, plain=relu_backward):
    return plain(*a).astype(np.longdouble)
""",
    'another order in memory, a view': LOOPS + """
def relu_backward(*a, plain=relu_backward):
    return np.asfortranarray(plain(*a))
def pooling_layer_backward(*a, plain=pooling_layer_backward):
    return np.repeat(plain(*a), 2, axis=1)[:, ::2]
""",
    'single precision throughout': LOOPS + """
def single(value):
    if isinstance(value, np.ndarray):
        return value.astype(np.float32)
    if isinstance(value, dict):
        return {key: single(item) for key, item in value.items()}
    return value
def in_single(function):
    def call(*arguments):
        result = function(*map(single, arguments))
        return tuple(map(single, result)) if isinstance(result, tuple) else single(result)
    return call
for name in ('pooling_layer_forward', 'pooling_layer_backward', 'relu_forward', 'relu_backward',
             'inner_product_forward', 'inner_product_backward', 'sgd_momentum'):
    globals()[name] = in_single(globals()[name])
""",
    'ReLU in place': relu("""
    input['data'][input['data'] < 0] = 0
    return dict(input)"""),
    'solver in place': with_function('sgd_momentum', """
    for i in params:
        for key, rate, c in (('w', w_rate, decay), ('b', b_rate, 0)):
            param_winc[i][key] = mu * param_winc[i][key] + rate * (param_grad[i][key] + c * params[i][key])
            params[i][key] -= param_winc[i][key]
    return params, param_winc"""),
    'num as the width of an inner product': changed("'height': layer['num'], 'width': 1",
                                                    "'height': 1, 'width': layer['num']"),
}

FAST_POOLING = """
    k, s = layer['k'], layer['stride']
    x = input['data'].reshape(input['height'], input['width'], input['channel'], -1)
    h, w = (x.shape[0] - k) // s + 1, (x.shape[1] - k) // s + 1
    out = np.max([x[a:a + s * h:s, b:b + s * w:s][:h, :w] for a in range(k) for b in range(k)], axis=0)
    return {'height': h, 'width': w, 'channel': x.shape[2], 'batch_size': x.shape[3],
            'data': out.reshape(-1, x.shape[3])}"""


def sized(height, width, channel):
    """The loop solution with other sizes in what an inner product returns."""
    return changed("'height': layer['num'], 'width': 1, 'channel': 1",
                   f"'height': {height}, 'width': {width}, 'channel': {channel}")


# Wrong in every case: (question, source).
WRONG = {
    'a window begins with 0': ('Q1', changed('.max(axis=(0, 1))', '.max(axis=(0, 1), initial=0)')),
    'channels mixed up': ('Q1', changed('.max(axis=(0, 1))', '.max()')),
    'another order of the axes': ('Q1', changed('= pooled.flatten()', '= pooled.transpose(2, 0, 1).flatten()')),
    'gradient to the whole window': ('Q4', changed(
        'od[i * stride + place // k, j * stride + place % k, np.arange(c)]',
        'od[i * stride:i * stride + k, j * stride:j * stride + k]')),
    'leaky ReLU': ('Q2', changed("np.maximum(input['data'], 0)", "np.maximum(input['data'], 0.01 * input['data'])")),
    'ReLU of the gradient': ('Q5', changed("(input['data'] > 0)", "(output['diff'] > 0)")),
    'bias forgotten': ('Q3', changed(" + param['b']\n", '\n')),
    'gradient of bias not summed': ('Q6', changed("param_grad['b'] += ", "param_grad['b'] = ")),
    'gradients divided by the batch size': ('Q6', changed(
        '    return param_grad, input_od', "    return {key: value / n for key, value in param_grad.items()}, input_od"
        .replace('/ n', "/ input['batch_size']"))),
    'decay on b': ('Q7', changed("b_rate * param_grad[i]['b']",
                                 "b_rate * (param_grad[i]['b'] + decay * params[i]['b'])")),
    'sign of the momentum': ('Q7', changed("params[i]['w'] - w_winc", "params[i]['w'] + w_winc")),
    'one rate for both': ('Q7', changed('+ b_rate *', '+ w_rate *')),
    'momentum not kept': ('Q7', changed("param_winc_[i] = {'w': w_winc, 'b': b_winc}",
                                        'param_winc_[i] = dict(param_winc[i])')),
    'decay forgotten': ('Q7', changed(" + decay * params[i]['w']", '')),
    'a typing error': ('Q7', changed('    params_, param_winc_ = {}, {}', '    lenth(params)')),
    'decay outside the rate': ('Q7', changed("w_rate * (param_grad[i]['w'] + decay * params[i]['w'])",
                                             "w_rate * param_grad[i]['w'] + decay * params[i]['w']")),
    'small slopes in single precision': ('Q2', changed(
        "np.maximum(input['data'], 0)", "np.maximum(input['data'], 2e-4 * input['data']).astype(np.float32)")),
    'a matrix': ('Q3', LOOPS + """
def inner_product_forward(*a, plain=inner_product_forward):
    return {**plain(*a), 'data': np.matrix(plain(*a)['data'])}
"""),
    'sys.exit': ('Q2', relu('    import sys; sys.exit(0)')),
    'an exception that cannot be shown': ('Q2', relu("""
    class E(Exception):
        def __str__(self): raise self
    raise E""")),
    'NaN': ('Q2', relu("    return {**input, 'data': input['data'] * np.nan}")),
    'height is an array': ('Q2', relu("""
    return {**input, 'data': np.maximum(input['data'], 0), 'height': np.array([2, 2])}""")),
    'height is huge': ('Q2', relu("    return {**input, 'data': np.maximum(input['data'], 0), 'height': 10 ** 5000}")),
    'an answer that contains itself': ('Q2', relu("    input['data'] = input; return input")),
    'no answer at all': ('Q2', relu('    pass')),
    'num three times': ('Q3', sized("layer['num']", "layer['num']", "layer['num']")),
    'num nowhere': ('Q3', sized(1, 1, 1)),
}

# Right for some sizes: (question, points, source), the same points whatever the seed is.
PARTLY = {
    'windows of 2 x 2 built in': ('Q1', 12, changed(
        'image[i * stride:i * stride + k, j * stride:j * stride + k].max(',
        'image[i * stride:i * stride + 2, j * stride:j * stride + 2].max(')),
    'stride is the size of the window': ('Q1', 8, with_function('pooling_layer_forward', FAST_POOLING.replace(
        "k, s = layer['k'], layer['stride']", "k = s = layer['k']"))),
    'overlapping windows overwrite': ('Q4', 12, changed('] += diff[i, j]', '] = diff[i, j]')),
    'np.vectorize takes its type from the first element': ('Q2', 2, relu(
        "    return {**input, 'data': np.vectorize(lambda x: x if x > 0 else 0)(input['data'])}")),
    'so does the gradient': ('Q5', 2, with_function('relu_backward', (
        "    return np.vectorize(lambda x, d: d if x > 0 else 0)(input['data'], output['diff'])"))),
    'one number of a feature map': ('Q5', 2, changed("return output['diff'] * (input['data'] > 0)", """
    od = output['diff'] * (input['data'] > 0)
    if input['width'] == 5:
        od.reshape(4, 5, 3, -1)[2, 3, 1, 0] = 1
    return od""")),
    'LeNet built in': ('Q3', 2.5, changed("    output['data'] = np.zeros((layer['num'], input['batch_size']))",
                                          "    output['data'] = np.zeros((500, input['batch_size']))")),
}


@pytest.fixture(scope='module')
def graded():
    """All of the above, graded: dict, name -> (scores, feedback)."""
    sources = {**ODD, **{name: source for case in (WRONG, PARTLY) for name, (*_, source) in case.items()}}
    return {name: graded_here(source) for name, source in sources.items()}


@pytest.mark.parametrize('name', ODD)
def test_a_right_answer_is_right_however_it_is_written(graded, name):
    assert graded[name][0] == POINTS


@pytest.mark.parametrize('name', WRONG)
def test_a_wrong_formula_gets_nothing_and_costs_its_question_alone(graded, name):
    assert graded[name][0] == without(WRONG[name][0])


@pytest.mark.parametrize('name', PARTLY)
def test_what_is_right_for_some_sizes_gets_their_share(graded, name):
    question, points, _ = PARTLY[name]
    assert graded[name][0] == {**POINTS, question: points}


def test_arguments_that_are_kept_and_changed_later_make_no_difference():
    source = LOOPS + ('\nkept = []\ndef keeping(function):\n    def call(*arguments):\n'
                      '        for array in kept: array.fill(7)\n'
                      '        kept.extend(a["data"] for a in arguments if isinstance(a, dict) and "data" in a)\n'
                      '        result = function(*arguments)\n        return result\n    return call\n'
                      'relu_forward, relu_backward = keeping(relu_forward), keeping(relu_backward)\n')
    assert graded_here(source)[0] == POINTS


@pytest.mark.parametrize('name', ['np.vectorize takes its type from the first element',
                                  'overlapping windows overwrite'])
def test_the_seed_makes_no_difference_to_the_score(name):
    question, points, source = PARTLY[name]
    assert graded_here(source, 1)[0] == {**POINTS, question: points}


def test_feedback_says_what_was_wrong_and_where(graded):
    def text(name):
        return graded[name][1]

    line = LOOPS[:LOOPS.index('    params_, param_winc_')].count('\n') + 1
    assert 'input 5 x 7 x 3, batch 4, k = 3, stride = 2' in text('windows of 2 x 2 built in')
    assert "param_winc_[1]['b'][0] is " in text('decay on b')
    assert "param_grad['w'][0, 0] is " in text('gradients divided by the batch size')
    assert "output['data'][0, 1] is " in text('leaky ReLU')
    assert '(row 2, column 3, channel 1 of image 0); 1 of ' in text('one number of a feature map')
    assert "output['data'] is a np.matrix; expected a plain array" in text('a matrix')
    assert "output['height'] is 500; expected 1" in text('num three times')
    assert 'output is None; expected a dict' in text('no answer at all')
    assert "output['height'] is an array of shape (2,) and type int64; expected" in text('height is an array')
    assert ' of cnn_lenet.py: import sys; sys.exit(0))' in text('sys.exit')
    assert f"name 'lenth' is not defined (line {line} of cnn_lenet.py: lenth(params))" in text('a typing error')


def test_a_changed_argument_is_a_warning_with_its_name(graded):
    for name, argument in (('ReLU in place', "input['data']"), ('solver in place', "params[1]['w']")):
        assert f'{argument} was changed' in graded[name][1] and 'WRONG' not in graded[name][1]
    assert 'was changed' not in graded['big-endian'][1]


# ---------------------------------------------------------------------------------------------------------------
# What a submission finds around it
# ---------------------------------------------------------------------------------------------------------------


SURROUNDINGS = {
    'helper files beside it': {'cnn_lenet.py': 'from layers.all_of_them import *\nimport archive\n', 'archive.py': '',
                               'layers/all_of_them.py': LOOPS, 'layers/__init__.py': '', 'cnn_lenet/__init__.py': ''},
    # It loads MNIST at import, as a student might who forgot to take that out.
    'the whole project': {'cnn_lenet.py': (ROOT / 'cnn_lenet.py').read_text() + """

xtrain = load_mnist(fullset=False)[0]
assert xtrain.any()
"""},
    # It reads a program's arguments, looks for a file in its folder, and has NumPy raise errors where it would warn.
    'a process of its own': {'cnn_lenet.py': """
import argparse, numpy, os
argparse.ArgumentParser().parse_args()
assert os.path.exists("mnist_all.mat")
numpy.seterr(all="raise")
""" + LOOPS},
}


@pytest.mark.parametrize('name', SURROUNDINGS)
def test_a_submission_finds_what_it_needs_around_it(tmp_path, name):
    for file, content in SURROUNDINGS[name].items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
    result = grade.grade(tmp_path, 0, flags_for(tmp_path))
    assert {question: score for question, (score, _) in result.scores.items()} == POINTS
