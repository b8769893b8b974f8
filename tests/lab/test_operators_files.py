"""A world never touches what is the operator's, whatever command of the engine is typed in it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.rehearsal import repository
from ops.rehearsal.world import World
from tests.lab.conftest import WORLDS

URN = "urn:pulumi:prod::platform::pulumi:pulumi:Stack::platform-prod"
NOW = "--yes --skip-preview"
# Every command of the engine, by its path, with what is typed behind it; in an order in which they
# can run. What writes a file is given none where it has a default.
TYPED: dict[str, str] = {
    "version": "", "whoami": "", "about": "", "about env": "", "help": "", "gen-completion": "bash",
    "gen-markdown": "private/commands", "generate-cli-spec": "", "api": "", "api list": "",
    "config": "", "config set": "platform:note kept", "config get": "platform:note",
    "config set-all": "--plaintext platform:other=kept", "config cp": "--dest dev",
    "config rm": "platform:note", "config rm-all": "platform:other",
    "preview": "", "up": NOW, "config refresh": "--force", "refresh": NOW,
    "stack": "", "stack ls": "", "stack get": "", "stack output": "", "stack graph": "graph.dot",
    "stack export": "--file exported.json", "stack import": "--file private/exported.json",
    "stack history": "--show-secrets", "stack history events": "1", "stack select": "prod",
    "stack tag ls": "", "stack tag get": "x", "stack tag set": "x y", "stack tag rm": "x",
    "logs": "", "logs ls": "", "logs rm": "", "logs decrypt": "x", "console": "",
    "state protect": f"{URN} --yes", "state unprotect": f"{URN} --yes",
    "state taint": f"{URN} --yes", "state untaint": f"{URN} --yes",
    "state rename": f"{URN} other --yes", "state move": f"{URN} --dest dev --yes",
    "state repair": "--yes", "state upgrade": "--yes", "state edit": "",
    "state delete": f"{URN} --yes", "import": "random:index/randomId:RandomId x y --yes",
    "cancel": "--yes", "watch": "",
    "convert": "--from yaml --language python --out converted", "convert-trace": "x",
    "view-trace": "x", "do": "x", "events filter": "", "replay-events": "up x", "neo": "x",
    "install": "", "new": "python --offline --yes --generate-only",
    "package add": "vsphere", "package delete": "a/b/c@1.0.0 --yes", "package gen-sdk": "vsphere",
    "package get-mapping": "terraform vsphere", "package get-schema": "vsphere",
    "package info": "vsphere", "package new": "x", "package pack-sdk": "python .",
    "package publish": "vsphere --readme README.md", "package publish-sdk": "python",
    "plugin install": "", "plugin list": "", "plugin run": "vsphere --kind resource",
    "policy analyze": "", "policy disable": "a/b", "policy enable": "a/b latest",
    "policy install": "", "policy ls": "", "policy new": "x --offline", "policy publish": "",
    "policy rm": "a/b all --yes", "policy validate-config": "a/b",
    "project ls": "", "project new": "python --offline --yes --generate-only",
    "schema check": "x", "template list": "", "template publish": ".",
    "destroy": f"{NOW} --exclude-protected",
    "stack change-secrets-provider": "passphrase",
    "stack new": "dev", "stack rename": "prod2", "stack unselect": "",
    "stack rm": "--yes --force prod", "plugin remove": "--all --yes",
    "login": "", "logout": "",
}  # fmt: skip
CLOUD = (
    "api describe", "config env", "deployment", "env", "insights", "org", "policy compliance",
    "policy group", "policy issue", "stack drift", "stack schedule", "stack webhook",
)  # fmt: skip
"""Groups of commands that ask Pulumi's service, which a world does not have; typed with an `x`."""
AGAIN = ("stack init prod", "stack select prod", "logs", "stack history --show-secrets", "preview")
"""Typed once more at the end: on a stack that the engine itself has made."""
SECONDS = {"watch": 5, "plugin run vsphere --kind resource": 5}
"""What never ends by itself."""
ENCRYPTION = re.compile(r"encryptionsalt: (\S+)")


