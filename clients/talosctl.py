"""Layer Talos: the machines' own API, spoken through the `talosctl` command.

The Talos provider can neither see a machine's health nor bootstrap twice without harm, so the
rollout asks the machines themselves. Every call here ends within a bounded time. Credentials are
in a file of mode 0600, in a directory that lives as long as the client.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from clients.commands import documents, last_lines, private_file
from clients.waiting import Result, follow_program, run_program

CALL_SECONDS = 20.0
"""A machine that answers does so in well under a second; one that hangs is given up after this."""

TRANSFER_SECONDS = 900.0
"""A snapshot has up to 8 GiB, the most that etcd holds."""
INSTALL_SECONDS = 900.0
"""To pull an installer's image, or to install it; talosctl itself waits for half an hour."""

DIAL_SECONDS = 2.0
"""Patience with a machine's port: talosctl itself would try a dead address until it is stopped."""

TALOS_API_PORT = 50000

REBOOT_AHEAD = "Applied configuration with a reboot"
"""What Talos answers to a dry run when the change needs a reboot (v1alpha1_server.go)."""

RELEASES = "https://github.com/siderolabs/talos/releases"

CONFIGURATION_ID = "v1alpha1"
"""The id of the configuration that a machine runs on; another one is what it was given."""

ETCD_FOLDER, ETCD_DATA = "/var/lib/etcd", "member"
"""Where Talos keeps etcd's data (machinery/constants), and what etcd calls it."""
NO_SUCH_FILE = "no such file or directory"

SCHEMATIC = "schematic"
"""The extension by which the image factory tells a machine the schematic of its image."""
DRAINS_SINCE = (1, 13)
"""The version of talosctl whose `upgrade` drains the node by itself, unless it is told not to."""

UPGRADE_SECONDS = 3600.0
"""Talos gives each pod of a control plane five minutes, and each kubelet three."""
UPGRADE_LINES = 12
"""Of its error: a table names each flag and feature gate that the new version has no more."""
UPGRADE_TOLD = re.compile(r' [><] ("|update |skipped )|updating |checking |discovered ')

SILENT = "talosctl failed without a message"

CONTROL_PLANE_PODS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


class TalosctlError(Exception):
    """A call of talosctl failed; the text is the end of what it wrote to stderr."""

    page = "docs/operations.md"


Runner = Callable[[Sequence[str], float], Result]
"""Runs talosctl with these arguments, for at most so many seconds."""


Follower = Callable[[Sequence[str], float, Callable[[str], None]], Result]
"""Runs talosctl like a `Runner`, and gives each line of its output as it comes."""

Dialer = Callable[[str], None]
"""Fails with OSError when the Talos API's port of this address does not accept connections."""


@dataclass(frozen=True)
class MachineStatus:
    """Talos' own judgement of a machine (resource MachineStatus)."""

    stage: str
    unmet: Mapping[str, str]
    """The conditions that are not met, by name, each with Talos' reason."""


@dataclass(frozen=True)
class Volume:
    """A volume of a machine (resource VolumeStatus)."""

    phase: str
    error: str
    """Talos' own words, when the phase is `failed`."""
    size: int
    """In bytes."""


@dataclass(frozen=True)
class EtcdMember:
    """A member of the etcd cluster, as the asked machine knows it."""

    id: str
    name: str
    address: str
    learner: bool


def run_talosctl(arguments: Sequence[str], seconds: float, program: str = "talosctl") -> Result:
    """Run the real talosctl: without a path it is the one of the operator's PATH."""
    try:
        return run_program([program, *arguments], seconds)
    except FileNotFoundError:
        message = "talosctl: not found on PATH"
        raise TalosctlError(message) from None


def follow_talosctl(
    arguments: Sequence[str], seconds: float, line: Callable[[str], None]
) -> Result:
    """Run the real talosctl, line by line."""
    try:
        return follow_program(["talosctl", *arguments], seconds, line)
    except FileNotFoundError:
        message = "talosctl: not found on PATH"
        raise TalosctlError(message) from None


def dial(address: str) -> None:
    """Open and close a connection to the machine's Talos API."""
    socket.create_connection((address, TALOS_API_PORT), timeout=DIAL_SECONDS).close()


