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
import difflib
import functools
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import signal
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
# What an answer should be, for the report on one that is not.
RULES = {
    'Q1': "output['data'] has the largest number of every window (section 2.4)",
    'Q2': "output['data'] has max(0, x) for every number x of input['data'] (section 2.2)",
    'Q3': "output['data'] has W x + b for every column x of input['data'], where W is w transposed (eq. 3)",
    'Q4': 'input_od has, for every number, the sum of diff over the windows of which it is the largest; 0 without any',
    'Q5': "input_od is diff where input['data'] is positive, and 0 elsewhere",
    'Q6': 'param_grad has data * diff and diff, summed over all images; input_od has w * diff, summed over all outputs',
    'Q7': 'param_winc_ has mu * theta + w_rate * (gradient + decay * w), and mu * theta + b_rate * gradient for b '
          '(eqs. 13, 9); params_ has w and b minus that (eq. 10)',
}
HEAD = ['submission', *QUESTIONS, 'total', 'seed', 'digest', 'remark']      # of a class's table
KINDS = ('', *archive.ARCHIVES, '.rar', '.7z', '.py', '.ipynb', '.m')        # endings of files that are submissions


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
    parser.add_argument('submission', metavar='SUBMISSION', help='a tar, a zip, a folder, or a cnn_lenet.py')
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
    """Grade the submissions in a folder that have no row in the table, or have changed since; a row is written as soon
    as it is known."""
    folder, rows = Path(flags.submission), read_table(flags.csv)
    names, others = find_submissions(folder, flags)
    seed = next((int(row['seed']) for row in rows.values() if row['seed'].isdecimal()), seed)     # a class has one
    if flags.seed not in (None, seed):
        sys.exit(f'grade.py: error: {printable(flags.csv)} was begun with seed {seed}; leave out --seed {flags.seed}, '
                 'or name another table')
    digests = {name: digest(folder / name) for name in ([flags.only] if flags.only else names)}
    waiting = [name for name in digests if flags.only or rows.get(cell(name), {}).get('digest') != digests[name]]
    again = [name for name in waiting if cell(name) in rows]
    if flags.feedback:
        os.makedirs(flags.feedback, exist_ok=True)
    write_table(flags.csv, rows)                       # before the first is graded, whether that works
    for count, (name, result) in enumerate(in_parallel(waiting, folder, seed, flags), len(names) - len(waiting) + 1):
        if flags.feedback:
            path = os.path.join(flags.feedback, os.fsdecode(os.fsencode(name)[:240]) + '.txt')
            Path(path).write_text(f'{report(result, seed)}\n', encoding='utf-8')
        rows = {**rows, cell(name): {**row_of(name, result), 'seed': seed, 'digest': digests[name]}}
        write_table(flags.csv, rows)
        print(f'{count} of {len(names)}  {printable(name)}  {total(result) if result.graded else "not graded"}',
              file=sys.stderr, flush=True)
    for line in summary(rows, names, waiting, again, others):
        print(line, file=sys.stderr, flush=True)


def find_submissions(folder, flags):
    """The names of the submissions in a folder, and of what is none. Ends the grader if two would share a row, or if
    the only one that is wanted is not there."""
    ours = [os.path.realpath(path) for path in (flags.csv, flags.feedback) if path]
    found = sorted(name for name in os.listdir(folder) if not name.startswith('.') and name not in archive.UNREAD
                   and os.path.realpath(folder / name) not in ours)
    names = [name for name in found if (folder / name).is_dir() or os.path.splitext(name.lower())[1] in KINDS]
    rows = {}
    for name in names:
        other = rows.setdefault(cell(name), name)
        if other != name:
            sys.exit(f'grade.py: error: {other!r} and {name!r} would have the same row in a table; rename one of them')
    if flags.only and flags.only not in names:
        near = ([name for name in names if stem(name) == stem(flags.only)]
                or difflib.get_close_matches(flags.only, names))
        sys.exit(f'grade.py: error: {printable(str(folder))} holds no submission {printable(flags.only)}'
                 + (f'; did you mean {listed(near)}?' if near else ''))
    return names, [name for name in found if name not in names]


def stem(name):
    """A name without what says which kind of file it is."""
    return re.sub(rf"({'|'.join(map(re.escape, filter(None, KINDS)))})+$", '', name.lower())


