"""What the tests of the grader share: variants of the loop solution, and the grader run on them by different users."""

import contextlib
import functools
import json
import linecache
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
    import archive  # noqa: F401
    import cage  # noqa: F401
    import grade
    import submissions
    import worker
GRADE = AUTOGRADER / 'grade.py'
LOOPS = (ROOT / 'tests' / 'submissions' / 'loops.py').read_text()
POINTS = {'Q1': 20, 'Q2': 3, 'Q3': 10, 'Q4': 20, 'Q5': 3, 'Q6': 10, 'Q7': 7}
NOBODY = 65534
POSIX = hasattr(os, 'fork')
LONG = 120                       # seconds that a question may take where nothing is to take long


def needs_posix():
    """Skip a test file where the grader cannot work."""
    if not POSIX:
        pytest.skip('the grader needs Linux or macOS', allow_module_level=True)


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


def flags_for(path, *flags):
    """What the grader takes from its command line."""
    return grade.get_parser().parse_args([str(path), '--timeout', str(LONG), *flags])


def scores(process):
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads(process.stdout.splitlines()[-1])['scores']


def without(*questions):
    """All points but those of some questions."""
    return {question: 0 if question in questions else points for question, points in POINTS.items()}


class Grader:
    """The grader as a user runs it, with a folder for temporary files that is looked at afterwards.

    tier  one of TIERS; None: the best one for who runs the tests
    """

    def __init__(self, folder, tier=None):
        user, bubblewrap = TIERS[tier] if tier else (None, True)
        self.user, self.folder = user, Path(folder)
        grader = self.folder / 'grader'
        shutil.copytree(AUTOGRADER, grader, ignore=shutil.ignore_patterns('*.tar', '*.zip', '__pycache__'))
        shutil.copy(ROOT / 'tests' / 'several.py', grader)
        self.python = [*as_user(user), sys.executable, '-B']
        self.program = [*self.python, str(grader / 'grade.py')]
        self.environment = dict(os.environ)
        if not bubblewrap:
            self.environment['PATH'] = str(path_without_bubblewrap(self.folder))
        if user:
            os.chown(self.folder, user, user)

    def start(self, script, *arguments, stdout=subprocess.PIPE, input=None, **environment):
        """The finished process; `left` says what it has left in the temporary folder."""
        temporary = tempfile.mkdtemp(dir=self.folder)
        os.chmod(temporary, 0o711)
        if self.user:
            os.chown(temporary, self.user, self.user)
        process = subprocess.run([*self.python, str(self.folder / 'grader' / script), *map(str, arguments)],
                                 stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=900, input=input,
                                 env={**self.environment, 'TMPDIR': temporary, **environment})
        process.left = os.listdir(temporary)
        return process

    def run(self, path, *flags, **settings):
        """Grade what was handed in."""
        return self.start('grade.py', path, '-A', '--unconfined', '--timeout', LONG, *flags, **settings)

    def several(self, cases):
        """Grade many sources at the same time: dict, name -> (scores, report).

        cases  dict, name -> (source, what never ends, flags), as several.py takes them
        """
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        folder.chmod(0o711)
        for number, (source, *_) in enumerate(cases.values()):
            (folder / f'{number}.py').write_bytes(source if isinstance(source, bytes) else source.encode())
        settings = [(endless, ['--timeout', str(LONG), *flags]) for _, endless, flags in cases.values()]
        process = self.start('several.py', folder, input=json.dumps(settings))
        assert (process.returncode, process.stderr, process.left) == (0, '', [])
        return dict(zip(cases, json.loads(process.stdout)))

    def source(self, source, *flags, **settings):
        """Grade a source in a folder of its own."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        folder.chmod(0o755)
        (folder / 'cnn_lenet.py').write_bytes(source if isinstance(source, bytes) else source.encode())
        return self.run(folder, *flags, **settings)


# Who grades, and whether bubblewrap is there: None is who runs the tests.
ROOT_RUNS = POSIX and os.geteuid() == 0
TIERS = {'bubblewrap': (None, True), 'bubblewrap, ordinary user': (NOBODY, True), 'another user': (0, False),
         'limits only': (NOBODY if ROOT_RUNS else None, False)}
BECOME = """
import os, sys
user = int(sys.argv[1])
if user:
    os.setgroups([]), os.setgid(user), os.setuid(user)
