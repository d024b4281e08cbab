"""The rooms of `tunnel/`, who may enter which, and the sizes that the house keeps to.

Nothing here is run: the source is parsed. Each rule is also shown a piece of code that breaks it.
"""

import ast
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# As in docs/architecture.md: a room imports from itself and from what stands after it, and from
# `tunnel/__init__.py`, which has only the version. Neighbours in one row never meet.
ORDER = (
    ("relay", "client"),
    ("cli",),
    ("admin",),
    ("runtime",),
    ("acme",),
    ("transport",),
    ("tls",),
    ("settings",),
    ("stream",),
    ("log",),
    ("protocol",),
    ("errors",),
)
FLOORS = {room: floor for floor, row in enumerate(reversed(ORDER)) for room in row}

# Every library that is not Python's own, and the only rooms that know it.
ENGINES: Mapping[str, tuple[str, ...]] = {
    "OpenSSL": ("tunnel.transport.quic",),
    "acme": ("tunnel.acme",),
    "aioquic": ("tunnel.transport.quic",),
    "cryptography": ("tunnel.tls", "tunnel.acme", "tunnel.transport"),
    "dns": ("tunnel.acme",),
    "h11": ("tunnel.admin",),
    "h2": ("tunnel.transport.http2",),
    "hpack": ("tunnel.transport.http2",),
    "hyperframe": ("tunnel.transport.http2",),
    "josepy": ("tunnel.acme",),
    "prometheus_client": ("tunnel.admin.metrics",),
    "publicsuffixlist": ("tunnel.relay.budget",),
    "requests": ("tunnel.acme.network",),
    "segno": ("tunnel.cli",),
    "service_identity": ("tunnel.transport.quic",),
    "tomli": ("tunnel.settings",),
    "urllib3": ("tunnel.acme.network",),
    "uvloop": ("tunnel.runtime",),
}

# What the sans-I/O core does without: I/O, clocks, randomness, cryptography and logs.
NOT_IN_PROTOCOL = {
    *("asyncio", "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading"),
    *("io", "os", "pathlib", "tempfile", "logging"),
    *("datetime", "time", "random", "secrets"),
}

TRANSPORT_WORDS = frozenset({"quic", "h2", "http2"})
ABOVE_TRANSPORT = ("acme", "runtime", "admin", "cli", "client", "relay")
KNOWS_TRANSPORTS = frozenset({"tunnel.client.racing"})
WORDS_ALLOWED = {
    ("tunnel.cli.flags", "h2"),  # the setting that --force-h2 stands for
    ("tunnel.runtime.logs", "quic"),  # the name of the logger that aioquic writes to
}

SHUNNED = re.compile(r"(^|_)(manager|helper|util|common|misc|ctx)s?(_|$)|^(do|process)_")
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One parsed source file under its dotted name."""

    name: str
    source: str
    tree: ast.Module

    @classmethod
    def parsed(cls, name: str, source: str) -> "Module":
        return cls(name, source, ast.parse(source))

    @property
    def room(self) -> str:
        return f"{self.name}.".split(".")[1]

    def is_in(self, package: str) -> bool:
        return f"{self.name}.".startswith(f"{package}.")

    def imports(self) -> Iterator[str]:
        """Yield the dotted name of all that is imported, wherever the statement stands."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def functions(self) -> Iterator[FunctionNode]:
        return (node for node in ast.walk(self.tree) if isinstance(node, FunctionNode))

    def classes(self) -> Iterator[ast.ClassDef]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef))


