"""The timeline of a deployment: the critical path, what is read from the engine, the page."""

from __future__ import annotations

import json
import re
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from ops.engine.operations import WORDS
from ops.rehearsal.recorder import Recorder
from ops.rehearsal.timeline import (
    Outcome,
    Step,
    Timeline,
    TimelineError,
    critical_path,
    last_awaited,
)
from ops.rehearsal.timeline_page import STYLE, main, render, seconds, tick_distance
from ops.rehearsal.world import wait_until

if TYPE_CHECKING:
    from pathlib import Path

BASE = "urn:pulumi:prod::platform::"
STACK = f"{BASE}pulumi:pulumi:Stack::platform-prod"
LAYER = f"{BASE}platform:vsphere:Machines::machines"
EPOCH = 1_795_456_873


VM = "vsphere:index/virtualMachine:VirtualMachine"
GATE = "platform:index:Gate"


def urn(name: str, kind: str = VM) -> str:
    return f"{BASE}platform:vsphere:Machines${kind}::{name}"


def step(name: str, start: float, end: float, operation: str = "create") -> Step:
    return Step(urn(name), operation, start, end)


class Run:
    """Writes the log and the state that the engine would leave; times are seconds."""

    def __init__(self, folder: Path, *, precise: bool = True) -> None:
        self.log = folder / "up.events"
        self.precise = precise
        self.events: list[tuple[float, dict[str, Any]]] = [(0, {"preludeEvent": {}})]
        self.resources: list[dict[str, Any]] = []
        self.component(STACK, 0.5, parent="")
        self.component(LAYER, 0.5, parent=STACK)

    def event(self, kind: str, at: float, resource: str, operation: str, **more: object) -> None:
        state = {"parent": LAYER if resource not in {STACK, LAYER} else ""}
        if resource == LAYER:
            state["parent"] = STACK
        side = "old" if operation == "delete" else "new"
        metadata = {"op": operation, "urn": resource, side: state}
        self.events.append((at, {kind: {"metadata": metadata, **more}}))

    def component(
        self, resource: str, at: float, parent: str, outputs: float | None = None
    ) -> None:
        self.event("resourcePreEvent", at, resource, "create")
        if outputs is not None:
            self.event("resOutputsEvent", outputs, resource, "create")
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(EPOCH + at))
        entry = {"urn": resource, "type": resource.split("::")[2].rsplit("$", 1)[-1]}
        self.resources.append(
            {
                **entry,
                "custom": False,
                "parent": parent,
                "modified": f"{stamp}.{at % 1 * 1e9:09.0f}Z",
            }
        )

    def resource(
        self,
        name: str,
        start: float,
        end: float | None,
        *needs: str,
        operation: str = "create",
        failed: bool = False,
    ) -> None:
        self.event("resourcePreEvent", start, urn(name), operation)
        if end is not None:
            kind = "resOpFailedEvent" if failed else "resOutputsEvent"
            self.event(kind, end, urn(name), operation)
        if all(urn(name) != one["urn"] for one in self.resources):
            self.resources.append(
                {
                    "urn": urn(name),
                    "type": VM,
                    "custom": True,
                    "parent": LAYER,
                    "dependencies": [urn(one) for one in needs],
                }
            )

    def gate(self, name: str, start: float, end: float, *needs: str) -> str:
        gate = urn(name, GATE)
        self.event("resourcePreEvent", start, gate, "create")
        self.event("resOutputsEvent", end, gate, "create")
        entry: dict[str, Any] = {"urn": gate, "type": GATE, "custom": False, "parent": LAYER}
        self.resources.append({**entry, "dependencies": [urn(one) for one in needs]})
        return gate

    def timeline(self, end: float) -> Timeline:
        lines = [*sorted(self.events, key=lambda one: one[0]), (end, {"summaryEvent": {}})]
        with self.log.open("w") as log:
            for at, event in lines:
                stamp = {"timestamp": int(EPOCH + at)}
                if self.precise:
                    stamp["time"] = EPOCH + at  # type: ignore[assignment]
                log.write(json.dumps({**stamp, **event}) + "\n")
        return Timeline.from_events(self.log, {"deployment": {"resources": self.resources}})


def names(steps: list[Step]) -> list[str]:
    return [one.name for one in steps]


# --- the critical path --------------------------------------------------------------------------


