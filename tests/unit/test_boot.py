"""Where a zipapp would unpack itself."""

import os

from tunnel.boot import prefixes


def test_what_the_operator_says_comes_before_what_systemd_says_and_home() -> None:
    environment = {
        "SHIV_ROOT": "/srv/shiv",
        "CACHE_DIRECTORY": "/var/cache/relay:/var/cache/other",
        "XDG_CACHE_HOME": "/home/alice/cache",
    }
    assert list(prefixes(environment))[:3] == [
        "/srv/shiv/quic-tunnel-",
        "/var/cache/relay/quic-tunnel-",
        "/home/alice/cache/quic-tunnel-",
    ]


def test_users_do_not_meet_in_shared_directories() -> None:
    last = list(prefixes({"TMPDIR": "/scratch"}))[-3:]
    user = os.geteuid()
    assert last == [f"{root}/quic-tunnel-{user}-" for root in ("/scratch", "/tmp", "/var/tmp")]  # noqa: S108 - what is tested