def listed(names):
    return ', '.join(map(printable, names))


def digest(path):
    """The first 12 hex digits of SHA-256: of a file, as sha256sum has it, or of all names and contents in a folder."""
    found = hashlib.sha256()
    with contextlib.suppress(archive.Refused):
        for name, content in sorted(submissions.handed_in(path).items()):
            found.update(os.fsencode(f'{name}\0{len(content)}\0') + content if path.is_dir() else content)
    return found.hexdigest()[:12]


def summary(rows, names, waiting, again, others):
    """Lines on what a class's table holds now."""
    done = [rows[cell(name)] for name in names if cell(name) in rows]
    failed = [row for row in done if row['total'] == '']
    if not waiting:
        yield f'nothing to grade, all {len(names)} have a row'
    yield (f'{len(done)} of {len(names)} submissions have a row: {len(done) - len(failed)} graded, '
           f'{len(failed)} not graded')
    yield from (f"{row['submission']}  {row['remark']}" for row in failed)
    if again:
        yield f'graded again: {listed(again)}'
    stems = [stem(name) for name in names]
    for same in sorted({name for name in stems if stems.count(name) > 1}):
        yield f'of the same student? {listed(name for name in names if stem(name) == same)}'
    if others:
        yield f'no submissions, without a row: {listed(others)}'


def in_parallel(names, folder, seed, flags):
    """Grade submissions, and yield (name, result) as they are done. All that a thread does is wait for its cage."""
    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
        try:
            futures = {pool.submit(grade, folder / name, seed, flags): name for name in names}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except BaseException:                          # stopped, or a problem of the grader itself
            cage.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def cell(name):
    """A name as the table has it: not as a formula, which spreadsheets see in what begins with = + - @."""
    text = printable(name)
    return f"'{text}" if text.startswith(('=', '+', '-', '@')) else text


def read_table(path):
    """The rows of an earlier run: dict, name -> row."""
    if not os.path.isfile(path):
        return {}
    lines = Path(path).read_text('utf-8-sig', 'surrogateescape').splitlines()
    if lines and lines[0] != ','.join(HEAD):
        sys.exit(f"grade.py: error: {printable(path)} is no table of scores: its first line is not {','.join(HEAD)}; "
                 'move it away, or name another file')
    return {row['submission']: row for row in csv.DictReader(lines) if None not in (*row, *row.values())}


def write_table(path, rows):
    """Write a table, sorted. The mark at its beginning tells Excel that it is UTF-8."""
    text = io.StringIO()
    table = csv.DictWriter(text, HEAD, lineterminator='\n')
    table.writeheader()
    table.writerows(rows[name] for name in sorted(rows))
    write_whole(path, '\ufeff' + text.getvalue())


def row_of(name, result):
    """A row without seed and digest. What is not graded has no points, as a spreadsheet would count a 0."""
    points = {question: score for question, (score, _) in result.scores.items()}
    points = {**points, 'total': total(result)} if result.graded else {}
    return {**dict.fromkeys(HEAD, ''), **points, 'submission': cell(name), 'remark': remark(result)}


def write_whole(path, text):
    """Put a file in the place of what is there, where a link leads to it: also of a pipe, which a submission may have
    left and which nobody reads. A device is written to."""
    path = Path(os.path.realpath(path))
    if path.is_char_device():
        path.write_text(text, 'utf-8', 'surrogateescape')
        return
    new = Path(f'{path}.{secrets.token_hex(8)}.tmp')
    try:
        new.write_text(text, 'utf-8', 'surrogateescape')
        if path.is_file():
            shutil.copymode(path, new)
        os.replace(new, path)
    finally:                                           # also if the disk is full, or the grader stopped
        new.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------
# Right answers: as plain as possible, with the arguments of the graded functions
# ---------------------------------------------------------------------------------------------------------------


def structure(data, h, w, c):
    return {'data': data, 'height': h, 'width': w, 'channel': c, 'batch_size': data.shape[1]}


def feature_map(x, key='data'):
    return x[key].reshape(x['height'], x['width'], x['channel'], x['batch_size'])


def windows(x, layer):
    """The numbers of every window: (h_out, w_out, channel, batch_size, k, k)."""
    found = np.lib.stride_tricks.sliding_window_view(feature_map(x), (layer['k'], layer['k']), axis=(0, 1))
    return found[::layer['stride'], ::layer['stride']]


