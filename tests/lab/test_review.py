"""The review of real previews: every change of tests/fixtures/reviews on the whole platform."""

from __future__ import annotations

import datetime as dt
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ConfigDict

from ops.engine.preview import Preview
from ops.rehearsal import repository
from ops.rehearsal.world import PROJECT, World
from ops.render import packages, rendering
from ops.review.markdown import markdown
from ops.review.review import Review, review
from tests.edits import Edit
from tests.lab.conftest import WORLDS
from tests.lab.secret_values import secret_values
from tests.secret_search import found_in

CHANGES = sorted((PROJECT / "tests" / "fixtures" / "reviews").glob("*.yaml"))
TODAY = dt.datetime.now(tz=dt.UTC).date()
NEXT_MAJOR = "4.0.0"
KEEP = os.environ.get("REVIEWS_TO")
"""A folder to keep the comments in, for whoever wants to look at them."""


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
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the program, for changes of its files; a chart's next major version is served too."""
    tree = repository.copy(WORLDS / "review.repository")
    folder = tmp_path_factory.mktemp("chart")
    (package,) = (PROJECT / ".lab" / "bin" / "charts").glob("metrics-server-*.tgz")
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    chart = folder / "metrics-server"
    (chart / "templates" / "new-in-the-major-version.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: new-in-the-major-version }\n"
    )
    repository.serve_chart(tree, chart, NEXT_MAJOR)
    return tree


@pytest.fixture(scope="module")
def world(tree: Path) -> Iterator[World]:
    world = World(WORLDS / "review", tree / "Pulumi.prod.yaml", project=tree).start()
    world.up()
    yield world
    world.stop()


@pytest.fixture(scope="module")
def secrets(world: World) -> dict[str, str]:
    return secret_values(world)


def reviewed(world: World, case: Case) -> tuple[Review, str]:
    """Make the change, preview, review; all files are as before then."""
    stack_file = world.stack_file
    files = [stack_file, *(world.project / name for name in (*case.patches, *case.files))]
    before = {file: file.read_text() for file in files}
    text = before[stack_file]
    for edit in case.edits:
        text = edit.apply(text)
    stack_file.write_text(text)
    for name, patch in case.patches.items():
        file = world.project / name
        file.write_text(yaml.safe_dump(merged(yaml.safe_load(before[file]), patch)))
    for name, edits in case.files.items():
        for edit in edits:
            file = world.project / name
            file.write_text(edit.apply(file.read_text()))
    try:
        result = world.run(
            "pulumi", "preview", "--json", "--show-sames", "--non-interactive", code=None
        )
    finally:
        for file, content in before.items():
            file.write_text(content)
    return review(Preview.of(result.stdout), TODAY), result.stdout + result.stderr


@pytest.mark.parametrize("file", CHANGES, ids=lambda one: one.stem)
def test_a_change_has_its_verdict(
    world: World, secrets: dict[str, str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "BUILT", world.project / ".lab" / "bin" / "charts")
    monkeypatch.setattr(rendering, "LAB", world.project / ".lab" / "bin" / "lab")
    case = Case.model_validate(yaml.safe_load(file.read_text()))
    found, output = reviewed(world, case)
    comment, expect = markdown(found), case.expect
    if KEEP:
        Path(KEEP).mkdir(parents=True, exist_ok=True)
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
    said = {"comment": comment, "review": found.model_dump_json(), "preview": output}
    assert found_in(secrets, [], said) == []


def named(name: str, text: str) -> bool:
    """Say whether a text names a machine, in a range (`node01-03`) too."""
    if name in text:
        return True
    number = int(name[-2:])
    return any(
        one.startswith("node") and "-" in one and int(one[4:6]) <= number <= int(one[7:9])
        for one in text.replace(",", " ").split()
    )
