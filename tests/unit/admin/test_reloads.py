"""The page that has settings read anew."""

import asyncio
import json
from dataclasses import dataclass, field
from http import HTTPStatus

import pytest

from tunnel.admin.answers import Answer, Problem, Request
from tunnel.admin.reloads import reload_pages
from tunnel.settings.reload import ReloadOutcome, ReloadPlan

PLAN = ReloadPlan(keys={"log": ("level",)})


@dataclass
class Daemon:
    """Answers every reload with the same outcome."""

    outcome: ReloadOutcome
    asked: list[bool] = field(default_factory=list)  # for a dry run?

    async def reload(self, *, dry_run: bool = False) -> ReloadOutcome:
        self.asked.append(dry_run)
        return self.outcome


def post(daemon: Daemon, **query: str) -> Answer:
    async def body() -> Answer:
        return await reload_pages(daemon)["/reload"]["POST"](Request("POST", "/reload", query, b""))

    return asyncio.run(body())


def test_it_answers_what_came_of_it() -> None:
    daemon = Daemon(ReloadOutcome(PLAN, is_applied=True))
    answer = post(daemon)
    assert daemon.asked == [False]
    assert json.loads(answer.content) == {
        "applied": True,
        "faults": [],
        "plan": {"tables": {}, "keys": {"log": ["level"]}, "restart_required": []},
    }


def test_a_refusal_is_an_answer_too() -> None:
    answer = post(Daemon(ReloadOutcome(None, ("relay.toml:3: log.level: 7",))))
    assert answer.status is HTTPStatus.OK
    assert json.loads(answer.content)["faults"] == ["relay.toml:3: log.level: 7"]


@pytest.mark.parametrize(("word", "is_dry"), [("1", True), ("0", False)])
def test_a_dry_run_is_asked_for_by_a_number(word: str, is_dry: bool) -> None:
    daemon = Daemon(ReloadOutcome(PLAN))
    post(daemon, dry_run=word)
    assert daemon.asked == [is_dry]


def test_another_word_reloads_nothing() -> None:
    daemon = Daemon(ReloadOutcome(PLAN))
    with pytest.raises(Problem, match=r"dry_run=yes \(expected 0 or 1\)"):
        post(daemon, dry_run="yes")
    assert daemon.asked == []