pytestmark = pytest.mark.campaign  # some 120 commands


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Start a world on one machine, from a copy of the tree: what a fault would touch."""
    tree = repository.copy(WORLDS / "operators-files.repository")
    stack_file = tree / "Pulumi.prod.yaml"
    text, _, _ = stack_file.read_text().partition("  # What runs on the cluster;")
    settings = yaml.safe_load(text)
    settings["config"]["platform:machines"] = settings["config"]["platform:machines"][:1]
    stack_file.write_text(yaml.safe_dump(settings, sort_keys=False))
    repository.keep(tree, "one machine, without what runs on the cluster")
    world = World(WORLDS / "operators-files", stack_file, project=tree).start()
    yield world
    world.stop()


def files(tree: Path) -> dict[str, bytes]:
    """Read all files of a tree, but for the folder in which the lab keeps what it makes."""
    found: dict[str, bytes] = {}
    for folder, folders, names in os.walk(tree):
        folders[:] = [one for one in folders if Path(folder, one) != tree / ".lab"]
        found |= {str(Path(folder, one)): Path(folder, one).read_bytes() for one in names}
        found |= {f"{Path(folder, one)}/": b"" for one in folders}
    return found


def commands(menu: dict[str, Any], path: str = "") -> Iterator[tuple[str, int]]:
    """Give the path of every command of the engine, and how many arguments it must have."""
    inner = menu.get("commands") or {}
    for name, one in inner.items():
        yield from commands(one, f"{path} {name}".strip())
    if menu.get("executable") or not inner:
        yield path, (menu.get("arguments") or {}).get("requiredArguments", 0)


def lines(known: dict[str, int]) -> Iterator[str]:
    """Give the command lines to type."""
    for path, arguments in TYPED.items():
        yield f"{path} {arguments}".strip()
    for path, count in known.items():
        if path not in TYPED:
            yield " ".join([path, *["x"] * max(count, 1)])
    yield from AGAIN


def test_no_command_of_the_engine_touches_a_file_of_the_operators(
    world: World, tmp_path: Path
) -> None:
    menu = json.loads(world.run("pulumi", "generate-cli-spec").stdout)
    known = dict(commands(menu))
    unknown = [one for one in known if one not in TYPED and not one.startswith(CLOUD)]
    assert unknown == [], "new commands of the engine: say in TYPED what is typed behind them"
    assert set(TYPED) - set(known) == set()

    before = files(world.project)
    typed = "exec 2>&1\n" + "\n".join(
        f"echo {shlex.quote('=== ' + line)}; timeout {SECONDS.get(line, 120)} "
        f"pulumi {line} --non-interactive < /dev/null"
        for line in lines(known)
    )
    shown = world.run("env", "EDITOR=true", "bash", "-c", typed, code=None, timeout=1200).stdout
    assert shown.count("\n=== ") > 200
    assert "=== stack init prod\nCreated stack" in shown

    assert files(world.project) == before
    assert repository.changes(world.project) == ""
    _make_the_stack_in_production(world, tmp_path)


def _make_the_stack_in_production(world: World, backend: Path) -> None:
    """Make the stack outside of the world, as `docs/procedures/first-install.md` does."""
    labs = json.loads((world.state / "world.json").read_text())["secrets"]["salt"]
    result = subprocess.run(
        [world.project / ".lab" / "bin" / "pulumi", "stack", "init", "prod", "--non-interactive"],
        cwd=world.project,
        env={
            "PATH": os.environ["PATH"], "HOME": str(backend), "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_BACKEND_URL": f"file://{backend}", "PULUMI_CONFIG_PASSPHRASE": "production",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (salt,) = ENCRYPTION.findall(world.stack_file.read_text())
    assert salt != labs
