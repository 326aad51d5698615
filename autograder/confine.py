"""The child's half of the cage: what a process of the grader does to itself before it touches a submission.

cage.py starts it as `python -B -c SOURCE REQUESTS ANSWERS MEMORY SECONDS`, the first two being the numbers of two
pipes. It becomes two or three processes:

    keeper   stays outside, as the grader's user. When the worker ends, or the grader asks for it or dies, the keeper
             ends every process in the cage and removes its folder.
    init     only with namespaces: the first process of the new one. When it ends, the kernel ends all others in it.
    worker   shuts itself in and then does its job: worker.py calls a submission, archive.py unpacks one.

Each means of the system is used where it is there. Those that are not are named in the worker's first message.
"""

import contextlib
import ctypes
import errno
import importlib.util
import json
import os
import pathlib
import resource
import signal
import struct
import subprocess
import sys
import tempfile

# The job's loop uses these after the submission may have replaced them in their modules.
loads, dumps, read, write, leave = json.loads, json.dumps, os.read, os.write, os._exit

LINUX = sys.platform == 'linux'
LIBRARY = ctypes.CDLL(None, use_errno=True)

# From Linux's headers; the numbers of the system calls are the same on every architecture since 2019.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF, MOUNT_SETATTR = 444, 445, 446, 442
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 8, 36, 38
NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID_NODEV, MS_PRIVATE_RECURSIVE = 2 | 4, 0x40000 | 0x4000
CAP_DAC_READ_SEARCH = 2

# Landlock's rights. Those of a file are a part of those of a folder.
EXECUTE, WRITE_FILE, READ_FILE, READ_FOLDER = 1, 2, 4, 8
ALL_RIGHTS = [0, 2 ** 13 - 1, 2 ** 14 - 1, 2 ** 15 - 1, 2 ** 15 - 1, 2 ** 16 - 1]     # by version of Landlock
MAKE_DEVICES = 2 ** 6 | 2 ** 11

WAKING = {signal.SIGTERM, signal.SIGCHLD}     # what the keeper waits for

MAX_PROCESSES = 64                   # and threads
MAX_FOLDER = 128 * 2 ** 20           # bytes that a submission's folder holds, where it is a file system of its own
MAX_FILES = 5000                     # files in it
MAX_FILE = 2 ** 24                   # bytes of a file that a submission writes


