"""A program that says what it is told to, behind real doors, and callers of every kind."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tunnel.admin.answers import Members, Pages, Problem
from tunnel.admin.families import Family, counters, gauge
from tunnel.admin.reception import Reception
from tunnel.settings.values import AdminSettings
from tunnel.stream import Address


@dataclass
class ScriptedDesk:
    """Implements tunnel.admin.pages.Desk."""

    why_not: str | None = None
    drains: int = 0
    renewed: list[str] = field(default_factory=list)

    async def gather(self) -> None:
        """Nobody else knows anything."""

    def obstacle(self) -> str | None:
        return self.why_not

    def status(self) -> Members:
        return {"program": "relay", "ready": self.why_not is None}

    def certificates(self) -> list[Members]:
        return [{"name": "a.t.test"}]

    def renew(self, name: str) -> Members:
        if name != "a.t.test":
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no certificate for {name}")
        self.renewed.append(name)
        return {"name": name}

    def drain(self) -> None:
        self.drains += 1

    def families(self) -> Iterable[Family]:
        yield gauge("tunnel_test_size_bytes", "How much.", 12)
        yield counters("tunnel_test_visitors", "How many.", ("reason",), {("busy",): 3})


@asynccontextmanager
async def doors(settings: AdminSettings, folder: Path, **more: Any) -> AsyncIterator[ScriptedDesk]:
    """Answer at the doors that settings say while inside."""
    desk = ScriptedDesk()
    stop = asyncio.Event()

    async def wait() -> None:
        await stop.wait()

    reception = Reception(desk, folder)
    reception.open(settings, **more)
    async with asyncio.TaskGroup() as group:
        group.create_task(reception.run(wait))
        try:
            yield desk
        finally:
            stop.set()


@asynccontextmanager
async def control_socket(
    folder: Path, more: Pages | None = None
) -> AsyncIterator[tuple[Path, Any]]:
    """Open only a control socket while inside."""
    path = folder / "admin.sock"
    async with doors(
        AdminSettings(socket=path), folder, **({"pages": more} if more else {})
    ) as desk:
        yield path, desk


async def exchange(where: Path | Address, request: bytes) -> bytes:
    """Send `request` and return all that comes until the other side closes."""
    reader, writer = await connect(where)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def connect(where: Path | Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection to a door."""
    if isinstance(where, Path):
        return await asyncio.open_unix_connection(where)
    return await asyncio.open_connection(where.host, where.port)


def ask(method: str, target: str, body: bytes = b"") -> bytes:
    """Return a request after which the connection is to be closed."""
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def read(answer: bytes) -> tuple[int, Any]:
    """Return the status and the JSON value of an answer."""
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content)


@contextmanager
def abandoned(path: Path) -> Iterator[None]:
    """Leave a socket behind, as a process does that was killed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
    yield
