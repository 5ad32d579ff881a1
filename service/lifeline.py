"""No process outlives the service that started it, however that ends.

A SIGKILL leaves nobody to clean up, and vLLM's processes go on without their parent (0.32: still there after 36 s, with
the memory of a GPU). So each of them asks the kernel to be killed when its parent is.
"""

from __future__ import annotations

import ctypes
import importlib.util
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have this process killed when the thread that started it ends. Linux only; elsewhere it does nothing.

    The engine's processes are started by threads which live until the end (the main thread, and those of the event
    loop's executor).
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def spawned_die_with_parent() -> None:
    """Have every process that multiprocessing spawns from now on, and every one that those spawn, die with its parent.

    A spawned process first runs the module that ``__main__.__spec__`` names, under the name ``__mp_main__`` - unless it
    is a package's ``__main__``, which `python -m service` is. So the main module is given the name of this one.
    """
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("service.lifeline")


if __name__ == "__mp_main__":
    die_with_parent()
