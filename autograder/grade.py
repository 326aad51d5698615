"""Grade a submission of the programming questions Q1-Q7, with the handout's points.

    python grade.py hw7.tar              a tar as section 9 of the handout describes it, a folder, or a cnn_lenet.py
    python grade.py hw7.tar -A           the last line is Autolab's autoresult
    python grade.py --help               all flags

The submission runs in processes of its own (worker.py), which are sent arguments and send back what the functions
return. Right answers are worked out here and compared here; the submission never sees them.
"""

import argparse
import bz2
import contextlib
import ctypes
import gzip
import io
import json
import lzma
import os
import secrets
import select
import signal
import site
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

QUESTIONS = {
    'Q1': ('pooling_layer_forward', 20),
    'Q2': ('relu_forward', 3),
    'Q3': ('inner_product_forward', 10),
    'Q4': ('pooling_layer_backward', 20),
    'Q5': ('relu_backward', 3),
    'Q6': ('inner_product_backward', 10),
    'Q7': ('sgd_momentum', 7),
}
MAX_SOURCE = 2 ** 20             # bytes of a cnn_lenet.py
MAX_TAR = 50 * 2 ** 20           # bytes of a tar, unpacked
MAX_MEMBERS = 1000               # files in a tar
MAX_ANSWER = 64 * 2 ** 20        # bytes of an answer
TYPES = {'<f8', '<f4', '<i8', '<i4', '|u1', '|b1'}


def main(argv=None):
    """Grade, print, write. Exit status 0 if the grading worked, whatever the score; 2 for a wrong call."""
    flags = get_parser().parse_args(argv)
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)                    # PR_SET_DUMPABLE: keep others out of our /proc
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))       # so that what has been started is cleaned up
    seed = secrets.randbelow(2 ** 32) if flags.seed is None else flags.seed
    try:
        source, problem = read_submission(Path(flags.submission)), None
    except ValueError as error:
        source, problem = None, str(error)
    grade = grade_source(source, seed, flags.timeout, flags.memory) if source is not None else all_failed(problem)
    text = report(grade, seed, problem)
    print(text, flush=True)
    if flags.gradescope:
        write_gradescope(flags.gradescope, grade, text)
    if flags.autolab:
        scores = {question: score for question, (score, _) in grade.items()}
        # Where output goes to a file, a submission may have opened that file and written beyond our end of it.
        with contextlib.suppress(OSError):
            os.lseek(sys.stdout.fileno(), 0, os.SEEK_END)
        print(json.dumps({'scores': scores, 'scoreboard': [total(grade)]}), flush=True)


def get_parser():
    parser = argparse.ArgumentParser(prog='grade.py', description='Grade the programming questions of homework 7.')
    parser.add_argument('submission', type=existing, metavar='SUBMISSION',
                        help='hw7.tar, a folder with cnn_lenet.py, or a cnn_lenet.py')
    parser.add_argument('--seed', type=seed_number, metavar='N', help='repeat the inputs of an earlier grading')
    parser.add_argument('-A', '--autolab', action='store_true', help="print Autolab's autoresult as the last line")
    parser.add_argument('--gradescope', metavar='FILE', help="also write Gradescope's results.json")
    parser.add_argument('--timeout', type=positive, default=30, metavar='SECONDS',
                        help='time for a question (default: 30)')
    parser.add_argument('--memory', type=positive, default=2000, metavar='MB',
                        help='memory for a submission (default: 2000)')
    return parser


def existing(path):
    if not os.path.exists(path):
        raise argparse.ArgumentTypeError(f'{path}: no such file or folder')
    return path


def positive(text):
    with contextlib.suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least 1')


def seed_number(text):
    with contextlib.suppress(ValueError):
        if 0 <= int(text) < 2 ** 32:
            return int(text)
    raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 0 to 4294967295')


# ---------------------------------------------------------------------------------------------------------------
# Reading a submission: one cnn_lenet.py, out of whatever was handed in
# ---------------------------------------------------------------------------------------------------------------


