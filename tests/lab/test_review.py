"""The review of real previews: every change of tests/fixtures/reviews on the whole platform."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from rehearsal.world import PROJECT, World
from render import packages
from review.markdown import markdown
from review.preview import Preview
from review.review import Review, review
from tests.lab.secret_values import secret_values

WITH_SERVICES = True
CHANGES = sorted((PROJECT / "tests" / "fixtures" / "reviews").glob("*.yaml"))
TODAY = dt.datetime.now(tz=dt.UTC).date()
NEXT_MAJOR = "4.0.0"
KEEP = os.environ.get("REVIEWS_TO")
"""A folder to keep the comments in, for whoever wants to look at them."""


class Edit(BaseModel):
    """An edit of the stack file: a text for another, or lines taken out."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    old: str | None = Field(default=None, alias="from")
    new: str = Field(default="", alias="to")
    everywhere: bool = Field(default=False, alias="all")
    line: str | None = None
    until: str | None = None

    def apply(self, text: str) -> str:
        if self.line is not None:
            return self._without_lines(text)
        assert self.old is not None
        assert self.old in text
        return text.replace(self.old, self.new, -1 if self.everywhere else 1)

    def _without_lines(self, text: str) -> str:
        lines = text.splitlines(keepends=True)
        begin = next(n for n, one in enumerate(lines) if self.line and self.line in one)
        end = begin + 1
        if self.until:
            end = next(n for n, one in enumerate(lines) if self.until in one and n > begin)
        return "".join(lines[:begin] + lines[end:])


class Expected(BaseModel):
    """What the review must say."""

    model_config = ConfigDict(extra="forbid")

    verdict: str
    says: str
    touches: list[str] = []
    quorum: str = ""
    configuration: list[str] = []
    charts: str = ""
    watch: str = ""


class Case(BaseModel):
    """One fixture."""

    model_config = ConfigDict(extra="forbid")

    what: str
    edits: list[Edit] = []
    patches: dict[str, dict[str, Any]] = {}
    """Files of Talos patches, and what is merged into them."""
    files: dict[str, list[Edit]] = {}
    """Files of the program, and their edits."""
    expect: Expected


def merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: merged(old.get(key), one) for key, one in new.items()}
    return new


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a next major version of a chart out of its stand-in, in a folder for LAB_CHARTS."""
    folder = tmp_path_factory.mktemp("charts")
    for package in packages.CACHE.glob("*.tgz"):
        shutil.copy(package, folder)
    chart = folder / "metrics-server"
    shutil.copytree(PROJECT / "lab" / "charts" / "metrics-server", chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": NEXT_MAJOR}))
    (chart / "templates" / "new-in-the-major-version.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: new-in-the-major-version }\n"
    )
    with tarfile.open(folder / f"metrics-server-{NEXT_MAJOR}.tgz", "w:gz") as archive:
        archive.add(chart, "metrics-server")
    shutil.rmtree(chart)
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the program, for changes of its files."""
    folder = tmp_path_factory.mktemp("program")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=PROJECT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in listed.split("\0"):
        if name and not name.startswith(("lab/", "tests/")) and (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    for name in (".venv", ".lab"):
        (folder / name).symlink_to(PROJECT / name)
    return folder


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World], charts: Path) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CHARTS", str(charts))
        world = make_world()
    world.up()
    return world


@pytest.fixture(scope="module")
def secrets(world: World) -> set[str]:
    return secret_values(world)


def reviewed(world: World, case: Case, tree: Path, before: str) -> tuple[Review, str]:
    """Make the change, preview, review; stack file and files are as before then."""
    text = before
    for edit in case.edits:
        text = edit.apply(text)
    written = {tree / name: (tree / name).read_text() for name in (*case.patches, *case.files)}
    world.stack_file.write_text(text)
    for name, patch in case.patches.items():
        (tree / name).write_text(
            yaml.safe_dump(merged(yaml.safe_load(written[tree / name]), patch))
        )
    for name, edits in case.files.items():
        for edit in edits:
            (tree / name).write_text(edit.apply((tree / name).read_text()))
    try:
        result = world.run(
            "pulumi", "--cwd", str(tree), "preview", "--json", "--show-sames", "--non-interactive",
            code=None,
        )  # fmt: skip
    finally:
        world.stack_file.write_text(before)
        for file, content in written.items():
            file.write_text(content)
    return review(Preview.of(result.stdout), TODAY), result.stdout + result.stderr


@pytest.mark.parametrize("file", CHANGES, ids=lambda one: one.stem)
def test_a_change_has_its_verdict(  # noqa: PLR0913, PLR0917 fixtures
    world: World,
    tree: Path,
    charts: Path,
    secrets: set[str],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "CACHE", charts)
    case = Case.model_validate(yaml.safe_load(file.read_text()))
    found, output = reviewed(world, case, tree, world.stack_file.read_text())
    comment, expect = markdown(found), case.expect
    if KEEP:
        Path(KEEP, f"{file.stem}.md").write_text(comment)
    assert found.verdict == expect.verdict, comment
    assert expect.says in comment, comment
    assert expect.quorum in found.quorum
    if expect.touches:
        rows = " ".join(one.who for one in found.rows)
        folded = " ".join(one.machines for one in found.configuration)
        assert all(named(name, f"{rows} {folded}") for name in expect.touches), comment
    for part in expect.configuration:
        assert any(part in one.machines or part in one.after for one in found.configuration)
    if expect.charts:
        assert expect.charts in str(found.charts)
    assert expect.watch in " ".join(found.watch)
    written = found.model_dump_json()
    assert [one for one in secrets if one in comment or one in written or one in output] == []


def named(name: str, text: str) -> bool:
    """Say whether a text names a machine, in a range (`node01-03`) too."""
    if name in text:
        return True
    number = int(name[-2:])
    return any(
        one.startswith("node") and "-" in one and int(one[4:6]) <= number <= int(one[7:9])
        for one in text.replace(",", " ").split()
    )
