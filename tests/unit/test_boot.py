"""Where a zipapp would unpack itself, and where it would not run."""

import ast
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunnel import boot
from tunnel.boot import Bundle, Place, prefixes


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


def test_an_old_python_can_read_the_sentence_that_refuses_it() -> None:
    source = Path(boot.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 6))
    refusal = next(each for each in tree.body if isinstance(each, ast.If))
    assert not [each for each in tree.body[: tree.body.index(refusal)] if _imports_more(each)]
    assert "needs Python 3.11 or newer" in ast.unparse(refusal)


def _imports_more(statement: ast.stmt) -> bool:
    """Say whether a statement needs anything but `sys`, which every Python has."""
    if isinstance(statement, ast.Import):
        return [name.name for name in statement.names] != ["sys"]
    return isinstance(statement, ast.ImportFrom)


@pytest.mark.parametrize("moment", ["while it is imported", "while it runs"])
def test_an_interrupted_program_ends_without_a_word(moment: str, tmp_path: Path) -> None:
    interrupt = "os.kill(os.getpid(), signal.SIGINT)"
    program = {
        "while it is imported": f"import os, signal\n{interrupt}\n",
        "while it runs": f"import os, signal\ndef main():\n    {interrupt}\n",
    }[moment]
    done = subprocess.run(
        [sys.executable, "-I", runnable(tmp_path, program)],
        env={"SHIV_ROOT": str(tmp_path / "cache")},
        capture_output=True,
        check=False,
        timeout=15,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def runnable(folder: Path, program: str) -> Path:
    """Return an archive for this very Python, whose program is one file with a `main`."""
    here = Place.here()
    about = {
        "minors": [sys.version_info[1]],
        "machine": here.machine,
        "glibc": [2, 0],
        "sizes": {"program.py": len(program)},
    }
    archive = folder / "program.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(boot.__file__, "__main__.py")
        entry = {"entry_point": "program:main", "build_id": "0" * 16}
        file.writestr("environment.json", json.dumps(entry))
        file.writestr("bundle.json", json.dumps(about))
        file.writestr("site-packages/program.py", program)
    return archive


def bundle(folder: Path, key: str = "0" * 16) -> Bundle:
    """Return an archive with two files, for CPython 3.11 on x86_64 with glibc 2.28."""
    about = {"minors": [11], "machine": "x86_64", "glibc": [2, 28], "sizes": {"a.py": 1, "b/c": 2}}
    archive = folder / f"{key}.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("environment.json", json.dumps({"entry_point": "a:b", "build_id": key}))
        file.writestr("bundle.json", json.dumps(about))
        file.writestr("site-packages/a.py", "#")
        file.writestr("site-packages/b/c", "##")
    return Bundle(str(archive))


FITTING = Place("CPython 3.11", "x86_64", "glibc 2.28")


@pytest.mark.parametrize("libc", ["glibc 2.28", "glibc 2.41", "glibc 2.36.9000", "glibc 3.0"])
def test_it_runs_where_it_was_built_for(libc: str, tmp_path: Path) -> None:
    assert bundle(tmp_path).unmet(FITTING._replace(libc=libc)) == ""


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        (FITTING._replace(python="CPython 3.15"), "CPython 3.11; this is CPython 3.15"),
        (FITTING._replace(python="CPython 3.11t"), "CPython 3.11; this is CPython 3.11t"),
        (FITTING._replace(python="pypy 3.11"), "CPython 3.11; this is pypy 3.11"),
        (FITTING._replace(machine="aarch64"), "built for x86_64; this is aarch64"),
        (FITTING._replace(libc="glibc 2.27"), "needs glibc 2.28 or newer; this is glibc 2.27"),
        (FITTING._replace(libc="another C library"), "this is another C library"),
    ],
)
def test_elsewhere_it_says_what_it_needs(place: Place, sentence: str, tmp_path: Path) -> None:
    assert sentence in bundle(tmp_path).unmet(place)


def test_this_very_place_is_known() -> None:
    here = Place.here()
    assert here.python.startswith("CPython 3.")
    assert here.libc.startswith("glibc 2.")


def test_a_copy_that_was_deleted_before_it_was_locked_is_made_and_locked_anew(
    tmp_path: Path,
) -> None:
    unpacked, prefix = bundle(tmp_path), f"{tmp_path}/copy-"
    copy = Path(prefix + unpacked.key)
    copy.mkdir(mode=0o755)
    with locked(copy), starting(unpacked, prefix) as start:
        shutil.rmtree(copy)
    with start:
        assert start.stdout is not None
        assert start.stdout.read(1) == b"!"
        assert (copy / "b" / "c").read_text() == "##"
        with pytest.raises(BlockingIOError), locked(copy):
            pass  # who clears out would now delete it


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory as who deletes it does."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def starting(unpacked: Bundle, prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    """Have another process unpack, once it waits for a lock; it writes `!` when it is done."""
    code = (
        "import sys; from tunnel.boot import Bundle; "
        f"Bundle({unpacked.archive!r}).unpack({prefix!r}); "
        "print(end='!', flush=True); sys.stdin.read()"  # keeps the lock until the test has looked
    )
    start = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(boot.__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    while not re.search(rf"-> FLOCK .* {start.pid} ", Path("/proc/locks").read_text()):
        assert start.poll() is None
    yield start