def local_address(address: str) -> str | None:
    """Give the address with which this computer reaches a machine; None when there is no way.

    Nothing is sent. Behind a NAT the machine sees another one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, TALOS_API_PORT))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def check_talosctl(version: str, run: Runner = run_talosctl) -> None:
    """Fail unless a talosctl of the platform's Talos minor version is on PATH.

    Older clients do not know the newer configuration documents, newer ones may drop calls.
    """
    try:
        result = run(["version", "--client", "--short"], CALL_SECONDS)
    except TalosctlError as error:
        message = f"{error}; install talosctl {version}, for example from {RELEASES}"
        raise TalosctlError(message) from None
    found = re.search(r"(\d+)\.(\d+)\.\d+\S*", result.stdout)
    if result.returncode != 0 or found is None:
        message = f"talosctl: `talosctl version --client` failed; install talosctl {version}"
        raise TalosctlError(message)
    if version.lstrip("v").split(".")[:2] != list(found.groups()):
        message = (
            f"talosctl: version {found[0]} does not fit Talos {version}; install talosctl {version}"
        )
        raise TalosctlError(message)


class Talosctl:
    """The machines' API, with one set of credentials."""

    def __init__(
        self,
        talosconfig: Path,
        run: Runner = run_talosctl,
        dialer: Dialer = dial,
        follow: Follower = follow_talosctl,
    ) -> None:
        self._talosconfig = talosconfig
        self._runner = run
        self._dial = dialer
        self._follow = follow

    def machine_status(self, address: str) -> MachineStatus:
        """Read the machine's stage and its unmet conditions."""
        status = documents(self._call(address, "get", "machinestatus", "--output", "json"))
        if not status:
            message = f"{address} has no machine status yet"
            raise TalosctlError(message)
        spec = status[0]["spec"]
        unmet = (spec.get("status") or {}).get("unmetConditions") or []
        return MachineStatus(spec["stage"], {one["name"]: one["reason"] for one in unmet})

    def volumes(self, address: str) -> dict[str, Volume]:
        """Read the machine's volumes by name; that of a data disk is `u-NAME`."""
        found = documents(self._call(address, "get", "volumestatus", "--output", "json"))
        return {
            str(one["metadata"]["id"]): Volume(
                str(one["spec"].get("phase", "")),
                str(one["spec"].get("errorMessage", "")),
                int(one["spec"].get("size", 0)),
            )
            for one in found
        }

    def configuration(self, address: str) -> str:
        """Read the machine's whole configuration as it is now; full of secrets."""
        found = documents(self._call(address, "get", "machineconfig", "--output", "json"))
        texts = [one["spec"] for one in found if one["metadata"]["id"] == CONFIGURATION_ID]
        if not texts:
            message = f"{address} has no configuration"
            raise TalosctlError(message)
        return str(texts[0])

    def version(self, address: str) -> str:
        """Read the version of Talos that the machine runs, such as `v1.13.9`."""
        text = self._call(address, "version")
        found = re.search(r"^Server:$.*?^\s+Tag:\s+(\S+)$", text, re.MULTILINE | re.DOTALL)
        if found is None:
            message = f"{address} does not say which Talos it runs"
            raise TalosctlError(message)
        return found[1]

    def schematic(self, address: str) -> str:
        """Read the id of the schematic of the machine's image; "" if it tells none."""
        found = documents(self._call(address, "get", "extensions", "--output", "json"))
        about = [one["spec"].get("metadata") or {} for one in found]
        return next((str(one["version"]) for one in about if one.get("name") == SCHEMATIC), "")

    def kernel_log(self, address: str) -> list[str]:
        """Read the lines of the kernel's log since the machine's last boot."""
        return self._call(address, "dmesg").splitlines()

    def boot_id(self, address: str) -> str:
        """Read the kernel's boot id, another one after each boot."""
        return self._call(address, "read", "/proc/sys/kernel/random/boot_id").strip()

    def etcd_members(self, address: str) -> list[EtcdMember]:
        """List etcd's members; fails while the machine is not a started member itself."""
        return parse_members(self._call(address, "etcd", "members"))

    def etcd_runs(self, address: str) -> bool:
        """Tell whether etcd is started on the machine, with or without a leader."""
        services = documents(self._call(address, "get", "services", "--output", "json"))
        return any(
            one["metadata"]["id"] == "etcd" and bool(one["spec"].get("running")) for one in services
        )

    def etcd_is_empty(self, address: str) -> bool:
        """Tell whether the machine has none of etcd's data: its etcd waits for one to join."""
        try:
            listed = self._call(address, "list", ETCD_FOLDER)
        except TalosctlError as error:
            if NO_SUCH_FILE in str(error):
                return True
            raise
        return not any(line.split()[-1:] == [ETCD_DATA] for line in listed.splitlines())

    def pods_not_ready(self, address: str) -> list[str]:
        """Name the control plane's static pods that do not run and serve."""
        pods = documents(self._call(address, "get", "staticpodstatus", "--output", "json"))
        ready = {str(pod["metadata"]["id"]) for pod in pods if _pod_ready(pod["spec"])}
        return [
            name
            for name in CONTROL_PLANE_PODS
            if not any(pod.removeprefix("kube-system/").startswith(f"{name}-") for pod in ready)
        ]

    def bootstrap(self, address: str) -> None:
        """Start a new etcd cluster on the machine; one that exists already is left as it is."""
        try:
            self._call(address, "bootstrap")
        except TalosctlError as error:
            if "AlreadyExists" not in str(error):
                raise

    def recover(self, address: str, snapshot: Path) -> None:
        """Start a new etcd cluster on the machine, with the data of a snapshot."""
        self._run(address, "bootstrap", "--recover-from", str(snapshot), seconds=TRANSFER_SECONDS)

    def reset_data(self, address: str) -> None:
        """Wipe the partition with etcd's data and reboot; the machine keeps its configuration."""
        how = ("--graceful=false", "--reboot", "--wait=false")
        self._call(address, "reset", *how, "--system-labels-to-wipe", "EPHEMERAL")

    def reboot(self, address: str) -> None:
        """Tell the machine to reboot through its firmware, which alone finds new hardware."""
        self._call(address, "reboot", "--mode", "powercycle", "--wait=false")

    def restart_kubelet(self, address: str) -> None:
        """Tell the machine to start its kubelet again; pods run on."""
        self._call(address, "service", "kubelet", "restart")

    def upgrade_kubernetes(
        self, address: str, start: str, wanted: str, tell: Callable[[str], None]
    ) -> None:
        """Move Kubernetes on all machines in its order; one that was half moved is gone on with.

        Its output is told, but for what it prints of objects: a difference may hold a secret.
        """
        self._reach(address)
        versions = ("--from", start, "--to", wanted)
        # Talos' own comments would make the configuration another one than the stack's.
        plain = ("--with-docs=false", "--with-examples=false")
        command = ["upgrade-k8s", *versions, *plain, *self._where(address)]
        last = ""

        def line(text: str) -> None:
            nonlocal last
            if UPGRADE_TOLD.match(text):
                last = " ".join(text.split()).removeprefix("> ").removeprefix("< ")
                tell(last)

        result = self._follow(command, UPGRADE_SECONDS, line)
        if result.returncode != 0:
            raise TalosctlError(
                f"{last_lines(result.stderr, UPGRADE_LINES) or SILENT} (last told: {last})"
            )

    def kubeconfig(self, address: str) -> str:
        """Read the administrator's kubeconfig from a control plane; a secret."""
        with TemporaryDirectory(prefix="kubeconfig-") as directory:
            file = Path(directory, "kubeconfig")
            with private_file(file, ""):
                self._call(address, "kubeconfig", str(file), "--force", "--merge=false")
                return file.read_text(encoding="utf-8")

    def leave_etcd(self, address: str) -> None:
        """Tell the machine to leave the etcd cluster."""
        self._call(address, "etcd", "leave")

    def remove_etcd_member(self, address: str, member: str) -> None:
        """Tell the machine to remove another one, by its member id, from the etcd cluster."""
        self._call(address, "etcd", "remove-member", member)

    def needs_reboot(self, address: str, configuration: str) -> bool:
        """Ask the machine, in a dry run, whether this configuration would reboot it.

        Nothing of the answer but this is kept: it holds a diff of the configuration.
        """
        file = self._talosconfig.with_name("machine.yaml")
        with private_file(file, configuration):
            result = self._run(address, "apply-config", "--dry-run", "--file", str(file))
        return REBOOT_AHEAD in result.stderr

    def try_configuration(self, address: str, configuration: str, seconds: int) -> None:
        """Let the machine run on a configuration for some seconds; then it takes the old one back.

        The next order to apply one, a dry run too, ends that: it then keeps what it runs on.
        """
        file = self._talosconfig.with_name("machine.yaml")
        with private_file(file, configuration):
            how = ("--mode", "try", "--timeout", f"{seconds}s", "--file", str(file))
            self._run(address, "apply-config", *how)

    def stage_configuration(self, address: str, configuration: str) -> None:
        """Give the machine a configuration that it takes on at its next boot."""
        file = self._talosconfig.with_name("machine.yaml")
        with private_file(file, configuration):
            self._run(address, "apply-config", "--mode", "staged", "--file", str(file))

    def pull(self, address: str, image: str) -> None:
        """Let the machine fetch an installer's image, and change nothing else on it."""
        command = ("image", "pull", image, "--namespace", "system")
        self._run(address, *command, seconds=INSTALL_SECONDS)

    def upgrade(self, address: str, image: str, minor: tuple[int, int]) -> None:
        """Install the Talos of an installer's image beside the one that runs, and reboot into it.

        Comes back when the reboot is ordered, and drains nothing. `minor` is talosctl's own.
        """
        drain = ("--drain=false",) if minor >= DRAINS_SINCE else ()
        command = ("upgrade", "--image", image, "--wait=false", *drain)
        self._run(address, *command, seconds=INSTALL_SECONDS)

    def etcd_snapshot(self, address: str, file: Path) -> None:
        """Fetch a snapshot of etcd's data from a control plane; it holds the cluster's secrets."""
        self._run(address, "etcd", "snapshot", str(file), seconds=TRANSFER_SECONDS)

    def in_maintenance(self, address: str) -> bool:
        """Tell whether the machine waits for its first configuration.

        Only then does it answer a caller without a certificate.
        """
        arguments = ["version", "--insecure", "--nodes", address]
        return self.reachable(address) and self._runner(arguments, CALL_SECONDS).returncode == 0

    def reachable(self, address: str) -> bool:
        """Tell whether the machine's API takes a connection."""
        try:
            self._dial(address)
        except OSError:
            return False
        return True

    def _call(self, address: str, *command: str) -> str:
        return self._run(address, *command).stdout

    def _reach(self, address: str) -> None:
        try:
            self._dial(address)
        except OSError as error:
            message = f"{address}:{TALOS_API_PORT}: {error.strerror or error}"
            raise TalosctlError(message) from None

    def _where(self, address: str) -> list[str]:
        # The machine itself is the endpoint: the VIP exists only after etcd is up.
        own = ["--endpoints", address, "--nodes", address]
        return ["--talosconfig", str(self._talosconfig), *own]

    def _run(self, address: str, *command: str, seconds: float = CALL_SECONDS) -> Result:
        self._reach(address)
        result = self._runner([*command, *self._where(address)], seconds)
        if result.returncode != 0:
            raise TalosctlError(last_lines(result.stderr) or SILENT)
        return result


