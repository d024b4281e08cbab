"""Files that cannot be written whole: told with status 73, and nothing half is left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

import tunnel
from tunnel.tls.files import create_private
from tunnel.tls.identity import generate

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
from tunnel.{program}.__main__ import main
sys.exit(main())
"""

WRITERS = [
    ("relay", "init", "relay.toml: cannot be written: File too large"),
    ("relay", "", "{folder}/state: cannot keep a certificate there: File too large"),
    ("client", "keygen", "client.key: cannot be written: File too large"),
    ("client", "id", "client.key: cannot make a key there: File too large"),
    ("client", "--server 127.0.0.1:1", "client.key: cannot make a key there: File too large"),
]


def run_limited(folder: Path, program: str, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-c", LIMITED.format(program=program), *line.split()],
        cwd=folder,
        env={
            "PYTHONPATH": str(Path(tunnel.__file__).parents[1]),
            "STATE_DIRECTORY": str(folder / "state"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=15,
    )


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("program", "line", "told"), WRITERS)
def test_what_cannot_be_written_ends_with_73_and_leaves_nothing(
    tmp_path: Path, program: str, line: str, told: str
) -> None:
    result = run_limited(tmp_path, program, line)
    assert (result.returncode, result.stdout) == (73, "")
    assert told.format(folder=tmp_path) in result.stderr
    assert files(tmp_path) == []


def test_a_certificate_that_cannot_be_kept_ends_with_73(tmp_path: Path) -> None:
    create_private(tmp_path / "client.key", generate().pem)
    result = run_limited(tmp_path, "client", "--server 127.0.0.1:1 --insecure")
    assert result.returncode == 73
    assert "cannot keep a certificate there: File too large" in result.stderr
    assert files(tmp_path) == ["client.key"]
