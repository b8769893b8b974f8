"""What is kept of the charts, renewed from packages; those of the lab's stand-ins are refused."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from ops.render import facts, schemas
from ops.render.packages import Chart, PackageError, find, renew, without_descriptions

VALUES = {"replicas": 1, "image": {"tag": ""}, "part": {"on": True}, "labels": {}, "a.b": None}
SCHEMA = {
    "description": "for people",
    "properties": {"description": {"type": "string", "description": "of it"}},
}


def packed(files: Mapping[str, object], folder: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path, content in files.items():
            text = content if isinstance(content, bytes) else yaml.safe_dump(content).encode()
            member = tarfile.TarInfo(f"{folder}/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return out.getvalue()


def package(folder: Path, version: str = "1.2.3", **about: object) -> Path:
    """Write a package of the chart `tiny`, with a subchart as a folder and one as a package."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tiny-{version}.tgz"
    files = {
        "Chart.yaml": {
            "name": "tiny",
            "version": version,
            "dependencies": [{"name": "long-name", "alias": "short"}],
            **about,
        },
        "values.yaml": VALUES,
        "values.schema.json": json.dumps(SCHEMA).encode(),
        "templates/deployment.yaml": b"{{ not yaml",
        "charts/part/Chart.yaml": {"name": "part"},
        "charts/part/values.yaml": {"on": False, "more": [1]},
        "charts/long-name-1.0.0.tgz": packed(
            {"Chart.yaml": {"name": "long-name"}, "values.yaml": {"x": 1.5}}, "long-name"
        ),
        "charts/empty/Chart.yaml": {"name": "empty"},
    }
    path.write_bytes(packed(files, "tiny"))
    return path


def index(folder: Path, source: str, version: str = "1.2.3") -> None:
    entry = {"name": "tiny", "version": version, "source": source}
    (folder / "index.json").write_text(json.dumps([entry]))


def renewed(tmp_path: Path) -> list[str]:
    return renew(
        [("tiny", "1.2.3")],
        tmp_path / "facts",
        cache=tmp_path / "cache",
        built=tmp_path / "built",
    )


def test_keys_are_those_of_the_chart_and_its_subcharts(tmp_path: Path) -> None:
    assert Chart.read(package(tmp_path)).keys == schemas.closed(
        {
            "a.b": {},
            "image": schemas.closed({"tag": {"type": "string"}}),
            "labels": {"type": "object"},
            "part": schemas.closed({"on": {"type": "boolean"}, "more": {"type": "array"}}),
            "replicas": {"type": "integer"},
            "short": schemas.closed({"x": {"type": "number"}}),
        }
    )


def test_facts_are_renewed_from_a_package_and_older_ones_go(tmp_path: Path) -> None:
    package(tmp_path / "cache")
    kept = tmp_path / "facts"
    kept.mkdir()
    for name in (
        "tiny-1.0.0.keys.json",
        "tiny-1.0.0.schema.json",
        "tiny.more.keys.json",
        "tiny-er-1.0.0.keys.json",
    ):
        (kept / name).write_text(schemas.write(schemas.of({"more": 1})))
    assert renewed(tmp_path) == ["tiny 1.2.3: renewed from tiny-1.2.3.tgz (cache)"]
    assert {path.name for path in kept.iterdir()} == {
        "tiny-1.2.3.keys.json",
        "tiny-1.2.3.schema.json",
        "tiny.more.keys.json",
        "tiny-er-1.0.0.keys.json",
    }
    found = facts.load("tiny", "1.2.3", kept)
    assert found.keys["properties"]["more"] == {"type": "integer"}
    assert found.keys["properties"]["a.b"] == {}
    assert found.schema == without_descriptions(SCHEMA)


def test_only_what_is_for_people_is_left_out_of_a_schema() -> None:
    assert without_descriptions(SCHEMA) == {"properties": {"description": {"type": "string"}}}


def test_a_package_of_the_charts_own_module_is_real(tmp_path: Path) -> None:
    package(tmp_path / "built", "v1.2.3")
    index(tmp_path / "built", "module", "v1.2.3")
    assert renewed(tmp_path) == ["tiny 1.2.3: renewed from tiny-v1.2.3.tgz (module)"]


@pytest.mark.parametrize("source", ["stand-in", None])
def test_nothing_is_taken_from_a_stand_in(tmp_path: Path, source: str | None) -> None:
    package(tmp_path / "built")
    if source:
        index(tmp_path / "built", source)
    with pytest.raises(PackageError, match=r"not available: tiny-1\.2\.3\.tgz"):
        renewed(tmp_path)
    assert not (tmp_path / "facts").exists()


def test_a_stand_in_that_someone_put_into_the_cache_is_one_still(tmp_path: Path) -> None:
    package(tmp_path / "cache", annotations={"platform.lab/stand-in": "true"})
    with pytest.raises(PackageError, match="not available"):
        renewed(tmp_path)


def test_what_is_kept_stays_where_there_is_no_real_package(tmp_path: Path) -> None:
    kept = tmp_path / "facts" / "tiny-1.2.3.keys.json"
    kept.parent.mkdir()
    kept.write_text("{}\n")
    assert renewed(tmp_path) == ["tiny 1.2.3: kept as it was, for no package is there"]
    package(tmp_path / "built")
    index(tmp_path / "built", "stand-in")
    assert renewed(tmp_path) == ["tiny 1.2.3: kept as it was, for only the lab's stand-in is there"]
    assert kept.read_text() == "{}\n"


def test_the_cache_wins(tmp_path: Path) -> None:
    package(tmp_path / "built")
    index(tmp_path / "built", "module")
    path = package(tmp_path / "cache")
    found = find("tiny", "v1.2.3", cache=tmp_path / "cache", built=tmp_path / "built")
    assert found is not None
    assert (found.path, found.source, found.real) == (path, "cache", True)


@pytest.mark.parametrize("content", [b"", b"not a package", packed({"values.yaml": {}}, "tiny")])
def test_what_is_no_package_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tiny-1.2.3.tgz").write_bytes(content)
    with pytest.raises(PackageError, match=r"tiny-1\.2\.3\.tgz: not a chart's package"):
        renewed(tmp_path)
