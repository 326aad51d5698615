"""A submission cannot get out of its cage, in any of the tiers that this machine offers.

Every hostile submission here is bounded: what it starts ends by itself after a minute, what it writes is small.
"""

import collections
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
    TIERS,
    Grader,
    in_tiers,
    needs_posix,
    open_folder,
    path_without_bubblewrap,
    processes_of,
    relu,
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
FILES = 'folders nested without end, many files'
LEAVING = 'shared memory, folders that are open to everyone, a thread, a child, a daemon, forks without end'
MANY = 'as many processes as there may be, threads without end'
HONEST = 'processes, threads, the user, files, output'
# All questions are asked in one process until it ends, so a slow import is paid for once.
NOTED = LOOPS + """
import os
calls = []
def relu_backward(*a, plain=relu_backward):
    calls.append("relu_backward")
    return plain(*a)
def sgd_momentum(*a):
    raise ValueError(f"{len(calls)} calls")
"""

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
    'forged answers': ('Q2 Q3 Q5 Q7', hostile(
        relu_forward=FORGED_ANSWER + 'forge(json.dumps({"sizes": [], "error": ""}))',
        inner_product_forward=FORGED_ANSWER + 'forge(json.dumps({"sizes": [], "result": [["other", ""]] * 5}))',
        relu_backward=FORGED_ANSWER + (
            'forge(json.dumps({"sizes": [], "result": ["dict", [[["a"], 7]]], "changed": {"x": [[]]}}))'),
        sgd_momentum=FORGED_ANSWER + (
            'forge(json.dumps({"sizes": [], "line": []})[:-1] + \', "error": \' + "[" * 900 + "]" * 900 + "}")'))),
    FILES: ('', LOOPS + """
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
    LEAVING: ('', LOOPS + f"""
import ctypes, os, subprocess, sys, threading, time
libc = ctypes.CDLL(None)
for make, size in (libc.shmget, [4096]), (libc.semget, [1]), (libc.msgget, []):
    if make({LEFT}, *size, 0o1600) < 0:
        raise OSError("not made")
for folder in "/dev/shm", "/tmp":
    os.makedirs(f"{{folder}}/hw7-{LEFT}-{{os.getuid()}}/closed/inside")
    os.chmod(f"{{folder}}/hw7-{LEFT}-{{os.getuid()}}/closed", 0)
subprocess.Popen(["sleep", "60"])
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 64)
    os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", os.environ["HOME"]], {{}})
end = time.monotonic() + 60
if os.fork() == 0:
    os.setsid()
    while time.monotonic() < end:
        try:
            if os.fork(): os._exit(0)
        except OSError: pass
    os._exit(0)
threading.Thread(target=time.sleep, args=[60], daemon=True).start()
"""),
    MANY: ('Q2 Q5', hostile(
        relu_forward='import os, time\nfor _ in range(500):\n    if os.fork() == 0: time.sleep(60), os._exit(0)',
        relu_backward='import threading, time\n'
                      'for _ in range(500): threading.Thread(target=time.sleep, args=[60], daemon=True).start()')),
    'a process ended': ('Q3 Q7', with_function('inner_product_forward', '    os._exit(1)', NOTED)),
    # What students do, right in every tier but the last.
    HONEST: ('', LOOPS + """
import getpass, multiprocessing, os, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
with multiprocessing.Pool(4) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
assert multiprocessing.Array("d", 5 * 10 ** 6)[-1] == 0
print(getpass.getuser(), os.path.expanduser("~"), os.cpu_count(), sys.stdout.encoding, "\\u2713")
sys.stdout.buffer.write(b"raw")
with tempfile.TemporaryFile() as file:
    file.write(bytes(10 ** 8))
subprocess.run([sys.executable, "-c", "import scipy, matplotlib"], check=True)
assert list(ThreadPoolExecutor(16).map(abs, range(-99, 0)))[0] == 99
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


CASES = {**WAITING, **QUICK}

# Who grades which of them: the best tier all, the others that in which they differ. Where memory runs out before the
# number of threads does, Thread.start() may wait for ever (github.com/python/cpython/issues/140746); a thread of
# free-threaded Python has 40 MB.
NEEDS_MORE = {LEAVING, MANY, HONEST, 'children kill and stop all that they can'}     # than limits
ALL = [name for name in CASES if name not in NEEDS_MORE or not why_not('bubblewrap') or not why_not('another user')]
GRADED = {None: ALL, 'bubblewrap, ordinary user': ['stops itself', FILES, LEAVING, MANY, HONEST],
          'another user': ['stops itself', 'children kill and stop all that they can', 'unbounded allocation', FILES,
                           LEAVING, MANY, HONEST],
          LIMITS_ONLY: [FILES]}
