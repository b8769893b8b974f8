"""What follows from settings, and the tables they are held against."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pydantic
import pytest
from pydantic import BaseModel

import config
from config import plain_yaml, rules, versions
from config.draft import Draft
from config.needed_secrets import needed
from config.secret_keys import SECRET_KEYS
from config.settings import Model, Services
from config.shown import looks_secret, names_secret
from config.versions import KUBERNETES, TALOS
from tests.unit.recorder import production

ROOT = Path(__file__).parents[2]
PLAIN = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
WITH_GUEST_AGENT = "903b2da78f99adef03cbbd4df6714563823f63218508800751560d3bc3557e40"


def prod() -> config.Settings:
    return config.load_file(ROOT / "Pulumi.prod.yaml")


def good(name: str) -> config.Settings:
    return config.load_file(ROOT / "tests" / "fixtures" / "config" / "good" / f"{name}.yaml")


def test_prod_is_the_platform_that_it_is_meant_to_be() -> None:
    settings = prod()
    assert [(m.name, str(m.address), m.role) for m in settings.machines] == [
        ("node01", "172.16.20.51", "controlplane"),
        ("node02", "172.16.20.52", "controlplane"),
        ("node03", "172.16.20.53", "controlplane"),
    ]
    assert str(settings.network.vip) == "172.16.20.250"
    assert [str(pool.addresses) for pool in settings.network.pools] == [
        "172.16.20.100-172.16.20.150"
    ]
    assert (settings.talos.version, settings.kubernetes.version) == (TALOS, KUBERNETES)


def test_the_endpoint_is_on_the_vip() -> None:
    assert prod().endpoint == "https://172.16.20.250:6443"


def test_the_endpoint_of_a_single_machine_is_on_itself() -> None:
    assert good("one").endpoint == "https://172.16.20.51:6443"


def test_roles_divide_the_machines() -> None:
    settings = good("three-and-two-workers")
    assert [m.name for m in settings.control_planes] == ["node01", "node02", "node03"]
    assert [m.name for m in settings.workers] == ["worker01", "worker02"]


# The ids are the image factory's own (pkg/schematic/schematic_test.go, and its web page).
def test_the_schematic_of_the_guest_agent_has_the_factorys_id() -> None:
    assert prod().talos.schematic_id == WITH_GUEST_AGENT


def test_the_schematic_without_extensions_has_the_factorys_id() -> None:
    talos = config.settings.Talos.model_validate_json('{"extensions": []}')
    assert talos.schematic_id == PLAIN


def test_a_schematic_is_the_same_in_any_order_of_its_extensions() -> None:
    names = ["siderolabs/vmtoolsd-guest-agent", "siderolabs/iscsi-tools"]
    one, other = (
        config.settings.Talos.model_validate_json(f'{{"extensions": ["{a}", "{b}"]}}')
        for a, b in (names, names[::-1])
    )
    assert one.schematic_document == other.schematic_document
    document = one.schematic_document
    assert document is not None
    assert plain_yaml.read(document) == {
        "customization": {"systemExtensions": {"officialExtensions": sorted(names)}}
    }
    assert one.schematic_id == hashlib.sha256(document.encode()).hexdigest()


def test_a_given_schematic_is_taken_as_it_is() -> None:
    talos = good("one").talos
    assert talos.schematic_id == PLAIN
    assert talos.schematic_document is None


def test_image_and_installer_come_from_the_sites_factory() -> None:
    settings = prod()
    assert settings.ova_url == (
        f"https://factory.talos.dev/image/{WITH_GUEST_AGENT}/v{TALOS}/vmware-amd64.ova"
    )
    assert settings.installer_image == (
        f"factory.talos.dev/vmware-installer/{WITH_GUEST_AGENT}:v{TALOS}"
    )


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        prod().network.pools[0].name = "other"  # type: ignore[misc]


def models() -> list[type[BaseModel]]:
    return sorted(Model.__subclasses__(), key=lambda model: model.__name__)


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_section_is_closed_and_every_key_explained(model: type[BaseModel]) -> None:
    assert model.model_config["extra"] == "forbid"
    assert all(field.description for field in model.model_fields.values())


def test_no_key_of_the_model_is_named_as_a_secret() -> None:
    aliases = [field.alias for model in models() for field in model.model_fields.values()]
    assert [alias for alias in aliases if alias and names_secret(alias)] == []


# --- Secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["password", "vspherePassword", "apiToken", "client_secret", "accessKey", "private-key"]
)
def test_a_key_names_a_secret(key: str) -> None:
    assert names_secret(key)


@pytest.mark.parametrize("key", ["keyName", "agePublicKey", "bypass", "secretless", "tokens_used"])
def test_a_key_names_no_secret(key: str) -> None:
    assert not names_secret(key)


@pytest.mark.parametrize(
    "value",
    [
        "-----BEGIN RSA PRIVATE KEY-----\nMII",
        "AGE-SECRET-KEY-1QQQ",
        "ghp_abcdef",
        "github_pat_11AAA",
        "https://user:word@example.com/x",
    ],
)
def test_a_value_looks_like_a_secret(value: str) -> None:
    assert looks_secret(value)


@pytest.mark.parametrize("value", ["https://example.com:8443/a@b", "age1ql3z7hjy54", "node01", 5])
def test_a_value_looks_like_no_secret(value: object) -> None:
    assert not looks_secret(value)


def test_a_bare_cluster_needs_vcenters_password_alone() -> None:
    assert [key.name for key in needed(Services())] == ["vspherePassword"]


def test_prod_needs_every_secret_but_those_of_other_hosts() -> None:
    assert {key.name for key in SECRET_KEYS} - {key.name for key in needed(prod().services)} == {
        "registryPassword",  # production pulls public images
        "omniServiceAccountKey",  # the stack itself manages production
        "omniJoinToken",
        "dnsAccessKey",  # production's domain is at Cloudflare
        "alertSlackUrl",  # production tells a server of its own alone
        "alertMailPassword",
        "alertPagerDutyKey",
        "argocdRepositoryKey",  # production's repository is public, and at GitHub
        "gitlabWebhookSecret",
        "gitlabClientSecret",
        "giteaWebhookSecret",
        "giteaClientSecret",
        "oidcClientSecret",
    }


# --- Versions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "span", "fits"),
    [
        ("1.31", ("1.31", "1.36"), True),
        ("1.36", ("1.31", "1.36"), True),
        ("1.37", ("1.31", "1.36"), False),
        ("1.9", ("1.31", "1.36"), False),
        ("1.4.0", ("1.4.1", "1.4"), False),
        ("1.4.9", ("1.4.1", "1.4"), True),
        ("1.5.0", ("1.4.1", "1.4"), False),
        ("39.0.9", ("37.3", "39"), True),
        ("37.2.9", ("37.3", "39"), False),
        ("40.0.0", ("37.3", "39"), False),
        ("99.0.0", ("1.31", None), True),
    ],
)
def test_a_version_fits_a_span(version: str, span: versions.Span, *, fits: bool) -> None:
    assert versions.fits(version, span) == fits


def test_the_pinned_versions_fit_together() -> None:
    fit = versions.GATEWAY_API_FITS[versions.minor(versions.CILIUM)]
    assert versions.fits(versions.GATEWAY_API, fit.gateway_api)
    assert versions.fits(versions.TRAEFIK, fit.traefik_chart)
    span = versions.TALOS_KUBERNETES[versions.minor(versions.TALOS)]
    assert versions.fits(versions.minor(versions.KUBERNETES), span)


@pytest.mark.parametrize("talos", sorted(versions.TALOS_KUBERNETES))
def test_kubernetes_is_held_against_each_talos(talos: str) -> None:
    first, last = versions.TALOS_KUBERNETES[talos]
    assert last is not None
    middle = [int(part.split(".")[1]) for part in (first, last)]
    taken = [
        minor
        for minor in range(20, 50)
        if not list(
            rules.check(
                Draft(
                    talos=config.settings.Talos.model_validate_json(
                        f'{{"version": "{talos}.0", "contract": "1.12", "extensions": []}}'
                    ),
                    kubernetes=config.settings.Kubernetes(version=f"1.{minor}.0"),
                )
            )
        )
    ]
    assert taken == list(range(middle[0], middle[1] + 1))


@pytest.mark.parametrize(
    ("talos", "contract", "fault"),
    [
        ("1.13.9", "1.13", None),
        ("1.14.2", "1.13", None),
        ("1.14.2", "1.12", None),
        ("1.12.5", "1.13", "newer than Talos 1.12.5"),
        ("1.14.2", "1.14", "not a contract that the stack knows"),
        ("1.13.9", 1.13, "not a contract that the stack knows"),
    ],
)
def test_a_contract_is_one_that_the_stack_writes_and_talos_knows(
    talos: str, contract: object, fault: str | None
) -> None:
    given = production()["talos"] | {"version": talos, "contract": contract}
    values = production() | {"talos": given}
    if fault is None:
        assert config.parse(values).talos.contract_tag == f"v{contract}.0"
        return
    with pytest.raises(config.SettingsError) as caught:
        config.parse(values)
    assert "platform:talos.contract" in str(caught.value)
    assert fault in str(caught.value)


def test_a_new_talos_keeps_the_contract_of_the_cluster() -> None:
    given = production()["talos"] | {"version": "1.14.2"}
    assert config.parse(production() | {"talos": given}).talos.contract_tag == "v1.13.0"


def test_every_pinned_version_has_a_marker_for_renovate() -> None:
    lines = (ROOT / "config" / "versions.py").read_text().splitlines()
    pinned = [index for index, line in enumerate(lines) if re.match(r'[A-Z_]+ = "', line)]
    assert len(pinned) >= 10
    marker = re.compile(
        r"# renovate: datasource=[-\w]+ depName=\S+( (registryUrl|extractVersion)=\S+)?$"
    )
    assert [lines[index] for index in pinned if not marker.match(lines[index - 1])] == []


# --- Pulumi.yaml -------------------------------------------------------------------------------


def project() -> dict[str, Any]:
    loaded: dict[str, Any] = plain_yaml.read((ROOT / "Pulumi.yaml").read_text())
    return loaded


def test_the_project_declares_every_section_and_nothing_else() -> None:
    declared = {key: value for key, value in project()["config"].items() if ":" not in key}
    secrets = {key for key, value in declared.items() if value.get("secret")}
    assert declared.keys() - secrets == set(config.Settings.model_fields)
    assert secrets == {"vspherePassword"}
    assert project()["name"] == "platform"


def test_the_project_leaves_missing_sections_to_the_programs_own_check() -> None:
    for key, value in project()["config"].items():
        if key in config.Settings.model_fields:
            assert value["default"] == ([] if value["type"] == "array" else {})


def test_the_project_disables_default_providers() -> None:
    assert project()["config"]["pulumi:disable-default-providers"] == {"value": ["*"]}