def read_submission(path):
    """The bytes of the one cnn_lenet.py. Raises ValueError if there is none, or the submission is not acceptable."""
    if path.is_dir():
        found = [file for file in (path / 'cnn_lenet.py', path / 'hw7' / 'cnn_lenet.py') if os.path.lexists(file)]
        if len(found) != 1:
            raise ValueError(f'the folder holds {len(found)} files cnn_lenet.py; expected one')
        path = found[0]
        if path.is_symlink() or not path.is_file():
            raise ValueError('cnn_lenet.py is a link or no file; expected an ordinary file')
    if not path.is_file():
        raise ValueError('the submission is no ordinary file or folder')
    if path.suffix != '.py':
        return read_tar(path)
    return checked_size(path.stat().st_size, path.read_bytes)


def read_tar(path):
    """cnn_lenet.py out of a tar. Nothing is unpacked to disk, and no more than MAX_TAR bytes are read."""
    content = unpacked(path)
    sources = []
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode='r:') as tar:
            for count, member in enumerate(tar):
                if count >= MAX_MEMBERS:
                    raise ValueError(f'the tar holds more than {MAX_MEMBERS} files')
                check_member(member)
                parts = [part for part in member.name.split('/') if part != '.']
                if member.isreg() and parts in (['cnn_lenet.py'], ['hw7', 'cnn_lenet.py']):
                    sources.append(checked_size(member.size, tar.extractfile(member).read))
    except (tarfile.TarError, EOFError, OverflowError, UnicodeError) as error:
        raise ValueError(f'not a readable tar file ({error})') from None
    if len(sources) != 1:
        raise ValueError(f'the tar holds {len(sources)} files cnn_lenet.py (in hw7/ or at the top); expected one')
    return sources[0]


