"""What a person at a terminal sees below `ID:` and `URL:`."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

from tunnel.cli.tables import is_coloured, printable

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_WHITE_ON_BLACK = "\x1b[97;40m"  # what is drawn is light, whatever the terminal's own colours
_BLOCKS = "\u2580\u2584\u2588"


@dataclass(slots=True)
class Banner:
    """Says where each endpoint's visitors go and, the first time, how to end the program.

    `targets` are by endpoint. With `qr`, each URL is drawn as well.
    """

    targets: Mapping[str, str]
    qr: bool = False
    coloured: bool = False
    encoding: str = "utf-8"
    _is_told: bool = field(default=False, init=False)

    def text(self, endpoint: str, url: str) -> str:
        """Return the lines below an endpoint's URL."""
        advice = "" if self._is_told else "; Ctrl-C to stop"
        self._is_told = True
        line = f"Forwarding to {printable(self.targets[endpoint])}{advice}"
        drawn = qr_code(url, self.encoding, coloured=self.coloured) if self.qr else ""
        return (f"{_DIM}{line}{_PLAIN}\n" if self.coloured else f"{line}\n") + drawn


def banner_for(
    stream: TextIO, targets: Mapping[str, str], environment: Mapping[str, str], *, qr: bool
) -> Banner | None:
    """Return what `stream` shows, or None where it is no terminal: a program reads it then."""
    if not stream.isatty():
        return None
    coloured = is_coloured(stream, environment)
    return Banner(targets, qr=qr, coloured=coloured, encoding=stream.encoding)


def qr_code(url: str, encoding: str, *, coloured: bool) -> str:
    """Return a QR code (ISO/IEC 18004) of half blocks, or of wide spaces where there are none."""
    import segno  # noqa: PLC0415 - loaded only by who asks for it

    has_blocks = _can_write(_BLOCKS, encoding)
    out = io.StringIO()
    segno.make(url, micro=False).terminal(out, compact=has_blocks)
    if not (has_blocks and coloured):
        return out.getvalue()
    return "".join(f"{_WHITE_ON_BLACK}{line}{_PLAIN}\n" for line in out.getvalue().splitlines())


def _can_write(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
