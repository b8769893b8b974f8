"""Configuration: which characters a text may hold, in any setting.

Names of a site may be in any language. What nobody sees, or sees as something else, is refused
everywhere: it gives a name that the vendor's system does not know, or hides what a file says.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping

from config.problems import Path, Problem, problem

LONGEST = 1000
"""Characters of any text in the settings; a log destination or a URL is the longest."""
DATES = frozenset({"ends"})
"""Keys whose value is a day."""

CERTIFICATES = frozenset({"ca", "trustedRoots"})
"""Keys whose value has lines; their type lets only PEM through (values.py)."""

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u2800\u3164\uffa0")
_VARIATION = range(0xFE00, 0xFE10)
_TIME = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(\.\d+)? [-+]\d{4} \w+", re.ASCII)
_LOOKALIKE = frozenset({"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"})
"""Alphabets with letters that look like Latin ones."""


def unprintable(value: object, path: Path) -> Iterator[Problem]:
    """Find each text below a path, keys too, that holds a character that it must not hold."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if (fault := _fault(str(key))) is not None:
                yield problem((*path, str(key)), None, *fault)
            yield from unprintable(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unprintable(item, (*path, index))
    elif isinstance(value, str) and path[-1] not in CERTIFICATES:
        if (fault := _fault(value)) is not None:
            yield problem(path, value, *fault)
        elif path[-1] not in DATES and _TIME.fullmatch(value):
            yield problem(path, value, "the engine reads it as a time", "write the text in quotes")


def _fault(text: str) -> tuple[str, str] | None:
    if len(text) > LONGEST:
        return f"{len(text)} characters long", f"write at most {LONGEST}"
    if text.lstrip().startswith("::") or "##[" in text:
        return "a command to GitHub's runner", "begin it with another character"
    if text.isascii() and text.isprintable():
        return None
    for place, one in enumerate(text, 1):
        if fault := _fault_of(one):
            return f"holds {fault} (U+{ord(one):04X}, character {place})", "write it without"
    for word in re.findall(r"\w+", text):
        if scripts := _mixed(word):
            return f"mixes {scripts} with Latin letters, which look alike", "type it again"
    return None


def _fault_of(one: str) -> str:
    category = unicodedata.category(one)
    if category in _HIDDEN or one in _BLANK_LETTERS or ord(one) in _VARIATION:
        return "a control or invisible character"
    if category == "Zs" and one != " ":
        return "a blank that is not a plain space"
    plain = unicodedata.normalize("NFKC", one)
    if one != plain and len(plain) == 1 and plain.isascii() and category[0] in "LNP":
        return f"a look-alike of `{plain}`"
    return ""


def _mixed(word: str) -> str:
    """Give the other alphabet of a word that is written in Latin letters or digits too."""
    latin, others = False, set()
    for one in word:
        if one.isascii():
            latin = latin or one.isalnum()
        elif unicodedata.category(one) == "Nd":
            others.add("digits of another alphabet")
        else:
            script = unicodedata.name(one, "").partition(" ")[0]
            if script in _LOOKALIKE:
                others.add(f"{script.capitalize()} letters")
    return min(others) if latin and others else ""
