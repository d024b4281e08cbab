"""The scanner of positions against tomli, on documents made of everything TOML can say."""

import json
from collections.abc import Iterator

import tomli
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tunnel.settings.positions import ItemPath, locate

# Text that tempts a scanner: what opens, closes, escapes or comments elsewhere.
TEMPTING = st.text(alphabet="ab=.,#[]{}\"'\\ \tä\x85\u2028", max_size=8)
SPACE = st.sampled_from(["", " ", "\t "])


def basic(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def literal_or_basic(text: str) -> str:
    return basic(text) if "'" in text else f"'{text}'"


def multi_line_basic(text: str) -> str:
    return '"""' + text.replace("\\", "\\\\").replace('"""', '""\\"') + '"""'


LINES = st.lists(TEMPTING, max_size=3).map("\n".join)
STRINGS = st.one_of(
    TEMPTING.map(basic),
    TEMPTING.map(literal_or_basic),
    LINES.filter(lambda text: not text.endswith('"')).map(multi_line_basic),
    LINES.map(lambda text: f"'''{text.replace(chr(39), '')}'''"),
    st.sampled_from(['""""a"""', '"""a"""""', "'''a'''''", '"""\\\n  a\\"""""""', '""', "''"]),
)
SCALARS = st.one_of(
    STRINGS,
    st.integers().map(str),
    st.sampled_from(["true", "inf", "-1.5e3", "0xff", "07:32:00", "1979-05-27 07:32:00Z"]),
)
GAPS = st.sampled_from(["", " ", "\n", " # ]}\"'\n", "\n\n"])
PARTS = st.one_of(
    st.sampled_from(["a", "b", "c-d", "1"]), TEMPTING.map(basic), TEMPTING.map(literal_or_basic)
)
KEYS = st.builds(
    lambda parts, space: f"{space}.{space}".join(parts),
    st.lists(PARTS, min_size=1, max_size=3),
    SPACE,
)


@st.composite
def arrays(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    entries = draw(st.lists(items, max_size=3))
    spaced = [f"{draw(GAPS)}{entry}{draw(GAPS)}" for entry in entries]
    end = draw(st.sampled_from([",", ""])) if entries else ""
    return f"[{','.join(spaced)}{end}{draw(GAPS)}]"


@st.composite
def inline_tables(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(KEYS, items), max_size=3))
    return "{" + ",".join(f"{draw(SPACE)}{key} = {value}" for key, value in pairs) + "}"


VALUES = st.recursive(SCALARS, lambda items: arrays(items) | inline_tables(items), max_leaves=5)
LINE = st.one_of(
    st.builds(lambda key, value, space: f"{space}{key}{space}={space}{value}", KEYS, VALUES, SPACE),
    KEYS.map(lambda key: f"[{key}]"),
    KEYS.map(lambda key: f"[[ {key} ]] # [x]"),
    st.sampled_from(["", "# a = 1", "  \t"]),
)
DOCUMENTS = st.builds(
    lambda lines, end: end.join(lines), st.lists(LINE, max_size=8), st.sampled_from(["\n", "\r\n"])
)


def paths(value: object, path: ItemPath = ()) -> Iterator[ItemPath]:
    """Yield the path of every key that tomli found."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield (*path, name)
            yield from paths(below, (*path, name))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from paths(below, (*path, index))


def spellings(part: str | int) -> set[str]:
    """Return every way in which the generator writes a part of a key."""
    name = str(part)
    return {name, basic(name), f"'{name}'"}


@settings(max_examples=200)
@given(DOCUMENTS)
def test_every_key_that_tomli_finds_has_its_line(document: str) -> None:
    try:
        found = tomli.loads(document)
    except tomli.TOMLDecodeError:
        assume(False)  # a generated line may define a key twice
        return
    lines = document.replace("\r\n", "\n").split("\n")
    positions = locate(document)
    for path in paths(found):
        line = lines[positions[path] - 1]
        assert any(spelling in line for spelling in spellings(path[-1])), (path, line)


@settings(max_examples=200)
@given(DOCUMENTS)
def test_nothing_is_located_that_tomli_does_not_find(document: str) -> None:
    try:
        found = tomli.loads(document)
    except tomli.TOMLDecodeError:
        assume(False)
        return
    keys = {path for path in locate(document) if isinstance(path[-1], str)}
    assert keys == set(paths(found))
