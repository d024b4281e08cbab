"""docs/operations.md says of every figure what the programs say of it; the alerts are tried out."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tunnel.admin.families import Family
from tunnel.admin.metrics import Exposition
from tunnel.client.counts import Chronicle
from tunnel.client.figures import families_of

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "operations.md").read_text()
ALERTS = ROOT / "config" / "prometheus" / "alerts.yml"
CASES = Path(__file__).parent / "alerts.yml"
MAKERS = {"gauge": "", "gauges": "", "counter": "_total", "counters": "_total"}


def rows(program: str) -> list[str]:
    """Return the line of docs/operations.md about each figure, as the code has them."""
    tree = ast.parse((ROOT / "tunnel" / program / "figures.py").read_text())
    assigned = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    made = (node for node in calls if getattr(node.func, "id", "") in MAKERS)
    return [_row(node, assigned) for node in sorted(made, key=lambda node: node.lineno)]


def _row(call: ast.Call, assigned: dict[str, ast.expr]) -> str:
    maker = ast.unparse(call.func)
    labels: tuple[str, ...] = ()
    if maker.endswith("s"):
        given = call.args[2]
        labels = ast.literal_eval(assigned[given.id] if isinstance(given, ast.Name) else given)
    shown = ", ".join(f"`{label}`" for label in labels)
    name, words = (ast.literal_eval(each) for each in call.args[:2])
    return f"| `{name}{MAKERS[maker]}` | {shown} | {words} |"


@pytest.mark.parametrize("program", ["relay", "client"])
def test_every_figure_has_its_line(program: str) -> None:
    begin = f"| `tunnel_{program}_"
    assert [line for line in TEXT.splitlines() if line.startswith(begin)] == rows(program)


def test_the_figures_that_are_read_are_the_ones_that_are_shown() -> None:
    def read() -> Iterator[Family]:
        return families_of((), Chronicle(), 0, is_ready=True)

    page = Exposition(read).text().decode()
    shown = {metric.name for metric in text_string_to_metric_families(page)}
    ours = {name for name in shown if name.startswith("tunnel_")}
    documented = set(re.findall(r"^\| `(tunnel_client_\w+)`", TEXT, re.MULTILINE))
    assert ours == {name.removesuffix("_total") for name in documented}


def promtool(*arguments: str | Path) -> None:
    """Have promtool judge a file."""
    judged = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_the_alerts_are_rules_that_prometheus_takes() -> None:
    promtool("check", "rules", ALERTS)


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", CASES)


def test_every_alert_is_seen_to_fire_and_to_keep_silent() -> None:
    judged = re.findall(r"alertname: (\w+)\n +exp_alerts:( \[\])?", CASES.read_text())
    for silent in ("", " []"):
        assert {name for name, expected in judged if expected == silent} == set(alerts())


def test_every_alert_has_its_line() -> None:
    cells = re.findall(r"^\| ((?:`Tunnel\w+`(?:, )?)+) \|", TEXT, re.MULTILINE)
    assert [name for cell in cells for name in re.findall(r"\w+", cell)] == alerts()


def alerts() -> list[str]:
    """Return the names of the alerts in their order."""
    return re.findall(r"- alert: (\w+)", ALERTS.read_text())


def test_the_alerts_ask_for_figures_that_there_are() -> None:
    asked = set(re.findall(r"\btunnel_\w+", ALERTS.read_text()))
    documented = set(re.findall(r"^\| `(tunnel_\w+)`", TEXT, re.MULTILINE))
    assert asked
    assert asked <= documented
