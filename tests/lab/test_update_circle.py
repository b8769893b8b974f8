"""Updates without a person: a release of Talos appears, and ends deployed, or stops everything.

Real: the engine, the program, Git, the plan and its review, the drift report, and what decides.
Simulated: the machines' images, GitHub (it refuses as GitHub does), and Renovate, whose commit the
test makes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from config.versions import TALOS
from ops.rehearsal.procedures import next_patch
from ops.rehearsal.world import PROJECT, Result, World
from tests.unit.fake_github import serving
from tests.unit.update_project import Project, environment

pytestmark = pytest.mark.campaign

OLD, GOOD, BAD = next_patch(TALOS, -1), TALOS, next_patch(TALOS)
RULESET = Path(".github/rulesets/main.json")
POLICY = {
    "window": {"days": ["saturday"], "opens": "22:00", "closes": "04:00"},
    "talos": "patch",
}


@dataclass
class Circle:
    """A platform in a world, whose stack file is in a repository on a simulated GitHub."""

    project: Project
    world: World

    @property
    def out(self) -> Path:
        return self.world.state / "out"

    def make(self, *targets: str, code: int | None = 0) -> Result:
        return self.world.run("make", *targets, f"OUT={self.out}", code=code, timeout=1800)

    def release(self, version: str) -> int:
        """Let a release appear: Renovate's pull request, with the review that its run leaves."""
        self.project.github.releases[f"siderolabs/talos/v{version}"] = "2026-11-01T08:00:00Z"
        stack_file = self.world.stack_file
        before = stack_file.read_text()
        running = yaml.safe_load(before)["config"]["platform:talos"]["version"]
        proposed = before.replace(f"version: {running}", f"version: {version}", 1)
        stack_file.write_text(proposed)
        self.make("preview", "explain")
        stack_file.write_text(before)
        review = (self.out / "preview-review.json").read_text()
        number = self.project.propose(proposed)
        self.project.leave_review(self.project.github.pulls[-1]["head"]["sha"], review)
        return number

    def deploy(self) -> Result:
        """Do what the workflow does after the merge: plan, decide on it, carry it out, look."""
        assert self.project.due()[0] == 0
        self.make("preview", "explain")
        assert self.project.due("--review", str(self.out / "preview-review.json"))[0] == 0
        applied = self.make("apply-plan", f"LOG={self.out / 'up.log'}", code=None)
        self.make("unlock")
        self.make("drift-report")
        return applied

    def note(self, result: str) -> None:
        files = ("--log", str(self.out / "up.log"), "--drift", str(self.out / "drift.md"))
        due = str(self.project.root.parent / "due.json")
        assert self.project.update("note", "--due", due, "--result", result, *files) == 0

    def versions(self) -> dict[str, str]:
        """Give what each machine runs."""
        nodes = json.loads(self.world.run("kubectl", "get", "nodes", "-o", "json").stdout)["items"]
        return {
            one["metadata"]["name"]: one["status"]["nodeInfo"]["osImage"]
            .removeprefix("Talos (v").removesuffix(")")
            for one in nodes
        }  # fmt: skip


@pytest.fixture(scope="module")
def stack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a stack file in a folder of its own, with the policy, and without services."""
    target = tmp_path_factory.mktemp("updates") / "project" / "Pulumi.prod.yaml"
    target.parent.mkdir()
    text, _, _ = (PROJECT / "Pulumi.prod.yaml").read_text().partition("  # Which new versions")
    policy = yaml.safe_dump({"platform:updates": POLICY})
    text += "".join(f"  {line}\n" for line in policy.splitlines())
    assert f"version: {GOOD}" in text
    target.write_text(text.replace(f"version: {GOOD}", f"version: {OLD}", 1))
    return target


@pytest.fixture(scope="module")
def circle(make_world: Callable[..., World], stack_file: Path) -> Iterator[Circle]:
    root = stack_file.parent
    (root / RULESET).parent.mkdir(parents=True)
    (root / RULESET).write_text((PROJECT / RULESET).read_text())
    with serving() as github, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(github, root.parent / "output").items():
            patch.setenv(name, value)
        project = Project(root, github)
        project.begin()
        world = make_world()
        world.up()
        world.write_credentials()
        yield Circle(project, world)


def test_a_new_patch_release_ends_deployed_and_noted(circle: Circle) -> None:
    assert set(circle.versions().values()) == {OLD}
    number = circle.release(GOOD)
    assert circle.project.update("merge") == 0
    assert circle.project.github.pulls[-1]["state"] == "closed"
    applied = circle.deploy()
    assert applied.returncode == 0, applied.stdout + applied.stderr
    circle.note("success")
    assert set(circle.versions().values()) == {GOOD}
    (comment,) = circle.project.github.comments[number]
    assert f"Deployed without a person: siderolabs/talos {OLD} to {GOOD}" in comment["body"]
    circle.project.deployed(circle.project.git("rev-parse", "main"), "success", "prod-updates")
    circle.world.expect_no_changes()


def test_one_whose_machine_does_not_start_stops_at_the_first_machine_and_opens_an_issue(
    circle: Circle,
) -> None:
    (circle.world.state / "machines" / "does-not-start" / f"v{BAD}").touch()
    circle.release(BAD)
    assert circle.project.update("merge") == 0
    assert circle.deploy().returncode != 0
    circle.note("failure")
    # Talos went back by itself, and nobody else was touched.
    assert set(circle.versions().values()) == {GOOD}
    (issue,) = circle.project.github.issues
    assert issue["title"] == "Updates are stopped"
    assert "node01" in issue["body"]
    assert BAD in issue["body"]

    circle.project.github.releases["siderolabs/talos/v1.13.11"] = "2026-11-01T08:00:00Z"
    text = circle.world.stack_file.read_text()
    held = circle.project.propose(text.replace(f"version: {BAD}", "version: 1.13.11"))
    assert circle.project.update("merge") == 0
    (comment,) = circle.project.github.comments[held]
    assert "updates are stopped" in comment["body"]
