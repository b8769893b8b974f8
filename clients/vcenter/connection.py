"""A session of vCenter's SOAP API, by pyVmomi, and its tasks."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from clients.explanation import of_connection
from clients.vcenter import pyvmomi
from clients.waiting import Clock
from config.problems import problem

if TYPE_CHECKING:
    from config.settings import Site

TASK_SECONDS = 300.0
POLL_SECONDS = 1.0


class VCenterError(Exception):
    """vCenter cannot be asked or refuses, or something there is in the way."""

    page = "docs/procedures/failed-up.md"


@dataclass(frozen=True)
class VCenter:
    """How to reach vCenter, and where the platform's machines are in it."""

    server: str
    user: str
    datacenter: str
    folder: str
    """The machines' folder, relative to the datacenter's folder for virtual machines."""
    allow_unverified_tls: bool
    trusted_roots: str | None = None
    """In PEM: authorities that are trusted beside this computer's own."""

    @classmethod
    def of(cls, site: Site) -> VCenter:
        """Take what the settings say of the site."""
        return cls(
            server=site.vcenter,
            user=site.user,
            datacenter=site.datacenter,
            folder=site.folder,
            allow_unverified_tls=site.allow_unverified_tls,
            trusted_roots=site.trusted_roots,
        )

    @property
    def folder_path(self) -> str:
        """The inventory path of the machines' folder."""
        return f"/{self.datacenter}/vm/{self.folder}"

    def path(self, name: str) -> str:
        """Give the inventory path of a machine, as `pulumi import` takes it."""
        return f"{self.folder_path}/{name}"

    def tls(self) -> ssl.SSLContext:
        """Give the TLS settings for a connection to it."""
        return _tls(self.trusted_roots, allow_unverified=self.allow_unverified_tls)

    def refuses(self) -> str:
        """Say that it does not take the credentials."""
        return f"{self.server}: refuses user {self.user}; check platform:vspherePassword"

    def answers(self, fault: Any) -> str:  # noqa: ANN401 pyVmomi has no types
        """Say what it answers in place of doing what it was asked."""
        words = " ".join(str(fault.msg or type(fault).__name__).split())
        privilege = getattr(fault, "privilegeId", None)
        lacking = f" ({self.user} lacks {privilege}: docs/site-requirements.md)"
        return f"{self.server}: {words}{lacking if privilege else ''}"

    def unreachable(self, error: Exception) -> str:
        """Say why there is no connection to it."""
        path, words = ("site", "vcenter"), str(error) or type(error).__name__
        found = of_connection(path, self.server, words)
        return str(found or problem(path, self.server, "it cannot be used", f"it says: {words}"))


@cache
def _tls(trusted_roots: str | None, *, allow_unverified: bool) -> ssl.SSLContext:
    """Make the TLS settings, once for all connections: this computer's authorities are many."""
    context = ssl.create_default_context()
    if trusted_roots is not None:
        context.load_verify_locations(cadata=trusted_roots)
    if allow_unverified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def connected(vcenter: VCenter, password: str) -> Iterator[Any]:
    """Be logged in to vCenter; gives its content. Raises VCenterError."""
    try:
        service = pyvmomi.SmartConnect(  # type: ignore[no-untyped-call]
            host=vcenter.server, user=vcenter.user, pwd=password, sslContext=vcenter.tls()
        )
    except pyvmomi.vim.fault.InvalidLogin:
        raise VCenterError(vcenter.refuses()) from None
    except pyvmomi.vmodl.MethodFault as error:
        raise VCenterError(vcenter.answers(error)) from None
    except (OSError, HTTPException) as error:  # its certificate, too
        raise VCenterError(vcenter.unreachable(error)) from None
    try:
        yield service.RetrieveContent()
    except pyvmomi.vmodl.MethodFault as error:  # such as a privilege that is missing
        raise VCenterError(vcenter.answers(error)) from None
    except (OSError, HTTPException) as error:
        raise VCenterError(vcenter.unreachable(error)) from None
    finally:
        pyvmomi.Disconnect(service)  # type: ignore[no-untyped-call]


def by_uuid(content: Any, uuid: str) -> Any:  # noqa: ANN401 pyVmomi has no types
    """Find a machine by the UUID that is its resource's id; None when vCenter has none."""
    return content.searchIndex.FindByUuid(None, uuid, True, False)  # noqa: FBT003 its signature


def host_of(content: Any, uuid: str) -> str:  # noqa: ANN401 pyVmomi has no types
    """Give the name of the host that a machine runs on; "" when vCenter has no such machine."""
    machine = by_uuid(content, uuid)
    host = None if machine is None else read(content, machine, "runtime.host")
    return str(host.name) if host is not None else ""


def power_state(content: Any, machine: Any) -> Any:  # noqa: ANN401 pyVmomi has no types
    """Read whether a machine is on, off or suspended."""
    return read(content, machine, "runtime.powerState")


def read(content: Any, machine: Any, path: str) -> Any:  # noqa: ANN401 pyVmomi has no types
    """Read this one property: pyVmomi refuses the whole of `runtime` for any value it dislikes."""
    query: Any = pyvmomi.vmodl.query.PropertyCollector
    wanted = query.FilterSpec(
        objectSet=[query.ObjectSpec(obj=machine)],
        propSet=[query.PropertySpec(type=pyvmomi.vim.VirtualMachine, pathSet=[path])],
    )
    found = content.propertyCollector.RetrieveContents([wanted])[0].propSet
    return found[0].val if found else None


def finish(task: Any, clock: Clock, *, fails: bool = True) -> None:  # noqa: ANN401 pyVmomi has no types
    """Wait for a task of vCenter."""
    states = pyvmomi.vim.TaskInfo.State
    ended = (states.success, states.error)
    name = task.info.descriptionId
    state = clock.wait(
        f"vCenter's task {name}",
        lambda: "" if (now := task.info.state) in ended else f"it is {now}",
        seconds=TASK_SECONDS,
        poll=POLL_SECONDS,
    )
    if state:
        message = f"vCenter: task {name} not done after {TASK_SECONDS:.0f} s: {state}"
        raise VCenterError(message)
    if fails and task.info.state == states.error:
        message = f"vCenter: task {task.info.descriptionId} failed: {task.info.error.msg}"
        raise VCenterError(message)


def settle(machine: Any, clock: Clock, *endings: str) -> None:  # noqa: ANN401 pyVmomi has no types
    """Wait for what somebody else told vCenter to do with a machine, however it ends.

    With `endings`, only for tasks whose description ends so: nobody waits for a backup's snapshot.
    """
    # The machine, or a task that vCenter has forgotten.
    gone = pyvmomi.vmodl.fault.ManagedObjectNotFound
    with suppress(gone):
        for task in list(machine.recentTask):
            with suppress(gone):
                if task.info.descriptionId.endswith(endings or ""):
                    finish(task, clock, fails=False)
