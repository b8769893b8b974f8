"""The gate on the Kubernetes API, against a server on loopback."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from clients import kubernetes_api
from clients.kubernetes_api import ApiError, KubernetesApi, wait_ready
from tests.background import serving
from tests.unit.hand_clock import Time


@contextmanager
def server(answers: list[int], body: bytes = b"") -> Iterator[tuple[str, list[str]]]:
    """Serve these statuses one after the other, the last one for ever."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PATCH = do_GET  # noqa: N815 the standard library's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    with serving(httpd):
        yield f"https://127.0.0.1:{httpd.server_port}", paths


pytestmark = pytest.mark.usefixtures("without_tls")


def kubeconfig(address: str) -> str:
    return yaml.safe_dump({"clusters": [{"cluster": {"server": address}}]})


def test_the_gate_opens_once_the_api_says_that_it_is_ready() -> None:
    time = Time()
    with server([500, 401, 200]) as (address, paths):
        wait_ready(kubeconfig(address), time.clock())
    assert paths == ["/readyz"] * 3


def test_an_api_that_never_gets_ready_is_named_with_its_last_answer() -> None:
    time = Time()
    with server([503]) as (address, _), pytest.raises(ApiError) as caught:
        wait_ready(kubeconfig(address), time.clock())
    assert str(caught.value).startswith(
        f"{address}: the Kubernetes API is not ready after 300 s; last seen: it answers HTTP 503."
    )
    assert time.now >= kubernetes_api.API_SECONDS


def test_an_api_that_nobody_serves_is_named_with_the_cause() -> None:
    with server([200]) as (address, _):
        pass  # its port is free again
    with pytest.raises(ApiError, match="Connection refused"):
        wait_ready(kubeconfig(address), Time().clock())


def test_a_pod_that_goes_and_one_that_is_gone_are_evicted() -> None:
    with server([201, 404]) as (address, paths):
        api = KubernetesApi(kubeconfig(address))
        assert api.evict("shop", "web-1") is None
        assert api.evict("shop", "web-1") is None
    assert paths == ["/api/v1/namespaces/shop/pods/web-1/eviction"] * 2


BUDGET = "The disruption budget web needs 2 healthy pods and has 2 currently"
BLOCKED = {
    "message": "Cannot evict pod as it would violate the pod's disruption budget.",
    "details": {"causes": [{"reason": "DisruptionBudget", "message": BUDGET}]},
}


@pytest.mark.parametrize(
    ("status", "answer", "why"),
    [
        (429, BLOCKED, BUDGET),
        (429, {"message": "it is still being processed"}, "it is still being processed"),
        (500, {"message": "This pod has more than one PodDisruptionBudget"}, "This pod has more"),
        (403, {"message": "namespace shop is being terminated"}, "namespace shop is being term"),
        (409, {"message": "the object has been modified"}, "the object has been modified"),
        (502, {}, "it answers HTTP 502"),
    ],
)
def test_why_a_pod_may_not_go_is_told_in_the_apis_words(
    status: int, answer: dict[str, Any], why: str
) -> None:
    with server([status], json.dumps(answer).encode()) as (address, _):
        said = KubernetesApi(kubeconfig(address)).evict("shop", "web-1")
    assert said is not None
    assert said.startswith(why)


def test_an_eviction_that_nobody_answers_is_an_error() -> None:
    with server([]) as (address, _):
        pass  # its port is free again
    with pytest.raises(ApiError, match="Connection refused"):
        KubernetesApi(kubeconfig(address)).evict("shop", "web-1")


def test_a_change_that_the_api_refuses_is_an_error() -> None:
    with server([403], b'{"message": "forbidden"}') as (address, _):
        api = KubernetesApi(kubeconfig(address))
        with pytest.raises(ApiError, match="forbidden"):
            api.merge("/api/v1/nodes/node01", {})


@contextmanager
def keeping_server(calls_a_connection: int) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Serve `{}` on connections that are kept for so many calls, and note whose each call is."""
    callers: list[tuple[str, int]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        served = 0

        def do_GET(self) -> None:
            callers.append(self.client_address)
            self.served += 1
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            # Without a word, as a server does whose patience is over.
            self.close_connection = self.served >= calls_a_connection

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(httpd):
        yield f"https://127.0.0.1:{httpd.server_port}", callers


def test_many_calls_share_a_connection_while_they_are_looked_after() -> None:
    with keeping_server(100) as (address, callers):
        with KubernetesApi(kubeconfig(address)) as api:
            for _ in range(5):
                assert api.get("/api") == {}
        assert len(callers) == 5
        assert len(set(callers)) == 1
        api.get("/api")
        api.get("/api")
        assert len(set(callers)) == 3


def test_a_kept_connection_that_the_server_has_closed_is_made_again() -> None:
    with keeping_server(2) as (address, callers), KubernetesApi(kubeconfig(address)) as api:
        for _ in range(5):
            assert api.get("/api") == {}
    assert len(callers) == 5
    assert len(set(callers)) == 3
