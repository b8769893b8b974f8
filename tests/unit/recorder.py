"""A platform under mocks: runs the real program and records what it registers.

The SDK's own mocks see neither dependencies nor protection nor hooks; the monitor below does.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import runpy
import stat
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import pulumi
from google.protobuf import empty_pb2, json_format  # type: ignore[import-untyped]
from pulumi.runtime import mocks
from pulumi.runtime.config import CONFIG
from pulumi.runtime.proto import resource_pb2, source_pb2

from components.gitops.generated import folder
from components.gitops.root import root_application
from components.kubernetes.manifests import Manifest
from components.sdk import contains_unknowns, create_urn, declare_dependency
from config import Settings, plain_yaml
from config.resource_types import KUBECONFIG, MACHINE_SECRETS
from config.secret_keys import SECRET_KEYS
from tests.unit.certificates import certificate

ROOT = Path(__file__).parents[2]
PASSWORD = "vcenter-Passw0rd-of-the-test"  # noqa: S105 no real one
KEY = "private-key-of-the-test-cluster"
CREDENTIALS_END = dt.datetime(2031, 5, 6, tzinfo=dt.UTC)
SECRET = "4dabf18193072939515e22adb298388d"  # noqa: S105 Pulumi's mark of a secret value

STACK_REFERENCE = "pulumi:pulumi:StackReference"
KNOW_MORE = {STACK_REFERENCE, MACHINE_SECRETS, KUBECONFIG}
"""The kinds of resources that have outputs beside their inputs."""


@dataclass
class Registered:
    """A resource as the engine is told of it."""

    urn: str
    type: str
    name: str
    dependencies: list[str]
    request: resource_pb2.RegisterResourceRequest

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Its inputs; read when a test looks at them, as most are never looked at."""
        read: dict[str, Any] = json_format.MessageToDict(self.request.object)
        return read

    def hooks(self, kind: str) -> list[str]:
        return list(getattr(self.request.hooks, kind))


@dataclass
class Platform:
    """Everything that one run of the program registered, in order."""

    resources: list[Registered] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    hooks: dict[str, pulumi.ResourceHook | pulumi.ErrorHook] = field(default_factory=dict)
    outputs: dict[str, pulumi.Output[Any]] = field(default_factory=dict)
    secret_outputs: set[str] = field(default_factory=set)
    values: dict[str, Any] = field(default_factory=dict)
    """The stack's outputs."""
    kept: dict[str, Any] = field(default_factory=dict)
    """The stack's outputs of an earlier run."""
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The outputs of components, by their type."""

    def one(self, type_: str, name: str) -> Registered:
        (found,) = (one for one in self.resources if (one.type, one.name) == (type_, name))
        return found

    def all(self, type_: str) -> list[Registered]:
        return [one for one in self.resources if one.type == type_]

    def names(self, type_: str) -> list[str]:
        return [one.name for one in self.all(type_)]


_RUNS: dict[str, Platform] = {}
"""Of `run_once`: by the settings, as JSON."""


def plain(value: Any) -> Any:
    """Unwrap Pulumi's marks of secrets."""
    if isinstance(value, Mapping):
        if value.get(SECRET):
            return plain(value["value"])
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value


def is_secret(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value.get(SECRET))


def public_text(value: object) -> str:
    """Write everything that is not marked as a secret."""
    if is_secret(value):
        return "[secret]"
    if isinstance(value, Mapping):
        return json.dumps({key: public_text(one) for key, one in value.items()})
    if isinstance(value, list):
        return json.dumps([public_text(one) for one in value])
    return str(value)


