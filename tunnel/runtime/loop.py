"""Running a daemon's coroutine: event loop, garbage collector, descriptor limit."""

import asyncio
import gc
import resource
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tunnel.log import get_log

log = get_log(__name__)

T = TypeVar("T")

# The data path makes many short-lived objects and hardly any cycles: the stock threshold of 700
# costs QUIC a tenth of its throughput.
_GC_THRESHOLDS = (20_000, 20, 20)
_KEPT_BYTES = 4 << 20  # free at the end of the heap: 17 chunks of bulk


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - optional at run time
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # a container may forbid it: the soft limit stands
            log.warning("limit of open files stayed", soft=soft, hard=hard)
            return soft
    return hard


def _keep_freed_memory() -> None:
    """Have the C library keep twice as much as is freed here, rather than give it back at once.

    glibc follows the largest block that was ever freed (mallopt(3), M_MMAP_THRESHOLD). The kernel
    clears every page that it hands out again: in bulk that is a tenth of the work.
    """
    bytes(_KEPT_BYTES // 2)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on uvloop where it is importable, else on asyncio's own loop."""
    raise_descriptor_limit()
    gc.set_threshold(*_GC_THRESHOLDS)
    _keep_freed_memory()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)
