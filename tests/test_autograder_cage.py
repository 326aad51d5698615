"""A submission cannot get out of its cage: not as root, not as an ordinary user, not where there are no namespaces.

Every hostile submission here is bounded: what it starts ends by itself after a minute, what it writes is small.
"""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from grading import (
    AUTOGRADER,
    LONG,
    LOOPS,
    NOBODY,
    POINTS,
    SYSTEM_CALLS,
    Grader,
    can_be_nobody,
    graded_here,
    open_folder,
    processes_of,
    relu,
    scores,
    with_function,
    without,
)

LINUX = sys.platform == 'linux'
AS_NOBODY = LINUX and can_be_nobody()
FORGED = '{"scores": {"Q1": 20, "Q2": 999}, "scoreboard": [999]}'
RIGHT = "return {**input, 'data': np.maximum(input['data'], 0)}"


def indented(text):
    return ''.join(f'    {line}\n' for line in text.strip('\n').splitlines())


EVERY_DESCRIPTOR = f'''
import os
for fd in range(64):
    try:
        os.write(fd, b"""\\n{FORGED}\\n""")
    except OSError:
        pass
'''
ALWAYS_EQUAL = '''
    __eq__ = __ne__ = lambda self, other: True
    __array_ufunc__ = lambda self, *a, **k: np.True_
    __hash__ = None
    all = any = __bool__ = lambda self, *a: True
'''
# A message in the worker's own form, with the token that it waits for. The caller's frames have both.
FORGED_ANSWER = '''
import json, os, sys
frame = sys._getframe()
while "request" not in frame.f_locals:
    frame = frame.f_back
def forge(header):
    header = header.encode()
    message = frame.f_locals["request"]["token"].encode() + len(header).to_bytes(8, "big") + header
    for fd in range(3, 64):
        try:
            os.write(fd, message)
        except OSError:
            pass
'''


def hostile(**bodies):
    """The loop solution with other bodies of some functions. What one of them costs, the others do not."""
    source = LOOPS
    for name, body in bodies.items():
        source = with_function(name, indented(body), source)
    return source


# Those that run into a limit of time: (the questions that get no points, source). None stands for all questions.
WAITING = {
    'import sleeps for ever': (None, 'import time\ntime.sleep(1e6)\n' + LOOPS),
    'sleeps for ever': ('Q2', relu('    import time; time.sleep(1e6)')),
    'stops itself': ('Q2', relu('    import os, signal; os.kill(os.getpid(), signal.SIGSTOP)')),
    'descriptors closed': ('Q2', relu('    import os; os.closerange(0, 64)')),
    'answers without end': ('Q2', relu(indented("""
import os, time
while True:
    for fd in range(3, 16):
        try:
            os.write(fd, b"x" * 4096)
        except OSError:
            pass
    time.sleep(0.01)"""))),
    'a child traces its parent': ('Q2', relu(indented("""
import ctypes, os, time
libc = ctypes.CDLL(None)
worker = os.getpid()
if os.fork() == 0:
    if libc.ptrace(0x4206, worker, None, None) == 0:
        libc.ptrace(0x4207, worker, None, None)
    time.sleep(60)
    os._exit(0)
time.sleep(60)"""))),
}

