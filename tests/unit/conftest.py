"""What several unit tests need."""

import ssl
from http.client import HTTPConnection

import pytest

from components import kubernetes_api


@pytest.fixture
def without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave TLS out: the standard library cannot make certificates."""

    def plain(host: str, port: int, timeout: float, context: ssl.SSLContext) -> HTTPConnection:
        assert isinstance(context, ssl.SSLContext)
        return HTTPConnection(host, port, timeout=timeout)

    monkeypatch.setattr(kubernetes_api, "HTTPSConnection", plain)
    monkeypatch.setattr(kubernetes_api, "_tls", lambda _: ssl.create_default_context())
