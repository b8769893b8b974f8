"""The pages of docs/procedures keep to their convention, and the convention refuses bad pages."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.versions import KUBERNETES, TALOS
from ops.rehearsal.procedures import (
    FOLDER,
    INDEX,
    Command,
    Edit,
    Procedure,
    ProcedureError,
    Start,
    apply,
    edited,
    next_patch,
    ordered,
    read,
    read_all,
    with_pinned_versions,
)
from ops.rehearsal.world import PROJECT

BAD = PROJECT / "tests" / "fixtures" / "procedures"
LINK = re.compile(r"\[[^\]]+\]\((?P<target>[^)\s]+)\)")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (
            "unknown-kind",
            r"unknown-kind\.md:5: a block of the kind `bash`; .* sh, sh tree, lab, diff",
        ),
        ("no-kind", r"no-kind\.md:5: a block of the kind ``"),
        ("no-command", r"no-command\.md: has no command to run; .*`Not built yet`"),
        ("not-built-but-run", r"not-built-but-run\.md: says `Not built yet`, and has steps"),
        (
            "rehearsed-but-run",
            r"rehearsed-but-run\.md: says `Rehearsed by a test`, and has steps",
        ),
        ("no-start", r"no-start\.md: has 0 lines as `Rehearsed on: .*an empty site"),
        ("unknown-start", r"unknown-start\.md: has 0 lines as `Rehearsed on:"),
        ("bad-pattern", r"bad-pattern\.md:7: '\(created' is not a regular expression"),
        ("expectation-of-nothing", r"nothing\.md:6: an expectation without a command above"),
        ("fails-and-until", r"fails-and-until\.md:8: `fails` and `until` for the same command"),
        ("open-block", r"open-block\.md:5: the block has no end"),
        ("unfinished-line", r"unfinished-line\.md:5: the last line of the block goes on"),
    ],
)
def test_a_page_that_breaks_the_convention_is_refused_with_its_place(
    page: str, message: str
) -> None:
    with pytest.raises(ProcedureError, match=message):
        read(BAD / f"{page}.md")


def test_a_good_page_gives_its_steps_in_order() -> None:
    page = read(BAD / "good.md")
    assert (page.start, page.after) == (Start.MACHINES, "edit-of-another-file.md")
    assert [one.text for one in page.commands] == [
        "govc vm.destroy node02",
        "pulumi refresh",
        "talosctl -n 172.16.20.51 \\\n  etcd members",
        "kubectl get --raw /readyz",
        "pulumi up",
        "python -m ops render renew",
    ]
    assert [one.text for one in page.commands if one.writes] == ["python -m ops render renew"]
    ends = [(one.fails, one.until) for one in page.commands]
    assert ends == [(False, False)] * 3 + [(False, True), (True, False), (False, False)]
    expected = [[one.pattern for one in command.expected] for command in page.commands]
    assert expected == [[], [], ["node01", "node03"], ["ok"], ["locked"], []]


def test_an_edit_that_does_not_apply_is_refused_with_its_place(tmp_path: Path) -> None:
    (edit,) = (one for one in read(BAD / "edit-of-another-file.md").steps if isinstance(one, Edit))
    repository = fresh(tmp_path, edited(edit))
    message = r"edit-of-another-file\.md:5: the edit does not apply: .*Pulumi\.prod\.yaml"
    with pytest.raises(ProcedureError, match=message):
        apply(edit, repository)


def page(name: str, after: str | None = None, start: Start = Start.MACHINES) -> Procedure:
    return Procedure(Path(f"{name}.md"), start, after, (Command("true", f"{name}.md:1"),))


def order(*pages: Procedure) -> list[str]:
    return [one.name for one in ordered({one.path.name: one for one in pages})]


def test_a_page_comes_directly_after_the_one_that_it_goes_on_from() -> None:
    assert order(page("a", "c.md"), page("b"), page("c")) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ([page("a", "gone.md")], r"a\.md: goes on from gone\.md, which has no such start"),
        ([page("a", "b.md"), page("b", None, Start.PLATFORM)], "which has no such start"),
        ([page("a", "c.md"), page("b", "c.md"), page("c")], "both go on from c.md; only one"),
        ([page("a", "b.md"), page("b", "a.md")], "in a circle"),
    ],
    ids=["no such page", "of another start", "two", "circle"],
)
def test_pages_that_cannot_be_brought_into_an_order_are_refused(
    pages: list[Procedure], message: str
) -> None:
    with pytest.raises(ProcedureError, match=message):
        order(*pages)


def fresh(folder: Path, files: set[str]) -> Path:
    """Make a repository of these files of the project."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    subprocess.run(["git", "init", "--quiet", folder], check=True)  # noqa: S607 the operator's own
    return folder


def rows() -> Iterator[list[Procedure]]:
    """Give the pages that go on from each other, together."""
    row: list[Procedure] = []
    for one in read_all():
        if one.after is None and row:
            yield row
            row = []
        row.append(one)
    yield row


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row[-1].name)
def test_every_edit_applies_to_the_production_file_and_is_taken_back(
    tmp_path: Path, row: list[Procedure]
) -> None:
    edits = [step for one in row for step in one.steps if isinstance(step, Edit)]
    files = {name for one in edits for name in edited(one)}
    assert bool(files) is bool(edits)
    repository = fresh(tmp_path, files)
    for edit in edits:
        apply(edit, repository)
    for name in files:
        assert (repository / name).read_text() == (PROJECT / name).read_text()


@pytest.mark.parametrize(
    ("start", "name"), [(Start.EMPTY, "first-install"), (Start.EMPTY_OMNI, "omni")]
)
def test_one_page_begins_with_an_empty_site(start: Start, name: str) -> None:
    assert [one.name for one in read_all() if one.start is start] == [name]


@pytest.mark.parametrize(
    ("start", "first"),
    [(Start.PLATFORM, Start.EMPTY), (Start.OMNI, Start.EMPTY_OMNI), (Start.MACHINES, None)],
)
def test_a_platform_is_built_by_the_page_of_its_empty_site(
    start: Start, first: Start | None
) -> None:
    assert start.first is (first or start)


def test_a_page_may_be_written_with_the_versions_of_several_programs() -> None:
    page = (
        "Versions on this page: Talos 1.0.1, then 1.0.2.\n"
        "Versions on this page: Kubernetes 1.2.3, then 1.2.4.\n"
        "from 1.0.1 to 1.0.2, with 1.2.3\n"
    )
    text = with_pinned_versions(page).splitlines()[-1]
    assert text == f"from {TALOS} to {next_patch(TALOS)}, with {KUBERNETES}"


def test_the_index_names_every_page() -> None:
    named = set(LINK.findall((FOLDER / INDEX).read_text()))
    assert {one.path.name for one in read_all()} <= named
