"""Upstream's manifests: fetched once, and only as pinned."""

import hashlib
import io
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from components.kubernetes.manifests import Manifest, ManifestError, cache_folder, load
from config import gateway_api, versions

TEXT = b"kind: One\n---\nkind: Two\n---\n"
PINNED = Manifest("https://upstream.example.com/crds.yaml", hashlib.sha256(TEXT).hexdigest())


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def upstream(monkeypatch: pytest.MonkeyPatch, text: bytes | None) -> list[str]:
    """Answer every request with a text, or not at all; gives what was asked for."""
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        assert timeout > 0
        asked.append(url)
        if text is None:
            reason = "Network is unreachable"
            raise URLError(reason)
        return io.BytesIO(text)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def test_a_manifest_is_fetched_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = upstream(monkeypatch, TEXT)
    assert load(PINNED) == load(PINNED) == [{"kind": "One"}, {"kind": "Two"}]
    assert asked == [PINNED.url]


def test_a_changed_file_is_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    upstream(monkeypatch, TEXT + b"kind: Three\n")
    with pytest.raises(
        ManifestError, match=f"{PINNED.url}: its SHA-256 is .*, not {PINNED.sha256}"
    ):
        load(PINNED)
    assert not list(cache_folder().glob("*"))


def test_a_broken_file_in_the_cache_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = upstream(monkeypatch, TEXT)
    cache_folder().mkdir(parents=True)
    (cache_folder() / f"{PINNED.sha256}.yaml").write_bytes(TEXT[:5])
    assert len(load(PINNED)) == 2
    assert asked == [PINNED.url]


def test_without_a_way_to_upstream_the_place_for_the_file_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream(monkeypatch, None)
    with pytest.raises(ManifestError) as caught:
        load(PINNED)
    assert str(caught.value) == (
        f"{PINNED.url}: Network is unreachable; without a way there, put the file at "
        f"{cache_folder() / PINNED.sha256}.yaml"
    )


def test_the_version_that_is_installed_by_default_is_pinned() -> None:
    assert versions.GATEWAY_API in gateway_api.SHA256
