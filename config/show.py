"""Configuration: show resolved settings, as JSON for programs and as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from config import addresses, omni
from config.needed_secrets import needed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from config.settings import Settings


def as_json(settings: Settings) -> dict[str, Any]:
    """Give the sections as in the stack file with defaults filled in, and what follows from them.

    Beside the sections: `derived`, `addressPlan` (`use`, `name`, `first`, `last`, `key`) and
    `secrets` (`key`, `description`), which holds names only.
    """
    sections = settings.model_dump(mode="json", by_alias=True)
    if settings.omni is not None:
        sections["talos"] = {
            key: value for key, value in sections["talos"].items() if key not in omni.DECIDED
        }
    return {
        **sections,
        "derived": derived(settings),
        "addressPlan": [
            {
                "use": entry.use,
                "name": entry.name,
                "first": str(entry.addresses.first),
                "last": str(entry.addresses.last),
                "key": entry.key,
            }
            for entry in address_plan(settings)
        ],
        "secrets": [
            {"key": f"platform:{key.name}", "description": key.description}
            for key in needed(settings.services, settings.talos, settings.omni)
        ],
    }


def derived(settings: Settings) -> dict[str, Any]:
    """Give what follows from the settings and is used in several places."""
    found = {
        "endpoint": settings.access_url,
        "schematic": settings.talos.schematic_id,
        "schematicDocument": settings.talos.schematic_document,
        "ovaUrl": settings.ova_url,
    }
    if settings.omni is not None:  # which installs, and bootstraps, by itself
        return found
    return found | {
        "installerImage": settings.installer_image,
        "bootstrapMachine": settings.control_planes[0].name,
    }


def address_plan(settings: Settings) -> tuple[addresses.Entry, ...]:
    """Give the whole address plan: networks, then hosts, then ours, by address."""
    machines = dict(enumerate(settings.machines))
    return addresses.entries(
        machines,
        settings.network,
        settings.site,
        settings.services,
        settings.talos,
        omni=settings.omni,
    )


def as_text(settings: Settings) -> str:
    """Give the settings as tables."""
    services = settings.services.model_dump(by_alias=True, exclude_none=True)
    blocks = [
        _block("Platform", _summary(settings)),
        _block(
            "Machines",
            [
                ("name", "address", "role", "cpus", "memory", "disk", "data disks"),
                *(
                    (
                        machine.name,
                        str(machine.address),
                        machine.role,
                        str(machine.cpus),
                        f"{machine.memory_mib} MiB",
                        f"{machine.disk_gib} GiB",
                        ", ".join(f"{d.name} {d.size_gib} GiB" for d in machine.data_disks) or "-",
                    )
                    for machine in settings.machines
                ),
            ],
        ),
        _block(
            "Address plan",
            [
                ("addresses", "use", "name", "key"),
                *(
                    (entry.value, entry.use, entry.name or "-", entry.key)
                    for entry in address_plan(settings)
                ),
            ],
        ),
        _block(
            "Services",
            [(name, service.get("version", "-")) for name, service in services.items()]
            or [("none",)],
        ),
        _block(
            "Secrets",
            [
                (f"platform:{key.name}", key.description)
                for key in needed(settings.services, settings.talos, settings.omni)
            ],
        ),
    ]
    return "\n\n".join(blocks)


def _summary(settings: Settings) -> list[Sequence[str]]:
    site = settings.site
    return [
        ("cluster", settings.cluster.name),
        ("lifecycle", settings.cluster.lifecycle),
        ("vCenter", f"{site.vcenter} as {site.user}"),
        ("location", f"{site.datacenter} / {site.cluster} / {site.datastore} / {site.network}"),
        ("Talos", settings.talos.version),
        ("Kubernetes", settings.kubernetes.version),
        ("API", settings.access_url),
        ("image", settings.ova_url),
        *_installs(settings),
        ("let in", _let_in(settings)),
        ("updates", _updates(settings)),
    ]


def _installs(settings: Settings) -> list[Sequence[str]]:
    """Say who brings Talos to the machines."""
    given = settings.omni
    if given is None:
        return [("installer", settings.installer_image)]
    return [
        ("Omni", f"{given.endpoint} (Omni {given.version}); machines join {given.machine_api}"),
        ("Omni's backups", f"every {given.backup_interval}"),
    ]


def _let_in(settings: Settings) -> str:
    """Say who reaches the machines' own ports, beside the cluster."""
    firewall = settings.network.firewall
    if firewall is None:
        return "everybody (no platform:network.firewall)"
    operators = ", ".join(map(str, firewall.operators))
    others = ", ".join(map(str, firewall.kubernetes))
    return f"operators from {operators}" + (f"; to Kubernetes alone {others}" if others else "")


def _updates(settings: Settings) -> str:
    """Say which new versions need no person, and when."""
    updates = settings.updates
    if updates.window is None:
        return "wait for a person (no platform:updates)"
    steps = ", ".join(f"{layer} {step}" for layer, step in updates.steps.items())
    window = updates.window
    when = f"{', '.join(window.days)} {window.opens} to {window.closes} {window.zone}"
    return f"without a person: {steps or 'none'}; {when}"


def _block(title: str, rows: Iterable[Sequence[str]]) -> str:
    """Align rows of cells in columns below a title."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join([title, *(f"  {line}" for line in lines)])
