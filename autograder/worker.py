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
    ended = {}
    try:
        spec.loader.exec_module(module)
    except BaseException as error:                     # input() or sys.exit() in a last line ends it early
        early = all(name in vars(module) for name in request['functions'])
        ended = {'warning' if early else 'error': describe(error, path)}
    send(request['token'], {**ended, 'source': source, 'printed': output.printed})
    while True:
        request, blobs = receive()
        header, arrays = answer(request, blobs, vars(module), path)
        send(request['token'], {**header, 'printed': output.printed}, arrays)


class Output(io.TextIOWrapper):
    """Standard output, which nobody sees, and whether anything was written to it."""

    printed = False

    def write(self, text):
        self.printed = True
        return super().write(text)


def answer(request, blobs, functions, path):
    """Call the function that is asked for. Returns the answer and the arrays' bytes that belong to it."""
    arrays, names = [], request['names']
    try:
        if request['function'] not in functions:
            return {'error': f"there is no function {request['function']}"}, []
        arguments, untouched = unpack(request['arguments'], blobs), unpack(request['arguments'], blobs)
        result = functions[request['function']](*arguments.values())
        if len(names) == 1:
            result = [result]
        elif not isinstance(result, (list, tuple)) or len(result) != len(names):
            return {'error': f"the result is {kind_of(result)}; expected {', '.join(names)}"}, []
        parts = [pack(dict(zip(names, result)), *leaf, arrays) for leaf in request['leaves']]
        changes = (first_change(arguments[name], untouched[name], name) for name in untouched)
        return {'result': parts, 'changed': next(filter(None, changes), None)}, arrays
    except BaseException as error:
        return {'error': describe(error, path)}, []


def unpack(tree, blobs):
    """Arguments as plain Python values and arrays."""
    kind, value = tree
    if kind == 'array':
        dtype, shape, number = value
        return np.frombuffer(blobs[number], dtype).reshape(shape).copy()
    return {key: unpack(item, blobs) for key, item in value} if kind == 'dict' else value


def pack(value, path, is_array, arrays):
    """What a result has at the end of a path of keys: an array, whose bytes are appended to `arrays` in double
    precision, a number, or what else it is."""
    name = ''
    for key in path:
        if not isinstance(value, dict):
            return ['other', f'{name} is {kind_of(value)}; expected a dict']
        if key not in value:
            return ['other', f'{name} has no {key!r}']
        name, value = f'{name}[{key!r}]' if name else key, value[key]
    if is_array and type(value) is np.ndarray and value.dtype.kind in 'biuf':
        arrays.append(value.astype('<f8').tobytes())
        return ['array', [value.shape, len(arrays) - 1]]
    if not is_array and (isinstance(value, Real) or type(value) is np.ndarray and value.ndim == 0):
        return ['number', float(value)]
    return ['other', f"{name} is {kind_of(value)}; expected {'a plain array' if is_array else 'a number'}"]


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


def first_change(found, sent, name):
    """Which argument, or part of it, is not what was sent, such as params[1]; None if nothing was changed."""
    if isinstance(sent, dict):
        if type(found) is not dict or set(found) != set(sent):
            return name
        changes = (first_change(found[key], sent[key], f'{name}[{key!r}]') for key in sent)
        return next(filter(None, changes), None)
    if isinstance(sent, np.ndarray):
        same = type(found) is np.ndarray and found.shape == sent.shape and found.tobytes() == sent.tobytes()
    else:
        same = type(found) is type(sent) and found == sent
    return None if same else name


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
