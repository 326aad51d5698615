"""A submission cannot get out of its cage, in any of the tiers that this machine offers.

Every hostile submission here is bounded: what it starts ends by itself after a minute, what it writes is small.
"""

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from grading import (
    AUTOGRADER,
    LONG,
    LOOPS,
    POINTS,
    Grader,
    in_tiers,
    needs_posix,
    open_folder,
    path_without_bubblewrap,
    processes_of,
    relu,
    scores,
    why_not,
    with_function,
    without,
)

needs_posix()

LINUX = sys.platform == 'linux'
CONFINED = ['bubblewrap', 'bubblewrap, ordinary user', 'another user']
LIMITS_ONLY = 'limits only'
FORGED = '{"scores": {"Q1": 20, "Q2": 999}, "scoreboard": [999]}'


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


LEFT = 10 ** 8 + os.getpid()                     # the key of what is left behind


# Those that run into a limit of time: (the questions that get no points, source). None stands for all questions.
WAITING = {
    'import sleeps for ever': (None, 'import time\ntime.sleep(1e6)\n' + LOOPS),
    'sleeps for ever': ('Q2', relu('    import time; time.sleep(1e6)')),
    'stops itself': ('Q2', relu('    import os, signal; os.kill(os.getpid(), signal.SIGSTOP)')),
    'descriptors closed': ('Q2', relu('    import os, time; os.closerange(0, 64); time.sleep(60)')),
    'answers without end': ('Q2', relu(indented("""
import os, time
while True:
    for fd in range(3, 16):
        try: os.write(fd, b"x" * 4096)
        except OSError: pass
    time.sleep(0.01)"""))),
    'children kill and stop all that they can': ('Q2', relu(indented("""
import os, signal, time
end = time.monotonic() + 60
for number in signal.SIGSTOP, signal.SIGKILL:
    if os.fork() == 0:
        while time.monotonic() < end:
            try: os.kill(-1, number)
            except OSError: pass
        os._exit(0)
time.sleep(60)"""))),
}

# The others.
QUICK = {
    'source that is not UTF-8': (None, b'name = "\xff\xfe"\n' + LOOPS.encode()),
    'import prints, reads, changes the folder, forges a result on every descriptor': (
        '', 'import os, sys\nprint("x" * 10 ** 6)\nsys.stdin.read()\nopen("left-behind", "w").write("x")\n'
        'os.chdir("/")\n' + EVERY_DESCRIPTOR + LOOPS),
    'NumPy functions replaced, ReLU wrong': ('Q2', relu('    return dict(input)') + (
        '\nfor name in ("array_equal", "allclose", "isclose", "abs", "isfinite"):\n'
        '    setattr(np, name, lambda *a, **k: True)\n')),
    'unbounded allocation': ('Q2', relu('    hoard = []\n    while True: hoard.append(np.ones(10 ** 6))')),
    'a crash, an exit, an endless recursion, a forged result on every descriptor': ('Q2 Q3 Q5 Q7', hostile(
        relu_forward='import os; os.abort()',
        inner_product_forward='return inner_product_forward(input, layer, param)',
        relu_backward='import os; os._exit(0)',
        sgd_momentum=EVERY_DESCRIPTOR + '\nreturn None')),
    'answers that are too large': ('Q2 Q3 Q5', hostile(
        relu_forward="return {**input, 'data': np.zeros((2 ** 27, 1))}",
        inner_product_forward=FORGED_ANSWER + 'forge(json.dumps({"sizes": [2 ** 26] * 9, "result": 1}))',
        relu_backward=FORGED_ANSWER + 'forge("[" + "[]," * 20000000 + "[]]")')),
    'forged answers': ('Q5 Q7', hostile(
        relu_backward=FORGED_ANSWER + (
            'forge(json.dumps({"sizes": [], "result": ["dict", [[["a"], 7]]], "changed": {"x": [[]]}}))'),
        sgd_momentum=FORGED_ANSWER + (
            'forge(json.dumps({"sizes": [], "line": []})[:-1] + \', "error": \' + "[" * 900 + "]" * 900 + "}")'))),
    'folders nested without end, many files': ('', LOOPS + """
import os
for _ in range(1500):
    os.mkdir("deep" * 20)
    os.chdir("deep" * 20)
os.symlink("/", "link")
os.chmod(".", 0)
os.chdir(os.environ["HOME"])
for number in range(2000):
    os.close(os.open(f"file-{number}", os.O_CREAT))
"""),
    'shared memory, folders in the places that are open to everyone': ('', LOOPS + f"""
import ctypes, os
libc = ctypes.CDLL(None)
for make, size in (libc.shmget, [4096]), (libc.semget, [1]), (libc.msgget, []):
    if make({LEFT}, *size, 0o1600) < 0:
        raise OSError("not made")
for folder in "/dev/shm", "/tmp":
    os.makedirs(f"{{folder}}/hw7-{LEFT}-{{os.getuid()}}/closed/inside")
    os.chmod(f"{{folder}}/hw7-{LEFT}-{{os.getuid()}}/closed", 0)
"""),
    'a thread, a child and a daemon with no ties that stay': ('', LOOPS + """
import os, subprocess, sys, threading, time
threading.Thread(target=time.sleep, args=[60], daemon=True).start()
subprocess.Popen(["sleep", "60"])
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 64)
    os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", os.environ["HOME"]], {})
"""),
    'as many processes as there may be, threads without end': ('Q2 Q5', hostile(
        relu_forward='import os, time\nfor _ in range(500):\n    if os.fork() == 0: time.sleep(60), os._exit(0)',
        relu_backward='import threading, time\n'
                      'for _ in range(500): threading.Thread(target=time.sleep, args=[60], daemon=True).start()')),
    'forks and exits without end': ('', LOOPS + """
import os, time
end = time.monotonic() + 60
if os.fork() == 0:
    os.setsid()
    while time.monotonic() < end:
        try:
            if os.fork(): os._exit(0)
        except OSError: pass
    os._exit(0)
"""),
}
PROCESSES = list(QUICK)[-4:]                     # and other things that may be left behind
FILES = list(QUICK)[-5]

