"""Layer Report: one comment, one issue: found by their marker, made once and then updated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ops.report.api import GitHub
from ops.report.text import fit

BOT = "github-actions[bot]"
"""Who the token of a workflow writes as; a comment of somebody else's is never written over."""


def comment(github: GitHub, pull_request: int, marker: str, text: str, full: str) -> str:
    """Make or update the one comment of a pull request; gives its address."""
    body = fit(text, full)
    found = [
        one for one in github.pages(f"issues/{pull_request}/comments") if _is_ours(one, marker)
    ]
    if found:
        if found[0]["body"] == body:
            return str(found[0]["html_url"])
        changed = github.send("PATCH", f"issues/comments/{found[0]['id']}", {"body": body})
        return str(changed["html_url"])
    made = github.send("POST", f"issues/{pull_request}/comments", {"body": body})
    return str(made["html_url"])


def _is_ours(item: dict[str, Any], marker: str) -> bool:
    """Tell by the first line, and by who wrote it: anybody can copy a marker."""
    author = (item.get("user") or {}).get("login")
    return author == BOT and str(item.get("body") or "").splitlines()[:1] == [marker]


@dataclass(frozen=True)
class Issue:
    """An issue that a workflow keeps: by its label and its marker it is found again."""

    title: str
    label: str
    marker: str


def open_issue(github: GitHub, issue: Issue, text: str, full: str) -> str:
    """Open the issue, or update the one that is open; gives its address."""
    body = fit(text, full)
    found = open_issues(github, issue)
    if found:
        change = {"title": issue.title, "body": body}
        return str(github.send("PATCH", f"issues/{found[0]['number']}", change)["html_url"])
    new = {"title": issue.title, "body": body, "labels": [issue.label]}
    return str(github.send("POST", "issues", new)["html_url"])


def close_issues(github: GitHub, issue: Issue, reason: str) -> list[str]:
    """Say in each open issue of ours why it ends, close it, and give their addresses."""
    closed = []
    for one in open_issues(github, issue):
        github.send("POST", f"issues/{one['number']}/comments", {"body": reason})
        change = {"state": "closed", "state_reason": "completed"}
        closed.append(str(github.send("PATCH", f"issues/{one['number']}", change)["html_url"]))
    return closed


def open_issues(github: GitHub, issue: Issue) -> list[dict[str, Any]]:
    """Give those of ours that are open, the oldest first.

    Pull requests are in GitHub's list of issues too.
    """
    query = f"state=open&labels={quote(issue.label)}&sort=created&direction=asc"
    listed = github.pages(f"issues?{query}")
    return [one for one in listed if "pull_request" not in one and _is_ours(one, issue.marker)]
