"""Completion scripts, as the shells themselves read them."""

import subprocess
from pathlib import Path

import pytest

from tunnel.cli.completion import completion_script

PROGRAMS = ["relay", "client"]


def complete(program: str, *words: str, folder: Path) -> list[str]:
    """Return what bash offers for the last of the words after the program's name."""
    every = [f"{program}.pyz", *words]
    ask = (
        f"COMP_WORDS=({' '.join(map(repr, every))}); COMP_CWORD={len(words)}; "
        f'_tunnel_{program}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    # compopt works only while readline completes.
    script = f"compopt() {{ :; }}\n{completion_script(program, 'bash')}\n{ask}\n"
    bash = subprocess.run(
        ["bash", "--norc", "-eu", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert bash.stderr == ""
    return bash.stdout.split()


@pytest.mark.parametrize(
    ("program", "words", "offered"),
    [
        ("relay", ["st"], ["status"]),
        ("relay", ["expl"], ["explain"]),
        ("client", ["expl"], []),
        ("client", ["i"], ["init", "id"]),
        ("client", ["--prim"], ["--primary-key", "--primary-cert-extension-hex"]),
        ("relay", ["-q", "--op"], ["--open"]),
        ("relay", ["--open", "sta"], []),
        ("relay", ["status", "--"], ["--help", "--json", "--socket", "--check"]),
        ("relay", ["cert", ""], ["list", "renew", "-h", "--help", "--json", "-c", "--socket"]),
        ("relay", ["completion", "f"], ["fish"]),
        ("client", ["id", "--id-bits", ""], ["64", "128"]),
        ("client", ["--log-format", "j"], ["json", "journald"]),
        ("relay", ["-c", "rel"], ["relay.toml"]),
        ("relay", ["status", "--socket", ""], ["relay.toml"]),
        ("relay", ["--api-port", ""], []),
    ],
)
def test_bash_offers_what_may_come_next(
    tmp_path: Path, program: str, words: list[str], offered: list[str]
) -> None:
    (tmp_path / "relay.toml").touch()
    assert complete(program, *words, folder=tmp_path) == offered


@pytest.mark.parametrize("program", PROGRAMS)
def test_bash_knows_for_which_commands(program: str) -> None:
    script = f"{completion_script(program, 'bash')}\ncomplete -p {program}.pyz tunnel-{program}"
    bash = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True
    )
    assert bash.stdout.splitlines() == [
        f"complete -o default -F _tunnel_{program} {program}.pyz",
        f"complete -o default -F _tunnel_{program} tunnel-{program}",
    ]


@pytest.mark.parametrize("program", PROGRAMS)
def test_fish_offers_verbs_and_their_flags(tmp_path: Path, program: str) -> None:
    script = f"{completion_script(program, 'fish')}\ncomplete -C '{program}.pyz stat'\n"
    script += f"complete -C '{program}.pyz status --j'\n"
    fish = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert (fish.stderr, fish.stdout.splitlines()) == (
        "",
        [
            "status\tshow how a running program fares, and why",
            "--json\tprint one JSON object",
        ],
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_zsh_offers_verbs_and_their_flags(program: str) -> None:
    """Its own function is run with the words as zsh would set them."""
    script = (
        "compdef() { }\ncompadd() { print -l -- ${@[2,-1]} }\n_files() { print files }\n"
        f"{completion_script(program, 'zsh')}\n"
        f"words=({program}.pyz status ''); CURRENT=3; _tunnel_{program}\n"
        f"words=({program}.pyz status -c ''); CURRENT=4; _tunnel_{program}\n"
    )
    zsh = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, check=True)
    flags = ["-h", "--help", "--json", "-c", "--socket", "--check"]
    assert (zsh.stderr, zsh.stdout.split()) == ("", [*flags, "files"])
