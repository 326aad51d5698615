"""What the tests of the grader share: variants of the loop solution, and the grader run on them by different users."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import cnn_lenet

ROOT = Path(cnn_lenet.__file__).resolve().parent
AUTOGRADER = ROOT / 'autograder'
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(AUTOGRADER)
    import grade
    import submissions
    import worker
GRADE = AUTOGRADER / 'grade.py'
LOOPS = (ROOT / 'tests' / 'submissions' / 'loops.py').read_text()
POINTS = {'Q1': 20, 'Q2': 3, 'Q3': 10, 'Q4': 20, 'Q5': 3, 'Q6': 10, 'Q7': 7}
NOBODY = 65534
LONG = 120                       # seconds that a question may take where nothing is to take long


def changed(old, new, source=LOOPS):
    """The loop solution with one piece of it replaced."""
    assert source.count(old) == 1, old
    return source.replace(old, new)


def with_function(name, body, source=LOOPS):
    """The loop solution with another body of one of its functions."""
    start = source.index(f'def {name}(')
    first = source.index('\n', start) + 1
    end = source.find('\n\n\ndef ', first)
    return source[:first] + body.strip('\n') + '\n' + (source[end:] if end >= 0 else '')


def relu(body):
    return with_function('relu_forward', body)


def scores(process):
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads(process.stdout.splitlines()[-1])['scores']


def without(*questions):
    """All points but those of some questions."""
    return {question: 0 if question in questions else points for question, points in POINTS.items()}


class Grader:
    """The grader as a user runs it, with a folder for temporary files that is looked at afterwards.

    user    None for the one who runs the tests; if that is root, NOBODY for an ordinary user, and 0 for root in a
            system where others can read Python
    denied  system calls that this system then does not seem to have, as in a container
    """

    def __init__(self, folder, user=None, denied=(), timeout=LONG):
        self.user, self.timeout, self.folder = user, timeout, Path(folder)
        grader = self.folder / 'grader'
        shutil.copytree(AUTOGRADER, grader, ignore=shutil.ignore_patterns('*.tar', '*.zip', '__pycache__'))
        self.program = [sys.executable, str(grader / 'grade.py')]
        if user is not None or denied:
            numbers = [SYSTEM_CALLS[os.uname().machine][name] for name in denied]
            settings = json.dumps([os.getuid() if user is None else user, user is not None, numbers])
            self.program = [sys.executable, '-c', AS_USER, settings, *self.program]
        if user:
            os.chown(self.folder, user, user)

    def run(self, path, *flags, **environment):
        """The finished process; `left` says what it has left in the temporary folder."""
        temporary = tempfile.mkdtemp(dir=self.folder)
        os.chmod(temporary, 0o711)
        if self.user:
            os.chown(temporary, self.user, self.user)
        command = [*self.program, str(path), '-A', '--timeout', str(self.timeout), *flags]
        process = subprocess.run(command, capture_output=True, text=True, timeout=900,
                                 env={**os.environ, 'TMPDIR': temporary, **environment})
        process.left = os.listdir(temporary)
        return process

    def source(self, source, *flags, **environment):
        """Grade a source in a folder of its own."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        folder.chmod(0o755)
        (folder / 'cnn_lenet.py').write_bytes(source if isinstance(source, bytes) else source.encode())
        return self.run(folder, *flags, **environment)


class Uncaged:
    """In place of a cage: the worker's functions in this process, called with what would have reached it."""

    def __init__(self, source):
        self.functions = {'__name__': 'cnn_lenet', '__file__': 'cnn_lenet.py'}
        exec(compile(source, 'cnn_lenet.py', 'exec'), self.functions)

    def ask(self, request, deadline, blobs=()):
        answer, arrays = worker.answer(json.loads(json.dumps(request)), blobs, self.functions, 'cnn_lenet.py')
        return json.loads(json.dumps(answer)), arrays

    def close(self, deadline):
        pass


class UncagedSubmission(submissions.Submission):
    def begin(self, deadline):
        self.cage = self.cage or Uncaged(self.files['cnn_lenet.py'])


make_cases = grade.make_cases


