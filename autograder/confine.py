"""The child's half of the cage: limits, files, then the job. Where bubblewrap runs, it has shut the process in already.

cage.py starts it as `python -I -c SOURCE SOCKET MEMORY SECONDS`, in the folder that is the submission's.
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
import subprocess
import sys

# The job's loop uses these after the submission may have replaced them in their modules.
loads, dumps, read, write, leave = json.loads, json.dumps, os.read, os.write, os._exit
set_timer, ALARM = signal.setitimer, signal.ITIMER_REAL

MAX_PROCESSES = 64               # and threads
MAX_FILE = 2 ** 27               # bytes of a file that a submission writes
NO_NEW_PRIVS, SECCOMP, SUBREAPER = 38, 22, 36
# The number of the architecture; the first and the last of add_key, request_key and keyctl.
KEY_CALLS = {'x86_64': (0xC000003E, 248, 250), 'aarch64': (0xC00000B7, 217, 219)}


def main():
    socket, memory, seconds = map(int, sys.argv[1:])
    faulthandler.register(signal.SIGALRM, file=socket, all_threads=False)      # an answer that is late says where it is
    setup, blobs = receive(socket)
    try:
        with contextlib.suppress(OSError), open('/proc/self/oom_score_adj', 'w') as file:
            file.write('1000')                         # if the machine's memory runs out, this ends first
        if sys.platform == 'linux':
            forbid_keys()
        if setup['user']:
            os.chown('.', setup['user'], setup['user'])
            if setup['keeper']:
                keep_others(setup['user'], socket)
            become(setup['user'])
        job = prepare(setup, blobs)
        limits = {'CPU': seconds, 'AS': memory * 2 ** 20, 'FSIZE': MAX_FILE, 'NOFILE': 256, 'CORE': 0,
                  'NPROC': MAX_PROCESSES if setup['processes'] else 0}
        for name, limit in limits.items():
            with contextlib.suppress(ValueError, OSError, AttributeError):     # not every system has, or allows, all
                resource.setrlimit(getattr(resource, f'RLIMIT_{name}'), (limit, limit))
    except BaseException as error:
        send(socket, setup['token'], {'broken': f'{type(error).__name__}: {error}'})
        raise
    send(socket, setup['token'], {})
    del setup, blobs
    job(lambda: receive(socket), lambda token, answer, blobs=(): send(socket, token, answer, blobs))


def prepare(setup, blobs):
    """Put the files into the folder, import what the job needs. Returns its function."""
    for name, content in zip(setup['names'], blobs):
        with contextlib.suppress(OSError, ValueError):         # a helper's name that this file system does not take
            os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
            with open(name, 'wb') as file:
                file.write(content)
    os.environ.update(HOME=os.getcwd(), TMPDIR=os.getcwd())
    sys.argv = ['cnn_lenet.py']
    sys.path += setup['path']
    namespace = {'__name__': 'job'}
    exec(compile(setup['job'], '<job>', 'exec'), namespace)
    return namespace['main']


def forbid_keys():
    """No access to the kernel's keys, with which a submission could read the teacher's and leave messages to the next
    one whatever its namespaces are; and no programs that run as another user than the one who calls them.

    The filter's steps are (operation, jump if true, jump if false, operand).
    """
    machine, first, last = KEY_CALLS.get(os.uname().machine, (0, 0, 0))
    steps = [(0x20, 0, 0, 4), (0x15, 0, 4, machine),                           # another architecture: denied
             (0x20, 0, 0, 0), (0x54, 0, 0, 0x3FFFFFFF),                        # the call, without the bit of x32
             (0x35, 0, 2, first), (0x25, 1, 0, last),
             (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]               # denied: EPERM; allowed
    content = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))
    set_process(NO_NEW_PRIVS, 1)
    if machine:
        set_process(SECCOMP, 2, struct.pack('HxxxxxxQ', len(steps), ctypes.addressof(content)))


def set_process(option, value, pointer=None):
    """Linux's prctl."""
    ctypes.CDLL(None).prctl(option, ctypes.c_long(value), pointer, None, None)


# ---------------------------------------------------------------------------------------------------------------
# Another user
# ---------------------------------------------------------------------------------------------------------------


def become(user):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def keep_others(user, socket):
    """Go on in a child. This process stays root until that has ended or the grader has gone, then ends all that the
    user has started and removes what it has left in the folders that are open to everyone."""
    if sys.platform == 'linux':
        set_process(SUBREAPER, 1)                      # those whose parents have ended become ours
    child = os.fork()
    if not child:
        return
    set_timer(ALARM, 0)
    grader, ended, status = select.poll(), 0, 0
    grader.register(socket, 0)                         # that it is closed is always reported
    while not ended and not grader.poll(20):
        ended, status = os.waitpid(child, os.WNOHANG)
    end_all_of(user)
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, code = os.wait()
            status = code if ended == child else status
    remove = 'ipcrm -a; find /tmp /var/tmp /dev/shm -maxdepth 1 -user $0 -exec chmod -R u+rwX {} + -exec rm -rf {} +'
    subprocess.run(['sh', '-c', remove, str(user)], cwd='/', user=user, group=user, extra_groups=[])
    subprocess.run(['rm', '-rf', os.path.dirname(os.getcwd())], cwd='/')
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
            finally:
                leave(0 if os.getuid() == user else 1)
        _, status = os.waitpid(sender, os.WUNTRACED)
        if status == 0:
            return
        if os.WIFSTOPPED(status):
            os.kill(sender, signal.SIGKILL)
            os.waitpid(sender, 0)


# ---------------------------------------------------------------------------------------------------------------
# Messages: 8 bytes of length, JSON, and bytes whose lengths stand in the JSON
# ---------------------------------------------------------------------------------------------------------------


def read_exactly(socket, count):
    parts = []
    while count:
        part = read(socket, min(count, 2 ** 20))
        if not part:
            leave(0)                                   # the grader has closed its end: there is nothing left to do
        parts.append(part)
        count -= len(part)
    return b''.join(parts)


def receive(socket):
    """The next message: (header, blobs). The clock runs from then on."""
    header = loads(read_exactly(socket, int.from_bytes(read_exactly(socket, 8), 'big')))
    blobs = [read_exactly(socket, size) for size in header['sizes']]
    set_timer(ALARM, header['seconds'])
    return header, blobs


def send(socket, token, header, blobs=()):
    """Send a message behind the token of its request, by which the grader finds it among whatever else is written."""
    set_timer(ALARM, 0)
    header = dumps({**header, 'sizes': [len(blob) for blob in blobs]}).encode()
    message = memoryview(b''.join([token.encode(), len(header).to_bytes(8, 'big'), header, *blobs]))
    while message:
        message = message[write(socket, message):]


main()
