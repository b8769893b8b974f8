"""Whatever a file holds, it is refused or read, at once, and never with a traceback or a leak."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from config import SettingsError, parse
from config.problems import problem
from config.reading import gather
from config.stack_file import read
from config.values import parse_cron
from ops.settings.command import main
from tests.stack_texts import TRICKY, files, of_scalars

quickly = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)
sections = st.sampled_from(
    ["cluster", "site", "machines", "network", "talos", "kubernetes", "services", "other"]
)


def checked(path: Path) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["check", str(path)])
    text = out.getvalue() + err.getvalue()
    assert text.isascii()
    assert all(line.isprintable() for line in text.splitlines())
    return code, text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "Pulumi.x.yaml"


@quickly
@given(text=files)
def test_any_yaml_is_refused_cleanly_or_read(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    assert checked(file)[0] == 1  # none has all sections


@quickly
@given(content=st.binary(max_size=300))
def test_any_bytes_are_refused_cleanly(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert checked(file)[0] == 1


@quickly
@given(values=st.dictionaries(sections, json_values))
def test_any_values_of_the_engine_are_refused_cleanly(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(values)
    assert str(caught.value).isascii()


@quickly
@given(values=st.dictionaries(sections, json_values))
def test_values_are_the_same_as_json_in_texts(values: dict[str, Any]) -> None:
    deep = {
        f"platform:{key}": value for key, value in values.items() if isinstance(value, dict | list)
    }
    texts = {
        key: json.dumps(value) for key, value in deep.items() if "NaN" not in json.dumps(value)
    }
    one, other = gather({key: deep[key] for key in texts}, ()), gather(texts, ())
    for key, value in other.values.items():
        # A text that is too deep or holds too long a number stays a text, and is refused as one.
        assert isinstance(value, str | None) or json.dumps(value) == json.dumps(one.values[key])


@quickly
@given(text=st.text(), key=st.text(min_size=1))
def test_any_problem_is_one_printable_line(text: str, key: str) -> None:
    told = str(problem(("site", key), text, "wrong", "fix it"))
    assert told.isascii()
    assert told.isprintable()
    assert not told.lstrip().startswith("::")
    assert "##[" not in told


@quickly
@given(text=st.text("0123456789*/,-? ajnmou", max_size=20))
def test_any_schedule_is_refused_cleanly_or_taken(text: str) -> None:
    try:
        fields = parse_cron(text).split(" ")
    except PydanticCustomError:
        return
    assert len(fields) == 5


def test_scalars_that_readers_see_differently_are_refused_or_read_as_written(file: Path) -> None:
    flow = [text for text in TRICKY if not set(text) & set("\n#,")]
    file.write_text(of_scalars(flow), encoding="utf-8")
    raw = read(file)
    refused = {each.key.partition("[")[0] for each in raw.problems}
    assert len(refused) > 30
    for number, text in enumerate(flow):
        if f"platform:k{number}" in refused or text[0] in "'\"!" or text in {"~", "null", "Null"}:
            continue
        (value,) = raw.values[f"k{number}"]
        if isinstance(value, str):
            assert value.removesuffix(" 00:00:00 +0000 UTC")[:4] == text[:4]
        else:
            assert text.lower() in {"true", "false"} or float(text.replace("_", "")) == value
