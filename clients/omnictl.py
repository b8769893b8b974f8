"""Layer Omni: Sidero Omni's API, spoken through its own command line, `omnictl`.

Every request to Omni is signed with the service account's key (PGP), which omnictl does. The key
goes to it in the environment, never in an argument, and omnictl gets no home of the operator's: it
writes its configuration there. Every call ends within a bounded time, and omnictl's processes with
it: `cluster template sync` itself waits for removals without an end.

Field names are those of its JSON output: Go's, in lower case (client/pkg/omnictl/output/json.go).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clients.commands import documents, last_lines, private_file
from clients.waiting import TIMED_OUT, Result, run_group

CALL_SECONDS = 60.0
"""One question; each of them reads the server's version first."""
SYNC_SECONDS = 900.0
"""Omni takes one machine out after the other, each with a reset."""
REMOVE_SECONDS = 300.0
"""To take a machine out of the cluster that nobody waits for."""
LINES = 6
"""Of an error: a refused template has a line for each fault."""

ENDPOINT, KEY = "OMNI_ENDPOINT", "OMNI_SERVICE_ACCOUNT_KEY"
PASSED_ON = (
    *("PATH", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy"),
)
"""What omnictl gets of this program's own environment; another key or home would win over ours."""

CLUSTER = "omni.sidero.dev/cluster"
"""The label of what belongs to a cluster."""
RELEASES = "https://github.com/siderolabs/omni/releases"
SILENT = "omnictl failed without a message"

TALOS_PHASES = ("unknown", "upgrading", "done", "failed", "reverting", "updatingmachineschematics")
KUBERNETES_PHASES = ("unknown", "upgrading", "done", "failed", "reverting")
STAGES = {
    0: "unknown",
    1: "booting",
    2: "installing",
    3: "configuring",
    4: "running",
    5: "destroying",
    6: "upgrading",
    7: "rebooting",
    8: "shutting down",
    9: "before destroy",
    10: "powering on",
    11: "powered off",
}
"""Of a machine in a cluster (ClusterMachineStatusSpec in api/omni/specs/omni.proto)."""
TOKEN_STATES = ("unknown", "active", "revoked", "expired")
"""Of a join token (JoinTokenStatusSpec in api/omni/specs/siderolink.proto)."""

KEY_FIX = (
    "platform:omniServiceAccountKey: Omni does not take the key; has it ended (at most 365 days), "
    "and has it the role Operator? Make another with `omnictl serviceaccount create NAME "
    "--use-user-role=false --role Operator`, and set it with `pulumi config set --secret "
    "platform:omniServiceAccountKey`"
)
EXPLAINED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"EULA has not been accepted"), "Omni's owner has to accept its terms first"),
    (
        # With a key that has ended, or that was cut off, omnictl itself makes no request.
        re.compile(
            r"code = (Unauthenticated|PermissionDenied)|illegal base64|invalid signature|gopenpgp: "
            r"|^(Error: )?(invalid character|unexpected end of JSON)"
        ),
        KEY_FIX,
    ),
    (
        re.compile(r"x509: "),
        "platform:omni.endpoint: its certificate is not trusted here; see SSL_CERT_FILE",
    ),
    (
        re.compile(r"API version|version mismatch", re.IGNORECASE),
        "platform:omni.version: omnictl and Omni are of different versions; set what Omni runs",
    ),
)
AWAY = re.compile(
    r"code = (Unavailable|DeadlineExceeded)|connection refused|no such host|i/o timeout"
)
"""What omnictl says when Omni does not answer now."""
ABSENT = re.compile(r"code = NotFound|doesn't exist|does not exist|not found")


class OmnictlError(Exception):
    """A call of omnictl failed; the text is the end of what it wrote to stderr, and what to do."""

    page = "docs/procedures/omni.md"


class AwayError(OmnictlError):
    """Omni did not answer; it may do so later."""


class SlowError(OmnictlError):
    """omnictl did not end in its time; what it began goes on in Omni."""


class AbsentError(OmnictlError):
    """Omni knows no such thing."""


Runner = Callable[[Sequence[str], float, Mapping[str, str]], Result]
"""Runs omnictl with these arguments, for at most so many seconds, in this environment."""


@dataclass(frozen=True)
class Account:
    """Where Omni is, and who asks it."""

    endpoint: str
    key: str = field(repr=False)
    """The service account's, in base64; a secret."""


