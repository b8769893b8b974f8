"""`python -m ops`: a plan, and exactly it carried out; what a lost run left; a destroy."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pydantic

from clients.progress import told
from clients.pulumi_cli import POLICIES, ROOT, EngineError, PreviewError, export, preview
from clients.talosctl import TalosctlError
from clients.vcenter.connection import VCenterError
from ops.deploy import lock, repair
from ops.deploy.plan import Origin, StaleError, origin, refuse_stale

PLAN = "plan.json"
ORIGIN = "plan-origin.json"
PREVIEW = "preview.json"
RUN = "run.json"
STALE = 4
"""The exit code of a refused plan."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code: 0, 1 for an error, 4 for a stale plan."""
    options = parser().parse_args(arguments)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        match options.command:
            case "preview":
                save(out)
            case "apply":
                apply(out)
            case "repair":
                return put_in_order(yes=options.yes)
            case "destroy":
                if code := put_in_order(yes=options.yes):
                    return code
                destroy(yes=options.yes)
            case _:
                print(lock.unlock(out / RUN))
    except StaleError as error:
        print(error, file=sys.stderr)
        return STALE
    except (EngineError, VCenterError, TalosctlError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def save(out: Path) -> None:
    """Preview into `out`: the preview, the plan, and what the plan was made from."""
    (out / ORIGIN).unlink(missing_ok=True)
    state = export()
    try:
        with told("preview"):
            text = preview(out / PLAN)
    except PreviewError as error:
        # The review reads the refusal out of it.
        (out / PREVIEW).write_text(error.document, encoding="utf-8")
        raise
    (out / PREVIEW).write_text(text, encoding="utf-8")
    made = origin(out / PLAN, ROOT, state)
    (out / ORIGIN).write_text(made.model_dump_json(indent=2) + "\n", encoding="utf-8")
    print(f"{out / PREVIEW}, {out / PLAN}")


def apply(out: Path) -> None:
    """Become the engine that carries out the plan in `out`, unless it is stale."""
    plan = out / PLAN
    kept = read_origin(out / ORIGIN)
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / PLAN
        state = export()
        with told("preview again, to see whether the plan is stale"):
            preview(again)
        now = origin(again, ROOT, state)
    # Two plans of the same differ in random numbers: the file is compared with itself.
    now = now.model_copy(update={"plan": origin(plan, ROOT, state).plan})
    refuse_stale(kept, now)
    # The engine takes this process's place and number, so what is written down here holds the lock.
    (out / RUN).write_text(lock.Run.this().model_dump_json() + "\n", encoding="utf-8")
    command = ["up", "--yes", "--skip-preview", "--non-interactive", "--plan", str(plan), *POLICIES]
    os.execvp("pulumi", ["pulumi", *command])  # noqa: S606, S607


def put_in_order(*, yes: bool) -> int:
    """Say what a killed run left and, once that is agreed to, remove it; gives the exit code."""
    repair.refuse_locked()
    site, state = repair.Site.of_stack(), export()
    with told("compare the state with vCenter"):
        found = repair.look(state, site)
    if not found:
        print("nothing is left of a killed run: state and vCenter agree")
        return 0
    print(found.told())
    if not yes and (not sys.stdin.isatty() or input("remove these? [y/N] ").lower() != "y"):
        print("nothing was changed; `make repair YES=1` does it without asking")
        return 1
    repair.carry_out(state, found, site)
    print("done; now `pulumi up`, or `pulumi destroy --exclude-protected`")
    return 0


def destroy(*, yes: bool) -> None:
    """Become the engine that deletes all but what is protected.

    What a killed run left must be put in order before: the provider fails at a machine that vCenter
    no longer has (terraform-provider-vsphere, resourceVSphereVirtualMachineDelete).
    """
    sys.stdout.flush()
    command = ["destroy", "--exclude-protected", *(["--yes", "--skip-preview"] if yes else [])]
    os.execvp("pulumi", ["pulumi", *command])  # noqa: S606, S607


def read_origin(path: Path) -> Origin:
    """Read what a plan was made from; without it, nobody can say that the plan is not stale."""
    try:
        return Origin.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StaleError(f"{path}: there is no plan; make one with `make preview`") from None
    except pydantic.ValidationError as error:
        names = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise StaleError(
            f"{path}: not what `make preview` writes ({names}); make it again"
        ) from None


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    made = argparse.ArgumentParser(prog="python -m ops", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True)
    for name in ("preview", "apply", "unlock", "repair", "destroy"):
        command = commands.add_parser(name)
        command.add_argument(
            "--out", type=Path, default=Path(".lab/out"), help="where preview, plan and origin lie"
        )
        if name in {"repair", "destroy"}:
            command.add_argument("--yes", action="store_true", help="without asking")
    return made
