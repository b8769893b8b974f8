"""YAML of the project's own, or of a vendor's: by libyaml, ten times quicker than by Python.

What an operator writes is read by `config.yaml_text`, which is stricter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Where PyYAML was built without libyaml, its own."""
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""Likewise; both write the same text."""

Text = str | bytes | IO[str] | IO[bytes]


def read(text: Text) -> Any:  # noqa: ANN401 what a document holds
    """Read one document. Raises `yaml.YAMLError`."""
    return yaml.load(text, LOADER)  # noqa: S506 a safe one


def read_all(text: Text) -> Iterator[Any]:
    """Read all documents, one after the other. Raises `yaml.YAMLError`."""
    return yaml.load_all(text, LOADER)


def written(document: object) -> str:
    """Write one document, its keys in their order."""
    text: str = yaml.dump(document, Dumper=DUMPER, sort_keys=False)
    return text
