"""What several unit tests need."""

import gc
import ssl
from collections.abc import Iterator
from functools import cache
from http.client import HTTPConnection
from pathlib import Path

import pytest

from clients import kubernetes_api
from clients.omnictl import OmnictlError
from clients.talosctl import TalosctlError
from components.omni import template_validation
from components.talos import patch_validation
from config.placeholders import IN_LAB
from tests.unit.recorder import install_talosctl

NO_TALOSCTL = "no talosctl in unit tests"
NO_OMNICTL = "no omnictl in unit tests"

# A sixth of the tests' time went to Python's collector, which found little.
gc.set_threshold(100_000, 50, 50)


def pytest_collection_finish() -> None:
    """Keep what all tests share from being looked through again and again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def in_the_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run as in a world of the lab: the project's own settings hold placeholders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(IN_LAB, str(tmp_path_factory.mktemp("world")))
        yield


@pytest.fixture(scope="session", autouse=True)
def without_talosctl() -> Iterator[None]:
    """Leave Talos' own validation to the tests that are about it: it takes seconds."""

    def find(*_: object) -> str:
        raise TalosctlError(NO_TALOSCTL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patch_validation, "find_talosctl", find)
        yield


@pytest.fixture(scope="session", autouse=True)
def without_omnictl() -> Iterator[None]:
    """Leave omnictl's validation to the tests that are about it, for the same reason."""

    def find(*_: object) -> str:
        raise OmnictlError(NO_OMNICTL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_validation, "find_omnictl", find)
        yield


@pytest.fixture
def talosctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a talosctl of the platform's version on PATH, which the program asks for its version."""
    install_talosctl(tmp_path, "1.13.9")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.fixture
def without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave TLS out: the standard library cannot make certificates."""

    def plain(host: str, port: int, timeout: float, context: ssl.SSLContext) -> HTTPConnection:
        assert isinstance(context, ssl.SSLContext)
        return HTTPConnection(host, port, timeout=timeout)

    monkeypatch.setattr(kubernetes_api, "HTTPSConnection", plain)
    # One for all: to read the system's authorities takes longer than such a test.
    monkeypatch.setattr(kubernetes_api, "_tls", lambda _: system_tls())


@cache
def system_tls() -> ssl.SSLContext:
    return ssl.create_default_context()