def test_a_chain_is_its_own_critical_path() -> None:
    a, b, c = step("a", 0, 1), step("b", 1, 3), step("c", 3, 4)
    assert critical_path([c, a, b], {c: [b], b: [a]}) == [a, b, c]


def test_of_parallel_branches_the_one_that_ended_last_is_critical() -> None:
    first, fast, slow = step("first", 0, 1), step("fast", 1, 2), step("slow", 1, 5)
    last = step("last", 5, 6)
    waits = {fast: [first], slow: [first], last: [fast, slow]}
    assert critical_path([first, fast, slow, last], waits) == [first, slow, last]


def test_a_branch_that_nothing_waits_for_is_critical_when_it_ends_last() -> None:
    first, chain, alone = step("first", 0, 1), step("chain", 1, 2), step("alone", 0, 9)
    assert critical_path([first, chain, alone], {chain: [first]}) == [alone]


def test_a_waiting_gap_does_not_break_the_path() -> None:
    a, b = step("a", 0, 1), step("b", 4, 5)
    assert critical_path([a, b], {b: [a]}) == [a, b]


def test_a_dependency_that_ended_after_the_start_was_not_waited_for() -> None:
    early, late, last = step("early", 0, 1), step("late", 0, 3), step("last", 2, 4)
    assert last_awaited(last, {last: [late, early]}) == early


def test_no_steps_have_an_empty_critical_path() -> None:
    assert critical_path([], {}) == []


# --- what is read from the engine ---------------------------------------------------------------


