"""What Argo CD tells a Git host of a commit: the trigger and the template in its values."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from components.gitops.commit_statuses import TRIGGER
from config import plain_yaml
from tests.unit.recorder import ROOT


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    values = plain_yaml.read((ROOT / "bootstrap/argo-cd/values.yaml").read_text())
    found: dict[str, Any] = values["notifications"]
    return found


def test_the_trigger_that_hosts_subscribe_to_is_there_and_sends_a_template_that_is(
    told: dict[str, Any],
) -> None:
    conditions = plain_yaml.read(told["triggers"][f"trigger.{TRIGGER}"])
    assert [one["send"] for one in conditions] == [["commit-status"]] * 2
    assert "template.commit-status" in told["templates"]
    for one in conditions:
        # Each sync, each commit, and each change of health is told once.
        for part in ("startedAt", "syncResult?.revision", "lastTransitionTime"):
            assert part in one["oncePer"]


def test_a_host_has_all_that_it_asks_for(told: dict[str, Any]) -> None:
    template = plain_yaml.read(told["templates"]["template.commit-status"])
    assert set(template["github"]) == {"repoURLPath", "revisionPath", "status"}
    assert set(template["github"]["status"]) == {"state", "label", "targetURL"}
    gitlab = template["webhook"]["gitlab"]
    assert gitlab["method"] == "POST"
    assert gitlab["path"].endswith(template["github"]["revisionPath"]), "the same commit"
    # With a text in the place of each action of the template it is JSON.
    body = gitlab["body"].partition("\n")[2]
    assert '"state": "{{if and' in body
    assert "trunc 255" in body, "a longer description is refused, and with it the status"
    plain = _without_actions(body)
    assert set(json.loads(plain)) == {"state", "name", "target_url", "description"}


def _without_actions(text: str) -> str:
    """Put a text where a template would write one: `x` within quotes, else one with its quotes."""
    first, *rest = re.split(r"\{\{.*?\}\}", text)
    plain = first
    for part in rest:
        plain += ("x" if plain.count('"') % 2 else '"x"') + part
    return plain