os.execv(sys.argv[2], sys.argv[2:])
"""


def as_user(user):
    """What stands before the command of a user. Where Python lies in a folder that is closed to others, bubblewrap
    covers that folder by one that shows Python alone."""
    if user is None:
        return []
    cover = []
    for python in map(Path, {sys.prefix, sys.base_prefix}):
        above = list(reversed(python.parents))
        closed = [folder for folder in above if not folder.stat().st_mode & 0o001]
        if closed and str(closed[0]) not in cover:
            cover += ['--perms', '0755', '--tmpfs', str(closed[0])]
        if closed:
            cover += [item for folder in above if closed[0] in folder.parents for item in ('--dir', str(folder))]
            cover += ['--ro-bind', str(python), str(python)]
    return [*([shutil.which('bwrap') or 'bwrap', '--dev-bind', '/', '/', *cover] if cover else []),
            sys.executable, '-c', BECOME, str(user)]


def path_without_bubblewrap(folder):
    """A folder with the other programs that the grader uses."""
    path = Path(folder) / 'programs'
    path.mkdir(exist_ok=True)
    for name in ('sh', 'find', 'rm', 'chmod', 'ipcrm'):
        if shutil.which(name) and not (path / name).exists():
            (path / name).symlink_to(shutil.which(name))
    return path


@functools.cache
def why_not(tier):
    """Why the tests cannot have a tier on this machine; None if they can."""
    user, bubblewrap = TIERS[tier]
    if user is not None and not ROOT_RUNS:
        return 'root alone can become another user'
    with open_folder() as folder:
        environment = {**os.environ, **({} if bubblewrap else {'PATH': str(path_without_bubblewrap(folder))})}
        script = (AUTOGRADER / 'sandbox.py').read_text() + '\nprint(tier().name, *tier().missing, sep="\\n")'
        try:
            found = subprocess.run([*as_user(user), sys.executable, '-B', '-c', script], env=environment,
                                   capture_output=True, text=True)
        except OSError:
            return 'without bubblewrap, no other user can read Python here'
    name, *rest = found.stdout.splitlines() or ['', found.stderr]
    return None if name == tier.split(',')[0] else rest[1 if tier == 'another user' and len(rest) > 1 else 0]


def tested():
    """One line on which tiers the tests of the cage could have."""
    return 'tiers tested: ' + '; '.join(f'not {tier} ({why_not(tier)})' if why_not(tier) else tier for tier in TIERS)


def in_tiers(*tiers):
    """Run a test in each of these tiers, or skip it with the reason."""
    return pytest.mark.parametrize('tier', [
        pytest.param(tier, marks=pytest.mark.skipif(why_not(tier) is not None, reason=f'{tier}: {why_not(tier)}'))
        for tier in tiers or TIERS])


class Uncaged:
    """In place of a cage: the worker's functions in this process, called with what would have reached it."""

    def __init__(self, source):
        self.path = f'{id(self)}/cnn_lenet.py'
        self.functions = {'__name__': 'cnn_lenet', '__file__': self.path}
        linecache.cache[self.path] = len(source), None, source.splitlines(), self.path
        exec(compile(source, self.path, 'exec'), self.functions)

    def ask(self, request, deadline, blobs=()):
        answer, arrays = worker.answer(json.loads(json.dumps(request)), blobs, self.functions, self.path)
        return json.loads(json.dumps(answer)), arrays

    def close(self, deadline):
        pass


class UncagedSubmission(submissions.Submission):
    def __init__(self, source):
        self.text, self.cage, self.printed = source, None, False

    def begin(self, deadline):
        self.cage = self.cage or Uncaged(self.text)


make_cases = grade.make_cases


@functools.cache
def cases_of(question, seed):
    """The same as the grader's, drawn once for all submissions."""
    return make_cases(question, np.random.RandomState([seed, int(question[1:])]))


def graded_here(source, seed=0):
    """Grade a source in this process, for what is about its answers alone. Returns (scores, feedback)."""
    submission = UncagedSubmission(source)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter('ignore')
        patch.setattr(grade, 'make_cases', lambda question, rng: cases_of(question, seed))
        scores = {question: grade.grade_question(question, submission, seed, LONG, time.monotonic() + LONG)
                  for question in POINTS}
    return ({question: score for question, (score, _) in scores.items()},
            grade.report(grade.Result(scores, None), seed))


@contextlib.contextmanager
def open_folder():
    """A temporary folder that every user can reach."""
    folder = tempfile.mkdtemp(dir='/tmp' if os.path.isdir('/tmp') else None)
    try:
        os.chmod(folder, 0o755)
        yield Path(folder)
    finally:
        shutil.rmtree(folder)


def processes_of(text):
    """Processes whose name, command line or environment has this text."""
    found = set()
    for path in (path for name in ('comm', 'cmdline', 'environ') for path in Path('/proc').glob(f'[0-9]*/{name}')):
        with contextlib.suppress(OSError):
            if os.fsencode(text) in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.add(path.parent.name)
    return found