@dataclass(frozen=True)
class Machine:
    """A machine as Omni sees it (resource MachineStatus)."""

    id: str
    connected: bool
    maintenance: bool
    """Whether it waits for its first configuration."""
    cluster: str
    """"" for a machine that is in none."""
    hostname: str
    addresses: tuple[str, ...]
    """Without the networks' sizes."""
    talos: str
    error: str


@dataclass(frozen=True)
class Member:
    """A machine of a cluster (resource ClusterMachineStatus)."""

    id: str
    ready: bool
    stage: str
    error: str
    """Why it did not take its configuration, in Talos' words."""


@dataclass(frozen=True)
class Cluster:
    """A cluster as Omni judges it (resource ClusterStatus)."""

    ready: bool
    kubernetes_ready: bool
    """Whether its API answers."""
    talos: str
    kubernetes: str


@dataclass(frozen=True)
class Upgrade:
    """How far an upgrade of the cluster is (TalosUpgradeStatus, KubernetesUpgradeStatus)."""

    phase: str
    error: str
    step: str

    @property
    def is_running(self) -> bool:
        """Whether Omni still works on it."""
        return self.phase in ("upgrading", "reverting", "updatingmachineschematics")


def run_omnictl(
    arguments: Sequence[str], seconds: float, env: Mapping[str, str], program: str = "omnictl"
) -> Result:
    """Run the real omnictl: without a path it is the one of the operator's PATH."""
    try:
        return run_group([program, *arguments], seconds, env)
    except FileNotFoundError:
        message = "omnictl: not found on PATH"
        raise OmnictlError(message) from None


def environment(home: Path, account: Account | None = None) -> dict[str, str]:
    """Give all that omnictl sees of this computer; `home` takes what it writes."""
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    env |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    return env if account is None else env | {ENDPOINT: account.endpoint, KEY: account.key}


def check_omnictl(version: str, run: Runner = run_omnictl) -> None:
    """Fail unless the omnictl on PATH is of Omni's minor version (`v1.9.3`).

    Client and server have to speak the same version of the API.
    """
    with TemporaryDirectory(prefix="omni-") as folder:
        try:
            result = run(["--version"], CALL_SECONDS, environment(Path(folder)))
        except OmnictlError as error:
            message = f"{error}; install omnictl {version}, for example from {RELEASES}"
            raise OmnictlError(message) from None
    found = re.search(r"v(\d+)\.(\d+)\.\d+\S*", result.stdout)
    if result.returncode != 0 or found is None:
        message = f"omnictl: `omnictl --version` failed; install omnictl {version}"
        raise OmnictlError(message)
    if version.lstrip("v").split(".")[:2] != list(found.groups()):
        message = (
            f"omnictl: version {found[0]} does not fit platform:omni.version = {version[1:]}; "
            f"install omnictl {version}"
        )
        raise OmnictlError(message)


def find_omnictl(root: Path, version: str) -> str:
    """Find an omnictl for this version of Omni: on PATH, or the one of the lab.

    Raises `OmnictlError`, which says what is on PATH in its place.
    """
    places = (None, str(root / ".lab" / "bin"))
    found = [one for path in places if (one := shutil.which("omnictl", path=path))]
    faults = []
    for program in found or ["omnictl"]:

        def run(
            arguments: Sequence[str], seconds: float, env: Mapping[str, str], name: str = program
        ) -> Result:
            return run_omnictl(arguments, seconds, env, name)

        try:
            check_omnictl(version, run)
        except OmnictlError as error:
            faults.append(error)
        else:
            return program
    raise faults[0]


def validate(template: str, run: Runner = run_omnictl) -> str:
    """Let omnictl check a cluster template, without Omni; gives what it finds, "" for nothing."""
    with TemporaryDirectory(prefix="omni-") as folder:
        file = Path(folder, "template.yaml")
        with private_file(file, template):
            command = ["cluster", "template", "validate", "--file", str(file)]
            result = run(command, CALL_SECONDS, environment(Path(folder)))
    return "" if result.returncode == 0 else last_lines(result.stderr, 40) or SILENT


