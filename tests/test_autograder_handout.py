"""The students' starter package: derived from the solution, complete, and without any of what is graded."""

import ast
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from grading import graded_here

import cnn_lenet

ROOT = Path(cnn_lenet.__file__).resolve().parent
AUTOGRADER = ROOT / 'autograder'
SOLUTION = (ROOT / 'cnn_lenet.py').read_text()
NAMES = {'cnn_lenet.py', 'testLeNet.py', 'vis_data.py', 'read_digits.py', 'draw_digits.py', 'mnist_all.mat',
         'requirements.txt', 'README.md', 'LICENSE', 'pytest.ini', 'docs/lecture.md', 'docs/errata.md',
         'tests/test_questions.py', 'tests/conftest.py', *re.findall(r'docs/\w+\.md', SOLUTION)}
POINTS = {'pooling_layer_forward': ('Q1', 20), 'relu_forward': ('Q2', 3), 'inner_product_forward': ('Q3', 10),
          'pooling_layer_backward': ('Q4', 20), 'relu_backward': ('Q5', 3), 'inner_product_backward': ('Q6', 10),
          'sgd_momentum': ('Q7', 7)}
QUESTIONS = [question for question, _ in POINTS.values()]


def load(path, name):
    """A Python file as a module under another name."""
    namespace = {'__name__': name, '__file__': str(path)}
    exec(compile(Path(path).read_text(), str(path), 'exec'), namespace)
    return namespace


with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(AUTOGRADER)                  # where handout.py finds grade.py
    handout = load(AUTOGRADER / 'handout.py', 'handout')


def placeholder(name):
    return handout['placeholder'](POINTS[name][0], name, POINTS[name][1])


def run(*command, cwd, **options):
    return subprocess.run([sys.executable, '-B', *map(str, command)], cwd=cwd, capture_output=True, text=True,
                          timeout=300, **options)


def pytest_in(folder, *flags):
    """What `python -m pytest` says in a package: names of the tests -> PASSED or FAILED, and all of its output."""
    process = run('-m', 'pytest', '-v', '-p', 'no:cacheprovider', *flags, cwd=folder)
    return dict(re.findall(r'::(Test\S+::.+?) (PASSED|FAILED|ERROR)', process.stdout)), process.stdout


def source_with(package, **bodies):
    """The starter's cnn_lenet.py with some functions written: name -> code at the mark, or, if it does not begin with a
    line break, in place of everything below the docstring."""
    source = (package / 'cnn_lenet.py').read_text()
    for name, body in bodies.items():
        mark = next(line for line in placeholder(name).splitlines() if 'write your code here' in line)
        old, new = (mark, mark + body) if body.startswith('\n') else (placeholder(name).rstrip(), body)
        assert source.count(old) == 1
        source = source.replace(old, new)
    return source


def copy_of(package, folder, **bodies):
    """A copy of the starter, without the data, in which some functions are written."""
    shutil.copytree(package, folder, ignore=shutil.ignore_patterns('mnist_all.mat'))
    (folder / 'cnn_lenet.py').write_text(source_with(package, **bodies))
    return folder


# Runs pytest in a package several times, each time with another cnn_lenet.py and other flags.
RUNS = """
import json, sys
from pathlib import Path
import pytest
class Notes:
    def pytest_runtest_logreport(self, report):
        if report.when == 'call' or report.failed:
            results[report.nodeid.partition('::')[2]] = report.outcome, report.longreprtext
for source, flags in json.loads(sys.stdin.read()):
    Path('cnn_lenet.py').write_text(source)
    for module in ('cnn_lenet', 'testLeNet', 'test_questions'):
        sys.modules.pop(module, None)
    results = {}
    pytest.main(['-p', 'no:cacheprovider', *flags], plugins=[Notes()])
    print('RESULTS', json.dumps(results))
"""