@contextmanager
def connect(
    talosconfig: str,
    run: Runner = run_talosctl,
    dialer: Dialer = dial,
    follow: Follower = follow_talosctl,
) -> Iterator[Talosctl]:
    """Offer a client whose credentials exist only while it is used."""
    with TemporaryDirectory(prefix="talos-") as directory:
        file = Path(directory, "talosconfig")
        with private_file(file, talosconfig):
            yield Talosctl(file, run, dialer, follow)


def parse_members(table: str) -> list[EtcdMember]:
    """Read the table of `talosctl etcd members`, which has no other output format.

    Cells are found by the columns of the heading, since a learner's host name may be empty.
    """
    heading, *rows = table.rstrip().splitlines() or [""]
    names = [match[0] for match in re.finditer(r"\S+(?: \S+)*", heading)]
    if not {"ID", "HOSTNAME", "PEER URLS", "LEARNER"} <= set(names):
        message = f"`talosctl etcd members` printed an unknown table: {heading!r}"
        raise TalosctlError(message)
    starts = [match.start() for match in re.finditer(r"\S+(?: \S+)*", heading)]
    members = []
    for row in rows:
        cells = dict(
            zip(
                names,
                (row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)),
                strict=True,
            )
        )
        peer = urlsplit(cells["PEER URLS"].split(",")[0]).hostname or ""
        members.append(
            EtcdMember(cells["ID"], cells["HOSTNAME"], peer, learner=cells["LEARNER"] == "true")
        )
    return members


def _pod_ready(status: Mapping[str, Any]) -> bool:
    conditions = status.get("conditions") or []
    return status.get("phase") == "Running" and any(
        one.get("type") == "Ready" and one.get("status") == "True" for one in conditions
    )
