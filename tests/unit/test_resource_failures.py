"""What a provider refuses is told with the setting, its value and the fix, and its words once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pulumi
import pytest

from clients.waiting import Stop
from components import resource_failures
from components.resource_failures import (
    ResourceError,
    explained,
    of_factory,
    of_release,
    of_talos,
    of_vsphere,
)
from config import parse
from config.charts import ChartPlan
from config.resource_types import IMAGE, MACHINE
from config.versions import TALOS
from tests.unit.recorder import Platform, event_loop, install_talosctl, production, run_production

SETTINGS = parse(production())


def failure(
    words: str, type_: str = MACHINE, name: str = "node02", operation: str = "create"
) -> pulumi.ErrorHookArgs:
    urn = f"urn:pulumi:prod::platform::{type_}::{name}"
    return pulumi.ErrorHookArgs(
        urn=urn, id="", name=name, type=type_, failed_operation=operation, errors=[words]
    )


@pytest.mark.parametrize(
    ("words", "key", "fault", "fix"),
    [
        (
            "deploying node02: Insufficient disk space on datastore 'datastore01'.",
            'platform:site.datastore = "datastore01": ',
            "it has no room for VirtualMachine node02",
            "free space on it",
        ),
        (
            "ServerFaultCode: Permission to perform this operation was denied.",
            'platform:site.user = "pulumi@vsphere.local": ',
            "vCenter denies it a right",
            "docs/site-requirements.md",
        ),
        (
            "POST /rest/com/vmware/content/local-library: 403 Forbidden",
            "platform:site.user = ",
            "vCenter denies it a right",
            "docs/site-requirements.md",
        ),
        (
            "could not find resource pool: resource pool 'platform' not found",
            'platform:site.cluster = "cluster01": ',
            "no longer has the resource pool of VirtualMachine node02",
            "in vCenter",
        ),
        (
            "No host is compatible with the virtual machine.",
            'platform:site.cluster = "cluster01": ',
            "none of its hosts can take VirtualMachine node02",
            "not in maintenance",
        ),
        (
            "dial tcp 172.16.20.10:443: connect: connection refused",
            'platform:site.vcenter = "vcenter.example.internal": ',
            "nothing listens there",
            "whether it runs",
        ),
        (
            "something that nobody has seen before",
            'platform:site.vcenter = "vcenter.example.internal": ',
            "it does not create VirtualMachine node02",
            "see its tasks and events",
        ),
    ],
)
def test_what_vcenter_refuses_is_told_at_its_setting(
    words: str, key: str, fault: str, fix: str
) -> None:
    expect(of_vsphere(SETTINGS.site, SETTINGS.talos, failure(words), words), key, fault, fix, words)


def test_a_machine_that_vcenter_no_longer_has_is_told_with_the_command_that_helps() -> None:
    words = 'cannot locate virtual machine with UUID "1": not found'
    found = of_vsphere(SETTINGS.site, SETTINGS.talos, failure(words, operation="update"), words)
    expect(found, "platform:site.vcenter = ", "which the stack's state has", "make repair", words)


@pytest.mark.parametrize(
    ("words", "key", "fault"),
    [
        (
            "Post https://factory.talos.dev/schematics: connect: connection refused",
            'platform:site.imageFactory = "factory.talos.dev": ',
            "nothing listens there",
        ),
        (
            "got status 404 (Not Found) while getting the file from https://x/image/a/b.ova",
            f'platform:talos.version = "{TALOS}": ',
            "factory.talos.dev has no image of it",
        ),
        (
            "got status 400 (Bad Request) while getting the file from https://x/image/a/b.ova",
            "platform:talos.extensions: ",
            f"makes no image of Talos {TALOS} with siderolabs/vmtoolsd-guest-agent",
        ),
        (
            "HTTP 503: unavailable",
            'platform:site.imageFactory = "factory.talos.dev": ',
            "it does not give the machines' image",
        ),
    ],
)
def test_what_the_image_factory_refuses_is_told_at_its_setting(
    words: str, key: str, fault: str
) -> None:
    expect(of_factory(SETTINGS.site, SETTINGS.talos, words), key, fault, "", words)


def test_an_unknown_schematic_is_told_at_its_key() -> None:
    settings = production()
    schematic = "ab" * 32
    settings["talos"] = {"version": "1.13.9", "schematic": schematic}
    model = parse(settings)
    found = of_factory(model.site, model.talos, "got status 404 (Not Found)")
    assert found.key == "platform:talos.schematic"
    assert "registered" in found.fix


def test_an_images_failed_download_is_the_factorys_and_not_vcenters() -> None:
    words = 'Get "https://factory.talos.dev/image/a/v1/b.ova": connect: connection refused'
    found = of_vsphere(SETTINGS.site, SETTINGS.talos, failure(words, IMAGE, "talos"), words)
    assert found.key == "platform:site.imageFactory"


def test_what_talos_refuses_is_told_at_its_machine() -> None:
    words = 'Error applying configuration: InvalidArgument desc = no disk "/dev/sdz"'
    found = of_talos(SETTINGS.machines, SETTINGS.talos.patches, "node02", words)
    expect(
        found, "platform:machines, node02: ", "Talos refused the request", "clusters/prod", words
    )


def test_a_machine_that_does_not_answer_is_told_with_its_address() -> None:
    words = "dial tcp 172.16.20.52:50000: i/o timeout"
    found = of_talos(SETTINGS.machines, SETTINGS.talos.patches, "node02", words)
    key = 'platform:machines[1].address = "172.16.20.52": '
    expect(found, key, "node02: it does not answer", "console in vCenter", words)


def test_what_the_cluster_refuses_is_told_at_the_machine_that_is_asked() -> None:
    assert (
        of_talos(SETTINGS.machines, SETTINGS.talos.patches, "prod", "refused").key
        == "platform:machines, node01"
    )


def test_a_chart_that_does_not_come_up_is_told_with_where_to_look() -> None:
    plan = ChartPlan("cert-manager", "https://example.com", "1.2.3", "cert-manager", {})
    words = "context deadline exceeded"
    look = "kubectl --namespace cert-manager get pods,events"
    expect(of_release(plan, words), "platform:services.certManager: ", "1.2.3", look, words)


def expect(found: object, key: str, fault: str, fix: str, words: str) -> None:
    text = str(found).replace('\\"', '"')
    assert text.startswith(key), text
    assert fault in text
    assert fix in text
    assert text.count(words) == 1


# --- The hook itself -----------------------------------------------------------------------------


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> pulumi.ErrorHook:
    monkeypatch.setattr("pulumi.resource_hooks.register_error_hook", lambda _: None)
    asyncio.set_event_loop(event_loop())
    monkeypatch.setattr(resource_failures, "this_run", Log)
    return explained(
        "an answer", lambda args, words: of_vsphere(SETTINGS.site, SETTINGS.talos, args, words)
    )


class Log:
    def write(self, text: str) -> None:
        assert text


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    def error(text: str, resource: Any) -> None:
        assert resource.urn is not None
        found.append(text)

    monkeypatch.setattr(pulumi.log, "error", error)
    return found


FULL = "1 error occurred:\n\t* Insufficient disk space on datastore 'datastore01'.\n\n"


def test_what_nothing_was_made_of_is_told_in_place_of_the_providers_words(
    hook: pulumi.ErrorHook, logged: list[str]
) -> None:
    with pytest.raises(ResourceError) as error:
        hook(failure(FULL))
    assert str(error.value).endswith("(Insufficient disk space on datastore 'datastore01'.)")
    assert logged == []


@pytest.mark.parametrize("operation", ["update", "delete"])
def test_beside_words_that_the_engine_shows_only_the_rest_is_told(
    hook: pulumi.ErrorHook, logged: list[str], operation: str
) -> None:
    assert hook(failure(FULL, operation=operation)) is False
    (text,) = logged
    assert text.startswith('platform:site.datastore = "datastore01": it has no room')
    assert "Insufficient" not in text


def test_a_half_made_machine_counts_as_one_that_is_there(
    hook: pulumi.ErrorHook, logged: list[str]
) -> None:
    assert hook(failure("error powering on virtual machine: it does not")) is False
    assert len(logged) == 1


def test_a_call_that_a_ctrl_c_ended_is_not_explained(
    hook: pulumi.ErrorHook, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Stop()
    stop.request("Ctrl-C")
    monkeypatch.setattr(resource_failures, "STOP", stop)
    assert hook(failure("context canceled")) is False
    assert logged == []


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    install_talosctl(tmp_path, "1.13.9")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return run_production()


def test_every_resource_that_a_site_can_refuse_has_its_error_hook(platform: Platform) -> None:
    explained_types = ("vsphere:", "talos:machine/conf", "talos:cluster", "talos:image", "kub")
    missing = [
        f"{one.type} {one.name}"
        for one in platform.resources
        if one.type.startswith(explained_types)
        and (not one.type.startswith("kub") or one.type.endswith(":Release"))
        and len(one.hooks("on_error")) != 1
    ]
    assert missing == []
    assert {name for one in platform.resources for name in one.hooks("on_error")} <= set(
        platform.hooks
    )
