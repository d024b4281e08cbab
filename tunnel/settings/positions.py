"""Where each key of a TOML document stands: what tomli does not tell.

The scanner follows documents that tomli has accepted (TOML 1.1); it must not judge, so what it
makes of any other text is undefined.
"""

import re
from collections.abc import Mapping

import tomli

ItemPath = tuple[str | int, ...]  # of keys, and of indices in arrays

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\"]|\\.|"(?!""))*+"""(?:"{0,2})'  # up to two quotes may touch the closing ones
    r"|'''(?:[^']|'(?!''))*+'''(?:'{0,2})"
    r'|"(?:[^\\"\n]|\\.)*+"'
    r"|'[^'\n]*+'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]*")  # numbers, booleans, dates


def locate(text: str) -> Mapping[ItemPath, int]:
    """Return the line (from 1) of every key and of every table's header in an accepted document.

    A table that is only implied stands where it is first named. Raises RecursionError where
    values are nested deeper than the interpreter allows.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.scan_document()
    return scanner.lines


class _Scanner:
    """A cursor over the text; `lines` fills as it goes."""

    def __init__(self, text: str) -> None:
        self.lines: dict[ItemPath, int] = {}
        self._text = text
        self._at = 0
        self._counted_at = 0
        self._line = 1
        self._last_index: dict[ItemPath, int] = {}  # of arrays made of [[headers]]

    def scan_document(self) -> None:
        """Walk headers and pairs to the end of the text."""
        table: ItemPath = ()
        while self._skip_blank():
            if self._text.startswith("[[", self._at):
                table = self._scan_array_header()
            elif self._text[self._at] == "[":
                table = self._scan_header()
            else:
                self._scan_pair(table)

    def _skip_blank(self) -> bool:
        """Pass white space, line ends and comments; say whether anything is left."""
        self._take(_BLANK)
        return self._at < len(self._text)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"not a document that tomli accepts: line {self._line_here()}")
        self._at = match.end()
        return match.group()

    def _take_if(self, character: str) -> bool:
        if not self._text.startswith(character, self._at):
            return False
        self._at += len(character)
        return True

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted_at, self._at)
        self._counted_at = self._at
        return self._line

    def _scan_header(self) -> ItemPath:
        line = self._line_here()
        self._at += 1
        path = self._note((), self._scan_key(), line)
        self.lines[path] = line  # an explicit header beats an earlier mention
        self._at += 1
        return path

    def _scan_array_header(self) -> ItemPath:
        line = self._line_here()
        self._at += 2
        path = self._note((), self._scan_key(), line, is_array=True)
        self._at += 2
        return path

    def _scan_pair(self, table: ItemPath) -> None:
        line = self._line_here()
        path = self._note(table, self._scan_key(), line)
        self._take(_SPACE)
        self._at += 1  # the equals sign
        self._take(_SPACE)
        self._scan_value(path)

    def _scan_key(self) -> list[str]:
        """Read a dotted key and the space around it."""
        parts: list[str] = []
        while True:
            self._take(_SPACE)
            quoted = self._text[self._at] in "\"'"
            raw = self._take(_STRING if quoted else _BARE_KEY)
            parts.append(_unquote(raw) if quoted else raw)
            self._take(_SPACE)
            if not self._take_if("."):
                return parts

    def _note(
        self, table: ItemPath, parts: list[str], line: int, *, is_array: bool = False
    ) -> ItemPath:
        """Record the line of a key below `table` and of the tables it implies; return its path.

        With `is_array` the key begins the next element of an array of tables.
        """
        path = table
        for depth, part in enumerate(parts, start=1):
            path = (*path, part)
            self.lines.setdefault(path, line)
            if is_array and depth == len(parts):
                self._last_index[path] = self._last_index.get(path, -1) + 1
            if path in self._last_index:
                path = (*path, self._last_index[path])
                self.lines.setdefault(path, line)
        return path

    def _scan_value(self, path: ItemPath) -> None:
        if self._text[self._at] in "\"'":
            self._take(_STRING)
        elif self._take_if("["):
            self._scan_array(path)
        elif self._take_if("{"):
            self._scan_inline_table(path)
        else:
            self._take(_SCALAR)

    def _scan_array(self, path: ItemPath) -> None:
        index = 0
        while self._skip_blank() and not self._take_if("]"):
            self.lines[*path, index] = self._line_here()
            self._scan_value((*path, index))
            self._skip_blank()
            self._take_if(",")
            index += 1

    def _scan_inline_table(self, path: ItemPath) -> None:
        while self._skip_blank() and not self._take_if("}"):
            self._scan_pair(path)
            self._skip_blank()
            self._take_if(",")


def _unquote(raw: str) -> str:
    if raw.startswith("'") or "\\" not in raw:
        return raw[1:-1]
    value: str = tomli.loads(f"key = {raw}")["key"]
    return value
