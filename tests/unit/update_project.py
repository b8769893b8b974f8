"""A project on a simulated GitHub: its clone, and what Renovate and the workflows do there."""

from __future__ import annotations

import datetime as dt
import io
import json
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.updates.command import main
from tests.unit.fake_github import REPOSITORY, TOKEN, State

NOW = dt.datetime(2026, 11, 28, 23, 30, tzinfo=dt.UTC)  # a Saturday
REQUIRED = ("checks", "tests", "lab", "review", "preview", "comment")
ACTIONS = 15368
"""GitHub's number of its own app Actions."""
RENOVATE = "renovate[bot]"


def environment(github: State, output: Path) -> dict[str, str]:
    """Give what a workflow's step gets."""
    return {
        "GITHUB_API_URL": github.url,
        "GITHUB_REPOSITORY": REPOSITORY,
        "GITHUB_TOKEN": TOKEN,
        "GITHUB_OUTPUT": str(output),
    }


def reviewed(**over: Any) -> dict[str, Any]:
    """Give a review's JSON, as far as it is read."""
    return {"verdict": "safe", "quorum": "", "errors": [], "forbidden": [], **over}


@dataclass
class Project:
    """A clone of a repository, and the GitHub that it lies on."""

    root: Path
    github: State

    def begin(self) -> None:
        """Make a repository of the folder, whose first commit is deployed."""
        self.git("init", "--quiet", "--initial-branch=main", "--template=")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "as it is")
        first = self.git("rev-parse", "HEAD")
        self.git("update-ref", "refs/remotes/origin/main", first)
        self.deployed(first)
        self.github.merge = self.merge

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        ran = subprocess.run(
            ["git", *identity, *arguments],  # noqa: S607
            cwd=self.root,
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout.strip()

    def commit(self, **files: str) -> str:
        for name, text in files.items():
            path = self.root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a change")
        return self.git("rev-parse", "HEAD")

    def propose(self, text: str, *, author: str = RENOVATE, checks: str = "success") -> int:
        """Open a pull request, with all that its run leaves."""
        number = len(self.github.pulls) + 1
        self.git("checkout", "--quiet", "-b", f"renovate/{number}", "main")
        path = next(self.root.glob("Pulumi.*.yaml"))
        path.write_text(text, encoding="utf-8")
        self.git("commit", "--quiet", "--all", "--message", "Update")
        head = self.git("rev-parse", "HEAD")
        self.git("checkout", "--quiet", "main")
        self.github.pulls.append(
            {
                "number": number,
                "title": "Update Talos",
                "state": "open",
                "merged": "",
                "user": {"login": author},
                "head": {"sha": head, "repo": {"full_name": REPOSITORY}},
            }
        )
        self.github.checks[head] = [
            {"id": n, "name": name, "app": {"id": ACTIONS}, "conclusion": checks}
            for n, name in enumerate(REQUIRED)
        ]
        self.review(head, "reboots machines")
        return number

    def review(self, head: str, verdict: str) -> None:
        """Let a run leave a review with a verdict."""
        self.leave_review(head, json.dumps(reviewed(verdict=verdict)))

    def leave_review(self, head: str, text: str) -> None:
        """Let a run leave a review, in place of the one that it left."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("review.json", text)
        number = len(self.github.archives) + 1
        self.github.archives[number] = packed.getvalue()
        run = {"head_sha": head}
        made = {"id": number, "name": "review", "expired": False, "workflow_run": run}
        self.github.artifacts = [
            one for one in self.github.artifacts if one["workflow_run"] != run
        ] + [made]

    def deployed(self, commit: str, state: str = "success", environment: str = "prod") -> None:
        number = len(self.github.deployments) + 1
        self.github.deployments.append(
            {
                "id": number,
                "sha": commit,
                "environment": environment,
                "created_at": f"2026-11-2{number}T00:00:00Z",
                "statuses": [{"state": state}],
            }
        )

    def merge(self, pull: dict[str, Any]) -> str:
        self.git("merge", "--quiet", "--no-ff", "--message", "Merge", pull["head"]["sha"])
        self.git("update-ref", "refs/remotes/origin/main", "main")
        return self.git("rev-parse", "main")

    def update(self, *arguments: str, now: dt.datetime = NOW) -> int:
        where = ("--repository", str(self.root), "--now", now.isoformat())
        return main([*arguments[:1], *where, *arguments[1:]])

    def due(self, *arguments: str, now: dt.datetime = NOW) -> tuple[int, dict[str, Any]]:
        out = self.root.parent / "due.json"
        code = self.update("due", "--out", str(out), *arguments, now=now)
        document: dict[str, Any] = json.loads(out.read_text())
        return code, document
