"""Layer Review: texts in a cell of a Markdown table, whatever they hold."""

from __future__ import annotations


def cell(text: str) -> str:
    """Write a text in one line that does not end its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def code(text: str) -> str:
    """Write a value as code."""
    return f"`{cell(text).replace('`', chr(39))}`"
