"""What runs in the child process of the grader: import a submission, call its functions, send back what they return.

The grader starts it as `python -B -c SOURCE SUBMISSION REQUESTS ANSWERS CPU_SECONDS MEMORY_BYTES`, where REQUESTS and
ANSWERS are the numbers of two pipes. A message is 8 bytes of length, JSON, 8 bytes of length, and the arrays' bytes one
after the other; nothing is pickled. An answer begins with the token of its request, so that the grader finds it among
whatever the submission may write.

The submission runs in this process and may do to it what it likes. All that is gained by it is a wrong answer: expected
values stay in the grader.
"""

import contextlib
import importlib.util
import json
import os
import resource
import sys
import traceback

import numpy as np

# What the loop below uses is bound here, before the submission can replace it in the modules.
array_type, from_buffer, dtype_of = np.ndarray, np.frombuffer, np.dtype
shape_of, dtype_in, bytes_of = np.ndarray.shape.__get__, np.ndarray.dtype.__get__, np.ndarray.tobytes
code_of = np.dtype.str.__get__           # '<f8'; str(dtype) would import NumPy again, whatever it is by then
numbers = (np.number, np.bool_)
loads, dumps, read, write, leave = json.loads, json.dumps, os.read, os.write, os._exit
extract_tb = traceback.extract_tb
TYPES = {'<f8', '<f4', '<i8', '<i4', '|u1', '|b1'}


def set_limits(cpu_seconds, memory_bytes):
    """Limits that the kernel enforces: processor time, memory, size of files, open files, no core dumps."""
    for name, limit in (('CPU', cpu_seconds), ('AS', memory_bytes), ('FSIZE', 2 ** 24), ('NOFILE', 256), ('CORE', 0)):
        with contextlib.suppress(ValueError, OSError):     # not every system has, or allows, all of them
            resource.setrlimit(getattr(resource, f'RLIMIT_{name}'), (limit, limit))


def read_exactly(pipe, count):
    parts = []
    while count:
        part = read(pipe, min(count, 2 ** 20))
        if not part:
            leave(0)                                   # the grader has closed its end: there is nothing left to do
        parts.append(part)
        count -= len(part)
    return b''.join(parts)


def receive(pipe):
    """The next request: its arguments as plain Python values and arrays."""
    header = loads(read_exactly(pipe, int.from_bytes(read_exactly(pipe, 8), 'big')))
    data = read_exactly(pipe, int.from_bytes(read_exactly(pipe, 8), 'big'))
    arrays, position = [], 0
    for dtype, shape, size in header['arrays']:
        arrays.append(from_buffer(data[position:position + size], dtype_of(dtype)).reshape(shape).copy())
        position += size
    return {**header, 'arguments': unpack(header['arguments'], arrays)}


def unpack(tree, arrays):
    kind, value = tree
    if kind == 'array':
        return arrays[value]
    if kind == 'dict':
        return {key: unpack(item, arrays) for key, item in value}
    return [unpack(item, arrays) for item in value] if kind == 'list' else value


def pack(value, arrays, depth=0):
    """[kind, value] for JSON, arrays appended to `arrays`. Of an array, whatever its class says, the bytes count."""
    kind = type(value)
    if array_type in kind.__mro__:
        code = code_of(dtype_in(value))
        if code not in TYPES:
            return ['other', f'array of {code[:50]}']
        arrays.append((code, list(shape_of(value)), bytes_of(value)))
        return ['array', len(arrays) - 1]
    if kind in (bool, int, float, str, type(None)):
        return ['value', value]
    if any(base in kind.__mro__ for base in numbers):
        return ['value', float(value)]
    if kind is dict and depth < 5 and all(type(key) in (int, str) for key in value):
        return ['dict', [[key, pack(item, arrays, depth + 1)] for key, item in value.items()]]
    if kind in (list, tuple) and depth < 5:
        return ['list', [pack(item, arrays, depth + 1) for item in value]]
    return ['other', kind.__name__]


def send(pipe, token, answer, arrays):
    header = dumps({**answer, 'arrays': [[dtype, shape, len(data)] for dtype, shape, data in arrays]}).encode()
    data = b''.join(data for _, _, data in arrays)
    message = memoryview(b''.join([token.encode(), len(header).to_bytes(8, 'big'), header,
                                   len(data).to_bytes(8, 'big'), data]))
    while message:
        message = message[write(pipe, message):]


def describe(error, path):
    """The last line of a traceback, and the line of the submission where it was."""
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines = [error.lineno]
    return {'error': f'{type(error).__name__}: {error}'[:300], 'line': lines[-1] if lines else None}


def import_submission(path):
    spec = importlib.util.spec_from_file_location('cnn_lenet', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules['cnn_lenet'] = module
    spec.loader.exec_module(module)
    return module


def answer(request, module, path):
    """Call the function that is asked for. Returns the answer and the arrays that belong to it."""
    arrays = []
    if isinstance(module, dict):                       # what went wrong at the import
        return module, arrays
    if request['function'] is None:
        return {'imported': True}, arrays
    arguments = request['arguments']
    try:
        result = vars(module)[request['function']](*arguments)
        return {'result': pack(result, arrays), 'arguments': pack(arguments, arrays)}, arrays
    except KeyError as error:
        if error.args == (request['function'],):
            return {'error': f"there is no function {request['function']}", 'line': None}, []
        return describe(error, path), []
    except BaseException as error:                     # a submission may call sys.exit()
        return describe(error, path), []


def main():
    path, requests, answers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    set_limits(int(sys.argv[4]), int(sys.argv[5]))
    sys.path[:] = [folder for folder in sys.path if folder]
    try:
        module = import_submission(path)
    except BaseException as error:
        module = {'import': True, **describe(error, path)}
    while True:
        request = receive(requests)
        send(answers, request['token'], *answer(request, module, path))


main()
