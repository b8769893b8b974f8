"""Keys that people look for and that are none: the message says what stands in their place."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

import config
from config.not_settings import MISSING
from tests.unit.recorder import ROOT, production


def refused(*path: str | int) -> str:
    """Give what is said of production's settings with one more key."""
    settings: dict[str, Any] = deepcopy(production())
    place: Any = settings
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = "x"
    with pytest.raises(config.SettingsError) as caught:
        config.parse(settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "way"),
    [
        (("machines", 0, "vlan"), "`networks`; for a VLAN on a card docs/patches.md"),
        (("machines", 0, "bond"), "a virtual machine needs none"),
        (("machines", 0, "resource_pool"), "all machines are in one: site.resourcePool"),
        (("machines", 0, "storagePolicy"), "all machines have one: site.storagePolicy"),
        (("site", "datastoreCluster"), "Storage DRS would move etcd's disks"),
        (("services", "storage"), "volumes of vSphere itself are not built"),
        (("talos", "registryMirrors"), "`talos.mirrors`, with `talos.registryLogin`"),
        (("network", "httpProxy"), "the proxy is `network.proxy`"),
        (("network", "caBundle"), "are `site.trustedRoots`"),
        (("services", "certManager", "dns", "webhook"), "Route 53 or a solver's webhook"),
    ],
)
def test_a_key_that_is_none_leads_to_what_stands_in_its_place(
    path: tuple[str | int, ...], way: str
) -> None:
    said = refused(*path)
    assert "unknown key" in said
    assert way in said
    assert "; known are " in said


@pytest.mark.parametrize(
    ("path", "meant"),
    [(("site", "dataStore"), "datastore"), (("machines", 0, "hots"), "host")],
)
def test_a_key_that_is_only_misspelt_is_still_told_as_that(
    path: tuple[str | int, ...], meant: str
) -> None:
    assert f"did you mean `{meant}`?" in refused(*path)


def test_every_way_by_a_patch_is_on_the_page() -> None:
    page = (ROOT / "docs" / "patches.md").read_text()
    kinds = ("VLANConfig", "LinkConfig")
    assert sum("docs/patches.md" in one.way for one in MISSING) == len(kinds)
    for kind in kinds:
        assert f"kind: {kind}" in page


@pytest.mark.parametrize(
    ("interface", "good"),
    [("eth0.120", True), ("bond0", True), ("ETH0", False), ("eth0/1", False), ("a" * 16, False)],
)
def test_addresses_are_announced_on_any_interface_that_linux_can_have(
    interface: str, *, good: bool
) -> None:
    settings: dict[str, Any] = deepcopy(production())
    settings["services"]["metallb"]["interface"] = interface
    if good:
        assert config.parse(settings).services.metallb is not None
        return
    with pytest.raises(config.SettingsError, match=r"metallb\.interface.*as in eth0"):
        config.parse(settings)