def pytest_many(folder, runs):
    """What pytest says in a package for each of several (source of cnn_lenet.py, flags), in one process, since that is
    faster: names of the tests -> (outcome, what is printed)."""
    process = run('-c', RUNS, cwd=folder, input=json.dumps(runs))
    assert process.returncode == 0, process.stderr
    return [json.loads(line[8:]) for line in process.stdout.splitlines() if line.startswith('RESULTS ')]


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    """The folder that `python autograder/handout.py OUT` has written, run from somewhere else."""
    folder = tmp_path_factory.mktemp('out')
    process = run(AUTOGRADER / 'handout.py', folder / 'new', cwd=folder)
    assert (process.returncode, process.stderr) == (0, '')
    return folder / 'new'


@pytest.fixture(scope='module')
def package(out):
    return out / 'hw7-handout'


@pytest.fixture(scope='module')
def starter(package):
    return load(package / 'cnn_lenet.py', 'starter')


@pytest.fixture(scope='module')
def solved(package, tmp_path_factory):
    """The package of a student who has written all seven functions."""
    folder = tmp_path_factory.mktemp('solved') / 'package'
    shutil.copytree(package, folder)
    (folder / 'cnn_lenet.py').write_text(handout['starter'](SOLUTION, keep=POINTS))
    return folder


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


def test_everything_that_a_student_needs_is_there(out, package):
    assert set(os.listdir(out)) == {'hw7-handout', 'hw7-handout.tar'}
    assert files(package) == NAMES
    with tarfile.open(out / 'hw7-handout.tar') as tar:
        members = [member for member in tar if member.isfile()]
        assert {member.name for member in members} == {f'hw7-handout/{name}' for name in NAMES}
        for member in members:
            assert tar.extractfile(member).read() == (out / member.name).read_bytes()
    assert (package / 'LICENSE').read_bytes() == (ROOT / 'LICENSE').read_bytes()
    assert 'Yann LeCun, Corinna Cortes and Christopher J.C. Burges' in (package / 'README.md').read_text()


@pytest.mark.parametrize('name', ['hw7-handout', 'hw7-handout.tar'])
def test_a_package_that_is_there_stays(tmp_path, name):
    """Somebody may have worked on it."""
    (tmp_path / name).write_text('mine')
    with pytest.raises(SystemExit, match=f'^handout.py: error: .*{name}: it is there already; move it away'):
        handout['main']([str(tmp_path)])
    assert files(tmp_path) == {name} and (tmp_path / name).read_text() == 'mine'


def test_every_public_function_keeps_signature_and_docstring(starter):
    for name, value in vars(cnn_lenet).items():
        if inspect.isfunction(value) and value.__module__ == 'cnn_lenet' and not name.startswith('_'):
            assert re.sub(' at 0x[0-9a-f]+', '', str(inspect.signature(starter[name]))) == \
                re.sub(' at 0x[0-9a-f]+', '', str(inspect.signature(value)))
            assert starter[name].__doc__ == value.__doc__


def test_nothing_of_the_graded_bodies_is_left(package):
    """No statement of theirs stands in the starter, but for those that other functions of the solution have too."""
    functions = {node.name: node for node in ast.parse(SOLUTION).body if isinstance(node, ast.FunctionDef)}
    given = '\n'.join(ast.unparse(node) for name, node in functions.items() if name not in POINTS)
    text = ast.unparse(ast.parse((package / 'cnn_lenet.py').read_text()))
    taken = [line.strip() for name in POINTS for node in functions[name].body[1:]
             for line in ast.unparse(node).splitlines()]
    taken = {line for line in taken if line not in given}
    # Bookkeeping that the placeholders need: the names of what they return, not how it is worked out.
    allowed = {line.strip() for name in POINTS
               for line in ast.unparse(ast.parse(f'def {name}():\n{placeholder(name)}')).splitlines()}
    assert [line for line in taken - allowed if len(line) > 25 and line in text] == []
    comments = [line.strip() for name in POINTS for line in SOLUTION.splitlines()[
        functions[name].body[0].end_lineno:functions[name].end_lineno] if line.strip().startswith('#')]
    assert comments
    assert not any(comment in (package / 'cnn_lenet.py').read_text() for comment in comments)


def test_every_import_and_private_name_of_the_starter_is_used(package):
    """So the solution has no helper that only graded bodies use: it would give away how they work.

    copy is used by Q7 until it is written, math by solutions of 2017.
    """
    tree = ast.parse((package / 'cnn_lenet.py').read_text())
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    imported = {(alias.asname or alias.name).partition('.')[0] for node in ast.walk(tree)
                if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    private = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith('_')}
    assert imported - used == {'math'}
    assert private <= used


