"""Layer Deployment: what a killed run left, in vCenter and in the state, is put in order.

A run that is killed leaves notes of what it was about, of which those about creations stay until
somebody takes them out; it may leave things in vCenter that the state does not know; and, when it
was a destroy, things in the state that vCenter has removed. `pulumi up` clears its places itself;
the rest is done here, under the engine's own commands, and nothing of a running platform is touched
(docs/decisions/0019-killed-runs.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clients import omnictl, talosctl
from clients.pulumi_cli import EngineError, export, pulumi
from clients.vcenter import content_library, leftovers, machines
from clients.vcenter.connection import VCenter, VCenterError, connected
from clients.waiting import Clock
from components.omni.observer import Observer
from config import resource_types
from config.problems import SettingsError
from config.reading import PROJECT, gather, resolve
from config.settings import Settings
from ops.deploy import lock
from ops.engine.urn import kind_and_name

Resource = Mapping[str, Any]

CREATING = "creating"
PASSWORD, OMNI_KEY = f"{PROJECT}:vspherePassword", f"{PROJECT}:omniServiceAccountKey"
VSPHERE = "vsphere:index/"
CLOCK = Clock(tell=print)
"""What is waited for is told."""


@dataclass
class Site:
    """The settings, and vCenter with the password to it."""

    settings: Settings
    password: str = field(repr=False)
    omni_key: str = field(default="", repr=False)
    """Of Omni's service account; "" without Omni."""

    @cached_property
    def talosconfig(self) -> str:
        """The access to the machines' Talos; "" before the first `pulumi up` has ended."""
        outputs = json.loads(pulumi("stack", "output", "--json", "--show-secrets").stdout)
        return str(outputs.get("talosconfig", ""))

    @property
    def vcenter(self) -> VCenter:
        """How to reach vCenter."""
        return VCenter.of(self.settings.site)

    @classmethod
    def of_stack(cls) -> Site:
        """Read the stack's configuration. Raises EngineError."""
        document = json.loads(pulumi("config", "--json", "--show-secrets").stdout)
        encrypted = {key for key, one in document.items() if one.get("secret")}
        plain = {key: one["value"] for key, one in document.items() if key not in encrypted}
        try:
            settings = resolve(gather(plain, encrypted))
        except SettingsError as error:
            raise EngineError(str(error)) from None
        if PASSWORD not in encrypted:
            message = f"{PASSWORD}: not set; `pulumi config set --secret {PASSWORD}`"
            raise EngineError(message)
        key = document.get(OMNI_KEY, {}).get("value", "")
        return cls(settings, document[PASSWORD]["value"], key)


@dataclass(frozen=True)
class Found:
    """What a killed run left."""

    notes: tuple[str, ...]
    """The engine's pending operations: what was interrupted, and on which resource."""
    unknown: tuple[Resource, ...]
    """What was about to be made and is not in the state: it may be in vCenter."""
    gone: tuple[Resource, ...]
    """What is in the state and no longer in vCenter."""

    def __bool__(self) -> bool:
        return bool(self.notes or self.gone)

    def told(self) -> str:
        """Say what was found, and what becomes of it."""
        lines = [f"interrupted: {one}" for one in self.notes]
        lines += [
            f"not in the state: {kind_and_name(one['urn'])}; if it is in vCenter and holds "
            "nothing, it is removed"
            for one in self.unknown
        ]
        lines += [
            f"not in vCenter: {kind_and_name(one['urn'])}, id {one['id']}; it is taken out of the "
            "state"
            for one in self.gone
        ]
        return "\n".join(lines)


def refuse_locked() -> None:
    """Fail while somebody holds the stack's lock: what looks left behind may be in the making."""
    held = lock.ask()
    if held:
        names = "\n".join(f"  {one.text}" for one in held)
        message = (
            f"the stack is locked by\n{names}\nDoes it still run? Then wait. If not: "
            "`pulumi cancel`, then again"
        )
        raise EngineError(message)


def look(state: str, site: Site) -> Found:
    """Compare the state with vCenter; changes nothing. Raises VCenterError."""
    deployment = json.loads(state)["deployment"]
    resources: Sequence[Resource] = deployment.get("resources") or []
    pending = deployment.get("pending_operations") or []
    known = {one["urn"] for one in resources}
    unknown = [
        one["resource"]
        for one in pending
        if one["type"] == CREATING
        and one["resource"]["type"].startswith(VSPHERE)
        and one["resource"]["urn"] not in known
    ]
    notes = [f"{kind_and_name(one['resource']['urn'])}, while {one['type']}" for one in pending]
    return Found(tuple(notes), tuple(unknown), tuple(_gone(resources, site)))


