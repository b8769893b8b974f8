"""Resources and their values as the engine sends them to a policy pack.

The engine sends properties as a protobuf Struct in which mappings with a mark (`SIGNATURE`) stand
for secrets, assets and references, and marked texts for what a preview does not know yet
(pulumi/sdk, go/common/resource/plugin/rpc.go).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 a mark, not a secret
OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
REFERENCE = "5cf8f73096256a8f31e491e813e4eb8e"
UNKNOWN_MARKS = frozenset(
    {
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # boolean
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # number
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",  # text
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # list
        "030794c1-ac77-496b-92df-f27374a8bd58",  # asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # archive
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # mapping
    }
)
Path = tuple[str | int, ...]


def revealed(value: Any) -> Any:  # noqa: ANN401 JSON
    """Take off the engine's marks of secrets."""
    if isinstance(value, dict):
        if value.get(SIGNATURE) == SECRET and "plaintext" in value:
            return json.loads(value["plaintext"])
        return {key: revealed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [revealed(one) for one in value]
    return value


class Unknown:
    """What a preview does not know yet; the rules judge it in the update."""

    def __repr__(self) -> str:
        return "(not known yet)"


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that is marked as a secret. Its text never enters a message."""

    value: Any = field(repr=False)


@dataclass(frozen=True)
class Leaf:
    """A value that holds no others, and where it stands."""

    path: Path
    value: Any = field(repr=False)
    is_secret: bool

    @property
    def key(self) -> str:
        """The nearest name above it: its own key, or that of the list it is in."""
        return next((part for part in reversed(self.path) if isinstance(part, str)), "")

    @property
    def where(self) -> str:
        """Its path as people write it: `spec.ports[0].nodePort`."""
        return written(self.path)


@dataclass(frozen=True)
class Resource:
    """A resource that the program wants, with the inputs that its provider has checked."""

    urn: str
    type: str
    name: str
    inputs: Mapping[str, Any]
    """With `Secret` and `UNKNOWN` in it."""
    protect: bool = False
    ignore_changes: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    """URNs; only known once the whole stack is."""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """As `dependencies`; empty for what a preview creates."""

    @property
    def kind(self) -> str:
        """The kind of a Kubernetes object that is written in full; empty for all else."""
        kind = self.inputs.get("kind")
        is_object = self.type.startswith("kubernetes:") and isinstance(kind, str)
        return str(kind) if is_object else ""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """A Kubernetes object's metadata, as far as it is known."""
        return mapping(self.inputs.get("metadata"))

    @property
    def spec(self) -> Mapping[str, Any]:
        """A Kubernetes object's specification, as far as it is known."""
        return mapping(self.inputs.get("spec"))


def decode(value: Any) -> Any:  # noqa: ANN401 any JSON in, any value out
    """Make values of what the engine sends: JSON's types, `Secret` and `UNKNOWN`."""
    if isinstance(value, Mapping):
        return _marked(value) if SIGNATURE in value else {k: decode(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [decode(one) for one in value]
    return UNKNOWN if isinstance(value, str) and value in UNKNOWN_MARKS else value


def _marked(value: Mapping[str, Any]) -> Any:  # noqa: ANN401 as `decode`
    match value[SIGNATURE]:
        case kind if kind == SECRET:
            return Secret(decode(value.get("value")))
        case kind if kind == OUTPUT:
            found = decode(value["value"]) if "value" in value else UNKNOWN
            return Secret(found) if value.get("secret") else found
        case kind if kind == REFERENCE:
            return value.get("urn")
        case _:
            # An asset or archive: its text, path or contents.
            return {key: decode(one) for key, one in value.items() if key != SIGNATURE}


def bare(value: Any) -> Any:  # noqa: ANN401 as `decode`
    """Take the mark off a secret, to look below it."""
    return bare(value.value) if isinstance(value, Secret) else value


def mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401 any value
    """Give a mapping, under a mark or not; an empty one for anything else."""
    found = bare(value)
    return found if isinstance(found, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:  # noqa: ANN401 any value
    """Give a list, under a mark or not; an empty one for anything else."""
    found = bare(value)
    return found if isinstance(found, Sequence) and not isinstance(found, str) else ()


def leaves(value: Any, path: Path = (), *, is_secret: bool = False) -> Iterator[Leaf]:  # noqa: ANN401 any value
    """Give every value that holds no others; whatever is below a secret is one."""
    if isinstance(value, Secret):
        yield from leaves(value.value, path, is_secret=True)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from leaves(one, (*path, str(key)), is_secret=is_secret)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, one in enumerate(value):
            yield from leaves(one, (*path, index), is_secret=is_secret)
    else:
        yield Leaf(path, value, is_secret)


def written(path: Path) -> str:
    """Write a path as people do: `spec.ports[0].nodePort`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
