"""Stack files: every good fixture gives settings, every bad one exactly its problems."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pulumi.runtime
import pytest
import yaml

import config
from components.stack_settings import load_from_pulumi, require_secret
from config import plain_yaml
from config.placeholders import IN_LAB, placeholders
from config.secret_keys import SECRET_KEYS
from config.show import as_json
from config.stack_file import read
from config.versions import KUBERNETES
from ops.rehearsal.life import stand_ins
from ops.settings.command import main
from tests.edits import STACK_FILES, refused

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
GOOD = sorted((STACK_FILES / "good").glob("*.yaml"))
BAD = sorted((STACK_FILES / "bad").glob("*.yaml"))
PROD = ROOT / "Pulumi.prod.yaml"

# What never reaches a program: no stack file, or one that the engine itself refuses.
NOT_FOR_ENGINE = {"empty", "no-config", "not-yaml", "repeated-key"}
# What the engine makes something else of: the program finds these in the file itself.
UNSEEN_BY_ENGINE = {
    "alias-bomb",
    "alias-in-itself",
    "empty-sections",
    "long-number",
    "numbers-for-texts",
    "section-twice",
    "tags-and-keys",
    "two-documents",
}


class EngineLoader(plain_yaml.LOADER):  # type: ignore[misc]  # one of two
    """Reads a date as the engine hands it to the program (seen in the lab)."""


def as_time(loader: EngineLoader, node: yaml.ScalarNode) -> str:
    return f"{loader.construct_scalar(node)} 00:00:00 +0000 UTC"


EngineLoader.add_constructor("tag:yaml.org,2002:timestamp", as_time)


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


@functools.cache
def problems_of(path: Path) -> list[str]:
    with pytest.raises(config.SettingsError) as caught:
        config.load_file(path)
    return [str(each).replace(f"{path}:", f"{path.name}:") for each in caught.value.problems]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write all bad stack files into a folder, under their own names."""
    folder = tmp_path_factory.mktemp("bad")
    for path in BAD:
        (folder / path.name).write_text(refused(path), encoding="utf-8")
    return folder


def decrypted(value: object) -> object:
    if isinstance(value, dict):
        if value.keys() == {"secure"}:
            return "plain text of a secret"
        return {key: decrypted(item) for key, item in value.items()}
    return [decrypted(item) for item in value] if isinstance(value, list) else value


def give_to_engine(path: Path, secrets: dict[str, str]) -> None:
    """Set the program's configuration as the engine does: texts, JSON for anything deeper."""
    stack = yaml.load(path.read_text(), EngineLoader)["config"]  # noqa: S506 - a safe loader
    encrypted = [key for key, value in stack.items() if "secure" in json.dumps(value)]
    values = {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in ((key, decrypted(value)) for key, value in stack.items())
    }
    values.setdefault("pulumi:disable-default-providers", '["*"]')
    for section in ("cluster", "site", "network", "talos", "kubernetes", "services", "updates"):
        values.setdefault(f"platform:{section}", "{}")
    values.setdefault("platform:machines", "[]")
    missing = {key: value for key, value in secrets.items() if key not in values}
    pulumi.runtime.set_all_config({**values, **missing}, [*encrypted, *missing])


@pytest.fixture(autouse=True)
def no_configuration_is_left() -> Iterator[None]:
    yield
    pulumi.runtime.set_all_config({}, [])


@pytest.fixture
def all_secrets() -> dict[str, str]:
    return {f"platform:{key.name}": f"value of {key.name}" for key in SECRET_KEYS}


def test_there_are_enough_fixtures() -> None:
    assert len(GOOD) >= 5
    assert len(BAD) >= 30


@named([*GOOD, PROD])
def test_a_good_file_gives_settings(path: Path) -> None:
    assert config.load_file(path).control_planes


@named(BAD)
def test_a_bad_file_gives_exactly_its_problems(path: Path, bad: Path) -> None:
    assert problems_of(bad / path.name) == path.with_suffix(".txt").read_text().splitlines()


@named(BAD)
def test_no_secret_is_told(path: Path, bad: Path) -> None:
    told = "\n".join(problems_of(bad / path.name))
    assert "correct-horse" not in told
    assert "AAAA" not in told


def test_the_fixtures_hold_secrets_that_could_be_told() -> None:
    assert sum("correct-horse" in path.read_text() for path in BAD) >= 5


@named([*GOOD, PROD])
def test_the_engine_gives_the_same_settings_as_the_file(
    path: Path, all_secrets: dict[str, str]
) -> None:
    give_to_engine(path, all_secrets)
    assert load_from_pulumi() == config.load_file(path)


