"""Layer vSphere: what an interrupted run left behind.

A run that is killed while vCenter makes a machine leaves the machine in vCenter but not in the
stack's state; the next run would fail on its name. Such a leftover holds nothing yet: it was never
switched on, or its Talos waits for its first configuration. Only then is it removed, and only when
vCenter itself knows it for this stack's (evidence.py).

A destroy that is killed leaves a machine in the state that is off, or that vCenter has removed
meanwhile. The first is switched on when its turn comes; of the second nothing can be made before
the state has forgotten it (`make repair`).
"""

from __future__ import annotations

import shlex
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import pulumi
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from clients.explanation import of_connection
from clients.talosctl import Talosctl, TalosctlError, connect
from clients.vcenter import evidence
from clients.waiting import Clock
from components.hooks import in_thread, resolved
from config.problems import problem

if TYPE_CHECKING:
    from components.hooks import Hook
    from components.talos.health import Member
    from config.settings import Site

TASK_SECONDS = 300.0
BOOT_SECONDS = 180.0
POLL_SECONDS = 1.0

MODEL: Any = vim
"""vSphere's own types, which pyVmomi makes at run time."""


class OrphanError(Exception):
    """A virtual machine is in the way, and it may hold something."""


class InTheWayError(OrphanError):
    """The stack does not know it, and it is not proven to be a killed run's leftover."""


@dataclass(frozen=True)
class Owner:
    """Where the stack keeps its machines: what an import has to name."""

    parent: pulumi.Output[str]
    """URN of their component."""
    provider: pulumi.Output[str]
    """URN of their provider."""


@dataclass(frozen=True)
class VCenter:
    """How to reach vCenter, and where the platform's machines are in it."""

    server: str
    user: str
    datacenter: str
    folder: str
    """The machines' folder, relative to the datacenter's folder for virtual machines."""
    allow_unverified_tls: bool

    @classmethod
    def of(cls, site: Site) -> VCenter:
        """Take what the settings say of the site."""
        return cls(
            server=site.vcenter,
            user=site.user,
            datacenter=site.datacenter,
            folder=site.folder,
            allow_unverified_tls=site.allow_unverified_tls,
        )

    def path(self, name: str) -> str:
        """Give the inventory path of a machine, as `pulumi import` takes it."""
        return f"/{self.datacenter}/vm/{self.folder}/{name}"

    def tls(self) -> ssl.SSLContext:
        """Make the TLS settings for a connection to it."""
        context = ssl.create_default_context()
        if self.allow_unverified_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

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


def no_leftover(
    vcenter: VCenter,
    password: pulumi.Output[str],
    talosconfig: pulumi.Output[str],
    member: Member,
    owner: Owner,
) -> Hook:
    """Make the hook that clears a machine's place in vCenter before the machine is made."""

    async def no_leftover(args: pulumi.ResourceHookArgs) -> None:
        secret, credentials = await resolved(password), await resolved(talosconfig)
        parent, provider = await resolved(owner.parent), await resolved(owner.provider)

        def run(clock: Clock) -> None:
            adopt = import_command(
                member.name, vcenter.path(member.name), parent=parent, provider=provider
            )
            with connect(credentials) as talos, ways_out(adopt, member.data_disks):
                remove_orphan(
                    vcenter,
                    secret,
                    member.name,
                    lambda: unconfigured(talos, member.address, clock),
                    clock,
                )

        await in_thread(args, run)

    return no_leftover


@contextmanager
def ways_out(adopt: str, data_disks: int) -> Iterator[None]:
    """Say of a machine that is in the way what to do about it; `adopt` is the import's command."""
    try:
        yield
    except InTheWayError as error:
        # Of the disks only the first one's label can be left as the import gives it.
        loss = (
            ". An import does not know its data disks' names: `pulumi preview` shows that `up` "
            "would make them anew, so copy away first what they hold"
        )
        message = (
            f"{error}. If it is this platform's, take it over with `{adopt}`"
            f"{loss if data_disks else ''}; if it is not, rename or delete it; then run "
            "`pulumi up` again, which leaves a machine that was taken over as it is"
        )
        raise OrphanError(message) from None


