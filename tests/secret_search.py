"""Where secret values stand in files and texts, in clear or only encoded.

`grep` looks for all of them at once. It reads the values from its standard input: a command line is
seen by everybody on the machine.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.background import Background

SHORTEST = 20
"""Shorter texts are no keys, and shorter pieces of an encoding stand in other texts too."""
WORD = re.compile(r"[^\s\"',:{}\[\]]{32,}")
"""What is secret in a text of several lines: a token, a line of a key. Its other words are not."""
OFFSETS = ((0, 0), (1, 2), (2, 3))
"""Bytes before a value in a text that is base64 as a whole, and the letters that they spoil."""


def forms(value: str) -> Iterator[str]:
    """Give the lines by which a value is found: as it is, escaped, and in texts that are base64.

    Base64 twice is how Helm's records and a Secret's `data` hold what was base64 before.
    """
    yield from _plain(value)
    for once in _encoded(value.encode()):
        yield once
        yield from _encoded(once.encode())
    decoded = _decoded(value)
    if decoded:
        yield from _plain(decoded)


def _plain(value: str) -> Iterator[str]:
    words = WORD.findall(value)
    if "\n" not in value:
        yield value
    yield json.dumps(value)[1:-1]
    yield urllib.parse.quote(value, safe="")
    yield from (one for one in words if not one.startswith("-----"))


def _encoded(value: bytes) -> Iterator[str]:
    """Give what is left of a value in a longer text that is base64, at each offset."""
    for offset, spoilt in OFFSETS:
        whole = base64.b64encode(b"\0" * offset + value).decode()
        letters = whole.rstrip("=")
        # The last letter depends on what follows, unless the value ends with it.
        yield letters[spoilt : len(letters) - (len(whole) != len(letters))]


def _decoded(value: str) -> str:
    """Give the text that a value is the base64 of; empty when it is of none."""
    try:
        text = base64.b64decode(value, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return ""
    return text if text.strip().replace("\n", "").isprintable() else ""


def found_in(
    secrets: Mapping[str, str], paths: Sequence[Path], texts: Mapping[str, str]
) -> list[str]:
    """Look for secrets, given as value to name, in files, folders and texts.

    Gives a line for each place and name; never the value. A folder's links are not followed.
    """
    names = {
        form.encode(): name
        for value, name in secrets.items()
        for form in forms(value)
        if len(form) > SHORTEST
    }
    assert names, "the search would prove nothing"
    with tempfile.TemporaryDirectory(prefix="secret-search-") as folder:
        said = {f"text-{index}": name for index, name in enumerate(texts)}
        for file, name in said.items():
            Path(folder, file).write_text(texts[name], encoding="utf-8", errors="replace")
        result = subprocess.run(
            ["grep", "-FaoHrsZ", "-f", "-", folder, *map(str, paths)],  # noqa: S607
            input=b"\n".join(names), capture_output=True, check=False, env={"LC_ALL": "C"},
        )  # fmt: skip
    # 2 is also said of a file that went away meanwhile.
    assert result.returncode in (0, 1, 2), result.stderr.decode()
    found = set()
    for line in result.stdout.splitlines():
        path, _, form = line.partition(b"\0")
        place = said.get(Path(path.decode()).name, path.decode())
        found.add(f"{names[form]} is in {place}")
    return sorted(found)


class CommandLines(Background):
    """Keeps the command lines of all processes of this machine while it is entered."""

    def __init__(self) -> None:
        super().__init__(self._watch)
        self._lines: set[bytes] = set()

    @property
    def text(self) -> str:
        """All that were seen, one a line."""
        return b"\n".join(self._lines).decode(errors="replace")

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit():
                    continue
                try:
                    self._lines.add((entry / "cmdline").read_bytes().replace(b"\0", b" "))
                except OSError:
                    continue
