"""Certificate files in use: whoever replaces them need not restart or reload anything."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from tunnel.errors import SettingsError
from tunnel.log import get_log
from tunnel.tls.slots import Certificate
from tunnel.tls.watching import WatchedFiles

INTERVAL = 10.0  # seconds; what is replaced is in force within a minute, a slow machine included

log = get_log(__name__)


async def watch(
    files: WatchedFiles, install: Callable[[Certificate], None], *, interval: float = INTERVAL
) -> NoReturn:
    """Call `install` with each new certificate in the files, for ever; looks every `interval` s.

    Files that cannot be used change nothing. Each fault is told once, and again only after the
    files were in order.
    """
    told: set[str] = set()
    while True:
        await asyncio.sleep(interval)
        try:
            certificate = files.changed()
        except SettingsError as fault:
            if str(fault) not in told:
                told.add(str(fault))
                log.warning("certificate files not usable: kept the old one", cause=fault)
            continue
        told.clear()
        if certificate is not None:
            install(certificate)
            log.info(
                "certificate replaced",
                leaf=f"sha256:{certificate.leaf_hash.hex()}",
                not_after=f"{certificate.not_after:%Y-%m-%dT%H:%M:%SZ}",
            )
