from urllib.parse import urlsplit

import pytest

from tunnel.acme.directories import NAMED, directory_of
from tunnel.errors import SettingsError

PEBBLE = "https://localhost:14000/dir"


@pytest.mark.parametrize("word", ["letsencrypt", "letsencrypt-staging", "zerossl", "google"])
def test_a_word_names_an_authority_with_its_caa_names(word: str) -> None:
    directory = directory_of(word)
    assert (directory.name, directory.slug, directory.is_named) == (word, word, True)
    assert urlsplit(directory.url).scheme == "https"
    assert directory.caa


def test_two_words_never_mean_one_server() -> None:
    assert len({directory.url for directory in NAMED.values()}) == len(NAMED) == 4


def test_of_any_other_url_nothing_is_known() -> None:
    directory = directory_of(PEBBLE)
    assert (directory.name, directory.url) == (PEBBLE, PEBBLE)
    assert (directory.caa, directory.is_named) == ((), False)


def test_the_url_of_a_named_one_is_that_one() -> None:
    assert directory_of(NAMED["google"].url) is NAMED["google"]


@pytest.mark.parametrize(
    ("url", "start"),
    [
        (PEBBLE, "localhost-14000-"),
        ("https://CA.example.org/acme/directory", "ca.example.org-"),
        ("https://[2001:db8::1]:8443/dir", "2001-db8--1-8443-"),
        ("https://../dir", "..-"),
        ("https://a%2Fb/dir", "a-2fb-"),
    ],
)
def test_the_folder_of_a_url_shows_host_and_port_and_part_of_a_hash(url: str, start: str) -> None:
    slug = directory_of(url).slug
    assert slug.startswith(start)
    assert len(bytes.fromhex(slug.removeprefix(start))) == 4


def test_two_directories_of_one_server_have_two_folders() -> None:
    assert directory_of(PEBBLE).slug != directory_of(PEBBLE + "/other").slug


def test_a_very_long_host_still_makes_a_name_that_a_file_system_takes() -> None:
    assert len(directory_of(f"https://{'a' * 300}:65535/dir").slug) <= 255


@pytest.mark.parametrize(
    "text",
    [
        "",
        "letsencrpyt",
        "http://ca.example.org/dir",
        "https:///dir",
        "https://host:0/dir",
        "https://host:70000/dir",
        "https://[::1/dir",
    ],
)
def test_what_is_neither_a_known_word_nor_an_https_url_is_a_fault(text: str) -> None:
    with pytest.raises(SettingsError, match=r"letsencrypt \| .* \| an https:// URL"):
        directory_of(text)