# What students do, right in every tier but the last.
HONEST = {
    'threads': ('', LOOPS + """
from concurrent.futures import ThreadPoolExecutor
assert list(ThreadPoolExecutor(16).map(abs, range(-99, 0)))[0] == 99
"""),
    'processes': ('', LOOPS + """
import multiprocessing
with multiprocessing.Pool(4) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
assert multiprocessing.Array("d", 5 * 10 ** 6)[-1] == 0
"""),
    'what it knows of the user, files, output': ('', LOOPS + """
import getpass, os, subprocess, sys, tempfile
print(getpass.getuser(), os.path.expanduser("~"), os.cpu_count(), sys.stdout.encoding, "\\u2713")
sys.stdout.buffer.write(b"raw")
with tempfile.TemporaryFile() as file:
    file.write(bytes(10 ** 8))
subprocess.run([sys.executable, "-c", "import scipy, matplotlib"], check=True)
"""),
}


@pytest.fixture(scope='module')
def folder():
    with open_folder() as folder:
        yield folder


@pytest.fixture
def grader(folder, request):
    """A function that makes a grader in a folder of its own."""
    def make(tier=None):
        place = folder / re.sub('[^a-zA-Z]+', '-', request.node.name)
        place.mkdir()
        return Grader(place, tier)
    return make


# All questions are asked in one process until it ends, so a slow import is paid for once.
NOTED = LOOPS + '\nimport os\ncalls = []\n' + ''.join(
    f'def {name}(*a, plain={name}):\n    calls.append({name!r})\n    return plain(*a)\n'
    for name in ('pooling_layer_forward', 'relu_backward')) + """
def sgd_momentum(*a):
    raise ValueError(f"{len(calls)} calls, the first of {calls[0]}")
"""
OTHERS = {'calls noted': ('Q7', NOTED), 'calls noted, a process ended': ('Q3 Q7', with_function(
    'inner_product_forward', '    os._exit(1)', NOTED))}
CASES = {**WAITING, **QUICK, **HONEST, **OTHERS}

