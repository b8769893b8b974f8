"""Layer Drift: what Helm releases made, against what is there; and what Argo CD says of its own.

A release's refresh compares its inputs, never its objects. Each object of the newest manifest is
given to the API server as a server-side apply that is not made (`dryRun`): what would change is
drift. So the server's defaults are none; fields that a person added are told apart (undeclared.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clients import interrupts
from clients.kubernetes_api import InvalidError, KubernetesApi
from config.resource_types import RELEASE
from ops.drift.fields import told
from ops.drift.finding import ARGOCD, Field, Finding
from ops.drift.ownership import Thing, owner_of, where
from ops.drift.undeclared import ADDED, LAST_APPLIED, NOT_SET, Undeclared, removal, undeclared
from ops.render import rendering
from ops.review.difference import leaves, shown
from ops.review.kubernetes import PREFIX

MANAGER = "platform-drift"
NOISE = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")
APPLICATIONS = "/apis/argoproj.io/v1alpha1/applications"
WORKLOADS = ("DaemonSet", "Deployment", "Job", "StatefulSet")
"""What can be deleted and made again, and loses nothing but its pods."""
FIXED = "changed in a field that cannot be put back in place"
SELF_HEAL = "Argo CD puts it back; see why it has not: `kubectl -n argocd get applications`"

AT_ONCE = 8
"""So many objects are asked for at the same time."""

Object = Mapping[str, Any]


def findings(api: KubernetesApi, manifests: Mapping[tuple[str, str], str]) -> Iterator[Finding]:
    """Compare the manifests of releases, by namespace and name. Raises `ApiError`.

    Once Argo CD syncs a release that was handed over, it renders it and tells of it, and Helm's
    record is old. Until then the record says what its objects should be.
    """
    kinds = Kinds(api)
    for (namespace, release), manifest in sorted(manifests.items()):
        owner = owner_of(Thing("helm.sh", "Release", namespace, release))
        if owner == ARGOCD and _syncs(api, namespace, release):
            continue
        objects = rendering.objects(manifest)
        found = []
        for each in objects:
            thing, path = kinds.locate(each, namespace)
            live = api.find(path) if path else None
            one = _compare(api, path, live, each, thing)
            if one:
                found.append(one)
            fixed = one is not None and one[0].startswith(FIXED)
            hidden = thing.kind == "Secret"
            if live and not fixed and (more := undeclared(live, each, hidden=hidden)):
                yield _extra(thing, owner, f"{ADDED} (release {release})", more)
        # Until these are recreated, the others' fix stops at them.
        for what, fields, thing in sorted(found, key=lambda one: not one[0].startswith(FIXED)):
            yield Finding(
                place="cluster",
                who=f"{thing.kind} {thing.namespace}/{thing.name}",
                owner=owner,
                what=f"{what} (release {release})",
                fields=fields,
                fix=_recreate(thing, release) if what.startswith(FIXED) else _fix(release),
            )


def added(api: KubernetesApi, resources: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Tell what people added to the objects that the program makes itself.

    The provider compares only what is declared. `resources` are the state's, with its secrets.
    Raises `ApiError`.
    """
    kinds = Kinds(api)
    objects = [
        one["inputs"]
        for one in resources
        if one["type"].startswith(PREFIX) and one["type"] != RELEASE and "kind" in one["inputs"]
    ]
    located = [kinds.locate(one, "default") for one in objects]
    with interrupts.threads(AT_ONCE) as pool:
        found = pool.map(lambda path: api.find(path) if path else None, (one for _, one in located))
        for declared, (thing, _), live in zip(objects, located, found, strict=True):
            if live and (more := _added(live, declared, thing)):
                yield _extra(thing, owner_of(thing), ADDED, more)


def _added(live: Object, declared: Object, thing: Thing) -> list[Undeclared]:
    """Compare one object; of a Secret tell kubectl's copy of it too, which is not encrypted."""
    if thing.kind != "Secret":
        return undeclared(live, declared)
    data = {**(declared.get("data") or {}), **(declared.get("stringData") or {})}
    found = undeclared(live, {**declared, "data": data}, hidden=True)
    if LAST_APPLIED in (live["metadata"].get("annotations") or {}):
        what = "all that the Secret holds, in clear: `kubectl apply` keeps it"
        field = Field(where=f'metadata.annotations["{LAST_APPLIED}"]', wanted=NOT_SET, found=what)
        found.append(Undeclared(field, ("metadata", "annotations", LAST_APPLIED)))
    return found


