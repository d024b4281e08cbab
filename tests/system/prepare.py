"""Make what tests of the system need below .cache, two at a time: `python -m tests.system.prepare`.

Each is made by the first test that needs it, too: one after the other, which takes minutes more.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.system import container, images
from tests.system.debian import PYTHONS, debian_root
from tests.system.fleet import tools

AT_A_TIME = 2  # of the machine's cores

MADE: tuple[Callable[[], object], ...] = (
    tools,
    partial(debian_root, "bookworm", *container.PACKAGES),
    partial(debian_root, "bookworm", *images.PACKAGES),
    *(partial(debian_root, suite, "python3") for suite in PYTHONS),
)


def main() -> None:
    """Make all; fails as the first that fails."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for making in [pool.submit(make) for make in MADE]:
            making.result()


if __name__ == "__main__":
    main()
