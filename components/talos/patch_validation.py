"""Layer Talos: the operators' files of patches, merged and validated by Talos itself.

`talosctl` does offline what the provider and the machines do later: it decodes each patch strictly,
merges them into a configuration, and validates that. Keys are made for the purpose, and gone after.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from clients.talosctl import TalosctlError, check_talosctl, run_talosctl
from clients.waiting import run_program
from components.talos.configuration import files, patches
from components.talos.inputs import TalosInputs
from config import plain_yaml
from config.settings import Machine, Settings
from config.shown import escaped, looks_secret

SECONDS = 60
"""A call takes well under a second, the first one of the day some."""
LONGEST = 240


def find_talosctl(root: Path, version: str) -> str:
    """Find a talosctl for this version of Talos (`v1.13.9`): on PATH, or the one of the lab.

    Raises `TalosctlError`, which says what is on PATH in its place.
    """
    places = (None, str(root / ".lab" / "bin"))
    found = [one for path in places if (one := shutil.which("talosctl", path=path))]
    faults = []
    for program in found or ["talosctl"]:
        try:
            check_talosctl(version, partial(run_talosctl, program=program))
        except TalosctlError as error:
            faults.append(error)
        else:
            return program
    raise faults[0]


def with_talosctl(settings: Settings, root: Path) -> tuple[list[str], str]:
    """Validate as below; gives what is wrong, and a note where there is no talosctl for it."""
    try:
        talosctl = find_talosctl(root, settings.talos.tag)
    except TalosctlError as error:
        return [], f"note: Talos itself has not checked the files of patches: {error}"
    return validate(settings, root, talosctl), ""


def validate(settings: Settings, root: Path, talosctl: str) -> list[str]:
    """Merge and validate every machine's patches; gives each fault with its file or machine."""
    found: list[str] = []
    with TemporaryDirectory() as folder:
        work = Path(folder)
        said = _run(
            talosctl,
            *("gen", "config", settings.cluster.name, settings.endpoint, "--output", folder),
            *("--talos-version", settings.talos.contract_tag, "--kubernetes-version"),
            *(settings.kubernetes.version, "--with-docs=false", "--with-examples=false"),
        )
        if said is not None:
            return [f"talosctl could not make a configuration to merge with: {said}"]
        for machine in _one_of_each(settings, root):
            base = work / f"{machine.role}.yaml"
            wrong = [
                f"{file.name}: Talos does not accept it: {said}; correct it there"
                for file in files(settings.talos.patches, machine, root)
                # One of comments is for operators still to fill in; no machine gets it.
                if any(plain_yaml.read_all(file.read_text(encoding="utf-8")))
                and (said := _patch(talosctl, base, [file], work)) is not None
            ]
            found += wrong or _merged(settings, machine, root, talosctl, work)
    return list(dict.fromkeys(found))


def _one_of_each(settings: Settings, root: Path) -> list[Machine]:
    """Give a machine for every role and set of files: the others differ by name and address."""
    kinds: dict[tuple[str, ...], Machine] = {}
    for machine in settings.machines:
        names = (str(file) for file in files(settings.talos.patches, machine, root))
        kinds.setdefault((machine.role, *names), machine)
    return list(kinds.values())


def _merged(
    settings: Settings, machine: Machine, root: Path, talosctl: str, work: Path
) -> list[str]:
    """Merge a machine's patches as the provider does, and validate what comes out."""
    inputs = TalosInputs.of(settings)
    said = _validated(patches(inputs, machine, root), machine, talosctl, work)
    if said is None:
        return []
    for file in files(settings.talos.patches, machine, root):
        if alone := _validated(patches(inputs, machine, root, [file]), machine, talosctl, work):
            return [f"{file.name}: Talos refuses it for {machine.name}: {alone}; correct it there"]
    return [f"{machine.name}: Talos refuses the configuration: {said}"]


def _validated(texts: list[str], machine: Machine, talosctl: str, work: Path) -> str | None:
    """Merge patches as the provider does, and validate what comes out; gives what is wrong."""
    given = []
    for number, text in enumerate(texts):
        given.append(work / f"patch-{number}.yaml")
        given[-1].write_text(text, encoding="utf-8")
    said = _patch(talosctl, work / f"{machine.role}.yaml", given, work)
    if said is None:
        said = _run(talosctl, "validate", "--config", str(work / "out.yaml"), "--mode", "cloud")
    return said


def _patch(talosctl: str, base: Path, given: list[Path], work: Path) -> str | None:
    arguments = [part for one in given for part in ("--patch", f"@{one}")]
    out = str(work / "out.yaml")
    return _run(talosctl, "machineconfig", "patch", str(base), *arguments, "--output", out)


def _run(*command: str) -> str | None:
    """Run talosctl; gives what it said when it failed."""
    done = run_program(command, SECONDS)
    if done.returncode == 0:
        return None
    said = " ".join((done.stderr or done.stdout).split())
    # It repeats what it does not understand, which may be a secret.
    if looks_secret(said):
        return "its message is not shown: the file holds what looks like a secret"
    return escaped(said if len(said) <= LONGEST else f"{said[:LONGEST]}...").replace('\\"', '"')
