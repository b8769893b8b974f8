"""A plan is compared with what is there, and a lock with who holds it, before anything is done.

The engine is a script here; tests/lab/machines/test_plan.py runs the real one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.pulumi_cli import EngineError, with_violations
from ops.deploy import lock
from ops.deploy.command import main
from ops.deploy.plan import Origin, StaleError, origin, program, refuse_stale
from ops.engine.values import SIGNATURE

URN = "urn:pulumi:prod::platform::vsphere:index/virtualMachine:VirtualMachine::node02"
SAME = Origin(plan="a", program="b", state="c", settings="d", operations="e")
REFUSED = """error: the stack is currently locked by 2 lock(s). Either wait for the other ...
  s3://state/1.json: created by runner@deploy-1 (pid 77) at 2026-01-02T03:04:05Z
  s3://state/2.json: created by op@laptop (pid 4711) at 2026-01-02T03:04:06+01:00
"""
ABSENT = "error: resource 'urn:pulumi:no-such-resource::...' not found in the stack"

Engine = Callable[..., Path]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Put a `pulumi` on PATH that answers by its subcommand, and writes down how it was called."""

    def make(**answers: tuple[int, str]) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        log = tmp_path / "calls"
        log.touch()
        cases = []
        for command, (code, said) in answers.items():
            text = tmp_path / f"{command}.txt"
            text.write_text(said)
            cases.append(f"{command}) cat {text}; exit {code} ;;")
        script = folder / "pulumi"
        script.write_text(
            "#!/bin/sh\n"
            f'echo "$*" >> {log}\n'
            'for one; do case $last in --save-plan) [ -f "$PLAN" ] && cp "$PLAN" "$one";; esac; '
            "last=$one; done\n"
            f"case $1 in {' '.join(cases)} *) exit 99 ;; esac\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return log

    return make


def plan_of(path: Path, **changes: Any) -> Path:
    operation = {
        "goal": {
            "inputDiff": {"updates": {"memory": 20480}},
            "dependencies": ["urn:a", "urn:b"],
            "propertyDependencies": {"memory": ["urn:a", "urn:b"]},
            "secret": {SIGNATURE: "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:one"},
        },
        "steps": ["update"],
        "seed": "one",
    }
    config = {"platform:kubernetes": {"version": "1.34.1"}}
    document = {"manifest": {"time": "now"}, "config": config, "resourcePlans": {URN: operation}}
    for name, value in changes.items():
        if name == "config":
            document["config"] = value
        else:
            (operation if name in operation else operation["goal"])[name] = value  # type: ignore[index]
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    (root / "__main__.py").write_text("one")
    (root / ".gitignore").write_text("/.lab/\n")
    subprocess.run(["git", "init", "--quiet", root], check=True)  # noqa: S607
    return root


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("plan", "the plan file is not the one that was reviewed"),
        ("program", "files of the repository changed after the plan was made"),
        ("state", "the stack was deployed, refreshed or imported into after the plan was made"),
        ("settings", "the stack's settings changed after the plan was made"),
        ("operations", "the same preview gives other operations now"),
    ],
)
def test_whatever_a_plan_was_made_from_makes_it_stale(field: str, said: str) -> None:
    with pytest.raises(StaleError) as refused:
        refuse_stale(SAME, SAME.model_copy(update={field: "other"}))
    assert str(refused.value).splitlines()[1:-1] == [f"  - {said}"]
    assert "make preview" in str(refused.value)


def test_all_that_differs_is_named_at_once() -> None:
    with pytest.raises(StaleError) as refused:
        refuse_stale(SAME, Origin(plan="a", program="x", state="y", settings="d", operations="z"))
    assert len(str(refused.value).splitlines()) == 1 + 3 + 1


