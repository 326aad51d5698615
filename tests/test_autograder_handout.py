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

import cnn_lenet

ROOT = Path(cnn_lenet.__file__).resolve().parent
AUTOGRADER = ROOT / 'autograder'
SOLUTION = (ROOT / 'cnn_lenet.py').read_text()
POINTS = {'pooling_layer_forward': ('Q1', 20), 'relu_forward': ('Q2', 3), 'inner_product_forward': ('Q3', 10),
          'pooling_layer_backward': ('Q4', 20), 'relu_backward': ('Q5', 3), 'inner_product_backward': ('Q6', 10),
          'sgd_momentum': ('Q7', 7)}


def load(path, name):
    """A Python file as a module under another name."""
    namespace = {'__name__': name, '__file__': str(path)}
    exec(compile(Path(path).read_text(), str(path), 'exec'), namespace)
    return namespace


handout = load(AUTOGRADER / 'handout.py', 'handout')


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    """The folder that `python autograder/handout.py OUT` has written, run from somewhere else."""
    folder = tmp_path_factory.mktemp('out')
    process = subprocess.run([sys.executable, str(AUTOGRADER / 'handout.py'), str(folder / 'new')], cwd=folder,
                             capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, '')
    return folder / 'new'


@pytest.fixture(scope='module')
def starter(out):
    return load(out / 'hw7-handout' / 'cnn_lenet.py', 'starter')


def test_everything_that_a_student_needs_is_there(out):
    names = {'cnn_lenet.py', 'testLeNet.py', 'vis_data.py', 'mnist_all.mat', 'requirements.txt', 'README.md'}
    assert set(os.listdir(out)) == {'hw7-handout', 'hw7-handout.tar'}
    assert set(os.listdir(out / 'hw7-handout')) == names
    with tarfile.open(out / 'hw7-handout.tar') as tar:
        assert {member.name for member in tar} == {f'hw7-handout/{name}' for name in names}
        for member in tar:
            assert tar.extractfile(member).read() == (out / member.name).read_bytes()


def test_the_same_solution_gives_the_same_bytes(out, tmp_path):
    handout['main']([str(tmp_path)])
    first = (tmp_path / 'hw7-handout.tar').read_bytes()
    (tmp_path / 'hw7-handout' / 'cnn_lenet.py').write_text('an old one')
    handout['main']([str(tmp_path)])
    assert (tmp_path / 'hw7-handout.tar').read_bytes() == first == (out / 'hw7-handout.tar').read_bytes()
    assert (tmp_path / 'hw7-handout' / 'cnn_lenet.py').read_bytes() == (out / 'hw7-handout/cnn_lenet.py').read_bytes()


def test_every_public_function_keeps_signature_and_docstring(starter):
    for name, value in vars(cnn_lenet).items():
        if inspect.isfunction(value) and value.__module__ == 'cnn_lenet' and not name.startswith('_'):
            assert re.sub(' at 0x[0-9a-f]+', '', str(inspect.signature(starter[name]))) == \
                re.sub(' at 0x[0-9a-f]+', '', str(inspect.signature(value)))
            assert starter[name].__doc__ == value.__doc__


def test_nothing_of_the_graded_bodies_is_left(out):
    """No statement of theirs stands in the starter, but for those that other functions of the solution have too."""
    functions = {node.name: node for node in ast.parse(SOLUTION).body if isinstance(node, ast.FunctionDef)}
    given = '\n'.join(ast.unparse(node) for name, node in functions.items() if name not in POINTS)
    text = ast.unparse(ast.parse((out / 'hw7-handout' / 'cnn_lenet.py').read_text()))
    taken = [line.strip() for name in POINTS for node in functions[name].body[1:]
             for line in ast.unparse(node).splitlines()]
    taken = {line for line in taken if line not in given}
    # Bookkeeping that the placeholders need: the names of what they return, not how it is worked out.
    allowed = {line.strip() for name in POINTS
               for line in ast.unparse(ast.parse(f'def {name}():\n' + handout['placeholder'](name))).splitlines()}
    assert [line for line in taken - allowed if len(line) > 25 and line in text] == []
    comments = [line.strip() for name in POINTS for line in SOLUTION.splitlines()[
        functions[name].body[1].lineno - 1:functions[name].end_lineno] if line.strip().startswith('#')]
    assert comments
    assert not any(comment in (out / 'hw7-handout' / 'cnn_lenet.py').read_text() for comment in comments)


def test_a_private_helper_that_only_a_graded_body_uses_is_left_out():
    bodies = '\n'.join(f'def {name}():\n    """Doc."""\n    return _secret()\n\n\n' for name in POINTS)
    source = ('# What it does.\n_SECRET = 42\n\n\n'
              '# How it does it.\n@staticmethod\ndef _secret():\n    return _more()\n\n\n'
              'def _more():\n    return _SECRET\n\n\n'
              f'def _kept():\n    return 1\n\n\ndef given():\n    return _kept()\n\n\n{bodies}')
    text = handout['starter'](source)
    assert 'ecret' not in text.lower() and '_more' not in text and 'How it does it' not in text
    assert 'def _kept' in text and 'def given' in text


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


def test_the_starter_runs_and_makes_no_progress(out):
    process = subprocess.run([sys.executable, 'testLeNet.py', '--max-iter', '30', '--display-interval', '10',
                              '--test-interval', '10', '--model', 'starter-test.mat'],
                             cwd=out / 'hw7-handout', capture_output=True, text=True, timeout=60)
    (out / 'hw7-handout' / 'starter-test.mat').unlink()
    shutil.rmtree(out / 'hw7-handout' / '__pycache__', ignore_errors=True)
    assert (process.returncode, process.stderr) == (0, '')
    costs = [float(line.split()[2]) for line in process.stdout.splitlines() if line.startswith('cost')]
    assert costs == [pytest.approx(math.log(10), abs=1e-6)] * 3
    accuracies = {line.split()[-1] for line in process.stdout.splitlines() if 'test accuracy' in line}
    assert len(accuracies) == 1 and float(accuracies.pop()) < 0.2


def grade(path):
    process = subprocess.run([sys.executable, str(AUTOGRADER / 'grade.py'), str(path), '-A'], capture_output=True,
                             text=True, timeout=120)
    return json.loads(process.stdout.splitlines()[-1])['scores']


def test_the_starter_gets_no_points(out):
    assert grade(out / 'hw7-handout') == {question: 0 for question, _ in POINTS.values()}


@pytest.mark.parametrize('name', POINTS)
def test_one_function_of_the_solution_in_the_starter_gets_its_points(tmp_path, name):
    source = handout['starter'](SOLUTION, keep=(name,))
    (tmp_path / 'cnn_lenet.py').write_text(source)
    expected = {question: points if other == name else 0 for other, (question, points) in POINTS.items()}
    assert grade(tmp_path) == expected


def test_an_autolab_lab_is_built_and_grades(tmp_path):
    """make builds the archives; an empty folder with Makefile, autograde.tar and hw7.tar is what Autolab makes."""
    lab, box = tmp_path / 'project', tmp_path / 'box'
    lab.mkdir()
    box.mkdir()
    for name in ('cnn_lenet.py', 'testLeNet.py', 'vis_data.py', 'mnist_all.mat', 'requirements.txt'):
        shutil.copy(ROOT / name, lab)
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
