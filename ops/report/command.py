"""`python -m ops report`: posts what a run found. The Makefile calls it, workflows call make."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ops.report import reports
from ops.report.api import GitHub, variable
from ops.report.reports import Issue
from ops.report.text import ReportError, fit, read

REVIEW = "<!-- platform-review -->"
DRIFT = "<!-- platform-drift -->"
DRIFT_ISSUE = Issue("Drift: the platform is not as its stack says", "drift", DRIFT)
NO_DRIFT, FOUND_DRIFT = 0, 3
"""Exit codes of `python -m ops drift`; any other means that it could not look."""
SUMMARY_LIMIT = 1024 * 1024
"""GitHub's limit of a step's summary, in bytes."""
WHY_NO_PREVIEW = {
    "fork": "this pull request comes from a fork, and a fork gets no credentials",
    "skipped": "it is not set up (`PROD_PREVIEW`, docs/workflows.md)",
    "failure": "**it failed**; its log says why",
    "cancelled": "it was cancelled",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code."""
    options = parser().parse_args(arguments)
    try:
        match options.command:
            case "summary":
                summary(options.files)
            case "pull-request":
                pull_request(options.lab, options.prod)
            case _:
                drift(options.report, options.code)
    except ReportError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def summary(files: Sequence[Path]) -> None:
    """Append reports to the job's summary, which everybody sees who sees the repository."""
    texts = []
    for path in files:
        if not path.exists():
            raise ReportError(f"{path}: there is no such report; the step that writes it failed")
        texts.append(path.read_text(encoding="utf-8").strip())
    _append_to_summary("\n\n".join(texts))


def _append_to_summary(text: str) -> None:
    # A character has up to four bytes.
    limit = SUMMARY_LIMIT // 4
    with Path(variable("GITHUB_STEP_SUMMARY")).open("a", encoding="utf-8") as stream:
        stream.write(fit(text, run_url(), limit) + "\n")


def pull_request(lab: Path, prod: Path) -> None:
    """Post the one comment: the review of prod's preview, or the lab's when there is none.

    The result of the preview's job is in PREVIEW_RESULT, whether it is a fork in FROM_FORK.
    """
    fork = os.environ.get("FROM_FORK") == "true"
    if prod.exists():
        text, note = read(prod, REVIEW), "Reviewed: what would happen to prod."
    else:
        result = os.environ.get("PREVIEW_RESULT", "")
        why = WHY_NO_PREVIEW.get(
            "fork" if fork else result, f"its job ended as {result or 'nothing'}"
        )
        text = read(lab, REVIEW)
        note = f"Reviewed: what would happen to the lab's copy of prod. No preview of prod: {why}."
    text = f"{text}\n\n<sub>{note} [Run]({run_url()})</sub>"
    _append_to_summary(text)
    if fork:
        print("a fork's token may not comment: the report is in the job's summary only")
        return
    number = variable("PULL_REQUEST")
    if not number.isdecimal():
        raise ReportError(f"PULL_REQUEST is {number!r}, not the number of a pull request")
    github = GitHub.from_environment()
    print(reports.comment(github, int(number), REVIEW, text, run_url()))


def drift(report: Path, code_file: Path) -> None:
    """Open, update or close the one issue, by the exit code that the drift run left in a file."""
    code = _exit_code(code_file)
    if code not in (NO_DRIFT, FOUND_DRIFT):
        raise ReportError(
            f"the drift run could not look (exit code {code}): the issue stays as it is; "
            "fix what the run's log names"
        )
    github = GitHub.from_environment()
    if code == NO_DRIFT:
        reason = f"No drift any more: {run_url()}."
        closed = reports.close_issues(github, DRIFT_ISSUE, reason)
        print("\n".join(closed) or "no drift, and no issue to close")
        return
    text = read(report, DRIFT)
    note = f"Each run updates this issue, and closes it when there is no drift. Run: {run_url()}"
    text = f"{text}\n\n<sub>{note}</sub>"
    print(reports.open_issue(github, DRIFT_ISSUE, text, run_url()))


def _exit_code(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"{path}: there is none; run `make drift-report` first") from None
    except ValueError:
        raise ReportError(f"{path}: not an exit code; run `make drift-report` again") from None


def run_url() -> str:
    """Give the address of the workflow's run, or say that there is none."""
    parts = [
        os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")
    ]
    if not all(parts):
        return "in .lab/out of the run"
    server, repository, run = parts
    return f"{server}/{repository}/actions/runs/{run}"


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(prog="python -m ops report", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True)
    one = commands.add_parser("summary", help="append files to the job's summary")
    one.add_argument("files", type=Path, nargs="+", metavar="FILE")
    one = commands.add_parser("pull-request", help="make or update the one comment")
    one.add_argument("--lab", type=Path, required=True, help="the review in the lab")
    one.add_argument(
        "--prod", type=Path, required=True, help="the review of prod's preview; may be missing"
    )
    one = commands.add_parser("drift", help="open, update or close the one issue")
    one.add_argument("--report", type=Path, required=True)
    one.add_argument("--code", type=Path, required=True, help="file with the drift run's exit code")
    return made