def pooling_forward(input, layer):
    out = windows(input, layer).max(axis=(4, 5))
    return structure(out.reshape(-1, input['batch_size']), *out.shape[:3])


def pooling_backward(output, input, layer):
    found, diff, od = windows(input, layer), feature_map(output, 'diff'), np.zeros(feature_map(input).shape)
    for i, j, channel, n in np.ndindex(diff.shape):
        a, b = np.unravel_index(found[i, j, channel, n].argmax(), found.shape[4:])
        od[i * layer['stride'] + a, j * layer['stride'] + b, channel, n] += diff[i, j, channel, n]
    return od.reshape(input['data'].shape)


def relu_forward(input, layer):
    return {**input, 'data': np.where(input['data'] > 0, input['data'], 0)}


def relu_backward(output, input, layer):
    return np.where(input['data'] > 0, output['diff'], 0)


def inner_product_forward(input, layer, param):
    # By einsum, since a BLAS with threads of its own never ends if another thread starts a process meanwhile.
    out = np.einsum('ij,in->jn', param['w'], input['data']) + param['b'][:, None]
    return structure(out, 1, 1, layer['num'])


def inner_product_backward(output, input, layer, param):
    param_grad = {'w': np.einsum('in,jn->ij', input['data'], output['diff']), 'b': output['diff'].sum(axis=1)}
    return param_grad, np.einsum('ij,jn->in', param['w'], output['diff'])


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

# arguments: dict, name -> value; rights: what should be returned, as `leaves` has it: a list, any of which will do;
# maps: the dict with the sizes of the feature maps that are returned
Case = collections.namedtuple('Case', 'title arguments rights maps')

NAMES = {'Q1': ['output'], 'Q2': ['output'], 'Q3': ['output'], 'Q4': ['input_od'], 'Q5': ['input_od'],
         'Q6': ['param_grad', 'input_od'], 'Q7': ['params_', 'param_winc_']}      # of what a function returns

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
        maps = right = function(**arguments)
        results = [right]
        if question == 'Q3':                           # the handout does not say which of the three sizes is num
            results = [{**right, 'channel': 1, size: right['channel']} for size in ('channel', 'height', 'width')]
        if backward:                                   # given the right output: a mistake costs one question alone
            arguments = {'output': {**right, 'diff': rng.randn(*right['data'].shape)}, **arguments}
            maps, results = arguments['input'], [backward(**arguments)]
        cases.append(Case(title, arguments, [leaves(named(question, result)) for result in results], maps))
    return cases


def named(question, result):
    """What a function returns: dict, name -> value. The last comes first, as params_ are wrong if param_winc_ is."""
    names = NAMES[question]
    return dict(zip(reversed(names), reversed(result) if len(names) > 1 else [result]))


def leaves(value, path=()):
    """The arrays and numbers in a dict of dicts: dict, path of keys -> value."""
    if not isinstance(value, dict):
        return {path: value}
    return {place: leaf for key, item in value.items() for place, leaf in leaves(item, (*path, key)).items()}


def pooling_inputs(rng):
    """(title, arguments). No window has a tie, the first image is negative, and where windows overlap the largest value
    of every map lies in all of four windows."""
    for h, w, c, n, k, stride in POOLINGS:
        size = h * w * c * n
        image = (rng.permutation(size) - 0.8 * size).reshape(h, w, c, n)
        image[..., 0] -= size
        for channel, number in np.ndindex(c, n):
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


def find_mistake(answer, case):
    """What is wrong with the worker's answer to a case, in one line; None if nothing is."""
    if 'error' in answer:
        return str(answer['error'])
    problems = [compare_all(answer['result'], right, case.maps) for right in case.rights]
    if None in problems:
        return None
    if compare_all(answer['result'], unwritten(case), case.maps) is None:
        return 'not written yet: this is what the starter returns'
    return problems[0]


def unwritten(case):
    """What a function of the starter returns: zeros, and the solver what it was given."""
    if 'params' in case.arguments:
        return leaves(named('Q7', (case.arguments['params'], case.arguments['param_winc'])))
    return {path: np.zeros_like(right) if isinstance(right, np.ndarray) else right
            for path, right in case.rights[0].items()}


