"""Who uses an API version that a newer Kubernetes serves no longer, as the cluster itself tells.

Three witnesses: the API server's metric of deprecated requests, which counts from its start
(https://kubernetes.io/docs/reference/using-api/deprecation-policy/#rest-resources-aka-api-objects);
what objects say of who wrote them; and what each Helm release last rendered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from clients import helm_records
from clients.kubernetes_api import KubernetesApi
from config import plain_yaml
from config.removed_apis import REMOVED_APIS, removed
from config.versions import minor, parse

METRIC = "apiserver_requested_deprecated_apis"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MOST_NAMED = 5
"""Users of one API version that are named."""

_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Use:
    """An API version that is used and will be gone."""

    api: str
    """Such as `storage.k8s.io/v1alpha1 volumeattributesclasses`."""
    removed: str
    """The minor version that serves it no longer; "" when the API server does not tell."""
    replacement: str
    """What to write instead, such as `storage.k8s.io/v1`; "" when nothing is."""
    by: tuple[str, ...]
    """Who uses it, for people."""


@dataclass(frozen=True)
class _Resource:
    group: str
    version: str
    name: str
    """In the plural, as in the API's paths."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


def uses(api: KubernetesApi, servers: Mapping[str, KubernetesApi], old: str, new: str) -> list[Use]:
    """List what a change from the old to the new version would break. Raises `ApiError`.

    `servers` are the API servers one by one, by their machine's name: each counts for itself.
    """
    if minor(old) == minor(new):
        return []
    asked = _requested(servers, minor(new))
    ends = {resource: release for resource, (release, _) in asked.items()}
    by = {resource: [f"requests to {one}" for one in at] for resource, (_, at) in asked.items()}
    for row in removed(minor(old), minor(new)):
        for resource in _of_kinds(api, row.replacement, row.kinds, (row.group, row.version)):
            ends.setdefault(resource, row.removed)
    for resource in ends:
        declared = resource not in asked
        by.setdefault(resource, [])[:0] = _writers(api, resource, declared_only=declared)
    found = [
        Use(
            f"{resource.api_version} {resource.name}",
            ends[resource],
            _replacement(api, resource),
            tuple(_short(who)),
        )
        for resource, who in by.items()
        if who
    ]
    return found + _of_releases(api, old, new)


def of_manifests(manifests: Mapping[str, str], old: str, new: str) -> list[Use]:
    """List what manifests, by the name of what they are of, use and a newer Kubernetes lacks."""
    rows = removed(minor(old), minor(new))
    by: dict[tuple[str, str], list[str]] = {}
    for owner, text in manifests.items():
        for one in plain_yaml.read_all(text):
            if isinstance(one, dict) and _row(one, rows):
                key = str(one["apiVersion"]), str(one["kind"])
                name = (one.get("metadata") or {}).get("name")
                by.setdefault(key, []).append(f"{one['kind']} {name} of {owner}")
    listed = []
    for (api_version, kind), who in by.items():
        (row,) = (one for one in rows if one.api_version == api_version and kind in one.kinds)
        listed.append(
            Use(f"{api_version} {kind}", row.removed, row.replacement, tuple(_short(who)))
        )
    return listed


def _row(manifest: Mapping[str, Any], rows: Iterable[Any]) -> bool:
    return any(
        manifest.get("apiVersion") == one.api_version and manifest.get("kind") in one.kinds
        for one in rows
    )


def _of_releases(api: KubernetesApi, old: str, new: str) -> list[Use]:
    if not removed(minor(old), minor(new)):
        return []
    rendered = helm_records.manifests(api)
    named = {f"the Helm release {space}/{name}": text for (space, name), text in rendered.items()}
    return of_manifests(named, old, new)


def _requested(
    servers: Mapping[str, KubernetesApi], new: str
) -> dict[_Resource, tuple[str, list[str]]]:
    """Read what was requested that the new minor version lacks: since when it is, and of whom."""
    found: dict[_Resource, tuple[str, list[str]]] = {}
    for machine, server in servers.items():
        for line in server.text("/metrics").splitlines():
            if not line.startswith(f"{METRIC}{{") or line.endswith(" 0"):
                continue
            labels = dict(_LABEL.findall(line))
            release = labels.get("removed_release", "")
            if not release or parse(release) > parse(new):
                continue
            resource = _Resource(labels["group"], labels["version"], labels["resource"])
            of = found.setdefault(resource, (release, []))[1]
            if machine not in of:
                of.append(machine)
    return found


def _of_kinds(
    api: KubernetesApi, api_version: str, kinds: Iterable[str], old: tuple[str, str]
) -> Iterator[_Resource]:
    """Name the resources of these kinds, under their old API version."""
    for one in _served(api, api_version):
        if one["kind"] in kinds and "/" not in one["name"]:
            yield _Resource(*old, str(one["name"]))


def _served(api: KubernetesApi, api_version: str) -> list[dict[str, Any]]:
    root = "/apis" if "/" in api_version else "/api"
    answer = api.find(f"{root}/{api_version}")
    return list(answer["resources"]) if answer else []


def _replacement(api: KubernetesApi, resource: _Resource) -> str:
    """Name another served version of a resource: the one that the API server prefers, if it can."""
    group = api.find(f"/apis/{resource.group}") if resource.group else None
    for one in (group or {}).get("versions") or []:
        version, name = str(one["groupVersion"]), resource.name
        gone = any(row.api_version == version for row in REMOVED_APIS)
        if version == resource.api_version or gone:
            continue
        if any(each["name"] == name for each in _served(api, version)):
            return version
    return ""


def _writers(api: KubernetesApi, resource: _Resource, *, declared_only: bool) -> list[str]:
    """Name the objects that were written with this API version, and by whom.

    `declared_only` leaves out those whose writer wrote once and may never again: their entry
    stays for ever, whatever is written later.
    """
    # Through another version: a list through this one would be one more request for it.
    version = _replacement(api, resource)
    items = (
        (api.find(f"/apis/{version}/{resource.name}") or {}).get("items") or [] if version else []
    )
    found = []
    for one in items:
        meta = one["metadata"]
        managers = [
            str(entry.get("manager"))
            for entry in meta.get("managedFields") or []
            if entry.get("apiVersion") == resource.api_version
            and (entry.get("operation") == "Apply" or not declared_only)
        ]
        if _last_applied(meta) == resource.api_version:
            managers.append("kubectl apply")
        if managers:
            name = "/".join(filter(None, [meta.get("namespace"), meta["name"]]))
            found.append(f"{name} (written by {', '.join(dict.fromkeys(managers))})")
    return found


def _last_applied(meta: Mapping[str, Any]) -> str:
    with suppress(ValueError, AttributeError):
        text = (meta.get("annotations") or {}).get(LAST_APPLIED) or "{}"
        return str(json.loads(text).get("apiVersion"))
    return ""


def _short(who: list[str]) -> list[str]:
    more = len(who) - MOST_NAMED
    return who if more <= 0 else [*who[:MOST_NAMED], f"{more} more"]
