"""Beginning a worker: the same Python and unpacked program, with descriptors to talk by."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE_PARENT = Path(__file__).parents[3]
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_NOT_FOR_WORKERS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})


def launch(module: str, descriptors: Sequence[int]) -> "subprocess.Popen[bytes]":
    """Start `module` in a process of its own, with these descriptors as its arguments, in order.

    It is the program that runs, also where its file was replaced meanwhile. Raises OSError.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
    return subprocess.Popen(  # noqa: S603 - our own interpreter and package
        [sys.executable, "-P", "-m", module, *map(str, descriptors)],
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
        env={**kept, "PYTHONPATH": str(PACKAGE_PARENT)},
    )


def launched(arguments: Sequence[str]) -> list[int]:
    """Return, in a process that was launched, the descriptors; it dies with its parent from now on.

    Signals are the parent's business: a terminal or a service manager may send them to all.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    descriptors = [int(each) for each in arguments]
    for each in descriptors:
        os.set_inheritable(each, False)  # noqa: FBT003 - the standard library's signature
    return descriptors