def compare_all(found, right, maps):
    """What is wrong with the parts of a result, in one line; None if nothing is."""
    problems = (compare(value, expected, path[0] + ''.join(f'[{key!r}]' for key in path[1:]), maps)
                for value, (path, expected) in zip(found, right.items()))
    return next((problem for problem in problems if problem is not None), None)


def compare(found, expected, name, maps):
    """What is wrong with an array or a number, in one line; None if nothing is."""
    if isinstance(found, str):                         # the worker's words for what is neither
        return found
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return f'{name} has shape {found.shape}; expected {expected.shape}'
    with np.errstate(all='ignore'):
        wrong = ~(np.abs(found - expected) <= TOLERANCE * np.abs(expected).max(initial=0))      # so NaN is
    if not wrong.any():
        return None
    place, where = tuple(map(int, np.argwhere(wrong)[0])), ''
    if name in ("output['data']", 'input_od'):
        row, column, channel = np.unravel_index(place[0], [maps[key] for key in ('height', 'width', 'channel')])
        where = f' (row {row}, column {column}, channel {channel} of image {place[1]})'
    more = f'; {int(wrong.sum())} of {wrong.size} numbers differ' if wrong.size > 1 else ''
    return f'{name}{list(place) or ""} is {found[place]:.6g}; expected {expected[place]:.6g}{where}{more}'


# ---------------------------------------------------------------------------------------------------------------
# Grading
# ---------------------------------------------------------------------------------------------------------------

# scores: dict, question -> (score, lines of feedback); problem: why there are no points, or None; graded: whether there
# was anything to grade; head: what it was and how it was confined; notes: more lines above the points
Result = collections.namedtuple('Result', 'scores problem graded head notes', defaults=(True, '', ()))
CONFINED = {sandbox.BUBBLEWRAP: 'confined by bubblewrap', sandbox.ANOTHER_USER: 'confined as another user',
            sandbox.LIMITS_ONLY: 'not confined'}


def grade(path, seed, flags):
    """Grade a submission. It takes at most (questions + 1) * timeout, and a little for the grader's own work: reading
    and importing the submission end within the first timeout, question number i within the (i + 1)-th; all of it within
    the total."""
    start = time.monotonic()
    deadlines = [start + min((i + 1) * flags.timeout, flags.total) for i in range(len(QUESTIONS) + 1)]
    name, submission, problem, notes = os.path.basename(os.path.abspath(path)), None, None, []
    scores = {question: (0, []) for question in QUESTIONS}
    try:
        if not flags.csv:
            check_single(path)
        submission = submissions.Submission(path, [function for function, _ in QUESTIONS.values()], flags)
        submission.begin(deadlines[0])
        scores = {question: grade_question(question, submission, seed, flags.timeout, deadline)
                  for question, deadline in zip(QUESTIONS, deadlines[1:])}
        if submission.warning:
            notes.append(printable(f'warning: importing ended early, but the seven functions are there and are graded: '
                                   f'{submission.warning}'))
        if submission.printed:
            notes.append('what the submission prints is not shown')
    except (archive.Refused, cage.Failure) as error:
        problem = printable(str(error))
    finally:                                           # also when the grader is stopped
        if submission:
            with contextlib.suppress(cage.Failure):
                submission.end(deadlines[-1])
    graded = not problem or problem.startswith('import of ')
    source = submission.source if graded else None     # None also if the import has failed
    of = f'{source} of ' if source not in (None, name) else ''
    head = f"{'graded' if graded else 'read'} {of}{name}, {CONFINED[sandbox.tier().name]}"
    return Result(scores, problem, graded, printable(head), notes)


def check_single(path):
    """Raise Refused if a folder is a class's: no cnn_lenet.py where one is expected, but several archives or folders
    that hold an archive or a cnn_lenet.py."""
    found = []
    with contextlib.suppress(OSError):                 # which is told later
        found = [name for name, _ in submissions.everything(path) if archive.is_taken(name, True)]
    held = sorted({name.split('/')[0] for name in found
                   if re.search(rf'\.(tar|tgz|zip|tar\.\w+)$|/{archive.NAME}$', name, re.IGNORECASE)})
    if len(held) > 1 and archive.NAME not in found and f'hw7/{archive.NAME}' not in found:
        raise archive.Refused(f'the folder holds several submissions: {listed(held[:5])}{", ..." * (len(held) > 5)}; '
                              'hand in one; a class is graded with --csv FILE')