class Omnictl:
    """Omni's API, with one service account."""

    def __init__(self, account: Account, home: Path, run: Runner = run_omnictl) -> None:
        self._account = account
        self._home = home
        self._runner = run

    def machines(self, ids: Sequence[str]) -> list[Machine]:
        """Read how Omni sees machines; those that it does not know are left out."""
        pattern = f"^({'|'.join(map(re.escape, ids))})$"
        command = ("get", "machinestatus", "--id-match-regexp", pattern, "--output", "json")
        return [_machine(one) for one in documents(self._call(*command))]

    def cluster(self, name: str) -> Cluster | None:
        """Read how Omni judges a cluster; None for one that it does not know."""
        spec = self._one("clusterstatus", name)
        if spec is None:
            return None
        return Cluster(
            ready=bool(spec.get("ready")),
            kubernetes_ready=bool(spec.get("kubernetesapiready")),
            talos=str(spec.get("talosversion") or ""),
            kubernetes=str(spec.get("kubernetesversion") or ""),
        )

    def members(self, cluster: str) -> list[Member]:
        """List the machines of a cluster."""
        return [
            Member(
                str(one["metadata"]["id"]),
                ready=bool(spec.get("ready")),
                stage=_stage(spec.get("stage", 0)),
                error=str(spec.get("lastconfigerror") or ""),
            )
            for one in self._all("clustermachinestatus", cluster)
            for spec in [_spec(one)]
        ]

    def upgrades(self, cluster: str) -> dict[str, Upgrade]:
        """Read how far the upgrades of Talos and Kubernetes are, by those names."""
        kinds = {
            "Talos": ("talosupgradestatus", TALOS_PHASES),
            "Kubernetes": ("kubernetesupgradestatus", KUBERNETES_PHASES),
        }
        found = {}
        for name, (kind, phases) in kinds.items():
            spec = self._one(kind, cluster)
            if spec is not None:
                found[name] = Upgrade(
                    _phase(spec.get("phase"), phases),
                    str(spec.get("error") or ""),
                    " ".join(filter(None, map(str, (spec.get("step"), spec.get("status"))))),
                )
        return found

    def backups(self, cluster: str) -> list[int]:
        """List when the backups were taken that Omni has of a cluster: seconds since 1970."""
        times = (
            _plain(one.get("spec")).get("createdat") for one in self._all("etcdbackup", cluster)
        )
        return sorted(int(one["seconds"]) for one in times if isinstance(one, Mapping))

    def begun_with(self, cluster: str) -> dict[str, str] | None:
        """Read which backup the control planes began with, as a template says it; None for none.

        It is a template's `bootstrapSpec`, which Omni lets nobody change or leave out afterwards
        (MachineSetSpec in client/api/omni/specs/omni.proto).
        """
        found = (self._one("machineset", f"{cluster}-control-planes") or {}).get("bootstrapspec")
        if not found:
            return None
        return {"clusterUUID": str(found["clusteruuid"]), "snapshot": str(found["snapshot"])}

    def join_token(self, token: str) -> str | None:
        """Say whether machines may join with a token: "active", or why not; "" for an unknown one.

        None when Omni does not tell: which role may read join tokens is nowhere written. All are
        listed, since a token is its own id, and must not stand in an argument.
        """
        try:
            found = documents(self._call("get", "jointokenstatus", "--output", "json"))
        except OmnictlError as error:
            if "code = PermissionDenied" in str(error):
                return None
            raise
        states = {str(one["metadata"]["id"]): _spec(one).get("state") for one in found}
        return _phase(states[token], TOKEN_STATES) if token in states else ""

    def sync(self, template: str) -> str:
        """Make the cluster what a template says; gives a line for each change, "" for none.

        Comes back when Omni has noted what it is to do, and what it was to remove is gone.
        """
        return self._with(template, "cluster", "template", "sync", seconds=SYNC_SECONDS)

    def difference(self, template: str) -> str:
        """Say what a sync would change, as unified differences; "" for nothing."""
        return self._with(template, "cluster", "template", "diff", seconds=CALL_SECONDS)

    def wait_ready(self, template: str, seconds: float) -> None:
        """Wait until a cluster that is there is all that its template says; fails when it is not.

        Never with `--quiet`: omnictl 1.9 then looks once only, whatever it is told to wait.
        """
        command = ("cluster", "template", "status", "--wait", f"{seconds:.0f}s")
        self._with(template, *command, seconds=seconds + CALL_SECONDS)

    def kubeconfig(self, cluster: str, user: str, days: int) -> str:
        """Make a service account of the cluster, and give its kubeconfig; a secret.

        Each call makes another token, which nobody can take back before it ends.
        """
        file = self._home / "kubeconfig"
        with private_file(file, ""):
            self._call(
                *("kubeconfig", str(file), "--cluster", cluster, "--service-account"),
                *("--user", user, "--groups", "system:masters", "--ttl", f"{days * 24}h"),
                *("--merge=false", "--force"),
            )
            return file.read_text(encoding="utf-8")

    def remove_lost(self, machine: str) -> None:
        """Take a machine that is gone for good out of its cluster, of etcd too, and out of Omni.

        One that Omni does not know any more is no fault.
        """
        how = ("--force", "--force-etcd-leave", "--yes-i-am-really-sure")
        patience = ("--timeout", f"{REMOVE_SECONDS:.0f}s")
        seconds = REMOVE_SECONDS + CALL_SECONDS
        try:
            self._call("cluster", "machine", "delete", machine, *how, *patience, seconds=seconds)
        except AbsentError:
            return

    def _one(self, kind: str, name: str) -> dict[str, Any] | None:
        try:
            found = documents(self._call("get", kind, name, "--output", "json"))
        except AbsentError:
            return None
        return _spec(found[0]) if found else None

    def _all(self, kind: str, cluster: str) -> list[dict[str, Any]]:
        selector = f"{CLUSTER}={cluster}"
        return documents(self._call("get", kind, "--selector", selector, "--output", "json"))

    def _with(self, template: str, *command: str, seconds: float) -> str:
        file = self._home / "template.yaml"
        with private_file(file, template):
            return self._call(*command, "--file", str(file), seconds=seconds)

    def _call(self, *command: str, seconds: float = CALL_SECONDS) -> str:
        result = self._runner(command, seconds, environment(self._home, self._account))
        if result.returncode == TIMED_OUT and seconds > CALL_SECONDS:
            raise SlowError(f"omnictl {' '.join(command[:3])}: {last_lines(result.stderr)}")
        if result.returncode != 0:
            raise self._error(result.stderr)
        return result.stdout

    def _error(self, stderr: str) -> OmnictlError:
        """Make an error of what omnictl wrote, without the key, and with what to do."""
        said = last_lines(stderr, LINES).replace(self._account.key, "(the key)") or SILENT
        for pattern, fix in EXPLAINED:
            if pattern.search(said):
                return OmnictlError(f"{fix} ({said})")
        if AWAY.search(said) or said.startswith("no answer within"):
            return AwayError(f"platform:omni.endpoint: Omni does not answer ({said})")
        if ABSENT.search(said):
            return AbsentError(said)
        return OmnictlError(said)