@named([path for path in BAD if path.stem not in NOT_FOR_ENGINE | UNSEEN_BY_ENGINE])
def test_the_engine_gives_the_same_problems_as_the_file(
    path: Path, bad: Path, all_secrets: dict[str, str]
) -> None:
    give_to_engine(bad / path.name, all_secrets)
    with pytest.raises(config.SettingsError) as caught:
        load_from_pulumi()
    assert [str(each) for each in caught.value.problems] == problems_of(bad / path.name)


@pytest.mark.parametrize("name", sorted(UNSEEN_BY_ENGINE))
def test_the_program_finds_in_the_file_what_the_engine_does_not_hand_on(
    name: str,
    bad: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    all_secrets: dict[str, str],
) -> None:
    monkeypatch.setenv(IN_LAB, str(tmp_path))
    # The engine takes one of two, or the first document: the program gets good settings.
    give_to_engine(STACK_FILES / "good" / "three.yaml", all_secrets)
    path = bad / f"{name}.yaml"
    (tmp_path / "world.json").write_text(json.dumps({"stackFile": str(path)}))
    with pytest.raises(config.SettingsError) as caught:
        load_from_pulumi()
    told = [str(each).replace(f"{path}:", f"{path.name}:") for each in caught.value.problems]
    assert told
    assert set(told) <= set(problems_of(path))


def test_outside_of_the_lab_the_program_reads_the_stacks_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_secrets: dict[str, str]
) -> None:
    give_to_engine(STACK_FILES / "good" / "three.yaml", all_secrets)
    monkeypatch.delenv(IN_LAB)
    monkeypatch.chdir(tmp_path)
    text = refused(STACK_FILES / "bad" / "section-twice.yaml")
    (tmp_path / f"Pulumi.{pulumi.get_stack()}.yaml").write_text(text)
    with pytest.raises(config.SettingsError, match="platform:cluster: given twice"):
        load_from_pulumi()


def test_a_program_requires_the_secrets_that_the_services_need() -> None:
    give_to_engine(STACK_FILES / "good" / "other-network.yaml", {})
    with pytest.raises(config.SettingsError) as caught:
        load_from_pulumi()
    assert [str(each) for each in caught.value.problems] == [
        (
            "platform:dnsToken: a secret that is not set; run `pulumi config set --secret "
            "platform:dnsToken`: Cloudflare's API token, the TSIG key of rfc2136, "
            "Route 53's secret access key, or that of a webhook's solver"
        ),
        (
            "platform:vspherePassword: a secret that is not set; run `pulumi config set --secret "
            "platform:vspherePassword`: the vCenter user's password"
        ),
    ]


def test_a_section_set_as_json_on_the_command_line_is_read(all_secrets: dict[str, str]) -> None:
    raw = read(PROD)
    sections = {f"platform:{name}": json.dumps(value) for name, value in raw.values.items()}
    pulumi.runtime.set_all_config({**sections, **all_secrets}, list(all_secrets))
    assert load_from_pulumi() == config.load_file(PROD)


def test_only_a_listed_secret_can_be_required() -> None:
    with pytest.raises(KeyError, match="dnsTokn is not in"):
        require_secret("dnsTokn")


