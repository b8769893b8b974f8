"""The search for secret values finds them however they are encoded, and names no value."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ops.rehearsal.world import wait_until
from tests.secret_search import CommandLines, found_in

VALUE = "a-value-that-nobody-has-set-anywhere"
PEM = f"-----BEGIN PRIVATE KEY-----\n{'QUJD' * 16}\n-----END PRIVATE KEY-----\n"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


AROUND = [(before, after) for before in ("", "x", "xy") for after in ("", "x", "xy")]
TWICE = [encoded(f"{before}{VALUE}{after}") for before, after in AROUND]


@pytest.mark.parametrize(
    "text",
    [
        f"password={VALUE}\n",
        *(encoded(f"{before}{VALUE} and more") for before in ("", "x", "xy", "xyz")),
        *(encoded(one) for one in TWICE),
        *(encoded(f"x{one}") for one in TWICE),
    ],
)
def test_a_value_is_found_however_it_is_encoded(text: str) -> None:
    assert found_in({VALUE: "password"}, [], {"output": text}) == ["password is in output"]


@pytest.mark.parametrize("value", [PEM, encoded(PEM)])
@pytest.mark.parametrize(
    "text", [PEM, encoded(PEM), json.dumps({"key": PEM}), PEM.replace("\n", "\n    ")]
)
def test_a_key_is_found_by_a_line_of_it(value: str, text: str) -> None:
    assert found_in({value: "key"}, [], {"output": text}) == ["key is in output"]


def test_files_below_a_folder_are_searched_and_the_value_is_not_told(tmp_path: Path) -> None:
    file = tmp_path / "backend" / "history" / "one.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"old": VALUE}))
    (tmp_path / "other.json").write_text("{}")
    found = found_in({VALUE: "password"}, [tmp_path], {"output": "nothing"})
    assert found == [f"password is in {file}"]
    assert VALUE not in "".join(found)


def test_without_a_secret_nothing_is_found_and_without_values_nothing_is_proved() -> None:
    assert found_in({VALUE: "password"}, [], {"output": "a value that nobody has"}) == []
    with pytest.raises(AssertionError, match="prove nothing"):
        found_in({}, [], {"output": ""})


def test_a_secret_on_a_command_line_is_found() -> None:
    with CommandLines() as lines:
        process = subprocess.Popen([sys.executable, "-c", "input()", VALUE], stdin=subprocess.PIPE)
        wait_until("the value on a command line", lambda: VALUE in lines.text, poll=0.02)
        process.communicate(b"\n")
    assert found_in({VALUE: "password"}, [], {"processes": lines.text}) == [
        "password is in processes"
    ]
