"""GitOps: the files that follow from the settings, and whether the committed ones are those.

In the cluster's folder, next to its Talos patches: `gitops/argo-cd-values.yaml`, the chart's values
on top of bootstrap/argo-cd/values.yaml; `gitops/settings/settings.yaml`, a ConfigMap that never
reaches a cluster: kustomize takes values from it and leaves it out; and below `gitops/services` a
folder for each service that Argo CD installs, of which platform/services.yaml makes Applications.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from components.gitops import commit_statuses, logging, monitoring
from components.gitops.login import sign_on
from config import Settings, SettingsError, git, plain_yaml
from config.problems import Path as Key
from config.problems import Problem, problem
from config.values import split_git_url
from config.way_out import WayOut

if TYPE_CHECKING:
    from config.settings import ArgoCD

Tree = dict[str, Any]
Place = tuple[str, ...]
"""Where a value stands in a file: `("global", "domain")`."""

FOLDER = "gitops"
VALUES = "argo-cd-values.yaml"
BASE_VALUES = "bootstrap/argo-cd/values.yaml"
SETTINGS = "settings/settings.yaml"
SERVICES = "services"
"""The folder with a folder for each service that Argo CD installs."""
HEAD = (
    "# Written by `python -m ops gitops write` from the stack file's settings: change them there.\n"
)
REPOSITORY = "https://argoproj.github.io/argo-helm"
"""Of the chart."""
REPLICAS_OF_REDIS = 3
"""redis-ha and its proxies, each on a machine of its own where there are as many."""
MARKER = (
    "# renovate: datasource=helm depName=argo-cd registryUrl=https://argoproj.github.io/argo-helm\n"
)


@dataclass(frozen=True)
class File:
    """A file that the settings make: where it lies in the repository, and what is in it."""

    path: str
    tree: Tree
    keys: Mapping[Place, Key]
    """For the values in it: the settings' key that it comes from."""

    @property
    def text(self) -> str:
        """The file's text."""
        body = yaml.dump(self.tree, Dumper=_Dumper, sort_keys=False, width=1000)
        return HEAD + body.replace("  argoCdVersion:", f"  {MARKER}  argoCdVersion:")


class _Dumper(plain_yaml.DUMPER):  # type: ignore[misc]  # one of two
    """Writes texts of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


class Fields(NamedTuple):
    """What the chart calls a part's variables, volumes and their places, and notes on its pods."""

    environment: str = "env"
    volumes: str = "volumes"
    mounts: str = "volumeMounts"
    annotations: str = "podAnnotations"

    def of(self, way: WayOut) -> Tree:
        """Give what the part needs to get outside."""
        found = {
            self.environment: way.environment(REPO_SERVER),
            self.volumes: way.volumes,
            self.mounts: way.mounts,
            self.annotations: way.annotations,
        }
        return {key: value for key, value in found.items() if value}


GOES_OUTSIDE: Mapping[str, Fields] = {
    "repoServer": Fields(),
    "dex": Fields(),
    "notifications": Fields("extraEnv", "extraVolumes", "extraVolumeMounts"),
}
"""The parts that call what is outside (components/kubernetes/argocd_network.py)."""
REPO_SERVER = "argo-cd-argocd-repo-server"
"""The Service that other parts call by this name alone, which gRPC would give to a proxy."""


def folder(patches: str) -> str:
    """Give a cluster's folder for Argo CD, `clusters/prod/gitops`, by that of its patches."""
    return str(PurePosixPath(patches, FOLDER))


def files(settings: Settings) -> tuple[File, ...]:
    """Make the files; none when Argo CD is not set."""
    argocd, certificates = settings.services.argocd, settings.services.cert_manager
    if argocd is None or certificates is None:
        return ()
    return (
        _values(settings, argocd),
        _settings(settings, argocd, certificates.domain),
        *_services(settings),
    )


def write(settings: Settings, root: Path) -> list[str]:
    """Write the files that are not as they should be, remove those of no service; gives both."""
    written = _left(settings, root)
    for left in written:
        (root / left).unlink()
    for file in files(settings):
        path = root / file.path
        if not path.is_file() or path.read_text(encoding="utf-8") != file.text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text, encoding="utf-8")
            written.append(file.path)
    return written