def test_a_plan_of_the_same_is_not_stale() -> None:
    refuse_stale(SAME, SAME.model_copy())
    assert set(Origin.model_fields) == set(SAME.model_dump())


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": "two"},
        {"dependencies": ["urn:b", "urn:a"]},
        {"propertyDependencies": {"memory": ["urn:b", "urn:a"]}},
        {"secret": {SIGNATURE: "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:two"}},
    ],
)
def test_random_numbers_and_the_order_of_sets_make_no_other_plan(
    tmp_path: Path, repository: Path, changes: dict[str, Any]
) -> None:
    one = origin(plan_of(tmp_path / "1.json"), repository, "state")
    two = origin(plan_of(tmp_path / "2.json", **changes), repository, "state")
    assert one.plan != two.plan
    assert one.model_copy(update={"plan": two.plan}) == two


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"steps": ["replace"]}, {"operations"}),
        ({"inputDiff": {"updates": {"memory": 24576}}}, {"operations"}),
        ({"dependencies": ["urn:a"]}, {"operations"}),
        ({"secret": "plain now"}, {"operations"}),
        ({"config": {"platform:kubernetes": {"version": "1.34.2"}}}, {"settings"}),
        ({"config": {"platform:vspherePassword": {"secure": "v1:other"}}}, {"settings"}),
    ],
)
def test_another_operation_or_setting_makes_another_plan(
    tmp_path: Path, repository: Path, changes: dict[str, Any], differs: set[str]
) -> None:
    one = origin(plan_of(tmp_path / "1.json"), repository, "state").model_dump()
    two = origin(plan_of(tmp_path / "2.json", **changes), repository, "state").model_dump()
    assert {name for name in one if one[name] != two[name]} == differs | {"plan"}


def test_the_program_is_every_file_that_git_does_not_ignore(repository: Path) -> None:
    before = program(repository)
    (repository / ".lab").mkdir()
    (repository / ".lab" / "out.json").write_text("a result")
    assert program(repository) == before
    (repository / "new.py").write_text("more")
    with_new = program(repository)
    (repository / "new.py").rename(repository / "renamed.py")
    renamed = program(repository)
    (repository / "__main__.py").write_text("two")
    assert len({before, with_new, renamed, program(repository)}) == 4


def test_a_stale_plan_never_reaches_the_engine(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    calls = engine(stack=(0, "state"), preview=(0, '{"steps": []}'), up=(0, ""))
    monkeypatch.setenv("PLAN", str(plan_of(tmp_path / "source.json")))
    out = tmp_path / "out"
    assert main(["preview", "--out", str(out)]) == 0
    assert json.loads((out / "preview.json").read_text()) == {"steps": []}
    assert (out / "plan.json").stat().st_mode & 0o077 == 0
    # The same preview would now replace the machine.
    plan_of(tmp_path / "source.json", steps=["replace"])
    assert main(["apply", "--out", str(out)]) == 4
    assert "the same preview gives other operations now" in capsys.readouterr().err
    assert not any(line.startswith("up ") for line in calls.read_text().splitlines())
    assert not (out / "run.json").exists()


def test_without_a_plan_or_with_a_broken_one_nothing_is_carried_out(
    tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = engine()
    assert main(["apply", "--out", str(tmp_path)]) == 4
    assert "there is no plan; make one with `make preview`" in capsys.readouterr().err
    (tmp_path / "plan-origin.json").write_text('{"plan": "a", "more": "b"}')
    assert main(["apply", "--out", str(tmp_path)]) == 4
    assert "not what `make preview` writes (program, state, " in capsys.readouterr().err
    assert calls.read_text() == ""


def test_a_preview_that_fails_leaves_its_reason_and_no_plan(
    tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    diagnostics = [{"severity": "error", "message": "platform:machines: there are two"}]
    engine(stack=(0, "state"), preview=(1, json.dumps({"diagnostics": diagnostics})))
    (tmp_path / "plan-origin.json").write_text(SAME.model_dump_json())
    (tmp_path / "plan.json").write_text("of before")
    assert main(["preview", "--out", str(tmp_path)]) == 1
    assert "the preview failed:\nplatform:machines: there are two" in capsys.readouterr().err
    assert json.loads((tmp_path / "preview.json").read_text())["diagnostics"] == diagnostics
    assert not (tmp_path / "plan.json").exists()
    assert not (tmp_path / "plan-origin.json").exists()


def test_a_missing_engine_is_said_with_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["preview", "--out", str(tmp_path)]) == 1
    assert "install the Pulumi CLI" in capsys.readouterr().err


def test_the_holders_of_a_lock_are_read_from_the_engines_refusal() -> None:
    found = lock.holders(REFUSED)
    assert [(one.host, one.pid) for one in found] == [("deploy-1", 77), ("laptop", 4711)]
    assert found[1].text == "created by op@laptop (pid 4711) at 2026-01-02T03:04:06+01:00"


def record(path: Path, host: str, pid: int) -> Path:
    path.write_text(lock.Run(host=host, pid=pid).model_dump_json())
    return path


def refusal(host: str, pid: int) -> str:
    return (
        f"error: {lock.LOCKED} 1 lock(s).\n  s3://x/1.json: created by "
        f"op@{host} (pid {pid}) at 2026-01-02T03:04:05Z\n"
    )


def test_a_lock_that_a_lost_run_left_is_freed(tmp_path: Path, engine: Engine) -> None:
    run = record(tmp_path / "run.json", "deploy-1", 77)
    calls = engine(refresh=(255, refusal("deploy-1", 77)), cancel=(0, ""))
    assert lock.unlock(run) == "freed the lock that process 77 on deploy-1 left behind"
    assert calls.read_text().splitlines()[-1] == "cancel --yes --non-interactive"
    assert not run.exists()


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (refusal("laptop", 4711), ["op@laptop (pid 4711)"]),
        (refusal("deploy-1", 78), ["op@deploy-1 (pid 78)"]),
        (REFUSED, ["op@laptop (pid 4711)"]),
    ],
)
def test_a_lock_of_somebody_else_stays(
    tmp_path: Path, engine: Engine, said: str, names: list[str]
) -> None:
    run = record(tmp_path / "run.json", "deploy-1", 77)
    calls = engine(refresh=(255, said), cancel=(0, ""))
    with pytest.raises(EngineError) as refused:
        lock.unlock(run)
    assert all(name in str(refused.value) for name in names)
    assert "cancel" not in calls.read_text()
    assert run.exists()


