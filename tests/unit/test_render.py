"""Rendering and its differences; the lab's renderer is stood in for by a script."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from config import plain_yaml
from config.charts import ChartPlan
from ops.render import difference, packages, rendering
from ops.render.command import main
from tests.unit.test_chart_packages import packed

PLAN = ChartPlan("tiny", "https://example.com", "1.0.0", "apps", {"a": {"b": 1}})

# Renders one ConfigMap that holds its arguments and values, and one object of the cluster.
RENDERER = """#!{python}
import json, os, stat, sys
arguments = sys.argv[1:]
values = arguments[arguments.index("--values") + 1]
folder = os.stat(os.path.dirname(values))
if "broken" in arguments:
    sys.exit("a template is broken")
version = arguments[arguments.index("--version") + 1]
data = {{
    "arguments": " ".join(arguments),
    "values": open(values).read(),
    "private": str(stat.S_IMODE(folder.st_mode) == 0o700),
}}
print("apiVersion: v1\\nkind: ConfigMap\\nmetadata: {{name: told}}\\ndata: " + json.dumps(data))
labels = "{{helm.sh/chart: " + version + "}}"
print("---\\nkind: ClusterRole\\nmetadata: {{name: role, labels: " + labels + "}}")
print("---\\n# nothing\\n---\\nkind: Kustomization\\nresources: []")
"""


@pytest.fixture(autouse=True)
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a renderer and two versions of a chart on disk."""
    path = tmp_path / "lab"
    path.write_text(RENDERER.format(python=sys.executable))
    path.chmod(0o755)
    cache = tmp_path / "charts"
    cache.mkdir()
    for chart in ("tiny", "broken"):
        for version in ("1.0.0", "2.0.0"):
            about = {"Chart.yaml": {"name": chart, "version": version}}
            (cache / f"{chart}-{version}.tgz").write_bytes(packed(about, chart))
    monkeypatch.setattr(rendering, "LAB", path)
    monkeypatch.setattr(packages, "CACHE", cache)
    monkeypatch.setattr(packages, "BUILT", tmp_path / "built")
    return path


def told(plan: ChartPlan = PLAN, **options: Any) -> dict[str, str]:
    """Give what the renderer was told."""
    found: dict[str, str] = rendering.objects(rendering.text(plan, "1.34.1", **options))[0]["data"]
    return found


def test_a_plan_is_rendered_with_its_values_where_it_goes() -> None:
    found = told()
    assert json.loads(found["values"]) == {"a": {"b": 1}}
    assert found["private"] == "True"
    for given in (
        "render tiny --version 1.0.0",
        "--namespace apps --release tiny",
        "--kube-version 1.34.1 --include-crds",
        "--api-versions gateway.networking.k8s.io/v1/GatewayClass",
    ):
        assert given in found["arguments"]


def test_another_version_is_rendered_with_the_same_values() -> None:
    found = told(version="2.0.0")
    assert "--version 2.0.0" in found["arguments"]
    assert json.loads(found["values"]) == {"a": {"b": 1}}


def test_a_package_that_is_missing_is_told_with_the_file_and_the_command() -> None:
    with pytest.raises(packages.PackageError) as caught:
        told(version="3.0.0")
    assert "lab charts tiny@3.0.0" in str(caught.value)
    assert str(packages.CACHE / "tiny-3.0.0.tgz") in str(caught.value)


def test_the_renderers_own_message_is_passed_on() -> None:
    plan = ChartPlan("broken", "", "1.0.0", "apps", {})
    with pytest.raises(rendering.RenderError, match=r"broken-1\.0\.0\.tgz: a template is broken"):
        rendering.text(plan, "1.34.1")


def test_without_the_lab_the_fix_is_told(lab: Path) -> None:
    lab.unlink()
    with pytest.raises(rendering.RenderError, match="make build"):
        rendering.text(PLAN, "1.34.1")


def test_what_has_no_name_is_no_object_and_the_releases_namespace_is_filled_in() -> None:
    found = rendering.in_namespace(rendering.objects(rendering.text(PLAN, "1.34.1")), "apps")
    assert [difference.written(difference.name_of(one)) for one in found] == [
        "ConfigMap apps/told",
        "ClusterRole role",
    ]


# --- Differences ---------------------------------------------------------------------------------


def an_object(kind: str, name: str, **content: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": "apps"}, **content}


def test_what_was_added_removed_and_changed_stands_at_the_top() -> None:
    old = [
        an_object("Service", "same", spec={"port": 1}),
        an_object("Service", "gone"),
        an_object("Deployment", "web", spec={"replicas": 1}),
    ]
    new = [
        an_object("Deployment", "web", spec={"replicas": 2}),
        an_object("Service", "same", spec={"port": 1}),
        an_object("Service", "new"),
    ]
    text = difference.compare(old, new).text()
    assert text.splitlines()[:4] == [
        "1 removed, 1 added, 1 changed, 1 as before",
        "  removed  Service apps/gone",
        "  added    Service apps/new",
        "  changed  Deployment apps/web",
    ]
    assert "--- old  Deployment apps/web" in text
    assert "-  replicas: 1\n+  replicas: 2" in text
    assert "-kind: Service" in text


def test_an_object_of_the_same_name_and_another_kind_is_another_one() -> None:
    found = difference.compare([an_object("Role", "web")], [an_object("RoleBinding", "web")])
    assert (len(found.removed), len(found.added), found.changed) == (1, 1, [])


def test_labels_that_only_carry_the_version_are_left_out_everywhere() -> None:
    def deployment(version: str, own: str) -> dict[str, Any]:
        labels = {
            "helm.sh/chart": f"web-{version}",
            "app.kubernetes.io/version": version,
            "own": own,
        }
        template = {"metadata": {"labels": dict(labels)}}
        one = an_object("Deployment", "web", spec={"template": template})
        one["metadata"]["labels"] = labels
        return one

    assert difference.compare([deployment("1", "a")], [deployment("2", "a")]).changed == []
    assert len(difference.compare([deployment("1", "a")], [deployment("1", "b")]).changed) == 1


def test_of_definitions_only_how_much_changed_is_told() -> None:
    name = "things.example.com"
    old = an_object("CustomResourceDefinition", name, spec={"a": 1, "b": 2})
    new = an_object("CustomResourceDefinition", name, spec={"a": 1, "c": 3, "d": 4})
    text = difference.compare([old], [new]).text()
    assert f"  {name}: 1 lines fewer, 2 lines more" in text
    assert "+  c: 3" not in text


# --- The command ---------------------------------------------------------------------------------


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.render.command.plans", lambda _: (PLAN,))


@pytest.mark.usefixtures("planned")
def test_show_prints_what_is_rendered_and_from_which_package(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# chart tiny 1.0.0 from tiny-1.0.0.tgz (cache)\n")
    assert [one["kind"] for one in plain_yaml.read_all(printed) if one][:2] == [
        "ConfigMap",
        "ClusterRole",
    ]


@pytest.mark.usefixtures("planned")
def test_diff_prints_what_an_upgrade_would_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "tiny", "2.0.0"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("tiny 1.0.0 (cache) -> 2.0.0 (cache), with the same values")
    assert printed[1] == "0 removed, 0 added, 1 changed, 1 as before"


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diff", "tiny", "9.9.9"], "tiny-9.9.9.tgz"),
        (["show", "nginx"], "chart nginx is not one of this platform's: tiny"),
        (["--stack-file", "missing.yaml", "show"], "missing.yaml"),
        (["check"], "what chart tiny 1.0.0 accepts is not kept"),
    ],
)
def test_what_cannot_be_done_is_told_on_stderr(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
