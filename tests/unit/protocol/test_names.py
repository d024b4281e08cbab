import pytest

from tunnel.protocol.names import (
    best_match,
    check_host_name,
    client_id,
    format_fingerprint,
    has_id_shape,
    matches,
    parse_fingerprint,
)

FINGERPRINT = bytes(range(0xA0, 0xC0))
TEXT = "sha256:a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf"


def test_an_id_is_the_first_32_hex_digits_of_the_fingerprint() -> None:
    assert client_id(FINGERPRINT) == "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"


def test_a_64_bit_id_is_the_first_16_hex_digits() -> None:
    assert client_id(FINGERPRINT, 64) == "a0a1a2a3a4a5a6a7"


def test_other_id_lengths_do_not_exist() -> None:
    with pytest.raises(ValueError, match="64 or 128 bits, not 96"):
        client_id(FINGERPRINT, 96)


def test_a_fingerprint_is_written_as_sha256_and_hex() -> None:
    assert format_fingerprint(FINGERPRINT) == TEXT


@pytest.mark.parametrize("text", [TEXT, "sha256:" + TEXT[7:].upper()])
def test_a_fingerprint_is_read_in_either_case(text: str) -> None:
    assert parse_fingerprint(text) == FINGERPRINT


@pytest.mark.parametrize("text", ["", TEXT[7:], TEXT[:-1], TEXT + "0", TEXT + "\n", "md5:" + TEXT])
def test_what_is_not_a_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected sha256: and 64 hex digits"):
        parse_fingerprint(text)


@pytest.mark.parametrize(
    "name",
    ["localhost", "a.t.test", "0.t.test", "a-b.c", "xn--bcher-kva.example", "a" * 63 + ".test",
     ".".join(["a" * 61] * 4) + ".test", "1.2.3.a4"],
)  # fmt: skip
def test_host_names_are_accepted(name: str) -> None:
    assert check_host_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", ".a", "a..b", "A.test", "a_b.test", "-a.test", "a-.test", "a" * 64 + ".test",
     ".".join(["a" * 63] * 4), "a b", "a\x00b", "é.test", "a.test\n", "*.test", "127.0.0.1", "1",
     "٣.test", "[::1]"],
)  # fmt: skip
def test_what_is_no_lower_case_host_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        check_host_name(name)


@pytest.mark.parametrize(
    ("name", "suffix", "expected"),
    [
        ("0123456789abcdef.t.test", "t.test", True),
        ("0123456789abcdef0123456789abcdef.t.test", "t.test", True),
        ("0123456789abcdef.localhost", "localhost", True),
        ("0123456789abcde.t.test", "t.test", False),
        ("0123456789abcdef0.t.test", "t.test", False),
        ("0123456789abcdeg.t.test", "t.test", False),
        ("0123456789abcdef.t.test", "test", False),
        ("0123456789abcdef.u.test", "t.test", False),
        ("a.0123456789abcdef.t.test", "t.test", False),
    ],
)
def test_the_shape_of_a_keys_own_name_is_known(name: str, suffix: str, expected: bool) -> None:
    assert has_id_shape(name, suffix) is expected


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("a.example.com", "a.example.com", True),
        ("a.example.com", "b.example.com", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "a.xexample.com", False),
    ],
)
def test_a_wildcard_stands_for_exactly_one_label(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


@pytest.mark.parametrize("order", [1, -1])
def test_an_exact_pattern_beats_a_wildcard(order: int) -> None:
    assert (
        best_match(["*.example.com", "a.example.com"][::order], "a.example.com") == "a.example.com"
    )


def test_a_wildcard_takes_what_no_exact_pattern_names() -> None:
    assert best_match(["b.example.com", "*.example.com"], "a.example.com") == "*.example.com"


def test_a_name_that_nothing_covers_has_no_match() -> None:
    assert best_match(["*.example.com"], "example.com") is None
