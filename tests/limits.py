"""What this process may have of a resource, while a test says so."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited(what: int, soft: int) -> Iterator[None]:
    """Set the soft limit of a resource, such as `resource.RLIMIT_NOFILE`."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)
