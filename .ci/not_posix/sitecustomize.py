"""Python imports this module at its start where its folder is in PYTHONPATH: then it lacks what it lacks on Windows.

Only names are taken away. Paths, encodings and locks of files stay this system's, and SIGKILL, by which this system's
subprocess ends a process.
"""

import os
import signal
import sys

MODULES = ['fcntl', 'grp', 'pty', 'pwd', 'resource', 'syslog', 'termios', 'tty']
OF_OS = ['chown', 'chroot', 'fchown', 'fork', 'forkpty', 'getloadavg', 'getpgid', 'getpriority', 'getsid', 'killpg',
         'lchown', 'mkfifo', 'nice', 'openpty', 'pread', 'pwrite', 'register_at_fork', 'sched_getaffinity',
         'sched_setaffinity', 'setgid', 'setgroups', 'setpgid', 'setpriority', 'setsid', 'setuid', 'sync', 'sysconf']
OF_SIGNAL = ['ITIMER_REAL', 'SIGALRM', 'SIGCHLD', 'SIGHUP', 'SIGPIPE', 'SIGQUIT', 'SIGSTOP', 'SIGTSTP',
             'SIGUSR1', 'SIGUSR2', 'alarm', 'pause', 'pthread_kill', 'setitimer', 'sigwait']

sys.modules.update(dict.fromkeys(MODULES))             # None there makes `import` raise ImportError
for module, names in ((os, OF_OS), (signal, OF_SIGNAL)):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
