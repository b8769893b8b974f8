"""Layer vSphere: an image that an interrupted run left in the content library.

A run that is killed while the image is uploaded leaves an item in the library, empty or half full,
but none in the stack's state; the next run would fail on its name. Nothing is made of such an item,
so it is removed. pyVmomi knows no content libraries: this is vCenter's REST API, under the paths
that the vSphere provider itself uses (govmomi, vapi/library).
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any

import pulumi

from components.hooks import in_thread, resolved
from components.orphans import OrphanError, VCenter

if TYPE_CHECKING:
    from components.hooks import Hook

SESSION_PATH = "/rest/com/vmware/cis/session"
ITEM_PATH = "/rest/com/vmware/content/library/item"
SESSION_HEADER = "vmware-api-session-id"
CALL_SECONDS = 60.0
"""vCenter answers a removal before the files are gone."""


def no_leftover_item(
    vcenter: VCenter,
    password: pulumi.Output[str],
    library: pulumi.Output[str],
    name: str,
) -> Hook:
    """Make the hook that clears an item's place in the library (its id) before the item is made."""

    async def no_leftover_item(args: pulumi.ResourceHookArgs) -> None:
        secret, identity = await resolved(password), await resolved(library)
        await in_thread(args, lambda _: remove_items(vcenter, secret, identity, name))

    return no_leftover_item


def remove_items(vcenter: VCenter, password: str, library: str, name: str) -> int:
    """Remove the items of this name from the library; tell how many there were.

    Fails with OrphanError when vCenter does not answer, or refuses.
    """
    try:
        with _session(vcenter, password) as session:
            wanted = {"spec": {"name": name, "library_id": library}}
            found = session.call("POST", f"{ITEM_PATH}?~action=find", wanted) or []
            for identity in found:
                session.call("DELETE", f"{ITEM_PATH}/id:{identity}")
            return len(found)
    except (OSError, HTTPException) as error:  # its certificate, too
        message = f"{vcenter.server}: cannot be reached: {error}"
        raise OrphanError(message) from None


class _Session:
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
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {**self._headers, **(headers or {})})
        answer = self._connection.getresponse()
        text = answer.read().decode(errors="replace")
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise OrphanError(self._vcenter.refuses())
        if answer.status >= HTTPStatus.BAD_REQUEST:
            message = (
                f"{self._vcenter.server}: {method} {path}: {answer.status} {answer.reason} "
                f"{text[:300]}".rstrip()
            )
            raise OrphanError(message)
        return json.loads(text).get("value") if text.strip() else None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def _session(vcenter: VCenter, password: str) -> Iterator[_Session]:
    """Be logged in to vCenter: an operator's sessions are counted there, so none is left behind."""
    session = _Session(vcenter)
    try:
        session.login(password)
        try:
            yield session
        finally:
            session.call("DELETE", SESSION_PATH)
    finally:
        session.close()
