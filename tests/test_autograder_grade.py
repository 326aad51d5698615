"""The grader gives right solutions all points, and wrong or hostile ones what they deserve, no more and no less."""

import concurrent.futures
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest

import cnn_lenet

ROOT = Path(cnn_lenet.__file__).resolve().parent
GRADE = ROOT / 'autograder' / 'grade.py'
LOOPS = (ROOT / 'tests' / 'submissions' / 'loops.py').read_text()
POINTS = {'Q1': 20, 'Q2': 3, 'Q3': 10, 'Q4': 20, 'Q5': 3, 'Q6': 10, 'Q7': 7}
MARKER = f'hw7-marker-{os.getpid()}'         # in the command line of processes that hostile submissions start


def changed(old, new):
    """The loop solution with one piece of it replaced."""
    assert LOOPS.count(old) == 1, old
    return LOOPS.replace(old, new)


def relu(body):
    """The loop solution with another body of relu_forward."""
    old = LOOPS[LOOPS.index('def relu_forward(input, layer):'):LOOPS.index('def relu_backward')]
    return LOOPS.replace(old, f'def relu_forward(input, layer):\n{body}\n\n\n')


# A typical student's mistakes, and the question that each loses points in.
WRONG = {
    'the mean of a window': ('Q1', changed(', ch].max()', ', ch].mean()')),
    'windows of 2 x 2 built in': ('Q1', changed(
        'image[i * stride:i * stride + k, j * stride:j * stride + k, ch].max()',
        'image[i * stride:i * stride + 2, j * stride:j * stride + 2, ch].max()')),
    'channels mixed up': ('Q1', changed(', ch].max()', '].max()')),
    'a window begins with 0': ('Q1', changed(', ch].max()', ', ch].max(initial=0)')),
    'stride forgotten': ('Q1', changed(
        'image[i * stride:i * stride + k, j * stride:j * stride + k, ch].max()', 'image[i:i + k, j:j + k, ch].max()')),
    'another order of the axes': ('Q1', changed("= pooled.flatten()", "= pooled.transpose(2, 0, 1).flatten()")),
    'overlapping windows overwrite': ('Q4', changed(', ch] += diff[i, j, ch]', ', ch] = diff[i, j, ch]')),
    'gradient to the smallest': ('Q4', changed('window.argmax()', 'window.argmin()')),
    'gradient to the whole window': ('Q4', changed(
        'od[i * stride + a, j * stride + b, ch] += diff[i, j, ch]',
        'od[i * stride:i * stride + k, j * stride:j * stride + k, ch] += diff[i, j, ch]')),
    'ReLU in place': ('Q2', relu("    input['data'][input['data'] < 0] = 0\n    return dict(input)")),
    'leaky ReLU': ('Q2', changed("np.maximum(input['data'], 0)", "np.maximum(input['data'], 0.01 * input['data'])")),
    'ReLU of the gradient': ('Q5', changed("(input['data'] > 0)", "(output['diff'] > 0)")),
    'bias forgotten': ('Q3', changed(" + param['b']\n", '\n')),
    'gradient of bias not summed': ('Q6', changed("param_grad['b'] += ", "param_grad['b'] = ")),
    'division by the batch size': ('Q6', changed("    return param_grad, input_od",
                                                 "    param_grad['w'] /= n + 1\n    return param_grad, input_od")),
    'decay on b': ('Q7', changed("b_rate * param_grad[i]['b']",
                                 "b_rate * (param_grad[i]['b'] + decay * params[i]['b'])")),
    'sign of the momentum': ('Q7', changed("params[i]['w'] - w_winc", "params[i]['w'] + w_winc")),
    'one rate for both': ('Q7', changed('+ b_rate *', '+ w_rate *')),
    'momentum not kept': ('Q7', changed("param_winc_[i] = {'w': w_winc, 'b': b_winc}",
                                        "param_winc_[i] = dict(param_winc[i])")),
    'decay forgotten': ('Q7', changed(" + decay * params[i]['w']", '')),
}