@pytest.mark.parametrize('source', ['', SOLUTION.replace('def relu_backward', 'def relu_back')])
def test_a_solution_without_one_of_the_functions_is_an_error(source):
    with pytest.raises(ValueError, match='has no function'):
        handout['starter'](source)


@pytest.mark.parametrize('h, w, c, n, k, stride', [(6, 4, 2, 3, 2, 2), (5, 7, 3, 1, 3, 2), (4, 4, 1, 2, 3, 1)])
def test_the_seven_return_zeros_of_the_right_shape(starter, h, w, c, n, k, stride):
    rng = np.random.RandomState(0)
    x = {'height': h, 'width': w, 'channel': c, 'batch_size': n, 'data': rng.randn(h * w * c, n)}
    pool = {'type': 'POOLING', 'k': k, 'stride': stride, 'pad': 0}
    ip, param = {'type': 'IP', 'num': 4, 'init_type': 'uniform'}, {'w': rng.randn(h * w * c, 4), 'b': rng.randn(4)}
    calls = [('pooling_layer_forward', (x, pool)), ('relu_forward', (x, {'type': 'RELU'})),
             ('inner_product_forward', (x, ip, param))]
    for name, arguments in calls:
        output, expected = starter[name](*arguments), getattr(cnn_lenet, name)(*arguments)
        assert {key: output[key] for key in output if key != 'data'} == \
            {key: expected[key] for key in expected if key != 'data'}
        assert output['data'].shape == expected['data'].shape and not output['data'].any()
        output['diff'] = np.ones_like(output['data'])
        back = starter[name.replace('forward', 'backward')](output, *arguments)
        if name == 'inner_product_forward':
            param_grad, back = back
            assert all(param_grad[key].shape == param[key].shape and not param_grad[key].any() for key in 'wb')
        assert back.shape == x['data'].shape and not back.any()


def test_sgd_momentum_leaves_the_parameters(starter):
    params = {1: {'w': np.ones((2, 3)), 'b': np.ones(3)}}
    params_, _ = starter['sgd_momentum'](.1, .1, .9, .1, params, params, params)
    assert params_ is not params
    np.testing.assert_array_equal(params_[1]['w'], params[1]['w'])


def test_the_starter_runs_and_makes_no_progress(package, tmp_path):
    process = run('testLeNet.py', '--max-iter', '30', '--display-interval', '10', '--test-interval', '10',
                  '--model', tmp_path / 'starter.mat', cwd=package)
    assert (process.returncode, process.stderr) == (0, 'not written yet: Q1, Q2, Q3, Q4, Q5, Q6, Q7\n')
    costs = [float(line.split()[2]) for line in process.stdout.splitlines() if line.startswith('cost')]
    assert costs == [pytest.approx(math.log(10), abs=1e-6)] * 3
    accuracies = set(re.findall(r'test accuracy: (\S+)', process.stdout))
    assert len(accuracies) == 1 and float(accuracies.pop()) < 0.2


def table(text):
    """The table that ends a run of pytest: question -> what it says, and its last line."""
    rows = re.findall(r'^(Q\d)  (\w+) +(\d+) points   (.*)$', text, re.M)
    assert all(POINTS[name] == (question, int(points)) for question, name, points, _ in rows)
    return {question: state for question, *_, state in rows}, re.search(r'^ +(\d+ of \d+ points)$', text, re.M)[1]


def test_a_student_sees_every_question_fail_until_it_is_written(package, solved):
    before, text = pytest_in(package)
    after, text_after = pytest_in(solved)
    assert before.keys() == after.keys() and {name[:6] for name in before} == {f'TestQ{i}' for i in range(1, 8)}
    assert set(before.values()) == {'FAILED'}
    assert set(after.values()) == {'PASSED'}
    # Each question says so once, and then `as above`.
    assert len(re.findall(r'^Q\d is not written yet: \w+ in cnn_lenet.py$', text, re.M)) == 7
    assert len(re.findall('^as above$', text, re.M)) == len(before) - 7
    assert 'Error' not in text and 'warning' not in text
    assert table(text) == (dict.fromkeys(QUESTIONS, 'not written yet'), '0 of 73 points')
    assert table(text_after) == (dict.fromkeys(QUESTIONS, 'right'), '73 of 73 points')