class _Mocks(mocks.Mocks):
    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        state = dict(args.inputs)
        if args.typ == STACK_REFERENCE:
            state["outputs"] = self.platform.kept
        if args.typ == MACHINE_SECRETS:
            pair = {"cert": "ca", "key": KEY}
            state |= {
                "clientConfiguration": pulumi.Output.secret(
                    {
                        "caCertificate": "ca",
                        "clientCertificate": certificate(CREDENTIALS_END),
                        "clientKey": KEY,
                    }
                ),
                "machineSecrets": pulumi.Output.secret(
                    {
                        "certs": {
                            "etcd": pair,
                            "k8s": pair,
                            "k8sAggregator": pair,
                            "k8sServiceaccount": {"key": KEY},
                            "os": pair,
                        },
                        "cluster": {"id": "id", "secret": KEY},
                        "secrets": {"bootstrapToken": KEY, "secretboxEncryptionSecret": KEY},
                        "trustdinfo": {"token": KEY},
                    }
                ),
            }
        if args.typ == KUBECONFIG:
            state["kubeconfigRaw"] = f"kubeconfig with {KEY}"
            state["kubernetesClientConfiguration"] = {
                "clientCertificate": certificate(CREDENTIALS_END)
            }
        return f"{args.name}-id", state

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        self.platform.calls.append((args.token, plain(args.args)))
        return self._result(args), []

    def _result(self, args: mocks.MockCallArgs) -> dict[str, Any]:
        match args.token:
            case "talos:machine/getConfiguration:getConfiguration":
                assert args.args["machineSecrets"]["certs"]["k8sServiceaccount"]["key"] == KEY
                patches = "\n---\n".join(args.args["configPatches"])
                return {"machineConfiguration": f"key: {KEY}\n---\n{patches}"}
            case "talos:client/getConfiguration:getConfiguration":
                assert args.args["clientConfiguration"]["clientKey"] == KEY
                return {"talosConfig": f"talosconfig with {KEY}"}
            case _:
                name = args.args.get("name", "")
                return {"id": f"id-of-{name}", "resourcePoolId": f"pool-of-{name}"}


class Monitor(mocks.MockMonitor):
    """Stands for the engine: what it is told goes to the platform's record."""

    def __init__(self, platform: Platform) -> None:
        super().__init__(_Mocks(platform))
        self.platform = platform

    def RegisterResource(  # noqa: N802 gRPC's name
        self, request: resource_pb2.RegisterResourceRequest
    ) -> resource_pb2.RegisterResourceResponse:
        response = self._answer(request)
        self.platform.resources.append(
            Registered(
                urn=response.urn,
                type=request.type,
                name=request.name,
                dependencies=list(request.dependencies),
                request=request,
            )
        )
        return response

    def _answer(
        self, request: resource_pb2.RegisterResourceRequest
    ) -> resource_pb2.RegisterResourceResponse:
        """Give a resource's inputs as its outputs, but where the mocks know more."""
        if request.type in KNOW_MORE or not request.parent:
            known: resource_pb2.RegisterResourceResponse
            known = super().RegisterResource(request)  # type: ignore[no-untyped-call]
            return known
        return resource_pb2.RegisterResourceResponse(
            urn=self.make_urn(request.parent, request.type, request.name),
            id=f"{request.name}-id",
            object=request.object,
        )

    def RegisterResourceOutputs(  # noqa: N802 gRPC's name
        self, request: resource_pb2.RegisterResourceOutputsRequest
    ) -> empty_pb2.Empty:
        kind = request.urn.split("::")[2].rpartition("$")[2]
        self.platform.told[kind] = json_format.MessageToDict(request.outputs)
        return empty_pb2.Empty()


def root_of(settings: Settings) -> dict[str, Any]:
    """Give the root Application of settings with Argo CD."""
    assert settings.services.argocd is not None
    return root_application(settings.services.argocd, folder(settings.talos.patches), ROOT)


def production() -> dict[str, Any]:
    """Read the settings of Pulumi.prod.yaml, by section."""
    return {
        key.removeprefix("platform:"): value
        for key, value in deepcopy(_production_file())["config"].items()
    }


@cache
def _production_file() -> dict[str, Any]:
    found: dict[str, Any] = plain_yaml.read((ROOT / "Pulumi.prod.yaml").read_text())
    return found


