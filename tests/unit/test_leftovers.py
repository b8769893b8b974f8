"""What the machines share, left in vCenter by a killed run: removed when it holds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from clients.vcenter import leftovers
from clients.vcenter.connection import VCenter, VCenterError
from clients.vcenter.content_library import ITEM_PATH
from clients.vcenter.leftovers import LIBRARY_PATH, LOCAL_LIBRARY_PATH, TAGGING
from clients.waiting import Clock
from config import resource_types
from tests.unit.recorder import run_production

VCENTER = VCenter("vcenter.example", "user", "dc01", "platform-prod", allow_unverified_tls=False)

pytestmark = pytest.mark.usefixtures("talosctl")


@dataclass
class FakeRest:
    """vCenter's REST API: a category `prod-role` with a tag, and a content library."""

    attached: bool = False
    items: tuple[str, ...] = ()
    done: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, _: object = None) -> Any:
        if method == "DELETE":
            self.done.append(path)
            return None
        answers = {
            f"{TAGGING}/category": ["c0", "c1"],
            f"{TAGGING}/category/id:c0": {"name": "somebody's"},
            f"{TAGGING}/category/id:c1": {"name": "prod-role"},
            f"{TAGGING}/tag/id:c1?~action=list-tags-for-category": ["t1"],
            f"{TAGGING}/tag/id:t1": {"name": "controlplane"},
            f"{TAGGING}/tag-association/id:t1?~action=list-attached-objects": ["vm-1"]
            if self.attached
            else [],
            f"{LIBRARY_PATH}?~action=find": ["l1"],
            f"{ITEM_PATH}?library_id=l1": list(self.items),
        }
        return answers[path]

    def exists(self, path: str) -> bool:
        return path in {f"{TAGGING}/category/id:c1", f"{LIBRARY_PATH}/id:l1"}


@pytest.fixture
def rest(monkeypatch: pytest.MonkeyPatch) -> FakeRest:
    fake = FakeRest()

    @contextmanager
    def session(vcenter: VCenter, password: str) -> Iterator[FakeRest]:
        assert (vcenter, password) == (VCENTER, "password")
        yield fake

    monkeypatch.setattr(leftovers, "session", session)
    return fake


def test_a_category_goes_with_the_tags_that_nothing_has(rest: FakeRest) -> None:
    assert leftovers.clear_category(VCENTER, "password", "prod-role", Clock())
    assert rest.done == [f"{TAGGING}/tag/id:t1", f"{TAGGING}/category/id:c1"]


def test_a_tag_that_nothing_has_goes_alone(rest: FakeRest) -> None:
    assert leftovers.clear_tag(VCENTER, "password", "c1 controlplane", Clock())
    assert rest.done == [f"{TAGGING}/tag/id:t1"]
    assert not leftovers.clear_tag(VCENTER, "password", "c1 worker", Clock())
    assert not leftovers.clear_tag(VCENTER, "password", "c9 controlplane", Clock())


def test_an_empty_library_goes(rest: FakeRest) -> None:
    assert leftovers.clear_library(VCENTER, "password", "talos", Clock())
    assert rest.done == [f"{LOCAL_LIBRARY_PATH}/id:l1"]


@pytest.mark.parametrize(
    ("clear", "place", "message"),
    [
        (leftovers.clear_category, "prod-role", "it is attached to objects"),
        (leftovers.clear_tag, "c1 controlplane", "it is attached to objects"),
        (leftovers.clear_library, "talos", "the content library talos .*`pulumi import .* l1`"),
    ],
)
def test_what_holds_something_stays_and_is_told(
    rest: FakeRest, clear: leftovers.Clear, place: str, message: str
) -> None:
    rest.attached, rest.items = True, ("item",)
    with pytest.raises(VCenterError, match=message):
        clear(VCENTER, "password", place, Clock())
    assert rest.done == []


@dataclass
class FakeFolder:
    childEntity: tuple[str, ...] = ()  # noqa: N815 vSphere's name
    permission: tuple[str, ...] = ()
    removed: bool = False

    def Destroy_Task(self) -> object:  # noqa: N802 vSphere's name
        self.removed = True
        state = vim.TaskInfo.State.success
        return SimpleNamespace(info=SimpleNamespace(state=state, descriptionId="Folder.destroy"))


