"""Configuration: read a YAML text within bounds, and only what every reader sees alike.

The engine reads stack files with Go's yaml.v3, whose scanner is the one of libyaml, the C library
that PyYAML brings. So the structure is taken from libyaml's events. What a plain scalar is follows
yaml.v3 (resolve.go at v3.0.1): `no` and `12:30` are texts, a date is a time, `1e3` and `017` are
numbers. Whatever one reader could take for something else than another is refused: several
documents, tags, keys that are no texts, keys twice, numbers in any but their plain form.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from config.plain_yaml import LOADER

SIZE = 256 * 1024
"""Bytes of a file. A machine takes about 110."""
NODES = 20_000
"""Keys and values of a document, those that aliases repeat included."""
ALIASES = 1_000
DEPTH = 20
DIGITS = 18
"""A number of so many digits fits into 64 bits."""
KEY_LENGTH = 400

MIDNIGHT = " 00:00:00 +0000 UTC"
"""What the engine adds to a date that is not quoted: its YAML library takes it for a time."""

Path = tuple[str | int, ...]

_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
"""Control characters, line breaks that only some readers know, and what turns text around."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {one: one.lower() == "true" for one in ("true", "True", "TRUE", "false", "False", "FALSE")}
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*)", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,14})\.[0-9]{1,15}", re.ASCII)
_NUMBER = re.compile(
    r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][-+]?[01]+|0[oO]?[-+]?[0-7]+"
    r"|(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?)",
    re.ASCII,
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}", re.ASCII)
_TIME = re.compile(_DATE.pattern + r"([Tt]| )[0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}.*", re.ASCII)

_TAG = "tag:yaml.org,2002:"


class YamlError(Exception):
    """A text that is no YAML, or more than is read: what is wrong, and the fix."""

    def __init__(self, fault: str, fix: str) -> None:
        self.fault, self.fix = fault, fix
        super().__init__(fault, fix)


@dataclass(frozen=True)
class Finding:
    """Something wrong at one place of a document that could be read."""

    path: Path
    fault: str
    fix: str
    written: str | None = None
    """The value as it is written, where the fault is about that."""


@dataclass
class Document:
    """What was read: values in JSON's types, and what is wrong with them."""

    value: Any = None
    findings: list[Finding] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)
    """Keys that nothing is written behind, not even `null`."""


def decode(content: bytes) -> str:
    """Turn a file's bytes into text; raises `YamlError`."""
    if len(content) > SIZE:
        raise YamlError(
            f"larger than {SIZE // 1024} KiB ({len(content) // 1024} KiB)",
            "remove what is not needed",
        )
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise YamlError("not UTF-8 text", "save it as UTF-8") from None
    if found := _FORBIDDEN.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise YamlError(
            f"line {line} holds a control or invisible character (U+{ord(found[0]):04X})",
            "remove the character",
        )
    return text


def parse(text: str) -> Document:
    """Read a text of one document; raises `YamlError`."""
    found = list(_documents(text, most=1))
    return found[0] if found else Document()


def parse_all(text: str) -> list[Document]:
    """Read a text of some documents, as patches of machine configurations are."""
    return list(_documents(text, most=DEPTH))


def _documents(text: str, most: int) -> list[Document]:
    try:
        return _Reader(text).read(most)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        # PyYAML's own words quote the text, which may hold a secret; those of libyaml are fixed.
        words = error.problem or ""
        reason = words if LOADER is not yaml.SafeLoader else re.sub(r"['\"`<].*", "", words).strip()
        raise YamlError(f"not valid YAML: {place}{reason}", "correct the file there") from None
    except yaml.YAMLError:
        fault = "not valid YAML: it holds a character that YAML does not allow"
        raise YamlError(fault, "remove control characters") from None