def import_command(name: str, path: str, *, parent: str, provider: str) -> str:
    """Give the command that takes a machine of vCenter over into the state, for a shell.

    With parent and provider the machine gets the URN that the program gives it; any other one
    would be a second machine to the engine. The program has its code already, and protects none.
    """
    return (
        f"pulumi import vsphere:index/virtualMachine:VirtualMachine {name} {shlex.quote(path)} "
        f"--parent {shlex.quote(f'machines={parent}')} "
        f"--provider {shlex.quote(f'vcenter={provider}')} --protect=false --generate-code=false"
    )


def awake(
    vcenter: VCenter, password: pulumi.Output[str], name: str, uuid: pulumi.Output[str]
) -> Hook:
    """Make the hook that switches a machine of the stack (its UUID) on, if it is off."""

    async def awake(args: pulumi.ResourceHookArgs) -> None:
        secret, identity = await resolved(password), await resolved(uuid)
        await in_thread(args, lambda clock: switch_on(vcenter, secret, name, identity, clock))

    return awake


def switch_on(vcenter: VCenter, password: str, name: str, uuid: str, clock: Clock) -> bool:
    """Switch on the machine with this UUID; tell whether it was off.

    Fails with OrphanError when vCenter does not have it.
    """
    with connected(vcenter, password) as content:
        machine = by_uuid(content, uuid)
        if machine is not None:
            settle(machine, clock, "powerOff", "destroy")  # which a killed run began
            machine = by_uuid(content, uuid)
        if machine is None:
            raise OrphanError(_gone(vcenter, name))
        if _power_state(content, machine) == vim.VirtualMachine.PowerState.poweredOn:
            return False
        finish(machine.PowerOnVM_Task(), clock)
        return True


def by_uuid(content: Any, uuid: str) -> Any:  # noqa: ANN401 pyVmomi has no types
    """Find a machine by the UUID that is its resource's id; None when vCenter has none."""
    return content.searchIndex.FindByUuid(None, uuid, True, False)  # noqa: FBT003 its signature


def host_of(content: Any, uuid: str) -> str:  # noqa: ANN401 pyVmomi has no types
    """Give the name of the host that a machine runs on; "" when vCenter has no such machine."""
    machine = by_uuid(content, uuid)
    host = None if machine is None else _read(content, machine, "runtime.host")
    return str(host.name) if host is not None else ""


def settle(machine: Any, clock: Clock, *endings: str) -> None:  # noqa: ANN401 pyVmomi has no types
    """Wait for what somebody else told vCenter to do with a machine, however it ends.

    With `endings`, only for tasks whose description ends so: nobody waits for a backup's snapshot.
    """
    gone = vmodl.fault.ManagedObjectNotFound  # the machine, or a task that vCenter has forgotten
    with suppress(gone):
        for task in list(machine.recentTask):
            with suppress(gone):
                if task.info.descriptionId.endswith(endings or ""):
                    finish(task, clock, fails=False)


def unconfigured(talos: Talosctl, address: str, clock: Clock) -> bool:
    """Tell whether a machine that runs waits for its first configuration.

    It may have been switched on a moment ago: only after BOOT_SECONDS does silence mean no.
    """
    configured = False

    def lacking() -> str:
        nonlocal configured
        if talos.in_maintenance(address):
            return ""
        try:
            talos.boot_id(address)
        except TalosctlError as error:
            return str(error)
        configured = True  # it takes our credentials: it has a configuration of this cluster
        return ""

    what = f"the machine at {address}, which this stack does not know, to say what it is"
    silent = clock.wait(what, lacking, seconds=BOOT_SECONDS, poll=POLL_SECONDS)
    return not silent and not configured


