"""Leftover images in vCenter's content library: removed before theirs is made again."""

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import CannotSendRequest
from pathlib import Path
from typing import Any

import pytest

from clients.vcenter import content_library
from clients.vcenter.connection import VCenter, VCenterError
from clients.vcenter.content_library import remove_items
from tests.unit.recorder import install_talosctl, production, run, without_services

VCENTER = VCenter("vcenter.example", "user", "dc01", "platform-prod", allow_unverified_tls=False)
ITEM = "vsphere:index/contentLibraryItem:ContentLibraryItem"


@dataclass
class FakeVCenter:
    """vCenter's REST API with items by id, which notes what is done to it."""

    items: dict[str, tuple[str, str]]
    """Library and name of each."""
    refused: str = ""
    """What is answered to a removal, when not empty."""
    broken: Exception | None = None
    done: list[str] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)

    def connect(self, server: str, **_: object) -> "FakeConnection":
        assert server == "vcenter.example"
        return FakeConnection(self)

    def answer(
        self, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> tuple[int, Any]:
        if self.broken:
            raise self.broken
        if (method, path) == ("POST", content_library.SESSION_PATH):
            return self.login(headers["Authorization"])
        if headers.get(content_library.SESSION_HEADER) not in self.sessions:
            return 401, None
        self.done.append(f"{method} {path.removeprefix(content_library.ITEM_PATH)}")
        if (method, path) == ("DELETE", content_library.SESSION_PATH):
            self.sessions.clear()
            return 200, None
        return self.find(body["spec"]) if method == "POST" else self.delete(path)

    def login(self, given: str) -> tuple[int, Any]:
        if b64decode(given.removeprefix("Basic ")).decode() != "user:password":
            return 401, None
        self.sessions.add("token")
        return 200, {"value": "token"}

    def find(self, spec: Mapping[str, str]) -> tuple[int, Any]:
        wanted = (spec["library_id"], spec["name"])
        found = [identity for identity, item in self.items.items() if item == wanted]
        return 200, {"value": found} if found else {}

    def delete(self, path: str) -> tuple[int, Any]:
        if self.refused:
            return 403, {"type": self.refused}
        del self.items[path.rpartition("id:")[2]]
        return 200, None


@dataclass
class FakeConnection:
    vcenter: FakeVCenter
    reason: str = "Reason"
    status: int = 0
    text: str = ""

    def request(self, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> None:
        content = json.loads(body) if body else None
        self.status, answer = self.vcenter.answer(method, path, content, headers)
        self.text = "" if answer is None else json.dumps(answer)

    def getresponse(self) -> "FakeConnection":
        return self

    def read(self) -> bytes:
        return self.text.encode()

    def close(self) -> None:
        self.vcenter.done.append("close")


def remove(fake: FakeVCenter, monkeypatch: pytest.MonkeyPatch, password: str = "password") -> int:  # noqa: S107
    monkeypatch.setattr(content_library, "HTTPSConnection", fake.connect)
    return remove_items(VCENTER, password, "library-1", "talos-1.13.9")


def test_only_the_item_of_this_name_in_this_library_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = {"b": ("library-1", "talos-1.12.0"), "c": ("library-2", "talos-1.13.9")}
    fake = FakeVCenter({"a": ("library-1", "talos-1.13.9"), **others})
    assert remove(fake, monkeypatch) == 1
    assert fake.items == others


def test_where_nothing_is_nothing_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeVCenter({})
    assert remove(fake, monkeypatch) == 0
    assert not any(step.startswith("DELETE /id") for step in fake.done)


@pytest.mark.parametrize("refused", ["", "com.vmware.vapi.std.errors.unauthorized"])
def test_no_session_is_left_in_vcenter(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    fake = FakeVCenter({"a": ("library-1", "talos-1.13.9")}, refused=refused)
    if refused:
        with pytest.raises(VCenterError):
            remove(fake, monkeypatch)
    else:
        remove(fake, monkeypatch)
    assert not fake.sessions
    assert fake.done[-1] == "close"


def test_vcenters_reason_is_told_when_the_removal_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeVCenter(
        {"a": ("library-1", "talos-1.13.9")}, refused="com.vmware.vapi.std.errors.unauthorized"
    )
    with pytest.raises(VCenterError, match=r"DELETE .*/id:a: 403 .*errors\.unauthorized"):
        remove(fake, monkeypatch)


def test_wrong_credentials_are_named_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VCenterError) as caught:
        remove(FakeVCenter({}), monkeypatch, "s3cret")
    assert str(caught.value) == (
        "vcenter.example: refuses user user; check platform:vspherePassword"
    )


def test_a_vcenter_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeVCenter({}, broken=ConnectionRefusedError(111, "Connection refused"))
    told = r'^platform:site\.vcenter = "vcenter\.example": nothing listens there; .*refused'
    with pytest.raises(VCenterError, match=told):
        remove(fake, monkeypatch)


def test_a_connection_that_breaks_in_the_middle_is_told_and_not_the_logout_that_fails_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeVCenter({})

    def fail(_: object) -> None:
        fake.broken = CannotSendRequest("Request-sent")
        raise TimeoutError("timed out")

    monkeypatch.setattr(fake, "find", fail)
    with pytest.raises(VCenterError, match=r"it does not answer; .*\(timed out\)"):
        remove(fake, monkeypatch)
    assert fake.done[-1] == "close"


def test_an_image_of_another_origin_has_another_name_and_a_place_that_was_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_talosctl(tmp_path, "1.13.9")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    settings = without_services(production())
    elsewhere = settings | {"site": settings["site"] | {"imageFactory": "images.example"}}
    images = [run(one).one(ITEM, "talos") for one in (settings, elsewhere)]
    assert all(image.hooks("before_create") == ["image-cleared"] for image in images)
    assert [image.inputs["description"] for image in images] == [
        image.inputs["fileUrl"] for image in images
    ]
    assert images[0].inputs["name"] != images[1].inputs["name"]