def test_the_lock_of_a_run_that_is_alive_stays(tmp_path: Path, engine: Engine) -> None:
    run = record(tmp_path / "run.json", socket.gethostname(), os.getpid())
    calls = engine(refresh=(255, refusal(socket.gethostname(), os.getpid())), cancel=(0, ""))
    with pytest.raises(EngineError, match="is still alive"):
        lock.unlock(run)
    assert "cancel" not in calls.read_text()


def test_a_stack_that_is_not_locked_and_a_run_that_locked_nothing_are_fine(
    tmp_path: Path, engine: Engine
) -> None:
    calls = engine(refresh=(255, ABSENT))
    assert lock.unlock(tmp_path / "none.json") == "this run locked nothing"
    assert calls.read_text() == ""
    assert lock.unlock(record(tmp_path / "run.json", "deploy-1", 77)) == "the stack is not locked"


@pytest.mark.parametrize("code", [0, 255])
def test_a_backend_that_names_nobody_is_left_alone(
    tmp_path: Path, engine: Engine, code: int
) -> None:
    run = record(tmp_path / "run.json", "deploy-1", 77)
    calls = engine(refresh=(code, "error: [409] Conflict: Another update is in progress"))
    with pytest.raises(EngineError, match="cannot be told here"):
        lock.unlock(run)
    assert "cancel" not in calls.read_text()
    assert run.exists()


def test_what_the_policies_said_is_among_the_previews_diagnostics(tmp_path: Path) -> None:
    log = tmp_path / "events"
    said = [("mandatory", "no-node-port", "use ClusterIP"), ("advisory", "plan-is-small", "split")]
    lines = [
        {"policyEvent": {"enforcementLevel": level, "policyName": name, "message": f"{text}\n"}}
        for level, name, text in said
    ]
    log.write_text("\n".join(json.dumps(one) for one in [{"preludeEvent": {}}, *lines]))
    found = json.loads(with_violations('{"steps": [], "diagnostics": [{"message": "a"}]}', log))
    assert found["diagnostics"] == [
        {"message": "a"},
        {"severity": "error", "message": "policy no-node-port: use ClusterIP"},
        {"severity": "warning", "message": "policy plan-is-small: split"},
    ]


def test_a_preview_without_violations_stays_as_the_engine_wrote_it(tmp_path: Path) -> None:
    log = tmp_path / "events"
    assert with_violations("{}", log) == "{}"
    log.write_text('{"preludeEvent": {}}\n')
    assert with_violations("{}", log) == "{}"