def on_one_machine(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave one machine of settings, for runs that look at what is on the cluster only."""
    return {**settings, "machines": settings["machines"][:1]}


def with_services(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Leave these services of settings, for runs that look at them only."""
    return {**settings, "services": {name: settings["services"][name] for name in names}}


def everything() -> dict[str, Any]:
    """Give the production settings with every layer, those too that production leaves out."""
    settings = production()
    first, *others = settings["machines"]
    first = first | {"dataDisks": [{"name": "data", "sizeGiB": 50}]}
    services = settings["services"] | {"localVolumes": {}}
    return settings | {"machines": [first, *others], "services": services}


def run(
    settings: Mapping[str, Any],
    *,
    preview: bool = False,
    platform: Platform | None = None,
    monitor: Callable[[Platform], Monitor] = Monitor,
    check_git: bool = False,
) -> Platform:
    """Run the program with these settings; it is recorded in `platform`, also when it fails.

    Git has the production settings. With `check_git` the program compares, as it does for real.
    """
    platform = platform or Platform()
    # Pulumi takes the thread's event loop, which another test's asyncio.run may have taken away.
    asyncio.set_event_loop(event_loop())
    mocks.set_mocks(
        _Mocks(platform),
        project="platform",
        stack="prod",
        preview=preview,
        monitor=monitor(platform),
    )
    secrets = {key.name: f"{key.name}-of-the-test" for key in SECRET_KEYS}
    secrets["vspherePassword"] = PASSWORD
    config = {f"platform:{key}": json.dumps(value) for key, value in settings.items()}
    config |= {f"platform:{key}": value for key, value in secrets.items()}
    before = CONFIG.get()
    CONFIG.set(config)
    pulumi.runtime.set_all_config(config, [f"platform:{key}" for key in secrets])

    def register(hook: pulumi.ResourceHook | pulumi.ErrorHook) -> asyncio.Future[None]:
        assert hook.name not in platform.hooks, "the engine takes each hook's name only once"
        platform.hooks[hook.name] = hook
        done: asyncio.Future[None] = asyncio.get_event_loop().create_future()
        done.set_result(None)
        return done

    def export(name: str, value: object) -> None:
        platform.outputs[name] = pulumi.Output.from_input(value)

    async def read_outputs() -> None:
        for name, output in platform.outputs.items():
            platform.values[name] = await output.future()
            if await output.is_secret():
                platform.secret_outputs.add(name)

    def program() -> Awaitable[None]:
        runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__")
        return read_outputs()

    try:
        # The mocks have no server for callbacks, so hooks are kept here.
        with (
            mock.patch("pulumi.resource_hooks.register_resource_hook", register),
            mock.patch("pulumi.resource_hooks.register_error_hook", register),
            mock.patch("pulumi.export", export),
            mock.patch("components.kubernetes.manifests.load", definition),
            mock.patch("clients.chart_repositories.check", nothing),
            mock.patch("components.notes.ask", nothing),
            # Of a process that is the program's own.
            mock.patch("components.hooks.end_waits_on_interrupt", nothing),
            mock.patch("components.failures.exit_when_told", nothing),
            mock.patch("components.sdk.be_quick", nothing),
            # What it changes of the SDK, and nothing here looks at.
            mock.patch("pulumi.runtime.resource._get_stack_trace", source_pb2.StackTrace),
            mock.patch("pulumi.log.debug", nothing),
            mock.patch("pulumi.runtime.rpc.contains_unknowns", contains_unknowns),
            mock.patch("pulumi.runtime.resource.create_urn", create_urn),
            mock.patch("pulumi.runtime.rpc.declare_dependency", declare_dependency),
            nullcontext()
            if check_git
            else mock.patch("components.gitops.generated.check", nothing),
        ):
            pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]
    finally:
        CONFIG.set(before)
    return platform


def run_once(settings: Mapping[str, Any]) -> Platform:
    """Run the program with these settings, once for all tests that only look."""
    key = json.dumps(settings, sort_keys=True)
    if key not in _RUNS:
        _RUNS[key] = run(settings)
    return _RUNS[key]


def nothing(*_: object, **__: object) -> None:
    """Do nothing, and remember nothing: a mock would keep thousands of calls of each run."""


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """Give one loop to all runs; the SDK's threads keep using it, so it is never closed.

    Its threads are more than a program registers at once: Python has as many as processors, and 4.
    """
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(64))
    return loop


def definition(manifest: Manifest) -> list[dict[str, Any]]:
    """Stand in for a definition of upstream's, which a unit test does not fetch."""
    name = manifest.url.rpartition("/")[2].removesuffix(".yaml")
    if "/traefik/" in manifest.url:
        name = "ingressroutes.traefik.io"
    return [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": name},
            "spec": {"scope": "Namespaced", "versions": []},
        }
    ]


@cache
def run_production() -> Platform:
    """Run the program with the production settings, once for all tests that only look."""
    return run(production(), check_git=True)


@cache
def run_everything() -> Platform:
    """Run the program with every layer, once for all tests that only look."""
    return run(everything())


@cache
def run_machines() -> Platform:
    """Run the program without anything on its cluster, once for all tests that only look."""
    return run(without_services(production()))


def without_services(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "services"}


def machine(name: str, address: str, role: str = "controlplane", **more: object) -> dict[str, Any]:
    size = {"cpus": 4, "memoryMiB": 16384, "diskGiB": 100}
    return {"name": name, "address": address, "role": role, **size, **more}


def decoded_guestinfo(extra_config: Mapping[str, str]) -> object:
    assert extra_config["guestinfo.metadata.encoding"] == "base64"
    return json.loads(base64.b64decode(extra_config["guestinfo.metadata"]))


def install_talosctl(directory: Path, version: str) -> None:
    """Put a talosctl on disk that knows its version and nothing else."""
    file = directory / "talosctl"
    file.write_text(f"#!/bin/sh\necho Client:\necho Talos v{version}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