def test_the_totals_follow_from_the_events_and_the_state(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("folder", 1, 2)
    run.resource("image", 1, 4)
    run.resource("node01", 6, 9, "folder", "image")
    timeline = run.timeline(end=10)
    assert names(timeline.critical_path) == ["image", "node01"]
    assert timeline.wall == pytest.approx(10)
    assert timeline.critical_seconds == pytest.approx(6)
    assert timeline.ratio == pytest.approx(10 / 6)
    assert timeline.waited_longest is not None
    assert timeline.waited_longest.name == "node01"
    assert timeline.waited(timeline.waited_longest) == pytest.approx(2)
    assert timeline.stack == "prod"


def test_a_step_behind_a_gate_waits_for_it_though_the_state_names_what_is_in_front(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    run.resource("node01", 1, 2)
    run.gate("node01-healthy", 2, 7, "node01")
    run.resource("beside", 2, 3, "node01")
    run.resource("node02", 7, 8, "node01")
    timeline = run.timeline(end=8)
    assert names(timeline.critical_path) == ["node01", "node01-healthy", "node02"]
    beside = next(one for one in timeline.steps if one.name == "beside")
    assert "node01-healthy" not in names(timeline.waits[beside])


def test_a_component_ends_with_its_registration_not_with_its_outputs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.event("resOutputsEvent", 8, LAYER, "create")
    run.resource("node01", 1, 2)
    timeline = run.timeline(end=9)
    layer = next(one for one in timeline.steps if one.urn == LAYER)
    assert layer.end == pytest.approx(0.5)
    assert layer.outcome == Outcome.DONE
    assert names(timeline.changes) == ["node01"]


def test_without_a_recorder_times_are_whole_seconds(tmp_path: Path) -> None:
    run = Run(tmp_path, precise=False)
    run.resource("node01", 1.2, 3.9)
    timeline = run.timeline(end=4)
    assert not timeline.precise
    assert [(one.start, one.end) for one in timeline.changes] == [(1, 3)]
    assert timeline.waited(timeline.changes[0]) == 1
    assert "the run was not recorded" in render(timeline)


def test_failed_and_unfinished_steps_are_told_apart(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("node01", 1, 2, failed=True)
    run.resource("node02", 1, None)
    timeline = run.timeline(end=5)
    assert [(one.name, one.end, one.outcome) for one in timeline.changes] == [
        ("node01", 2, Outcome.FAILED),
        ("node02", 5, Outcome.UNFINISHED),
    ]


def test_the_new_one_of_a_replaced_resource_waits_for_the_old_one_to_go(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("node01", 1, 3, operation="delete-replaced")
    run.resource("node01", 3, 3, operation="replace")
    run.resource("node01", 3, 6, operation="create-replacement")
    timeline = run.timeline(end=6)
    assert [one.operation for one in timeline.critical_path] == [
        "delete-replaced",
        "create-replacement",
    ]


def test_a_deletion_waits_for_the_deletion_of_what_needs_it(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("image", 4, 5, operation="delete")
    run.resource("node01", 1, 4, "image", operation="delete")
    timeline = run.timeline(end=5)
    assert names(timeline.critical_path) == ["node01", "image"]


def test_unchanged_resources_and_a_preview_are_no_changes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("node01", 1, 1, operation="same")
    run.event("resourcePreEvent", 1, urn("planned"), "create", planning=True)
    timeline = run.timeline(end=2)
    assert timeline.changes == []
    assert timeline.ratio is None
    assert "Nothing changed" in render(timeline)


def test_the_unfinished_last_line_of_a_killed_engine_is_passed_over(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("node01", 1, 2)
    whole = run.timeline(end=3)
    run.log.write_text(run.log.read_text() + '{"sequence": 9, "times')
    again = Timeline.from_events(run.log, {"deployment": {"resources": run.resources}})
    assert again.steps == whole.steps


@pytest.mark.parametrize("line", ["no json", "{}", "[]", "null"])
def test_a_file_that_is_no_event_log_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    log = tmp_path / "events"
    log.write_text(f'{{"timestamp": 1}}\n{line}\n')
    with pytest.raises(TimelineError, match=r"events: line 2 is not an event of the engine"):
        Timeline.from_events(log, {})


def test_an_empty_log_says_how_to_write_one(tmp_path: Path) -> None:
    log = tmp_path / "events"
    log.touch()
    with pytest.raises(TimelineError, match="pulumi up --event-log"):
        Timeline.from_events(log, {})


# --- the recorder -------------------------------------------------------------------------------


def test_the_recorder_stamps_each_line_when_it_appears(tmp_path: Path) -> None:
    log = tmp_path / "events"
    log.write_text('{"timestamp":1}\n' * 50)  # of an earlier run
    between = []
    with Recorder(log) as recorder, log.open("w") as engine:
        for number in range(3):
            between.append(time.time())
            engine.write(f'{{"timestamp":1,"sequence":{number}}}\n')
            engine.flush()
            while recorder.seen <= number:
                time.sleep(0.01)
    between.append(time.time())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [one["sequence"] for one in lines] == [0, 1, 2]
    slack = 0.01  # of rounding, and of two clocks
    for line, (begun, ended) in zip(lines, pairwise(between), strict=True):
        assert begun - slack <= line["time"] <= ended + slack


def test_the_recorder_starts_again_when_the_engine_does(tmp_path: Path) -> None:
    log = tmp_path / "events"
    with Recorder(log) as recorder:
        log.write_text('{"timestamp":1,"of":"preview"}\n' * 5)
        wait_until("the preview is seen", lambda: recorder.seen == 5, poll=0.02)
        log.write_text('{"timestamp":1,"of":"update"}\n')
        wait_until("the update is seen", lambda: recorder.seen == 1, poll=0.02)
    (line,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert line["of"] == "update"
    assert "time" in line


def test_the_recorder_does_not_mind_an_engine_that_never_started(tmp_path: Path) -> None:
    with Recorder(tmp_path / "events"):
        pass
    assert list(tmp_path.iterdir()) == []


# --- the page -----------------------------------------------------------------------------------


def rows(page: str) -> list[ET.Element]:
    """Parse the page's chart, which must be well-formed, and give its rows."""
    start = page.index('<div class="chart">')
    end = page.index("<h2>", start)
    chart = ET.fromstring(page[start:end])  # noqa: S314 our own
    return [one for one in chart if "row" in one.get("class", "").split()]


def found(row: ET.Element, kind: str) -> ET.Element:
    """Give the part of a row with this class."""
    (one,) = (part for part in row.iter() if kind in part.get("class", "").split())
    return one


def text(row: ET.Element) -> str:
    return "".join(found(row, "name").itertext())


def width(row: ET.Element) -> float:
    return float(found(row, "bar").get("style", "").partition("width:")[2].rstrip("%"))


def test_the_page_has_a_bar_a_change_and_numbers_the_critical_path(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("folder", 1, 2)
    run.resource("image", 1, 4, operation="update")
    run.resource("node<01>&", 6, 9, "folder", "image")
    bars = [row for row in rows(render(run.timeline(end=10))) if row.find(".//*[@class='name']")
            is not None and "group" not in row.get("class", "")]  # fmt: skip
    assert {text(row): (row.get("class"), found(row, "bar").get("class")) for row in bars} == {
        "VirtualMachine folder": ("row", "bar create"),
        "1VirtualMachine image": ("row critical", "bar update"),
        "2VirtualMachine node<01>&": ("row critical", "bar create"),
    }
    widths = {text(row): width(row) for row in bars}
    assert widths["1VirtualMachine image"] == pytest.approx(
        3 * widths["VirtualMachine folder"], abs=0.2
    )


def test_each_layer_has_its_total(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("folder", 1, 2)
    run.resource("node01", 5, 9, "folder")
    page = render(run.timeline(end=10))
    (layer,) = (row for row in rows(page) if "group" in row.get("class", ""))
    assert text(layer) == "Machines"
    assert found(layer, "took").text == "8.0 s"  # from its first step to its last
    assert '<td class="figure soft">5.0 s</td>' in page  # and the work in it


def test_only_what_failed_looks_like_an_error(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("folder", 1, 2)
    run.resource("node01", 2, 9, "folder", failed=True)
    classes = {text(row): row.get("class", "") for row in rows(render(run.timeline(end=10)))}
    assert [name for name, kind in classes.items() if "failed" in kind] == [
        "2VirtualMachine node01"
    ]


def test_a_long_name_is_shown_whole(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("kubelet-serving-cert-approver-of-the-platform-and-more", 1, 2)
    names = [text(row) for row in rows(render(run.timeline(end=3)))]
    assert "1VirtualMachine kubelet-serving-cert-approver-of-the-platform-and-more" in names


def test_a_late_duration_stands_on_the_left_of_its_bar_and_gap(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("first", 0, 5)
    run.resource("last", 9, 10, "first")
    first, last = (
        found(row, "took").get("style", "") for row in rows(render(run.timeline(10)))[1:]
    )
    assert first == "left:50.00%"
    assert last == "right:50.00%"  # and left of the gap in front of it


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("node01", 1, 2)
    page = render(run.timeline(end=3))
    assert "<script" not in page
    assert "http" not in page
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize(
    ("value", "text"), [(0.042, "0.04 s"), (7.14, "7.1 s"), (64.5, "64.5 s"), (191.6, "192 s")]
)
def test_durations_have_few_digits(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(("wall", "distance"), [(3, 1), (75, 10), (155, 15), (99_999, 1800)])
def test_the_axis_has_round_marks(wall: float, distance: int) -> None:
    assert tick_distance(wall) == distance


@pytest.mark.parametrize(
    ("kind", "name", "label"),
    [
        ("vsphere:index/folder:Folder", "machines", "Folder machines"),
        ("pulumi:providers:vsphere", "vcenter", "vsphere provider vcenter"),
        ("pulumi:providers:talos", "talos", "talos provider"),
        ("platform:vsphere:Machines", "machines", "Machines"),
    ],
)
def test_labels_are_type_and_name_without_an_echo(kind: str, name: str, label: str) -> None:
    assert Step(f"{BASE}{kind}::{name}", "create", 0, 1).label == label


def test_the_command_draws_a_file(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.resource("node01", 1, 2)
    run.timeline(end=3)
    state, out = tmp_path / "state.json", tmp_path / "out.html"
    state.write_text(json.dumps({"deployment": {"resources": run.resources}}))
    main([str(run.log), str(state), str(out)])
    assert "VirtualMachine node01" in out.read_text()


def test_the_command_says_what_is_wrong_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "missing"), str(tmp_path / "missing"), "out.html"]) == 1
    assert re.fullmatch("no timeline: .*missing.*\n", capsys.readouterr().err)
    with pytest.raises(SystemExit, match="2"):
        main(["only-one"])
    assert "required: STATE, OUT.html" in capsys.readouterr().err


def test_kinds_of_operations_differ_without_their_colours() -> None:
    hatchings = {
        kind: found[1]
        for kind in WORDS
        if (found := re.search(rf"\.bar\.{kind} {{ background-image: ([^;]+);", STYLE))
    }
    assert set(hatchings) == set(WORDS) - {"create"}  # which is plain
    assert len(set(hatchings.values())) == len(hatchings)