FORGED = '{"scores": {"Q1": 20, "Q2": 999}, "scoreboard": [999]}'
EVERY_FD = (f"import os\nfor fd in range(64):\n    try:\n        os.write(fd, b'''\\n{FORGED}\\n''')\n"
            '    except OSError:\n        pass\n')
ALWAYS_EQUAL = ('__eq__ = __ne__ = lambda self, other: True\n    __array_ufunc__ = lambda self, *a, **k: np.True_\n'
                '    __hash__ = None\n    all = any = __bool__ = lambda self, *a: True')

# Hostile or broken: (the questions that get no points, source). None stands for all questions.
HOSTILE = {
    'syntax error': (None, LOOPS + '\ndef broken(:\n'),
    'import of what is not there': (None, 'import no_such_module\n' + LOOPS),
    'import sleeps for ever': (None, 'import time\ntime.sleep(1e6)\n' + LOOPS),
    'import exits with 0': (None, 'import sys\nsys.exit(0)\n' + LOOPS),
    'import ends the process': (None, 'import os\nos._exit(0)\n' + LOOPS),
    'source that is not UTF-8': (None, b'name = "\xff\xfe"\n' + LOOPS.encode()),
    'import prints, reads and changes the folder': ('', 'import os, sys\nprint("x" * 10 ** 6)\nsys.stdin.read()\n'
                                                    'open("left-behind", "w").write("x")\nos.chdir("/")\n' + LOOPS),
    'forged result on every descriptor at import': ('', EVERY_FD + LOOPS),
    'NumPy functions replaced': ('', LOOPS + (
        '\nfor name in ("array_equal", "allclose", "isclose", "abs", "isfinite", "frombuffer", "dtype", "asarray"):\n'
        '    setattr(np, name, lambda *a, **k: True)\n')),
    'NumPy functions replaced, ReLU wrong': ('Q2', relu('    return dict(input)') + (
        '\nfor name in ("array_equal", "allclose", "isclose", "abs", "isfinite"):\n'
        '    setattr(np, name, lambda *a, **k: True)\n')),
    'modules replaced': ('', LOOPS + ('\nimport sys, json, os\njson.dumps = json.loads = lambda *a, **k: "{}"\n'
                                      'os.write = os.read = lambda *a: 0\n'
                                      'fakes = {name: type(sys)(name) for name in ("numpy", "json", "traceback")}\n'
                                      'vars(fakes["numpy"]).update(vars(np), array_equal=lambda *a: True, abs=None)\n'
                                      'sys.modules.update(fakes)\nsys.modules.pop("os")\n')),
    'infinite loop': ('Q2', relu('    while True: pass')),
    'sleeps for ever': ('Q2', relu('    import time; time.sleep(1e6)')),
    'unbounded allocation': ('Q2', relu('    hoard = []\n    while True: hoard.append(np.ones(10 ** 6))')),
    'crash of the interpreter': ('Q2', relu('    import os; os.abort()')),
    'sys.exit': ('Q2', relu('    import sys; sys.exit(0)')),
    'os._exit': ('Q2', relu('    import os; os._exit(0)')),
    'endless recursion': ('Q2', relu('    return relu_forward(input, layer)')),
    'exception that cannot be shown': ('Q2', relu(
        '    class E(Exception):\n        def __str__(self): raise self\n    raise E')),
    'forged result printed': ('Q2', relu(f"    print('''{FORGED}''')\n    return {FORGED}")),
    'forged result on every descriptor': ('Q2', relu('    ' + EVERY_FD.replace('\n', '\n    ') + '\n    return None')),
    'descriptors closed': ('Q2', relu('    import os; os.closerange(0, 64)')),
    'NaN': ('Q2', relu("    return {**input, 'data': input['data'] * np.nan}")),
    'subclass that equals everything': ('Q2', relu(
        f"    class A(np.ndarray):\n        {ALWAYS_EQUAL}\n    return {{**input, 'data': input['data'].view(A)}}"
        .replace('\n    __', '\n        __').replace('\n    all', '\n        all'))),
    'object that equals everything': ('Q2', relu(
        f'    class A:\n        {ALWAYS_EQUAL}\n    return A()'
        .replace('\n    __', '\n        __').replace('\n    all', '\n        all'))),
    'array of objects': ('Q2', relu("    return {**input, 'data': input['data'].astype(object)}")),
    'answer of a gigabyte': ('Q2', relu("    return {**input, 'data': np.zeros((2 ** 27, 1))}")),
    'answer that contains itself': ('Q2', relu("    x = dict(input)\n    x['data'] = x\n    return x")),
    'no answer at all': ('Q2', relu('    pass')),
    'arguments kept and changed later': ('', LOOPS + (
        '\nkept = []\ndef keeping(function):\n    def call(*arguments):\n'
        '        for array in kept: array.fill(7)\n'
        '        kept.extend(a["data"] for a in arguments if isinstance(a, dict) and "data" in a)\n'
        '        result = function(*arguments)\n        return result\n    return call\n'
        'relu_forward, relu_backward = keeping(relu_forward), keeping(relu_backward)\n')),
    'folders nested without end': ('', relu(
        "    import os\n    if not os.path.exists('deep'):\n        for _ in range(2000):\n"
        "            os.mkdir('deep')\n            os.chdir('deep')\n"
        "    open('file', 'w').close()\n    os.symlink('/', 'link')\n    os.chmod('.', 0)\n"
        "    return {**input, 'data': np.maximum(input['data'], 0)}")),
    'background thread': ('', LOOPS + ('\nimport threading, time\ndef on():\n    while True: time.sleep(0.01)\n'
                                       'threading.Thread(target=on).start()\n')),
    'child process that stays': ('', LOOPS + (
        '\nimport subprocess, sys\nsubprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", '
        f'"{MARKER}"])\n')),
    'daemon with no ties': ('', LOOPS + (
        '\nimport os, sys\nif os.fork() == 0:\n    os.setsid()\n    if os.fork():\n        os._exit(0)\n'
        '    os.closerange(0, 64)\n    os.execve(sys.executable, '
        f'[sys.executable, "-c", "import time; time.sleep(600)", "{MARKER}"], {{}})\n')),
}


