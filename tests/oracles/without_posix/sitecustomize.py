"""Put on PYTHONPATH, this takes from a Linux process what Windows does not have, and refuses what Windows refuses.

Modules and functions of POSIX are missing; directories cannot be opened; nothing that any handle or map of this process
has open is renamed, replaced or removed; only what is open for writing is synchronised. `msvcrt` has the one function
that locks. What it cannot show: drives, names in which case does not count, the encoding of a console.
"""

import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess  # noqa: F401  # chooses by these modules which platform it is on
import sys
import types

MODULES = ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog")
FUNCTIONS = (
    *("fork", "forkpty", "sched_getaffinity", "sched_setaffinity", "getuid", "geteuid", "getgid", "getegid", "fchmod"),
    *("chown", "fchown", "lchown", "setsid", "killpg", "getpgid", "mkfifo", "mknod", "nice", "statvfs"),
    *("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_TMPFILE", "EX_OK", "EX_USAGE", "EX_SOFTWARE"),
)
SIGNALS = ("SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "SIGSTOP", "alarm", "pthread_kill")


def _locking(handle, mode, count):
    try:
        flock(handle, 2 | 4)
    except OSError as error:
        raise OSError(errno.EACCES, "Permission denied") from error


flock = fcntl.flock
for _name in MODULES:
    sys.modules[_name] = None
sys.modules["msvcrt"] = types.SimpleNamespace(locking=_locking, LK_NBLCK=2)
_opened, _fsync, _getfl = os.open, os.fsync, (fcntl.fcntl, fcntl.F_GETFL)


def _in_use(path):
    """Whether this process has the file, or one below the directory, open or mapped."""
    path = os.path.realpath(path)
    held = set()
    for handle in os.listdir("/proc/self/fd"):
        try:
            held.add(os.readlink(f"/proc/self/fd/{handle}"))
        except OSError:
            continue
    with open("/proc/self/maps") as maps:
        held |= {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if line.count("/")}
    return any(other == path or other.startswith(path + os.sep) for other in held)


def _refusing(function, checked):
    def refusing(*arguments, **options):
        if sys._getframe(1).f_globals["__name__"] == "tempfile":  # Windows has files that go when they are closed
            return function(*arguments, **options)
        for path in arguments[:checked]:
            if isinstance(path, (str, os.PathLike)) and os.path.exists(path) and _in_use(path):
                raise PermissionError(errno.EACCES, "The process cannot access the file", os.fspath(path))
        return function(*arguments, **options)

    return refusing


def _open(path, flags, mode=0o777, *, dir_fd=None):
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
    return _opened(path, flags, mode) if dir_fd is None else _opened(path, flags, mode, dir_fd=dir_fd)


def _synchronised(handle):
    get, flag = _getfl
    if stat.S_ISDIR(os.fstat(handle).st_mode) or get(handle, flag) & 3 == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    _fsync(handle)


os.open, os.fsync = _open, _synchronised
os.rename, os.replace = _refusing(os.rename, 2), _refusing(os.replace, 2)
os.unlink = os.remove = _refusing(os.unlink, 1)
shutil._use_fd_functions = False
for _name in FUNCTIONS:
    if hasattr(os, _name):
        delattr(os, _name)
for _name in SIGNALS:
    if hasattr(signal, _name):
        delattr(signal, _name)
