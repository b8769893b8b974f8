"""Configuration: the rules of a cluster that Sidero Omni manages.

What of the settings a cluster has no use for whose keys, configuration and upgrades are Omni's is
refused, with the reason: nobody is to believe that it does something.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from config import versions
from config.problems import Path, Problem, problem

if TYPE_CHECKING:
    from config.draft import Draft
    from config.settings import Omni, Settings, Talos, Updates

STANDALONE = "or write `lifecycle: standalone`: the stack itself configures the machines"


DECIDED = {
    "schematic": (
        "Omni makes the image of a list of extensions, and cannot know those of an id",
        "give `extensions`",
    ),
    "contract": (
        "Omni takes the defaults of the Talos that the cluster was made with",
        "remove it",
    ),
    "drainSeconds": ("Omni upgrades the machines, by its own rules", "remove it"),
    "registryLogin": (
        "its password would stand in clear in Omni, among the cluster's patches",
        "let a mirror of platform:talos.mirrors need no login",
    ),
}
"""Settings of `platform:talos` that are Omni's to decide: why, and what to do."""


def of(settings: Settings) -> Omni:
    """Give the section of a cluster that Omni manages: the rules below want it there."""
    if settings.omni is None:
        message = "lifecycle omni without platform:omni; this is a bug of the check"
        raise ValueError(message)
    return settings.omni


def problems(draft: Draft) -> Iterator[Problem]:
    """Hold the settings against who manages the cluster."""
    if draft.cluster is None:
        return
    if not _is_managed(draft):
        if "omni" not in draft.missing:
            yield problem(
                ("omni",),
                None,
                "not read with lifecycle standalone",
                "remove the section, or write `lifecycle: omni` in platform:cluster",
            )
        return
    if "omni" in draft.missing:
        yield problem(
            ("omni",),
            None,
            "missing, with lifecycle omni",
            f"add the section with at least endpoint, machineApi, eventPort and kubernetesProxy; "
            f"{STANDALONE}",
        )
    if draft.omni is not None:
        yield from _of_omni(draft, draft.omni)
    if draft.talos is not None:
        yield from _of_talos(draft.talos)
    if draft.omni is not None and draft.talos is not None:
        yield from _talos_release(draft.omni, draft.talos)
    if draft.updates is not None:
        yield from _of_updates(draft.updates)


def _is_managed(draft: Draft) -> bool:
    return draft.cluster is not None and draft.cluster.lifecycle == "omni"


def _of_omni(draft: Draft, omni: Omni) -> Iterator[Problem]:
    if omni.event_port == omni.log_port:
        yield problem(
            ("omni", "eventPort"),
            omni.event_port,
            "also platform:omni.logPort",
            "give both as `omnictl jointoken machine-config` prints them",
        )
    urls = {"endpoint": omni.endpoint, "machineApi": omni.machine_api}
    for key, url in urls.items():
        if url.rstrip("/") == omni.kubernetes_proxy.rstrip("/"):
            yield problem(
                ("omni", "kubernetesProxy"),
                omni.kubernetes_proxy,
                f"also platform:omni.{key}: Omni serves them apart",
                "give the `server` of a kubeconfig that `omnictl kubeconfig` writes",
            )
    names = {machine.name for machine in draft.machines.values()}
    seen = set[str]()
    for index, name in enumerate(omni.lost):
        path: Path = ("omni", "lost", index)
        if name in names:
            yield problem(
                path,
                name,
                "also one of platform:machines: Omni would take it out of the cluster by force",
                "remove it from one of the two lists",
            )
        if name in seen:
            yield problem(path, name, "named twice", "keep one of the two")
        seen.add(name)


def _of_talos(talos: Talos) -> Iterator[Problem]:
    """Find settings of Talos that are Omni's to decide, where somebody has written them."""
    written = {
        info.alias: getattr(talos, name)
        for name, info in type(talos).model_fields.items()
        if name in talos.model_fields_set
    }
    for key, (fault, fix) in DECIDED.items():
        if (value := written.get(key)) is not None:
            shown = value if isinstance(value, str | int) else None
            yield problem(("talos", key), shown, f"not with lifecycle omni: {fault}", fix)


def _talos_release(omni: Omni, talos: Talos) -> Iterator[Problem]:
    span = versions.OMNI_TALOS.get(versions.minor(omni.version))
    if span is None:
        yield problem(
            ("omni", "version"),
            omni.version,
            "not an Omni release that the stack knows",
            f"use one of {', '.join(versions.OMNI_TALOS)}",
        )
    elif not versions.fits(versions.minor(talos.version), span):
        yield problem(
            ("talos", "version"),
            talos.version,
            f"not a Talos that Omni {omni.version} manages",
            f"use Talos {versions.describe(span)}",
        )


def _of_updates(updates: Updates) -> Iterator[Problem]:
    """Find updates without a person of what Omni upgrades: nothing here watches over those yet."""
    for layer in ("talos", "kubernetes"):
        if (step := updates.steps.get(layer)) is not None:
            yield problem(
                ("updates", layer),
                step,
                "not with lifecycle omni: Omni upgrades the machines, and no person would watch",
                "write off, and change the version by hand",
            )
