"""What the clients that speak through a vendor's command line have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def private_file(path: Path, text: str) -> Iterator[None]:
    """Hold text in a file that only its owner can read, and remove it afterwards."""
    path.touch(mode=0o600, exist_ok=False)
    try:
        path.write_text(text, encoding="utf-8")
        yield
    finally:
        path.unlink()


def documents(text: str) -> list[dict[str, Any]]:
    """Read the JSON objects that a command prints one after the other."""
    decoder, found, position = json.JSONDecoder(), list[dict[str, Any]](), 0
    text = text.strip()
    while position < len(text):
        document, position = decoder.raw_decode(text, position)
        found.append(document)
        position += len(text[position:]) - len(text[position:].lstrip())
    return found


def last_lines(stderr: str, lines: int = 3) -> str:
    """Give the end of what a command wrote to stderr, as one line."""
    return " ".join(stderr.split("\n")[-lines - 1 :]).strip()