@cache
def modules() -> tuple[Module, ...]:
    paths = sorted((ROOT / "tunnel").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return tuple(
        Module.parsed(name.removesuffix(".__init__"), path.read_text())
        for name, path in zip(names, paths, strict=True)
    )


def wrong_way(module: Module) -> Iterator[str]:
    """Yield imports that point to the left, or to a neighbour on the same floor."""
    for name in module.imports():
        package, _, room = name.partition(".")
        room = room.partition(".")[0]
        if package != "tunnel" or room in {module.room, "__version__"}:
            continue
        if FLOORS.get(room, len(FLOORS)) >= FLOORS.get(module.room, -1):
            yield f"{module.name} imports {name}"


def past_the_door(module: Module) -> Iterator[str]:
    """Yield imports of a multiplexing transport from outside it; only `doors` may open one."""
    for name in module.imports():
        for engine in ("tunnel.transport.quic", "tunnel.transport.http2"):
            inside = module.is_in(engine) or module.name == "tunnel.transport.doors"
            if f"{name}.".startswith(f"{engine}.") and not inside:
                yield f"{module.name} imports {name}"


def foreign_engines(module: Module) -> Iterator[str]:
    """Yield imports of libraries that are unknown, or known in other rooms only."""
    for name in module.imports():
        library = name.partition(".")[0]
        if library == "tunnel" or library in sys.stdlib_module_names:
            continue
        if not any(module.is_in(room) for room in ENGINES.get(library, ())):
            yield f"{module.name} imports {name}"


def side_effects(module: Module) -> Iterator[str]:
    """Yield what a sans-I/O module imports and should be handed instead."""
    if module.is_in("tunnel.protocol"):
        for name in module.imports():
            if name.partition(".")[0] in NOT_IN_PROTOCOL:
                yield f"{module.name} imports {name}"


def visitors_protocols(tree: ast.Module) -> set[ast.expr]:
    """Return the strings in literal ALPN lists for visitors, which also name HTTP/1.1."""
    found: set[ast.expr] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            strings = {e.value for e in node.elts if isinstance(e, ast.Constant)}
            if strings & {"http/1.1", b"http/1.1"}:
                found.update(node.elts)
    return found


def transport_words(module: Module) -> Iterator[str]:
    """Yield strings and definitions that name a transport above the room of transports.

    A keyword argument or an attribute may do so (the settings have such names), as may a string
    that only contains the word (an option such as `--force-h2`, a message to the operator).
    """
    if module.room not in ABOVE_TRANSPORT or module.name in KNOWS_TRANSPORTS:
        return
    visitors = visitors_protocols(module.tree)
    for node in ast.walk(module.tree):
        if node not in visitors:
            for word in TRANSPORT_WORDS.intersection(words(node)):
                if (module.name, word) not in WORDS_ALLOWED:
                    yield f"{module.name}:{getattr(node, 'lineno', 0)} says {word!r}"


def words(node: ast.AST) -> list[str]:
    """Return a string literal whole, or the words of the name that `node` defines."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.Constant(value=bytes(text)):
            return [text.decode("latin-1")]
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            return name.lower().split("_")
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name.lower().split("_")
        case ast.ClassDef(name=name):
            return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower().split("_")
    return []


def shunned_names(module: Module) -> Iterator[str]:
    """Yield names of modules, classes and functions that say nothing."""
    defined = [node.name for node in (*module.functions(), *module.classes())]
    for name in (*module.name.split("."), *defined):
        if SHUNNED.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()):
            yield f"{module.name} defines {name}"


def length(node: FunctionNode | ast.ClassDef) -> int:
    """Return the lines of a body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return (body[-1].end_lineno or 0) - first_line(body[0]) + 1 if body else 0


def first_line(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def oversized(module: Module) -> Iterator[str]:
    """Yield files over 400 lines, classes over 250 and functions over 50."""
    lines = module.source.count("\n")
    if lines > 400:
        yield f"{module.name} has {lines} lines"
    for node in (*module.functions(), *module.classes()):
        limit = 250 if isinstance(node, ast.ClassDef) else 50
        if length(node) > limit:
            yield f"{module.name}:{node.lineno} {node.name} has {length(node)} lines"


Rule = Callable[[Module], Iterator[str]]
RULES: tuple[Rule, ...] = (
    wrong_way,
    past_the_door,
    foreign_engines,
    side_effects,
    transport_words,
    shunned_names,
    oversized,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Rule) -> None:
    assert [fault for module in modules() for fault in rule(module)] == []


def test_every_room_has_a_floor() -> None:
    rooms = {module.room for module in modules()} - {"", "boot"}
    assert rooms <= FLOORS.keys()


def test_function_bodies_are_short() -> None:
    lengths = [length(node) for module in modules() for node in module.functions()]
    assert statistics.median(lengths) <= 8
    assert sum(size <= 30 for size in lengths) >= 0.9 * len(lengths)


def test_the_start_up_of_the_zipapps_parses_on_old_pythons() -> None:
    ast.parse((ROOT / "tunnel" / "boot.py").read_text(), feature_version=(3, 6))


BROKEN = [
    (wrong_way, "tunnel.tls.slots", "from tunnel.transport import options"),
    (wrong_way, "tunnel.tls.slots", "def load():\n    import tunnel.relay.front"),
    (wrong_way, "tunnel.relay.front", "from tunnel.client.client import Client"),
    (wrong_way, "tunnel.client", "from tunnel import relay"),
    (wrong_way, "tunnel.settings.values", "from tunnel.tls import files"),
    (wrong_way, "tunnel.stream", "from tunnel.settings import values"),
    (wrong_way, "tunnel.protocol.frames", "from tunnel.log import get_log"),
    (wrong_way, "tunnel.errors", "from tunnel.protocol import names"),
    (wrong_way, "tunnel.relay.front", "from tunnel import boot"),
    (wrong_way, "tunnel.boot", "from tunnel.errors import Code"),
    (past_the_door, "tunnel.transport.quic.engine", "import tunnel.transport.http2"),
    (past_the_door, "tunnel.transport.http2.pool", "from tunnel.transport.quic import engine"),
    (past_the_door, "tunnel.client.racing", "from tunnel.transport import quic"),
    (foreign_engines, "tunnel.transport.http2.codec", "import aioquic.quic"),
    (foreign_engines, "tunnel.transport.tcp", "from h2 import config"),
    (foreign_engines, "tunnel.relay.front", "from cryptography import x509"),
    (foreign_engines, "tunnel.client.client", "import requests"),
    (foreign_engines, "tunnel.acme.preflight", "from urllib3.exceptions import HTTPError"),
    (foreign_engines, "tunnel.relay.front", "from publicsuffixlist import PublicSuffixList"),
    (foreign_engines, "tunnel.admin.socket", "import prometheus_client"),
    (side_effects, "tunnel.protocol.backoff", "import random"),
    (side_effects, "tunnel.protocol.heartbeat", "from time import monotonic"),
    (side_effects, "tunnel.protocol", "import os.path"),
    (transport_words, "tunnel.relay.agents", "if transport == 'quic': pass"),
    (transport_words, "tunnel.client.uplink", "ALPN = ['h2', 'tunnel/1']"),
    (transport_words, "tunnel.cli.tables", "def print_quic_row(): pass"),
    (transport_words, "tunnel.client.uplink", "class QuicUplink: pass"),
    (transport_words, "tunnel.client.uplink", "def dial(http2): pass"),
    (transport_words, "tunnel.runtime.loop", "logger = 'quic'"),
    (shunned_names, "tunnel.relay.helpers", ""),
    (shunned_names, "tunnel.relay.front", "class SessionManager: pass"),
    (shunned_names, "tunnel.relay.front", "def process_visitor(): pass"),
    (oversized, "tunnel.relay.front", "x = 1\n" * 401),
    (oversized, "tunnel.relay.front", "def f():\n" + "    x = 1\n" * 51),
    (oversized, "tunnel.relay.front", "class C:\n" + "    x = 1\n" * 251),
]


@pytest.mark.parametrize(("rule", "name", "source"), BROKEN)
def test_a_breach_is_seen(rule: Rule, name: str, source: str) -> None:
    assert list(rule(Module.parsed(name, source)))


KEPT = [
    (wrong_way, "tunnel.relay.front", "from tunnel import __version__, errors"),
    (wrong_way, "tunnel.transport.tcp", "import asyncio, tunnel.transport.options"),
    (past_the_door, "tunnel.transport.doors", "from tunnel.transport.quic.dialer import dial"),
    (foreign_engines, "tunnel.transport.quic.engine", "from aioquic.quic import connection"),
    (side_effects, "tunnel.protocol.frames", "import struct"),
    (transport_words, "tunnel.client.racing", "FIRST = 'quic'"),
    (transport_words, "tunnel.client.endpoints", "ALPN = ['h2', 'http/1.1']"),
    (transport_words, "tunnel.cli.arguments", "option('--force-h2', quic=settings.quic)"),
    (transport_words, "tunnel.transport.doors", "DIALERS = {'quic': None}"),
    (oversized, "tunnel.relay.front", 'def f():\n    """Long.' + "\n" * 60 + '"""\n    x = 1\n'),
]


@pytest.mark.parametrize(("rule", "name", "source"), KEPT)
def test_what_is_allowed_passes(rule: Rule, name: str, source: str) -> None:
    assert list(rule(Module.parsed(name, source))) == []
