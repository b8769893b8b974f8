"""What the tests read of Argo CD, and the repository that it follows."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import subprocess
from pathlib import Path

import yaml

from ops.rehearsal.world import PROJECT, World
from tests.lab.real_programs.cluster import DOMAIN, INGRESS_ADDRESS, Object, kubectl, read

NAMESPACE = "argocd"
HOST = f"argocd.{DOMAIN}"
URL = "https://github.com/example/platform"
PODINFO = "apps/base/podinfo"
"""The folder of the application in the repository."""

ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "told"},
    "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
}
"""What no application may bring."""

GITHUB_SAYS = {
    "Content-Type": "application/json",
    "X-GitHub-Event": "push",
    "X-GitHub-Delivery": "00000000-0000-0000-0000-000000000000",
}
"""What GitHub's calls after a push say (its page "Webhook events and payloads", push)."""


GITLAB_SAYS = {"Content-Type": "application/json", "X-Gitlab-Event": "Push Hook"}
"""What GitLab's calls after a push say (its page "Webhook events", push events)."""


class Repository:
    """The repository that Argo CD follows: a clone whose pushes GitHub tells of."""

    webhook_key = "webhook.github.secret"
    """Where Argo CD has what the host's calls show."""

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

    def annotate(self, text: str) -> str:
        """Push a change of the application that does no harm."""
        account = self.folder / PODINFO / "serviceaccount.yaml"
        told = yaml.safe_load(account.read_text())
        told["metadata"]["annotations"] = {"example.com/told": text}
        account.write_text(yaml.safe_dump(told))
        return self.push(f"podinfo's account is told: {text}")

    def break_podinfo(self) -> str:
        """Push an application that Argo CD must not sync."""
        (self.folder / PODINFO / "told.yaml").write_text(yaml.safe_dump(ROLE))
        resources = ("  - ingress.yaml", "  - ingress.yaml\n  - told.yaml")
        self.replace(f"{PODINFO}/kustomization.yaml", *resources)
        return self.push("podinfo wants a role of the whole cluster")

    def publish(self) -> str:
        """Push, and call Argo CD's webhook through the ingress, as the Git host does."""
        before = self.git("rev-parse", "origin/main")
        self.git("push", "--quiet", "origin", "HEAD:main")
        after = self.git("rev-parse", "HEAD")
        changed = self.git("diff", "--name-only", before, after).splitlines()
        secret = read(self.world, "secret", "argocd-secret", "--namespace", NAMESPACE)["data"]
        commits = [{"id": after, "added": [], "removed": [], "modified": changed}]
        push = {"ref": "refs/heads/main", "before": before, "after": after, "commits": commits}
        body, headers = self.call(push, base64.b64decode(secret[self.webhook_key]))
        # In a file: GitLab's hold the secret, and a command that fails is told with its words.
        said = self.folder.with_name("headers")
        said.touch(mode=0o600)
        said.write_text("".join(f"{name}: {text}\n" for name, text in headers.items()))
        self.world.run(
            *("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30"),
            *(*self.trust, "--resolve", f"{HOST}:443:{INGRESS_ADDRESS}", "--data-binary", body),
            *("--header", f"@{said}", f"https://{HOST}/api/webhook"),
        )
        return after

    def call(self, push: Object, key: bytes) -> tuple[str, dict[str, str]]:
        """Give what the host's call says of a push, and its headers."""
        of = {"html_url": URL, "full_name": "example/platform", "default_branch": "main"}
        body = json.dumps(push | {"repository": of})
        mac = hmac.new(key, body.encode(), hashlib.sha256)
        return body, GITHUB_SAYS | {"X-Hub-Signature-256": f"sha256={mac.hexdigest()}"}


class GitLabRepository(Repository):
    """One at GitLab, which shows the secret as it is."""

    webhook_key = "webhook.gitlab.secret"

    def __init__(self, world: World, folder: Path, url: str, *trust: str) -> None:
        """Clone it; `url` is where GitLab has the project."""
        super().__init__(world, folder, *trust)
        self.url = url

    def call(self, push: Object, key: bytes) -> tuple[str, dict[str, str]]:
        """Give what the host's call says of a push, and its headers."""
        of = {"web_url": self.url, "default_branch": "main"}
        body = push | {"object_kind": "push", "checkout_sha": push["after"], "project": of}
        return json.dumps(body), GITLAB_SAYS | {"X-Gitlab-Token": key.decode()}


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
