"""What documents and messages name is there: commands, files, links; the decisions' index."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\[[^\]]+\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```\n?", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"\bmake((?: [A-Za-z_]+=\S*| [a-z][a-z-]*)+)")
PAGE = re.compile(r"\bdocs/[\w/-]+\.md(?:#[\w-]+)?")
HEADING = re.compile(r'\b(docs/[\w/-]+\.md), "([^"\n]+)"')
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b(?!\.md)")
FILES = (".py", ".go", ".md", ".yaml", ".json", ".toml", ".sh")
TO_BE_MADE = {"platform/velero/application.yaml"}
"""What a page tells its reader to make."""
DECISIONS = ROOT / "docs" / "decisions"
HEAD = re.compile(r"# (\d+)\. (.+)\n\n- Status: (.+)\n- Date: (\d{4}-\d\d-\d\d)\n\n")
ROW = re.compile(r"^\| (\d+) \| \[(.+)\]\((\S+)\) \| (.+) \| (\S+) \|$", re.MULTILINE)


@functools.cache
def tracked(*patterns: str) -> list[str]:
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    return [
        name
        for name in listed.stdout.splitlines()
        if not name.startswith("tests/fixtures/") and (ROOT / name).is_file()
    ]


def documents() -> list[str]:
    return tracked("*.md")


def sources() -> list[str]:
    """List the files whose texts people see: programs' messages, comments of settings."""
    listed = tracked("*.py", "*.go", "*.yaml", "*.sh", "Makefile")
    return [name for name in listed if name != "tests/unit/test_documents.py"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(name: str) -> str:
    """Give a document without its blocks of code."""
    return FENCE.sub("", read(name))


@functools.cache
def targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][a-z-]*):(?!=)", read("Makefile"), re.MULTILINE))


def commands(text: str) -> Iterator[str]:
    """Give the targets of each `make ...`, in a span or on a line of its own."""
    lines = [line.removeprefix("$ ") for line in text.splitlines()]
    for line in (*SPAN.findall(text), *(one for one in lines if one.startswith("make "))):
        for words in COMMAND.findall(line.partition("#")[0]):
            yield from (word for word in words.split() if "=" not in word)


@pytest.mark.parametrize("name", documents())
def test_every_make_target_that_a_document_names_exists(name: str) -> None:
    assert [one for one in commands(read(name)) if one not in targets()] == []


def test_every_make_target_that_a_message_names_exists() -> None:
    for name in sources():
        named = {one for span in SPAN.findall(read(name)) for one in commands(f"`{span}`")}
        assert named <= targets(), name


def test_a_target_that_does_not_exist_is_found() -> None:
    text = "`make lint pins` and\n\n```\nmake drift OUT=x  # make no-such\n```\n"
    assert list(commands(text)) == ["lint", "pins", "drift"]


def paths(text: str) -> Iterator[str]:
    """Give what stands in a span of code and looks like a path of the repository."""
    folders = {name.partition("/")[0] for name in tracked()}
    for span in SPAN.findall(text):
        path = span.partition("::")[0]
        first, slash, _ = path.partition("/")
        if not slash or PLACEHOLDER.search(path) or not re.fullmatch(r"[\w./*-]+", path):
            continue
        if first == "private" or path in TO_BE_MADE:
            continue
        if first in folders or (path.endswith(FILES) and not path.startswith((".", "/"))):
            yield path


# ARCHITECTURE.md shortens paths in its drawings, and names files without their folders.
@pytest.mark.parametrize("name", [one for one in documents() if one != "ARCHITECTURE.md"])
def test_every_path_that_a_document_names_exists(name: str) -> None:
    folder = (ROOT / name).parent
    missing = [
        path
        for path in paths(prose(name))
        if not any((*ROOT.glob(path.rstrip("/")), *folder.glob(path.rstrip("/"))))
    ]
    assert missing == []


def test_a_path_that_does_not_exist_is_found() -> None:
    text = (
        "`config/gone.py`, `clusters/NAME`, `apps/overlays/prod/*`, `a/b`, `.lab/x.md`, `no/x.py`"
    )
    assert list(paths(text)) == ["config/gone.py", "apps/overlays/prod/*", "no/x.py"]


@pytest.mark.parametrize("name", documents())
def test_no_link_of_a_document_leads_nowhere(name: str) -> None:
    for target in LINK.findall(prose(name)):
        if "://" not in target:
            file, _, heading = target.partition("#")
            assert_is_there((ROOT / name).parent / file if file else ROOT / name, heading)


def test_every_page_that_a_message_names_exists() -> None:
    for name in (*sources(), *documents()):
        for target in PAGE.findall(read(name)):
            file, _, heading = target.partition("#")
            assert_is_there(ROOT / file, heading)


def test_every_heading_that_a_message_names_exists() -> None:
    named = [found for name in sources() for found in HEADING.findall(read(name))]
    assert len(named) > 3
    for page, heading in named:
        assert re.search(rf"^#+ {re.escape(heading)}$", read(page), re.MULTILINE), heading


def assert_is_there(path: Path, heading: str) -> None:
    assert path.exists(), path
    if heading:
        assert heading in anchors(path), f"{path.name}#{heading}"


def anchors(document: Path) -> set[str]:
    """Give a document's headings as the addresses that GitHub makes of them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_the_decisions_have_a_status_and_a_date_and_the_index_says_the_same() -> None:
    pages = []
    for page in sorted(DECISIONS.glob("0*.md")):
        head = HEAD.match(page.read_text(encoding="utf-8"))
        assert head is not None, f"{page.name}: no number, title, status and date at its head"
        number, title, status, date = head.groups()
        assert page.name.startswith(f"{int(number):04}-")
        assert re.fullmatch(r"in force|replaced by \d+", status), page.name
        pages.append((number, title, page.name, status, date))
    assert ROW.findall((DECISIONS / "README.md").read_text(encoding="utf-8")) == pages
    assert [int(number) for number, *_ in pages] == list(range(1, len(pages) + 1))
