"""What the tests read of Argo CD, and the repository that it follows."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import subprocess
from pathlib import Path

from ops.rehearsal.world import PROJECT, World
from tests.lab.real_programs.cluster import DOMAIN, INGRESS_ADDRESS, Object, kubectl, read

NAMESPACE = "argocd"
HOST = f"argocd.{DOMAIN}"
URL = "https://github.com/example/platform"
PODINFO = "apps/base/podinfo"
"""The folder of the application in the repository."""

GITHUB_SAYS = {
    "Content-Type": "application/json",
    "X-GitHub-Event": "push",
    "X-GitHub-Delivery": "00000000-0000-0000-0000-000000000000",
}
"""What GitHub's calls after a push say (its page "Webhook events and payloads", push)."""


class Repository:
    """The repository that Argo CD follows: a clone whose pushes the Git host tells of."""

    def __init__(self, world: World, folder: Path, *trust: str) -> None:
        """Clone it; `trust` are curl's options for a certificate of no public authority."""
        self.world = world
        self.trust = trust
        self.folder = folder
        self.git("clone", "--quiet", str(world.state / "repository"), str(folder), at=PROJECT)

    def git(self, *argv: str, at: Path | None = None) -> str:
        """Run Git in the clone, with no settings of this machine's user."""
        own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        who = ("-c", "user.name=Operator", "-c", "user.email=operator@example.com")
        result = subprocess.run(
            ["git", *who, "-c", "safe.directory=*", *argv],  # noqa: S607 the operator's own
            cwd=at or self.folder,
            env=os.environ | own,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace a text that a file has once."""
        text = (self.folder / path).read_text()
        assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
        (self.folder / path).write_text(text.replace(old, new))

    def push(self, subject: str) -> str:
        """Commit all, push, and let the Git host call; gives the commit's name."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject)
        return self.publish()

    def revert(self) -> str:
        """Undo the last commit by another one."""
        self.git("revert", "--no-edit", "HEAD")
        return self.publish()

    def publish(self) -> str:
        """Push, and call Argo CD's webhook through the ingress, as GitHub does."""
        before = self.git("rev-parse", "origin/main")
        self.git("push", "--quiet", "origin", "HEAD:main")
        after = self.git("rev-parse", "HEAD")
        changed = self.git("diff", "--name-only", before, after).splitlines()
        body = json.dumps(
            {
                "ref": "refs/heads/main",
                "before": before,
                "after": after,
                "repository": {
                    "html_url": URL,
                    "full_name": "example/platform",
                    "default_branch": "main",
                },
                "commits": [{"id": after, "added": [], "removed": [], "modified": changed}],
            }
        )
        secret = read(self.world, "secret", "argocd-secret", "--namespace", NAMESPACE)["data"]
        key = base64.b64decode(secret["webhook.github.secret"])
        mac = hmac.new(key, body.encode(), hashlib.sha256)
        headers = GITHUB_SAYS | {"X-Hub-Signature-256": f"sha256={mac.hexdigest()}"}
        self.world.run(
            *("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30"),
            *(*self.trust, "--resolve", f"{HOST}:443:{INGRESS_ADDRESS}", "--data-binary", body),
            *(word for name, text in headers.items() for word in ("--header", f"{name}: {text}")),
            f"https://{HOST}/api/webhook",
        )
        return after


def application(world: World, name: str) -> Object:
    """Read what an Application says of itself; empty while it says nothing yet."""
    how = ("--namespace", NAMESPACE, "--ignore-not-found", "--output", "json")
    said = kubectl(world, "get", "application", name, *how, code=None)
    found: Object = json.loads(said).get("status", {}) if said else {}
    return found


def is_well(world: World, name: str, revision: str = "") -> bool:
    """Say whether an Application is synced and healthy, at a commit if one is given."""
    status = application(world, name)
    sync = status.get("sync", {})
    at = [sync.get("revision"), *sync.get("revisions", [])]
    return (
        sync.get("status") == "Synced"
        and status.get("health", {}).get("status") == "Healthy"
        and (not revision or revision in at)
    )


def deployment(world: World, part: str) -> Object:
    """Read the Deployment of a part of Argo CD."""
    return read(world, "deployment", f"argo-cd-argocd-{part}", "--namespace", NAMESPACE)


def replicas(world: World, part: str) -> int:
    """Give how many pods a part of Argo CD shall have."""
    number: int = deployment(world, part)["spec"]["replicas"]
    return number
