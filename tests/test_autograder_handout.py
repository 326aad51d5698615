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
import textwrap
from pathlib import Path

import numpy as np
import pytest
from grading import graded_here
from helpers import assert_same, map_arrays, module_of

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

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(AUTOGRADER)
    import handout

STARTER, SOLVED = handout.starter(SOLUTION), handout.starter(SOLUTION, keep=POINTS)


def placeholder(name):
    return handout.placeholder(POINTS[name][0], name, POINTS[name][1])


def starter_with(**bodies):
    """The starter's cnn_lenet.py with some functions written: name -> code, which goes below the mark."""
    source = STARTER
    for name, body in bodies.items():
        mark = next(line for line in placeholder(name).splitlines() if 'write your code here' in line)
        assert source.count(mark) == 1
        source = source.replace(mark, f"{mark}\n{textwrap.indent(body, '    ')}")
    return source


def run(*command, cwd):
    return subprocess.run([sys.executable, '-B', *map(str, command)], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    """The folder that `python autograder/handout.py OUT` has written, run from somewhere else."""
    folder = tmp_path_factory.mktemp('out')
    process = run(AUTOGRADER / 'handout.py', folder / 'new', cwd=folder)
    assert (process.returncode, process.stderr) == (0, '')
    return folder / 'new'


@pytest.fixture(scope='module')
def desk(out, tmp_path_factory):
    """The folder of a student: a copy of the package, without the data."""
    folder = tmp_path_factory.mktemp('desk') / 'hw7'
    return Path(shutil.copytree(out / 'hw7-handout', folder, ignore=shutil.ignore_patterns('mnist_all.mat')))


# Runs pytest again and again, each time with another cnn_lenet.py: NumPy is imported only once.
AGAIN = """
import contextlib, io, json, sys
from pathlib import Path
import pytest

class Notes:
    def pytest_runtest_logreport(self, report):
        if report.when == 'call' or report.failed:
            found[report.nodeid.partition('::')[2]] = report.outcome, report.longreprtext

for line in sys.stdin:
    source, flags = json.loads(line)
    Path('cnn_lenet.py').write_text(source)
    for name in ('cnn_lenet', 'testLeNet', 'test_questions'):
        sys.modules.pop(name, None)
    found, text = {}, io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        status = pytest.main(['-p', 'no:cacheprovider', '--assert=plain', *flags], plugins=[Notes()])
    print(json.dumps([status, found, text.getvalue()]), flush=True)
"""


@pytest.fixture(scope='module')
def tests_of(desk):
    """Function of a cnn_lenet.py and flags: what `python -m pytest` makes of it in the student's folder. Returns its
    exit status, for every test its outcome and what it says, and all of the output."""
    with subprocess.Popen([sys.executable, '-B', '-c', AGAIN], cwd=desk, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        def tests_of(source, *flags):
            print(json.dumps([source, flags]), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield tests_of


def outcomes(found):
    """Question -> the set of its tests' outcomes."""
    return {question: {outcome for test, (outcome, _) in found.items() if test.startswith(f'Test{question}_')}
            for question in {test[4:6] for test in found}}


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


def test_everything_that_a_student_needs_is_there(out):
    package = out / 'hw7-handout'
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
        handout.main([str(tmp_path)])
    assert files(tmp_path) == {name} and (tmp_path / name).read_text() == 'mine'


def test_a_folder_that_cannot_be_written_is_one_line_of_error(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(SystemExit, match=r'^handout.py: error: .*file.*: [^\n]*$'):
        handout.main([str(tmp_path / 'file')])


def test_every_public_function_keeps_signature_and_docstring():
    starter = module_of(STARTER)
    for name, value in vars(cnn_lenet).items():
        if inspect.isfunction(value) and value.__module__ == 'cnn_lenet' and not name.startswith('_'):
            expected, found = (re.sub(' at 0x[0-9a-f]+', '', f'{inspect.signature(function)} {function.__doc__}')
                               for function in (value, getattr(starter, name)))
            assert found == expected


def test_nothing_of_the_graded_bodies_is_left():
    """No statement of theirs stands in the starter, but for those that other functions of the solution have too."""
    functions = {node.name: node for node in ast.parse(SOLUTION).body if isinstance(node, ast.FunctionDef)}
    given = '\n'.join(ast.unparse(node) for name, node in functions.items() if name not in POINTS)
    text = ast.unparse(ast.parse(STARTER))
    taken = {line.strip() for name in POINTS for node in functions[name].body[1:]
             for line in ast.unparse(node).splitlines()}
    # Bookkeeping that the placeholders need: the names of what they return, not how it is worked out.
    allowed = {line.strip() for name in POINTS
               for line in ast.unparse(ast.parse(f'def {name}():\n{placeholder(name)}')).splitlines()}
    assert [line for line in taken - allowed if len(line) > 25 and line in text and line not in given] == []
    comments = [line.strip() for name in POINTS for line in SOLUTION.splitlines()[
        functions[name].body[0].end_lineno:functions[name].end_lineno] if line.strip().startswith('#')]
    assert comments and not any(comment in STARTER for comment in comments)


def test_every_import_and_private_name_of_the_starter_is_used():
    """So the solution has no helper that only graded bodies use: it would give away how they work.

    copy is used by Q7 until it is written, math by solutions of 2017.
    """
    tree = ast.parse(STARTER)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    imported = {(alias.asname or alias.name).partition('.')[0] for node in ast.walk(tree)
                if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    private = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith('_')}
    assert imported - used == {'math'}
    assert private <= used


@pytest.mark.parametrize('source', ['', SOLUTION.replace('def relu_backward', 'def relu_back')])
def test_a_solution_without_one_of_the_functions_is_an_error(source):
    with pytest.raises(ValueError, match='has no function'):
        handout.starter(source)


@pytest.mark.parametrize('h, w, c, n, k, stride', [(6, 4, 2, 3, 2, 2), (5, 7, 3, 1, 3, 2), (4, 4, 1, 2, 3, 1)])
def test_the_seven_return_zeros_or_what_they_were_given(h, w, c, n, k, stride):
    starter, rng = module_of(STARTER), np.random.RandomState(0)
    x = {'height': h, 'width': w, 'channel': c, 'batch_size': n, 'data': rng.randn(h * w * c, n)}
    pool = {'type': 'POOLING', 'k': k, 'stride': stride, 'pad': 0}
    ip, param = {'type': 'IP', 'num': 4, 'init_type': 'uniform'}, {'w': rng.randn(h * w * c, 4), 'b': rng.randn(4)}
    for layer, arguments in (('pooling_layer', (x, pool)), ('relu', (x, {'type': 'RELU'})),
                             ('inner_product', (x, ip, param))):
        output, expected = (getattr(module, f'{layer}_forward')(*arguments) for module in (starter, cnn_lenet))
        assert_same(output, {**expected, 'data': np.zeros_like(expected['data'])})
        output['diff'] = np.ones_like(output['data'])
        found, expected = (getattr(module, f'{layer}_backward')(output, *arguments) for module in (starter, cnn_lenet))
        assert_same(found, map_arrays(np.zeros_like, expected))
    params = {1: param}
    params_, param_winc_ = starter.sgd_momentum(.1, .1, .9, .1, params, params, params)
    assert_same((params_, param_winc_), (params, params))


def test_the_starter_runs_and_makes_no_progress(out, tmp_path):
    process = run('testLeNet.py', '--max-iter', '2', '--display-interval', '1', '--test-interval', '1',
                  '--model', tmp_path / 'starter.mat', cwd=out / 'hw7-handout')
    assert (process.returncode, process.stderr) == (0, 'not written yet: Q1, Q2, Q3, Q4, Q5, Q6, Q7\n')
    costs = [float(line.split()[2]) for line in process.stdout.splitlines() if line.startswith('cost')]
    assert costs == [pytest.approx(math.log(10), abs=1e-6)] * 2
    accuracies = set(re.findall(r'test accuracy: (\S+)', process.stdout))
    assert len(accuracies) == 1 and float(accuracies.pop()) < 0.2


def table(text):
    """The table that ends a run of pytest: question -> what it says, and its last line."""
    rows = re.findall(r'^(Q\d)  (\w+) +(\d+) points   (.*)$', text, re.M)
    assert all(POINTS[name] == (question, int(points)) for question, name, points, _ in rows)
    return {question: state for question, *_, state in rows}, re.search(r'^ +(\d+ of \d+ points)$', text, re.M)[1]


def test_a_student_sees_every_question_fail_until_it_is_written(tests_of):
    (_, before, text), (_, after, text_after) = tests_of(STARTER), tests_of(SOLVED)
    assert before.keys() == after.keys()
    assert outcomes(before) == {question: {'failed'} for question in QUESTIONS}
    assert outcomes(after) == {question: {'passed'} for question in QUESTIONS}
    # Each question says so once, and then `as above`.
    assert len(re.findall(r'^Q\d is not written yet: \w+ in cnn_lenet.py$', text, re.M)) == 7
    assert len(re.findall('^as above$', text, re.M)) == len(before) - 7
    assert 'Error' not in text and 'warning' not in text
    assert table(text) == (dict.fromkeys(QUESTIONS, 'not written yet'), '0 of 73 points')
    assert table(text_after) == (dict.fromkeys(QUESTIONS, 'right'), '73 of 73 points')


@pytest.mark.parametrize('name, old, new', [
    ('relu_forward', r'( +# ----.*\n)', r"\1    output['data'] = np.maximum(input['data'], 0)\n"),
    ('relu_forward', r'(?s).+', "    return {**input, 'data': np.maximum(input['data'], 0)}\n"),
    ('relu_forward', r"np.zeros_like\(input\['data'\]\)", "np.maximum(input['data'], 0)"),
    ('relu_forward', 'return output', "return {**input, 'data': np.maximum(input['data'], 0)}"),
    ('relu_backward', 'return input_od', "return output['diff'] * (input['data'] > 0)"),
], ids=['at the mark', 'in place of all', 'of the zeros', 'of the return', 'of the return, backward'])
def test_what_is_written_counts_as_written(name, old, new, tests_of):
    """Whatever is left of what stood there."""
    question, points = POINTS[name]
    source = STARTER.replace(placeholder(name), re.sub(old, new, placeholder(name)))
    _, found, text = tests_of(source, '-k', f'Q1 or {question}')
    assert outcomes(found) == {'Q1': {'failed'}, question: {'passed'}}
    assert table(text) == ({'Q1': 'not written yet', question: 'right'}, f'{points} of {20 + points} points')


# Pooling, both ways, that reads and writes feature maps in an order of axes, and takes the maximum over some of them.
MAPS = """\
k, s, c, n = layer['k'], layer['stride'], input['channel'], input['batch_size']
def maps(array, h, w):
    return array.reshape(np.take([h, w, c, n], {order})).transpose(np.argsort({order}))
x = maps(input['data'], input['height'], input['width'])
"""
FORWARD = MAPS + """\
y = maps(output['data'], h_out, w_out)
for i, j in np.ndindex(h_out, w_out):
    y[i, j] = x[i * s:i * s + k, j * s:j * s + k].max(axis={axes})"""
BACKWARD = MAPS + """\
diff, od = maps(output['diff'], output['height'], output['width']), maps(input_od, *x.shape[:2])
for i, j in np.ndindex(diff.shape[:2]):
    here = np.s_[i * s:i * s + k, j * s:j * s + k]
    od[here] += (x[here] == x[here].max(axis={axes}, keepdims=True)) * diff[i, j]"""

RIGHT, BATCH_FIRST, WIDTH_FIRST = [0, 1, 2, 3], [3, 0, 1, 2], [1, 0, 2, 3]
WRONG = {
    'Q1': ("output['data'] += 3", 'expected 8, the largest number of the window [[0., 8.], [2., 7.]]'),
    'Q1, not stored': ("largest = input['data'].max()", "data is all zeros: put the result into output['data']"),
    'Q1, all channels': (FORWARD.format(order=RIGHT, axes=(0, 1, 2)),
                         'the maximum was taken over all channels: data[0, 0] is 14; expected 8'),
    'Q1, batch first': (FORWARD.format(order=BATCH_FIRST, axes=(0, 1)),
                        'these are the values of another layout (batch first), '
                        'reshape(batch_size, height, width, channel): data['),
    'Q1, put back batch first': (FORWARD.format(order=RIGHT, axes=(0, 1)) + """
output['data'] = y.transpose(3, 0, 1, 2).reshape(-1, n)""",
                                 'these are the right values in another layout (batch first), '
                                 'reshape(batch_size, height, width, channel): data['),
    'Q1 changes its input': ('input.update(output)\nreturn input',
                             "pooling_layer_forward changed input['height'], which belongs to its caller; work on"),
    'Q2': ("output['data'] = abs(input['data'])",
           "data[2, 0] is 27; expected 0, max(0, x) for x = input['data'][2, 0] = -27"),
    'Q3': ("output['data'] = param['w'].T @ input['data']",
           'data[0, 0] is 2.37359; expected 4.06009 = 2.374 + 1.687: '),
    'Q3, a matrix': ("output['data'] = np.asmatrix(param['w'].T @ input['data'])",
                     'data is a np.matrix; expected a plain array of shape (3, 1)'),
    'Q4': ('input_od[1], input_od[4] = 2, 4', 'input_od[1, 0] is 2; expected 3 = 1 + 2: '
           "input['data'][1, 0] = 14 (row 0, column 1, channel 0 of image 0) is the largest number of the window "
           '[[4., 14.], [2., 11.]] (diff 1), and of [[14., 8.], [11., 10.]] (diff 2); 2 of 9'),
    'Q4, max without axis': (BACKWARD.format(order=RIGHT, axes=None),
                             'the maximum was taken over all channels and images: input_od['),
    'Q4, diff alone': (BACKWARD.format(order=RIGHT, axes=(0, 1)).replace(
                           "output['diff']", "output['diff'].reshape(c, -1, n).swapaxes(0, 1)"),
                       'these are the values of another layout (channel first), '
                       'reshape(channel, height, width, batch_size): input_od['),
    'Q4, h and w mixed up': (BACKWARD.format(order=WIDTH_FIRST, axes=(0, 1)),
                             'these are the values of another layout (width first), '
                             'reshape(width, height, channel, batch_size): input_od['),
    'Q5': ("input_od = output['diff'] + 0",
           "input_od[2, 0] is 4; expected 0: input['data'][2, 0] = -27 is not positive, and stops diff[2, 0] = 4"),
    'Q6': ("param_grad['w'] = input['data'] @ output['diff'].T / input['batch_size']\n"
           "param_grad['b'] = output['diff'].sum(axis=1)",
           "param_grad['w'][0, 0] is 0.645196; expected 3.22598, the sum over all images of data[0, image] * "
           'diff[0, image]: (-0.35) * (-1.436) + 0.55 * 1.026 + 2.95 * 1.55 + (-0.15) * (-1.435) + (-1.85) * 1.42;'),
    'Q6, swapped': ('return input_od, param_grad', 'the two results are swapped: return param_grad, input_od'),
    'Q7': ("param_winc_[1]['w'] = mu * param_winc[1]['w'] + w_rate * param_grad[1]['w']",
           "param_winc_[1]['w'][0, 0] is 0.15; expected 0.25, the new theta = 0.9 * 0.5 + 0.1 * (-3 + 0.5 * 2) = "
           'mu * theta + w_rate * (gradient + decay * w), equations (13) and (9)'),
}


@pytest.mark.parametrize('mistake', WRONG)
def test_a_failure_says_in_one_sentence_why_another_number_was_expected(mistake, tests_of):
    name = next(name for name in POINTS if POINTS[name][0] == mistake[:2])
    body, message = WRONG[mistake]
    _, found, _ = tests_of(starter_with(**{name: body}), '-k', name, '-x')
    assert any(text.startswith(name) and message in text and '\n' not in text for _, text in found.values())


def test_what_the_handout_leaves_open_passes(tests_of):
    """The gradient of a ReLU at exactly 0, and of a window that holds its largest number twice."""
    source = starter_with(pooling_layer_backward=BACKWARD.format(order=RIGHT, axes=(0, 1)),
                          relu_backward="input_od = output['diff'] * (input['data'] >= 0)")
    assert outcomes(tests_of(source, '-k', 'Q4 or Q5')[1]) == {'Q4': {'passed'}, 'Q5': {'passed'}}


def test_a_tab_is_told_in_python_s_words_alone(tests_of):
    status, found, text = tests_of(STARTER.replace('    return ', '\treturn ', 1))
    assert (status, found) == (4, {}) and 'TabError: inconsistent use of tabs' in text
    assert len(text.split('\n')) < 8


def test_a_missing_diff_is_explained(tests_of):
    _, _, text = tests_of(starter_with(relu_backward="input_od = input['diff'] * (input['data'] > 0)"), '-k', 'Q5')
    assert "KeyError: 'diff'" in text and "output['diff'] is the gradient with respect to output['data']" in text


def test_endless_code_is_stopped_once(desk, tests_of):
    """After 30 seconds, here after 0.2."""
    tests = desk / 'tests' / 'test_questions.py'
    before = tests.read_text()
    tests.write_text(re.sub('^SECONDS = 30 ', 'SECONDS = 0.2 ', before, flags=re.M))
    _, found, text = tests_of(starter_with(relu_backward='while True:\n    input_od += 1'), '-k', 'relu_backward')
    tests.write_text(before)
    assert outcomes(found) == {'Q5': {'failed'}}
    assert text.count('TimeoutError: relu_backward was stopped in the lines above') == 1
    assert text.count('as above: relu_backward is not called again') == 1
    assert re.search(r'^cnn_lenet.py:\d+: in relu_backward$', text, re.M) and 'in call' not in text


def test_the_tests_run_as_a_script(desk):
    (desk / 'cnn_lenet.py').write_text(SOLVED)
    process = run('test_questions.py', '-p', 'no:cacheprovider', cwd=desk / 'tests')
    assert (process.returncode, process.stderr) == (0, '')
    assert table(process.stdout) == (dict.fromkeys(QUESTIONS, 'right'), '73 of 73 points')


def test_there_is_no_table_among_other_tests(desk, tests_of):
    (desk / 'tests' / 'test_others.py').write_text('def test_Q2():\n    pass\n')
    status, found, text = tests_of(SOLVED, '-k', 'Q2')
    (desk / 'tests' / 'test_others.py').unlink()
    assert (status, len(found)) == (0, 3) and 'points' not in text


@pytest.mark.parametrize('name', POINTS)
def test_one_question_passes_whatever_the_others_do(tests_of, name):
    _, found, _ = tests_of(handout.starter(SOLUTION, keep=(name,)), '-k', name)
    assert outcomes(found) == {POINTS[name][0]: {'passed'}}


README = (AUTOGRADER / 'student-README.md').read_text()
BLOCKS = re.findall(r'^```python\n(.*?)^```', README, re.S | re.M)


@pytest.fixture
def printed_by(monkeypatch, capsys):
    """Function of a Python block of the README and a cnn_lenet.py: what it prints."""
    def printed_by(block, source):
        monkeypatch.setitem(sys.modules, 'cnn_lenet', module_of(source))
        exec(block, {})
        return capsys.readouterr().out

    return printed_by


@pytest.mark.parametrize('block', BLOCKS, ids=range(len(BLOCKS)))
def test_the_python_blocks_of_the_readme_run(block, printed_by):
    """With two images, where it takes 64 of them."""
    assert printed_by(block.replace(':64]', ':2]').replace('get_lenet()', 'get_lenet(2)'), SOLVED).strip()


def test_the_gradient_check_of_the_readme_never_passes_on_zeros(printed_by):
    block = next(block for block in BLOCKS if 'print(abs(exact - approximate)' in block)
    assert float(printed_by(block, SOLVED)) < 1e-7
    assert float(printed_by(block, handout.starter(SOLUTION, keep=['pooling_layer_forward']))) == 1
    with np.errstate(invalid='ignore'):
        assert math.isnan(float(printed_by(block, STARTER)))


def test_the_readme_names_every_question_with_its_points():
    rows = re.findall(r'^\| (Q\d) \| `(\w+)` \| (\d+) \|$', README, re.M)
    assert {name: (question, int(points)) for question, name, points in rows} == POINTS


@pytest.mark.parametrize('name', [None, *POINTS])
def test_a_starter_gets_the_points_of_what_is_written(name):
    expected = {question: points if other == name else 0 for other, (question, points) in POINTS.items()}
    scores, feedback = graded_here(handout.starter(SOLUTION, keep=(name,)))
    assert scores == expected
    assert feedback.count('not written yet') == feedback.count('WRONG') > 0


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the grader needs Linux or macOS')
@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
def test_an_autolab_lab_is_built_and_grades(tmp_path):
    """make builds the archives; an empty folder with Makefile, autograde.tar and hw7.tar is what Autolab makes."""
    lab, box = tmp_path / 'project', tmp_path / 'box'
    box.mkdir()
    for name in ('cnn_lenet.py', 'docs/fast_convolution.md', *handout.COPIED):
        (lab / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, lab / name)
    (lab / 'mnist_all.mat').write_bytes(b'data')
    shutil.copytree(AUTOGRADER, lab / 'autograder', ignore=shutil.ignore_patterns('*.tar', 'hw7-handout'))
    make = ['make', '--no-print-directory', f'PYTHON={sys.executable}']
    subprocess.run([*make, '-C', str(lab / 'autograder')], check=True, capture_output=True)
    assert tarfile.is_tarfile(lab / 'autograder' / 'hw7-handout.tar')
    shutil.copy(lab / 'autograder' / 'autograde-Makefile', box / 'Makefile')
    shutil.copy(lab / 'autograder' / 'autograde.tar', box)
    with tarfile.open(box / 'hw7.tar', 'w') as tar:
        tar.add(ROOT / 'cnn_lenet.py', 'hw7/cnn_lenet.py')
    process = subprocess.run(make, cwd=box, capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stderr) == (0, '')
    assert json.loads(process.stdout.splitlines()[-1]) == {'scores': dict(POINTS.values()), 'scoreboard': [73]}
