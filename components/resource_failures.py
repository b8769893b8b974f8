"""What a provider's refusal of a resource means for the settings.

A resource that fails ends the run with the provider's words alone. Each resource of vCenter, of the
image factory, of Talos and of Helm has an error hook, which says in their place which setting it is
about and what to do, with those words in brackets.

What the hook raises takes the place of the words only when nothing was made. When something was
made or was there before, the engine shows them whatever the hook says (pulumi/pkg,
resource/deploy/step.go), so the rest is told beside them, and they still stand there once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pulumi
from pulumi.resource import DependencyResource

from clients.explanation import meaning_of_connection, of_connection, of_vcenter
from clients.waiting import STOP
from components.failures import SHUT_DOWN
from components.hooks import this_run
from config.problems import Problem, problem
from config.resource_types import IMAGE

if TYPE_CHECKING:
    from config.charts import ChartPlan
    from config.settings import Machine, Site, Talos

Explain = Callable[[pulumi.ErrorHookArgs, str], Problem]
"""Makes a problem of what failed and of the provider's words."""

AGAIN = "then `pulumi up` again"
REFUSALS = (
    (r"insufficient disk space|not enough (free )?space|no space left|out of space|DiskSpace",
     "datastore", "it has no room for {what}", "free space on it, or make it larger"),
    (r"resource ?pool.*(not found|does not exist)|(could not|unable to) find resource ?pool",
     "cluster", "it no longer has the resource pool of {what}",
     "see in vCenter what happened to it"),
    (r"no (compatible )?hosts? |insufficient ?(resources|memory|cpu)|failover level",
     "cluster", "none of its hosts can take {what}",
     "see which are connected, not in maintenance, and have memory (docs/operations.md has more)"),
)  # fmt: skip
"""What vCenter's words are, the key of `platform:site` they are about, the fault and the fix."""

GONE = re.compile(
    r"(?i)cannot locate (virtual machine|folder)|ManagedObjectNotFound|already been d"
)
FROM_FACTORY = re.compile(
    r"(?i)got status|while getting the file|https?://\S*/image/|\bfrom remote\b|response code"
)
MADE = re.compile(r"(?i)powering on|waiting for|failed to initialize|attach\w* tags?")
"""Words of a creation that failed after something was made."""
NOISE = re.compile(r"^\d+ errors? occurred:\s*\*\s*|\*\s(?=error )")
"""What Terraform puts around a list of errors."""


def explained(name: str, explain: Explain) -> pulumi.ErrorHook:
    """Make an error hook, which any number of resources may share; its name is shown."""

    def hook(args: pulumi.ErrorHookArgs) -> bool:
        words = plain("".join(args.errors[:1]))
        if STOP.requested() or not words or SHUT_DOWN.search(words):
            return False  # what is cut off fails with words that mean nothing
        reason = explain(args, words)
        this_run().write(f"{args.name}: {reason}")
        if args.failed_operation == "create" and not MADE.search(words):
            raise ResourceError(str(reason))
        pulumi.log.error(str(without(reason, words)), resource=DependencyResource(args.urn))
        return False

    return pulumi.ErrorHook(name, hook)


class ResourceError(Exception):
    """A provider refused a resource; the text names the setting and the fix."""


def plain(error: str) -> str:
    """Write a provider's error on one line, without what is only about its form."""
    return NOISE.sub("", " ".join(error.split()))


def without(reason: Problem, words: str) -> Problem:
    """Leave out the provider's words, where the engine shows them."""
    return replace(reason, fix=reason.fix.replace(f" ({words})", ""))


def of_vsphere(site: Site, talos: Talos, args: pulumi.ErrorHookArgs, words: str) -> Problem:
    """Explain why vCenter does not make, change or remove something."""
    what = f"{args.type.rpartition(':')[2]} {args.name}"
    if args.type == IMAGE and (site.image_factory in words or FROM_FACTORY.search(words)):
        return of_factory(site, talos, words)
    for pattern, key, fault, fix in REFUSALS:
        if re.search(pattern, words, re.IGNORECASE):
            value = getattr(site, key)
            return problem(
                ("site", key), value, fault.format(what=what), f"{fix}, {AGAIN} ({words})"
            )
    if args.failed_operation != "create" and GONE.search(words):
        fault = f"it does not have {what}, which the stack's state has"
        fix = f"`make repair` takes it out of the state, {AGAIN} ({words})"
        return problem(("site", "vcenter"), site.vcenter, fault, fix)
    fault = f"it does not {args.failed_operation} {what}"
    fix = f"see its tasks and events, fix it there, {AGAIN} ({words})"
    return of_vcenter(site, words) or problem(("site", "vcenter"), site.vcenter, fault, fix)


def of_factory(site: Site, talos: Talos, words: str) -> Problem:
    """Explain why the image factory does not take the schematic, or does not give the image."""
    factory = site.image_factory
    unreachable = of_connection(("site", "imageFactory"), factory, words)
    if unreachable is not None:
        return unreachable
    extensions = list(talos.extensions or ())
    image = f"Talos {talos.version}"
    status = re.search(r"\b(?:status|code|HTTP)\D{0,3}(\d{3})\b", words)
    refused = status is not None and status[1].startswith("4")
    if re.search(r"(?i)extension", words) or (refused and status and status[1] == "400"):
        fault = f"{factory} makes no image of {image} with {', '.join(extensions) or 'these'}"
        fix = f"name extensions that it has for this version ({words})"
        return Problem("platform:talos.extensions", fault, fix)
    if refused and talos.schematic is not None:
        fault = f"{factory} has no image of {image} for it"
        fix = (
            f"check it, and platform:talos.version = {talos.version}: a schematic is known to the "
            f"factory where it was registered ({words})"
        )
        return problem(("talos", "schematic"), talos.schematic, fault, fix)
    if refused:
        fault = f"{factory} has no image of it"
        fix = f"set a version that https://{factory} lists ({words})"
        return problem(("talos", "version"), talos.version, fault, fix)
    fault = "it does not give the machines' image"
    fix = f"see whether https://{factory} answers in a browser, {AGAIN} ({words})"
    return problem(("site", "imageFactory"), factory, fault, fix)


def of_talos(machines: Sequence[Machine], patches: str, name: str, words: str) -> Problem:
    """Explain why a machine, or the cluster, does not take a call of Talos' provider.

    `patches` is the folder of the operators' patches, `name` the resource's.
    """
    numbers = {one.name: n for n, one in enumerate(machines)}
    if name not in numbers:  # what belongs to the cluster is asked of its first control plane
        name = next(one.name for one in machines if one.is_control_plane)
    address = str(machines[numbers[name]].address)
    unreachable = meaning_of_connection(words)
    if unreachable is not None:
        fault, fix = unreachable
        look = f"{fix}; and look at its console in vCenter, {AGAIN} ({words})"
        return problem(("machines", numbers[name], "address"), address, f"{name}: {fault}", look)
    return Problem(
        f"platform:machines, {name}",
        "Talos refused the request",
        f"correct the machine's settings, or its patches in {patches}; its own log: "
        f"`talosctl -n {address} dmesg` ({words})",
    )


def of_release(plan: ChartPlan, words: str) -> Problem:
    """Explain why Helm does not install or upgrade a chart."""
    return Problem(
        f"platform:services.{plan.service}",
        f"Helm could not finish the chart {plan.chart} {plan.version}",
        f"see what is not ready: `kubectl --namespace {plan.namespace} get pods,events`, fix it, "
        f"{AGAIN} ({words})",
    )
