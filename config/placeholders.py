"""Configuration: values that stand in for a site's own, as they come with the project.

The lab rehearses a file as it is and says which values these are. Anywhere else the program refuses
them: nobody means them, and some are everybody's, as the age key of age's own README.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from config.problems import Path as Key
from config.problems import Problem, problem

if TYPE_CHECKING:
    from config.settings import Settings

IN_LAB = "LAB_WORLD"
"""The variable that the lab sets for all that runs in a world (lab/internal/world)."""

# Names that belong to nobody (RFC 2606, RFC 6761), and what examples are written with.
_EXAMPLE = re.compile(
    r"(?i)(^|[./@_-])example([./:@_-]|$)|\.(example|invalid)([:/]|$)"
    r"|(?<![a-z])(replace[-_ ]?(with|me|this)|change[-_ ]?(me|this)|fill[-_ ]?(me[-_ ]?)?in)"
    r"(?![a-z])|placeholder"
    r"|^your[-_ ]|^(todo|fixme|xxx+|\.\.\.)$|[<>]",
    re.ASCII,
)
_DOCUMENTATION = tuple(
    map(IPv4Network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"))  # RFC 5737
)
_KEYS_OF_EVERYBODY = frozenset(
    {
        # Of age's README and manual.
        "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
        "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg",
        "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa",
    }
)
_NUMBERS_OF_EVERYBODY = {"appId": 123456, "installationId": 7890123}
"""By their key: the ids of GitHub Apps in this project's pages."""
_FIX = {
    "agePublicKey": "make a key with `age-keygen -o private/backup-key.txt`, keep that file apart "
    "from the backups, and write its public key here",
}


def in_lab() -> bool:
    """Say whether this runs in a world of the lab."""
    return bool(os.environ.get(IN_LAB))


def operators_file() -> Path | None:
    """Find the stack file that a world was made from; `None` when that cannot be told."""
    world = Path(os.environ.get(IN_LAB, "")) / "world.json"
    try:
        return Path(json.loads(world.read_text(encoding="utf-8"))["stackFile"])
    except (OSError, ValueError, KeyError):
        return None


def placeholders(settings: Settings) -> tuple[Problem, ...]:
    """Find every value that stands in for the site's own."""
    sections = settings.model_dump(mode="json", by_alias=True, exclude_none=True)
    return tuple(found for name, value in sections.items() for found in _below(value, (name,)))


def _below(value: object, path: Key) -> Iterator[Problem]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _below(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _below(item, (*path, index))
    elif isinstance(value, str) and "labels" not in path and _stands_in(value):
        fix = _FIX.get(str(path[-1]), "write your site's own")
        yield problem(path, value, "a placeholder", fix)
    elif value == _NUMBERS_OF_EVERYBODY.get(str(path[-1])):
        yield problem(path, value, "a placeholder", "write your App's own")


def _stands_in(text: str) -> bool:
    if text in _KEYS_OF_EVERYBODY or _EXAMPLE.search(text):
        return True
    try:
        return any(IPv4Address(text) in each for each in _DOCUMENTATION)
    except ValueError:
        return False
