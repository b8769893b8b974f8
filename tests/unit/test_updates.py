"""Which new versions need no person: the policy, the window, and the way from Renovate to prod."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import config.versions
from config.settings import Updates, Window
from ops.review.verdict import Verdict
from ops.updates import policy, window
from ops.updates.circle import MARKER
from ops.updates.command import CLOSED, NOT_DUE
from ops.updates.pins import LAYERS, Change, Moved, Pin, compare, pins
from tests.unit.fake_github import serving
from tests.unit.update_project import NOW, Project, environment, reviewed

ROOT = Path(__file__).parents[2]
STACK_FILE = (
    (ROOT / "Pulumi.prod.yaml")
    .read_text(encoding="utf-8")
    .replace(f"version: {config.versions.TALOS}", "version: 1.13.9")
)
VERSIONS = (
    (ROOT / "config" / "versions.py")
    .read_text(encoding="utf-8")
    .replace(f'"{config.versions.TALOS}"', '"1.13.9"')
)
RULESET = ".github/rulesets/main.json"
LONG_AGO = "2026-11-01T08:00:00Z"
WINDOW = {"days": ["saturday"], "opens": "22:00", "closes": "04:00"}
POLICY = {"window": WINDOW, "talos": "patch", "kubernetes": "patch", "certManager": "minor"}


# --- What a change moves -----------------------------------------------------------------------


def talos(version: str, text: str = STACK_FILE) -> str:
    return text.replace("version: 1.13.9", f"version: {version}")


def test_every_pin_of_the_program_is_found_with_where_its_releases_are() -> None:
    found = {pin.package: pin for pin in pins(VERSIONS)}
    assert found["siderolabs/talos"].tag.format("1.13.9") == "v1.13.9"
    assert found["cilium"].registry == "https://helm.cilium.io"
    assert set(LAYERS) <= set(found)


def test_the_layers_are_those_of_the_settings() -> None:
    assert set(LAYERS.values()) == set(Updates().model_dump(by_alias=True)) - {
        "window",
        "minimumAgeDays",
    }


def test_a_moved_version_in_two_files_is_one_move() -> None:
    change = compare(
        {
            "Pulumi.prod.yaml": (STACK_FILE, talos("1.13.10")),
            "config/versions.py": (VERSIONS, VERSIONS.replace('"1.13.9"', '"1.13.10"')),
        }
    )
    assert [str(one) for one in change.moved] == ["siderolabs/talos 1.13.9 to 1.13.10"]
    assert change.others == ()


def test_the_labs_modules_may_move_beside_it() -> None:
    files = {"lab/go.mod": ("a", "b"), "lab/tools/kubernetes/go.sum": ("a", "b")}
    assert compare({**files, "Pulumi.prod.yaml": (STACK_FILE, talos("1.13.10"))}).others == ()


REPLACES = "require a.example/x v1.0.0\n\nreplace (\n\ta.example/x => a.example/x v1.0.0\n)\n"


def test_a_replaced_module_of_the_lab_may_move_with_its_version() -> None:
    files = {"lab/go.mod": (REPLACES, REPLACES.replace("v1.0.0", "v1.0.1"))}
    assert compare(files).others == ()


@pytest.mark.parametrize(
    "new",
    [
        REPLACES.replace("=> a.example/x", "=> b.example/x"),
        REPLACES.replace("=> a.example/x v1.0.0", "=> ../x"),
        f"{REPLACES}replace a.example/y v2.0.0 => b.example/y v2.0.0\n",
        None,
    ],
)
def test_a_module_of_the_lab_that_comes_from_elsewhere_needs_a_person(new: str | None) -> None:
    """What the lab is built of writes the review that decides."""
    assert compare({"lab/tools/x/go.mod": (REPLACES, new)}).others == ("lab/tools/x/go.mod",)


def test_two_versions_of_a_package_are_two_moves() -> None:
    change = compare(
        {
            "Pulumi.prod.yaml": (STACK_FILE, talos("1.13.11")),
            "config/versions.py": (VERSIONS, VERSIONS.replace('"1.13.9"', '"1.13.10"')),
        }
    )
    assert sorted(map(str, change.moved)) == [
        "siderolabs/talos 1.13.9 to 1.13.10",
        "siderolabs/talos 1.13.9 to 1.13.11",
    ]


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("Pulumi.prod.yaml", STACK_FILE, talos("1.13.10").replace("cpus: 4", "cpus: 8")),
        ("Pulumi.prod.yaml", STACK_FILE, talos("1.13.10") + "# a comment\n"),
        ("config/versions.py", VERSIONS, VERSIONS + "\nimport os\n"),
        (
            "config/versions.py",
            VERSIONS,
            VERSIONS.replace("siderolabs/talos ", "siderolabs/other "),
        ),
        ("ops/new.py", None, "print()"),
        ("requirements.txt", "a==1", "a==2"),
        ("lab/internal/go.mod.go", "a", "b"),
        ("docs/spec.md", "text", None),
    ],
)
def test_whatever_else_changes_is_named_by_its_file(
    path: str, old: str | None, new: str | None
) -> None:
    assert compare({path: (old, new)}).others == (path,)


@pytest.mark.parametrize(
    ("old", "new", "step"),
    [
        ("1.13.9", "1.13.10", "patch"),
        ("1.13.9", "1.14.0", "minor"),
        ("1.13.9", "2.0.0", "major"),
        ("1.13.9", "1.13.8", "back"),
        ("1.13.9", "1.12.12", "back"),
        ("1.13.9", "1.13.9", "back"),
        ("0.1.0-beta.3", "0.1.0", None),
        ("1.13.9", "1.13.10-rc.0", None),
    ],
)
def test_a_step_is_told_by_its_versions(old: str, new: str, step: str | None) -> None:
    assert moved("siderolabs/talos", old, new).step == step


def moved(package: str, old: str, new: str) -> Moved:
    pin = Pin(package, "github-releases", "", "v{}", new, 0)
    return Moved(LAYERS.get(package, ""), old, pin)


# --- The policy --------------------------------------------------------------------------------


def judged(*changes: Moved, released: str | None = LONG_AGO, others: tuple[str, ...] = ()) -> str:
    when = dt.datetime.fromisoformat(released) if released else None
    dates = {one.new: when for one in changes}
    settings = Updates.model_validate_json(json.dumps(POLICY))
    return "\n".join(policy.against(Change(changes, others), settings, dates, NOW))


def test_a_patch_that_is_old_enough_needs_no_person() -> None:
    assert judged(moved("siderolabs/talos", "1.13.9", "1.13.10")) == ""


def test_a_minor_needs_no_person_where_the_policy_says_so() -> None:
    assert judged(moved("cert-manager", "1.21.2", "1.22.0")) == ""


@pytest.mark.parametrize(
    ("package", "old", "new", "why"),
    [
        (
            "siderolabs/talos",
            "1.13.9",
            "1.14.0",
            "a minor step, and platform:updates.talos = patch",
        ),
        ("cilium", "1.19.7", "1.19.8", "a patch step, and platform:updates.cilium = off"),
        ("siderolabs/talos", "1.13.9", "1.13.8", "an older version"),
        ("cert-manager", "1.21.2", "2.0.0", "a major step"),
        ("kubernetes/kube-state-metrics", "2.17.0", "2.17.1", "no layer"),
        ("siderolabs/talos", "1.13.9", "1.13.10-rc.1", "no step between exact versions"),
    ],
)
def test_a_step_outside_the_policy_needs_a_person(
    package: str, old: str, new: str, why: str
) -> None:
    assert why in judged(moved(package, old, new))


def test_a_release_that_is_too_young_waits() -> None:
    one = moved("siderolabs/talos", "1.13.9", "1.13.10")
    assert "3 days old, and platform:updates.minimumAgeDays = 5" in judged(
        one, released="2026-11-25T12:00:00Z"
    )
    assert "0 days old" in judged(one, released="2026-12-25T12:00:00Z")


def test_a_release_of_unknown_age_needs_a_person() -> None:
    one = moved("siderolabs/talos", "1.13.9", "1.13.10")
    assert "nobody could say when it was released" in judged(one, released=None)


def test_what_moves_no_version_or_more_than_versions_needs_a_person() -> None:
    assert "no pinned version" in judged()
    one = moved("siderolabs/talos", "1.13.9", "1.13.10")
    assert "more than pinned versions: Makefile" in judged(one, others=("Makefile",))


def needs_a_person(**review: Any) -> list[str]:
    return list(policy.against_effect(policy.Reviewed.model_validate(reviewed(**review))))


@pytest.mark.parametrize("verdict", Verdict)
def test_only_a_verdict_that_harms_nothing_needs_no_person(verdict: Verdict) -> None:
    words = needs_a_person(verdict=verdict.words)
    assert (words == []) == (verdict.words in {"safe", "restarts workloads", "reboots machines"})


def test_a_quorum_that_is_lost_and_a_refusal_need_a_person() -> None:
    quorum = "quorum IS LOST while it is down: node01"
    assert any(
        "IS LOST" in one for one in needs_a_person(verdict="reboots machines", quorum=quorum)
    )
    assert needs_a_person(errors=["x"])
    assert needs_a_person(forbidden=["x"])


# --- The window --------------------------------------------------------------------------------


def opening(**over: Any) -> Window:
    return Window.model_validate_json(json.dumps({**WINDOW, **over}))


@pytest.mark.parametrize(
    ("when", "is_open"),
    [
        ("2026-11-28T21:59:59+00:00", False),
        ("2026-11-28T22:00:00+00:00", True),
        ("2026-11-29T03:59:59+00:00", True),  # the Sunday after, past midnight
        ("2026-11-29T04:00:00+00:00", False),
        ("2026-11-29T22:30:00+00:00", False),
        ("2026-11-28T03:00:00+00:00", False),  # the night from Friday
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_opens(
    when: str,
    is_open: bool,  # noqa: FBT001 a case's
) -> None:
    assert window.is_open(opening(), dt.datetime.fromisoformat(when)) is is_open


def test_a_window_is_told_by_the_clock_of_its_own_zone() -> None:
    berlin = opening(zone="Europe/Berlin")
    assert window.is_open(berlin, dt.datetime(2026, 11, 28, 21, 30, tzinfo=dt.UTC))
    assert not window.is_open(berlin, dt.datetime(2026, 7, 18, 19, 30, tzinfo=dt.UTC))
    assert window.is_open(berlin, dt.datetime(2026, 7, 18, 20, 30, tzinfo=dt.UTC))


def test_the_next_opening_is_found_a_week_ahead() -> None:
    after = dt.datetime(2026, 11, 28, 22, 0, tzinfo=dt.UTC)
    assert window.next_opening(opening(), after).isoformat() == "2026-12-05T22:00:00+00:00"


# --- From Renovate's pull request to prod ------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    root = tmp_path / "project"
    (root / RULESET).parent.mkdir(parents=True)
    shutil.copy(ROOT / RULESET, root / RULESET)
    stack, _, rest = STACK_FILE.partition("  platform:updates:\n")
    assert rest, "the production file has no policy any more"
    policy_file = yaml.safe_dump({"platform:updates": POLICY})
    indented = "".join(f"  {line}\n" for line in policy_file.splitlines())
    (root / "Pulumi.prod.yaml").write_text(stack + indented, encoding="utf-8")
    with serving() as state:
        for name, value in environment(state, tmp_path / "output").items():
            monkeypatch.setenv(name, value)
        made = Project(root, state)
        made.begin()
        state.releases["siderolabs/talos/v1.13.10"] = LONG_AGO
        yield made


def stack_file(project: Project) -> str:
    return (project.root / "Pulumi.prod.yaml").read_text(encoding="utf-8")


def comment_on(project: Project, number: int) -> str:
    (one,) = project.github.comments[number]
    text: str = one["body"]
    return text


def test_the_stack_file_of_these_tests_is_a_good_one(project: Project) -> None:
    found = config.load_file(project.root / "Pulumi.prod.yaml").updates
    assert found.steps == {"talos": "patch", "kubernetes": "patch", "certManager": "minor"}


def test_a_patch_release_is_merged_and_due(project: Project) -> None:
    number = project.propose(talos("1.13.10", stack_file(project)))
    assert project.update("merge") == 0
    assert project.github.pulls[0]["state"] == "closed"
    code, due = project.due()
    assert code == 0
    assert due["moved"] == ["siderolabs/talos 1.13.9 to 1.13.10"]
    assert due["pulls"] == [number]


def test_nothing_is_due_when_the_newest_commit_is_deployed(project: Project) -> None:
    code, due = project.due()
    assert (code, due["moved"], due["against"]) == (NOT_DUE, [], [])


def test_a_minor_release_is_left_with_the_reason_on_its_pull_request(project: Project) -> None:
    project.github.releases["siderolabs/talos/v1.14.0"] = LONG_AGO
    number = project.propose(talos("1.14.0", stack_file(project)))
    assert project.update("merge") == 0
    assert project.github.pulls[0]["state"] == "open"
    assert "a minor step, and platform:updates.talos = patch" in comment_on(project, number)


def test_a_proposal_that_loosens_the_policy_is_judged_by_that_of_the_main_branch(
    project: Project,
) -> None:
    loose = talos("1.13.10", stack_file(project)).replace("talos: patch", "talos: minor")
    number = project.propose(loose)
    assert project.update("merge") == 0
    assert project.github.pulls[0]["state"] == "open"
    assert "more than pinned versions: Pulumi.prod.yaml" in comment_on(project, number)


def test_a_commit_that_came_after_the_clone_holds_no_other_pull_request_back(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.propose(talos("1.13.10", stack_file(project)))
    late = {**project.github.pulls[0], "number": 9, "head": dict(project.github.pulls[0]["head"])}
    late["head"]["sha"] = "1" * 40
    project.github.pulls.insert(0, late)
    assert project.update("merge") == 0
    assert [one["state"] for one in project.github.pulls] == ["open", "closed"]
    assert "its newest commit is not in this clone" in capsys.readouterr().out


@pytest.mark.parametrize("young_first", [True, False])
def test_a_release_that_is_too_young_is_seen_beside_an_older_one_of_its_package(
    project: Project,
    young_first: bool,  # noqa: FBT001 a case's
) -> None:
    project.commit(config__versions=VERSIONS)
    project.git("update-ref", "refs/remotes/origin/main", "main")
    young, old = "1.13.11", "1.13.10"
    project.github.releases[f"siderolabs/talos/v{young}"] = "2026-11-28T08:00:00Z"
    first, second = (young, old) if young_first else (old, young)
    project.git("checkout", "--quiet", "main")
    number = project.propose(talos(first, stack_file(project)))
    project.git("checkout", "--quiet", f"renovate/{number}")
    head = project.commit(config__versions=VERSIONS.replace('"1.13.9"', f'"{second}"'))
    project.git("checkout", "--quiet", "main")
    move_head(project, head)
    assert project.update("merge") == 0
    assert project.github.pulls[0]["state"] == "open"
    assert f"siderolabs/talos 1.13.9 to {young}: 0 days old" in comment_on(project, number)


def test_a_file_that_becomes_executable_needs_a_person(project: Project) -> None:
    number = project.propose(talos("1.13.10", stack_file(project)))
    project.git("checkout", "--quiet", f"renovate/{number}")
    (project.root / RULESET).chmod(0o755)
    head = project.commit()
    project.git("checkout", "--quiet", "main")
    move_head(project, head)
    assert project.update("merge") == 0
    assert f"more than pinned versions: {RULESET}" in comment_on(project, number)


def move_head(project: Project, head: str) -> None:
    """Let the pull request have one more commit, with the same checks and review."""
    pull = project.github.pulls[0]
    old, pull["head"]["sha"] = pull["head"]["sha"], head
    project.github.checks[head] = project.github.checks[old]
    project.review(head, "reboots machines")


def test_the_newest_run_of_a_check_counts_in_whatever_order_they_are_listed(
    project: Project,
) -> None:
    number = project.propose(talos("1.13.10", stack_file(project)))
    runs = next(iter(project.github.checks.values()))
    failed = {**runs[0], "id": 100, "conclusion": "failure"}
    runs.insert(0, failed)
    assert project.update("merge") == 0
    assert f"its check {failed['name']} ended as failure" in comment_on(project, number)


def test_nobody_else_than_renovate_is_merged(project: Project) -> None:
    project.propose(talos("1.13.10", stack_file(project)), author="somebody")
    assert project.update("merge") == 0
    assert project.github.pulls[0]["state"] == "open"
    assert project.github.writes() == []


def test_a_fork_of_renovates_name_is_not_merged(project: Project) -> None:
    project.propose(talos("1.13.10", stack_file(project)))
    project.github.pulls[0]["head"]["repo"] = {"full_name": "somebody/platform"}
    assert project.update("merge") == 0
    assert project.github.writes() == []


@pytest.mark.parametrize("conclusion", ["failure", "cancelled", "timed_out"])
def test_a_failed_check_needs_a_person(project: Project, conclusion: str) -> None:
    number = project.propose(talos("1.13.10", stack_file(project)), checks=conclusion)
    assert project.update("merge") == 0
    assert f"its check tests ended as {conclusion}" in comment_on(project, number)


def test_a_check_that_still_runs_is_waited_for_without_a_comment(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.propose(talos("1.13.10", stack_file(project)), checks="")
    assert project.update("merge") == 0
    assert project.github.writes() == []
    assert "waits\n    its check checks" in capsys.readouterr().out


def test_a_check_of_another_app_with_the_same_name_counts_for_nothing(project: Project) -> None:
    project.propose(talos("1.13.10", stack_file(project)))
    for run in next(iter(project.github.checks.values())):
        run["app"]["id"] = 1
    assert project.update("merge") == 0
    assert project.github.pulls[0]["state"] == "open"


def test_a_review_that_says_more_than_reboots_needs_a_person(project: Project) -> None:
    number = project.propose(talos("1.13.10", stack_file(project)))
    project.review(project.github.pulls[0]["head"]["sha"], "replaces machines")
    assert project.update("merge") == 0
    assert "its review says: replaces machines" in comment_on(project, number)


def test_a_run_without_a_review_needs_a_person(project: Project) -> None:
    number = project.propose(talos("1.13.10", stack_file(project)))
    project.github.artifacts.clear()
    assert project.update("merge") == 0
    assert "its run left no review" in comment_on(project, number)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"verdict": 1}'])
def test_a_review_that_cannot_be_read_needs_a_person_and_holds_no_other_back(
    project: Project, text: str
) -> None:
    number = project.propose(talos("1.13.10", stack_file(project)))
    project.leave_review(project.github.pulls[0]["head"]["sha"], text)
    assert project.update("merge") == 0
    assert "its run left a review that cannot be read" in comment_on(project, number)


def test_an_archive_that_is_none_needs_a_person(project: Project) -> None:
    number = project.propose(talos("1.13.10", stack_file(project)))
    project.github.archives[1] = b"not a zip"
    assert project.update("merge") == 0
    assert "its run left a review that cannot be read" in comment_on(project, number)


def test_an_artifact_whose_run_was_deleted_is_passed_over(project: Project) -> None:
    project.propose(talos("1.13.10", stack_file(project)))
    project.github.artifacts.insert(0, {**project.github.artifacts[0], "workflow_run": None})
    assert project.update("merge") == 0
    assert project.github.pulls[0]["state"] == "closed"


def test_a_refused_approval_names_the_setting(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.propose(talos("1.13.10", stack_file(project)))
    project.github.may_approve = False
    assert project.update("merge") == 0
    assert "Allow GitHub Actions to create and approve" in capsys.readouterr().out


def merged(project: Project) -> None:
    project.propose(talos("1.13.10", stack_file(project)))
    assert project.update("merge") == 0


def test_outside_the_window_nothing_is_due_and_the_next_opening_is_told(project: Project) -> None:
    merged(project)
    code, due = project.due(now=dt.datetime(2026, 11, 30, 12, 0, tzinfo=dt.UTC))
    assert code == NOT_DUE
    assert due["against"] == ["the window opens Saturday 05 December 22:00 UTC"]


def test_a_change_of_a_persons_that_is_not_deployed_yet_holds_the_update_back(
    project: Project,
) -> None:
    project.commit(**{"Pulumi.prod.yaml": stack_file(project).replace("cpus: 4", "cpus: 6")})
    project.git("update-ref", "refs/remotes/origin/main", "main")
    merged(project)
    code, due = project.due()
    assert code == NOT_DUE
    assert due["against"] == ["it changes more than pinned versions: Pulumi.prod.yaml"]


def test_a_failed_deployment_does_not_count_as_deployed(project: Project) -> None:
    merged(project)
    project.deployed(project.git("rev-parse", "main"), "failure", "prod-updates")
    assert project.due()[0] == 0


def test_a_deployment_by_itself_counts_as_deployed(project: Project) -> None:
    merged(project)
    project.deployed(project.git("rev-parse", "main"), "success", "prod-updates")
    code, due = project.due()
    assert (code, due["against"]) == (NOT_DUE, [])


def test_a_deployment_that_waits_for_its_approval_is_not_displaced(project: Project) -> None:
    merged(project)
    project.github.runs.append(
        {
            "status": "waiting",
            "path": ".github/workflows/deploy.yaml",
            "html_url": "https://github.test/runs/1",
        }
    )
    code, due = project.due()
    assert code == NOT_DUE
    assert due["against"] == ["a deployment is waiting: https://github.test/runs/1"]


@pytest.mark.parametrize(("verdict", "code"), [("reboots machines", 0), ("loses data", NOT_DUE)])
def test_the_plans_own_review_decides_at_last(project: Project, verdict: str, code: int) -> None:
    merged(project)
    path = project.root.parent / "preview-review.json"
    path.write_text(json.dumps(reviewed(verdict=verdict)))
    assert project.due("--review", str(path))[0] == code


def test_a_deployment_that_begins_after_the_window_is_refused_without_a_token(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It may wait for hours, for a runner or for another deployment."""
    monkeypatch.delenv("GITHUB_TOKEN")
    assert project.update("open") == 0
    assert project.update("open", now=NOW + dt.timedelta(hours=5)) == CLOSED
    said = "not deployed now, and nothing was changed: the window opens Saturday"
    assert said in capsys.readouterr().out
    assert (tmp_path / "output").read_text() == "closed=false\nclosed=true\n"


