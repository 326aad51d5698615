"""Grade a submission of the programming questions Q1-Q7, with the handout's points.

    python grade.py hw7.tar                     a tar as section 9 of the handout describes it, a zip, a folder, or a
                                                cnn_lenet.py
    python grade.py hw7.tar -A                  the last line is Autolab's autoresult
    python grade.py FOLDER --csv scores.csv     all submissions in a folder; the same again goes on where it stopped
    python grade.py --help                      all flags

A submission runs in a cage (cage.py): a process that is sent arguments and sends back what the functions return. Right
answers are worked out here and compared here; the submission never sees them.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import csv
import functools
import io
import json
import os
import secrets
import shutil
import signal
import stat
import sys
import time
from pathlib import Path

if __name__ == '__main__':
    sys.dont_write_bytecode = True

import archive
import cage
import numpy as np
import numpy.random  # here and not when it is first used: by then a submission has run
import sandbox
import submissions

QUESTIONS = {
    'Q1': ('pooling_layer_forward', 20),
    'Q2': ('relu_forward', 3),
    'Q3': ('inner_product_forward', 10),
    'Q4': ('pooling_layer_backward', 20),
    'Q5': ('relu_backward', 3),
    'Q6': ('inner_product_backward', 10),
    'Q7': ('sgd_momentum', 7),
}
HEAD = ['submission', *QUESTIONS, 'total', 'seed', 'remark']      # of a class's table
NO_SUBMISSIONS = ('README.txt', 'submission_metadata.yml', '__MACOSX')


def main(argv=None):
    """Grade, print, write. Exit status 0 if the grading worked, whatever the score; 2 for a wrong call."""
    if not hasattr(os, 'fork'):
        sys.exit('grade.py: error: the grader needs Linux or macOS, which can limit a process; on Windows, use WSL')
    parser = get_parser()
    flags = parser.parse_args(argv)
    if not os.path.exists(flags.submission):
        parser.error(f'{flags.submission}: no such file or folder')
    if flags.csv and not os.path.isdir(flags.submission):
        parser.error(f'{flags.submission} is not a folder; --csv takes a folder of submissions')
    if flags.csv and (flags.autolab or flags.gradescope):
        parser.error('--csv grades a class, --autolab and --gradescope a single submission')
    if not flags.csv and (flags.only or flags.feedback):
        parser.error('--only and --feedback are for a class: they need --csv')
    tier = sandbox.tier()
    if tier.name == sandbox.LIMITS_ONLY and not flags.unconfined:
        parser.error(f'nothing confines a submission here: {printable("; ".join(tier.missing))}; --unconfined runs one '
                     'that you trust')
    if flags.verbose or shutil.which('bwrap') and tier.name != sandbox.BUBBLEWRAP:
        for means in tier.missing:
            print(f'grade.py: missing on this system: {printable(means)}', file=sys.stderr, flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):     # so that what has been started is cleaned up
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    # What a submission has written behind the end of the same file does not stand behind this output.
    import fcntl
    fcntl.fcntl(1, fcntl.F_SETFL, fcntl.fcntl(1, fcntl.F_GETFL) | os.O_APPEND)
    sys.stdout.reconfigure(errors='backslashreplace')
    sys.stderr.reconfigure(errors='backslashreplace')
    seed = secrets.randbelow(2 ** 32) if flags.seed is None else flags.seed
    try:
        if flags.csv:
            grade_class(flags, seed)
        else:
            grade_one(flags, seed)
    except cage.Broken as error:
        sys.exit(f'grade.py: error: cannot start a process for the submission: {printable(str(error))}')
    except BrokenPipeError:                            # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        name = '' if error.filename is None else f': {printable(str(error.filename))}'
        sys.exit(f'grade.py: error: {printable(error.strerror or str(error))}{name}')


def grade_one(flags, seed):
    result = grade(Path(flags.submission), seed, flags)
    if flags.gradescope:
        write_whole(flags.gradescope, gradescope_results(result, seed))
    print(report(result, seed), flush=True)
    if flags.autolab:
        scores = {question: score for question, (score, _) in result.scores.items()}
        print(json.dumps({'scores': scores, 'scoreboard': [total(result)]}), flush=True)


def get_parser():
    parser = argparse.ArgumentParser(prog='grade.py', description='Grade the programming questions of homework 7.')
    parser.add_argument('submission', metavar='SUBMISSION',
                        help='hw7.tar or a zip, a folder with cnn_lenet.py, or a cnn_lenet.py')
    parser.add_argument('--seed', type=whole(0, 2 ** 32 - 1), metavar='N', help='repeat the inputs of an earlier run')
    parser.add_argument('-A', '--autolab', action='store_true', help="print Autolab's autoresult as the last line")
    parser.add_argument('--gradescope', metavar='FILE', help="also write Gradescope's results.json")
    parser.add_argument('--timeout', type=whole(1, 10 ** 6), default=30, metavar='SECONDS',
                        help='time for a question (default: 30)')
    parser.add_argument('--total', type=whole(1, 10 ** 6), default=10 ** 6, metavar='SECONDS',
                        help='time for a submission; what is not graded by then gets no points (default: no limit)')
    parser.add_argument('--memory', type=whole(1, 10 ** 6), default=2000, metavar='MB',
                        help='memory for a process of a submission (default: 2000)')
    parser.add_argument('--verbose', action='store_true', help='name what this system lacks to confine a submission')
    parser.add_argument('--unconfined', action='store_true', help='run what you trust where nothing confines it')
    group = parser.add_argument_group('a class')
    group.add_argument('--csv', metavar='FILE', help='SUBMISSION is a folder of submissions: grade those without a row '
                       'in the table FILE, and write one for each')
    group.add_argument('--only', metavar='NAME', help='grade the submission NAME again, and replace its row')
    group.add_argument('--feedback', metavar='FOLDER', help="also write each student's report to FOLDER/NAME.txt")
    group.add_argument('--jobs', type=whole(1, 1000), default=os.cpu_count(), metavar='N',
                       help='submissions graded at the same time (default: one for each core)')
    return parser


def whole(low, high):
    def number(text):
        if text.isdecimal() and len(text) < 20 and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from {low} to {high}')
    return number


# ---------------------------------------------------------------------------------------------------------------
# A class
# ---------------------------------------------------------------------------------------------------------------


def grade_class(flags, seed):
    """Grade the submissions in a folder that have no row in the table; a row is written as soon as it is known."""
    folder = Path(flags.submission)
    ours = [os.path.realpath(path) for path in (flags.csv, flags.feedback) if path]
    names = sorted(name for name in os.listdir(folder) if not name.startswith('.') and name not in NO_SUBMISSIONS
                   and os.path.realpath(folder / name) not in ours)
    if flags.only and flags.only not in names:
        sys.exit(f'grade.py: error: {printable(str(folder))} holds no submission {printable(flags.only)}')
    if flags.feedback:
        os.makedirs(flags.feedback, exist_ok=True)
    rows = read_table(flags.csv)
    waiting = [flags.only] if flags.only else [name for name in names if cell(name) not in rows]
    before = len(names) - len(waiting)
    with open(flags.csv, 'a', buffering=1, newline='', encoding='utf-8') as file:     # each line is written at once
        table = csv.writer(file, lineterminator='\n')
        if not os.path.isfile(flags.csv) or not os.path.getsize(flags.csv):
            table.writerow(HEAD)
        for count, (name, result) in enumerate(in_parallel(waiting, folder, seed, flags), before + 1):
            if flags.feedback:
                path = os.path.join(flags.feedback, os.fsdecode(os.fsencode(name)[:240]) + '.txt')
                Path(path).write_text(f'{report(result, seed)}\n', encoding='utf-8')
            row = [cell(name), *(score for score, _ in result.scores.values()), total(result), seed, remark(result)]
            if cell(name) in rows:
                rewrite(flags.csv, {**rows, cell(name): row})
            else:
                table.writerow(row)
            print(f'{count} of {len(names)}  {printable(name)}  {total(result)}', file=sys.stderr, flush=True)


def in_parallel(names, folder, seed, flags):
    """Grade submissions, and yield (name, result) as they are done. All that a thread does is wait for its cage."""
    pool = concurrent.futures.ThreadPoolExecutor(flags.jobs)
    futures = {pool.submit(grade, folder / name, seed, flags): name for name in names}
    try:
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    except BaseException:                              # stopped, or a problem of the grader itself
        cage.stopped.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def cell(name):
    """A name as the table has it: not as a formula, which spreadsheets see in what begins with = + - @."""
    text = printable(name)
    return f"'{text}" if text.startswith(('=', '+', '-', '@')) else text


def read_table(path):
    """The rows of an earlier run: dict, name -> row. A row that was cut off is removed from the table."""
    if not os.path.isfile(path) or not os.path.getsize(path):
        return {}
    with open(path, newline='', encoding='utf-8-sig', errors='surrogateescape') as file:
        lines = file.read().splitlines(keepends=True)
    if lines[0].strip() != ','.join(HEAD):
        sys.exit(f'grade.py: error: {printable(path)} is no table of scores: its first line is not '
                 f"{','.join(HEAD)}; move it away, or name another file")
    found = list(csv.reader(lines[1:]))
    rows = {row[0]: row for row in found if len(row) == len(HEAD)}
    if len(rows) < len(found) or not lines[-1].endswith('\n'):
        rewrite(path, rows)
    return rows


def rewrite(path, rows):
    """Replace a table as a whole."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([HEAD, *rows.values()])
    write_whole(path, text.getvalue())