def applications(api: KubernetesApi) -> Iterator[Finding]:
    """Give what Argo CD calls out of sync, and what it cannot compare; nothing where it is not.

    One that Argo CD has not looked at yet has no status. Raises `ApiError`.
    """
    for one in (api.find(APPLICATIONS) or {}).get("items", ()):
        status = ((one.get("status") or {}).get("sync") or {}).get("status")
        if status == "Unknown":
            yield _unknown(one["metadata"])
        if status != "OutOfSync":
            continue
        fields = tuple(
            Field(where=_resource(each), wanted="as in Git", found="OutOfSync")
            for each in (one.get("status") or {}).get("resources") or ()
            if each.get("status") == "OutOfSync"
        )
        yield Finding(
            place="cluster",
            who=f"Application {one['metadata']['namespace']}/{one['metadata']['name']}",
            owner=ARGOCD,
            what="is not what Git says",
            fields=fields,
            fix=f"{SELF_HEAL}, then `argocd app sync {one['metadata']['name']}`",
        )


def _syncs(api: KubernetesApi, namespace: str, release: str) -> bool:
    """Say whether Argo CD has an Application of the release, and has looked at it."""
    path = f"/apis/argoproj.io/v1alpha1/namespaces/{namespace}/applications/{release}"
    status = (api.find(path) or {}).get("status") or {}
    return bool((status.get("sync") or {}).get("status"))


def _unknown(metadata: Object) -> Finding:
    namespace, name = metadata["namespace"], metadata["name"]
    return Finding(
        place="cluster",
        who=f"Application {namespace}/{name}",
        owner=ARGOCD,
        what="Argo CD cannot compare it with Git, so nobody sees its drift",
        fix=f"`kubectl -n {namespace} describe application {name}` says why",
    )


def _resource(one: Object) -> str:
    return f"{one.get('kind')} {one.get('namespace', '-')}/{one.get('name')}"


def _fix(release: str) -> str:
    return (
        f"`python -m ops render objects {release} | "
        f"kubectl apply --server-side --force-conflicts --field-manager={MANAGER} -f -` makes it "
        "as it was"
    )


def _recreate(thing: Thing, release: str) -> str:
    if thing.kind not in WORKLOADS:
        return (
            "only deleting and recreating it would restore it, and what it holds would be lost: "
            "find out who changed it"
        )
    delete = f"kubectl -n {thing.namespace} delete {thing.kind.lower()}/{thing.name}"
    return f"`{delete} && {_fix(release)[1:]}; its pods do not run until then"


class Kinds:
    """Where the API serves each kind."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._known: dict[str, dict[str, tuple[str, bool]]] = {}

    def locate(self, one: Object, namespace: str) -> tuple[Thing, str | None]:
        """Give an object's identity and its path; no path when the API does not serve its kind."""
        version, kind = str(one["apiVersion"]), str(one["kind"])
        group = version.rpartition("/")[0]
        name = str(one["metadata"]["name"])
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if version not in self._known:
            served = self._api.find(root) or {}
            self._known[version] = {
                each["kind"]: (each["name"], each["namespaced"])
                for each in served.get("resources", ())
                if "/" not in each["name"]
            }
        where = one["metadata"].get("namespace") or namespace
        if kind not in self._known[version]:
            return Thing(group, kind, where, name), None
        plural, namespaced = self._known[version][kind]
        middle = f"/namespaces/{where}" if namespaced else ""
        thing = Thing(group, kind, where if namespaced else "-", name)
        return thing, f"{root}{middle}/{plural}/{name}"


def _compare(
    api: KubernetesApi, path: str | None, live: Object | None, one: Object, thing: Thing
) -> tuple[str, tuple[Field, ...], Thing] | None:
    """Say what is not as the manifest declares; None when all is."""
    if path is None:
        return "the cluster no longer knows its kind", (), thing
    if live is None:
        return "gone", (), thing
    try:
        wanted = api.would_apply(path, one, MANAGER)
    except InvalidError as error:
        # The message quotes values.
        why = "" if thing.kind == "Secret" else f": {shown(str(error))}"
        return f"{FIXED}{why}", (), thing
    fields = tuple(told(thing.kind, leaf) for leaf in leaves(_plain(wanted), _plain(live)))
    return ("changed", fields, thing) if fields else None


def _extra(thing: Thing, owner: str, what: str, found: Sequence[Undeclared]) -> Finding:
    """Tell of fields that a person added: an apply leaves them where they are."""
    return Finding(
        place="cluster",
        who=f"{thing.kind} {thing.namespace}/{thing.name}",
        owner=owner,
        what=what,
        fields=tuple(each.field for each in found),
        fix=f"`{removal(where(thing), found)}` takes it away",
    )


def _plain(one: Object) -> dict[str, Any]:
    """Leave out what the server keeps for itself."""
    metadata = {key: value for key, value in one["metadata"].items() if key not in NOISE}
    return {key: value for key, value in one.items() if key != "status"} | {"metadata": metadata}
