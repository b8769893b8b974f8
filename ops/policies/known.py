"""Layer Policies: what the rules know beside the resource: the settings, and secret values.

Secret values come from three places: the stack's configuration, inputs and outputs that are marked
as secrets, and what Talos makes. They are compared, never shown.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from config.problems import SettingsError
from config.reading import gather, resolve
from config.shown import names_secret
from ops.engine.values import Leaf, Secret, leaves

if TYPE_CHECKING:
    from config.settings import Settings

SHORTEST = 8
"""A shorter text is too likely to stand somewhere by chance."""
KEYS = frozenset({"key", "clientKey", "client-key-data"})
"""Names of private keys that `names_secret` does not know: Talos' bundle and kubeconfigs."""
CERTIFICATE = b"-----BEGIN CERTIFICATE"


@dataclass
class Secrets:
    """Secret values that were met."""

    _values: set[str] = field(default_factory=set)

    def add(self, text: str) -> None:
        """Remember a secret value, and how base64 writes it."""
        text = text.strip()
        if len(text) >= SHORTEST and not is_certificate(text):
            self._values |= {text, base64.b64encode(text.encode()).decode()}

    def learn(self, value: Any) -> None:  # noqa: ANN401 any value
        """Remember what is marked as a secret below a value."""
        for text in secret_texts(value):
            self.add(text)

    def found_in(self, text: str) -> bool:
        """Say whether a text holds one of them."""
        return any(value in text for value in self._values)


def secret_texts(value: Any) -> Iterator[str]:  # noqa: ANN401 any value
    """Give the secret texts below a value.

    A text that is marked itself is one. Below a marked mapping also names and addresses stand, so
    there only the values of keys that name a secret count.
    """
    if isinstance(value, Secret):
        if isinstance(value.value, str):
            yield value.value
        else:
            yield from (str(one.value) for one in leaves(value) if _names_secret(one))
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from secret_texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from secret_texts(one)


def _names_secret(leaf: Leaf) -> bool:
    return isinstance(leaf.value, str) and (names_secret(leaf.key) or leaf.key in KEYS)


def is_certificate(text: str) -> bool:
    """Say whether a text is a certificate, in PEM or in base64 of it: public, wherever it is."""
    if text.startswith(CERTIFICATE.decode()):
        return True
    try:
        return base64.b64decode(text, validate=True).startswith(CERTIFICATE)
    except (binascii.Error, ValueError):
        return False


@dataclass
class Known:
    """What one run of the engine has told."""

    settings: Settings | None = None
    settings_fault: str = "the engine has told no configuration"
    given: Secrets = field(default_factory=Secrets)
    """The stack's own secrets, known from the start."""
    met: Secrets = field(default_factory=Secrets)
    """Those that resources hold; complete once the whole stack is known."""

    @classmethod
    def of(cls, config: Mapping[str, str], secret_keys: Iterable[str]) -> Known:
        """Take the stack's configuration by full key (`platform:site`), secrets in plain text."""
        encrypted = frozenset(secret_keys)
        known = cls()
        for key in encrypted & config.keys():
            known.given.add(config[key])
        plain = {key: value for key, value in config.items() if key not in encrypted}
        try:
            known.settings = resolve(gather(plain, encrypted))
        except SettingsError as error:
            known.settings_fault = str(error)
        return known