# The others.
QUICK = {
    'syntax error': (None, LOOPS + '\ndef broken(:\n'),
    'import of what is not there': (None, 'import no_such_module\n' + LOOPS),
    'import ends the process': (None, 'import os\nos._exit(0)\n' + LOOPS),
    'source that is not UTF-8': (None, b'name = "\xff\xfe"\n' + LOOPS.encode()),
    'import prints, reads, changes the folder, forges a result on every descriptor': (
        '', 'import os, sys\nprint("x" * 10 ** 6)\nsys.stdin.read()\nopen("left-behind", "w").write("x")\n'
        'os.chdir("/")\n' + EVERY_DESCRIPTOR + LOOPS),
    'NumPy functions replaced, ReLU wrong': ('Q2', relu('    return dict(input)') + (
        '\nfor name in ("array_equal", "allclose", "isclose", "abs", "isfinite"):\n'
        '    setattr(np, name, lambda *a, **k: True)\n')),
    'modules replaced': ('', LOOPS + ('\nimport sys, json, os\njson.dumps = json.loads = lambda *a, **k: "{}"\n'
                                      'os.write = os.read = lambda *a: 0\n'
                                      'fakes = {name: type(sys)(name) for name in ("numpy", "json", "traceback")}\n'
                                      'vars(fakes["numpy"]).update(vars(np), array_equal=lambda *a: True, abs=None)\n'
                                      'sys.modules.update(fakes)\nsys.modules.pop("os")\n')),
    'unbounded allocation': ('Q2', relu('    hoard = []\n    while True: hoard.append(np.ones(10 ** 6))')),
    'a crash, an exit, an endless recursion, a forged result on every descriptor': ('Q2 Q3 Q5 Q7', hostile(
        relu_forward='import os; os.abort()',
        inner_product_forward='return inner_product_forward(input, layer, param)',
        relu_backward='import os; os._exit(0)',
        sgd_momentum=EVERY_DESCRIPTOR + '\nreturn None')),
    'answers that are too large': ('Q2 Q5', hostile(
        relu_forward="return {**input, 'data': np.zeros((2 ** 27, 1))}",
        relu_backward=FORGED_ANSWER + 'forge("[" + "[]," * 20000000 + "[]]")')),
    'forged answers, and answers of the grader': ('Q2 Q5 Q7', hostile(
        relu_forward=f"""
import sys
sys.path.append({str(AUTOGRADER)!r})
import grade
return grade.relu_forward(input)""",
        relu_backward=FORGED_ANSWER + (
            'forge(json.dumps({"sizes": [], "result": ["dict", [[["a"], 7]]], "changed": {"x": [[]]}}))'),
        sgd_momentum=FORGED_ANSWER + (
            'forge(json.dumps({"sizes": [], "line": []})[:-1] + \', "error": \' + "[" * 900 + "]" * 900 + "}")'))),
    'folders nested without end, many files': ('', hostile(
        relu_forward=f"""
import os
if not hasattr(relu_forward, "done"):
    relu_forward.done = True
    for _ in range(MANY // 5):
        os.mkdir("deep" * 20)
        os.chdir("deep" * 20)
    open("file", "w").close()
    os.symlink("/", "link")
    os.chmod(".", 0)
{RIGHT}""",
        relu_backward="""
import os
os.chdir(os.environ["HOME"])
try:
    for number in range(MANY):
        os.close(os.open(f"file-{number}", os.O_CREAT))
except OSError:
    pass
return output['diff'] * (input['data'] > 0)""") + """
import os
# As many as its folder may hold. A disk has no such limit, and takes its time.
MANY = 5100 if os.statvfs(".").f_files < 10 ** 4 else 500
"""),
}

# These start processes: (questions lost, questions lost where no process can be started, source).
PROCESSES = {
    'a thread, a child and a daemon with no ties that stay': ('', None, LOOPS + """
import os, subprocess, sys, threading, time
def thread():
    threading.Thread(target=time.sleep, args=[60], daemon=True).start()
def child():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(0, 64)
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", os.environ["HOME"]], {})
started = 0
for start in (thread, child, daemon):
    try:
        start()
        started += 1
    except (OSError, RuntimeError):
        pass
if started < 3:
    raise RuntimeError(f"{started} of 3 started")
"""),
    'as many processes as there may be, threads without end': ('Q2 Q5', 'Q2 Q5', hostile(
        relu_forward="""
import os, time
for _ in range(500):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)""",
        relu_backward="""
import threading, time
for _ in range(500):
    threading.Thread(target=time.sleep, args=[60], daemon=True).start()""")),
    'forks and exits without end': ('', None, LOOPS + """
import os, time
end = time.monotonic() + 60
if os.fork() == 0:
    os.setsid()
    while time.monotonic() < end:
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            pass
    os._exit(0)
"""),
}