def main():
    signal.pthread_sigmask(signal.SIG_BLOCK, WAKING)   # the keeper asks for them when it can do something about them
    requests, answers, memory, seconds = map(int, sys.argv[1:])
    setup, blobs = receive(requests)
    folder = None
    try:
        with contextlib.suppress(OSError):
            call('prctl', PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            call('prctl', PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if os.getppid() != setup['grader']:
            leave(0)
        folder, missing = tempfile.mkdtemp(prefix='hw7-'), []
        user, keep_reading = other_user(folder, missing) if os.geteuid() == 0 else (None, False)
        separate = can_separate(folder, user, missing)
        if separate:
            new_process_namespace()
        child = os.fork()
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.rmdir(folder or '')
        send(answers, setup['token'], {'broken': f'{type(error).__name__}: {error}'})
        raise
    if child:
        os.close(requests)
        os.close(answers)
        keep(child, folder, user, separate)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAKING)
        with contextlib.suppress(OSError), open('/proc/self/oom_score_adj', 'w') as file:
            file.write('1000')                         # if the machine's memory runs out, this ends first
        if separate:
            become_init(requests, answers)
            new_file_system(folder, user)
        job = prepare(setup, blobs, folder)
        if user and not separate:
            os.chown(folder, user, user)
        shut_in(folder, user, keep_reading, separate, memory, seconds, setup['hidden'], missing)
    except BaseException as error:
        send(answers, setup['token'], {'broken': f'{type(error).__name__}: {error}'})
        raise
    send(answers, setup['token'], {'missing': missing})
    del setup, blobs
    job(lambda: receive(requests), lambda token, answer, blobs=(): send(answers, token, answer, blobs))


def prepare(setup, blobs, folder):
    """Put the files into the folder, import what the job needs. Returns its function."""
    os.chdir(folder)
    for name, content in zip(setup['names'], blobs):
        with contextlib.suppress(OSError, ValueError):         # a helper's name that this file system does not take
            os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
            with open(name, 'wb') as file:
                file.write(content)
    for place, folders, names in os.walk('.'):
        for name in (*folders, *names):
            os.chmod(os.path.join(place, name), 0o755)
    os.environ.update(HOME=folder, TMPDIR=folder)
    tempfile.tempdir = None
    sys.argv = ['cnn_lenet.py']
    sys.path[:] = [entry for entry in sys.path if entry]
    namespace = {'__name__': 'job'}
    exec(compile(setup['job'], '<job>', 'exec'), namespace)
    return namespace['main']


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
    """The next message: (header, blobs)."""
    header = loads(read_exactly(pipe, int.from_bytes(read_exactly(pipe, 8), 'big')))
    return header, [read_exactly(pipe, size) for size in header['sizes']]


def send(pipe, token, header, blobs=()):
    """Send a message behind the token of its request, by which the grader finds it among whatever else is written."""
    header = dumps({**header, 'sizes': [len(blob) for blob in blobs]}).encode()
    message = memoryview(b''.join([token.encode(), len(header).to_bytes(8, 'big'), header, *blobs]))
    while message:
        message = message[write(pipe, message):]


# ---------------------------------------------------------------------------------------------------------------
# Calling the system
# ---------------------------------------------------------------------------------------------------------------


def call(name, *arguments):
    """A function of the C library. Raises OSError if it fails or there is none."""
    try:
        function = getattr(LIBRARY, name)
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name) from None
    result = function(*(ctypes.c_long(value) if isinstance(value, int) else value for value in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result


def works(function, *arguments):
    """Whether a function ends without an error, tried in a process of its own."""
    child = os.fork()
    if not child:
        try:
            function(*arguments)
            leave(0)
        finally:
            leave(1)
    return os.waitpid(child, 0)[1] == 0


# ---------------------------------------------------------------------------------------------------------------
# Another user
# ---------------------------------------------------------------------------------------------------------------


def other_user(folder, missing):
    """(number, keep_reading) of a user that nothing else on this machine uses; (None, False) if that cannot be.

    keep_reading  the user may read files whatever their permissions say: needed where the Python installation is
                  closed to others, harmless where Landlock says which files those are
    """
    used = set()
    for entry in os.listdir('/proc') if LINUX else []:
        with contextlib.suppress(OSError):
            used.add(os.stat(os.path.join('/proc', entry)).st_uid)
    numbers = [2_000_000_000 + os.getpid(), 50_000 + os.getpid() % 10_000]     # containers may map the small ones alone
    for user in numbers:
        for keep_reading in (False, True):
            if user not in used and (landlock_version() or not keep_reading) and works(
                    lambda user, keep: (become(user, keep), can_read(folder)), user, keep_reading):
                return user, keep_reading
    missing.append(f'another user: it cannot read the Python installation in {sys.base_prefix}, or reach {folder}')
    return None, False


def become(user, keep_reading):
    """Become another user, for good, without any rights of root but perhaps that of reading."""
    if keep_reading:
        call('prctl', PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    set_capabilities(1 << CAP_DAC_READ_SEARCH if keep_reading else 0)


def set_capabilities(allowed):
    """Keep these of root's rights alone."""
    if LINUX:
        call('capset', struct.pack('Ii', 0x20080522, 0), struct.pack('6I', allowed, allowed, 0, 0, 0, 0))


def can_read(folder):
    """Raise an error unless this process can read Python and NumPy, and reach the folder, which will be its own."""
    os.stat(folder)
    numpy = importlib.util.find_spec('numpy')
    for file in (sys.executable, os.__file__, json.__file__, *([numpy.origin] if numpy else [])):
        open(file, 'rb').close()


# ---------------------------------------------------------------------------------------------------------------
# Namespaces: no other processes, no network, all files read-only, a small file system of its own to write in
# ---------------------------------------------------------------------------------------------------------------


def can_separate(folder, user, missing):
    def attempt():
        new_process_namespace()
        new_file_system(folder, user)

    if LINUX and works(attempt):
        return True
    missing.append('namespaces: this system does not let this user make them')
    return False


def new_process_namespace():
    """The next child of this process is the first process of a new process namespace."""
    user, group = os.geteuid(), os.getegid()
    call('unshare', NEW_PROCESSES | (NEW_USER if user else 0))
    if user:
        for name, line in (('setgroups', 'deny'), ('uid_map', f'{user} {user} 1'), ('gid_map', f'{group} {group} 1')):
            with open(f'/proc/self/{name}', 'w') as file:
                file.write(line)


def new_file_system(folder, user):
    call('unshare', NEW_MOUNTS | NEW_NETWORK | NEW_IPC)
    call('mount', None, b'/', None, MS_PRIVATE_RECURSIVE, None)
    read_only, recursive, at_cwd = struct.pack('4Q', 1, 0, 0, 0), 0x8000, -100
    with contextlib.suppress(OSError):                 # Linux 5.12; Landlock and the other user say the same
        call('syscall', MOUNT_SETATTR, at_cwd, b'/', recursive, read_only, len(read_only))
    options = f'mode=0700,size={MAX_FOLDER},nr_inodes={MAX_FILES}' + (f',uid={user},gid={user}' if user else '')
    call('mount', b'tmpfs', folder.encode(), b'tmpfs', MS_NOSUID_NODEV, options.encode())


def become_init(requests, answers):
    """Go on in a child. This process reaps what there is to reap and ends as the child does."""
    call('prctl', PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    child = os.fork()
    if child:
        os.close(requests)
        os.close(answers)
        while True:
            process, status = os.wait()
            if process == child:
                leave(exit_status(status))


def exit_status(status):
    """One number for how a process ended, as shells have it: 128 + N for signal N."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


# ---------------------------------------------------------------------------------------------------------------
# The keeper
# ---------------------------------------------------------------------------------------------------------------


def keep(child, folder, user, separate):
    """Wait for the child, or for SIGTERM; end what is left in the cage, remove the folder, exit as the child did."""
    status = wait_for(child)
    if user and not separate:
        end_all_of(user)
        remove_shared_memory(user)
    elif not separate:
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)           # at least those that have not left its group
    with contextlib.suppress(ChildProcessError):       # those whose parents have ended have become ours
        while os.waitpid(-1, 0 if user or separate else os.WNOHANG)[0]:
            pass
    os.chdir('/')
    if separate:
        os.rmdir(folder)                               # what was in it was in the other file system
    else:
        quiet = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
        subprocess.run(['chmod', '-R', 'u+rwX', folder], **quiet)
        subprocess.run(['rm', '-rf', folder], **quiet)
    leave(status)


def wait_for(child):
    """The child's exit status, once it has ended; SIGTERM has it ended at once.

    Both signals stay blocked: one that comes between looking and waiting is still there to be waited for.
    """
    signal.signal(signal.SIGCHLD, lambda *_: None)     # a system may drop a signal that nobody handles
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return exit_status(status)
        if signal.sigwait(WAKING) == signal.SIGTERM:
            os.kill(child, signal.SIGKILL)


def end_all_of(user):
    """A kill of everything, sent by that user, reaches all of its processes at once; none of them can fork meanwhile.

    One of them may be quicker and stop or kill the sender: then once more.
    """
    for _ in range(1000):
        sender = os.fork()
        if not sender:
            try:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
                if user > 0 and os.getuid() == os.geteuid() == user:
                    os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except BaseException:
                leave(1)
            leave(0)
        _, status = os.waitpid(sender, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.kill(sender, signal.SIGKILL)
            os.waitpid(sender, 0)
        elif status == 0:
            return


def remove_shared_memory(user):
    """Remove the System V shared memory, semaphores and queues of that user, which outlive its processes."""
    for name, remove in (('shm', 'shmctl'), ('sem', 'semctl'), ('msg', 'msgctl')):
        with contextlib.suppress(OSError), open(f'/proc/sysvipc/{name}') as file:
            columns = file.readline().split()
            number, owner = columns.index(f'{name}id' if name != 'msg' else 'msqid'), columns.index('uid')
            for values in map(str.split, file):
                if int(values[owner]) == user:
                    call(remove, int(values[number]), *([0] if name == 'sem' else []), 0, None)     # IPC_RMID


# ---------------------------------------------------------------------------------------------------------------
# The worker
# ---------------------------------------------------------------------------------------------------------------


def shut_in(folder, user, keep_reading, separate, memory, seconds, hidden, missing):
    """Give up what this process can do without."""
    rules = landlock_rules(folder, hidden)
    os.setsid()
    if user:
        become(user, keep_reading)
    elif separate or os.geteuid() == 0:
        with contextlib.suppress(OSError):
            set_capabilities(0)
    with contextlib.suppress(OSError):
        call('prctl', PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        call('prctl', PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if rules is None:
        missing.append('Landlock: Linux 5.13 or later has it, if it is switched on')
    else:
        call('syscall', LANDLOCK_RESTRICT_SELF, rules, 0)
        os.close(rules)
        if landlock_version() < 3:
            missing.append('Landlock of Linux 6.2 or later: this one lets files be cut to length 0')
        if landlock_version() < 6 and not (user or separate):
            missing.append('Landlock of Linux 6.12 or later: this one lets signals be sent to other processes')
    if not (user or separate):
        missing.append('a safe end to all processes' + ('' if os.geteuid() == 0 else
                       ': the submission may start neither processes nor threads instead'))
    limits = {'CPU': seconds, 'AS': memory, 'FSIZE': MAX_FILE, 'NOFILE': 64, 'CORE': 0, 'MSGQUEUE': 0,
              'NPROC': MAX_PROCESSES if user or separate else 0}
    for name, limit in limits.items():
        with contextlib.suppress(ValueError, OSError, AttributeError):   # not every system has, or allows, all of them
            resource.setrlimit(getattr(resource, f'RLIMIT_{name}'), (limit, limit))


def landlock_version():
    """0 where there is no Landlock."""
    with contextlib.suppress(OSError):
        return call('syscall', LANDLOCK_CREATE_RULESET, None, 0, 1) if LINUX else 0
    return 0


def landlock_rules(folder, hidden):
    """A ruleset: read the Python installation and the system's libraries, do anything in the folder, nothing else."""
    version = landlock_version()
    if not version:
        return None
    everything = ALL_RIGHTS[min(version, 5)]
    tcp, scopes = 3 if version >= 4 else 0, 3 if version >= 6 else 0
    attributes = struct.pack('3Q', everything, tcp, scopes)[:8 if version < 4 else 16 if version < 6 else 24]
    rules = call('syscall', LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    add_rule(rules, folder, everything & ~MAKE_DEVICES)
    for path in readable_paths(hidden):
        add_rule(rules, path, EXECUTE | READ_FILE | READ_FOLDER)
    add_rule(rules, '/dev/null', READ_FILE | WRITE_FILE)
    return rules


def readable_paths(hidden):
    """What Python needs. A folder on its path that the grader's own files lie in is left out, NumPy in it is not."""
    above = {hidden, *map(str, pathlib.PurePath(hidden).parents)}
    prefixes = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sys.path]
    packages = [os.path.dirname(module.__file__) for name, module in list(sys.modules.items())
                if '.' not in name and getattr(module, '__file__', None) and hasattr(module, '__path__')]
    libraries = [f'{package}.libs' for package in packages]
    system = ['/usr/lib', '/usr/lib64', '/usr/local/lib', '/lib', '/lib64', '/usr/share/zoneinfo', '/usr/share/fonts',
              '/etc/ld.so.cache', '/etc/localtime', '/dev/zero', '/dev/random', '/dev/urandom', '/proc/cpuinfo',
              '/proc/meminfo', '/sys/devices/system/cpu']
    paths = map(os.path.realpath, (*prefixes, *packages, *libraries, *system))
    return [path for path in paths if path not in above]


def add_rule(rules, path, rights):
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return                                         # there is no such thing on this system
    try:
        if not os.path.isdir(path):
            rights &= EXECUTE | READ_FILE | WRITE_FILE
        call('syscall', LANDLOCK_ADD_RULE, rules, 1, struct.pack('=Qi', rights, opened), 0)
    finally:
        os.close(opened)


main()
