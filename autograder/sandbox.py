"""How a submission is confined: the first of three tiers that this system offers.

    bubblewrap      it is shown Python, /usr and an empty /tmp, and nothing else; started by root, as another user, too
    another user    root without bubblewrap: it runs as a user that nobody else is
    limits only     neither: time, memory, processor time and the size of files are limited, and that is all
"""

import collections
import functools
import os
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path

# The interpreter without .. and links in the way to it; its own name may be a link, by which an environment is found.
PYTHON = os.path.join(os.path.realpath(os.path.dirname(sys.executable)), os.path.basename(sys.executable))
BUBBLEWRAP, ANOTHER_USER, LIMITS_ONLY = 'bubblewrap', 'another user', 'limits only'
FOLDER = '/tmp/hw7'              # the submission's, in bubblewrap
SPACE = str(2 ** 27)             # bytes in /tmp there, and in /dev/shm
# Numbers that no user has: the first of USERS. Inside a container often only small ones exist.
FIRST_USERS, USERS = (2 * 10 ** 9, 50_000), 10_000
SYSTEM = ['/etc/ld.so.cache', '/etc/alternatives', '/etc/localtime', '/etc/fonts', '/etc/matplotlibrc']
PROBE = ('import os, sys; user = int(sys.argv[1])\n'
         'if user: os.setgroups([]), os.setgid(user), os.setuid(user)\n'
         'os.chdir(sys.argv[2]); sys.path += sys.argv[3:]; import numpy')

# name      one of the three
# wrapper   what stands before the command that runs Python
# user      the first of the numbers for the submission's user; 0: it runs as the grader's user
# missing   lines for the teacher: why it is not a better tier
Tier = collections.namedtuple('Tier', 'name wrapper user missing')


@functools.cache
def tier():
    """The tier in which submissions run; found out once, by trying."""
    missing, program, root = [], shutil.which('bwrap'), os.geteuid() == 0
    if not program:
        missing.append('bubblewrap is not installed (apt install bubblewrap)')
    for user in (FIRST_USERS if root else [0]) if program else []:
        wrapper = bubblewrap(program, root)
        problem = problem_of(wrapper, user, FOLDER)
        if not problem:
            return Tier(BUBBLEWRAP, wrapper, user, [])
        missing = [f'bubblewrap does not work here: {problem}']
    for user in FIRST_USERS if root else []:
        problem = problem_of([], user, tempfile.gettempdir())
        if not problem:
            return Tier(ANOTHER_USER, [], user, missing)
        missing[1:] = [f'another user cannot run Python in {sys.prefix}: {problem}']
    return Tier(LIMITS_ONLY, [], 0, [*missing, 'the submission is not confined, only limited' + (
        '' if root else '; it may start neither processes nor threads')])


def problem_of(wrapper, user, folder):
    """The last line that Python says as that user, in that folder; None if it runs and has NumPy."""
    process = subprocess.run([*wrapper, PYTHON, '-I', '-c', PROBE, str(user), folder, *user_packages()],
                             capture_output=True, text=True, errors='replace', cwd='/')
    return (process.stderr.splitlines() or ['it ended'])[-1] if process.returncode else None


def user_packages():
    """The folder of `pip install --user`, if Python uses it."""
    return [site.getusersitepackages()] if site.ENABLE_USER_SITE else []


def bubblewrap(program, root):
    """The command that shuts in what follows it.

    Root keeps the rights to become another user, which confine.py does: RLIMIT_NPROC does not bind root, whatever
    namespace it is in.
    """
    if root:
        rights = ['--cap-add', 'CAP_CHOWN', '--cap-add', 'CAP_SETUID', '--cap-add', 'CAP_SETGID']
    else:
        options = subprocess.run([program, '--help'], capture_output=True, text=True).stdout
        rights = ['--unshare-user', '--uid', '1000', '--gid', '1000',
                  *(['--disable-userns'] if '--disable-userns' in options else [])]        # bubblewrap 0.8
    memory = ['--perms', '1777', '--size', SPACE, '--tmpfs']
    return [program, '--unshare-ipc', '--unshare-pid', '--unshare-net', '--unshare-uts', '--unshare-cgroup-try',
            '--die-with-parent', '--cap-drop', 'ALL', *rights, '--proc', '/proc', '--dev', '/dev', *memory, '/dev/shm',
            '--remount-ro', '/dev', *memory, '/tmp', '--dir', FOLDER, *what_is_shown(), '--remount-ro', '/',
            '--chdir', FOLDER]


def what_is_shown():
    """Arguments for the interpreter's own folders and the system's libraries."""
    folders = [f'{prefix}/{part}' for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
               for part in ('bin', 'lib', 'lib64', 'pyvenv.cfg')] + user_packages()
    folders = [path for path in dict.fromkeys([*folders, *map(os.path.realpath, folders)])
               if os.path.exists(path) and not path.startswith('/usr/') and '..' not in Path(path).parts]
    links, path = [path for path in ('/bin', '/lib', '/lib64') if os.path.islink(path)], PYTHON
    while os.path.islink(path):                        # Python may be a chain of links through other folders
        if not any(Path(path).is_relative_to(folder) for folder in ('/usr', *folders)):
            links.append(path)
        target = os.path.join(os.path.dirname(path), os.readlink(path))
        path = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))
    above = sorted({str(parent) for path in (*folders, *links) for parent in Path(path).parents} - {'/'})
    shown = [path for path in ('/usr', '/bin', '/lib', '/lib64', *folders, *SYSTEM) if path not in links]
    return [*(item for path in above for item in ('--dir', path)),         # which the other user may go through
            *(item for path in shown for item in ('--ro-bind-try', path, path)),
            *(item for path in links for item in ('--symlink', os.readlink(path), path))]
