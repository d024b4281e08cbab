"""docs/operations.md says of every figure what the programs say of it, and its alerts are rules."""

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


def alerts() -> str:
    (rules,) = re.findall(r"```yaml\n(groups:.*?)```", TEXT, re.DOTALL)
    return str(rules)


def test_the_alerts_are_rules_that_prometheus_takes(tmp_path: Path) -> None:
    file = tmp_path / "alerts.yml"
    file.write_text(alerts())
    judged = subprocess.run(
        ["promtool", "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_the_alerts_ask_for_figures_that_there_are() -> None:
    asked = set(re.findall(r"\btunnel_\w+", alerts()))
    documented = set(re.findall(r"^\| `(tunnel_\w+)`", TEXT, re.MULTILINE))
    assert asked
    assert asked <= documented