def remove_orphan(
    vcenter: VCenter,
    password: str,
    name: str,
    is_unconfigured: Callable[[], bool],
    clock: Clock | None = None,
) -> bool:
    """Remove the leftover of this name; tell whether there was one.

    Fails with InTheWayError when it is not proven to hold nothing.
    """
    clock = clock or Clock()
    with connected(vcenter, password) as content:
        machine = content.searchIndex.FindByInventoryPath(vcenter.path(name))
        if machine is not None:
            settle(machine, clock)  # such as the killed run's own clone
            machine = content.searchIndex.FindByInventoryPath(vcenter.path(name))
        if machine is None:
            return False
        running = _power_state(content, machine) == vim.VirtualMachine.PowerState.poweredOn
        if reason := _against(content, machine, evidence.mark(vcenter.path(name)), running=running):
            raise InTheWayError(_in_the_way(vcenter, name, reason))
        if running and not is_unconfigured():
            reason = "it runs, and does not wait for its first configuration"
            raise InTheWayError(_in_the_way(vcenter, name, reason))
        if running:
            # Else a run that is killed just now would leave one that was on.
            going = MODEL.vm.ConfigSpec(
                annotation=evidence.mark(vcenter.path(name)) + evidence.GOING
            )
            finish(machine.ReconfigVM_Task(going), clock)
            finish(machine.PowerOffVM_Task(), clock)
        finish(machine.Destroy_Task(), clock)
        return True


def _against(content: Any, machine: Any, mark: str, *, running: bool) -> str:  # noqa: ANN401
    """Say why a machine is no leftover of a killed run, by what vCenter knows; empty if it is."""
    return evidence.against_leftover(
        str(_read(content, machine, "config.annotation") or ""),
        mark,
        evidence.events_of(content, machine),
        str(content.sessionManager.currentSession.userName),
        running=running,
    )


@contextmanager
def connected(vcenter: VCenter, password: str) -> Iterator[Any]:
    """Be logged in to vCenter; gives its content. Raises OrphanError."""
    try:
        service = SmartConnect(  # type: ignore[no-untyped-call]
            host=vcenter.server, user=vcenter.user, pwd=password, sslContext=vcenter.tls()
        )
    except vim.fault.InvalidLogin:
        raise OrphanError(vcenter.refuses()) from None
    except vmodl.MethodFault as error:
        raise OrphanError(vcenter.answers(error)) from None
    except (OSError, HTTPException) as error:  # its certificate, too
        raise OrphanError(vcenter.unreachable(error)) from None
    try:
        yield service.RetrieveContent()
    except vmodl.MethodFault as error:  # such as a privilege that is missing
        raise OrphanError(vcenter.answers(error)) from None
    except (OSError, HTTPException) as error:
        raise OrphanError(vcenter.unreachable(error)) from None
    finally:
        Disconnect(service)  # type: ignore[no-untyped-call]


def _power_state(content: Any, machine: Any) -> Any:  # noqa: ANN401 pyVmomi has no types
    return _read(content, machine, "runtime.powerState")


def _read(content: Any, machine: Any, path: str) -> Any:  # noqa: ANN401 pyVmomi has no types
    """Read this one property: pyVmomi refuses the whole of `runtime` for any value it dislikes."""
    query: Any = vmodl.query.PropertyCollector
    wanted = query.FilterSpec(
        objectSet=[query.ObjectSpec(obj=machine)],
        propSet=[query.PropertySpec(type=vim.VirtualMachine, pathSet=[path])],
    )
    found = content.propertyCollector.RetrieveContents([wanted])[0].propSet
    return found[0].val if found else None


def finish(task: Any, clock: Clock, *, fails: bool = True) -> None:  # noqa: ANN401 pyVmomi has no types
    """Wait for a task of vCenter."""
    states = vim.TaskInfo.State
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
        raise OrphanError(message)
    if fails and task.info.state == states.error:
        message = f"vCenter: task {task.info.descriptionId} failed: {task.info.error.msg}"
        raise OrphanError(message)


def _in_the_way(vcenter: VCenter, name: str, reason: str) -> str:
    return (
        f"{name}: vCenter has a machine {vcenter.path(name)} that this stack does not know, and it "
        f"may hold something: {reason}"
    )


def _gone(vcenter: VCenter, name: str) -> str:
    return (
        f"{name}: the stack's state has this machine, and {vcenter.server} does not: a killed "
        "`pulumi destroy` removed it, or somebody did. `make repair` takes it out of the state, "
        "then `pulumi up` makes it again (docs/procedures/failed-up.md)"
    )