def test_a_problem_keeps_to_its_value_though_an_alias_hides_it(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    path.write_text("config:\n  platform:vspherePassword: *correct-horse\n")
    assert problems_of(path) == [
        ("Pulumi.x.yaml: line 2 has an alias without its anchor; write the value itself")
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"config: [1]\n", "holds no `config:` with keys below it"),
        (b"- config\n", "holds no `config:` with keys below it"),
        (b"config: {[a]: b}\n", "line 1 has a key that is not a text"),
        (b"config: {? {a: b} : c}\n", "line 1 has a key that is not a text"),
        (b"config: \x00\n", "line 1 holds a control or invisible character (U+0000)"),
        (b"config:\n  a: \xe2\x80\xae\n", "line 2 holds a control or invisible character (U+202E)"),
        (b"config: \xff\n", "not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_stack_file_is_refused(tmp_path: Path, text: bytes, fault: str) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    path.write_bytes(text)
    (told,) = problems_of(path)
    assert fault in told


@pytest.mark.parametrize("name", ["none.yaml", ""])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    reason = "Is a directory" if not name else "No such file or directory"
    (told,) = config_error(tmp_path / name)
    assert told == f"{tmp_path / name}: cannot be read: {reason}; check the path"


def config_error(path: Path) -> list[str]:
    with pytest.raises(config.SettingsError) as caught:
        config.load_file(path)
    return [str(each) for each in caught.value.problems]


def test_scalars_are_read_as_the_engine_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    path.write_text(
        "config:\n  platform:site:\n    a: no\n    b: 1_000\n    c: 12:30:10\n    d: 2024-01-02\n"
        "    e: 1.5\n    f: true\n    g: ~\n    h: &x {i: 1, j: 2}\n    k: {<<: *x, j: 3}\n"
        "  platform:kubernetes: true\n  platform:talos: 5\n"
    )
    assert read(path).values == {
        "site": {
            "a": "no",
            "b": 1000,
            "c": "12:30:10",
            "d": "2024-01-02 00:00:00 +0000 UTC",
            "e": 1.5,
            "f": True,
            "g": None,
            "h": {"i": 1, "j": 2},
            "k": {"i": 1, "j": 3},
        },
        "kubernetes": "true",
        "talos": "5",
    }


def test_a_key_without_a_namespace_is_the_projects(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    path.write_text(PROD.read_text().replace("  platform:", "  "))
    assert config.load_file(path) == config.load_file(PROD)


# --- Placeholders ------------------------------------------------------------------------------


def test_outside_of_the_lab_the_program_refuses_placeholders(
    monkeypatch: pytest.MonkeyPatch, all_secrets: dict[str, str]
) -> None:
    give_to_engine(PROD, all_secrets)
    monkeypatch.delenv(IN_LAB)
    with pytest.raises(config.SettingsError) as caught:
        load_from_pulumi()
    told = [str(each) for each in caught.value.problems]
    assert len(told) == 12
    assert all(": a placeholder; " in each for each in told)
    assert "age-keygen" in told[-1]


def test_a_rehearsal_says_which_values_are_placeholders(tmp_path: Path) -> None:
    said = stand_ins(PROD)
    assert said.splitlines()[1] == "  platform:site.vcenter"
    assert len(said.splitlines()) == 13
    path = tmp_path / "Pulumi.x.yaml"
    path.write_text(own(PROD.read_text()))
    assert stand_ins(path) == "no value of the stack file is a placeholder"


def own(text: str) -> str:
    """Put a site's own values in the placeholders' place."""
    return (
        text.replace("example.internal", "corp.lan")
        .replace("example.com", "corp.net")
        .replace("github.com/example", "github.com/corp")
        .replace("organization: example", "organization: corp")
        .replace("replace-with-the-oauth-client-id", "Ov23liCorp")
        .replace("appId: 123456, installationId: 7890123", "appId: 2112, installationId: 31415")
        .replace(PLACEHOLDER_KEY, OWN_KEY)
    )


PLACEHOLDER_KEY = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
OWN_KEY = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z"
IS_INSTALLED = "  platform:vspherePassword:\n    secure: v1:AAAA:BBBB\n"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("vcenter.corp.lan", "vcenter.example.internal"),
        ("vcenter.corp.lan", "vc.dc1.example.org"),
        ("vcenter.corp.lan", "vcenter.example"),
        ("vcenter.corp.lan", "192.0.2.10"),
        ("172.16.20.1]", "198.51.100.53]"),
        ("Ov23liCorp", "replace-with-the-oauth-client-id"),
        ("Ov23liCorp", "your-client-id"),
        ("Ov23liCorp", "changeme"),
        ("appId: 2112", "appId: 123456"),
        ("installationId: 31415", "installationId: 7890123"),
        ("organization: corp", "organization: example"),
        ("github.com/corp", "github.com/example"),
        ("platform@corp.net", "platform@example.net"),
        ("s3.corp.net", "s3.example.com:9000"),
        (OWN_KEY, PLACEHOLDER_KEY),
    ],
)
def test_a_placeholder_is_refused_once_a_secret_is_set_and_the_lab_takes_it(
    place: str,
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = own(PROD.read_text())
    assert place in text
    path = tmp_path / "Pulumi.x.yaml"
    path.write_text(text.replace(place, value))
    assert main(["check", str(path)]) == 0
    assert "note: for the lab alone: `pulumi up` refuses 1 placeholder" in capsys.readouterr().out
    monkeypatch.delenv(IN_LAB)
    assert main(["check", str(path)]) == 0
    assert main(["check", "--production", str(path)]) == 1
    assert ": a placeholder; " in capsys.readouterr().err
    path.write_text(path.read_text() + IS_INSTALLED)
    assert main(["check", str(path)]) == 1
    path.write_text(text + IS_INSTALLED)
    assert main(["check", str(path)]) == 0
    assert "for the lab alone" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["exchange-metrics.corp.lan", "landfill-in.corp.lan", "interchange-this.corp.lan"]
)
def test_a_name_in_which_a_placeholders_words_happen_to_stand_is_none(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    path.write_text(own(PROD.read_text()).replace("vcenter.corp.lan", name))
    assert placeholders(config.load_file(path)) == ()


# --- The command -------------------------------------------------------------------------------


def test_check_says_that_a_file_is_good_and_how_to_set_its_secrets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(STACK_FILES / "good" / "one.yaml")
    assert main(["check", path]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.startswith(f"{path}: good (1 machine)\n")
    assert told.out.endswith(
        "note: secrets that are not set yet; `pulumi up` will ask for them:\n"
        "  pulumi config set --secret platform:vspherePassword   # the vCenter user's password\n"
    )


def test_check_notes_no_secret_that_is_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    good = (STACK_FILES / "good" / "one.yaml").read_text()
    path.write_text(good + "  platform:vspherePassword:\n    secure: v1:AAAA:BBBB\n")
    assert main(["check", str(path)]) == 0
    assert "secrets that are not set" not in capsys.readouterr().out


def test_check_gives_all_problems_on_stderr_and_exit_status_1(
    bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bad / "many-problems.yaml"
    assert main(["check", str(path)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    expected = (STACK_FILES / "bad" / "many-problems.txt").read_text().splitlines()
    assert told.err.splitlines() == [
        f"{path}: {len(expected)} problems in the settings:",
        *(f"  - {line}" for line in expected),
    ]


def test_check_looks_at_the_files_of_patches_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    path.write_text(PROD.read_text())
    (tmp_path / "Pulumi.yaml").write_text("name: platform\n")
    assert main(["check", str(path)]) == 1
    assert "clusters/prod: no such folder; create it" in capsys.readouterr().err
    folder = tmp_path / "clusters" / "prod"
    folder.mkdir(parents=True)
    (folder / "common.yaml").write_text("machine: {kublet: {}}\n")
    assert main(["check", str(path)]) == 1
    assert "common.yaml: machine.kublet: no field" in capsys.readouterr().err
    (folder / "common.yaml").write_text("machine: {kubelet: {}}\n")
    assert main(["check", str(path)]) == 0
    assert (
        "Talos itself has not checked the files of patches: no talosctl" in capsys.readouterr().out
    )


def test_check_says_when_kubernetes_gets_no_fixes_any_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["check", str(PROD)]) == 0
    assert (
        f"warning: platform:kubernetes.version = {KUBERNETES}: Kubernetes 1.34 gets no fixes"
        in capsys.readouterr().out
    )


def test_any_patch_of_the_line_is_taken_and_warned_of_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    text = PROD.read_text()
    assert text.count(f"version: {KUBERNETES}") == 1
    path.write_text(text.replace(f"version: {KUBERNETES}", "version: 1.34.4"))
    assert main(["check", str(path)]) == 0
    assert (
        "warning: platform:kubernetes.version = 1.34.4: Kubernetes 1.34 gets no fixes"
        in capsys.readouterr().out
    )


def test_show_refuses_what_check_refuses(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bad / "vip-in-pool.yaml"
    assert main(["show", str(path), "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "overlaps the VIP" in told.err


def test_show_prints_the_address_plan_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(PROD)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    start = rows.index(["addresses", "use", "name", "key"])
    assert [row[0] for row in rows[start + 1 : start + 11]] == [
        "10.96.0.0/12",
        "10.244.0.0/16",
        "172.16.20.0/24",
        "172.16.20.1",
        "172.16.20.1",
        "172.16.20.51",
        "172.16.20.52",
        "172.16.20.53",
        "172.16.20.100-172.16.20.150",
        "172.16.20.250",
    ]


@named([*GOOD, PROD])
def test_shown_sections_are_good_settings_again(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    settings = config.load_file(path)
    assert shown == as_json(settings)
    sections = {name: shown[name] for name in config.Settings.model_fields}
    assert config.parse(sections) == settings


def test_the_command_needs_neither_engine_nor_network() -> None:
    # Any import of Pulumi, and any socket, ends the process.
    guard = (
        "import runpy, sys\n"
        "sys.modules['pulumi'] = None\n"
        "def forbid(event, _):\n"
        "    if event.startswith('socket.'): sys.exit(f'opened a socket: {event}')\n"
        "sys.addaudithook(forbid)\n"
        "sys.argv = ['config', 'check', 'Pulumi.prod.yaml']\n"
        "runpy.run_module('config', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", guard], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Pulumi.prod.yaml: good (3 machines)")


def test_metrics_that_nobody_can_verify_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = plain_yaml.read(PROD.read_text())
    services = settings["config"]["platform:services"]
    file = tmp_path / "Pulumi.prod.yaml"
    for kept, warned in ((services, False), ({"cilium": {}, "metricsServer": {}}, True)):
        settings["config"]["platform:services"] = kept
        file.write_text(yaml.safe_dump(settings))
        assert main(["check", str(file)]) == 0
        assert ("metricsServer without certManager" in capsys.readouterr().out) is warned
