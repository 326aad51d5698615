"""The child's half of the cage: limits, files, then the job. Where bubblewrap runs, it has shut the process in already.

cage.py starts it as `python -I -c SOURCE REQUESTS ANSWERS MEMORY SECONDS`, the first two being the numbers of two
pipes, in the folder that will be the submission's.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import select
import signal
import struct
import sys

# The job's loop uses these after the submission may have replaced them in their modules.
loads, dumps, read, write, leave = json.loads, json.dumps, os.read, os.write, os._exit
set_timer, ALARM = signal.setitimer, signal.ITIMER_REAL

MAX_PROCESSES = 64               # and threads
MAX_FILE = 2 ** 27               # bytes of a file that a submission writes
# The number of the architecture, and those of add_key, request_key and keyctl, which follow each other.
KEY_CALLS = {'x86_64': (0xC000003E, 248, 250), 'aarch64': (0xC00000B7, 217, 219)}


def main():
    requests, answers, memory, seconds = map(int, sys.argv[1:])
    # An answer that is late says where the code is: this is written before the grader stops waiting.
    faulthandler.register(signal.SIGALRM, file=answers, all_threads=False)
    setup, blobs = receive(requests)
    user = setup['user']
    try:
        with contextlib.suppress(OSError), open('/proc/self/oom_score_adj', 'w') as file:
            file.write('1000')                         # if the machine's memory runs out, this ends first
        if sys.platform == 'linux':
            forbid_keys()
        if user:
            os.chown('.', user, user)
            child = os.fork() if setup['keeper'] else 0
            if child:
                keep(child, user, requests)
            become(user)
        job = prepare(setup, blobs)
        limits = {'CPU': seconds, 'AS': memory, 'FSIZE': MAX_FILE, 'NOFILE': 256, 'CORE': 0,
                  'NPROC': MAX_PROCESSES if setup['processes'] else 0}
        for name, limit in limits.items():
            with contextlib.suppress(ValueError, OSError, AttributeError):     # not every system has, or allows, all
                resource.setrlimit(getattr(resource, f'RLIMIT_{name}'), (limit, limit))
    except BaseException as error:
        send(answers, setup['token'], {'broken': f'{type(error).__name__}: {error}'})
        raise
    send(answers, setup['token'], {})
    del setup, blobs
    job(lambda: receive(requests), lambda token, answer, blobs=(): send(answers, token, answer, blobs))


def prepare(setup, blobs):
    """Put the files into the folder, import what the job needs. Returns its function."""
    folder = os.getcwd()
    for name, content in zip(setup['names'], blobs):
        with contextlib.suppress(OSError, ValueError):         # a helper's name that this file system does not take
            os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
            with open(name, 'wb') as file:
                file.write(content)
    os.environ.update(HOME=folder, TMPDIR=folder)
    sys.argv = ['cnn_lenet.py']
    sys.path += setup['path']
    namespace = {'__name__': 'job'}
    exec(compile(setup['job'], '<job>', 'exec'), namespace)
    return namespace['main']


def become(user):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def forbid_keys():
    """No set-user-ID programs, and no access to the kernel's keys: they do not belong to a namespace or a process, so
    that a submission could read the teacher's and leave messages to the next one.

    The filter is the kernel's: (operation, jump if true, jump if false, operand) for each step.
    """
    machine, first, last = KEY_CALLS.get(os.uname().machine, (0, 0, 0))
    steps = [(0x20, 0, 0, 4), (0x15, 0, 4, machine),                           # another architecture: denied
             (0x20, 0, 0, 0), (0x54, 0, 0, 0x3FFFFFFF),                        # its number, without the bit of x32
             (0x35, 0, 2, first), (0x25, 1, 0, last),
             (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]               # denied: EPERM; allowed
    content = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))
    libc = ctypes.CDLL(None)
    libc.prctl(38, *map(ctypes.c_long, (1, 0, 0, 0)))                          # PR_SET_NO_NEW_PRIVS
    if machine:
        libc.prctl(22, ctypes.c_long(2), struct.pack('HxxxxxxQ', len(steps), ctypes.addressof(content)))  # SECCOMP


# ---------------------------------------------------------------------------------------------------------------
# Another user without bubblewrap: a keeper stays root, and ends whatever the user has started
# ---------------------------------------------------------------------------------------------------------------


def keep(child, user, requests):
    """Wait until the job has ended or the grader has closed its pipe; then remove what is the user's."""
    import subprocess

    set_timer(ALARM, 0)
    grader, ended, status = select.poll(), 0, 0
    grader.register(requests, 0)                       # its being closed is always reported
    while not ended and not grader.poll(20):
        ended, status = os.waitpid(child, os.WNOHANG)
    end_all_of(user)
    if not ended:
        _, status = os.waitpid(child, 0)
    remove = 'ipcrm -a; find /tmp /var/tmp /dev/shm -maxdepth 1 -user $0 -exec rm -rf {} +'
    subprocess.run(['sh', '-c', remove, str(user)], cwd='/', user=user, group=user, extra_groups=[],
                   stdout=subprocess.DEVNULL)
    code = os.waitstatus_to_exitcode(status)
    leave(code if code >= 0 else 128 - code)           # as bubblewrap says it: 128 + N for signal N


def end_all_of(user):
    """A kill of everything, sent by that user, reaches all of its processes at once; none of them can fork meanwhile.

    One of them may be quicker and stop or kill the sender: then once more.
    """
    for _ in range(1000):
        sender = os.fork()
        if not sender:
            try:
                become(user)
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except BaseException:
                leave(1)
            leave(0)
        _, status = os.waitpid(sender, os.WUNTRACED)
        if status == 0:
            return
        if os.WIFSTOPPED(status):
            os.kill(sender, signal.SIGKILL)
            os.waitpid(sender, 0)


# ---------------------------------------------------------------------------------------------------------------
# Messages: 8 bytes of length, JSON, and bytes whose lengths stand in the JSON
# ---------------------------------------------------------------------------------------------------------------


def read_exactly(pipe, count):
    parts = []
    while count:
        part = read(pipe, min(count, 2 ** 20))
        if not part:
            leave(0)                                   # the grader has closed its end: there is nothing left to do
        parts.append(part)
        count -= len(part)
    return b''.join(parts)


def receive(pipe):
    """The next message: (header, blobs). The clock runs from then on."""
    header = loads(read_exactly(pipe, int.from_bytes(read_exactly(pipe, 8), 'big')))
    blobs = [read_exactly(pipe, size) for size in header['sizes']]
    set_timer(ALARM, header['seconds'])
    return header, blobs


def send(pipe, token, header, blobs=()):
    """Send a message behind the token of its request, by which the grader finds it among whatever else is written."""
    set_timer(ALARM, 0)
    header = dumps({**header, 'sizes': [len(blob) for blob in blobs]}).encode()
    message = memoryview(b''.join([token.encode(), len(header).to_bytes(8, 'big'), header, *blobs]))
    while message:
        message = message[write(pipe, message):]


main()