# Answers of relu_forward that are none. What they are does not depend on a cage.
ANSWERS = {
    'sys.exit': 'import sys; sys.exit(0)',
    'exception that cannot be shown': 'class E(Exception):\n    def __str__(self): raise self\nraise E',
    'exception with unprintable characters': r"raise ValueError('\ud800 \x1b[2J\x00 \u202e é')",
    'NaN': "return {**input, 'data': input['data'] * np.nan}",
    'subclass that equals everything': f"class A(np.ndarray):{ALWAYS_EQUAL}\n"
                                       "return {**input, 'data': input['data'].view(A)}",
    'object that equals everything': f'class A:{ALWAYS_EQUAL}\nreturn A()',
    'array of objects': "return {**input, 'data': input['data'].astype(object)}",
    'height is an array': RIGHT.replace('}', ", 'height': np.array([2, 2])}"),
    'height is an empty array': RIGHT.replace('}', ", 'height': np.zeros(0)}"),
    'height is infinite': RIGHT.replace('}', ", 'height': np.inf}"),
    'height is huge': RIGHT.replace('}', ", 'height': 10 ** 5000}"),
    'answer that contains itself': "x = dict(input)\nx['data'] = x\nreturn x",
    'no answer at all': 'pass',
}


@pytest.fixture(scope='module')
def folder():
    with open_folder() as folder:
        yield folder


def grader(folder, name, **settings):
    folder = folder / name
    folder.mkdir()
    return Grader(folder, **settings)


USERS = [None, pytest.param(NOBODY, marks=pytest.mark.skipif(not AS_NOBODY, reason='root alone can be nobody'))]


# Who grades: an ordinary user gets those that are about the cage; without namespaces those that start processes.
FILES = 'folders nested without end, many files'
CAGE = [FILES, 'unbounded allocation', 'answers that are too large', 'forged answers, and answers of the grader']
KINDS = {'as who runs the tests': (None, [], [*WAITING, *QUICK, *PROCESSES]),
         'as an ordinary user': (NOBODY, [], ['stops itself', 'a child traces its parent', *CAGE, *PROCESSES]),
         'without namespaces': (None, ['unshare'], [FILES, *PROCESSES]),
         'as root in a container': (0, ['unshare', 'landlock'], [FILES, *PROCESSES]),
         'as an ordinary user without namespaces': (NOBODY, ['unshare'], [FILES, *PROCESSES])}
HAS_FILTER = LINUX and os.uname().machine in SYSTEM_CALLS
POSSIBLE = [kind for kind, (user, denied, _) in KINDS.items()
            if (AS_NOBODY if user is not None else not (AS_NOBODY and denied)) and (HAS_FILTER or not denied)]
has_filter = pytest.mark.skipif(not HAS_FILTER, reason='no filter for this system')


@pytest.fixture(scope='module', autouse=True)
def graded(folder):
    """All of them being graded, from before the first test on: dict, (kind, name) -> Future of a process.

    Those that wait do so all at the same time. The tests that need the results come last.
    """
    with concurrent.futures.ThreadPoolExecutor(16) as waiting, concurrent.futures.ThreadPoolExecutor(2) as quick:
        yield {**submitted(waiting, folder, WAITING, timeout=10), **submitted(quick, folder, {**QUICK, **PROCESSES})}


def submitted(pool, folder, cases, **settings):
    """Have each of the cases graded by everyone who is to grade it."""
    done = {}
    for kind in POSSIBLE:
        user, denied, names = KINDS[kind]
        one = grader(folder, f'{kind}, {len(cases)}', user=user, denied=denied, **settings)
        for name in filter(cases.get, names):
            done[kind, name] = pool.submit(one.source, cases[name][-1], '--memory', '500')
    return done


def check(process, lost):
    assert scores(process) == without(*(POINTS if lost is None else lost.split()))
    assert 'Traceback' not in process.stdout + process.stderr
    assert '999' not in process.stdout.splitlines()[-1]
    assert process.left == []


def of_kinds(cases):
    return pytest.mark.parametrize('kind, name', [(kind, name) for kind in POSSIBLE for name in KINDS[kind][2]
                                                  if name in cases])


@pytest.fixture(scope='module')
def answered():
    """All of ANSWERS, graded in this process: dict, name -> (scores, feedback)."""
    return {name: graded_here(hostile(relu_forward=body)) for name, body in ANSWERS.items()}


