"""The job of grading, in the cage: unpack a submission, import it, call its functions, send back what they return.

confine.py runs `main` once the process is shut in. The submission runs in this process and may do to it what it likes.
All that is gained by it is a wrong answer: expected values stay in the grader. Arrays travel as their bytes; nothing is
pickled.
"""

import importlib.util
import io
import os
import sys
import traceback
from numbers import Real

import archive
import numpy as np

MAX_TEXT = 200                   # characters of an exception's text


def main(receive, send):
    """Unpack the submission, import it, then call a function of it for each request.

    An answer's `printed` says whether the submission has printed something by then.
    """
    request, (mnist, *contents) = receive()
    try:
        source = archive.unpack(dict(zip(request['names'], contents)), mnist)
    except archive.Refused as error:
        send(request['token'], {'refused': str(error)})
        return
    sys.path.insert(0, os.getcwd())
    path = os.path.join(os.getcwd(), 'cnn_lenet.py')
    output = sys.stdout = sys.__stdout__ = Output(open(os.devnull, 'wb'), write_through=True)
    # By its path: a folder cnn_lenet beside it would come first.
    spec = importlib.util.spec_from_file_location('cnn_lenet', path)
    module = sys.modules['cnn_lenet'] = importlib.util.module_from_spec(spec)
    ended = run(spec.loader, module, request['functions'], path)
    send(request['token'], {**ended, 'source': source, 'printed': output.printed})
    while True:
        request, blobs = receive()
        header, arrays = answer(request, blobs, vars(module), path)
        send(request['token'], {**header, 'printed': output.printed}, arrays)


def run(loader, module, functions, path):
    """Import a module. Its end may be early (input(), sys.exit()) if all of the functions are there by then."""
    try:
        loader.exec_module(module)
        return {}
    except BaseException as error:
        early = all(name in vars(module) for name in functions)
        return {'warning' if early else 'error': describe(error, path)}


class Output(io.TextIOWrapper):
    """Standard output, which nobody sees, and whether anything was written to it."""

    printed = False

    def write(self, text):
        self.printed = True
        return super().write(text)


def answer(request, blobs, functions, path):
    """Call the function that is asked for. Returns the answer and the arrays' bytes that belong to it."""
    arrays = []
    try:
        if request['function'] not in functions:
            return {'error': f"there is no function {request['function']}"}, []
        arguments, untouched = unpack(request['arguments'], blobs), unpack(request['arguments'], blobs)
        result = functions[request['function']](*arguments.values())
        packed = pack(result, request['form'], arrays)
        return {'result': packed, 'changed': first_change(arguments, untouched)}, arrays
    except BaseException as error:
        return {'error': describe(error, path)}, []


def unpack(tree, blobs):
    """Arguments as plain Python values and arrays."""
    kind, value = tree
    if kind == 'array':
        dtype, shape, number = value
        return np.frombuffer(blobs[number], dtype).reshape(shape).copy()
    return {key: unpack(item, blobs) for key, item in value} if kind == 'dict' else value


def pack(value, form, arrays):
    """What a function returned, as far as `form`, the form of a right answer, asks for it. The bytes of arrays are
    appended to `arrays`, in double precision."""
    wanted, parts = form
    if wanted == 'dict' and isinstance(value, dict):
        return ['dict', [[key, pack(value[key], part, arrays)] for key, part in parts if key in value]]
    if wanted == 'list' and isinstance(value, (list, tuple)) and len(value) == len(parts):
        return ['list', [pack(item, part, arrays) for item, part in zip(value, parts)]]
    if wanted == 'array' and type(value) is np.ndarray and value.dtype.kind in 'biuf':
        arrays.append(value.astype('<f8').tobytes())
        return ['array', [value.shape, len(arrays) - 1]]
    if wanted == 'number' and (isinstance(value, Real) or type(value) is np.ndarray and value.ndim == 0):
        return ['number', float(value)]
    return ['other', kind_of(value)]


def kind_of(value):
    """What something is that no right answer has in that place."""
    kind = type(value)
    if kind is np.ndarray:
        return f'an array of shape {value.shape} and type {value.dtype}'
    if isinstance(value, np.ndarray):                  # np.matrix and the like compute otherwise in the next function
        return f'a {kind.__module__}.{kind.__name__}'.replace('numpy.', 'np.')
    if isinstance(value, (list, tuple)):
        return f'a {kind.__name__} of {len(value)}'
    if isinstance(value, Real):
        return 'a number'
    return 'None' if value is None else f'of type {kind.__name__}'


def first_change(found, sent):
    """Where an argument is not what was sent: the path of keys to it; None if nothing was changed."""
    if isinstance(sent, dict):
        if type(found) is not dict or set(found) != set(sent):
            return []
        paths = {key: first_change(found[key], sent[key]) for key in sent}
        return next(([key, *path] for key, path in paths.items() if path is not None), None)
    if isinstance(sent, np.ndarray):
        same = type(found) is np.ndarray and found.shape == sent.shape and found.tobytes() == sent.tobytes()
    else:
        same = type(found) is type(sent) and found == sent
    return None if same else []


def describe(error, path):
    """The last line of a traceback, with the line of the submission where it was."""
    try:
        text, line, code = f'{type(error).__name__}: {error}', None, None
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == path:
                line, code = frame.lineno, frame.line
        if isinstance(error, SyntaxError) and error.filename == path:
            text, line, code = f'{type(error).__name__}: {error.msg}', error.lineno, error.text
        if text.startswith('BdbQuit'):
            text = 'a debugger was left in (pdb or breakpoint())'
        code = f': {code.strip()[:80]}' if code and code.strip() else ''
        return text[:MAX_TEXT] + (f' (line {line} of cnn_lenet.py{code})' if line else '')
    except BaseException:
        return 'an exception that cannot be shown'