def _gone(resources: Sequence[Resource], site: Site) -> Iterator[Resource]:
    ours = [one for one in resources if one["type"].startswith(VSPHERE) and one.get("id")]
    if not ours:
        return
    with (
        connected(site.vcenter, site.password) as content,
        content_library.session(site.vcenter, site.password) as rest,
    ):
        for one in ours:
            if not leftovers.exists(content, rest, one["type"], one["id"], CLOCK):
                yield one


def carry_out(state: str, found: Found, site: Site) -> None:
    """Remove what was found. Raises VCenterError and EngineError."""
    # Machines before the folder that they are in, tags before their category.
    for one in sorted(found.unknown, key=lambda each: each["type"] != resource_types.MACHINE):
        _clear(one, site)
    if export() != state:
        message = "the state has changed meanwhile: somebody deploys; run this again afterwards"
        raise EngineError(message)
    document = json.loads(state)
    forget(document["deployment"], {one["urn"] for one in found.gone})
    with TemporaryDirectory(prefix="repair-") as folder:
        file = Path(folder, "state.json")
        file.touch(mode=0o600)
        file.write_text(json.dumps(document), encoding="utf-8")
        # The engine drops the notes of interrupted operations from a state that is imported.
        pulumi("stack", "import", "--file", str(file))


def forget(deployment: dict[str, Any], gone: set[str]) -> None:
    """Take resources out of a deployment, and out of what the others depend on."""
    if not gone:
        return
    rest = [one for one in deployment["resources"] if one["urn"] not in gone]
    for one in rest:
        if one.get("dependencies"):
            one["dependencies"] = [urn for urn in one["dependencies"] if urn not in gone]
        for name, urns in (one.get("propertyDependencies") or {}).items():
            one["propertyDependencies"][name] = [urn for urn in urns or [] if urn not in gone]
        if one.get("deletedWith") in gone:
            del one["deletedWith"]
    deployment["resources"] = rest


def _clear(resource: Resource, site: Site) -> None:
    """Remove what an interrupted creation left in vCenter, if it holds nothing."""
    vcenter, password, inputs = site.vcenter, site.password, resource["inputs"]
    match resource["type"]:
        case resource_types.MACHINE:
            _clear_machine(str(inputs["name"]), site)
        case resource_types.IMAGE:
            content_library.remove_items(vcenter, password, inputs["libraryId"], inputs["name"])
        case resource_types.FOLDER:
            leftovers.clear_folder(vcenter, password, inputs["path"], CLOCK)
        case resource_types.TAG_CATEGORY:
            leftovers.clear_category(vcenter, password, inputs["name"], CLOCK)
        case resource_types.TAG:
            place = f"{inputs['categoryId']} {inputs['name']}"
            leftovers.clear_tag(vcenter, password, place, CLOCK)
        case resource_types.CONTENT_LIBRARY:
            leftovers.clear_library(vcenter, password, inputs["name"], CLOCK)
        case resource_types.ANTI_AFFINITY_RULE:
            place = f"{inputs['computeClusterId']}:{inputs['name']}"
            leftovers.clear_rule(vcenter, password, place, CLOCK)


def _clear_machine(name: str, site: Site) -> None:
    addresses = [str(one.address) for one in site.settings.machines if one.name == name]
    if not addresses:
        message = (
            f"{name}: not among platform:machines, so nobody can tell whether it holds anything"
        )
        raise VCenterError(message)
    with _question(site, addresses[0]) as is_unconfigured:
        machines.remove_leftover(site.vcenter, site.password, name, is_unconfigured, CLOCK)


@contextmanager
def _question(site: Site, address: str) -> Iterator[Callable[[str], bool]]:
    """Offer the question whether a machine waits for its first configuration, by its UUID.

    Maintenance mode answers without credentials; one that takes them is no leftover. Once Omni has
    a machine, only Omni can be asked.
    """
    omni = site.settings.omni
    if omni is None:
        with talosctl.connect(site.talosconfig) as talos:
            yield lambda _: machines.unconfigured(talos, address, CLOCK)
        return
    with omnictl.connect(omnictl.Account(omni.endpoint, site.omni_key)) as client:
        yield Observer(client, site.settings.cluster.name, CLOCK).waits