# Who grades which of them: the best tier all, the others that in which they differ. Where memory runs out before the
# number of threads does, Thread.start() may wait for ever (github.com/python/cpython/issues/140746); a thread of
# free-threaded Python has 40 MB.
NEEDS_MORE = {*PROCESSES, *HONEST, 'children kill and stop all that they can'}     # than limits
ALL = [name for name in CASES if name not in NEEDS_MORE or not why_not('bubblewrap') or not why_not('another user')]
GRADED = {None: ALL, 'bubblewrap, ordinary user': ['stops itself', FILES, *PROCESSES, *HONEST],
          'another user': ['stops itself', 'children kill and stop all that they can', 'unbounded allocation', FILES,
                           *PROCESSES, *HONEST],
          LIMITS_ONLY: [FILES]}
GRADED = {tier: names for tier, names in GRADED.items() if tier is None or not why_not(tier)}


@pytest.fixture(scope='module', autouse=True)
def graded(folder):
    """All of them being graded, from before the first test on: dict, tier -> Future of what `several` returns.

    The tests that need the results come last.
    """
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield {tier: pool.submit(grade_all, folder / f'{tier}', tier) for tier in GRADED}


def grade_all(place, tier):
    place.mkdir()
    return Grader(place, tier).several({
        name: (CASES[name][1], (CASES[name][0] or 'import') if name in WAITING else '',
               ['--memory', '4000' if name in NEEDS_MORE else '500']) for name in GRADED[tier]})


def test_error_texts_are_printed_where_only_ascii_can_be(grader):
    source = relu(r"    raise ValueError('\ud800 \x1b[2J\x00 \u202e é')")
    process = grader().source(source, LC_ALL='C', PYTHONCOERCECLOCALE='0', PYTHONUTF8='0', PYTHONIOENCODING='ascii')
    assert scores(process) == without('Q2') and process.stderr == '' and process.left == []
    assert r'\ud800 \x1b[2J\x00 \u202e \xe9' in process.stdout


# ---------------------------------------------------------------------------------------------------------------
# What a submission sees and can write: the table in autograder/README.md
# ---------------------------------------------------------------------------------------------------------------

LOOK = '''
import ctypes, os, socket, sys
libc, seen = ctypes.CDLL(None), []
def attempt(name, function, *arguments):
    try:
        if function(*arguments) != -1:
            seen.append(name)
    except OSError:
        pass
def write(path):
    open(path, "w").close()
    os.unlink(path)
attempt("files", open, {beside!r} + "/cnn_lenet.py")
attempt("folders", os.listdir, {beside!r})
attempt("sockets", socket.socket(socket.AF_UNIX).connect, {beside!r} + "/socket")
attempt("network", socket.create_connection, ("127.0.0.1", {port}))
attempt("processes", lambda: -1 if len([name for name in os.listdir("/proc") if name.isdigit()]) < 5 else 0)
attempt("signals", os.kill, {process}, 0)
attempt("keys", libc.syscall, {{"x86_64": 250, "aarch64": 219}}.get(os.uname().machine, 0), 0, -4, 1)
attempt("modes", os.chmod, {beside!r}, 0o755)
attempt("writing where everyone may", write, {beside!r} + "/open/new")
attempt("writing beside its folder", write, os.getcwd() + "-beside")
attempt("writing to Python", write, os.path.dirname(np.__file__) + "/hw7-test")
attempt("writing to /dev", write, "/dev/hw7-test")
attempt("PYTHONPATH", lambda: [-1, 0][{beside!r} in sys.path])
attempt("its folder", write, "file")
attempt("programs", lambda: os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {{}}), 0))
def relu_forward(input, layer):
    raise ValueError("seen: " + ", ".join(seen))
'''
# In bubblewrap, /tmp is its own.
OF_OTHERS = {'files', 'folders', 'sockets', 'network', 'processes', 'writing where everyone may'}
SEEN = {'bubblewrap': {'writing beside its folder'}, 'another user': OF_OTHERS,
        LIMITS_ONLY: {*OF_OTHERS, 'writing beside its folder', 'signals', 'modes'}}


