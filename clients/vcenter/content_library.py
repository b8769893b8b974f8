"""vCenter's content library: an image that an interrupted run left in the content library.

A run that is killed while the image is uploaded leaves an item in the library, empty or half full,
but none in the stack's state; the next run would fail on its name. Nothing is made of such an item,
so it is removed. pyVmomi knows no content libraries: this is vCenter's REST API, under the paths
that the vSphere provider itself uses (govmomi, vapi/library).
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from typing import Any

from clients.vcenter.connection import VCenter, VCenterError

SESSION_PATH = "/rest/com/vmware/cis/session"
ITEM_PATH = "/rest/com/vmware/content/library/item"
SESSION_HEADER = "vmware-api-session-id"
CALL_SECONDS = 60.0
"""vCenter answers a removal before the files are gone."""


def remove_items(vcenter: VCenter, password: str, library: str, name: str) -> int:
    """Remove the items of this name from the library; tell how many there were.

    Fails with VCenterError when vCenter does not answer, or refuses.
    """
    with session(vcenter, password) as rest:
        wanted = {"spec": {"name": name, "library_id": library}}
        found = rest.call("POST", f"{ITEM_PATH}?~action=find", wanted) or []
        for identity in found:
            rest.call("DELETE", f"{ITEM_PATH}/id:{identity}")
        return len(found)


class Session:
    """Calls of vCenter's REST API."""

    def __init__(self, vcenter: VCenter) -> None:
        self._vcenter = vcenter
        self._connection = HTTPSConnection(
            vcenter.server, timeout=CALL_SECONDS, context=vcenter.tls()
        )
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}

    def login(self, password: str) -> None:
        """Begin a session in vCenter."""
        credentials = b64encode(f"{self._vcenter.user}:{password}".encode()).decode()
        token = self.call("POST", SESSION_PATH, headers={"Authorization": f"Basic {credentials}"})
        self._headers[SESSION_HEADER] = token

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:  # noqa: ANN401 JSON
        """Send a request and give the value of its answer; None when it has none."""
        answer, text = self._send(method, path, body, headers)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise VCenterError(self._vcenter.refuses())
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise VCenterError(self._refusal(method, path, answer, text))
        return json.loads(text).get("value") if text.strip() else None

    def exists(self, path: str) -> bool:
        """Tell whether there is an object at a path; only 404 means no."""
        answer, text = self._send("GET", path)
        if answer.status >= HTTPStatus.BAD_REQUEST and answer.status != HTTPStatus.NOT_FOUND:
            raise VCenterError(self._refusal("GET", path, answer, text))
        return answer.status != HTTPStatus.NOT_FOUND

    def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[HTTPResponse, str]:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {**self._headers, **(headers or {})})
        answer = self._connection.getresponse()
        return answer, answer.read().decode(errors="replace")

    def _refusal(self, method: str, path: str, answer: HTTPResponse, text: str) -> str:
        said = f"{answer.status} {answer.reason} {text[:300]}"
        return f"{self._vcenter.server}: {method} {path}: {said}".rstrip()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def session(vcenter: VCenter, password: str) -> Iterator[Session]:
    """Be logged in to vCenter: an operator's sessions are counted there, so none is left behind."""
    rest = Session(vcenter)
    try:
        rest.login(password)
        try:
            yield rest
        finally:
            # After a failure the connection may be of no use, and the failure is what is told.
            with suppress(OSError, HTTPException, VCenterError):
                rest.call("DELETE", SESSION_PATH)
    except (OSError, HTTPException) as error:  # its certificate, too
        raise VCenterError(vcenter.unreachable(error)) from None
    finally:
        rest.close()