def content_of(monkeypatch: pytest.MonkeyPatch, folder: FakeFolder | None) -> None:
    def find(path: str) -> FakeFolder | None:
        assert path == "/dc01/vm/platform-prod"
        return folder

    @contextmanager
    def connected(*_: object) -> Iterator[object]:
        yield SimpleNamespace(searchIndex=SimpleNamespace(FindByInventoryPath=find))

    monkeypatch.setattr(leftovers, "connected", connected)


def test_an_empty_folder_goes_and_none_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = FakeFolder()
    content_of(monkeypatch, folder)
    assert leftovers.clear_folder(VCENTER, "password", "platform-prod", Clock())
    assert folder.removed
    content_of(monkeypatch, None)
    assert not leftovers.clear_folder(VCENTER, "password", "platform-prod", Clock())


@pytest.mark.parametrize(
    "folder", [FakeFolder(("vm-1",)), FakeFolder(permission=("group platform: administrator",))]
)
def test_a_folder_with_machines_or_permissions_of_its_own_stays(
    monkeypatch: pytest.MonkeyPatch, folder: FakeFolder
) -> None:
    content_of(monkeypatch, folder)
    with pytest.raises(VCenterError, match="take it over with `pulumi import vsphere:index/folder"):
        leftovers.clear_folder(VCENTER, "password", "platform-prod", Clock())
    assert not folder.removed


def test_a_rule_of_a_cluster_that_is_gone_is_gone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def rules(_: object, cluster: str) -> list[object]:
        if cluster == "domain-c1":
            return [SimpleNamespace(key=7)]
        raise vmodl.fault.ManagedObjectNotFound

    monkeypatch.setattr(leftovers, "_rules", rules)
    rest: Any = FakeRest()
    assert leftovers.exists(None, rest, resource_types.ANTI_AFFINITY_RULE, "domain-c1:7", Clock())
    assert not leftovers.exists(
        None, rest, resource_types.ANTI_AFFINITY_RULE, "domain-c1:8", Clock()
    )
    assert not leftovers.exists(
        None, rest, resource_types.ANTI_AFFINITY_RULE, "domain-c2:7", Clock()
    )


def test_everything_in_vcenter_clears_its_place_before_it_is_made() -> None:
    platform = run_production()
    made = [one for one in platform.resources if one.type.startswith("vsphere:index/")]
    assert {one.type for one in made} >= {
        resource_types.MACHINE,
        resource_types.FOLDER,
        resource_types.TAG_CATEGORY,
        resource_types.TAG,
        resource_types.CONTENT_LIBRARY,
        resource_types.IMAGE,
        resource_types.ANTI_AFFINITY_RULE,
    }
    assert [one.name for one in made if not one.hooks("before_create")] == []


def test_a_machine_is_switched_on_before_it_is_configured() -> None:
    platform = run_production()
    for one in platform.all("talos:machine/configurationApply:ConfigurationApply"):
        assert one.hooks("before_create") == [f"{one.name}-unconfigured"]


@pytest.mark.parametrize("removed", [True, False])
def test_a_machine_that_is_being_removed_is_looked_for_when_vcenter_is_done(
    *, removed: bool
) -> None:
    states = [vim.TaskInfo.State.success, vim.TaskInfo.State.running, vim.TaskInfo.State.running]
    asked: list[int] = []

    class Removal:
        descriptionId = "VirtualMachine.destroy"  # noqa: N815 vCenter's name

        @property
        def state(self) -> Any:
            return states.pop() if len(states) > 1 else states[0]

    def find(*_: object) -> Any:
        asked.append(len(states))
        done = len(states) == 1
        return None if done and removed else machine

    machine = SimpleNamespace(recentTask=[SimpleNamespace(info=Removal())])
    content = SimpleNamespace(searchIndex=SimpleNamespace(FindByUuid=find))
    clock = Clock(sleep=lambda _: None)
    there = leftovers.exists(content, FakeRest(), resource_types.MACHINE, "uuid-1", clock)  # type: ignore[arg-type]
    assert there is not removed
    assert asked == [3, 1]
