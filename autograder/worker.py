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

import archive
import numpy as np

# What the loop below uses is bound here, before the submission can replace it in the modules.
array_type, from_buffer, dtype_of = np.ndarray, np.frombuffer, np.dtype
shape_of, dtype_in, bytes_of = np.ndarray.shape.__get__, np.ndarray.dtype.__get__, np.ndarray.tobytes
converted, element_of = np.ndarray.astype, np.ndarray.item
kind_of, size_of, code_of = np.dtype.kind.__get__, np.dtype.itemsize.__get__, np.dtype.str.__get__
numbers = (np.integer, np.floating, np.bool_)
extract_tb = traceback.extract_tb
MAX_TEXT = 200                   # characters of an exception's text


def main(receive, send):
    """Unpack the submission, import it, then call a function of it for each request.

    An answer's `printed` says whether the submission has printed something by then.
    """
    request, (mnist, *contents) = receive()
    try:
        send(request['token'], {'source': archive.unpack(dict(zip(request['names'], contents)), mnist)})
    except archive.Refused as error:
        send(request['token'], {'refused': str(error)})
    request, _ = receive()
    sys.path.insert(0, os.getcwd())
    path = os.path.join(os.getcwd(), 'cnn_lenet.py')
    output = sys.stdout = sys.__stdout__ = Output(open(os.devnull, 'wb'), write_through=True)
    # By its path: a folder cnn_lenet beside it would come first.
    spec = importlib.util.spec_from_file_location('cnn_lenet', path)
    module = sys.modules['cnn_lenet'] = importlib.util.module_from_spec(spec)
    send(request['token'], {**run(spec.loader, module, request['functions'], path), 'printed': output.printed})
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
        result = functions[request['function']](*arguments)
        packed = pack(result, request['form'], arrays)
        return {'result': packed, 'changed': first_change(arguments, untouched)}, arrays
    except BaseException as error:
        return {'error': describe(error, path)}, []


def unpack(tree, blobs):
    """Arguments as plain Python values and arrays."""
    kind, value = tree
    if kind == 'array':
        dtype, shape, number = value
        return from_buffer(blobs[number], dtype_of(dtype)).reshape(shape).copy()
    if kind == 'dict':
        return {key: unpack(item, blobs) for key, item in value}
    return [unpack(item, blobs) for item in value] if kind == 'list' else value


def pack(value, form, arrays):
    """What a function returned, as far as `form`, the form of a right answer, asks for it.

    Of a dict, whatever its class says, its contents count. An array is a plain one: np.matrix and the like compute
    otherwise in the next function.
    """
    kind = type(value)
    wanted, parts = form
    if wanted == 'dict' and dict in kind.__mro__:
        return ['dict', [[key, pack(dict.__getitem__(value, key), part, arrays)] for key, part in parts
                         if dict.__contains__(value, key)]]
    if wanted == 'list' and (list in kind.__mro__ or tuple in kind.__mro__):
        items = list((list if list in kind.__mro__ else tuple).__iter__(value))
        if len(items) == len(parts):
            return ['list', [pack(item, part, arrays) for item, part in zip(items, parts)]]
        return ['other', f'a {kind.__name__} of {len(items)}']
    if wanted == 'array' and array_type in kind.__mro__ and kind is not array_type:
        return ['other', f'a {kind.__module__}.{kind.__name__}'.replace('numpy.', 'np.')[:50]]
    if array_type in kind.__mro__ and (wanted == 'array' or not shape_of(value)):
        return pack_array(value, arrays) if wanted == 'array' else ['number', float(element_of(value))]
    if array_type in kind.__mro__:
        return ['other', f'an array of shape {shape_of(value)}']
    if kind in (bool, int, float) or any(base in kind.__mro__ for base in numbers):
        return ['number', float(value)] if wanted == 'number' else ['other', 'a number']
    return ['other', 'None' if value is None else f'of type {kind.__name__[:50]}']


def pack_array(value, arrays):
    """Single precision stays; other real numbers become double."""
    dtype = dtype_in(value)
    if kind_of(dtype) not in 'biuf':
        return ['other', f'an array of type {code_of(dtype)[:50]}']
    single = kind_of(dtype) == 'f' and size_of(dtype) <= 4
    arrays.append(bytes_of(converted(value, '<f4' if single else '<f8')))
    return ['array', ['<f4' if single else '<f8', list(shape_of(value)), len(arrays) - 1]]


def first_change(found, sent):
    """Where an argument is not what was sent: the path of keys to it; None if none was changed."""
    if array_type in type(sent).__mro__:
        same = (array_type in type(found).__mro__ and shape_of(found) == shape_of(sent)
                and bytes_of(found) == bytes_of(sent))
        return None if same else []
    if type(sent) in (dict, list):
        if type(found) is not type(sent) or len(found) != len(sent):
            return []
        for key in sent if type(sent) is dict else range(len(sent)):
            if type(sent) is dict and key not in found:
                return [key]
            path = first_change(found[key], sent[key])
            if path is not None:
                return [key, *path]
        return None
    return None if type(found) is type(sent) and found == sent else []


def describe(error, path):
    """The last line of a traceback, with the line of the submission where it was."""
    try:
        text, line, code = f'{type(error).__name__}: {error}', None, None
        for frame in extract_tb(error.__traceback__):
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
