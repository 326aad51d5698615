"""The grader's half of the cage: start a process that is shut in (sandbox.py), ask it things, end it in time."""

import contextlib
import json
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import sandbox

HERE = Path(__file__).resolve().parent
MAX_HEADER = 2 ** 13             # bytes of an answer's JSON
MAX_ANSWER = 64 * 2 ** 20        # bytes of an answer
WARNING = 0.3                    # seconds before a deadline at which the process says where it is
CLOSING = 1.5                    # seconds that may pass beyond all deadlines until a cage has been emptied
MODULES = ('archive', 'worker')  # run in the cage
# Ends all processes of a user; removes what that user has left where everyone may write.
MAX_KILLS = 100
KILL = """
import os, sys
user = int(sys.argv[1])
os.setgroups([]), os.setgid(user), os.setuid(user), os.kill(-1, 9)
"""
REMOVE = 'ipcrm -a; find /tmp /var/tmp /dev/shm -maxdepth 1 -user $0 -exec chmod -R u+rwX {} + -exec rm -rf {} +'
stopped = threading.Event()      # once it is set, `ask` raises Broken in every thread
QUIET = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}


class Failure(Exception):
    """The caged process gave no answer; the text says why."""


class Broken(Exception):
    """There is no cage: the grader itself has a problem."""


class Cage:
    """A process that is shut in and runs worker.py, in a folder that is all it can write.

    deadline  by time.monotonic(), for the start alone; each `ask` has its own
    memory    limit in megabytes for each process, `seconds` the limit of its processor time
    Raises Failure if it does not start in time, Broken if it cannot be started. The thread that starts a cage has to
    outlive it: the process ends with it.
    """

    def __init__(self, deadline, memory, seconds):
        tier = sandbox.tier()
        self.received, self.process, self.folder, self.user = bytearray(), None, None, 0
        self.socket, inside = socket.socketpair()
        try:
            if tier.name != sandbox.BUBBLEWRAP:        # where the folder is in memory
                self.folder = tempfile.mkdtemp(prefix='hw7-')
                os.chmod(self.folder, 0o711)
                os.mkdir(f'{self.folder}/hw7')         # the submission's: it cannot put a link in the place of ours
            confine, *sources = [(HERE / f'{name}.py').read_text(encoding='utf-8') for name in ('confine', *MODULES)]
            self.process = subprocess.Popen(
                [*tier.wrapper, sandbox.PYTHON, '-B', '-I', '-c', confine, str(inside.fileno()), str(memory),
                 str(seconds)],
                cwd=f'{self.folder}/hw7' if self.folder else '/', pass_fds=[inside.fileno()], start_new_session=True,
                env=environment(), **QUIET)
            inside.close()
            user = tier.user and tier.user + self.process.pid % sandbox.USERS
            if tier.name == sandbox.ANOTHER_USER:
                self.user = user
            started, _ = self.ask({'modules': dict(zip(MODULES, sources)), 'path': sandbox.user_packages(),
                                   'user': user, 'processes': tier.name != sandbox.LIMITS_ONLY}, deadline)
            if 'broken' in started:
                raise Broken(started['broken'])
        except BaseException as error:
            inside.close()
            self.close(deadline)
            if isinstance(error, Failure):
                raise Failure(f'the process did not start: {error}') from None
            if isinstance(error, OSError):
                raise Broken(f'{error.filename}: {error.strerror}') from None
            raise

    def ask(self, request, deadline, blobs=()):
        """Send a request, wait for its answer. Returns (header, blobs); raises Failure if there is none in time."""
        token = secrets.token_hex(16).encode()
        header = json.dumps({**request, 'token': token.decode(), 'sizes': [len(blob) for blob in blobs],
                             'seconds': max(deadline - time.monotonic() - WARNING, 0.001)}).encode()
        self.received.clear()
        try:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            with contextlib.suppress(ConnectionError):         # it has ended: reading tells
                self.socket.sendall(b''.join([len(header).to_bytes(8, 'big'), header, *blobs]))
            while token not in self.received:                  # what comes before it is not the worker's answer
                del self.received[:-2 ** 16]
                self.read(deadline)
            del self.received[:self.received.index(token) + len(token)]
            length = int.from_bytes(self.take(8, deadline), 'big')
            if length > MAX_HEADER:
                raise Failure('the answer is too large')
            answer = json.loads(self.take(length, deadline))
            if sum(map(abs, answer['sizes'])) > MAX_ANSWER:
                raise Failure('the answer is too large')
            return answer, [self.take(size, deadline) for size in answer['sizes']]
        except TimeoutError:
            line = re.search(rb'cnn_lenet\.py", line (\d{1,7}) in', self.received)      # from faulthandler
            raise Failure('no answer in time' + (f' (line {int(line[1])} of cnn_lenet.py)' if line else '')) from None
        except (Failure, Broken, MemoryError):
            raise
        except Exception:                              # whatever a made-up answer trips over
            raise Failure('the answer cannot be read') from None

    def take(self, count, deadline):
        """The next `count` bytes of an answer."""
        while len(self.received) < count:
            self.read(deadline)
        part = bytes(self.received[:count])
        del self.received[:count]
        return part

    def read(self, deadline):
        """Receive some more bytes."""
        ready = None
        while not ready:
            left = deadline - time.monotonic()
            if stopped.is_set():
                raise Broken('stopped')
            if left <= 0:
                raise TimeoutError
            ready, _, _ = select.select([self.socket], [], [], min(left, 0.1))
        part = b''
        with contextlib.suppress(ConnectionError):
            part = self.socket.recv(2 ** 20)
        if not part:                                   # it has ended, or closed its end
            try:
                raise Failure(ending(self.process.wait(left)))
            except subprocess.TimeoutExpired:
                raise TimeoutError from None
        self.received += part

    def close(self, deadline):
        """End every process in the cage and remove its folder.

        Raises Failure if that has not happened shortly after the deadline.
        """
        self.socket.close()
        if self.process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)                 # a worker that waits for a request ends by itself
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        if self.user:
            remove_all_of(self.user)
        if self.folder:                                # neither of the two commands follows a link
            subprocess.run(['find', self.folder, '-type', 'd', '!', '-perm', '-700',
                            '-execdir', 'chmod', '700', '{}', ';'], **QUIET)
            subprocess.run(['rm', '-rf', self.folder], **QUIET)
        try:
            if self.process:
                self.process.wait(max(deadline - time.monotonic(), 0) + CLOSING)
        except subprocess.TimeoutExpired:
            raise Failure('its processes could not be ended in time') from None