@in_tiers()
def test_a_submission_sees_and_writes_what_the_tier_allows(grader, tier):
    tcp = socket.create_server(('127.0.0.1', 0))
    with open_folder() as beside, socket.socket(socket.AF_UNIX) as server, tcp:
        (beside / 'cnn_lenet.py').write_text(LOOPS)
        server.bind(str(beside / 'socket'))
        server.listen()
        (beside / 'open').mkdir()
        one = grader(tier)
        os.chown(beside, one.user or os.getuid(), -1)
        for path in ('socket', 'open'):
            os.chmod(beside / path, 0o777)
        with subprocess.Popen(['sleep', '60'], user=one.user) as other:
            source = LOOPS + LOOK.format(beside=str(beside), port=tcp.getsockname()[1], process=other.pid)
            process = one.source(source, PYTHONPATH=str(beside))
            other.kill()
    seen = set(re.search('seen: (.*?) [(]', process.stdout)[1].split(', '))
    may = {'its folder'} | ({'programs'} if tier != LIMITS_ONLY else set())
    mine = tier == LIMITS_ONLY and not one.user and os.access(np.__path__[0], os.W_OK)     # an environment of one's own
    assert seen - may == SEEN[tier.split(',')[0]] | ({'writing to Python'} if mine else set()) and may <= seen
    assert process.left == []


@in_tiers('another user', LIMITS_ONLY)
def test_links_in_place_of_its_folder_are_not_followed(grader, tier):
    """Neither when a mode is changed nor when files are removed."""
    one = grader(tier)
    victim = one.folder / 'victim'
    victim.mkdir()
    os.chown(victim, one.user or os.getuid(), -1)
    victim.chmod(0o500)
    process = one.source(LOOPS + f"""
import contextlib, os
home = os.environ["HOME"]
for path in home, os.path.dirname(home):
    with contextlib.suppress(OSError):
        os.rename(path, path + "-moved")
    for link in path, os.path.join(path, "link"), "link":
        with contextlib.suppress(OSError):
            os.symlink({str(victim)!r}, link)
os.chmod(".", 0)
""")
    assert scores(process) == POINTS
    assert victim.stat().st_mode & 0o777 == 0o500
    assert process.left == [] or tier == LIMITS_ONLY
    for path in one.folder.rglob('*-moved*'):          # which only the submission knew
        path.chmod(0o700)
    victim.chmod(0o700)


@in_tiers('another user', LIMITS_ONLY)
def test_nothing_stands_behind_the_graders_own_output(grader, tier):
    """The submission can open the file that the output goes to, and writes far behind its end."""
    one = grader(tier)
    log = one.folder / 'output.log'
    log.touch(0o666)
    log.chmod(0o666)
    with open(os.open(log, os.O_WRONLY), 'w') as output:
        one.source(LOOPS + f'''
import os
os.pwrite(os.open({str(log)!r}, os.O_WRONLY), b"""\\n{FORGED}\\n""", 5000)
''', stdout=output)
    assert FORGED in log.read_text()
    assert json.loads(log.read_text().splitlines()[-1])['scores'] == POINTS


@pytest.mark.parametrize('bwrap, why', [
    (None, 'bubblewrap is not installed'),
    ('#!/bin/sh\necho "bwrap: Permission denied" >&2\nexit 1\n', 'does not work here: bwrap: Permission denied')])
def test_what_keeps_bubblewrap_from_running_is_said(tmp_path, bwrap, why):
    path = path_without_bubblewrap(tmp_path)
    if bwrap:
        (path / 'bwrap').write_text(bwrap)
        (path / 'bwrap').chmod(0o755)
    script = f'import sys; sys.path.insert(0, {str(AUTOGRADER)!r}); import sandbox; print(sandbox.tier())'
    process = subprocess.run([sys.executable, '-B', '-c', script], env={**os.environ, 'PATH': str(path)},
                             capture_output=True, text=True, check=True)
    assert why in process.stdout and "name='bubblewrap'" not in process.stdout


@in_tiers('bubblewrap')
@pytest.mark.parametrize('way', ['../linked', 'inner/../../linked', 'a b/link'])
def test_python_may_be_called_by_any_path(tmp_path, tier, way):
    """Relative, through .., through a chain of links in a folder with a space."""
    (tmp_path / 'work' / 'inner').mkdir(parents=True)
    (tmp_path / 'work' / 'a b').mkdir()
    folder, name = os.path.split(sys.executable)       # the folder is linked: an environment is found by what is in it
    (tmp_path / 'linked').symlink_to(os.path.dirname(folder))
    (tmp_path / 'work' / 'a b' / 'link').symlink_to('../../linked')
    script = f'import sys; sys.path.insert(0, {str(AUTOGRADER)!r}); import sandbox; print(sandbox.tier().name)'
    for python in f'{way}/{os.path.basename(folder)}/{name}', os.path.relpath(sys.executable, tmp_path / 'work'):
        process = subprocess.run([python, '-B', '-c', script], cwd=tmp_path / 'work', text=True, capture_output=True)
        assert process.stdout == 'bubblewrap\n', process.stderr


