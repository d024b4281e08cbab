"""docs/performance.md says what was measured: its tables are those of the stored rounds."""

from dataclasses import replace
from pathlib import Path

import pytest

from scripts.benchmarks import machine
from scripts.benchmarks.goals import GOALS, Goal, Stored
from scripts.benchmarks.report import FOLDER, PAGE, RUNS, fill, load

SPEED = Goal("speed", "loopback", "ours", "MiB/s", must=1.0, aim=1.5, more_is_better=True)
COST = Goal("cost", "loopback", "ours", "ms", must=0.75, beside="theirs")


def stored(ours: list[float], theirs: list[float], key: str) -> Stored:
    columns = {"ours": ours, "theirs": theirs}
    return {"loopback": {name: [{key: each} for each in rows] for name, rows in columns.items()}}


def test_the_tables_are_those_of_the_stored_rounds() -> None:
    page = PAGE.read_text()
    assert fill(page, load(FOLDER)) == page, "scripts/bench --report"


def test_every_kind_of_run_is_stored_with_five_rounds_or_more() -> None:
    stored = load(FOLDER)
    assert set(stored) == set(RUNS)
    for each in stored.values():
        assert max(map(len, each["rounds"].values())) >= 5


def test_every_goal_is_measured() -> None:
    rounds = {run: each["rounds"] for run, each in load(FOLDER).items()}
    for goal in GOALS:
        assert len(goal.rounds(rounds)) >= 5, goal.what


def test_what_stands_beside_another_is_a_ratio_of_each_round() -> None:
    assert COST.rounds(stored([1.0, 6.0], [2.0, 8.0], "ms")) == [0.5, 0.75]


@pytest.mark.parametrize(
    ("measured", "verdict"), [(0.9, "**missed**"), (1.0, "met"), (1.4, "met"), (1.5, "aim met")]
)
def test_more_is_better_where_it_is(measured: float, verdict: str) -> None:
    assert SPEED.line(stored([measured], [], "MiB/s"))[-1] == verdict


@pytest.mark.parametrize(("measured", "verdict"), [(0.76, "**missed**"), (0.75, "met")])
def test_less_is_better_elsewhere(measured: float, verdict: str) -> None:
    assert COST.line(stored([measured], [1.0], "ms"))[-1] == verdict


@pytest.mark.parametrize(("measured", "verdict"), [(2.0, "aim missed"), (1.0, "aim met")])
def test_an_aim_alone_is_no_must(measured: float, verdict: str) -> None:
    goal = replace(COST, must=None, aim=1.0)
    assert goal.line(stored([measured], [1.0], "ms"))[-1] == verdict


def test_a_goal_that_nobody_measured_says_so() -> None:
    assert replace(SPEED, run="loss").line({})[-1] == "not measured"


def test_a_line_has_the_middle_and_both_ends_of_all_rounds() -> None:
    line = SPEED.line(stored([3.0, 1.0, 250.0], [], "MiB/s"))
    assert line == ["speed", "3.00", "1.00 … 250", "≥ 1", "≥ 1.5", "aim met"]


def test_a_table_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(KeyError, match="pigeons"):
        fill("<!-- table: pigeons -->\n<!-- end -->", {})


def test_steal_is_what_the_host_gave_to_others_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine, "STAT", stat)
    stat.write_text("cpu  100 0 50 800 0 0 10 40 7 0\ncpu0 1 2 3\n")
    share = machine.watch_steal()
    assert share() == 0
    stat.write_text("cpu  130 0 60 840 0 0 10 60 9 0\ncpu0 1 2 3\n")
    assert share() == 20
