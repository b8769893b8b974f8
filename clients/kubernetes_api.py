"""The Kubernetes API at the address that everybody uses.

Only what hooks and the operator's tools need, with the standard library: all else goes through the
Kubernetes provider.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.client import BadStatusLine, HTTPException, HTTPSConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self
from urllib.parse import urlsplit

from clients.commands import private_file
from clients.waiting import Clock
from config import plain_yaml
from config.settings import API_PORT

API_SECONDS = 300.0
"""Covers the VIP's election through etcd and a slow first start of the API server."""
POLL_SECONDS = 1.0
CALL_SECONDS = 5.0
MANAGER = "platform"
"""As whom the API server notes what is changed here."""
CLOSED = (ConnectionError, BadStatusLine, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What a call on a kept connection finds that the server has closed."""


class ApiError(Exception):
    """The Kubernetes API does not answer, or refuses."""

    page = "docs/operations.md"


class InvalidError(ApiError):
    """The API calls an object invalid, as it does when a field that cannot change would."""


class KubernetesApi:
    """The API of one cluster, with a kubeconfig's own credentials.

    Used as a context manager it keeps its connections for further calls, one a thread at a time;
    else each call has its own.
    """

    def __init__(
        self, kubeconfig: str, call_seconds: float = CALL_SECONDS, machine: str | None = None
    ) -> None:
        """Take a kubeconfig; `machine` is the address of one API server, to ask no other."""
        config: dict[str, Any] = plain_yaml.read(kubeconfig)
        self._call_seconds = call_seconds
        self.server = str(config["clusters"][0]["cluster"]["server"])
        if machine is not None:
            self.server = f"https://{machine}:{urlsplit(self.server).port or API_PORT}"
        self._context = _tls(config)
        self._token = _user(config).get("token")
        self._idle: list[HTTPSConnection] | None = None

    def __enter__(self) -> Self:
        """Keep connections from now on."""
        self._idle = []
        return self

    def __exit__(self, *_: object) -> None:
        """Close them."""
        idle, self._idle = self._idle or [], None
        for one in idle:
            one.close()

    def get(self, path: str) -> dict[str, Any]:
        """Read an object or a list. Raises `ApiError`."""
        found: dict[str, Any] = json.loads(self._call("GET", path, HTTPStatus.OK))
        return found

    def text(self, path: str) -> str:
        """Read what is no JSON, such as metrics. Raises `ApiError`."""
        return self._call("GET", path, HTTPStatus.OK).decode()

    def find(self, path: str) -> dict[str, Any] | None:
        """Read an object or a list; None when there is none. Raises `ApiError`."""
        status, body = self._request("GET", path)
        if status == HTTPStatus.NOT_FOUND:
            return None
        if status != HTTPStatus.OK:
            raise ApiError(f"{path}: {_message(body) or f'it answers HTTP {status}'}")
        found: dict[str, Any] = json.loads(body)
        return found

    def would_apply(self, path: str, body: Mapping[str, Any], manager: str) -> dict[str, Any]:
        """Give an object as a server-side apply would leave it, without making it.

        Raises `InvalidError` where the object would be invalid, else `ApiError`.
        """
        query = f"dryRun=All&force=true&fieldManager={manager}"
        status, answer = self._request(
            "PATCH", f"{path}?{query}", json.dumps(body).encode(), "application/apply-patch+yaml"
        )
        if status == HTTPStatus.UNPROCESSABLE_ENTITY:
            raise InvalidError(_message(answer) or f"{path}: it answers HTTP {status}")
        if status != HTTPStatus.OK:
            raise ApiError(f"{path}: {_message(answer) or f'it answers HTTP {status}'}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def merge(self, path: str, body: Mapping[str, Any]) -> None:
        """Change some fields of an object, by a merge patch: None takes one away.

        Raises `ApiError`.
        """
        kind = "application/merge-patch+json"
        query = f"{path}?fieldManager={MANAGER}"
        status, answer = self._request("PATCH", query, json.dumps(body).encode(), kind)
        if status != HTTPStatus.OK:
            raise ApiError(f"{path}: {_message(answer) or f'it answers HTTP {status}'}")

    def evict(self, namespace: str, name: str) -> str | None:
        """Ask for a pod to go, as far as disruption budgets allow; None, or why it may not now.

        One that is gone is as good. A refusal of any kind is about this pod alone, as while its
        namespace is being deleted. Raises `ApiError` when the API does not answer (kubernetes.io,
        API-initiated Eviction).
        """
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        }
        status, answer = self._request("POST", path, json.dumps(body).encode())
        if status in {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NOT_FOUND}:
            return None
        return "; ".join(_causes(answer)) or _message(answer) or f"it answers HTTP {status}"

    def delete(self, path: str) -> None:
        """Delete an object; one that is gone is as good. Raises `ApiError`."""
        self._call("DELETE", path, HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.NOT_FOUND)

    def would_accept(self, path: str, body: Mapping[str, Any]) -> str | None:
        """Ask, without making it, whether the API takes an object; None, or why it cannot tell.

        A refusal by a rule or a webhook is an answer too: the way to it works.
        """
        text = json.dumps(body).encode()
        try:
            status, answer = self._request("POST", f"{path}?dryRun=All", text)
        except ApiError as error:
            return str(error)
        answered = status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_FOUND
        return None if answered else _message(answer) or f"it answers HTTP {status}"

    def not_ready(self) -> str | None:
        """Say why the API is not ready; None when it is."""
        try:
            self._call("GET", "/readyz", HTTPStatus.OK)
        except ApiError as error:
            return str(error)
        return None

    def _call(self, method: str, path: str, *accepted: HTTPStatus) -> bytes:
        status, body = self._request(method, path)
        if status not in accepted:
            message = f"it answers HTTP {status}"
            raise ApiError(message)
        return body

    def _request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, bytes]:
        headers = {"Content-Type": kind} if body else {}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = self._connection()
        known = connection.sock is not None
        try:
            try:
                return self._answer(connection, method, path, body, headers)
            except CLOSED:
                if not known:
                    raise
                connection.close()  # the server has closed it meanwhile: the next one is new
                return self._answer(connection, method, path, body, headers)
        except (OSError, HTTPException) as error:
            connection.close()
            raise ApiError(str(error) or type(error).__name__) from None
        except BaseException:
            connection.close()
            raise

    def _connection(self) -> HTTPSConnection:
        with suppress(IndexError):
            if self._idle is not None:
                return self._idle.pop()
        url = urlsplit(self.server)
        return HTTPSConnection(
            url.hostname or "", url.port or 443, timeout=self._call_seconds, context=self._context
        )

    def _answer(
        self,
        connection: HTTPSConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[int, bytes]:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        answer = response.status, response.read()
        if self._idle is None:
            connection.close()
        else:
            self._idle.append(connection)
        return answer


def _message(answer: bytes) -> str | None:
    """Read the message of the API's Status object."""
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return None


def _causes(answer: bytes) -> list[str]:
    """Read the single causes of the API's Status object, such as the disruption budget's words."""
    try:
        causes = json.loads(answer)["details"]["causes"]
        return [str(one["message"]) for one in causes if one.get("message")]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def wait_ready(kubeconfig: str, clock: Clock) -> None:
    """Ask /readyz with the kubeconfig's own credentials until the answer is yes."""
    api = KubernetesApi(kubeconfig)
    reason = clock.wait(
        f"the Kubernetes API at {api.server} to be ready",
        lambda: api.not_ready() or "",
        seconds=API_SECONDS,
        poll=POLL_SECONDS,
    )
    if reason:
        message = (
            f"{api.server}: the Kubernetes API is not ready after {API_SECONDS:.0f} s; last "
            f"seen: {reason}. The address moves to a control plane once etcd has a leader: see "
            "`talosctl etcd status` on the control planes, then run `pulumi up` again"
        )
        raise ApiError(message)


def _user(config: dict[str, Any]) -> dict[str, Any]:
    """Give who asks: with a certificate, or with a token."""
    users: list[dict[str, Any]] = config.get("users") or [{}]
    return users[0].get("user") or {}


def _tls(config: dict[str, Any]) -> ssl.SSLContext:
    """Make the TLS settings that a kubeconfig describes; the ssl module reads keys from files.

    Without an authority of its own the server's certificate is of one that this computer trusts.
    """
    authority = config["clusters"][0]["cluster"].get("certificate-authority-data")
    user = _user(config)
    context = ssl.create_default_context(cadata=None if authority is None else _decoded(authority))
    if "client-certificate-data" not in user:
        return context
    pair = _decoded(user["client-certificate-data"]) + "\n" + _decoded(user["client-key-data"])
    with TemporaryDirectory(prefix="kubernetes-") as directory:
        file = Path(directory, "client.pem")
        with private_file(file, pair):
            context.load_cert_chain(file)
    return context


def _decoded(data: str) -> str:
    return base64.b64decode(data).decode()
