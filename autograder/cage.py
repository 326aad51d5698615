"""The grader's half of the cage: start a process that shuts itself in (confine.py), ask it things, end it in time."""

import json
import os
import secrets
import select
import signal
import site
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
MAX_HEADER = 2 ** 20             # bytes of an answer's JSON
MAX_ANSWER = 64 * 2 ** 20        # bytes of an answer
TYPES = {'<f8', '<f4'}           # of the arrays in an answer
CLOSING = 1.5                    # seconds that may pass beyond all deadlines until a cage has been emptied
stopped = threading.Event()      # once it is set, `ask` raises Broken in every thread


def tier():
    """Whether anything here confines a submission, beyond limits."""
    return sys.platform == 'linux' or os.geteuid() == 0


class Failure(Exception):
    """The caged process gave no answer; the text says why."""


class Broken(Exception):
    """There is no cage: the grader itself has a problem."""


class Cage:
    """A process that is shut in and does one job, with files in the folder that is all it can write.

    job       'worker' or 'archive': the file that is run
    files     dict, name -> bytes
    deadline  by time.monotonic(), for the start alone; each `ask` has its own
    memory    limit in megabytes, `seconds` the limit of processor time
    Raises Failure if it does not start in time, Broken if it cannot be started. `missing` then names what the system
    does not offer.
    """

    def __init__(self, job, files, deadline, memory, seconds):
        requests, answers = os.pipe(), os.pipe()
        self.requests, self.answers, self.received = requests[1], answers[0], bytearray()
        source = (HERE / 'confine.py').read_text(encoding='utf-8')
        try:
            self.process = subprocess.Popen(
                [sys.executable, '-B', '-c', source, str(requests[0]), str(answers[1]), str(memory * 2 ** 20),
                 str(seconds)],
                cwd='/', pass_fds=(requests[0], answers[1]), start_new_session=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
        except OSError as error:
            os.close(self.requests)
            os.close(self.answers)
            raise Broken(f'{sys.executable}: {error.strerror}') from None
        finally:
            os.close(requests[0])
            os.close(answers[1])
        try:
            for pipe in (self.requests, self.answers):
                os.set_blocking(pipe, False)
            started, _ = self.ask({'job': (HERE / f'{job}.py').read_text(encoding='utf-8'), 'names': list(files),
                                   'grader': os.getpid(), 'hidden': str(HERE)}, deadline, list(files.values()))
            if 'broken' in started:
                raise Broken(started['broken'])
            self.missing = started['missing']
        except Failure as failure:
            self.close(deadline)
            raise Failure(f'the process did not start: {failure}') from None
        except BaseException:
            self.close(deadline)
            raise

    def ask(self, request, deadline, blobs=()):
        """Send a request, wait for its answer. Returns (header, blobs); raises Failure if there is none in time."""
        token = secrets.token_hex(16)
        header = json.dumps({**request, 'token': token, 'sizes': [len(blob) for blob in blobs]}).encode()
        pending = memoryview(b''.join([len(header).to_bytes(8, 'big'), header, *blobs]))
        self.received.clear()
        while True:
            answer = self.parse(token.encode())
            if answer is not None:
                return answer
            left = deadline - time.monotonic()
            if stopped.is_set():
                raise Broken('stopped')
            if left <= 0:
                raise Failure('no answer in time')
            ended = self.process.poll() is not None    # asked first: what it has sent is then there to be read
            readable, writable, _ = select.select([self.answers], [self.requests] if pending else [], [],
                                                  0 if ended else min(left, 0.1))
            if writable:
                pending = self.write(pending)
            if readable and self.read():
                continue
            if ended:
                raise Failure(ending(self.process.returncode))
            if readable:
                time.sleep(0.01)                       # its end is closed: it dies, or will never answer

    def write(self, pending):
        try:
            return pending[os.write(self.requests, pending[:65536]):]
        except BlockingIOError:
            return pending
        except BrokenPipeError:
            return memoryview(b'')                     # it has died, or closed its end: poll() or the clock will tell

    def read(self):
        """Whether something came."""
        part = os.read(self.answers, 2 ** 20)
        self.received += part
        if len(self.received) > MAX_ANSWER:
            raise Failure('the answer is too large')
        return bool(part)

    def parse(self, token):
        """The answer, if all of it is there. What comes before its token was not sent by the worker's own loop."""
        start = self.received.find(token)
        if start < 0:
            del self.received[:-len(token)]
            return None
        del self.received[:start]
        body = len(token) + 8
        length = int.from_bytes(self.received[len(token):body], 'big')
        if len(self.received) < body:
            return None
        if length > MAX_HEADER:
            raise Failure('the answer is too large')
        if len(self.received) < body + length:
            return None
        try:
            header = json.loads(self.received[body:body + length])
            sizes = header['sizes']
            if not all(type(size) is int and 0 <= size <= MAX_ANSWER for size in sizes) or sum(sizes) > MAX_ANSWER:
                raise Failure('the answer is too large')
            if len(self.received) < body + length + sum(sizes):
                return None
            blobs, position = [], body + length
            for size in sizes:
                blobs.append(bytes(self.received[position:position + size]))
                position += size
            return header, blobs
        except (Failure, MemoryError):
            raise
        except Exception:                              # whatever a made-up answer trips over
            raise Failure('the answer cannot be read') from None

    def close(self, deadline):
        """Have the keeper end every process in the cage and remove its folder.

        Raises Failure if that has not happened shortly after the deadline; the keeper then goes on by itself.
        """
        for number in (signal.SIGTERM, signal.SIGCONT):       # the submission may have stopped it
            self.process.send_signal(number)
        for pipe in (self.requests, self.answers):
            os.close(pipe)
        try:
            self.process.wait(max(deadline - time.monotonic(), 0) + CLOSING)
        except subprocess.TimeoutExpired:
            raise Failure('its processes or files could not be removed in time') from None


def environment():
    """What the submission sees of the environment."""
    kept = ('PATH', 'LD_LIBRARY_PATH', 'DYLD_LIBRARY_PATH', 'SYSTEMROOT', 'TMPDIR')
    result = {name: os.environ[name] for name in kept if name in os.environ}
    packages = [os.path.abspath(folder) for folder in os.environ.get('PYTHONPATH', '').split(os.pathsep) if folder]
    if packages:
        result['PYTHONPATH'] = os.pathsep.join(packages)
    return {**result, 'PYTHONUSERBASE': site.getuserbase(), 'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1',
            'MKL_NUM_THREADS': '1'}


def ending(code):
    """How the keeper says that the process ended: 128 + N for signal N."""
    if code < 0 or code > 128:
        return f'the process was ended by signal {-code if code < 0 else code - 128}'
    return f'the process ended itself (exit status {code})'


# ---------------------------------------------------------------------------------------------------------------
# Values in messages: [kind, value] in JSON, the bytes of arrays beside it
# ---------------------------------------------------------------------------------------------------------------


class Other:
    """Something that no right answer has in that place; `text` says what it is."""

    def __init__(self, text):
        self.text = text


def pack(value, blobs):
    """Arguments for the worker; the bytes of arrays are appended to `blobs`."""
    if isinstance(value, np.ndarray):
        blobs.append(value.tobytes())
        return ['array', [value.dtype.str, value.shape, len(blobs) - 1]]
    if isinstance(value, dict):
        return ['dict', [[key, pack(item, blobs)] for key, item in value.items()]]
    if isinstance(value, list):
        return ['list', [pack(item, blobs) for item in value]]
    return ['value', value]


def unpack(tree, blobs):
    """The reverse of the worker's `pack`. Raises whatever it trips over if that is not what was sent."""
    kind, value = tree
    if kind == 'array':
        dtype, shape, number = value
        if dtype not in TYPES:
            raise ValueError('malformed array')
        return np.frombuffer(blobs[number], dtype).reshape(shape)
    if kind == 'dict':
        return {key: unpack(item, blobs) for key, item in value}
    if kind == 'list':
        return [unpack(item, blobs) for item in value]
    if kind == 'number':
        return float(value)
    return Other(str(value)[:100])
