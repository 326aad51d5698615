"""Make the students' starter package from the solution.

    python autograder/handout.py OUT     writes OUT/hw7-handout/ and OUT/hw7-handout.tar

The starter's cnn_lenet.py is the solution's, but for the seven functions that students write: those keep signature and
docstring, and return zeros of the right shape until their bodies are written. Nothing else is taken out: what a graded
body needs must stand in it, or be needed by the rest of the module too. With it go the lecture, the training script,
the data, the tests of the seven functions, the errata of the handout, a README and the licence.
"""

import argparse
import ast
import re
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NAME = 'hw7-handout'
COPIED = ('testLeNet.py', 'vis_data.py', 'read_digits.py', 'draw_digits.py', 'mnist_all.mat', 'requirements.txt',
          'LICENSE', 'docs/lecture.md', 'docs/errata.md', 'tests/test_questions.py', 'tests/conftest.py')

# `python -m pytest` in the package shows short tracebacks.
PYTEST_INI = '''\
[pytest]
testpaths = tests
pythonpath = .
addopts = --tb=short --no-header -rN
'''

IMPORTS_OF_2017 = '''\
# copy and math are here because the original of 2017 imported them, and code written for it needs them.
import copy
import math
'''

# What a function is until the student has written it: its last two lines make zeros of the right shape and return
# them, and the place to write is between the two.
BODIES = {
    'pooling_layer_forward': '''
    h_out = (input['height'] - layer['k']) // layer['stride'] + 1
    w_out = (input['width'] - layer['k']) // layer['stride'] + 1
    output = {'height': h_out, 'width': w_out, 'channel': input['channel'], 'batch_size': input['batch_size']}
    output['data'] = np.zeros((h_out * w_out * input['channel'], input['batch_size']), input['data'].dtype)
    return output
''',
    'relu_forward': '''
    output = {key: input[key] for key in ('height', 'width', 'channel', 'batch_size')}
    output['data'] = np.zeros_like(input['data'])
    return output
''',
    'inner_product_forward': '''
    output = {'height': 1, 'width': 1, 'channel': layer['num'], 'batch_size': input['batch_size']}
    output['data'] = np.zeros((layer['num'], input['batch_size']), input['data'].dtype)
    return output
''',
    'pooling_layer_backward': '''
    input_od = np.zeros_like(input['data'])
    return input_od
''',
    'relu_backward': '''
    input_od = np.zeros_like(input['data'])
    return input_od
''',
    'inner_product_backward': '''
    input_od, param_grad = np.zeros_like(input['data']), {key: np.zeros_like(param[key]) for key in ('w', 'b')}
    return param_grad, input_od
''',
    'sgd_momentum': '''
    params_, param_winc_ = copy.deepcopy((params, param_winc))
    return params_, param_winc_
''',
}


def main(argv=None):
    parser = argparse.ArgumentParser(prog='handout.py', description="Make the students' starter package.")
    parser.add_argument('out', metavar='OUT', help=f'the folder that {NAME}/ and {NAME}.tar are written to')
    out = Path(parser.parse_args(argv).out)
    try:
        folder, tar = write_package(package(), out)
    except OSError as error:
        sys.exit(f'handout.py: error: {error.filename}: {error.strerror}')
    except ValueError as error:
        sys.exit(f'handout.py: error: {error}')
    print(folder, tar, sep='\n')


def package():
    """The starter's files: dict, name -> bytes. What its cnn_lenet.py names of docs/ is one of them."""
    source = starter((ROOT / 'cnn_lenet.py').read_text(encoding='utf-8'))
    copied = {*COPIED, *re.findall(r'docs/\w+\.md', source)}
    return {'cnn_lenet.py': source.encode(),
            'README.md': (HERE / 'student-README.md').read_bytes(),
            'pytest.ini': PYTEST_INI.encode(),
            **{name: (ROOT / name).read_bytes() for name in sorted(copied)}}


def write_package(files, out):
    """Write the folder and the tar, and return their paths.

    Raises FileExistsError if one of them is there already: somebody may have worked on it.
    """
    folder, tar = out / NAME, out / f'{NAME}.tar'
    for path in (folder, tar):
        if path.exists():
            raise FileExistsError(0, 'it is there already; move it away, or choose another folder', str(path))
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with tarfile.open(tar, 'w') as archive:
        archive.add(folder, NAME)
    return folder, tar


def starter(source, keep=()):
    """The source with the bodies of the seven functions (but for those in `keep`) taken out.

    Raises ValueError if one of them is missing or has no docstring.
    """
    body = ast.parse(source).body
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    lines = source.splitlines(keepends=True)
    edits = []                                         # (lines before, lines up to, the text between them)
    for question, (name, points) in questions().items():
        if name in keep:
            continue
        if name not in functions or ast.get_docstring(functions[name]) is None or len(functions[name].body) < 2:
            raise ValueError(f'cnn_lenet.py has no function {name} with a docstring and a body')
        docstring = functions[name].body[0]
        edits.append((docstring.end_lineno, functions[name].end_lineno, placeholder(question, name, points)))
    first_import = next(node.lineno for node in body if isinstance(node, (ast.Import, ast.ImportFrom))) - 1
    edits.append((first_import, first_import, IMPORTS_OF_2017))
    for first, last, text in sorted(edits, reverse=True):
        lines[first:last] = [text]
    return ''.join(lines)


def questions():
    """The questions as the students' tests have them: dict, such as {'Q1': ('pooling_layer_forward', 20), ...}."""
    tests = ast.parse((ROOT / 'tests' / 'test_questions.py').read_text(encoding='utf-8')).body
    return next(ast.literal_eval(node.value) for node in tests
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'QUESTIONS')


def placeholder(question, name, points):
    """The body that a student completes. While nothing stands around the mark but these lines, `not_written` in
    testLeNet.py says so."""
    *lines, last = BODIES[name].strip('\n').splitlines(keepends=True)
    until = 'the parameters as they were' if name == 'sgd_momentum' else 'zeros'
    mark = f'    # ---- {question} ({points} points): write your code here. Until then it returns {until}. ----\n'
    return ''.join(lines) + mark + last + '\n'


if __name__ == '__main__':
    main()
