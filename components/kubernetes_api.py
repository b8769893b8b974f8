"""Layer Talos: waits until the Kubernetes API answers at the address that everybody uses."""

from __future__ import annotations

import asyncio
import base64
import ssl
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pulumi
import yaml

from components.health import Clock
from components.rollout import resolved
from components.talosctl import private_file

if TYPE_CHECKING:
    from components.gate import Hook

API_SECONDS = 300.0
"""Covers the VIP's election through etcd and a slow first start of the API server."""
POLL_SECONDS = 1.0
CALL_SECONDS = 5.0


class ApiError(Exception):
    """The Kubernetes API does not answer."""


def api_answers(kubeconfig: pulumi.Output[str]) -> Hook:
    """Make the hook that waits until the API says that it is ready."""

    async def api_answers(_: pulumi.ResourceHookArgs) -> None:
        document = await resolved(kubeconfig)
        await asyncio.to_thread(wait_ready, document)

    return api_answers


def wait_ready(kubeconfig: str, clock: Clock | None = None) -> None:
    """Ask /readyz with the kubeconfig's own credentials until the answer is yes."""
    clock = clock or Clock()
    config: dict[str, Any] = yaml.safe_load(kubeconfig)
    server = str(config["clusters"][0]["cluster"]["server"])
    context = _tls(config)
    deadline = clock.now() + API_SECONDS
    while (reason := _not_ready(server, context)) is not None:
        if clock.now() >= deadline:
            message = (
                f"{server}: the Kubernetes API is not ready after {API_SECONDS:.0f} s; last seen: "
                f"{reason}. The address moves to a control plane once etcd has a leader: see "
                "`talosctl etcd status` on the control planes, then run `pulumi up` again"
            )
            raise ApiError(message)
        clock.sleep(POLL_SECONDS)


def _tls(config: dict[str, Any]) -> ssl.SSLContext:
    """Make the TLS settings that a kubeconfig describes; the ssl module reads keys from files."""
    authority = _decoded(config["clusters"][0]["cluster"]["certificate-authority-data"])
    user = config["users"][0]["user"]
    pair = _decoded(user["client-certificate-data"]) + "\n" + _decoded(user["client-key-data"])
    context = ssl.create_default_context(cadata=authority)
    with TemporaryDirectory(prefix="kubernetes-") as directory:
        file = Path(directory, "client.pem")
        with private_file(file, pair):
            context.load_cert_chain(file)
    return context


def _decoded(data: str) -> str:
    return base64.b64decode(data).decode()


def _not_ready(server: str, context: ssl.SSLContext) -> str | None:
    """Say why the API is not ready; None when it is."""
    url = urlsplit(server)
    connection = HTTPSConnection(
        url.hostname or "", url.port or 443, timeout=CALL_SECONDS, context=context
    )
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return None if status == HTTPStatus.OK else f"it answers HTTP {status}"
