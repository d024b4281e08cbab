"""The benchmark measures what it says: few rounds of it, judged by their shape."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmark import CONGESTION
from scripts.benchmarks.contenders import Contender
from scripts.benchmarks.figures import all_by_its_way
from tests.e2e.authorities import wait_until
from tests.e2e.world import ROOT, Process
from tests.system.marks import marked

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def bench(folder: Path, *arguments: str) -> dict[str, Any]:
    """Return what one round has stored."""
    stored = folder / "bench.json"
    command = [sys.executable, "-m", "scripts.benchmark", *arguments]
    environment = {**os.environ, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    ran = subprocess.run(
        [*command, "--rounds", "1", "--json", str(stored)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result: dict[str, Any] = json.loads(stored.read_text())
    assert result["machine"]["command"].startswith("scripts/bench ")
    return result


def test_a_round_has_every_figure_of_each_contender(tmp_path: Path) -> None:
    names = ("ours-h2", "ours-h2-tls", "ours-direct")
    result = bench(tmp_path, "--seconds", "0.3", *names)
    for name in names:
        (row,) = result["rounds"][name]
        assert row == result["medians"][name]
        assert row["down 1, MiB/s"] > 1
        assert row["up 4, relay CPU-s/GiB"] > 0
        assert 0 < row["keep-alive 1, p50 ms"] <= row["keep-alive 1, p99 ms"]
        assert row["new visitors/s"] > 1
        assert row["new visitor, client ms"] > 0
    assert result["medians"]["start"]["--version s"] > 0


def test_a_round_in_which_visitors_went_another_way_counts_for_nothing(tmp_path: Path) -> None:
    counts = iter([(7, 7), (107, 67)])
    process = Process(["true"], tmp_path, "nobody")
    process.wait()
    contender = Contender("ours-direct", 1, "h.test", process, went=lambda: next(counts))
    with (
        pytest.raises(SystemExit, match="ours-direct: only 60 of 100 visitors went its way"),
        all_by_its_way(contender),
    ):
        pass


def test_idle_clients_and_streams_are_weighed(tmp_path: Path) -> None:
    medians = bench(tmp_path, "--idle", "3")["medians"]
    assert medians["idle clients"]["relay KiB per idle client"] > 0
    assert medians["idle streams"]["beside idle MiB/s"] > 0


def test_losses_are_those_of_the_path(tmp_path: Path) -> None:
    row = bench(tmp_path, "--loss", "0,10", "ours-h2")["medians"]["ours-h2"]
    assert min(row["loss 0 %, MiB/s"], row["loss 10 %, MiB/s"]) > 0
    assert 40 < row["loss 0 %, p50 ms"] < 60 < row["loss 10 %, p90 ms"]  # what is sent again waits


def test_pairs_share_a_path(tmp_path: Path) -> None:
    medians = bench(tmp_path, "--fair", "1")["medians"]
    assert {"ours beside ours", "ours beside cubic"} <= set(medians)
    for row in medians.values():
        for queue in (40, 160):
            one, other = (
                row[f"queue {queue} ms, {who} Mbit/s"] for who in ("one's", "the other's")
            )
            assert min(one, other) > 0
            assert one + other < 120
            share = row[f"queue {queue} ms, the other's share %"]
            assert share == pytest.approx(other / (one + other) * 100)


def test_a_contender_that_nobody_knows_is_said_to_be_one() -> None:
    command = [sys.executable, "-m", "scripts.benchmark", "ours-pigeon"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == "bench: 'ours-pigeon' is not known, or not on PATH\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_benchmark_that_is_ended_leaves_nothing_behind(
    tmp_path: Path, mark: str, number: signal.Signals
) -> None:
    usual = CONGESTION.read_text()
    command = [sys.executable, "-m", "scripts.benchmark", "ours-direct", "--seconds", "60"]
    process = Process(command, tmp_path, "bench")
    wait_until(lambda: any("visitors" in each for each in marked(mark)), 30, "a visitor")
    process.signal(number)
    assert process.wait(30) != 0
    assert list(marked(mark)) == []
    assert CONGESTION.read_text() == usual