def remove_all_of(user):
    """End the processes of a user that nobody else is, and remove what they have left in the folders that are open to
    everyone.

    A kill of everything, sent by that user, reaches all of them at once; none of them can fork meanwhile. One of them
    may be quicker and stop or kill the sender: then once more.
    """
    for _ in range(MAX_KILLS):
        sender = subprocess.Popen([sandbox.PYTHON, '-I', '-S', '-c', KILL, str(user)], **QUIET)
        _, status = os.waitpid(sender.pid, os.WUNTRACED)
        sender.kill()                                  # if it was stopped
        sender.wait()
        if os.WIFEXITED(status):
            break
    subprocess.run(['sh', '-c', REMOVE, str(user)], cwd='/', user=user, group=user, extra_groups=[], **QUIET)


def environment():
    """All that the submission sees of the environment; confine.py adds HOME and TMPDIR."""
    kept = {name: os.environ[name] for name in ('LD_LIBRARY_PATH', 'LANG') if name in os.environ}
    return {**kept, 'PATH': f'{os.path.dirname(sandbox.PYTHON)}:/usr/local/bin:/usr/bin:/bin', 'USER': 'student',
            'LOGNAME': 'student', 'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1',
            'MALLOC_ARENA_MAX': '1',                   # or else 16 threads reserve 1 GB of the memory allowed
            'MIMALLOC_ARENA_RESERVE': '0'}             # or else free-threaded Python reserves 1 GB at its start


def ending(code):
    """How the process ended; bubblewrap has 128 + N for signal N."""
    if code < 0 or code > 128:
        return f'the process was ended by signal {-code if code < 0 else code - 128}'
    return f'the process ended itself (exit status {code})'


# ---------------------------------------------------------------------------------------------------------------
# Values in messages: [kind, value] in JSON, the bytes of arrays beside it
# ---------------------------------------------------------------------------------------------------------------


def pack(value, blobs):
    """Arguments for the worker; the bytes of arrays are appended to `blobs`."""
    if isinstance(value, np.ndarray):
        blobs.append(value.tobytes())
        return ['array', [value.dtype.str, value.shape, len(blobs) - 1]]
    if isinstance(value, dict):
        return ['dict', [[key, pack(item, blobs)] for key, item in value.items()]]
    return ['value', value]


def unpack(part, blobs):
    """The reverse of the worker's `pack`: an array, a number, or text on what is neither. Raises whatever it trips over
    if that is not what was sent."""
    kind, value = part
    if kind == 'array':
        shape, number = value
        return np.frombuffer(blobs[number]).reshape(shape)
    return float(value) if kind == 'number' else str(value)