def write_whole(path, text):
    """Put a file in the place of what is there, where a link leads to it: also of a pipe, which a submission may have
    left and which nobody reads. A device is written to."""
    path = os.path.realpath(path)
    device = os.path.exists(path) and stat.S_ISCHR(os.stat(path).st_mode)
    new = path if device else f'{path}.{secrets.token_hex(8)}'
    with open(new, 'w' if device else 'x', newline='', encoding='utf-8', errors='surrogateescape') as file:
        file.write(text)
    try:
        if os.path.isfile(path):
            shutil.copymode(path, new)
        if not device:
            os.replace(new, path)
    except OSError:
        os.remove(new)
        raise


# ---------------------------------------------------------------------------------------------------------------
# Right answers: plain loops, one image, one window at a time, with the arguments of the graded functions
# ---------------------------------------------------------------------------------------------------------------


def structure(data, h, w, c):
    return {'data': data, 'height': h, 'width': w, 'channel': c, 'batch_size': data.shape[1]}


def windows(input, layer):
    """(image, output row, output column, first input row, first input column) of every window."""
    k, stride = layer['k'], layer['stride']
    for n in range(input['batch_size']):
        for i in range((input['height'] - k) // stride + 1):
            for j in range((input['width'] - k) // stride + 1):
                yield n, i, j, i * stride, j * stride


def feature_map(x, key='data'):
    return x[key].reshape(x['height'], x['width'], x['channel'], x['batch_size'])


def pooling_forward(input, layer):
    k, stride, c = layer['k'], layer['stride'], input['channel']
    h_out, w_out = (input['height'] - k) // stride + 1, (input['width'] - k) // stride + 1
    out = np.zeros((h_out, w_out, c, input['batch_size']))
    for n, i, j, row, column in windows(input, layer):
        out[i, j, :, n] = feature_map(input)[row:row + k, column:column + k, :, n].max(axis=(0, 1))
    return structure(out.reshape(h_out * w_out * c, -1), h_out, w_out, c)


def pooling_backward(output, input, layer):
    k, diff = layer['k'], feature_map(output, 'diff')
    od = np.zeros(feature_map(input).shape)
    for n, i, j, row, column in windows(input, layer):
        for channel in range(input['channel']):
            window = feature_map(input)[row:row + k, column:column + k, channel, n]
            a, b = np.unravel_index(window.argmax(), window.shape)
            od[row + a, column + b, channel, n] += diff[i, j, channel, n]
    return od.reshape(input['data'].shape)


def relu_forward(input, layer):
    return {**input, 'data': np.where(input['data'] > 0, input['data'], 0)}


def relu_backward(output, input, layer):
    return np.where(input['data'] > 0, output['diff'], 0)


def inner_product_forward(input, layer, param):
    out = np.zeros((layer['num'], input['batch_size']))
    for n in range(input['batch_size']):
        out[:, n] = param['w'].T @ input['data'][:, n] + param['b']
    return structure(out, 1, 1, layer['num'])


def inner_product_backward(output, input, layer, param):
    param_grad = {'w': np.zeros(param['w'].shape), 'b': np.zeros(param['b'].shape)}
    input_od = np.zeros(input['data'].shape)
    for n in range(input['batch_size']):
        diff = output['diff'][:, n]
        param_grad['w'] += np.outer(input['data'][:, n], diff)
        param_grad['b'] += diff
        input_od[:, n] = param['w'] @ diff
    return param_grad, input_od


def sgd_momentum(w_rate, b_rate, mu, decay, params, param_winc, param_grad):
    """Eqs. (9), (10) and (13)."""
    new_params, new_winc = {}, {}
    for i in params:
        theta = {'w': mu * param_winc[i]['w'] + w_rate * (param_grad[i]['w'] + decay * params[i]['w']),
                 'b': mu * param_winc[i]['b'] + b_rate * param_grad[i]['b']}
        new_params[i], new_winc[i] = {key: params[i][key] - theta[key] for key in 'wb'}, theta
    return new_params, new_winc


# ---------------------------------------------------------------------------------------------------------------
# Cases: what a function is called with, and what it should return
#
# No case may be passed by a wrong formula that agrees with the right one in that case: no batch of one image, no window
# of one element, no rate of 0. Nothing that makes a difference to a wrong solution is left to the seed.
# ---------------------------------------------------------------------------------------------------------------

# arguments and expected are dicts with the names of what they hold; expected has one value for each that is returned, a
# tuple for values any of which will do.
Case = collections.namedtuple('Case', 'title arguments expected')

THE_RESULT = 'the result'                # of a function that returns one value
NAMES = {'Q6': ('param_grad', 'input_od'), 'Q7': ('params_', 'param_winc_')}      # where it returns more

POOLINGS = [(24, 24, 20, 2, 2, 2), (8, 8, 50, 2, 2, 2), (5, 7, 3, 4, 3, 2), (10, 7, 2, 3, 4, 3), (8, 11, 4, 3, 2, 3)]
RELUS = [(1, 1, 500, 2, 1), (4, 5, 3, 6, -1), (3, 2, 4, 3, 1)]
INNER_PRODUCTS = [(4, 4, 50, 2, 500), (2, 3, 2, 5, 4), (3, 2, 1, 3, 6), (1, 1, 20, 3, 10)]
SOLVERS = [(0.1, 0.3, 0.9, 0.5), (0.5, 0.2, 0.4, 0.3), (0.25, 0.75, 0.6, 0.8)]


@functools.cache
def cases_of(question, seed):
    return make_cases(question, np.random.RandomState([seed, int(question[1:])]))


def make_cases(question, rng):
    """The cases of a question, drawn from rng."""
    inputs, function, backward = {
        'Q1': (pooling_inputs, pooling_forward, None), 'Q4': (pooling_inputs, pooling_forward, pooling_backward),
        'Q2': (relu_inputs, relu_forward, None), 'Q5': (relu_inputs, relu_forward, relu_backward),
        'Q3': (inner_product_inputs, inner_product_forward, None),
        'Q6': (inner_product_inputs, inner_product_forward, inner_product_backward),
        'Q7': (solver_inputs, sgd_momentum, None)}[question]
    cases = []
    for title, arguments in inputs(rng):
        right = function(**arguments)
        if question == 'Q3':                           # the handout does not say which of the three sizes is num
            right = tuple({**right, 'channel': 1, size: right['channel']} for size in ('channel', 'height', 'width'))
        if backward:                                   # given the right output: a mistake costs one question alone
            arguments = {'output': {**right, 'diff': rng.randn(*right['data'].shape)}, **arguments}
            right = backward(**arguments)
        cases.append(Case(title, arguments,
                          dict(zip(NAMES[question], right)) if question in NAMES else {THE_RESULT: right}))
    return cases


def pooling_inputs(rng):
    """(title, arguments). No window has a tie, the first image is negative, and where windows overlap the largest value
    of every map lies in all of four windows."""
    for h, w, c, n, k, stride in POOLINGS:
        size = h * w * c * n
        image = (rng.permutation(size) - 0.8 * size).reshape(h, w, c, n)
        image[..., 0] -= size
        for channel in range(c):
            for number in range(n):
                map_ = image[:, :, channel, number]
                place = np.unravel_index(map_.argmax(), map_.shape)
                map_[place], map_[stride, stride] = map_[stride, stride], map_[place]
        yield (f'input {h} x {w} x {c}, batch {n}, k = {k}, stride = {stride}',
               {'input': structure(0.01 * image.reshape(h * w * c, n), h, w, c),
                'layer': {'type': 'POOLING', 'k': k, 'stride': stride, 'pad': 0}})


def relu_inputs(rng):
    """(title, arguments). Half of the values are negative; none is near the kink at 0.

    The sign of the first is fixed: np.vectorize takes its type from it.
    """
    for h, w, c, n, first_sign in RELUS:
        signs = rng.permutation(np.arange(h * w * c * n) % 2 * 2 - 1.0)
        signs *= first_sign * signs[0]
        data = (0.1 + rng.rand(signs.size)) * signs
        yield (f'input {h} x {w} x {c}, batch {n}',
               {'input': structure(data.reshape(h * w * c, n), h, w, c), 'layer': {'type': 'RELU'}})


def inner_product_inputs(rng):
    for h, w, c, n, num in INNER_PRODUCTS:
        param = {'w': rng.randn(h * w * c, num), 'b': rng.randn(num)}
        yield (f'input {h} x {w} x {c}, batch {n}, num = {num}',
               {'input': structure(rng.randn(h * w * c, n), h, w, c),
                'layer': {'type': 'IP', 'num': num, 'init_type': 'uniform'}, 'param': param})


def solver_inputs(rng):
    for rates in SOLVERS:
        arguments = dict(zip(('w_rate', 'b_rate', 'mu', 'decay'), rates))
        title = ', '.join(f'{name} = {rate}' for name, rate in arguments.items())
        shapes = {1: ((25, 4), (4,)), 2: ((0,), (0,)), 3: ((12, 5), (5,)), 4: ((5, 1), (1,))}
        for name in ('params', 'param_winc', 'param_grad'):
            arguments[name] = {i: {'w': 1 + rng.rand(*w), 'b': 1 + rng.rand(*b)} for i, (w, b) in shapes.items()}
        yield f'{title}, 4 layers, one without parameters', arguments


# ---------------------------------------------------------------------------------------------------------------
# Comparing
# ---------------------------------------------------------------------------------------------------------------

# How far a number may be off, as a share of the largest in its array. In single precision, sums of 800 terms one by one
# are off by up to 1.4e-6 of it.
TOLERANCE = 5e-6


def form(value):
    """What the worker needs to know of a right answer: which keys and how many values are looked at."""
    if isinstance(value, dict):
        return ['dict', [[key, form(item)] for key, item in value.items()]]
    if isinstance(value, tuple):
        return form(value[0])
    if isinstance(value, list):
        return ['list', [form(item) for item in value]]
    return ['array' if isinstance(value, np.ndarray) else 'number', None]


def find_mistake(answer, case):
    """What is wrong with the worker's answer to a case, in one line; None if nothing is."""
    try:
        if 'error' in answer:
            return answer['error']
        problem = compare_all(answer['result'], case.expected, case)
        if problem and compare_all(answer['result'], unwritten(case), case) is None:
            return 'not written yet: this is what the starter returns'
        return problem
    except Exception as error:                         # whatever an answer has that comparing trips over is wrong
        return f'{THE_RESULT} cannot be compared ({type(error).__name__}: {error})'


def unwritten(case):
    """What a function of the starter returns: zeros, and the solver what it was given."""
    if 'params' in case.arguments:
        return {'params_': case.arguments['params'], 'param_winc_': case.arguments['param_winc']}
    return zeros(case.expected)


def zeros(value):
    if isinstance(value, dict):
        return {key: zeros(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(zeros, value))
    return np.zeros(value.shape) if isinstance(value, np.ndarray) else value


def compare_all(found, expected, case):
    """What is wrong with all that a function returned, in one line; None if nothing is."""
    sizes = sizes_of(case.arguments['input']) if 'input' in case.arguments else None
    if list(expected) == [THE_RESULT]:
        return compare(found, expected[THE_RESULT], THE_RESULT, sizes)
    if not isinstance(found, list) or len(found) != len(expected):
        return f'{THE_RESULT} is {kind(found)}; expected {", ".join(expected)}'
    return first(compare(a, b, name, sizes) for a, (name, b) in zip(found, expected.items()))


def sizes_of(structure):
    return [structure[key] for key in ('height', 'width', 'channel')]


def first(problems):
    return next((problem for problem in problems if problem), None)


def compare(found, expected, name, sizes):
    """What is wrong with a part of an answer, in one line; None if nothing is. `sizes` are those of the feature maps
    in the rows of an array."""
    if isinstance(expected, tuple):
        problems = [compare(found, item, name, sizes) for item in expected]
        return None if None in problems else problems[0]
    if isinstance(expected, np.ndarray):
        return compare_arrays(found, expected, name, sizes)
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return f'{name} is {kind(found)}; expected a dict'
        missing = [key for key in expected if key not in found]
        if missing:
            return f'{name} lacks the key {missing[0]!r}'
        sizes = sizes_of(expected) if 'height' in expected else None
        return first(compare(found[key], expected[key], f'{name}[{key!r}]', sizes) for key in expected)
    return None if isinstance(found, float) and found == expected else f'{name} is {kind(found)}; expected {expected}'


def kind(value):
    if isinstance(value, float):
        return f'{value:g}'
    if isinstance(value, str):                         # the worker's words for what is no answer
        return value
    return {dict: 'a dict', list: 'a list or tuple'}.get(type(value), 'an array')


def compare_arrays(found, expected, name, sizes):
    if not isinstance(found, np.ndarray):
        return f'{name} is {kind(found)}; expected a plain array of shape {expected.shape}'
    if found.shape != expected.shape:
        return f'{name} has shape {found.shape}; expected {expected.shape}'
    with np.errstate(all='ignore'):
        error = np.abs(found.astype(np.float64) - expected)
    error[~np.isfinite(error)] = np.inf
    wrong = error > TOLERANCE * np.abs(expected).max(initial=0)
    if not wrong.any():
        return None
    worst = np.unravel_index(error.argmax(), error.shape)
    place = f"[{', '.join(map(str, worst))}]"
    if sizes:
        row, column, channel = np.unravel_index(worst[0], sizes)
        place = f'row {row}, column {column}, channel {channel} of image {worst[1]}'
    return (f'{name} is wrong in {int(wrong.sum())} of {error.size} places, most at {place}: {found[worst]:.6g}; '
            f'expected {expected[worst]:.6g}')


def name_change(path, case):
    """A warning about the argument that a function has changed, such as `params[1]`."""
    try:
        name = list(case.arguments)[path[0]] + ''.join(f'[{key!r}]' for key in path[1:4])
    except Exception:                                  # a path that the submission has made up
        name = 'an argument'
    return f'{name[:100]} was changed by the function; no points lost for it'


# ---------------------------------------------------------------------------------------------------------------
# Grading
# ---------------------------------------------------------------------------------------------------------------

# scores: dict, question -> (score, lines of feedback); problem: why nothing was graded, or None
Result = collections.namedtuple('Result', 'scores problem')


def grade(path, seed, flags):
    """Grade a submission. It takes at most (questions + 1) * timeout, and a little for the grader's own work: reading
    and importing the submission end within the first timeout, question number i within the (i + 1)-th; all of it within
    the total."""
    start = time.monotonic()
    deadlines = [start + min((i + 1) * flags.timeout, flags.total) for i in range(len(QUESTIONS) + 1)]
    submission = None
    try:
        submission = submissions.Submission(path, [function for function, _ in QUESTIONS.values()], flags)
        submission.begin(deadlines[0])
        scores = {question: grade_question(question, submission, seed, flags.timeout, deadline)
                  for question, deadline in zip(QUESTIONS, deadlines[1:])}
        return Result(scores, None)
    except (archive.Refused, cage.Failure) as error:
        problem = printable(str(error))
        return Result({question: (0, [f'not graded: {problem}']) for question in QUESTIONS}, problem)
    finally:                                           # also when the grader is stopped
        if submission:
            with contextlib.suppress(cage.Failure):
                submission.end(deadlines[-1])


def grade_question(question, submission, seed, timeout, deadline):
    """(score, feedback) of one question. The calls have `timeout` seconds together, and all is over by the deadline;
    importing the submission again, if that is necessary, is not counted as a part of the timeout."""
    function, points = QUESTIONS[question]
    cases = cases_of(question, seed)
    right, feedback, left, errors = 0, [], timeout, False
    for case in cases:
        problem, warning, note = 'no time was left for this case', None, None
        if left > 0 and time.monotonic() < deadline:
            try:
                submission.begin(deadline)
                start = time.monotonic()
                try:
                    values = list(case.expected.values())
                    wanted = form(values if len(values) > 1 else values[0])
                    answer = submission.call(function, list(case.arguments.values()), wanted,
                                             min(start + left, deadline))
                finally:
                    left -= time.monotonic() - start
                errors = errors or 'error' in answer
                problem = find_mistake(answer, case)
                if answer.get('changed') is not None:
                    warning = name_change(answer['changed'], case)
                if answer.get('printed') and not submission.printed:
                    submission.printed, note = True, 'what the submission prints is not shown'
            except cage.Failure as failure:
                problem = str(failure)
        right += problem is None
        feedback += [f"{'right' if problem is None else 'WRONG'}  {function}, {case.title}",
                     *(f'           {printable(text)}' for text in (problem, warning, note) if text)]
    if errors:
        with contextlib.suppress(cage.Failure):
            submission.end(deadline)                   # it may have left memory or threads behind
    return rounded(points * right / len(cases)), feedback


# ---------------------------------------------------------------------------------------------------------------
# Reports
# ---------------------------------------------------------------------------------------------------------------

MAX_TEXT = 500                           # characters of what a submission has a part in


def printable(text):
    """In one line of limited length, with escapes for whatever a terminal would not show as a letter."""
    text = ' '.join(text[:MAX_TEXT].split())
    return ''.join(char if char.isprintable() else ascii(char)[1:-1] for char in text)[:MAX_TEXT]


def rounded(score):
    """Two decimals, and none if they are 0."""
    return int(score) if score == int(score) else round(score, 2)


def total(result):
    return rounded(round(sum(score for score, _ in result.scores.values()), 2))


def heading(result, seed):
    return f'not graded: {result.problem}' if result.problem else f'seed {seed} (--seed {seed} repeats these inputs)'


def report(result, seed):
    """Feedback question by question, then the table."""
    lines = [heading(result, seed), '']
    if not result.problem:
        for question, (_, feedback) in result.scores.items():
            lines += [question, *(f'    {line}' for line in feedback), '']
    lines += [f'{question}  {QUESTIONS[question][0]:24}{score:6g} of {QUESTIONS[question][1]:3}'
              for question, (score, _) in result.scores.items()]
    return '\n'.join([*lines, f"{'total':28}{total(result):6g} of {sum(points for _, points in QUESTIONS.values()):3}"])


def remark(result):
    """For the table of a class: why nothing was graded, or the first mistake in every question."""
    if result.problem:
        return f'not graded: {result.problem}'
    mistakes = []
    for question, (_, feedback) in result.scores.items():
        wrong = [number for number, line in enumerate(feedback) if line.startswith('WRONG')]
        if wrong:
            mistakes.append(f'{question}: {feedback[wrong[0] + 1].strip()}')
    return '; '.join(mistakes)


def gradescope_results(result, seed):
    """Gradescope's results.json."""
    tests = [{'number': question, 'name': QUESTIONS[question][0], 'score': score, 'max_score': QUESTIONS[question][1],
              'status': 'passed' if score == QUESTIONS[question][1] else 'failed',
              'output': '' if result.problem else '\n'.join(feedback)}
             for question, (score, feedback) in result.scores.items()]
    return json.dumps({'score': total(result), 'output': heading(result, seed), 'tests': tests}, indent=1) + '\n'


if __name__ == '__main__':
    main()