RELU = "\n    output['data'] = np.maximum(input['data'], 0)"


@pytest.mark.parametrize('body', [
    RELU,
    "    return {**input, 'data': np.maximum(input['data'], 0)}",
    # The line of zeros is replaced, and the mark stays.
    placeholder('relu_forward').rstrip().replace("np.zeros_like(input['data'])", "np.maximum(input['data'], 0)"),
    "\n    for place in np.ndindex(input['data'].shape):\n        output['data'][place] = max(input['data'][place], 0)",
], ids=['at the mark', 'in place of all', 'in place of the zeros', 'into the zeros'])
def test_what_is_written_counts_as_written(body, package, tmp_path):
    """Whatever is left of what stood there; the rest of the starter is named before the first iteration."""
    folder = copy_of(package, tmp_path / 'package', relu_forward=body)
    results, text = pytest_in(folder, '-k', 'Q1 or Q2')
    assert {name[:6]: result for name, result in results.items()} == {'TestQ1': 'FAILED', 'TestQ2': 'PASSED'}
    assert table(text) == ({'Q1': 'not written yet', 'Q2': 'right'}, '3 of 23 points')
    (folder / 'mnist_all.mat').symlink_to(package / 'mnist_all.mat')
    process = run('testLeNet.py', '--max-iter', '1', cwd=folder)
    assert process.stderr == 'not written yet: Q1, Q3, Q4, Q5, Q6, Q7\n'


