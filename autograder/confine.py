"""The child's half of the cage: limits, then the job. Where bubblewrap runs, it has shut the process in already.

cage.py starts it as `python -I -c SOURCE SOCKET MEMORY SECONDS`, in the folder that is the submission's.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import signal
import struct
import sys
import types

MAX_PROCESSES = 64               # and threads
MAX_FILE = 2 ** 27               # bytes of a file that a submission writes
NO_NEW_PRIVS, SECCOMP, DEATH = 38, 22, 1
# The number of the architecture; the first and the last of add_key, request_key and keyctl.
KEY_CALLS = {'x86_64': (0xC000003E, 248, 250), 'aarch64': (0xC00000B7, 217, 219)}


def main():
    socket, memory, seconds = map(int, sys.argv[1:])
    faulthandler.register(signal.SIGALRM, file=socket, all_threads=False)      # an answer that is late says where it is
    requests = open(socket, 'rb', closefd=False)
    setup, _ = receive(requests)
    try:
        with contextlib.suppress(OSError), open('/proc/self/oom_score_adj', 'w') as file:
            file.write('1000')                         # if the machine's memory runs out, this ends first
        if sys.platform == 'linux':
            forbid_keys()
        if setup['user']:
            become(setup['user'])
        if sys.platform == 'linux':
            set_process(DEATH, signal.SIGKILL)         # it ends with the grader, as far as it does not prevent that
        job = prepare(setup)
        limits = {'CPU': seconds, 'AS': memory * 2 ** 20, 'FSIZE': MAX_FILE, 'NOFILE': 256, 'CORE': 0,
                  'NPROC': MAX_PROCESSES if setup['processes'] else 0}
        for name, limit in limits.items():
            with contextlib.suppress(ValueError, OSError, AttributeError):     # not every system has, or allows, all
                resource.setrlimit(getattr(resource, f'RLIMIT_{name}'), (limit, limit))
    except BaseException as error:
        send(socket, setup['token'], {'broken': f'{type(error).__name__}: {error}'})
        raise
    send(socket, setup['token'], {})
    del setup
    job(lambda: receive(requests), lambda token, answer, blobs=(): send(socket, token, answer, blobs))


def become(user):
    os.chown('.', user, user)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def prepare(setup):
    """Import the job's modules, whose names are then free for the submission's. Returns the function of the last."""
    os.environ.update(HOME=os.getcwd(), TMPDIR=os.getcwd())
    sys.argv = ['cnn_lenet.py']
    sys.path += setup['path']
    for name, source in setup['modules'].items():
        sys.modules[name] = types.ModuleType(name)
        exec(compile(source, f'<{name}>', 'exec'), vars(sys.modules[name]))
    return [sys.modules.pop(name) for name in setup['modules']][-1].main


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
# Messages: 8 bytes of length, JSON, and bytes whose lengths stand in the JSON
# ---------------------------------------------------------------------------------------------------------------


def receive(file):
    """The next message: (header, blobs). The clock runs from then on."""
    length = file.read(8)
    if not length:
        os._exit(0)                                    # the grader has closed its end: there is nothing left to do
    header = json.loads(file.read(int.from_bytes(length, 'big')))
    blobs = [file.read(size) for size in header['sizes']]
    signal.setitimer(signal.ITIMER_REAL, header['seconds'])
    return header, blobs


def send(socket, token, header, blobs=()):
    """Send a message behind the token of its request, by which the grader finds it among whatever else is written."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    header = json.dumps({**header, 'sizes': [len(blob) for blob in blobs]}).encode()
    message = memoryview(b''.join([token.encode(), len(header).to_bytes(8, 'big'), header, *blobs]))
    while message:
        message = message[os.write(socket, message):]


main()
