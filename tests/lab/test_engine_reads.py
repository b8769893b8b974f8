"""The check and the engine see the same file: held against the real engine, without a world."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings

from config import SettingsError
from config.reading import PROJECT, SECTIONS
from config.stack_file import read
from config.texts import unprintable
from ops.rehearsal.world import PROJECT as TREE
from tests.edits import STACK_FILES, refused
from tests.stack_texts import TRICKY, files, of_scalars

PULUMI = TREE / ".lab" / "bin" / "pulumi"
Engine = Callable[[Path], dict[str, Any] | None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    # Without the settings of Pulumi.yaml: the engine stops at those that a file lacks.
    (folder / "Pulumi.yaml").write_text(f"name: {PROJECT}\nruntime: python\n")
    (folder / "state").mkdir()
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    """Give a stack file's settings as the engine reads them, `None` when it refuses the file."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PULUMI_")},
        "PULUMI_HOME": str(folder / "home"),
        "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
        "PULUMI_CONFIG_PASSPHRASE": "of a test",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "PULUMI_DISABLE_REGISTRY_RESOLVE": "true",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PULUMI, *arguments, "--non-interactive"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert run("stack", "init", "test").returncode == 0

    def reads(path: Path) -> dict[str, Any] | None:
        done = run("config", "--json", "--stack", "test", "--config-file", str(path))
        if done.returncode != 0:
            return None
        found: dict[str, Any] = json.loads(done.stdout)
        return {key: one.get("objectValue", one.get("value")) for key, one in found.items()}

    return reads


def differences(path: Path, engine: Engine) -> list[str]:
    """Hold what the engine reads against what the check does not refuse."""
    try:
        raw = read(path)
    except SettingsError:
        return []
    problems = [*raw.problems]
    for name, value in raw.values.items():
        problems += unprintable(value, (name,))
    refused = {each.key.partition("[")[0].partition(".")[0] for each in problems}
    found = engine(path)
    if found is None:
        return [] if refused else ["the engine refuses the file, the check does not"]
    values = {f"{PROJECT}:{name}": value for name, value in raw.values.items()}
    keys = {key for key in found if key.startswith(f"{PROJECT}:")}
    return [
        f"{key}: the engine reads {found.get(key)!r}, the check {values.get(key)!r}"
        for key in sorted(keys | values.keys())
        if key not in refused and not _same(found.get(key), values.get(key), key)
    ]


def _same(engine: object, check: object, key: str) -> bool:
    if key.partition(":")[2] in SECTIONS and isinstance(engine, str) and not isinstance(check, str):
        engine = json.loads(engine)
    if engine in (None, "") and check in (None, ""):
        return True
    return json.dumps(engine, sort_keys=True) == json.dumps(check, sort_keys=True)


def test_every_tricky_scalar_is_refused_or_seen_alike(folder: Path, engine: Engine) -> None:
    path = folder / "scalars.yaml"
    # In a list's brackets, and without what the engine itself refuses.
    refused = re.compile(r"[#,\n]|\.(inf|nan)$|\\t", re.IGNORECASE)
    path.write_text(of_scalars([text for text in TRICKY if not refused.search(text)]))
    assert engine(path) is not None
    assert differences(path, engine) == []


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=files)
@example(text="config:\n  platform:k1: .nan\n")
@example(text="config:\n  platform:k1: {a: 1, a: 2}\n")
@example(text="config:\n  platform:k1: {1: a}\n")
@example(text="config:\n  platform:k1: &x [*x]\n")
@example(text="config:\n  k1: a\n  platform:k1: b\n")
@example(text="config:\n  a:b:c: d\n")
@example(text="\ufeffconfig:\n  platform:k1: a\n")
@example(text="config:\n  platform:k1: {<<: {a: 1}, a: 2}\n")
@example(text="config:\n  platform:k1: {a: 2, <<: [{a: 1, b: 1}, {b: 2}]}\n")
def test_any_file_is_refused_or_seen_alike_by_check_and_engine(
    folder: Path, engine: Engine, text: str
) -> None:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    assert differences(path, engine) == []


@pytest.mark.parametrize("name", ["section-twice", "two-documents", "numbers-for-texts"])
def test_what_the_check_refuses_the_engine_alone_would_take(
    name: str, folder: Path, engine: Engine
) -> None:
    path = folder / "refused.yaml"
    path.write_text(refused(STACK_FILES / "bad" / f"{name}.yaml"), encoding="utf-8")
    assert engine(path) is not None
