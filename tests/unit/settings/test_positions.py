"""Lines of keys, one by one; tests/fuzz compares the scanner with tomli."""

from tunnel.settings.positions import locate

DOCUMENT = '''\
# [not.a.table]
top.dotted = "a = # ["

[table."quoted.name"]   # comment
text = """
inner = 1
\\""" still inside
""\"""
array = [ # first
  1, { x = 1 },
  "]",
]
'literal' = 1979-05-27 07:32:00
inline = { a = 1, b.c = [2] }
[[tables]]
one = 1
[[tables]]
[tables.below]
two = 2
'''


def test_each_key_has_the_line_where_it_is_written() -> None:
    table = ("table", "quoted.name")
    assert locate(DOCUMENT) == {
        ("top",): 2,
        ("top", "dotted"): 2,
        ("table",): 4,
        table: 4,
        (*table, "text"): 5,
        (*table, "array"): 9,
        (*table, "array", 0): 10,
        (*table, "array", 1): 10,
        (*table, "array", 1, "x"): 10,
        (*table, "array", 2): 11,
        (*table, "literal"): 13,
        (*table, "inline"): 14,
        (*table, "inline", "a"): 14,
        (*table, "inline", "b"): 14,
        (*table, "inline", "b", "c"): 14,
        (*table, "inline", "b", "c", 0): 14,
        ("tables",): 15,
        ("tables", 0): 15,
        ("tables", 0, "one"): 16,
        ("tables", 1): 17,
        ("tables", 1, "below"): 18,
        ("tables", 1, "below", "two"): 19,
    }


def test_line_ends_of_windows_count_once() -> None:
    assert locate("a = 1\r\nb = 2\r\n") == {("a",): 1, ("b",): 2}


def test_a_header_beats_an_earlier_mention() -> None:
    assert locate("[a.b]\n[a]\n")[("a",)] == 2
