"""Layer Review: what differs between two nested values, leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ops.engine.preview import SECRET, UNKNOWN

SHORT = 120
"""A value longer than this is cut."""
Path = tuple[str, ...]


class Nothing:
    """What is not there; None is a value."""

    def __repr__(self) -> str:
        return "-"


NOTHING = Nothing()


@dataclass(frozen=True)
class Leaf:
    """One difference: where, what was there and what will be."""

    path: Path
    old: Any
    new: Any

    @property
    def where(self) -> str:
        """The path as people write it: `machine.nodeLabels.zone`, `disks[0].size`."""
        text = ""
        for part in self.path:
            if part.isdigit():
                text += f"[{part}]"
            elif "." in part or "/" in part:
                text += f'["{part}"]' if text else part
            else:
                text += f".{part}" if text else part
        return text

    def texts(self, *, hidden: bool = False) -> tuple[str, str]:
        """Both values as short texts; a hidden one says only that it changed."""
        if hidden:
            return SECRET_TEXT, CHANGED_TEXT
        old, new = shown(self.old), shown(self.new)
        if SECRET_TEXT in (old, new):
            return tuple(CHANGED_TEXT if one == SECRET_TEXT else one for one in (old, new))  # type: ignore[return-value]
        return old, new


SECRET_TEXT = "(secret)"  # noqa: S105 what is shown of one
CHANGED_TEXT = "(secret, changed)"


def leaves(old: Any, new: Any, path: Path = ()) -> Iterator[Leaf]:  # noqa: ANN401 any JSON
    """Give every leaf in which two values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(one for one in new if one not in old)]:
            yield from leaves(old.get(key, NOTHING), new.get(key, NOTHING), (*path, str(key)))
    elif _is_list(old) and _is_list(new) and not _are_sets(old, new):
        for index in range(max(len(old), len(new))):
            yield from leaves(_at(old, index), _at(new, index), (*path, str(index)))
    elif old != new:
        yield Leaf(path, old, new)


def _is_list(value: Any) -> bool:  # noqa: ANN401 any JSON
    return isinstance(value, Sequence) and not isinstance(value, str)


def _are_sets(old: Sequence[Any], new: Sequence[Any]) -> bool:
    """Say whether two lists read best as a whole: plain values, and not equally many."""
    plain = not any(isinstance(one, Mapping) or _is_list(one) for one in (*old, *new))
    return plain and len(old) != len(new)


def _at(values: Sequence[Any], index: int) -> Any:  # noqa: ANN401 any JSON
    return values[index] if index < len(values) else NOTHING


def shown(value: Any) -> str:  # noqa: ANN401 any JSON
    """Write a value in one short line; a secret never."""
    if value is NOTHING:
        return "-"
    if value == UNKNOWN:
        return "(known after the deployment)"
    if isinstance(value, str) and (value == SECRET or value.startswith("(secret ")):
        return SECRET_TEXT
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {shown(one)}" for key, one in value.items()) + "}"
    elif _is_list(value):
        text = "[" + ", ".join(shown(one) for one in value) + "]"
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = str(value)
    text = " ".join(text.split())
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"