WRONG = {
    'Q1': ('pooling_layer_forward', """
    output['data'] += 3""", 'expected 8, the largest number of the window [[0., 8.], [2., 7.]]'),
    'Q2': ('relu_forward', """
    output['data'] = abs(input['data'])""",
        "data[2, 0] is 27; expected 0, max(0, x) for x = input['data'][2, 0] = -27"),
    'Q3, no bias': ('inner_product_forward', """
    output['data'] = param['w'].T @ input['data']""", 'data[0, 0] is 2.37359; expected 4.06009 = 2.374 + 1.687: '),
    'Q4, the last window only': ('pooling_layer_backward', """
    input_od[1], input_od[4] = 2, 4""", 'input_od[1, 0] is 2; expected 3 = 1 + 2: '
        "input['data'][1, 0] = 14 (row 0, column 1, channel 0 of image 0) is the largest number of the window "
        '[[4., 14.], [2., 11.]] (diff 1), and of [[14., 8.], [11., 10.]] (diff 2); 2 of 9'),
    'Q4, to the whole window': ('pooling_layer_backward', """
    input_od[0], input_od[1], input_od[4] = 1, 3, 7""",
        "input_od[0, 0] is 1; expected 0: input['data'][0, 0] = 4 (row 0, column 0, channel 0 of "
        'image 0) is not the largest number of the window [[4., 14.], [2., 11.]]; 1 of 9'),
    'Q5': ('relu_backward', """
    input_od = output['diff'] + 0""", "input_od[2, 0] is 4; expected 0: input['data'][2, 0] = -27 is not positive, and "
        'stops diff[2, 0] = 4'),
    'Q6, w': ('inner_product_backward', """
    param_grad['w'] = input['data'] @ output['diff'].T / input['batch_size']""",
        "param_grad['w'][0, 0] is 0.645196; expected 3.22598, the sum over all images of "
        'data[0, image] * diff[0, image]: '
        '(-0.35) * (-1.436) + 0.55 * 1.026 + 2.95 * 1.55 + (-0.15) * (-1.435) + (-1.85) * 1.42;'),
    'Q6, b': ('inner_product_backward', """
    param_grad['b'] = output['diff'].mean(axis=1)""",
        "param_grad['b'][0] is 0.224928; expected 1.12464, the sum over all images of diff[0, image]: "
        '(-1.436) + 1.026 + 1.55 + (-1.435) + 1.42;'),
    'Q6, input': ('inner_product_backward', """
    param_grad = {'w': input['data'] @ output['diff'].T, 'b': output['diff'].sum(axis=1)}
    input_od += 1""",
        'input_od[0, 0] is 1; expected -0.0904351, the sum over all outputs of w[0, o] * diff[o, 0]: '
        '(-0.166) * (-1.436) + 0.4406 * 1.33 + (-0.9998) * 1.621 + (-0.3953) * (-1.785);'),
    'Q7, no decay': ('sgd_momentum', """
    param_winc_[1]['w'] = mu * param_winc[1]['w'] + w_rate * param_grad[1]['w']""",
        "param_winc_[1]['w'][0, 0] is 0.15; expected 0.25, the new theta = 0.9 * 0.5 + 0.1 * (-3 + 0.5 * 2) = "
        'mu * theta + w_rate * (gradient + decay * w), equations (13) and (9)'),
    'Q7, decay of b': ('sgd_momentum', """
    param_winc_[1]['w'], param_winc_[1]['b'] = np.array([[0.25]]), np.array([0.54])""",
        "param_winc_[1]['b'][0] is 0.54; expected 0.44, the new theta = 0.9 * (-0.4) + 0.2 * 4 = "
        'mu * theta + b_rate * gradient, equation (9); b has no decay'),
    'Q7, sign': ('sgd_momentum', """
    param_winc_[1]['w'], param_winc_[1]['b'] = np.array([[0.25]]), np.array([0.44])
    params_[1]['w'] += 0.25""", "params_[1]['w'][0, 0] is 2.25; expected 1.75 = 2 - 0.25 = w - theta, equation (10)"),
    'Q1 is not stored': ('pooling_layer_forward', """
    largest = input['data'].max()""", "data is all zeros: put the result into output['data']"),
    'Q1 over all channels': ('pooling_layer_forward', '''
    x = input['data'].reshape(input['height'], input['width'], input['channel'], -1)
    maps = output['data'].reshape(h_out, w_out, input['channel'], -1)
    s, k = layer['stride'], layer['k']
    for i, j in np.ndindex(h_out, w_out):
        maps[i, j] = x[i * s:i * s + k, j * s:j * s + k].max(axis=(0, 1, 2))''',
        'the maximum was taken over all channels: data[0, 0] is 14; expected 8'),
    'Q1, batch first': ('pooling_layer_forward', '''
    x = input['data'].reshape(-1, input['height'], input['width'], input['channel'])
    maps = output['data'].reshape(-1, h_out, w_out, input['channel'])
    s, k = layer['stride'], layer['k']
    for i, j in np.ndindex(h_out, w_out):
        maps[:, i, j] = x[:, i * s:i * s + k, j * s:j * s + k].max(axis=(1, 2))''',
        'these are the values of another layout (batch first): data['),
    'Q3 as a matrix': ('inner_product_forward', """
    output['data'] = np.asmatrix(param['w'].T @ input['data'] + param['b'].reshape(-1, 1))""",
        'data is a np.matrix; expected a plain array of shape (3, 1)'),
    'Q4 is not stored': ('pooling_layer_backward', """
    od = input['data'] + 1""", 'input_od is all zeros: put the result into input_od'),
    'Q6, swapped': ('inner_product_backward', """
    param_grad, input_od = input_od, param_grad""", 'the two results are swapped: return param_grad, input_od'),
    'Q1 changes its input': ('pooling_layer_forward', """
    input.update(output)
    return input""", "pooling_layer_forward changed input['height'], which belongs to its caller; work on a copy"),
    'Q5 changes diff': ('relu_backward', """
    output['diff'][input['data'] <= 0] = 0
    return output['diff']""", "relu_backward changed output['diff'], which belongs to its caller; work on a copy"),
}


@pytest.fixture(scope='module')
def wrong_answers(package, tmp_path_factory):
    folder = copy_of(package, tmp_path_factory.mktemp('wrong') / 'package')
    runs = [(source_with(package, **{name: body}), ['-k', name]) for name, body, _ in WRONG.values()]
    return dict(zip(WRONG, pytest_many(folder, runs)))