def unpacked(path):
    """The tar's bytes, decompressed if it is compressed."""
    with open(path, 'rb') as file:
        start = file.read(6)
    openers = [opener for magic, opener in ((b'\x1f\x8b', gzip.open), (b'BZh', bz2.open), (b'\xfd7zXZ', lzma.open))
               if start.startswith(magic)]
    try:
        with (openers or [open])[0](path, 'rb') as file:
            content = file.read(MAX_TAR + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ValueError(f'not a readable tar file ({error})') from None
    if len(content) > MAX_TAR:
        raise ValueError(f'the tar unpacks to more than {MAX_TAR // 2 ** 20} MB')
    return content


def check_member(member):
    if member.name.startswith('/') or '..' in member.name.split('/'):
        raise ValueError(f'the tar holds the path {member.name[:100]!r}; expected paths inside the folder hw7')
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise ValueError(f'{member.name[:100]!r} in the tar is a link, a device or the like; expected ordinary files')
    if member.size > MAX_TAR:
        raise ValueError(f'{member.name[:100]!r} in the tar has {member.size} bytes')


def checked_size(size, read):
    if size > MAX_SOURCE:
        raise ValueError(f'cnn_lenet.py has {size} bytes; expected at most {MAX_SOURCE}')
    return read()


# ---------------------------------------------------------------------------------------------------------------
# Right answers: plain loops, one image, one window at a time
# ---------------------------------------------------------------------------------------------------------------


def structure(data, h, w, c):
    return {'height': h, 'width': w, 'channel': c, 'batch_size': data.shape[1], 'data': data}


def pool(x, layer, diff=None):
    """Max pooling of the structure x; with diff, the gradient with respect to its data instead."""
    h, w, c, n = (x[key] for key in ('height', 'width', 'channel', 'batch_size'))
    k, s = layer['k'], layer['stride']
    h_out, w_out = (h - k) // s + 1, (w - k) // s + 1
    image, od, out = x['data'].reshape(h, w, c, n), np.zeros((h, w, c, n)), np.zeros((h_out, w_out, c, n))
    channels, images = np.meshgrid(np.arange(c), np.arange(n), indexing='ij')
    for i in range(h_out):
        for j in range(w_out):
            window = image[i * s:i * s + k, j * s:j * s + k].reshape(k * k, c, n)
            out[i, j] = window.max(axis=0)
            if diff is not None:
                row, column = np.divmod(window.argmax(axis=0), k)
                od[i * s + row, j * s + column, channels, images] += diff.reshape(out.shape)[i, j]
    return structure(out.reshape(-1, n), h_out, w_out, c) if diff is None else od.reshape(-1, n)


def relu(x):
    return {**x, 'data': np.where(x['data'] > 0, x['data'], 0.0)}


def inner_product(x, param):
    return structure(param['w'].T @ x['data'] + param['b'][:, None], 1, 1, len(param['b']))


def sgd(w_rate, b_rate, mu, decay, params, param_winc, param_grad):
    """Eqs. (9), (10) and (13)."""
    new_params, new_winc = {}, {}
    for i in params:
        theta = {'w': mu * param_winc[i]['w'] + w_rate * (param_grad[i]['w'] + decay * params[i]['w']),
                 'b': mu * param_winc[i]['b'] + b_rate * param_grad[i]['b']}
        new_params[i], new_winc[i] = {key: params[i][key] - theta[key] for key in 'wb'}, theta
    return [new_params, new_winc]


# ---------------------------------------------------------------------------------------------------------------
# Cases: what a function is called with, and what it should return
# ---------------------------------------------------------------------------------------------------------------

POOLINGS = [(24, 24, 20, 2, 2, 2), (8, 8, 50, 2, 2, 2), (5, 7, 3, 4, 3, 2), (6, 4, 2, 3, 3, 1), (9, 6, 4, 1, 3, 3)]
RELUS = [(1, 1, 500, 2), (4, 5, 3, 6), (3, 2, 4, 1)]
INNER_PRODUCTS = [(4, 4, 50, 2, 500), (2, 3, 2, 5, 4), (3, 2, 1, 1, 6), (1, 1, 20, 3, 10)]
SOLVERS = [(0.01, 0.02, 0.9, 0.0005), (0.1, 0.03, 0.5, 0.2), (0.5, 0.25, 0.95, 0.0)]


def make_cases(question, rng):
    """[(title, arguments, expected, probe)]; probe(name, index) is a finite difference, None for a forward function."""
    return {'Q1': pooling_cases, 'Q4': pooling_cases, 'Q2': relu_cases, 'Q5': relu_cases, 'Q3': inner_product_cases,
            'Q6': inner_product_cases, 'Q7': solver_cases}[question](rng, question in ('Q4', 'Q5', 'Q6'))


def pooling_cases(rng, backward):
    cases = []
    for h, w, c, n, k, s in POOLINGS:
        # No two values are equal, so that no window has a tie; most are negative, so that 0 is no maximum.
        data = (rng.permutation(h * w * c * n).reshape(h * w * c, n) - 0.8 * h * w * c * n) * 0.01
        x, layer = structure(data, h, w, c), {'type': 'POOLING', 'k': k, 'stride': s, 'pad': 0}
        title = f'input {h} x {w} x {c}, batch {n}, k = {k}, stride = {s}'
        cases.append(case(title, rng, backward, [x, layer], lambda x, layer=layer: pool(x, layer),
                          lambda diff, x=x, layer=layer: pool(x, layer, diff)))
    return cases


def relu_cases(rng, backward):
    cases = []
    for h, w, c, n in RELUS:
        data = (0.1 + rng.rand(h * w * c, n)) * rng.choice([-1, 1], (h * w * c, n))      # none near the kink at 0
        x = structure(data, h, w, c)
        cases.append(case(f'input {h} x {w} x {c}, batch {n}', rng, backward, [x, {'type': 'RELU'}], relu,
                          lambda diff, data=data: diff * (data > 0)))
    return cases


def inner_product_cases(rng, backward):
    cases = []
    for h, w, c, n, num in INNER_PRODUCTS:
        x = structure(rng.randn(h * w * c, n), h, w, c)
        param = {'w': rng.randn(h * w * c, num), 'b': rng.randn(num)}
        layer = {'type': 'IP', 'num': num, 'init_type': 'uniform'}
        cases.append(case(f'input {h} x {w} x {c}, batch {n}, num = {num}', rng, backward, [x, layer, param],
                          lambda x, param=param: inner_product(x, param),
                          lambda diff, x=x, param=param: [{'w': x['data'] @ diff.T, 'b': diff.sum(axis=1)},
                                                          param['w'] @ diff]))
    return cases


def case(title, rng, backward, arguments, forward, gradient):
    """One case of a layer: forward(x) is its right output, gradient(diff) the right answer of its backward function."""
    output = forward(arguments[0])
    if not backward:
        return title, arguments, output, None
    diff = rng.randn(*output['data'].shape)

    def probe(index, h=1e-6):
        shifted = arguments[0]['data'].copy()
        shifted[index] += h
        return (diff * (forward({**arguments[0], 'data': shifted})['data'] - output['data'])).sum() / h

    return title, [{**output, 'diff': diff}, *arguments], gradient(diff), probe


def solver_cases(rng, _):
    cases = []
    for rates in SOLVERS:
        shapes = {1: ((25, 4), (4,)), 2: ((0,), (0,)), 3: ((12, 5), (5,)), 4: ((5, 1), (1,))}
        trees = [{i: {'w': rng.randn(*w), 'b': rng.randn(*b)} for i, (w, b) in shapes.items()} for _ in range(3)]
        names = ('w_rate', 'b_rate', 'mu', 'decay')
        title = ', '.join(f'{name} = {rate}' for name, rate in zip(names, rates)) + ', 4 layers, one without parameters'
        cases.append((title, [*rates, *trees], sgd(*rates, *trees), None))
    return cases


# ---------------------------------------------------------------------------------------------------------------
# Comparing
# ---------------------------------------------------------------------------------------------------------------


def compare(found, expected, name, probe=None):
    """What is wrong with an answer, in one line; None if nothing is."""
    if isinstance(expected, np.ndarray):
        return compare_arrays(found, expected, name, probe)
    if isinstance(expected, dict) and 'data' in expected:
        return compare_structures(found, expected, name)
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return f'{name} is {kind(found)}; expected {len(expected)} values'
        names = ('param_grad', 'input_od') if len(expected[0]) == 2 and 'w' in expected[0] else ('params_',
                                                                                                 'param_winc_')
        pairs = zip(found, expected, names)
        return first(compare(a, b, part, probe if part == 'input_od' else None) for a, b, part in pairs)
    if not isinstance(found, dict):
        return f'{name} is {kind(found)}; expected a dict'
    missing = [key for key in expected if key not in found]
    if missing:
        return f'{name} lacks the key {missing[0]!r}'
    return first(compare(found[key], expected[key], f'{name}[{key!r}]') for key in expected)


def first(problems):
    return next((problem for problem in problems if problem), None)


def kind(value):
    names = {'dict': 'a dict', 'list': 'a list or tuple', 'NoneType': 'None', 'ndarray': 'an array',
             'Other': 'of a type that cannot be right'}
    return names.get(type(value).__name__, f'of type {type(value).__name__}')


def compare_structures(found, expected, name):
    if not isinstance(found, dict):
        return f'{name} is {kind(found)}; expected a dict'
    for key in ('data', 'height', 'width', 'channel', 'batch_size'):
        if key not in found:
            return f'{name} lacks the key {key!r}'
    problem = compare_arrays(found['data'], expected['data'], f"{name}['data']")
    for key in ('height', 'width', 'channel', 'batch_size'):
        # An inner product's output may count as num x 1 x 1 as well.
        flat = expected['height'] == expected['width'] == 1 and key != 'batch_size'
        sizes = [expected['channel'], 1] if flat else [expected[key]]
        if problem is None and found[key] not in sizes:
            problem = f'{name}[{key!r}] is {str(found[key])[:50]}; expected {expected[key]}'
    return problem


def compare_arrays(found, expected, name, probe=None):
    if not isinstance(found, np.ndarray):
        return f'{name} is {kind(found)}; expected an array of shape {expected.shape}'
    if found.shape != expected.shape:
        return f'{name} has shape {found.shape}; expected {expected.shape}'
    found = found.astype(np.float64)
    with np.errstate(all='ignore'):
        error = np.abs(found - expected)
    error[~np.isfinite(error)] = np.inf
    if np.all(error <= 1e-6 + 1e-5 * np.abs(expected)):
        return None
    worst = np.unravel_index(error.argmax(), error.shape)
    place = ', '.join(map(str, worst))
    text = (f'{name} is wrong in {int((error > 1e-6 + 1e-5 * np.abs(expected)).sum())} of {error.size} places, most at '
            f'[{place}]: {found[worst]:.6g}; expected {expected[worst]:.6g}')
    return f'{text} (finite differences give {probe(worst):.6g})' if probe else text


def compare_arguments(found, sent):
    """The name of an argument that the function has changed, in one line; None if there is none."""
    if same(found, sent):
        return None
    if isinstance(found, list) and len(found) == len(sent):
        for position, (a, b) in enumerate(zip(found, sent)):
            if not same(a, b):
                keys = [key for key in b if not isinstance(a, dict) or key not in a or not same(a[key], b[key])] \
                    if isinstance(b, dict) else []
                which = f' (its {keys[0]!r})' if keys else ''
                return f'argument {position + 1} was changed{which}; copy before writing'
    return 'an argument was changed; copy before writing'


def same(a, b):
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(b, dict):
        return isinstance(a, dict) and all(key in a and same(a[key], b[key]) for key in b)
    if isinstance(b, list):
        return isinstance(a, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) in (int, float, str, bool) and a == b


# ---------------------------------------------------------------------------------------------------------------
# Grading
# ---------------------------------------------------------------------------------------------------------------


def grade_source(source, seed, timeout, memory):
    """Grade a cnn_lenet.py: dict, question -> (score, lines of feedback)."""
    become_subreaper()
    before = set(children())
    folder = tempfile.mkdtemp(prefix='hw7-')
    try:
        path = os.path.join(folder, 'cnn_lenet.py')
        Path(path).write_bytes(source)
        problem = import_problem(path, timeout, memory)
        if problem:
            return all_failed(problem)
        return {question: grade_question(question, path, seed, timeout, memory) for question in QUESTIONS}
    finally:                                           # also when the grader is stopped
        kill_orphans(before)
        remove_folder(folder)


def all_failed(problem):
    return {question: (0, [problem]) for question in QUESTIONS}


def import_problem(path, timeout, memory):
    """What goes wrong when the submission is imported, in one line; None if nothing does."""
    with Worker(path, timeout, memory) as worker:
        try:
            answer = worker.ask(None, [])
        except Failure as failure:
            return f'import of cnn_lenet.py: {failure}'
    return describe(answer)


def describe(answer):
    """What an answer says that went wrong, in one line; None if nothing did."""
    if 'error' not in answer:
        return None
    line = answer.get('line')
    return (('import of cnn_lenet.py: ' if answer.get('import') else '') + ' '.join(str(answer['error'])[:300].split())
            + (f' (line {line} of cnn_lenet.py)' if isinstance(line, int) else ''))


def grade_question(question, path, seed, timeout, memory):
    """(score, feedback) of one question. A process that dies costs its case; the next case gets a new one."""
    function, points = QUESTIONS[question]
    cases = make_cases(question, np.random.RandomState([seed, int(question[1:])]))
    deadline = time.monotonic() + timeout
    right, feedback, worker = 0, [], None
    try:
        for title, arguments, expected, probe in cases:
            worker = worker or Worker(path, max(deadline - time.monotonic(), 0.01), memory)
            try:
                answer = worker.ask(function, arguments)
                problem = judge(answer, arguments, expected, probe)
            except Failure as failure:
                problem = str(failure)
                worker.close()
                worker = None
            right += problem is None
            feedback.append(f"{'right' if problem is None else 'WRONG'}  {function}, {title}"
                            + (f'\n           {problem}' if problem else ''))
    finally:
        if worker:
            worker.close()
    return rounded(points * right / len(cases)), feedback


def judge(answer, arguments, expected, probe):
    problem = describe(answer)
    if problem is None:
        problem = compare(answer.get('result'), expected, 'the result', probe)
    if problem is None:
        problem = compare_arguments(answer.get('arguments'), arguments)
    return problem


# ---------------------------------------------------------------------------------------------------------------
# The process that the submission runs in
# ---------------------------------------------------------------------------------------------------------------


class Failure(Exception):
    """The submission's process gave no answer; the text says why."""


class Worker:
    """A process with the submission in it, in an empty folder, with limits; at the end nothing of it is left."""

    def __init__(self, path, timeout, memory):
        self.deadline = time.monotonic() + timeout
        self.folder = tempfile.mkdtemp(dir=os.path.dirname(path))
        self.before = set(children())
        ours_out, theirs_in = os.pipe(), os.pipe()
        self.requests, self.answers = ours_out[1], theirs_in[0]
        source = (Path(__file__).resolve().parent / 'worker.py').read_text()
        try:
            self.process = subprocess.Popen(
                [sys.executable, '-B', '-c', source, path, str(ours_out[0]), str(theirs_in[1]), str(int(timeout) + 2),
                 str(memory * 2 ** 20)],
                cwd=self.folder, pass_fds=(ours_out[0], theirs_in[1]), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=environment(self.folder))
        finally:
            os.close(ours_out[0])
            os.close(theirs_in[1])
        for pipe in (self.requests, self.answers):
            os.set_blocking(pipe, False)
        self.received = b''

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Kill the process and all that came of it, remove its folder."""
        for pipe in (self.requests, self.answers):
            os.close(pipe)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        kill_orphans(self.before)
        remove_folder(self.folder)

    def ask(self, function, arguments):
        """Call a function of the submission. Returns the answer; raises Failure if there is none."""
        token, arrays = secrets.token_hex(16), []
        request = {'token': token, 'function': function, 'arguments': pack(arguments, arrays)}
        pending = memoryview(message(request, arrays))
        self.received = b''
        while True:
            answer = self.parse(token.encode())
            if answer is not None:
                return answer
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise Failure('no answer in time')
            readable, writable, _ = select.select([self.answers], [self.requests] if pending else [], [],
                                                  min(left, 0.1))
            if writable:
                pending = self.write(pending)
            if readable:
                self.read()
            elif self.process.poll() is not None:
                raise Failure(ending(self.process.returncode))

    def write(self, pending):
        try:
            return pending[os.write(self.requests, pending[:65536]):]
        except BlockingIOError:
            return pending
        except BrokenPipeError:
            return memoryview(b'')                       # it has died, or closed its end: poll() or the clock will tell

    def read(self):
        part = os.read(self.answers, 2 ** 20)
        if not part:
            time.sleep(0.01)                             # its end is closed: it dies, or will never answer
            if self.process.poll() is not None:
                raise Failure(ending(self.process.returncode))
        self.received += part
        if len(self.received) > MAX_ANSWER:
            raise Failure('the answer is too large')

    def parse(self, token):
        """The answer, if all of it is there. What comes before its token was not sent by the worker's own loop."""
        start = self.received.find(token)
        if start < 0:
            self.received = self.received[-len(token):]
            return None
        body = self.received[start + len(token):]
        try:
            length = int.from_bytes(body[:8], 'big')
            size = int.from_bytes(body[8 + length:16 + length], 'big')
            if len(body) < 16 or length > MAX_ANSWER or size > MAX_ANSWER or len(body) < 16 + length + size:
                return None
            header = json.loads(body[8:8 + length])
            arrays = unpack_arrays(header['arrays'], body[16 + length:16 + length + size])
            return {key: unpack(value, arrays) if key in ('result', 'arguments') else value
                    for key, value in header.items()}
        except Exception:                                # whatever a made-up answer trips over
            raise Failure('the answer cannot be read') from None


def remove_folder(folder):
    """Remove a folder with all that a submission has put there, even folders nested too deep for a path or a recursion.

    Every folder inside is moved up beside the outermost one before it is emptied, so that no path grows long.
    """
    found, moved = [folder], 0
    while found:
        current = found.pop()
        with contextlib.suppress(OSError):
            os.chmod(current, 0o700)
            for entry in list(os.scandir(current)):
                if entry.is_dir(follow_symlinks=False):
                    moved += 1
                    found.append(f'{folder}-{moved}')
                    os.chmod(entry.path, 0o700)
                    os.rename(entry.path, found[-1])
                else:
                    os.unlink(entry.path)
            os.rmdir(current)


def environment(folder):
    """What the submission sees of the environment."""
    result = {name: os.environ[name] for name in ('PATH', 'LD_LIBRARY_PATH', 'SYSTEMROOT') if name in os.environ}
    return {**result, 'HOME': folder, 'TMPDIR': folder, 'PYTHONUSERBASE': site.getuserbase(),
            'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1'}


def ending(code):
    return f'the process was ended by signal {-code}' if code < 0 else f'the process ended itself (exit status {code})'


def message(header, arrays):
    header = json.dumps({**header, 'arrays': [[a.dtype.str, a.shape, a.nbytes] for a in arrays]}).encode()
    data = b''.join(a.tobytes() for a in arrays)
    return b''.join([len(header).to_bytes(8, 'big'), header, len(data).to_bytes(8, 'big'), data])


def pack(value, arrays):
    """[kind, value] for JSON; arrays are appended to `arrays`."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return ['array', len(arrays) - 1]
    if isinstance(value, dict):
        return ['dict', [[key, pack(item, arrays)] for key, item in value.items()]]
    if isinstance(value, (list, tuple)):
        return ['list', [pack(item, arrays) for item in value]]
    return ['value', value]


def unpack(tree, arrays):
    """The reverse of the worker's `pack`. Raises whatever it trips over if that is not what was sent."""
    kind, value = tree
    if kind == 'array':
        return arrays[value]
    if kind == 'dict':
        return {key: unpack(item, arrays) for key, item in value if isinstance(key, (int, str))}
    if kind == 'list':
        return [unpack(item, arrays) for item in value]
    if kind == 'value' and isinstance(value, (int, float, str, type(None))):
        return value
    return Other()


def unpack_arrays(headers, data):
    arrays, position = [], 0
    for dtype, shape, size in headers:
        if dtype not in TYPES or size < 0 or position + size > len(data):
            raise ValueError('malformed array')
        arrays.append(np.frombuffer(data[position:position + size], dtype).reshape(shape))
        position += size
    return arrays


class Other:
    """A value of a type that no right answer has."""


# ---------------------------------------------------------------------------------------------------------------
# Processes that the submission has started
# ---------------------------------------------------------------------------------------------------------------


def become_subreaper():
    """On Linux: orphans of our children become our children, so that none gets away by a double fork."""
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)              # PR_SET_CHILD_SUBREAPER