@in_tiers(*CONFINED)
def test_the_results_are_the_graders_alone(grader, tier):
    """The submission knows where they belong, leaves a daemon that writes there, and has a pipe in the way."""
    one = grader(tier)
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
if os.fork() == 0:
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
    assert not processes_of(one.folder)


@pytest.mark.skipif(not LINUX, reason='looks for a process in /proc')
@in_tiers(*CONFINED)
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL], ids=['SIGTERM', 'SIGKILL'])
def test_a_grader_that_is_ended_leaves_nothing(grader, tier, number):
    """The submission says by the name of its process that it runs; the test then waits for the cage to be gone."""
    one = grader(tier)
    temporary, name = one.folder / 'temporary', f'hw7-{number:d}-{os.getpid()}'
    temporary.mkdir()
    if one.user:
        os.chown(temporary, one.user, one.user)
    (one.folder / 'cnn_lenet.py').write_text('import ctypes, time\n'
                                             f'ctypes.CDLL(None).prctl(15, {name.encode()}, 0, 0, 0)\ntime.sleep(60)\n')
    process = subprocess.Popen([*one.program, str(one.folder / 'cnn_lenet.py'), '--unconfined', '--timeout', str(LONG)],
                               stdout=subprocess.DEVNULL, env={**one.environment, 'TMPDIR': str(temporary)})
    try:
        assert wait(lambda: processes_of(name))
        children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
        os.kill(int(children[0]) if one.program[0].endswith('bwrap') else process.pid, number)
        assert process.wait(timeout=LONG) in (-number, 128 + number)
    finally:
        process.kill()
        process.wait()
    if number == signal.SIGTERM or tier != 'another user':      # who alone has a folder that only the grader can remove
        assert wait(lambda: not os.listdir(temporary))
    assert wait(lambda: not processes_of(one.folder) and not processes_of(name))


def wait(condition):
    """Whether something comes true before long; it may be true for a moment alone."""
    end = time.monotonic() + LONG
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# ---------------------------------------------------------------------------------------------------------------
# What those that are hostile have got, and left
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('tier, name', [(tier, name) for tier, names in GRADED.items() for name in names])
def test_a_submission_changes_no_score_but_its_own(graded, tier, name):
    lost, source = CASES[name]
    scored, report = graded[tier].result()[name]
    assert scored == without(*(POINTS if lost is None else lost.split()))
    assert 'Traceback' not in report and FORGED not in report and len(report) < 10 ** 5
    if name in WAITING:
        killed = 'signal 9' in report and name.startswith('children kill')       # or stopped, which comes first
        assert 'no answer in time' in report or killed
    if name == 'sleeps for ever':
        line = source.splitlines().index('    import time; time.sleep(1e6)') + 1
        assert f'no answer in time (line {line} of cnn_lenet.py)' in report
    if name == 'as many processes as there may be, threads without end':
        assert 'BlockingIOError' in report and "can't start new thread" in report


def test_feedback_says_what_went_wrong(graded):
    def text(name):
        return graded[None].result()[name][1]

    ended = text('a crash, an exit, an endless recursion, a forged result on every descriptor')
    assert 'signal 6' in ended and 'exit status 0' in ended and 'RecursionError' in ended
    assert 'MemoryError' in text('unbounded allocation')
    assert 'the answer is too large' in text('answers that are too large')
    assert '2 calls, the first of pooling_layer_forward' in text('calls noted')
    assert '1 calls, the first of relu_backward' in text('calls noted, a process ended')
    assert 'prints is not shown' in text('calls noted')


@pytest.mark.skipif(not LINUX, reason='looks for processes and shared memory in /proc')
def test_nothing_is_left(graded, folder):
    for future in graded.values():
        future.result()
    assert not processes_of(folder)
    assert [path for place in ('/tmp', '/dev/shm') for path in Path(place).glob(f'hw7-{LEFT}-*')] == []
    for name in 'shm', 'sem', 'msg':
        assert str(LEFT) not in Path('/proc/sysvipc', name).read_text().split()
