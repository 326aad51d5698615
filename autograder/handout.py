"""Make the students' starter package from the solution.

    python autograder/handout.py OUT     writes OUT/hw7-handout/ and OUT/hw7-handout.tar

The starter's cnn_lenet.py is the solution's, but for the seven functions of section 6 that students write: they keep
signature and docstring, and return zeros of the right shape until their bodies are written. Whatever private helpers
only the solution's bodies used are left out, so that they give nothing away.
"""

import argparse
import ast
import io
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NAME = 'hw7-handout'
COPIED = ('testLeNet.py', 'vis_data.py', 'mnist_all.mat', 'requirements.txt')

# What a function returns until the student has written it: right shapes, zeros.
BODIES = {
    'pooling_layer_forward': ('Q1', 20, '''
        h_out = (input['height'] - layer['k']) // layer['stride'] + 1
        w_out = (input['width'] - layer['k']) // layer['stride'] + 1
        output = {'height': h_out, 'width': w_out, 'channel': input['channel'], 'batch_size': input['batch_size']}
        output['data'] = np.zeros((h_out * w_out * input['channel'], input['batch_size']), input['data'].dtype)
        return output
        '''),
    'relu_forward': ('Q2', 3, '''
        output = {key: input[key] for key in ('height', 'width', 'channel', 'batch_size')}
        output['data'] = np.zeros(input['data'].shape, input['data'].dtype)
        return output
        '''),
    'inner_product_forward': ('Q3', 10, '''
        output = {'height': 1, 'width': 1, 'channel': layer['num'], 'batch_size': input['batch_size']}
        output['data'] = np.zeros((layer['num'], input['batch_size']), input['data'].dtype)
        return output
        '''),
    'pooling_layer_backward': ('Q4', 20, '''
        input_od = np.zeros(input['data'].shape, input['data'].dtype)
        return input_od
        '''),
    'relu_backward': ('Q5', 3, '''
        input_od = np.zeros(input['data'].shape, input['data'].dtype)
        return input_od
        '''),
    'inner_product_backward': ('Q6', 10, '''
        param_grad = {key: np.zeros(param[key].shape, param[key].dtype) for key in 'wb'}
        input_od = np.zeros(input['data'].shape, input['data'].dtype)
        return param_grad, input_od
        '''),
    'sgd_momentum': ('Q7', 7, '''
        params_ = {i: dict(param) for i, param in params.items()}
        param_winc_ = {i: dict(winc) for i, winc in param_winc.items()}
        return params_, param_winc_
        '''),
}


def main(argv=None):
    parser = argparse.ArgumentParser(prog='handout.py', description="Make the students' starter package.")
    parser.add_argument('out', metavar='OUT', help=f'the folder that {NAME}/ and {NAME}.tar are written to')
    out = Path(parser.parse_args(argv).out)
    try:
        files = package()
        write_package(files, out)
    except (OSError, ValueError) as error:
        text = f'{error.strerror}: {error.filename}' if isinstance(error, OSError) and error.strerror else str(error)
        sys.exit(f'handout.py: error: {text}')
    print(out / NAME)
    print(out / f'{NAME}.tar')


def package():
    """The starter's files: dict, name -> bytes."""
    files = {'cnn_lenet.py': starter((ROOT / 'cnn_lenet.py').read_text(encoding='utf-8')).encode(),
             'README.md': (HERE / 'student-README.md').read_bytes()}
    return {**files, **{name: (ROOT / name).read_bytes() for name in COPIED}}


def write_package(files, out):
    """Write the folder and the tar, each whole or not at all. The same files give the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=f'.{NAME}-') as temporary:
        new, old, tar_path = Path(temporary, NAME), Path(temporary, 'old'), Path(temporary, f'{NAME}.tar')
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        tar_path.write_bytes(tar_bytes(files))
        if (out / NAME).exists():
            os.rename(out / NAME, old)
        os.rename(new, out / NAME)
        os.replace(tar_path, out / f'{NAME}.tar')
        shutil.rmtree(old, ignore_errors=True)


def tar_bytes(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(f'{NAME}/{name}')
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------
# From the solution's source to the starter's
# ---------------------------------------------------------------------------------------------------------------


def starter(source, keep=()):
    """The source with the bodies of the seven functions (but for those in `keep`) taken out.

    Raises ValueError if one of them is missing or has no docstring.
    """
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    lines = source.splitlines(keepends=True)
    emptied = [name for name in BODIES if name not in keep]
    for name in emptied:
        if name not in functions or ast.get_docstring(functions[name]) is None or len(functions[name].body) < 2:
            raise ValueError(f'cnn_lenet.py has no function {name} with a docstring and a body')
    for node in sorted((functions[name] for name in emptied), key=lambda node: -node.lineno):
        lines[node.body[0].end_lineno:node.end_lineno] = [placeholder(node.name)]
    return without_unused_helpers(''.join(lines))


def placeholder(name):
    """The marked place in which a student writes, with what the function returns until then."""
    question, points, body = BODIES[name]
    marks = f'    # ---- {question} ({points} points): write your code here. Until then the answer is zeros. ----\n'
    if name == 'sgd_momentum':
        marks = marks.replace('the answer is zeros', 'the parameters stay as they are')
    code = [line[4:] for line in body.strip('\n').splitlines()[:-1]]
    return marks + '\n'.join(code) + '\n' + f'    # ---- end of {question} ----\n'


def without_unused_helpers(source):
    """The source without the private functions and constants that nothing in it uses any more."""
    while True:
        tree = ast.parse(source)
        used = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
        unused = [node for node in tree.body if private_name(node) and private_name(node) not in used]
        if not unused:
            return source
        source = without_node(source, unused[0])


def private_name(node):
    """The name that a function or an assignment of the module defines, if it begins with an underscore."""
    if isinstance(node, ast.FunctionDef):
        name = node.name
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
    else:
        return None
    return name if name.startswith('_') and not name.startswith('__') else None


def without_node(source, node):
    """The source without a statement, its decorators, the comment on it, and the blank lines after it."""
    lines = source.splitlines(keepends=True)
    first = min([node.lineno, *(item.lineno for item in getattr(node, 'decorator_list', []))]) - 1
    while first and lines[first - 1].startswith('# ') and not lines[first - 1].startswith('# ---'):
        first -= 1
    last = node.end_lineno
    while last < len(lines) and not lines[last].strip():
        last += 1
    return ''.join(lines[:first] + lines[last:])


if __name__ == '__main__':
    main()
