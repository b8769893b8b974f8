"""Layer Talos: a machine's configuration without its secrets, for previews that people read.

The configuration is one secret text, so a preview could only say that it changes. Its fields, each
secret replaced by a mark, can be shown: in `pulumi preview --diff`, and by the review.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from config import plain_yaml

MAIN = "v1alpha1"
"""The name of the first document, which has no kind."""
SECRET_KEYS = re.compile(
    r"^(auth|key|token|secret|password|passphrase"
    r"|\w+(Auth|Token|Secret|Password|Passphrase|PrivateKey|PresharedKey)|privateKey|presharedKey)$"
)
"""Keys of Talos' schema below which a secret stands, whoever wrote it."""
MARK = re.compile(r"\(secret [0-9a-f]{8}\)")
"""What stands in place of a secret."""
SHORTEST = 8
"""Machine secrets are longer; a shorter text could be part of anything."""


def fields(configuration: str, secrets: Any) -> dict[str, Any]:  # noqa: ANN401 any nesting
    """Give a configuration's documents by kind and name, every secret replaced by a mark.

    `secrets` are the machine secrets, in any nesting. Marks of equal secrets are equal and those of
    different ones differ, so that a change is seen; they are keyed with the machine secrets
    themselves, so that nobody without them can try values.
    """
    known = sorted({one for one in _texts(secrets) if len(one) >= SHORTEST})
    key = hashlib.sha256("\0".join(known).encode()).digest()
    found: dict[str, Any] = {}
    for document in plain_yaml.read_all(configuration):
        if isinstance(document, Mapping):
            found[_name(document)] = _without_secrets(document, known, key, hide=False)
    return found


def _name(document: Mapping[str, Any]) -> str:
    kind, name = document.get("kind"), document.get("name")
    if not kind:
        return MAIN
    return f"{kind}/{name}" if name else str(kind)


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 any nesting
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, Sequence):
        for one in value:
            yield from _texts(one)


def _is_secret(name: str, beside: Mapping[str, Any]) -> bool:
    """Say whether a secret stands below a key; a taint's `key` is a name, beside its effect."""
    is_taint = name == "key" and beside.keys() <= {"key", "value", "effect"} and "effect" in beside
    return SECRET_KEYS.match(name) is not None and not is_taint


def _without_secrets(value: Any, known: Sequence[str], key: bytes, *, hide: bool) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {
            str(name): _without_secrets(one, known, key, hide=hide or _is_secret(str(name), value))
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(one, known, key, hide=hide) for one in value]
    if value is None or isinstance(value, bool):
        return value
    text = str(value)
    if hide or any(one in text for one in known):
        return f"(secret {hmac.digest(key, text.encode(), 'sha256').hex()[:8]})"
    return value