@pytest.mark.parametrize('name', ANSWERS)
def test_an_answer_that_is_none_gets_no_points(answered, name):
    assert answered[name][0] == without('Q2')


def test_arguments_that_are_kept_and_changed_later_make_no_difference():
    source = LOOPS + ('\nkept = []\ndef keeping(function):\n    def call(*arguments):\n'
                      '        for array in kept: array.fill(7)\n'
                      '        kept.extend(a["data"] for a in arguments if isinstance(a, dict) and "data" in a)\n'
                      '        result = function(*arguments)\n        return result\n    return call\n'
                      'relu_forward, relu_backward = keeping(relu_forward), keeping(relu_backward)\n')
    assert graded_here(source)[0] == POINTS


def test_error_texts_are_printed_where_only_ascii_can_be(folder):
    source = hostile(relu_forward=ANSWERS['exception with unprintable characters'])
    process = grader(folder, 'ascii').source(source, LC_ALL='C', PYTHONCOERCECLOCALE='0', PYTHONUTF8='0',
                                             PYTHONIOENCODING='ascii')
    check(process, 'Q2')
    assert r'\ud800 \x1b[2J\x00 \u202e \xe9' in process.stdout


# ---------------------------------------------------------------------------------------------------------------
# What a submission sees and can write
# ---------------------------------------------------------------------------------------------------------------

LOOK = '''
import os, sys
def attempt(name, function):
    try:
        function()
        seen.append(name)
    except OSError:
        pass
def write(path):
    open(path, "w").close()
    os.unlink(path)
seen = []
attempt("the grader", lambda: open({grader!r}).close())
attempt("a submission", lambda: open({beside!r} + "/cnn_lenet.py").close())
attempt("the folder of the submissions", lambda: os.listdir({beside!r}))
attempt("the temporary folder", lambda: os.listdir(os.path.dirname(os.getcwd())))
attempt("processes", lambda: os.listdir("/proc"))
attempt("a process", lambda: open("/proc/%d/status" % os.getppid()).close())
attempt("writing beside its folder", lambda: write(os.getcwd() + "-beside"))
attempt("writing to the temporary folder", lambda: write("/tmp/" + os.path.basename(os.getcwd())))
attempt("writing to Python", lambda: write(os.path.dirname(np.__file__) + "/hw7-test"))
attempt("signals", lambda: os.kill(os.getppid(), 0))
attempt("changing a mode", lambda: os.chmod({beside!r}, 0o755))
attempt("writing to its folder", lambda: write("file"))
attempt("running Python", lambda: os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {{}}), 0))
def relu_forward(input, layer):
    raise ValueError("seen: " + ", ".join(seen))
'''


@pytest.mark.parametrize('user', USERS)
@pytest.mark.parametrize('denied', [[], pytest.param(['unshare'], marks=has_filter),
                                    pytest.param(['landlock'], marks=has_filter)])
def test_a_submission_sees_python_and_its_own_folder(folder, user, denied):
    """With Landlock, whatever else is missing. Without Landlock files can be read, but not written."""
    one = grader(folder, f'look-{user}-{"".join(denied)}', user=user, denied=denied)
    beside = one.folder / 'beside'
    beside.mkdir()
    (beside / 'cnn_lenet.py').write_text(LOOPS)
    if user:
        os.chown(beside, user, user)
    process = one.source(LOOPS + LOOK.format(grader=str(AUTOGRADER / 'grade.py'), beside=str(beside)))
    seen = set(re.search('seen: (.*?) [(]', process.stdout)[1].split(', '))
    may = {'writing to its folder', 'running Python'}
    if 'neither processes nor threads' in process.stderr:
        may = {'writing to its folder', 'changing a mode'}
    if 'signals be sent' in process.stderr:
        may.add('signals')
    if 'landlock' in denied:
        assert 'not on this system: Landlock' in process.stderr
        if 'not on this system: namespaces' not in process.stderr:
            assert not seen & {'writing to the temporary folder', 'writing to Python', 'changing a mode'}
    elif 'not on this system: Landlock' not in process.stderr:
        assert seen == may
    assert process.left == []