GRADED = {tier: names for tier, names in GRADED.items() if tier is None or not why_not(tier)}


@pytest.fixture(scope='module')
def pool(folder):
    """What grades them from before the first test on. The tests that need the results come last."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope='module', autouse=True)
def graded(pool, folder):
    """All of them being graded: dict, tier -> Future of what `several` returns."""
    return {tier: pool.submit(grade_all, folder / f'{tier}', tier) for tier in GRADED}


@pytest.fixture(scope='module', autouse=True)
def attacked(pool, folder):
    """A submission that tries everything being graded: dict, tier -> Future of an Attack."""
    return {tier: pool.submit(attack, folder / f'{tier}, attacked', tier) for tier in TIERS if not why_not(tier)}


def grade_all(place, tier):
    place.mkdir()
    return Grader(place, tier).several({
        name: (CASES[name][1], (CASES[name][0] or 'import') if name in WAITING else '',
               ['--memory', '4000' if name in NEEDS_MORE else '500']) for name in GRADED[tier]})


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
def test_python_may_be_called_by_any_path(tmp_path, tier):
    """Relative, through .., through a chain of links in a folder with a space."""
    (tmp_path / 'work' / 'a b').mkdir(parents=True)
    folder, name = os.path.split(sys.executable)       # the folder is linked: an environment is found by what is in it
    (tmp_path / 'linked').symlink_to(os.path.dirname(folder))
    (tmp_path / 'work' / 'a b' / 'link').symlink_to('../../linked')
    script = f'import sys; sys.path.insert(0, {str(AUTOGRADER)!r}); import sandbox; print(sandbox.tier().name)'
    linked = [f'{way}/{os.path.basename(folder)}/{name}' for way in ('a b/../../linked', 'a b/link')]
    for python in [os.path.relpath(sys.executable, tmp_path / 'work'), *linked]:
        process = subprocess.run([python, '-B', '-c', script], cwd=tmp_path / 'work', text=True, capture_output=True)
        assert process.stdout == 'bubblewrap\n', process.stderr


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
    """Whether something comes true before long."""
    end = time.monotonic() + LONG
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# ---------------------------------------------------------------------------------------------------------------
# What a submission sees and can write: the table in autograder/README.md
# ---------------------------------------------------------------------------------------------------------------

ATTACK = '''
import contextlib, ctypes, os, socket, sys, time
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
def sgd_momentum(*a):
    raise ValueError("seen: " + ", ".join(seen))
# It writes far behind the end of the grader's own output.
with contextlib.suppress(OSError):
    os.pwrite(os.open({folder!r} + "/output.log", os.O_WRONLY), {forged!r}, 5000)
# A daemon writes to the results.
def forge():
    with contextlib.suppress(OSError):
        with open(os.open({folder!r} + "/results.json", os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK), "wb") as file:
            file.write({forged!r})
forge()
with contextlib.suppress(OSError):
    if os.fork() == 0:
        os.setsid()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            forge()
            time.sleep(0.01)
        os._exit(0)
# It puts links in the place of its folder, and of the one above.
home = os.environ["HOME"]
for path in home, os.path.dirname(home):
    with contextlib.suppress(OSError):
        os.rename(path, path + "-moved")
    for link in path, os.path.join(path, "link"), "link":
        with contextlib.suppress(OSError):
            os.symlink({folder!r} + "/victim", link)
os.chmod(".", 0)
'''
# In bubblewrap, /tmp is its own.
OF_OTHERS = {'files', 'folders', 'sockets', 'network', 'processes', 'writing where everyone may'}
SEEN = {'bubblewrap': {'writing beside its folder'}, 'another user': OF_OTHERS,
        LIMITS_ONLY: {*OF_OTHERS, 'writing beside its folder', 'signals', 'modes'}}

# one     the grader
# log     its output
# scores  as in its last line
# result  the score of Gradescope's results
# mode    of the folder that the links lead to
# left    what is left in the folder for temporary files
Attack = collections.namedtuple('Attack', 'one log scores result mode left')


def attack(place, tier):
    """Have the grader of a tier grade a submission that tries everything. A pipe is in the way of the results."""
    place.mkdir()
    one = Grader(place, tier)
    user, log, results, victim = one.user or os.getuid(), place / 'output.log', place / 'results.json', place / 'victim'
    victim.mkdir()
    os.chown(victim, user, -1)
    victim.chmod(0o500)
    log.touch()
    log.chmod(0o666)
    os.mkfifo(results)
    tcp = socket.create_server(('127.0.0.1', 0))
    with open_folder() as beside, socket.socket(socket.AF_UNIX) as server, tcp, open(log, 'r+') as out:
        (beside / 'cnn_lenet.py').write_text(LOOPS)
        server.bind(str(beside / 'socket'))
        server.listen()
        (beside / 'open').mkdir()
        os.chown(beside, user, -1)
        for path in ('socket', 'open'):
            os.chmod(beside / path, 0o777)
        other = subprocess.Popen(['sleep', '60'], user=one.user)
        source = ATTACK.format(beside=str(beside), port=tcp.getsockname()[1], process=other.pid, folder=str(place),
                               forged=f'\n{FORGED}\n'.encode())
        process = one.source(LOOPS + source, '--gradescope', results, stdout=out, PYTHONPATH=str(beside))
        other.kill()
        other.wait()
    mode = victim.stat().st_mode & 0o777
    for path in [victim, *place.rglob('*-moved*')]:    # which only the submission knew
        path.chmod(0o700)
    assert process.returncode == 0, process.stderr
    text = log.read_text()
    return Attack(one, text, json.loads(text.splitlines()[-1])['scores'], json.loads(results.read_text())['score'],
                  mode, process.left)


@in_tiers()
def test_a_submission_sees_and_writes_what_the_tier_allows(attacked, tier):
    one, log, *_ = attacked[tier].result()
    seen = set(re.search('seen: (.*?) [(]', log)[1].split(', '))
    may = {'its folder'} | ({'programs'} if tier != LIMITS_ONLY else set())
    mine = tier == LIMITS_ONLY and not one.user and os.access(np.__path__[0], os.W_OK)     # an environment of one's own
    assert seen - may == SEEN[tier.split(',')[0]] | ({'writing to Python'} if mine else set()) and may <= seen


@in_tiers()
def test_the_report_says_how_it_was_confined(attacked, tier):
    confined = {'another user': 'confined as another user', LIMITS_ONLY: 'not confined'}
    head = re.search(r'^\0*graded cnn_lenet.py of \w+, (.*)\nseed ', attacked[tier].result().log, re.M)
    assert head[1] == confined.get(tier, 'confined by bubblewrap')


@in_tiers()
def test_the_results_and_the_end_of_the_output_are_the_graders_alone(attacked, tier):
    attack = attacked[tier].result()
    assert (FORGED in attack.log) == ('bubblewrap' not in tier)          # where it can open the file that it goes to
    assert attack.scores == without('Q7') and attack.result == 66
    assert [name for name in os.listdir(attack.one.folder) if name.startswith('.')] == []


@in_tiers()
def test_links_in_place_of_its_folder_are_not_followed(attacked, tier):
    """Neither when a mode is changed nor when files are removed."""
    attack = attacked[tier].result()
    assert attack.mode == 0o500
    assert attack.left == [] or tier == LIMITS_ONLY


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
    if name == MANY:
        assert 'BlockingIOError' in report and "can't start new thread" in report


def test_feedback_says_what_went_wrong(graded):
    def text(name):
        return graded[None].result()[name][1]

    ended = text('a crash, an exit, an endless recursion, a forged result on every descriptor')
    assert 'signal 6' in ended and 'exit status 0' in ended and 'RecursionError' in ended
    assert 'MemoryError' in text('unbounded allocation')
    assert 'the answer is too large' in text('answers that are too large')
    assert '1 calls' in text('a process ended') and 'prints is not shown' in text('a process ended')


@pytest.mark.skipif(not LINUX, reason='looks for processes and shared memory in /proc')
def test_nothing_is_left(graded, folder):
    for future in graded.values():
        future.result()
    assert not processes_of(folder)
    assert [path for place in ('/tmp', '/dev/shm') for path in Path(place).glob(f'hw7-{LEFT}-*')] == []
    for name in 'shm', 'sem', 'msg':
        assert str(LEFT) not in Path('/proc/sysvipc', name).read_text().split()