def check(settings: Settings, root: Path) -> None:
    """Raise `SettingsError` where the committed files differ from the settings."""
    given = settings.model_dump(mode="json", by_alias=True)
    found = [one for file in files(settings) for one in _differences(file, root, given)]
    found += [*_hidden(settings, root), *_of_no_service(settings, root)]
    if found:
        raise SettingsError(dict.fromkeys(found))


# --- What is in them ---------------------------------------------------------------------------


def _values(settings: Settings, argocd: ArgoCD) -> File:
    service: Key = ("services", "argocd")
    tree: Tree = {"global": {"domain": argocd.domain}, "configs": {"cm": {}, "rbac": {}}}
    keys: dict[Place, Key] = {("global", "domain"): (*service, "domain")}
    login = sign_on(argocd)
    if login is None:
        # Without single sign-on nobody could come in. Argo CD then makes up a password of its own,
        # another one for each cluster, in the Secret argocd-initial-admin-secret.
        tree["configs"]["cm"]["admin.enabled"] = True
        tree["dex"] = {"enabled": False}
    else:
        connectors = {"connectors": [login.connector]}
        tree["configs"]["cm"]["dex.config"] = plain_yaml.written(connectors)
        tree["configs"]["rbac"]["policy.csv"] = "".join(
            f"g, {group}, {role}\n" for group, role in sorted(login.roles.items())
        )
    for place in (("configs", "cm"), ("configs", "rbac"), ("dex",)):
        keys[place] = (*service, "github" if login is None else login.kind)
    access = argocd.repository_access
    if access is not None and access.host_keys:
        # Beside those of the chart's, each as a file of known hosts has it.
        host = git.known_host(argocd.repository_url)
        lines = "".join(f"{host} {key}\n" for key in access.host_keys)
        tree["configs"]["ssh"] = {"extraHosts": lines}
    keys["configs", "ssh"] = (*service, "repositoryAccess")
    if git.is_company_signed(argocd) and (url := split_git_url(argocd.repository_url)):
        tree["configs"]["tls"] = {"certificates": {url.host: settings.site.trusted_roots}}
    keys["configs", "tls"] = (*service, "repositoryAuthority")
    tree |= commit_statuses.values(argocd, settings.cluster.name)
    for field in ("context", "notifiers", "subscriptions"):
        keys["notifications", field] = (*service, "commitStatuses")
    way = WayOut.of(settings)
    for part, fields in GOES_OUTSIDE.items():
        if found := fields.of(way):
            tree.setdefault(part, {}).update(found)
        for field in fields:
            keys[part, field] = (
                ("site", "trustedRoots") if way.proxy is None else ("network", "proxy")
            )
    if len(settings.machines) < REPLICAS_OF_REDIS:
        soft = {"hardAntiAffinity": False}
        tree["redis-ha"] = {**soft, "haproxy": dict(soft)}
    keys["redis-ha",] = ("machines",)
    return File(f"{folder(settings.talos.patches)}/{VALUES}", tree, keys)


def _settings(settings: Settings, argocd: ArgoCD, domain: str) -> File:
    patches = settings.talos.patches
    service: Key = ("services", "argocd")
    data: dict[str, tuple[str, Key]] = {
        "repositoryUrl": (argocd.repository_url, (*service, "repositoryUrl")),
        "revision": (argocd.revision, (*service, "revision")),
        "domain": (domain, ("services", "certManager", "domain")),
        "argoCdVersion": (argocd.version, (*service, "version")),
        "argoCdRepository": (argocd.repository or REPOSITORY, (*service, "repository")),
        "argoCdValues": (
            f"$values/{folder(patches)}/{VALUES}",
            ("talos", "patches"),
        ),
        "services": (f"{folder(patches)}/{SERVICES}/*", ("talos", "patches")),
        "applications": (f"apps/overlays/{PurePosixPath(patches).name}/*", ("talos", "patches")),
    }
    tree = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "platform-settings",
            "annotations": {"config.kubernetes.io/local-config": "true"},
        },
        "data": {name: value for name, (value, _) in data.items()},
    }
    keys: dict[Place, Key] = {("data", name): key for name, (_, key) in data.items()}
    return File(f"{folder(patches)}/{SETTINGS}", tree, keys)


