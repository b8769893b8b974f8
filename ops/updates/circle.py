"""Layer Updates: from Renovate's pull request to a deployed version, without a person.

Nothing here changes the platform. What is merged and what is due is decided on commits: each
decision can be made again, by anybody, and gives the same.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from config.settings import Updates
from ops.report import reports
from ops.report.api import GitHub, RefusedError
from ops.report.reports import Issue
from ops.updates import policy, releases, window
from ops.updates.history import History, HistoryError
from ops.updates.pins import Change, compare

MARKER = "<!-- platform-updates -->"
STOPPED = Issue("Updates are stopped", "updates", MARKER)
"""As long as it is open nothing is merged or deployed without a person; closing it goes on."""
RENOVATE = "renovate[bot]"
MAIN = "main"
RULESET = ".github/rulesets/main.json"
ENVIRONMENTS = ("prod", "prod-updates")
"""Whose deployments change the platform: after an approval, and by itself."""
PASSED = ("success", "skipped", "neutral")
REVIEWS = {"review": "review.json", "preview": "preview-review.json"}
"""The artifacts of a pull request's run that hold reviews: of the lab, and of prod's preview."""
HELD = ("queued", "waiting", "pending", "requested", "in_progress")
DEPLOY = ".github/workflows/deploy.yaml"


@dataclass(frozen=True)
class Outcome:
    """What was decided on a pull request."""

    number: int
    title: str
    merged: bool
    against: tuple[str, ...] = ()
    """Why a person is needed."""
    waiting: tuple[str, ...] = ()
    """What may still come by itself."""


class Due(BaseModel):
    """What is merged and not deployed."""

    model_config = ConfigDict(frozen=True)

    deployed: str
    head: str
    moved: tuple[str, ...] = ()
    pulls: tuple[int, ...] = ()
    against: tuple[str, ...] = ()
    """Why it is not deployed now; empty when it is."""

    @property
    def now(self) -> bool:
        """Whether to deploy it, now and without a person."""
        return bool(self.moved) and not self.against


class Circle:
    """The updates of one repository at one moment."""

    def __init__(
        self, github: GitHub, history: History, updates: Updates, now: dt.datetime
    ) -> None:
        """Take the policy of the main branch: none of a proposal's."""
        self._github = github
        self._history = history
        self._updates = updates
        self._now = now

    def merge(self) -> list[Outcome]:
        """Merge what the policy lets through, and say of the rest why it is left."""
        stop = self._stopped()
        return [self._decide(pull, stop) for pull in self._proposals()]

    def due(self, review: Path | None = None) -> Due:
        """Say whether what is merged is to be deployed now; `review` is that of its plan.

        Without a review the effect is not looked at: then it says whether a plan is worth making.
        """
        head = self._history.commit("HEAD")
        deployed = self._deployed()
        if deployed is None:
            return Due(deployed="", head=head, against=("nothing was ever deployed by GitHub",))
        change = compare(self._history.changed(deployed, head))
        if deployed == head or not (change.moved or change.others):
            return Due(deployed=deployed, head=head)
        against = [
            *self._stopped(),
            *self._against(change),
            *window.closed(self._updates.window, self._now),
            *self._somebody_deploys(),
        ]
        if review is not None:
            found = policy.Reviewed.model_validate_json(review.read_text(encoding="utf-8"))
            against += policy.against_effect(found)
        return Due(
            deployed=deployed,
            head=head,
            moved=tuple(map(str, change.moved)),
            pulls=tuple(self._pulls(deployed, head)),
            against=tuple(against),
        )

    def note(self, due: Due, text: str) -> list[str]:
        """Write on each pull request that was deployed; gives the comments' addresses."""
        body = f"{MARKER}\n{text}"
        return [reports.comment(self._github, one, MARKER, body, "") for one in due.pulls]

    def stop(self, due: Due, text: str, full: str) -> str:
        """Stop the updates for everybody: opens the issue, and gives its address."""
        pulls = ", ".join(f"#{one}" for one in due.pulls)
        body = (
            f"{MARKER}\nA deployment without a person failed: {', '.join(due.moved)} ({pulls}).\n\n"
            "What was not changed yet stays as it was. As long as this issue is open nothing is "
            "merged or deployed without a person. Find out what failed "
            "(docs/updates.md), fix it, deploy by hand, then close this issue.\n\n"
            f"{text}"
        )
        return reports.open_issue(self._github, STOPPED, body, full)

    def _stopped(self) -> list[str]:
        found = reports.open_issues(self._github, STOPPED)
        return [f"updates are stopped: {one['html_url']}" for one in found]

    def _proposals(self) -> Iterator[dict[str, Any]]:
        """Give Renovate's open pull requests from this repository itself."""
        for one in self._github.pages(f"pulls?state=open&base={MAIN}"):
            own = (one["head"].get("repo") or {}).get("full_name") == self._github.repository
            if own and one["user"]["login"] == RENOVATE and not one.get("draft"):
                yield one

    def _decide(self, pull: Mapping[str, Any], stop: Sequence[str]) -> Outcome:
        number, title, head = int(pull["number"]), str(pull["title"]), str(pull["head"]["sha"])
        try:
            base = self._history.base(f"origin/{MAIN}", head)
        except HistoryError:  # pushed after this clone was made; the next run has it
            late = "its newest commit is not in this clone"
            return Outcome(number, title, merged=False, waiting=(late,))
        change = compare(self._history.changed(base, head))
        against = [*stop, *self._against(change)]
        waiting: list[str] = []
        if not against:
            failed, waiting = self._checks(head)
            against += failed
            if not waiting and not failed:
                against += self._effects(head)
        if against or waiting:
            self._explain(number, change, against)
            return Outcome(number, title, merged=False, against=(*against,), waiting=(*waiting,))
        try:
            # Somebody else than the one who pushed must approve (the ruleset): this bot does.
            self._github.send(
                "POST",
                f"pulls/{number}/reviews",
                {"event": "APPROVE", "commit_id": head, "body": self._why(change)},
            )
            # Refused when the branch has moved since.
            self._github.send(
                "PUT", f"pulls/{number}/merge", {"sha": head, "merge_method": "merge"}
            )
        except RefusedError as error:
            return Outcome(number, title, merged=False, against=(str(error),))
        return Outcome(number, title, merged=True)

    def _against(self, change: Change) -> list[str]:
        released = releases.dates((one.new for one in change.moved), self._github)
        return list(policy.against(change, self._updates, released, self._now))

    def _checks(self, head: str) -> tuple[list[str], list[str]]:
        """Give the required checks of a commit that failed, and those that are not done."""
        ruleset = json.loads(self._history.text(f"origin/{MAIN}", RULESET))
        required = [
            (one["context"], one["integration_id"])
            for rule in ruleset["rules"]
            if rule["type"] == "required_status_checks"
            for one in rule["parameters"]["required_status_checks"]
        ]
        newest: dict[tuple[str, int], dict[str, Any]] = {}
        for run in self._github.pages(f"commits/{head}/check-runs?filter=latest", "check_runs"):
            # One that was started again, or by an event of its own, is listed beside the first.
            key = run["name"], run["app"]["id"]
            newest[key] = max(newest.get(key, run), run, key=lambda one: one["id"])
        ended = {key: run["conclusion"] for key, run in newest.items() if run["conclusion"]}
        failed = [
            f"its check {name} ended as {ended[name, app]}"
            for name, app in required
            if (name, app) in ended and ended[name, app] not in PASSED
        ]
        waiting = [f"its check {name}" for name, app in required if (name, app) not in ended]
        return failed, waiting

    def _effects(self, head: str) -> list[str]:
        """Give what in the reviews of a commit needs a person; the lab's review must be there."""
        against: list[str] = []
        for artifact, name in REVIEWS.items():
            try:
                text = self._artifact(artifact, name, head)
                if text is not None:
                    against += policy.against_effect(policy.Reviewed.model_validate_json(text))
                elif artifact == "review":
                    against.append("its run left no review")
            except (ValidationError, UnicodeDecodeError, zipfile.BadZipFile):
                against.append(f"its run left a {artifact} that cannot be read")
        return against

    def _artifact(self, artifact: str, name: str, head: str) -> str | None:
        """Read a file of an artifact of a commit's run; `None` when there is none."""
        for one in self._github.pages(f"actions/artifacts?name={artifact}", "artifacts"):
            run = one.get("workflow_run") or {}  # none when somebody deleted it
            if run.get("head_sha") == head and not one["expired"]:
                archive = self._github.archive(f"actions/artifacts/{one['id']}/zip")
                with zipfile.ZipFile(io.BytesIO(archive)) as files:
                    # Under the folder that the files have in common, which may be none.
                    found = [path for path in files.namelist() if Path(path).name == name]
                    return files.read(found[0]).decode() if found else None
        return None

    def _explain(self, number: int, change: Change, against: Sequence[str]) -> None:
        """Say on a pull request why it waits for a person; nothing while it waits for checks."""
        if not against:
            return
        lines = [MARKER, f"{self._why(change)} A person decides:", ""]
        lines += [f"- {one}" for one in against]
        reports.comment(self._github, number, MARKER, "\n".join(lines), "")

    def _why(self, change: Change) -> str:
        moved = ", ".join(map(str, change.moved)) or "No pinned version"
        return f"{moved}: looked at by `python -m ops update merge` (docs/updates.md)."

    def _deployed(self) -> str | None:
        """Give the commit that was deployed last."""
        newest = None
        for environment in ENVIRONMENTS:
            for one in self._github.pages(f"deployments?environment={environment}"):
                states = self._github.pages(f"deployments/{one['id']}/statuses")
                if any(each["state"] == "success" for each in states):
                    newest = max(newest or ("", ""), (one["created_at"], one["sha"]))
                    break
        return newest[1] if newest else None

    def _somebody_deploys(self) -> list[str]:
        """Name deployments that wait or run: GitHub would drop one of those that wait."""
        return [
            f"a deployment is {state}: {one['html_url']}"
            for state in HELD
            for one in self._github.pages(f"actions/runs?status={state}", "workflow_runs")
            if one["path"] == DEPLOY
        ]

    def _pulls(self, old: str, new: str) -> Iterator[int]:
        for commit in self._history.merges(old, new):
            for one in self._github.pages(f"commits/{commit}/pulls"):
                if one.get("merge_commit_sha") == commit:
                    yield int(one["number"])
