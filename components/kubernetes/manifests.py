"""Layer Kubernetes: upstream's own manifests, fetched once, known by their checksums.

They are not copied into the repository: what is applied is what upstream published, or nothing.
Without a way to the internet, put the files into the cache folder by hand.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from config import plain_yaml

SECONDS = 30.0


class ManifestError(Exception):
    """A manifest cannot be had, or is not the one that was pinned."""


class Manifest(NamedTuple):
    """A file of upstream's, pinned."""

    url: str
    sha256: str


def cache_folder() -> Path:
    """Give the folder of fetched manifests: `$XDG_CACHE_HOME/platform/manifests`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "platform", "manifests")


def load(manifest: Manifest) -> list[dict[str, Any]]:
    """Give the objects of a manifest. Raises `ManifestError`."""
    return [one for one in plain_yaml.read_all(_text(manifest)) if one]


def _text(manifest: Manifest) -> bytes:
    kept = cache_folder() / f"{manifest.sha256}.yaml"
    if kept.is_file() and _digest(text := kept.read_bytes()) == manifest.sha256:
        return text
    text = _fetch(manifest, kept)
    if (found := _digest(text)) != manifest.sha256:
        message = (
            f"{manifest.url}: its SHA-256 is {found}, not {manifest.sha256}; upstream has "
            "changed a published file, or something on the way has: find out which before you go on"
        )
        raise ManifestError(message)
    kept.parent.mkdir(parents=True, exist_ok=True)
    half = kept.with_suffix(f".{os.getpid()}")
    half.write_bytes(text)
    half.replace(kept)
    return text


def _fetch(manifest: Manifest, kept: Path) -> bytes:
    try:
        with urllib.request.urlopen(manifest.url, timeout=SECONDS) as response:  # noqa: S310 https, pinned
            text: bytes = response.read()
    except OSError as error:
        reason = getattr(error, "reason", error)
        message = f"{manifest.url}: {reason}; without a way there, put the file at {kept}"
        raise ManifestError(message) from None
    return text


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
