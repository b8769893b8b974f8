"""One comment and one issue, made once and then updated, on a simulated GitHub on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.report.command import DRIFT, REVIEW, main
from ops.report.text import LIMIT, fit
from tests.unit.fake_github import REPOSITORY, TOKEN, State, serving

PULL_REQUEST = 7


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[State]:
    with serving() as state:
        for name, value in {
            "GITHUB_API_URL": state.url,
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_TOKEN": TOKEN,
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
            "GITHUB_SERVER_URL": "https://github.test",
            "GITHUB_RUN_ID": "4242",
            "PULL_REQUEST": str(PULL_REQUEST),
            "PREVIEW_RESULT": "success",
            "FROM_FORK": "false",
        }.items():
            monkeypatch.setenv(name, value)
        yield state


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return report(tmp_path / "review.md", REVIEW, "## Safe\n\nin the lab")


def report(path: Path, marker: str, text: str) -> Path:
    path.write_text(f"{marker}\n{text}\n", encoding="utf-8")
    return path


def post(lab: Path, prod: Path | None = None) -> int:
    missing = lab.parent / "no-such-preview.md"
    return main(["pull-request", "--lab", str(lab), "--prod", str(prod or missing)])


def drift(path: Path, code: object) -> int:
    file = path.parent / "drift.code"
    file.write_text(f"{code}\n")
    return main(["drift", "--report", str(path), "--code", str(file)])


def body(state: State) -> str:
    (one,) = state.comments[PULL_REQUEST]
    text: str = one["body"]
    return text


def test_the_first_run_makes_the_comment_and_the_next_updates_it(github: State, lab: Path) -> None:
    assert post(lab) == 0
    report(lab, REVIEW, "## Reboots machines")
    assert post(lab) == 0
    assert "## Reboots machines" in body(github)
    assert github.writes() == [
        f"POST /repos/{REPOSITORY}/issues/{PULL_REQUEST}/comments",
        f"PATCH /repos/{REPOSITORY}/issues/comments/1",
    ]


def test_a_comment_that_says_the_same_is_left_alone(github: State, lab: Path) -> None:
    assert post(lab) == post(lab) == 0
    assert len(github.writes()) == 1


def test_the_comment_is_found_on_a_later_page(github: State, lab: Path) -> None:
    for number in range(150):
        github.comment(PULL_REQUEST, f"talk {number}", "somebody")
    mine = github.comment(PULL_REQUEST, f"{REVIEW}\nold")
    assert post(lab) == 0
    assert "in the lab" in mine["body"]
    assert len(github.comments[PULL_REQUEST]) == 151


@pytest.mark.parametrize(
    ("text", "author"),
    [
        (f"{REVIEW}\na copy", "somebody"),
        (f"> {REVIEW}\nquoted", "github-actions[bot]"),
        (f"see {REVIEW}", "github-actions[bot]"),
    ],
)
def test_what_only_looks_like_our_comment_is_never_written_over(
    github: State, lab: Path, text: str, author: str
) -> None:
    theirs = github.comment(PULL_REQUEST, text, author)
    assert post(lab) == 0
    assert theirs["body"] == text
    assert len(github.comments[PULL_REQUEST]) == 2


def test_the_preview_of_prod_is_what_the_comment_shows_when_there_is_one(
    github: State, lab: Path, tmp_path: Path
) -> None:
    prod = report(tmp_path / "preview.md", REVIEW, "## Safe\n\nin prod")
    assert post(lab, prod) == 0
    assert "in prod" in body(github)
    assert "in the lab" not in body(github)
    assert "what would happen to prod." in body(github)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("skipped", "it is not set up (`PROD_PREVIEW`, docs/workflows.md)"),
        ("failure", "**it failed**; its log says why"),
        ("cancelled", "it was cancelled"),
        ("", "its job ended as nothing"),
    ],
)
def test_a_preview_that_is_missing_is_said_with_its_reason(
    github: State, lab: Path, monkeypatch: pytest.MonkeyPatch, result: str, said: str
) -> None:
    monkeypatch.setenv("PREVIEW_RESULT", result)
    assert post(lab) == 0
    assert f"No preview of prod: {said}." in body(github)


def test_a_fork_gets_the_report_in_the_summary_and_nothing_is_written(
    github: State, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_FORK", "true")
    monkeypatch.setenv("PREVIEW_RESULT", "skipped")
    assert post(lab) == 0
    summary = (tmp_path / "summary.md").read_text()
    assert "in the lab" in summary
    assert "this pull request comes from a fork, and a fork gets no credentials" in summary
    assert github.asked == []


def test_a_text_over_githubs_limit_is_cut_and_says_so(github: State, lab: Path) -> None:
    lines = "\n".join(f"line {number}" for number in range(20_000))
    report(lab, REVIEW, f"<details>\n<summary>all</summary>\n\n```diff\n{lines}\n```\n</details>")
    assert post(lab) == 0
    text = body(github)
    assert len(text) <= LIMIT
    assert "**Cut here**: " in text
    assert "The whole text: https://github.test/example/platform/actions/runs/4242" in text
    kept = text.splitlines()
    assert kept.count("```") == kept.count("```diff") == 1
    assert kept.count("<details>") == kept.count("</details>") == 1


def test_a_cut_counts_every_line_that_it_leaves_out() -> None:
    text = "\n".join(f"{number:04}" for number in range(1000))
    cut = fit(text, "elsewhere", 1000)
    shown = [line for line in cut.splitlines() if line.isdecimal()]
    assert f"{1000 - len(shown)} of 1000 lines are left out" in cut
    assert shown == text.splitlines()[: len(shown)]
    assert len(cut) <= 1000
    assert fit(text, "elsewhere", len(text)) == text


def test_a_single_line_over_the_limit_is_left_out(github: State, lab: Path) -> None:
    report(lab, REVIEW, "x" * 70_000)
    assert post(lab) == 0
    assert "lines are left out" in body(github)


def test_drift_opens_one_issue_then_updates_it_then_closes_it(
    github: State, tmp_path: Path
) -> None:
    path = report(tmp_path / "drift.md", DRIFT, "node03: 8 CPUs")
    assert drift(path, 3) == 0
    report(path, DRIFT, "node02: 8 CPUs")
    assert drift(path, 3) == 0
    (issue,) = github.issues
    assert "node02: 8 CPUs" in issue["body"]
    assert "node03" not in issue["body"]
    assert [one["name"] for one in issue["labels"]] == ["drift"]
    assert drift(path, 0) == 0
    assert issue["state"] == "closed"
    assert "No drift any more" in github.comments[issue["number"]][0]["body"]
    asked = len(github.writes())
    assert drift(path, 0) == 0
    assert len(github.writes()) == asked
    # Drift after that is another story, in an issue of its own.
    assert drift(path, 3) == 0
    assert [one["state"] for one in github.issues] == ["closed", "open"]


def test_an_issue_of_somebody_else_and_a_pull_request_are_left_alone(
    github: State, tmp_path: Path
) -> None:
    theirs = github.issue(f"{DRIFT}\ncopied", ["drift"], "somebody")
    pull = github.issue(f"{DRIFT}\nours", ["drift"], pull_request={"url": "x"})
    assert drift(report(tmp_path / "drift.md", DRIFT, "x"), 0) == 0
    assert theirs["state"] == pull["state"] == "open"


@pytest.mark.parametrize("code", [1, 2, "nothing"])
def test_a_drift_run_that_could_not_look_leaves_the_issue_and_fails(
    github: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: object
) -> None:
    assert drift(report(tmp_path / "drift.md", DRIFT, "x"), code) == 1
    assert github.writes() == []
    assert "exit code" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["GITHUB_TOKEN", "GITHUB_REPOSITORY", "GITHUB_API_URL", "PULL_REQUEST"]
)
def test_a_missing_variable_is_named_with_its_fix(
    github: State,
    lab: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.delenv(name)
    assert post(lab) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{name} is not set: ")
    assert len(said) > len(f"{name} is not set: ") + 10
    assert github.writes() == []


@pytest.mark.parametrize(
    "url", ["http://api.github.test", "http://127.0.0.1.example:80", "ftp://x"]
)
def test_the_token_goes_over_https_only(
    github: State,
    lab: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    url: str,
) -> None:
    monkeypatch.setenv("GITHUB_API_URL", url)
    assert post(lab) == 1
    assert "the token goes over https only" in capsys.readouterr().err
    assert github.asked == []


def test_the_token_is_not_sent_to_where_a_redirection_leads(github: State, lab: Path) -> None:
    with serving() as other:
        github.redirect_to = f"{other.url}/repos/{REPOSITORY}/issues/{PULL_REQUEST}/comments"
        assert post(lab) == 1
        # It was asked, and answered as to somebody without a token.
        assert len(other.asked) == 1
        assert other.comments == {}


def test_a_next_page_at_another_host_is_not_followed(
    github: State, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(101):
        github.comment(PULL_REQUEST, f"talk {number}", "somebody")
    with serving() as other:
        github.next_page_at = other.url
        assert post(lab) == 1
        assert other.asked == []
    assert "not followed" in capsys.readouterr().err


def test_a_token_that_may_not_write_is_told_which_permission_it_lacks(
    github: State, lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    github.refuse_writes = True
    assert post(lab) == 1
    assert "permissions: pull-requests: write" in capsys.readouterr().err
    assert drift(report(tmp_path / "drift.md", DRIFT, "x"), 3) == 1
    said = capsys.readouterr().err
    assert "permissions: issues: write" in said
    assert TOKEN not in said


def test_a_wrong_token_is_never_printed(
    github: State,
    lab: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "expired-token-of-the-test")
    assert post(lab) == 1
    printed = "".join(capsys.readouterr())
    assert "401" in printed
    assert "Bad credentials" in printed
    assert "expired-token-of-the-test" not in printed
    assert github.writes() == []


def test_a_report_that_is_missing_or_of_another_kind_is_refused(
    github: State, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(lab, DRIFT, "x")
    assert post(lab) == 1
    assert f"its first line is not {REVIEW}" in capsys.readouterr().err
    lab.unlink()
    assert post(lab) == 1
    assert "there is no such report" in capsys.readouterr().err
    assert github.asked == []


def test_a_summary_takes_several_reports(github: State, lab: Path, tmp_path: Path) -> None:
    other = tmp_path / "more.md"
    other.write_text("more of it")
    assert main(["summary", str(lab), str(other)]) == 0
    summary = (tmp_path / "summary.md").read_text()
    assert summary.index("in the lab") < summary.index("more of it")
    assert main(["summary", str(tmp_path / "none.md")]) == 1
    assert github.asked == []