def grade_question(question, submission, seed, timeout, deadline):
    """(score, feedback) of one question. The calls have `timeout` seconds together, and all is over by the deadline;
    importing the submission again, if that is necessary, is not counted as a part of the timeout."""
    function, points = QUESTIONS[question]
    cases = cases_of(question, seed)
    wanted = {'names': NAMES[question], 'leaves': [(path, isinstance(right, np.ndarray))
                                                   for path, right in cases[0].rights[0].items()]}
    mistakes, changes, errors, end = {}, [], False, time.monotonic() + timeout
    for case in cases:
        answer, start = {}, time.monotonic()
        try:
            if start >= min(end, deadline):
                raise cage.Failure('no time was left for this case')
            submission.begin(deadline)
            end += time.monotonic() - start
            answer = submission.call(function, case.arguments, wanted, min(end, deadline))
            problem = find_mistake(answer, case)
        except cage.Failure as failure:
            problem = str(failure)
        if problem is not None:                        # it may be empty, if the submission has made it up
            mistakes.setdefault(printable(problem), []).append(case.title)
        if answer.get('changed'):
            changes.append(f"{str(answer['changed'])[:100]} was changed by the function; no points lost for it")
        submission.printed = submission.printed or bool(answer.get('printed'))
        errors = errors or 'error' in answer
    if errors:
        with contextlib.suppress(cage.Failure):
            submission.end(deadline)                   # it may have left memory or threads behind
    right = len(cases) - sum(map(len, mistakes.values()))
    return rounded(points * right / len(cases)), feedback_on(question, right, len(cases), mistakes, changes)


def feedback_on(question, right, count, mistakes, changes):
    """Lines on a question, if there is anything to say. mistakes: dict, problem -> titles of the cases that have it."""
    lines = [RULES[question]] if mistakes else []
    for problem, (title, *more) in mistakes.items():
        lines += [f'WRONG  {title}' + (f', and {len(more)} more' if more else ''), f'       {problem}']
    lines += map(printable, dict.fromkeys(changes))
    return [f'{QUESTIONS[question][0]}: {right} of {count} cases are right', *lines] if lines else []


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
    score = round(score, 2)
    return int(score) if score == int(score) else score


def total(result):
    return rounded(sum(score for score, _ in result.scores.values()))


def heading(result, seed):
    """What comes before the points."""
    if result.problem:
        return [result.head, f"{'no points' if result.graded else 'not graded'}: {result.problem}"]
    return [result.head, f'seed {seed} (--seed {seed} repeats these inputs)', *result.notes]


def report(result, seed):
    """The table of points, then what is wrong."""
    lines = heading(result, seed)
    if result.graded:
        lines += ['', *(f'{question}  {QUESTIONS[question][0]:24}{score:6g} of {QUESTIONS[question][1]:3}'
                        for question, (score, _) in result.scores.items()),
                  f"{'total':28}{total(result):6g} of {sum(points for _, points in QUESTIONS.values()):3}"]
    for question, (_, feedback) in result.scores.items():
        if feedback:
            lines += ['', f'{question}  {feedback[0]}', *(f'    {line}' for line in feedback[1:])]
    return '\n'.join(lines)


def remark(result):
    """For the table of a class: why there are no points, or the warnings and the first mistake in every question."""
    if result.problem:
        return heading(result, 0)[1]
    remarks = [note for note in result.notes if note.startswith('warning')]
    remarks += [f'{question}: {feedback[3].strip()}' for question, (score, feedback) in result.scores.items()
                if score < QUESTIONS[question][1]]
    return '; '.join(remarks)


def gradescope_results(result, seed):
    """Gradescope's results.json."""
    tests = [{'number': question, 'name': QUESTIONS[question][0], 'score': score, 'max_score': QUESTIONS[question][1],
              'status': 'passed' if score == QUESTIONS[question][1] else 'failed', 'output': '\n'.join(feedback)}
             for question, (score, feedback) in result.scores.items()]
    output = '\n'.join(heading(result, seed))
    return json.dumps({'score': total(result), 'output': output, 'tests': tests}, indent=1) + '\n'


if __name__ == '__main__':
    main()
