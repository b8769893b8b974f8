"""A deployment by the reviewed plan, with the targets that the workflows run.

The tests run in this order, on one world of machines without services.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from ops.rehearsal.killing import kill_tree
from ops.rehearsal.world import Result, World, wait_until
from tests.lab.secret_values import left_behind, secret_values

MEMORY = "name: node02, address: 172.16.20.52, role: controlplane, cpus: 4, memoryMiB: "
LABEL = "name: node01, address: 172.16.20.51, role: controlplane, "


def make(world: World, *targets: str, code: int | None = 0) -> Result:
    return world.run("make", *targets, f"OUT={world.state / 'out'}", code=code)


def state_of(world: World) -> str:
    return world.run("pulumi", "stack", "export").stdout


def memory_of(world: World, name: str) -> int:
    found = json.loads(world.run("govc", "vm.info", "-json", name).stdout)
    memory: int = found["virtualMachines"][0]["config"]["hardware"]["memoryMB"]
    return memory


def written(folder: Path) -> dict[str, int]:
    """Give when each file was written."""
    found = {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert found
    return found


def test_what_a_pull_request_and_a_plan_leave_behind_holds_no_secret(
    world: World, edit: Callable[[str, str], None]
) -> None:
    edit(f"{MEMORY}16384", f"{MEMORY}20480")
    before = written(world.state / "backend")
    made = make(world, "preview", "explain")
    # So access to the state that can only read is enough.
    assert written(world.state / "backend") == before
    out = world.state / "out"
    left = {path.name: path.read_text() for path in out.iterdir()}
    assert {"plan.json", "plan-origin.json", "preview.json", "preview.md"} <= set(left)
    printed = made.stdout + made.stderr
    assert left_behind(world, secret_values(world), printed=printed) == []
    # The engine's mark of an encrypted value: the plan does hold some.
    assert "ciphertext" in left["plan.json"]
    assert (out / "plan.json").stat().st_mode & 0o077 == 0
    assert left["preview.md"].startswith("<!-- platform-review -->\n")


def test_a_plan_is_refused_when_the_settings_changed_after(
    world: World, edit: Callable[[str, str], None]
) -> None:
    edit(f"{MEMORY}16384", f"{MEMORY}20480")
    make(world, "preview")
    edit(LABEL, f"{LABEL}labels: {{ rack: r1 }}, ")
    before = state_of(world)
    refused = make(world, "apply-plan", code=2)
    assert "the plan is stale, and nothing was touched" in refused.stderr
    assert "the stack's settings changed after the plan was made" in refused.stderr
    assert state_of(world) == before
    assert memory_of(world, "node02") == 16384


def test_a_plan_that_somebody_edited_is_refused(
    world: World, edit: Callable[[str, str], None]
) -> None:
    edit(f"{MEMORY}16384", f"{MEMORY}20480")
    make(world, "preview")
    plan = world.state / "out" / "plan.json"
    plan.write_text(plan.read_text().replace("20480", "24576"))
    refused = make(world, "apply-plan", code=2)
    assert "the plan file is not the one that was reviewed" in refused.stderr
    assert memory_of(world, "node02") == 16384


def test_the_engine_itself_stops_at_an_operation_that_is_not_in_the_plan(
    world: World, edit: Callable[[str, str], None]
) -> None:
    # The second line of defence: without our comparison, the engine still keeps to the plan.
    plan = world.state / "out" / "empty-plan.json"
    world.run("pulumi", "preview", "--non-interactive", "--save-plan", str(plan))
    edit(f"{MEMORY}16384", f"{MEMORY}20480")
    stopped = world.up("--plan", str(plan), code=None)
    assert stopped.returncode != 0
    assert re.search(r"node02 violates plan", stopped.stdout + stopped.stderr)
    assert memory_of(world, "node02") == 16384


def test_exactly_the_plan_is_carried_out_and_then_it_is_stale(
    world: World, edit: Callable[[str, str], None]
) -> None:
    before = memory_of(world, "node02")
    assert before == 16384
    edit(f"{MEMORY}16384", f"{MEMORY}20480")
    edit(LABEL, f"{LABEL}labels: {{ rack: r1 }}, ")
    make(world, "preview")
    steps = json.loads((world.state / "out" / "preview.json").read_text())["steps"]
    planned = {one["urn"].rsplit("::", 1)[1] for one in steps if one["op"] != "same"}
    done = make(world, "apply-plan")
    updated = set(re.findall(r"~ +\S+ (\S+) updat(?:ing|ed)", done.stdout))
    assert updated == planned, done.stdout
    assert memory_of(world, "node02") == 20480
    world.expect_no_changes()
    refused = make(world, "apply-plan", code=2)
    assert "the stack was deployed, refreshed or imported into" in refused.stderr
    assert make(world, "unlock").stdout.strip() == "the stack is not locked"


def test_a_killed_run_leaves_a_lock_that_unlock_frees(world: World) -> None:
    # The platform goes back to the stack file; that is what is killed half way.
    make(world, "preview")
    locks = world.state / "backend" / ".pulumi" / "locks"
    process = world.start_command("make", "apply-plan", f"OUT={world.state / 'out'}")
    try:
        wait_until("the lock is taken", lambda: any(locks.rglob("*.json")), poll=0.05)
        assert process.poll() is None
    finally:
        kill_tree(process.pid)
        process.communicate()  # closes its pipe too
    locked = world.up(code=None)
    assert "the stack is currently locked" in locked.stdout + locked.stderr
    freed = make(world, "unlock").stdout
    assert freed.startswith("freed the lock that process ")
    assert make(world, "unlock").stdout.strip() == "this run locked nothing"
    world.up()
    world.expect_no_changes()


def test_unlock_leaves_the_lock_of_somebody_else(world: World) -> None:
    record = world.state / "out" / "run.json"
    record.write_text(json.dumps({"host": "another-host", "pid": 1}))
    lock = write_lock(world)
    refused = make(world, "unlock", code=2)
    assert "the lock is not this run's, and stays" in refused.stderr
    assert "operator@laptop (pid 4711)" in refused.stderr
    assert lock.exists()
    lock.unlink()
    assert make(world, "unlock").stdout.strip() == "the stack is not locked"


def write_lock(world: World) -> Path:
    """Write a lock as the engine does, of an operator on a laptop."""
    folder = world.state / "backend" / ".pulumi" / "locks" / "organization" / "platform" / "prod"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "0f7c1c64-3d4e-4a55-9a3b-0c2f6f0f6d11.json"
    holder = {"pid": 4711, "username": "operator", "hostname": "laptop"}
    path.write_text(json.dumps({**holder, "timestamp": "2026-01-02T03:04:05Z"}))
    return path