def grade(path, *flags):
    """Grade a submission, with a folder for temporary files of its own. Returns the process and that folder's names."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.run([sys.executable, str(GRADE), str(path), '--timeout', '6', '--memory', '800', '-A',
                                  *flags],
                                 capture_output=True, text=True, timeout=120, env={**os.environ, 'TMPDIR': folder})
        return process, os.listdir(folder)


def scores(process):
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])['scores']


@pytest.fixture(scope='module')
def graded(tmp_path_factory):
    """All of the above, graded: dict, name -> what `grade` returns. Most of the time they wait, so five at a time."""
    folder = tmp_path_factory.mktemp('submissions')
    paths = {}
    for number, (name, (_, source)) in enumerate({**WRONG, **HOSTILE}.items()):
        paths[name] = folder / str(number) / 'cnn_lenet.py'
        paths[name].parent.mkdir()
        paths[name].write_bytes(source if isinstance(source, bytes) else source.encode())
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        return dict(zip(paths, pool.map(grade, paths.values())))


@pytest.mark.parametrize('path', [ROOT / 'cnn_lenet.py', ROOT / 'tests' / 'submissions' / 'loops.py'],
                         ids=['the solution', 'loops over images and windows'])
def test_a_right_solution_gets_all_points(path, tmp_path):
    process, left = grade(path, '--gradescope', str(tmp_path / 'results.json'))
    assert scores(process) == POINTS
    assert json.loads(process.stdout.splitlines()[-1])['scoreboard'] == [73]
    assert 'total                           73 of  73' in process.stdout
    assert left == []
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['score'] == 73
    assert [(test['score'], test['max_score']) for test in results['tests']] == [(n, n) for n in POINTS.values()]


@pytest.mark.parametrize('name', WRONG)
def test_a_mistake_costs_points_in_its_question_alone(graded, name):
    question, _ = WRONG[name]
    process, _ = graded[name]
    found = scores(process)
    assert found.pop(question) < POINTS[question]
    assert found == {other: points for other, points in POINTS.items() if other != question}
    assert 'WRONG' in process.stdout


@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_submission_changes_no_score_but_its_own(graded, name):
    lost, _ = HOSTILE[name]
    process, left = graded[name]
    expected = {question: 0 if lost is None or question == lost else points for question, points in POINTS.items()}
    assert scores(process) == expected
    assert 'Traceback' not in process.stdout + process.stderr
    assert '999' not in process.stdout.splitlines()[-1]
    assert left == []


def test_no_process_is_left(graded):
    for folder in os.listdir('/proc'):
        if folder.isdigit():
            try:
                command = Path('/proc', folder, 'cmdline').read_bytes()
            except OSError:
                continue
            assert MARKER.encode() not in command


def test_feedback_says_what_is_wrong_and_where(graded):
    def text(name):
        return graded[name][0].stdout

    assert 'input 5 x 7 x 3, batch 4, k = 3, stride = 2' in text('windows of 2 x 2 built in')
    assert 'finite differences give' in text('gradient to the smallest')
    assert "argument 1 was changed (its 'data')" in text('ReLU in place')
    assert "params_[1]['b'] is wrong" in text('decay on b')
    assert 'no answer in time' in text('infinite loop')
    assert 'signal 6' in text('crash of the interpreter')
    assert 'exit status 0' in text('os._exit')
    assert 'MemoryError' in text('unbounded allocation')
    assert "the result is None; expected a dict" in text('no answer at all')
    line = HOSTILE['sys.exit'][1].splitlines().index('    import sys; sys.exit(0)') + 1
    assert f'SystemExit: 0 (line {line} of cnn_lenet.py)' in text('sys.exit')
    assert 'SyntaxError' in text('syntax error')
    assert "No module named 'no_such_module'" in text('import of what is not there')


def test_a_seed_repeats_the_inputs():
    path = ROOT / 'tests' / 'submissions' / 'loops.py'
    wrong = Path(tempfile.mkdtemp()) / 'cnn_lenet.py'
    wrong.write_text(path.read_text().replace("np.maximum(input['data'], 0)", "input['data']"))
    first, again, other = (grade(wrong, '--seed', seed)[0].stdout for seed in ('5', '5', '6'))
    wrong.unlink()
    wrong.parent.rmdir()
    assert first == again
    assert first.splitlines()[1:] != other.splitlines()[1:]


# ---------------------------------------------------------------------------------------------------------------
# Archives
# ---------------------------------------------------------------------------------------------------------------


def member(name, content=b'', **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def write_tar(path, *members, mode='w'):
    with tarfile.open(path, mode) as tar:
        for info, content in members:
            tar.addfile(info, content)
    return path


SOURCE = LOOPS.encode()


@pytest.mark.parametrize('names, mode', [
    (['hw7/cnn_lenet.py'], 'w'), (['./hw7/cnn_lenet.py'], 'w'), (['cnn_lenet.py'], 'w'), (['hw7/cnn_lenet.py'], 'w:gz'),
    (['hw7/cnn_lenet.py', 'hw7/._cnn_lenet.py', 'hw7/notes.txt', 'hw7/old/cnn_lenet.py'], 'w')])
def test_a_tar_as_students_make_them_is_graded(tmp_path, names, mode):
    path = write_tar(tmp_path / 'hw7.tar', member('hw7', type=tarfile.DIRTYPE),
                     *(member(name, SOURCE) for name in names), mode=mode)
    assert scores(grade(path)[0]) == POINTS


def test_a_folder_is_graded(tmp_path):
    (tmp_path / 'hw7').mkdir()
    (tmp_path / 'hw7' / 'cnn_lenet.py').write_bytes(SOURCE)
    assert scores(grade(tmp_path)[0]) == POINTS


GOOD = ('hw7/cnn_lenet.py', SOURCE)
BAD_TARS = {
    'an absolute path': ([GOOD, ('/etc/cnn_lenet.py', SOURCE)], 'expected paths inside'),
    'a path out of the folder': ([GOOD, ('hw7/../../x', b'x')], 'expected paths inside'),
    'a symbolic link': ([('hw7/cnn_lenet.py', b'', {'type': tarfile.SYMTYPE, 'linkname': '/etc/passwd'})], 'link'),
    'a hard link': ([GOOD, ('hw7/x', b'', {'type': tarfile.LNKTYPE, 'linkname': '/etc/passwd'})], 'link'),
    'a device': ([GOOD, ('hw7/x', b'', {'type': tarfile.CHRTYPE, 'devmajor': 1, 'devminor': 5})], 'device'),
    'a pipe': ([GOOD, ('hw7/x', b'', {'type': tarfile.FIFOTYPE})], 'device'),
    'two copies': ([GOOD, ('cnn_lenet.py', SOURCE)], '2 files cnn_lenet.py'),
    'the same name twice': ([GOOD, GOOD], '2 files cnn_lenet.py'),
    'none': ([('hw7/other.py', SOURCE)], '0 files cnn_lenet.py'),
    'a large source': ([('hw7/cnn_lenet.py', SOURCE + b'#' * 2 ** 20)], 'bytes; expected at most'),
    'too many files': ([GOOD, *((f'hw7/{i}', b'') for i in range(1000))], 'more than 1000 files'),
}


@pytest.mark.parametrize('name', BAD_TARS)
def test_a_bad_tar_gets_no_points_and_one_line_saying_why(tmp_path, name):
    members, reason = BAD_TARS[name]
    path = write_tar(tmp_path / 'hw7.tar', *(member(n, content, **(fields[0] if fields else {}))
                                             for n, content, *fields in members))
    check_refused(path, reason)


def check_refused(path, reason):
    process, left = grade(path)
    assert scores(process) == dict.fromkeys(POINTS, 0)
    assert process.stdout.startswith('not graded: ') and reason in process.stdout.splitlines()[0]
    assert process.stderr == '' and left == []


def test_a_bomb_of_zeros_is_not_unpacked(tmp_path):
    path = tmp_path / 'hw7.tar'
    with tarfile.open(path, 'w:gz', compresslevel=9) as tar:
        info = tarfile.TarInfo('hw7/zeros')
        info.size = 2 ** 28
        with open('/dev/zero', 'rb') as zeros:
            tar.addfile(info, zeros)
        tar.addfile(*member(*GOOD))
    assert path.stat().st_size < 2 ** 20
    check_refused(path, 'more than 50 MB')


@pytest.mark.parametrize('content', [b'', b'no tar at all' * 100, b'\x1f\x8b' + b'x' * 100])
def test_what_is_no_tar_is_refused(tmp_path, content):
    path = tmp_path / 'hw7.tar'
    path.write_bytes(content)
    check_refused(path, 'tar')


def test_a_link_in_a_folder_is_refused(tmp_path):
    (tmp_path / 'cnn_lenet.py').symlink_to(ROOT / 'cnn_lenet.py')
    check_refused(tmp_path, 'link')


@pytest.mark.parametrize('flags, words', [
    (['missing.tar'], 'missing.tar: no such file'), (['.', '--seed', 'x'], "'x' is not a whole number"),
    (['.', '--timeout', '0'], "'0' is not a whole number"), ([], 'SUBMISSION')])
def test_a_wrong_call_is_one_line_of_error(flags, words):
    process = subprocess.run([sys.executable, str(GRADE), *flags], capture_output=True, text=True)
    assert process.returncode == 2
    assert words in process.stderr.splitlines()[-1]


def test_a_grader_that_is_stopped_cleans_up(tmp_path):
    path = tmp_path / 'cnn_lenet.py'
    path.write_text(HOSTILE['import sleeps for ever'][1])
    (tmp_path / 'temporary').mkdir()
    process = subprocess.Popen([sys.executable, str(GRADE), str(path)], stdout=subprocess.DEVNULL,
                               env={**os.environ, 'TMPDIR': str(tmp_path / 'temporary')})
    temporary = tmp_path / 'temporary'
    while not any('cnn_lenet.py' in os.listdir(temporary / folder) and len(os.listdir(temporary / folder)) > 1
                  for folder in os.listdir(temporary)):            # until the submission's process has its folder
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=20) == 143
    assert os.listdir(temporary) == []