def test_nothing_is_imported_once_a_submission_has_run(tmp_path):
    """Whoever could write to the environment's files would change what the grader imports next."""
    (tmp_path / 'cnn_lenet.py').write_text(LOOPS)
    script = f'''
import subprocess, sys
sys.path.insert(0, {str(AUTOGRADER)!r})
sys.dont_write_bytecode = True
import grade
imported, started = [], []
def watch(event, arguments):
    if event == "subprocess.Popen":
        started.append(event)
    if event == "import" and started:
        imported.append(arguments[0])
sys.addaudithook(watch)
grade.main([{str(tmp_path)!r}, "--gradescope", {str(tmp_path / "results.json")!r}, "-A"])
assert started
print(imported)
'''
    process = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, timeout=600)
    assert process.stdout.splitlines()[-1] == '[]', process.stdout + process.stderr


@pytest.mark.parametrize('user', USERS)
def test_the_results_are_the_graders_alone(folder, user):
    """The submission knows where they belong, leaves a daemon that writes there, and has a pipe in the way."""
    one = grader(folder, f'results-{user}', user=user)
    results = one.folder / 'results.json'
    os.mkfifo(results)
    process = one.source(LOOPS + f'''
import os, time
def forge():
    try:
        with open(os.open({str(results)!r}, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK), "w") as file:
            file.write({FORGED!r})
    except OSError:
        pass
forge()
try:
    child = os.fork()
except OSError:
    child = None
if child == 0:
    os.setsid()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        forge()
        time.sleep(0.01)
    os._exit(0)
''', '--gradescope', str(results))
    assert scores(process) == POINTS
    assert json.loads(results.read_text())['score'] == 73
    assert [name for name in os.listdir(one.folder) if name.startswith('.')] == []
    assert processes_of(one.folder) == []


def test_all_questions_are_asked_in_one_process_until_it_ends(folder):
    """So a slow import is paid for once. After a call that ends the process there is a new one."""
    noted = LOOPS + '\nimport os\ncalls = []\n' + ''.join(
        f'def {name}(*a, plain={name}):\n    calls.append({name!r})\n    return plain(*a)\n'
        for name in ('pooling_layer_forward', 'relu_backward'))
    last = '\ndef sgd_momentum(*a):\n    raise ValueError(f"{len(calls)} calls, the first of {calls[0]}")\n'
    one = grader(folder, 'one')
    assert 'ValueError: 8 calls, the first of pooling_layer_forward' in one.source(noted + last).stdout
    ends = with_function('inner_product_forward', '    os._exit(1)', noted) + last
    assert 'ValueError: 3 calls, the first of relu_backward' in one.source(ends).stdout


@pytest.mark.parametrize('moment', ['its folder is made', pytest.param('the submission runs', marks=pytest.mark.skipif(
    not LINUX, reason='looks for a process in /proc'))])
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL], ids=['SIGTERM', 'SIGKILL'])
def test_a_grader_that_is_ended_leaves_nothing(folder, number, moment):
    """The submission says by the name of its process that it runs; the test then waits for the cage to be gone."""
    one = grader(folder, f'ended by {number} when {moment}')
    temporary, name = one.folder / 'temporary', f'hw7-{number:d}-{os.getpid()}'
    temporary.mkdir()
    (one.folder / 'cnn_lenet.py').write_text('import ctypes, time\n'
                                             f'ctypes.CDLL(None).prctl(15, {name.encode()}, 0, 0, 0)\ntime.sleep(60)\n')
    process = subprocess.Popen([*one.program, str(one.folder / 'cnn_lenet.py'), '--timeout', str(LONG)],
                               stdout=subprocess.DEVNULL, env={**os.environ, 'TMPDIR': str(temporary)})
    try:
        # Of a name that says so: Python tries a temporary folder with a file that is gone at once.
        assert wait(lambda: list(temporary.glob('hw7-*')) if moment == 'its folder is made' else is_running(name))
        process.send_signal(number)
        assert process.wait(timeout=LONG) == (143 if number == signal.SIGTERM else -number)
    finally:
        process.kill()
        process.wait()
    assert wait(lambda: not os.listdir(temporary))
    assert wait(lambda: not processes_of(one.folder))


