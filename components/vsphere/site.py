"""Layer vSphere: what the site has. Names from the settings become vCenter's ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import pulumi
import pulumi_vsphere as vsphere

from clients import explanation
from clients.vcenter.connection import VCenter
from components.failures import Questions

if TYPE_CHECKING:
    from config.problems import Path, Problem
    from config.settings import Machine, Site

T = TypeVar("T")
Ids = Mapping[str, pulumi.Output[str]]
"""Ids in vCenter, by the names of the settings."""


@dataclass(frozen=True)
class Found:
    """What the site has, by vCenter's ids. All of it exists, or the run has ended."""

    datacenter: pulumi.Output[str]
    cluster: pulumi.Output[str]
    pool: pulumi.Output[str]
    datastores: Ids
    networks: Ids
    hosts: Ids
    policy: pulumi.Output[str] | None
    """The storage policy; None for the datastores' default."""
    existing: Existing


@dataclass
class Existing:
    """What the stack uses and did not make; None or nothing where it makes it itself."""

    folder: pulumi.Output[str] | None = None
    library: pulumi.Output[str] | None = None
    tags: Ids = field(default_factory=dict)
    """By role."""


class Look:
    """Asks vCenter for objects by their names; what is missing is told together."""

    def __init__(
        self, site: Site, machines: Sequence[Machine], opts: pulumi.InvokeOutputOptions
    ) -> None:
        """Take where to look; nothing is asked yet."""
        self._site = site
        self._machines = machines
        self._opts = opts
        self._questions = Questions()

    def up(self) -> Found:
        """Look everything up that the settings name."""
        site, opts = self._site, self._opts
        # The first answer also tells whether vCenter can be used at all.
        home = (
            Questions()
            .ask(
                lambda: vsphere.get_datacenter_output(name=site.datacenter, opts=opts),
                self._named("datacenter", site.datacenter, "datacenter"),
            )
            .id
        )
        self._home = home
        cluster = self._ask(
            lambda: vsphere.get_compute_cluster_output(
                name=site.cluster, datacenter_id=home, opts=opts
            ),
            self._named("cluster", site.cluster, "cluster"),
        )
        return Found(
            datacenter=home,
            cluster=cluster.id,
            pool=self._pool(cluster.resource_pool_id),
            datastores=self._datastores(),
            networks=self._networks(),
            hosts=self._hosts(),
            policy=self._policy(),
            existing=self._existing(),
        )

    def _ask(
        self, question: Callable[[], pulumi.Output[T]], problem: Callable[[str], Problem]
    ) -> pulumi.Output[T]:
        return self._questions.ask(question, problem)

    def _named(self, key: str, value: str, kind: str) -> Callable[[str], Problem]:
        return self._at(("site", key), value, kind)

    def _at(self, path: Path, value: str, kind: str) -> Callable[[str], Problem]:
        return lambda words: explanation.of_object(self._site, path, value, kind, words)

    def _pool(self, root: pulumi.Output[str]) -> pulumi.Output[str]:
        site, name = self._site, self._site.resource_pool
        if name is None:
            return root
        # Its name alone would be looked for in all clusters.
        path = f"{site.cluster}/Resources/{name}"
        return self._ask(
            lambda: vsphere.get_resource_pool_output(
                name=path, datacenter_id=self._home, opts=self._opts
            ),
            self._named("resourcePool", name, f"resource pool in {site.cluster}"),
        ).id

    def _datastores(self) -> Ids:
        machines = enumerate(self._machines)
        named: dict[str, Path] = {
            one.datastore: ("machines", i, "datastore") for i, one in machines if one.datastore
        }
        named[self._site.datastore] = ("site", "datastore")
        return {name: self._datastore(name, path) for name, path in sorted(named.items())}

    def _datastore(self, name: str, path: Path) -> pulumi.Output[str]:
        return self._ask(
            lambda: vsphere.get_datastore_output(
                name=name, datacenter_id=self._home, opts=self._opts
            ),
            self._at(path, name, "datastore"),
        ).id

    def _networks(self) -> Ids:
        named: dict[str, Path] = {
            card.network: ("machines", i, "networks", number, "network")
            for i, one in enumerate(self._machines)
            for number, card in enumerate(one.networks)
        }
        named[self._site.network] = ("site", "network")
        return {name: self._network(name, path) for name, path in sorted(named.items())}

    def _network(self, name: str, path: Path) -> pulumi.Output[str]:
        return self._ask(
            lambda: vsphere.get_network_output(
                name=name, datacenter_id=self._home, opts=self._opts
            ),
            self._at(path, name, "network"),
        ).id

    def _hosts(self) -> Ids:
        machines = enumerate(self._machines)
        named: dict[str, Path] = {
            one.host: ("machines", i, "host") for i, one in machines if one.host
        }
        return {name: self._host(name, path) for name, path in sorted(named.items())}

    def _host(self, name: str, path: Path) -> pulumi.Output[str]:
        return self._ask(
            lambda: vsphere.get_host_output(name=name, datacenter_id=self._home, opts=self._opts),
            self._at(path, name, "host"),
        ).id

    def _policy(self) -> pulumi.Output[str] | None:
        name = self._site.storage_policy
        if name is None:
            return None
        return self._ask(
            lambda: vsphere.get_policy_output(name=name, opts=self._opts),
            self._named("storagePolicy", name, "storage policy"),
        ).id

    def _existing(self) -> Existing:
        site, found = self._site, Existing()
        if "folder" in site.existing:
            path = VCenter.of(site).folder_path
            found.folder = self._ask(
                lambda: vsphere.get_folder_output(path=path, opts=self._opts),
                self._named("folder", site.folder, "folder for machines"),
            ).id
        if "contentLibrary" in site.existing:
            name = site.content_library
            found.library = self._ask(
                lambda: vsphere.get_content_library_output(name=name, opts=self._opts),
                self._named("contentLibrary", name, "content library"),
            ).id
        if "tagCategory" in site.existing and site.tag_category is not None:
            found.tags = self._tags(site.tag_category)
        return found

    def _tags(self, name: str) -> Ids:
        category = self._ask(
            lambda: vsphere.get_tag_category_output(name=name, opts=self._opts),
            self._named("tagCategory", name, "tag category"),
        ).id

        def tag(role: str) -> pulumi.Output[str]:
            return self._ask(
                lambda: vsphere.get_tag_output(name=role, category_id=category, opts=self._opts),
                self._named("tagCategory", name, f"tag `{role}` in this category"),
            ).id

        return {role: tag(role) for role in roles(self._machines)}


def roles(machines: Sequence[Machine]) -> list[str]:
    """List the roles that the machines have."""
    return sorted({machine.role for machine in machines})