@pytest.mark.parametrize('mistake', WRONG)
def test_a_failure_says_in_one_sentence_why_another_number_was_expected(mistake, wrong_answers):
    name, _, message = WRONG[mistake]
    assert {test[4:6] for test in wrong_answers[mistake]} == {POINTS[name][0]}
    texts = [text for outcome, text in wrong_answers[mistake].values() if outcome == 'failed']
    assert any(text.startswith(name) and message in text and '\n' not in text for text in texts)


def test_a_tab_is_told_in_python_s_words_alone(package, tmp_path):
    folder = copy_of(package, tmp_path / 'package', relu_forward="""
\treturn output""")
    process = run('-m', 'pytest', cwd=folder)
    assert process.returncode == 4 and 'TabError: inconsistent use of tabs' in process.stderr
    assert len((process.stdout + process.stderr).split('\n')) < 8


def test_a_missing_diff_is_explained(package, tmp_path):
    folder = copy_of(package, tmp_path / 'package', relu_backward="""
    input_od = input['diff'] * (input['data'] > 0)""")
    _, text = pytest_in(folder, '-k', 'Q5', '-x')
    assert "KeyError: 'diff'" in text and "output['diff'] is the gradient with respect to output['data']" in text


def test_endless_code_is_stopped_once(package, tmp_path):
    """After 30 seconds, here after one."""
    folder = copy_of(package, tmp_path / 'package', relu_forward=RELU, relu_backward="""
    while True:
        input_od += 1    # for ever""")
    tests = folder / 'tests' / 'test_questions.py'
    tests.write_text(re.sub('^SECONDS = 30 ', 'SECONDS = 1 ', tests.read_text(), flags=re.M))
    results, text = pytest_in(folder, '-k', 'relu')
    assert list(results.values()) == ['PASSED', 'PASSED', 'FAILED', 'FAILED']
    assert text.count('TimeoutError: relu_backward was stopped in the lines above') == 1
    assert text.count('as above: relu_backward is not called again') == 1
    assert re.search(r'^cnn_lenet.py:\d+: in relu_backward$', text, re.M) and 'in call' not in text


@pytest.mark.parametrize('flags', [['-k', 'Q4'], ['-k', 'pooling_layer_backward']])
def test_a_question_is_chosen_by_its_number_or_its_function(flags, solved):
    results, text = pytest_in(solved, *flags)
    assert {name[:6] for name in results} == {'TestQ4'} and set(results.values()) == {'PASSED'}
    assert table(text) == ({'Q4': 'right'}, '20 of 20 points')


@pytest.mark.parametrize('folder', ['.', 'tests'])
def test_the_tests_run_as_a_script(folder, solved):
    process = run(solved / 'tests' / 'test_questions.py', '-p', 'no:cacheprovider', cwd=solved / folder)
    assert (process.returncode, process.stderr) == (0, '')
    assert table(process.stdout) == (dict.fromkeys(QUESTIONS, 'right'), '73 of 73 points')


def test_there_is_no_table_among_other_tests():
    process = run('-m', 'pytest', 'tests/test_questions.py', 'tests/test_relu.py', '-p', 'no:cacheprovider', cwd=ROOT)
    assert process.returncode == 0 and 'points' not in process.stdout


@pytest.fixture(scope='module')
def one_by_one(package, tmp_path_factory):
    """Function -> (outcomes of all tests, outcomes of those that -k QUESTION chooses), where it alone is written."""
    folder = copy_of(package, tmp_path_factory.mktemp('one by one') / 'package')
    runs = [(handout['starter'](SOLUTION, keep=(name,)), flags)
            for name, (question, _) in POINTS.items() for flags in ([], ['-k', question])]
    found = [{test: outcome for test, (outcome, _) in results.items()} for results in pytest_many(folder, runs)]
    return dict(zip(POINTS, zip(found[::2], found[1::2])))


@pytest.mark.parametrize('name', POINTS)
def test_one_question_passes_whatever_the_others_do(one_by_one, name):
    """Only the tests of the one function that is written pass; -k runs those of one question, and no others."""
    question, _ = POINTS[name]
    results, alone = one_by_one[name]
    assert {test[4:6] for test, result in results.items() if result == 'passed'} == {question}
    assert {test[4:6] for test, result in results.items() if result == 'failed'} == {
        other for other, _ in POINTS.values()} - {question}
    assert alone == {test: result for test, result in results.items() if test[4:6] == question}