def is_running(name):
    """Whether there is a process of that name."""
    for entry in filter(str.isdigit, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            if Path('/proc', entry, 'comm').read_text().strip() == name:
                return True
    return False


def wait(condition):
    """Whether something comes true before long; it may be true for a moment alone."""
    end = time.monotonic() + LONG
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@has_filter
@pytest.mark.skipif(not AS_NOBODY, reason='there is no other user')
def test_shared_memory_ends_with_its_user(folder):
    """It outlives the processes that made it; in a namespace it would not."""
    source = LOOPS + ('\nimport ctypes\nlibc = ctypes.CDLL(None)\n'
                      'made = [libc.shmget(0, 4096, 0o1600), libc.semget(0, 1, 0o1600), libc.msgget(0, 0o1600)]\n'
                      'def relu_forward(*a):\n    raise ValueError(made)\n')
    process = grader(folder, 'shared memory', user=0, denied=['unshare']).source(source)
    made = map(int, re.search(r'ValueError: \[(\d+), (\d+), (\d+)\]', process.stdout).groups())
    for name, number in zip(('shm', 'sem', 'msg'), made):
        there = {int(line.split()[1]) for line in Path('/proc/sysvipc', name).read_text().splitlines()[1:]}
        assert number not in there


@has_filter
@pytest.mark.skipif(os.geteuid() != 0, reason='root alone has other users')
def test_root_without_any_means_grades_and_says_so(folder):
    """Where the Python installation is closed to others there is then no other user either."""
    process = grader(folder, 'bare', denied=['unshare', 'landlock']).source(LOOPS)
    assert scores(process) == POINTS
    assert 'not on this system: Landlock' in process.stderr and 'namespaces' in process.stderr
    assert process.left == []


# ---------------------------------------------------------------------------------------------------------------
# What those that are hostile have got, and left
# ---------------------------------------------------------------------------------------------------------------


@of_kinds({**QUICK, **PROCESSES})
def test_a_hostile_submission_changes_no_score_but_its_own(graded, kind, name):
    """Without namespaces root still has another user, whose processes it can end at once; others may start none."""
    user, denied, _ = KINDS[kind]
    process = graded[kind, name].result()
    none_may_start = 'neither processes nor threads' in process.stderr
    check(process, PROCESSES[name][1] if none_may_start and name in PROCESSES else {**QUICK, **PROCESSES}[name][0])
    if none_may_start and 'daemon' in name:
        assert 'RuntimeError: 0 of 3 started' in process.stdout
    if 'unshare' in denied:
        assert 'not on this system: namespaces' in process.stderr
        assert none_may_start == bool(user or os.geteuid())
    if user == 0:
        assert 'another user' not in process.stderr


@of_kinds(WAITING)
def test_a_submission_that_waits_changes_no_score_but_its_own(graded, kind, name):
    process = graded[kind, name].result()
    check(process, WAITING[name][0])
    assert 'no answer in time' in process.stdout or name in ('descriptors closed', 'answers without end')


def test_feedback_says_what_went_wrong(graded, answered):
    def text(name):
        return answered[name][1] if name in ANSWERS else graded['as who runs the tests', name].result().stdout

    ended = text('a crash, an exit, an endless recursion, a forged result on every descriptor')
    assert 'signal 6' in ended and 'exit status 0' in ended and 'RecursionError' in ended
    assert 'MemoryError' in text('unbounded allocation')
    assert 'the result is None; expected a dict' in text('no answer at all')
    assert "the result['height'] is an array of shape (2,); expected" in text('height is an array')
    assert 'the answer is too large' in text('answers that are too large')
    assert r'ValueError: \ud800 \x1b[2J\x00 \u202e é' in text('exception with unprintable characters')
    line = hostile(relu_forward=ANSWERS['sys.exit']).splitlines().index('    import sys; sys.exit(0)') + 1
    assert f'SystemExit: 0 (line {line} of cnn_lenet.py)' in text('sys.exit')
    assert 'SyntaxError' in text('syntax error')
    assert "No module named 'no_such_module'" in text('import of what is not there')


@pytest.mark.skipif(not LINUX, reason='looks for processes in /proc')
def test_nothing_is_left(graded, folder):
    for future in graded.values():
        future.result()
    assert processes_of(folder) == []