class _Reader:
    """Builds values of libyaml's events, within the bounds."""

    def __init__(self, text: str) -> None:
        self._parser = LOADER(text)
        self._nodes = 0
        self._aliases = 0
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._open: set[str] = set()
        self._document = Document()

    def read(self, most: int) -> list[Document]:
        found: list[Document] = []
        while True:
            event = self._parser.get_event()
            if isinstance(event, yaml.StreamEndEvent):
                return found
            if isinstance(event, yaml.DocumentStartEvent):
                if len(found) == most:
                    fault = "begins another document, which the engine does not read"
                    fix = "put everything into one document, without `---` between"
                    self._stop(event, fault, fix)
                if event.tags:
                    raise YamlError("a directive %TAG", "remove it: no value needs a tag")
                self._document = Document()
                self._anchors.clear()
                self._document.value, _ = self._node(self._parser.get_event(), (), 0)
                found.append(self._document)

    def _node(self, event: Any, path: Path, depth: int) -> tuple[Any, int]:  # noqa: ANN401 events
        """Give a node's value, and how many nodes it has."""
        if depth > DEPTH:
            self._stop(event, f"is nested deeper than {DEPTH} levels", "nest less")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        self._count(event, 1)
        if event.anchor is not None:
            self._open.add(event.anchor)
        if isinstance(event, yaml.ScalarEvent):
            found = self._scalar(event, path), 1
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, path, "seq")
            found = self._sequence(path, depth)
        else:
            self._check_tag(event, path, "map")
            found = self._mapping(path, depth)
        if event.anchor is not None:
            self._open.discard(event.anchor)
            self._anchors[event.anchor] = found
        return found

    def _alias(self, event: yaml.AliasEvent) -> tuple[Any, int]:
        name = str(event.anchor)
        self._aliases += 1
        if name in self._open:
            self._stop(event, "has an alias that stands inside its own anchor", "remove the alias")
        if name not in self._anchors:
            self._stop(event, "has an alias without its anchor", "write the value itself")
        if self._aliases > ALIASES:
            self._stop(event, f"has more than {ALIASES} aliases", "write the values themselves")
        value, size = self._anchors[name]
        self._count(event, size)
        return value, size

    def _count(self, event: Any, size: int) -> None:  # noqa: ANN401 an event
        self._nodes += size
        if self._nodes > NODES:
            fault = f"goes beyond {NODES} keys and values, with what aliases repeat"
            self._stop(event, fault, "remove what is not needed")

    def _stop(self, event: Any, fault: str, fix: str) -> NoReturn:  # noqa: ANN401 an event
        raise YamlError(f"line {event.start_mark.line + 1} {fault}", fix)

    def _find(self, path: Path, fault: str, fix: str, written: str | None = None) -> None:
        self._document.findings.append(Finding(path, fault, fix, written))

    def _check_tag(self, event: Any, path: Path, kind: str) -> None:  # noqa: ANN401 an event
        if event.tag not in (None, _TAG + kind):
            self._find(path, "a tag", "remove the `!...` before the value: no value needs one")

    def _sequence(self, path: Path, depth: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        total = 1
        while not isinstance(event := self._parser.get_event(), yaml.SequenceEndEvent):
            value, size = self._node(event, (*path, len(items)), depth + 1)
            items.append(value)
            total += size
        return items, total

    def _mapping(self, path: Path, depth: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        merged: list[dict[str, Any]] = []
        lines: dict[str, int] = {}
        total = 1
        while not isinstance(event := self._parser.get_event(), yaml.MappingEndEvent):
            key, is_merge = self._key(event, path)
            value, size = self._node(self._parser.get_event(), (*path, key), depth + 1)
            total += size + 1
            line = event.start_mark.line + 1
            if key in lines:
                fault = f"given twice, in lines {lines[key]} and {line}"
                self._find((*path, key), fault, "keep one of the two")
            elif is_merge:
                merged = self._merged(value, (*path, key))
            else:
                found[key] = value
            lines.setdefault(key, line)
        # What is written counts before what is merged in, and the first of a list before the next.
        for each in merged:
            found = {**each, **found}
        return found, total

    def _key(self, event: Any, path: Path) -> tuple[str, bool]:  # noqa: ANN401 an event
        if not isinstance(event, yaml.ScalarEvent):
            self._stop(event, "has a key that is not a text", "write a plain text before the colon")
        self._count(event, 1)
        text: str = event.value
        if len(text) > KEY_LENGTH:
            self._stop(event, f"has a key of {len(text)} characters", "write a shorter one")
        plain = _is_plain(event)
        if event.anchor is not None:
            self._stop(event, "has an anchor at a key", "remove the `&...` before the key")
        if event.tag not in (None, _TAG + "str"):
            self._find((*path, text), "a tag at a key", "remove the `!...` before the key")
        elif plain and text == "<<":
            return text, True
        elif plain and not isinstance(_read_plain(text), str):
            self._find((*path, text), "a key that is not a text to the engine", "put it in quotes")
        elif plain and (_DATE.fullmatch(text) or _TIME.fullmatch(text)):
            self._find((*path, text), "a key that is a time to the engine", "put it in quotes")
        return text, False

    def _merged(self, value: object, path: Path) -> list[dict[str, Any]]:
        each = value if isinstance(value, list) else [value]
        mappings = [one for one in each if isinstance(one, dict)]
        if len(mappings) < len(each):
            self._find(path, "a merge of what is not a mapping", "merge an alias of a mapping")
        return mappings

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> Any:  # noqa: ANN401 JSON's types
        text: str = event.value
        if event.tag == _TAG + "str":
            return text
        if event.tag is not None and event.tag not in (_TAG + "int", _TAG + "bool"):
            self._find(path, "a tag", "remove the `!...` before the value: no value needs one")
            return None
        if event.tag is None and not _is_plain(event):
            return text
        if event.tag is None and not text:
            self._document.empty.append(path)
        value = _read_plain(text)
        if event.tag is not None and not isinstance(
            value, bool if event.tag.endswith("bool") else int
        ):
            self._find(path, "a tag that does not fit the value", "remove the `!...` before it")
            return None
        if isinstance(value, _Odd):
            self._find(path, value.fault, value.fix, text)
            return None
        return value


def _is_plain(event: yaml.ScalarEvent) -> bool:
    return not event.style and event.tag is None


@dataclass(frozen=True)
class _Odd:
    """A plain scalar that is something else to the engine than it looks like."""

    kind: str

    @property
    def fault(self) -> str:
        """What is wrong with it."""
        return f"without quotes the engine reads it as {self.kind}"

    @property
    def fix(self) -> str:
        """What to do."""
        if self.kind == _TIME_KIND:
            return "put it in quotes"
        return "put it in quotes if it is a text, else write the number in plain digits"


_TIME_KIND = "a time"


def _read_plain(text: str) -> str | int | float | bool | _Odd | None:  # noqa: PLR0911 a case each
    """Read a plain scalar as yaml.v3 does."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text[0] not in "+-.0123456789":
        return text
    if _SPECIAL.fullmatch(text):
        return _Odd("infinity, or not a number")
    if _TIME.fullmatch(text):
        return _Odd(_TIME_KIND)
    if _DATE.fullmatch(text):
        return _date(text)
    plain = text.replace("_", "")
    if _WHOLE.fullmatch(text):
        fits = len(plain.lstrip("+-")) <= DIGITS
        return int(plain) if fits else _Odd(f"a number of {len(plain)} digits")
    # What is written back as a whole number, the engine reads as one.
    if _DECIMAL.fullmatch(text) and not float(text).is_integer():
        return float(text)
    return _Odd("a number" + _plainly(plain)) if _NUMBER.fullmatch(plain) else text


def _plainly(plain: str) -> str:
    """Give the number that the engine reads, where it is short."""
    try:
        if re.fullmatch(r"[-+]?0[0-7]{1,12}", plain, re.ASCII):
            return f", {int(plain, 8)}"
        if re.fullmatch(r"[-+]?0[xXbBoO][0-9a-fA-F]{1,12}", plain, re.ASCII):
            return f", {int(plain, 0)}"
        value = float(plain)
        return f", {value:g}" if len(plain) <= DIGITS and math.isfinite(value) else ""
    except ValueError:
        return ""


def _date(text: str) -> str | _Odd:
    year, month, day = map(int, text.split("-"))
    try:
        return f"{dt.date(year, month, day)}{MIDNIGHT}"
    except ValueError:  # no day of the calendar: a text to the engine
        return text if year else _Odd(_TIME_KIND)