@functools.cache
def cases_of(question, seed):
    """The same as the grader's, drawn once for all submissions."""
    return make_cases(question, np.random.RandomState([seed, int(question[1:])]))


def graded_here(source, seed=0):
    """Grade a source in this process, for what is about its answers alone. Returns (scores, feedback)."""
    submission = UncagedSubmission({'cnn_lenet.py': source.encode()}, None)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter('ignore')
        patch.setattr(grade, 'make_cases', lambda question, rng: cases_of(question, seed))
        scores = {question: grade.grade_question(question, submission, seed, LONG, time.monotonic() + LONG)
                  for question in POINTS}
    return ({question: score for question, (score, _) in scores.items()},
            grade.report(grade.Result(scores, None, []), seed))


def can_be_nobody():
    """Whether the tests are root and can become another user who can read Python."""
    if os.geteuid() != 0:
        return False
    run = [sys.executable, '-c', AS_USER, json.dumps([NOBODY, True, []]), sys.executable, '-c', 'import numpy']
    return subprocess.run(run, capture_output=True).returncode == 0


@contextlib.contextmanager
def open_folder():
    """A temporary folder that every user can reach."""
    folder = tempfile.mkdtemp(dir='/tmp' if os.path.isdir('/tmp') else None)
    try:
        os.chmod(folder, 0o755)
        yield Path(folder)
    finally:
        shutil.rmtree(folder)


def processes_of(folder):
    """Processes whose command line or environment names a folder."""
    found = []
    for entry in os.listdir('/proc') if os.path.isdir('/proc/self') else []:
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                content = Path('/proc', entry, 'cmdline').read_bytes() + Path('/proc', entry, 'environ').read_bytes()
                if os.fsencode(folder) in content:
                    found.append(entry)
    return found


# Numbers of system calls, for a filter that denies them.
SYSTEM_CALLS = {'x86_64': {'unshare': 272, 'landlock': 444}, 'aarch64': {'unshare': 97, 'landlock': 444}}

# Run a command as another user, without some system calls. Where Python lies in a folder that is closed to others, that
# folder is covered by an empty one that shows Python alone, in a view of the files (a mount namespace) of this process.
AS_USER = r'''
import ctypes, json, os, struct, sys
(user, show_python, denied), command = json.loads(sys.argv[1]), sys.argv[2:]
libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


closed = {}
needed = {sys.prefix, sys.base_prefix, os.path.dirname(sys.executable)}
for path in needed | set(map(os.path.realpath, needed)):
    parts = path.split('/')
    for count in range(2, len(parts)):
        above = '/'.join(parts[:count])
        if not os.stat(above).st_mode & 0o001:
            closed.setdefault(above, []).append(path)
            break
if closed and show_python:
    check(libc.unshare(0x20000))
    check(libc.mount(None, b'/', None, 0x44000, None))
    opened = {path: os.open(path, os.O_PATH) for inside in closed.values() for path in inside}
    for above, inside in closed.items():
        check(libc.mount(b'tmpfs', above.encode(), b'tmpfs', 0, b'mode=0755'))
        for path in inside:
            os.makedirs(path, exist_ok=True)
            check(libc.mount(f'/proc/self/fd/{opened[path]}'.encode(), path.encode(), None, 4096 | 16384, None))
            os.close(opened[path])
if denied:                             # a filter: error 1 for each of these numbers, everything else is allowed
    steps = [struct.pack('HBBI', 0x20, 0, 0, 0)]
    for number in denied:
        steps += [struct.pack('HBBI', 0x15, 0, 1, number), struct.pack('HBBI', 0x06, 0, 0, 0x00050001)]
    steps += [struct.pack('HBBI', 0x06, 0, 0, 0x7fff0000)]
    program = ctypes.create_string_buffer(b''.join(steps))
    if os.getuid():
        check(libc.prctl(38, ctypes.c_long(1), ctypes.c_long(0), ctypes.c_long(0), ctypes.c_long(0)))
    check(libc.prctl(22, ctypes.c_long(2), struct.pack('HxxxxxxQ', len(steps), ctypes.addressof(program))))
if user != os.getuid():
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
os.environ['HOME'] = '/'
os.execv(command[0], command)
'''