def children():
    """The numbers of our child processes, as Linux tells them; elsewhere none."""
    found = []
    for entry in os.listdir('/proc') if os.path.isdir('/proc/self') else []:
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError):
                status = Path('/proc', entry, 'stat').read_text(errors='replace')
                if int(status.rpartition(')')[2].split()[1]) == os.getpid():
                    found.append(int(entry))
    return found


def kill_orphans(before):
    """Kill the children that we did not have before, until there are none (their own children then come to us)."""
    for _ in range(200):
        orphans = [pid for pid in children() if pid not in before]
        if not orphans:
            return
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


# ---------------------------------------------------------------------------------------------------------------
# Reports
# ---------------------------------------------------------------------------------------------------------------


def rounded(score):
    """Two decimals, and none if they are 0."""
    return int(score) if score == int(score) else round(score, 2)


def total(grade):
    return rounded(sum(score for score, _ in grade.values()))


def report(grade, seed, problem):
    """Feedback question by question, then the table."""
    lines = [f'seed {seed} (--seed {seed} repeats these inputs)', '']
    if problem:
        lines = [f'not graded: {problem}', '']
    elif len({tuple(feedback) for _, feedback in grade.values()}) == 1:
        lines = [f'not graded: {grade["Q1"][1][0]}', '']
    else:
        for question, (_, feedback) in grade.items():
            lines += [question, *(f'    {line}' for line in feedback), '']
    lines += [f'{question}  {QUESTIONS[question][0]:24}{score:6g} of {QUESTIONS[question][1]:3}'
              for question, (score, _) in grade.items()]
    return '\n'.join([*lines, f"{'total':28}{total(grade):6g} of {sum(points for _, points in QUESTIONS.values()):3}"])


def write_gradescope(path, grade, text):
    """Gradescope's results.json."""
    tests = [{'name': f'{question} {QUESTIONS[question][0]}', 'score': score, 'max_score': QUESTIONS[question][1],
              'output': '\n'.join(feedback)} for question, (score, feedback) in grade.items()]
    try:
        Path(path).write_text(json.dumps({'score': total(grade), 'output': text, 'tests': tests}, indent=1) + '\n')
    except OSError as error:
        sys.exit(f'grade.py: error: cannot write {path}: {error.strerror}')


if __name__ == '__main__':
    main()