def test_a_failed_deployment_stops_the_updates_for_everybody(project: Project) -> None:
    merged(project)
    project.due()
    log = project.root.parent / "up.log"
    log.write_text("error: node01: Talos 1.13.10 did not start, and it went back to 1.13.9\n")
    due = str(project.root.parent / "due.json")
    assert project.update("note", "--due", due, "--result", "failure", "--log", str(log)) == 0
    (issue,) = project.github.issues
    assert issue["title"] == "Updates are stopped"
    assert "node01: Talos 1.13.10 did not start" in issue["body"]
    assert "(#1)" in issue["body"]

    project.github.releases["siderolabs/talos/v1.13.11"] = LONG_AGO
    number = project.propose(talos("1.13.11", stack_file(project).replace("1.13.10", "1.13.9")))
    assert project.update("merge") == 0
    assert "updates are stopped: https://github.test/" in comment_on(project, number)
    assert project.due()[0] == NOT_DUE


def test_a_deployment_is_noted_on_its_pull_request(project: Project) -> None:
    merged(project)
    project.due()
    due = str(project.root.parent / "due.json")
    assert project.update("note", "--due", due, "--result", "success") == 0
    text = comment_on(project, 1)
    assert text.startswith(MARKER)
    assert "Deployed without a person: siderolabs/talos 1.13.9 to 1.13.10" in text


def test_what_is_due_is_given_to_the_workflows_next_jobs(project: Project, tmp_path: Path) -> None:
    project.due()
    merged(project)
    project.due()
    assert (tmp_path / "output").read_text() == "due=false\ndue=true\n"


def test_a_clone_without_its_history_says_what_it_needs(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.deployed("0" * 40)
    assert project.update("due") == 1
    assert "fetch-depth: 0" in capsys.readouterr().err