BLOCKS = re.findall(r'^```python\n(.*?)^```', (AUTOGRADER / 'student-README.md').read_text(), re.S | re.M)


def run_block(block, folder, tmp_path):
    """The number that a Python block of the README prints last."""
    (tmp_path / 'block.py').write_text(block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', str(folder))
        process = run(tmp_path / 'block.py', cwd=folder)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize('block', BLOCKS, ids=range(len(BLOCKS)))
def test_the_python_blocks_of_the_readme_run(block, solved, tmp_path):
    """With fewer images, where it takes 64 of them."""
    block = block.replace(':64]', ':4]').replace('get_lenet()', 'get_lenet(4)')
    assert run_block(block, solved, tmp_path).strip()


def test_the_gradient_check_of_the_readme_never_passes_on_zeros(package, solved, tmp_path):
    block = next(block for block in BLOCKS if 'print(abs(exact - approximate)' in block)
    (tmp_path / 'half').mkdir()
    (tmp_path / 'half' / 'cnn_lenet.py').write_text(handout['starter'](SOLUTION, keep=('pooling_layer_forward',)))
    assert float(run_block(block, solved, tmp_path)) < 1e-7
    assert float(run_block(block, tmp_path / 'half', tmp_path)) == 1
    assert math.isnan(float(run_block(block, package, tmp_path)))


def test_the_readme_names_every_question_with_its_points():
    rows = re.findall(r'^\| (Q\d) \| `(\w+)` \| (\d+) \|$', (AUTOGRADER / 'student-README.md').read_text(), re.M)
    assert {name: (question, int(points)) for question, name, points in rows} == POINTS


def test_the_starter_gets_no_points(package):
    scores, feedback = graded_here((package / 'cnn_lenet.py').read_text())
    assert scores == {question: 0 for question, _ in POINTS.values()}
    assert feedback.count('not written yet') == feedback.count('WRONG') > 0


@pytest.mark.parametrize('name', POINTS)
def test_one_function_of_the_solution_in_the_starter_gets_its_points(name):
    expected = {question: points if other == name else 0 for other, (question, points) in POINTS.items()}
    assert graded_here(handout['starter'](SOLUTION, keep=(name,)))[0] == expected


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the grader needs Linux or macOS')
@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
def test_an_autolab_lab_is_built_and_grades(tmp_path):
    """make builds the archives; an empty folder with Makefile, autograde.tar and hw7.tar is what Autolab makes."""
    lab, box = tmp_path / 'project', tmp_path / 'box'
    box.mkdir()
    for name in ('cnn_lenet.py', 'docs/fast_convolution.md', *handout['COPIED']):
        (lab / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, lab / name)
    shutil.copytree(AUTOGRADER, lab / 'autograder', ignore=shutil.ignore_patterns('*.tar', 'hw7-handout'))
    make = ['make', '--no-print-directory', f'PYTHON={sys.executable}']
    subprocess.run([*make, '-C', str(lab / 'autograder')], check=True, capture_output=True)
    assert (lab / 'autograder' / 'hw7-handout.tar').stat().st_size > 10 ** 7
    shutil.copy(lab / 'autograder' / 'autograde-Makefile', box / 'Makefile')
    shutil.copy(lab / 'autograder' / 'autograde.tar', box)
    with tarfile.open(box / 'hw7.tar', 'w') as tar:
        tar.add(ROOT / 'cnn_lenet.py', 'hw7/cnn_lenet.py')
    process = subprocess.run(make, cwd=box, capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stderr) == (0, '')
    assert json.loads(process.stdout.splitlines()[-1]) == {'scores': dict(POINTS.values()), 'scoreboard': [73]}


def test_a_folder_that_cannot_be_written_is_one_line_of_error(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    process = subprocess.run([sys.executable, str(AUTOGRADER / 'handout.py'), str(tmp_path / 'file')],
                             capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr.startswith('handout.py: error: ') and len(process.stderr.splitlines()) == 1
