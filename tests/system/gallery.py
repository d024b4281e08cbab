"""A page of 200 small resources that judges itself: each one's bytes, and what became of it.

The verdict comes back as a POST, and so through the tunnel like everything else.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

from tests.e2e.targets import pattern, serving

EACH = 50  # of each kind: images, scripts, styles, and what only a script fetches
HEIGHT = 40  # of every image; the width is its number, from 1 on

JUDGE = """
async function isRight(path, {sha256, shown}) {
  const answer = await fetch(path);
  const digest = await crypto.subtle.digest("SHA-256", await answer.arrayBuffer());
  const bytes = Array.from(new Uint8Array(digest));
  const hex = bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex === sha256 && become(path) === shown;
}
function become(path) {
  const [, kind, number] = path.split(/[/.]/);
  const styles = getComputedStyle(document.documentElement);
  const looks = {
    image: () => `${document.images[number].naturalWidth}`,
    script: () => ran[number],
    style: () => styles.getPropertyValue(`--style-${number}`).trim(),
    fetched: () => "",
  };
  return looks[kind]();
}
addEventListener("load", async () => {
  const verdicts = await Promise.all(Object.entries(expected).map(async ([path, wanted]) => {
    return [path, await isRight(path, wanted).catch((error) => `${error}`)];
  }));
  const wrong = verdicts.filter(([, verdict]) => verdict !== true);
  const right = verdicts.length - wrong.length;
  await fetch("/verdict", {method: "POST", body: JSON.stringify({right, wrong})});
});
"""


@dataclass(frozen=True)
class Resource:
    """Something to load; `shown` is what the page finds once the browser has made use of it."""

    kind: str
    content: bytes
    shown: str


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack("!I", len(content)) + name + content + struct.pack("!I", check)


def image(width: int) -> Resource:
    """Return a PNG of random colours."""
    header = struct.pack("!IIBBBBB", width, HEIGHT, 8, 2, 0, 0, 0)
    noise = pattern(3 * width * HEIGHT, seed=width)
    rows = (b"\0" + noise[3 * width * row : 3 * width * (row + 1)] for row in range(HEIGHT))
    pixels = _chunk(b"IDAT", zlib.compress(b"".join(rows)))
    content = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + pixels + _chunk(b"IEND", b"")
    return Resource("image/png", content, str(width))


def script(number: int) -> Resource:
    """Return a script that leaves a word behind."""
    word = pattern(100 * number + 16, seed=number).hex()
    return Resource("text/javascript", f'ran[{number}] = "{word}";\n'.encode(), word)


def style(number: int) -> Resource:
    """Return a style sheet that sets a variable."""
    word = "x" + pattern(100 * number + 16, seed=-1 - number).hex()
    return Resource("text/css", f":root {{ --style-{number}: {word}; }}\n".encode(), word)


def fetched(number: int) -> Resource:
    """Return some bytes; the last ones are more than a stream's first window."""
    size = 400_000 if number == EACH - 1 else 150 * number
    return Resource("application/octet-stream", pattern(size, seed=1000 + number), "")


def resources() -> dict[str, Resource]:
    """Return all of them by their paths."""
    return {
        f"/{kind}/{number}.{suffix}": resource
        for number in range(EACH)
        for kind, suffix, resource in (
            ("image", "png", image(number + 1)),
            ("script", "js", script(number)),
            ("style", "css", style(number)),
            ("fetched", "bin", fetched(number)),
        )
    }


def page(content: Mapping[str, Resource]) -> str:
    """Return the page that loads and judges them."""
    elements = {
        "image/png": '<img src="{}">',
        "text/javascript": '<script src="{}"></script>',
        "text/css": '<link rel="stylesheet" href="{}">',
        "application/octet-stream": "",
    }
    expected = {
        path: {"sha256": hashlib.sha256(each.content).hexdigest(), "shown": each.shown}
        for path, each in content.items()
    }
    loading = "\n".join(elements[each.kind].format(path) for path, each in content.items())
    return (
        '<!doctype html><meta charset="utf-8"><title>gallery</title><link rel="icon" href="data:,">'
        f"<script>const ran = [], expected = {json.dumps(expected)};{JUDGE}</script>\n{loading}"
    )


@dataclass
class Gallery:
    """What is served, the verdicts that came back, and the connections it went through."""

    content: dict[str, Resource] = field(default_factory=resources)
    verdicts: Queue[dict[str, object]] = field(default_factory=Queue)
    connections: set[object] = field(default_factory=set)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def do_GET(self) -> None:
        gallery = self.server.gallery
        gallery.connections.add(self.client_address)
        front = Resource("text/html", page(gallery.content).encode(), "")
        resource = front if self.path == "/" else gallery.content.get(self.path)
        if resource is None:
            self.send_error(404)
        else:
            self._answer(resource)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(Resource("text/plain", b"", ""))
        self.server.gallery.verdicts.put(json.loads(body))

    def _answer(self, resource: Resource) -> None:
        self.send_response(200)
        self.send_header("Content-Type", resource.kind)
        self.send_header("Content-Length", str(len(resource.content)))
        self.send_header("Cache-Control", "no-store")  # so that the judge fetches it again
        self.end_headers()
        self.wfile.write(resource.content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its signature
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    gallery: Gallery

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is no news."""


@contextmanager
def hung(gallery: Gallery) -> Iterator[str]:
    """Serve a gallery; yields the target's address."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.gallery = gallery
    with serving(server) as address:
        yield address
