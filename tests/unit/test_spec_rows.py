"""docs/spec.md: each sentence of the design leads to code and tests that exist, or says why not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from config import plain_yaml

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "spec.md"
CODE = re.compile(r"`([^`]+)`")
WITHOUT = re.compile(r"\bnot (built|shown)\b", re.IGNORECASE)
DATA = (".yaml", ".json")


class Row(NamedTuple):
    """A sentence: its number and demand, where it is built and shown, and what is missing."""

    number: str
    sentence: str
    built: list[str]
    shown: list[str]
    missing: str


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if re.match(r"\| \d+ \|", line):
            number, sentence, built, shown, missing = (
                cell.strip() for cell in line.strip("|").split("|")
            )
            found.append(Row(number, sentence, CODE.findall(built), CODE.findall(shown), missing))
    return found


@cache
def defined(file: Path) -> set[str]:
    """Give the names that a Python file defines: `name`, and `Class.name`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set(_names(tree.body))
    for one in tree.body:
        if isinstance(one, ast.ClassDef):
            found |= {f"{one.name}.{name}" for name in _names(one.body)}
    return found


def _names(body: list[ast.stmt]) -> Iterator[str]:
    for one in body:
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield one.name
        elif isinstance(one, ast.Assign):
            yield from (target.id for target in one.targets if isinstance(target, ast.Name))
        elif isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            yield one.target.id


@cache
def documents(file: Path) -> list[Any]:
    """Give what a file of data holds."""
    return list(plain_yaml.read_all(file.read_text(encoding="utf-8")))


def holds(value: Any, path: list[str]) -> bool:
    """Say whether nested mappings have this path of keys; any element of a list will do."""
    if not path:
        return True
    if isinstance(value, list):
        return any(holds(one, path) for one in value)
    return isinstance(value, dict) and path[0] in value and holds(value[path[0]], path[1:])


def is_there(place: str) -> bool:
    """Say whether `file` exists, and `file::name` is defined in it."""
    path, _, name = place.partition("::")
    file = ROOT / path
    if not name:
        return file.exists()
    if not file.is_file():
        return False
    if file.suffix in DATA:
        return any(holds(one, name.split(".")) for one in documents(file))
    return file.suffix == ".py" and name in defined(file)


def test_the_rows_are_numbered_without_a_gap() -> None:
    numbers = [int(row.number) for row in rows()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 70


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.number)
def test_a_sentence_leads_to_its_code_and_its_tests_or_says_why_not(row: Row) -> None:
    assert row.sentence
    assert [place for place in row.built if not is_there(place)] == []
    for test in row.shown:
        path, _, name = test.partition("::")
        assert re.fullmatch(r"tests/(unit|lab(/\w+)?)/test_\w+\.py", path), test
        assert name.startswith("test_"), test
        assert is_there(test), test
    if not (row.built and row.shown):
        assert WITHOUT.search(row.missing), "a row without code or test says why"


@pytest.mark.parametrize(
    "place",
    [
        "config/no_such_file.py",
        "config/no_such_file.py::KUBERNETES",
        "config/versions.py::NO_SUCH_VERSION",
        "config/settings.py::Settings.no_such_field",
        "Pulumi.prod.yaml::config.platform:no-such-section",
        "Makefile::test",
    ],
)
def test_what_is_not_there_is_found(place: str) -> None:
    assert not is_there(place)


def test_names_are_found_in_each_kind_of_file() -> None:
    assert is_there("docs")
    assert is_there("config/versions.py::KUBERNETES")
    assert is_there("config/settings.py::Cluster.name")
    assert is_there("Pulumi.prod.yaml::config.platform:machines.address")
    assert is_there(".github/rulesets/main.json::rules.type")
