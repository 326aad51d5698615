"""How a submission is confined: the first of three tiers that this system offers.

    bubblewrap      bwrap shows it Python, /usr and an empty /tmp, and nothing else; as root, as another user besides
    another user    root without bwrap: it runs as a user that nobody else is
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

BUBBLEWRAP, ANOTHER_USER, LIMITS_ONLY = 'bubblewrap', 'another user', 'limits only'
FOLDER = '/tmp/hw7'              # the submission's, in bubblewrap
SPACE = 2 ** 27                  # bytes in /tmp there, and in /dev/shm
# Numbers that no user has: (the first, how many). Inside a container often only the small ones exist.
USERS = [(2 * 10 ** 9, 2 ** 22), (50_000, 10_000)]
SYSTEM = ['/etc/ld.so.cache', '/etc/alternatives', '/etc/localtime', '/etc/fonts', '/etc/matplotlibrc']
# Become the user in argument 1, if it is not 0, go to the folder in argument 2, and use Python there.
PROBE = ('import os, sys; user = int(sys.argv[1])\n'
         'if user: os.setgroups([]), os.setgid(user), os.setuid(user)\n'
         'os.chdir(sys.argv[2]); sys.path += sys.argv[3:]; import numpy')

# name      one of the three
# wrapper   what stands before the command that runs Python
# users     the numbers that the submission's user is taken from; None: it runs as the grader's user
# missing   lines for the teacher: why it is not a better tier
Tier = collections.namedtuple('Tier', 'name wrapper users missing')


@functools.cache
def tier():
    """The tier in which submissions run; found out once, by trying."""
    users, missing, program = USERS if os.geteuid() == 0 else [None], [], shutil.which('bwrap')
    for some in users if program else []:
        wrapper = bubblewrap(program, some is not None)
        problem = try_out(wrapper, some, FOLDER)
        if not problem:
            return Tier(BUBBLEWRAP, wrapper, some, [])
    missing.append(f'bubblewrap does not work here: {problem}' if program else
                   'bubblewrap is not installed (apt install bubblewrap)')
    for some in filter(None, users):
        problem = try_out([], some, tempfile.gettempdir())
        if not problem:
            return Tier(ANOTHER_USER, [], some, missing)
        missing[1:] = [f'another user cannot run Python in {sys.prefix} here: {problem}']
    return Tier(LIMITS_ONLY, [], None, [*missing, 'the submission is not confined, only limited; unless the grader is '
                                        'root, it may start neither processes nor threads'])


def try_out(wrapper, users, folder):
    """The last line of what Python says in that tier; None if all is well."""
    process = subprocess.run([*wrapper, sys.executable, '-I', '-c', PROBE, str(users[0] if users else 0), folder,
                              *user_packages()], capture_output=True, text=True, errors='replace', cwd='/')
    if process.returncode:
        return (process.stderr.strip() or f'exit status {process.returncode}').splitlines()[-1]
    return None


def user_packages():
    """The folder of `pip install --user`, if Python uses it."""
    return [site.getusersitepackages()] if site.ENABLE_USER_SITE else []


def bubblewrap(program, root):
    """The command that shuts in what follows it.

    Root keeps the rights to become another user, and confine.py does: RLIMIT_NPROC does not bind root, whatever
    namespace it is in.
    """
    if root:
        rights = ['--cap-add', 'CAP_CHOWN', '--cap-add', 'CAP_SETUID', '--cap-add', 'CAP_SETGID']
    else:
        rights = ['--unshare-user', '--uid', '1000', '--gid', '1000']
        options = subprocess.run([program, '--help'], capture_output=True, text=True)
        rights += [option for option in ['--disable-userns'] if option in options.stdout]     # bubblewrap 0.8
    size = ['--size', str(SPACE)]
    return [program, '--unshare-ipc', '--unshare-pid', '--unshare-net', '--unshare-uts', '--unshare-cgroup-try',
            '--die-with-parent', '--cap-drop', 'ALL', *rights, '--proc', '/proc', '--dev', '/dev',
            '--perms', '1777', *size, '--tmpfs', '/dev/shm', '--remount-ro', '/dev',
            '--perms', '1777', *size, '--tmpfs', '/tmp', '--dir', FOLDER, *python_and_system(),
            '--remount-ro', '/', '--chdir', FOLDER]


def python_and_system():
    """Arguments that show the interpreter's own folders and the system's libraries."""
    folders = [f'{prefix}/{part}' for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
               for part in ('bin', 'lib', 'lib64', 'pyvenv.cfg')] + user_packages()
    shown = ['/usr', *(folder for folder in dict.fromkeys([*folders, *map(os.path.realpath, folders)])
                       if os.path.exists(folder) and not folder.startswith('/usr/'))]
    above = sorted({str(parent) for path in shown for parent in Path(path).parents} - {'/'})
    arguments = [item for path in above for item in ('--dir', path)]           # open to the other user, too
    arguments += [item for path in [*shown, *SYSTEM] for item in ('--ro-bind-try', path, path)]
    for name in ('bin', 'lib', 'lib64'):
        path = f'/{name}'
        arguments += ['--symlink', os.readlink(path), path] if os.path.islink(path) else ['--ro-bind-try', path, path]
    link = sys.executable
    while os.path.islink(link):                        # Python may be a chain of links through other folders
        target = os.path.join(os.path.dirname(link), os.readlink(link))
        if not any(link.startswith(f'{folder}/') for folder in shown):
            arguments += ['--symlink', target, link]
        link = os.path.normpath(target)
    return arguments