@contextmanager
def connect(account: Account, run: Runner = run_omnictl) -> Iterator[Omnictl]:
    """Offer a client whose files exist only while it is used."""
    with TemporaryDirectory(prefix="omni-") as folder:
        yield Omnictl(account, Path(folder), run)


def _machine(document: Mapping[str, Any]) -> Machine:
    spec = _spec(document)
    network = spec.get("network") or {}
    addresses = network.get("addresses") or ()
    return Machine(
        str(document["metadata"]["id"]),
        connected=bool(spec.get("connected")),
        maintenance=bool(spec.get("maintenance")),
        cluster=str(spec.get("cluster") or ""),
        hostname=str(network.get("hostname") or ""),
        addresses=tuple(str(one).partition("/")[0] for one in addresses),
        talos=str(spec.get("talosversion") or ""),
        error=str(spec.get("lasterror") or ""),
    )


def _spec(document: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _plain(document.get("spec")) or {}
    return found


def _plain(value: Any) -> Any:  # noqa: ANN401 any nesting
    """Write all keys alike: releases differ in `talosversion` and `talos_version`."""
    if isinstance(value, Mapping):
        return {str(key).lower().replace("_", ""): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def _stage(value: object) -> str:
    return STAGES.get(value, str(value)) if isinstance(value, int) else str(value).lower()


def _phase(value: object, phases: Sequence[str]) -> str:
    if isinstance(value, int) and 0 <= value < len(phases):
        return phases[value]
    return str(value or "unknown").lower().replace("_", "")