def _services(settings: Settings) -> Iterator[File]:
    """Give the folders of the services that Argo CD installs."""
    for service in (monitoring, logging):
        here = PurePosixPath(folder(settings.talos.patches), SERVICES, service.NAMESPACE)
        base = "../" * len(here.parts) + service.BASE
        for name, tree in service.files(settings, base).items():
            yield File(str(here / name), tree, {(): ("services", service.NAMESPACE)})


# --- What is committed -------------------------------------------------------------------------


def _differences(file: File, root: Path, settings: Tree) -> Iterator[Problem]:
    found = _read(root / file.path)
    fix = "run `python -m ops gitops write` with the stack file, commit and push what it writes"
    if not isinstance(found, dict):
        fault = f"{file.path} is missing, or is not YAML: Argo CD would not find its settings"
        yield problem(("services", "argocd"), None, fault, fix)
        return
    wanted, committed = dict(_leaves(file.tree)), dict(_leaves(found))
    for place in [*wanted, *(place for place in committed if place not in wanted)]:
        if wanted.get(place) == committed.get(place):
            continue
        where = f"`{'.'.join(place)}` in {file.path}"
        key = next((key for start, key in file.keys.items() if place[: len(start)] == start), None)
        if key is None:
            fault = f"{where} was changed by hand"
            yield problem(("services", "argocd"), None, fault, fix)
        else:
            fault = f"{where} {_seen(committed.get(place, 'missing'))}"
            yield problem(key, _value(settings, key), fault, fix)


def _hidden(settings: Settings, root: Path) -> Iterator[Problem]:
    """Find who was to be told, and would not be: Helm lays a list over another as a whole."""
    argocd = settings.services.argocd
    base = _read(root / BASE_VALUES)
    told = base.get("notifications") if isinstance(base, dict) else None
    if argocd is None or argocd.commit_statuses is None or not isinstance(told, dict):
        return
    if told.get("subscriptions"):
        yield problem(
            ("services", "argocd", "commitStatuses"),
            None,
            f"takes the place of `notifications.subscriptions` in {BASE_VALUES}",
            "write these as annotations of the projects in platform/projects (docs/gitops.md, "
            '"Notifications")',
        )


def _left(settings: Settings, root: Path) -> list[str]:
    """Find files of services that the settings do not have."""
    wanted = {file.path for file in files(settings)}
    services = root / folder(settings.talos.patches) / SERVICES
    there = (str(one.relative_to(root)) for one in services.rglob("*") if one.is_file())
    return sorted(path for path in there if path not in wanted)


def _of_no_service(settings: Settings, root: Path) -> Iterator[Problem]:
    """Find what is left of services: of one that is switched off its folder, not each file.

    Without Argo CD nobody reads it.
    """
    if settings.services.argocd is None:
        return
    kept = {str(PurePosixPath(file.path).parent) for file in files(settings)}
    for path in dict.fromkeys(
        folder if (folder := str(PurePosixPath(left).parent)) not in kept else left
        for left in _left(settings, root)
    ):
        fix = (
            "run `python -m ops gitops write` with the stack file, commit and push what it removes"
        )
        yield problem(("services",), None, f"{path} belongs to no service of the settings", fix)


def _seen(value: object) -> str:
    text = str(value)
    return "differs" if "\n" in text else f"is {text}"


def _value(settings: Any, key: Key) -> object:  # noqa: ANN401 any part of the settings
    for part in key:
        settings = settings[part]
    return settings


def _read(path: Path) -> object:
    """Read a file's YAML; None when there is none."""
    try:
        return plain_yaml.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def _leaves(tree: object, place: Place = ()) -> Iterator[tuple[Place, object]]:
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _leaves(value, (*place, str(name)))
    else:
        yield place, tree
