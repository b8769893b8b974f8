"""At most one machine that exists is changed at a time; only the first creation is of all at once.

The real program, on a model of the engine: whatever may run at the same time does.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from config import parse
from config.resource_types import CONFIGURATION, MACHINE
from config.versions import TALOS
from ops.engine.urn import name_of, type_of
from ops.engine.values import Resource
from ops.policies.known import Known
from ops.policies.plan import check_order
from tests.unit.engine_model import Course, Run, Stack, deletions, preview, update
from tests.unit.recorder import install_talosctl, machine, production, without_services

pytestmark = pytest.mark.usefixtures("_program")


@pytest.fixture(scope="module")
def _program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the program find its talosctl."""
    folder = tmp_path_factory.mktemp("talosctl")
    install_talosctl(folder, TALOS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=":")
        yield


NAMES = ("node01", "node02", "node03", "worker01", "worker02")


def site(
    *names: str,
    grown: Collection[str] = (),
    marked: Collection[str] = (),
    other_image: bool = False,
) -> dict[str, Any]:
    """Give settings with these machines: some with more memory, some with another configuration."""
    machines = [
        machine(
            name,
            f"172.16.20.{51 + NAMES.index(name)}",
            "worker" if name.startswith("worker") else "controlplane",
            **({"memoryMiB": 32768} if name in grown else {}),
            **({"labels": {"rack": "r1"}} if name in marked else {}),
        )
        for name in names
    ]
    given = without_services(production()) | {"machines": machines}
    if other_image:
        given["talos"] = given["talos"] | {"extensions": ["siderolabs/iscsi-tools"]}
    return given


def together(run: Run, type_: str) -> int:
    """Give how many steps of a type ran at once, at most."""
    now = most = 0
    for one in run.moments:
        if one.type == type_ and one.step != "same":
            now += 1 if one.begins else -1
            most = max(most, now)
    return most


def assert_one_at_a_time(run: Run, *, first: bool) -> None:
    """See that nothing begins on a machine between another's first step and its health.

    At the first creation the virtual machines themselves are free.
    """
    open_: str | None = None
    for one in run.moments:
        free = first and one.type == MACHINE
        if one.begins and one.touches and not free:
            assert open_ in {None, one.machine}, f"{one} while {open_} is open: {run.moments}"
            open_ = one.machine
        if not one.begins and one.waits and open_ == one.machine:
            open_ = None


@pytest.fixture(scope="module")
def made(_program: None) -> tuple[Stack, Run]:
    """Make all machines on an empty site, once."""
    stack = Stack()
    return stack, update(stack, site(*NAMES[:4]), Course())


def test_the_first_creation_makes_all_machines_at_once_and_joins_one_after_the_other(
    made: tuple[Stack, Run],
) -> None:
    _, run = made
    assert not run.failed
    assert together(run, MACHINE) == len(NAMES[:4])
    assert_one_at_a_time(run, first=True)
    joined = [one.machine for one in run.moments if one.type == CONFIGURATION and one.begins]
    assert joined == list(NAMES[:4])


def test_a_change_of_all_machines_and_a_new_one_go_one_after_the_other_as_planned(
    made: tuple[Stack, Run],
) -> None:
    stack = copy.deepcopy(made[0])
    wanted = site(*NAMES, grown=NAMES[:4], marked=NAMES)
    planned, run = preview(stack, wanted), update(stack, wanted, Course())
    changed = [one for one in run.moments if one.type == MACHINE and one.begins]
    assert [(one.machine, one.step) for one in changed] == [
        *((name, "update") for name in NAMES[:4]),
        (NAMES[4], "create"),
    ]
    assert_one_at_a_time(run, first=False)
    assert planned.depends_on == run.depends_on
    assert deleted(run) == [{name} for name in reversed(NAMES)]


def test_the_first_creation_is_planned_as_it_is_deployed(made: tuple[Stack, Run]) -> None:
    assert preview(Stack(), site(*NAMES[:4])).depends_on == made[1].depends_on


def test_a_destroy_takes_one_machine_after_the_other_though_they_were_made_together(
    made: tuple[Stack, Run],
) -> None:
    assert deleted(made[1]) == [{name} for name in reversed(NAMES[:4])]


def test_the_policy_accepts_the_first_creation_and_every_later_run(made: tuple[Stack, Run]) -> None:
    stack, wanted = copy.deepcopy(made[0]), site(*NAMES[:4])
    for run in (made[1], update(stack, wanted, Course())):
        resources = [
            Resource(urn, type_of(urn), name_of(urn), {}, dependencies=tuple(needed))
            for urn, needed in run.depends_on.items()
        ]
        assert sum(one.type == CONFIGURATION for one in resources) == len(NAMES[:4])
        assert list(check_order(resources, Known(settings=parse(wanted)))) == []


def deleted(run: Run) -> list[set[str]]:
    """Give which machines a destroy would delete at once, in order."""
    gone = [{name_of(one) for one in at if type_of(one) == MACHINE} for at in deletions(run)]
    return [names for names in gone if names]


@st.composite
def courses(draw: st.DrawFn) -> Course:
    """Draw what becomes of a run: it ends well, a step fails, or it is killed."""
    step = st.none() | st.integers(0, 19)
    return Course(
        seed=draw(st.integers(0, 99)),
        fails=draw(step),
        killed=draw(st.none() | st.integers(0, 19)),
        replaced=draw(st.sets(st.sampled_from(NAMES))),
    )


@st.composite
def plans(draw: st.DrawFn) -> Any:
    """Draw settings: which machines there are, and what of them is other than at first."""
    some = st.sets(st.sampled_from(NAMES))
    names = draw(st.sampled_from([NAMES[:1], NAMES[:3], (*NAMES[:3], NAMES[4]), NAMES]))
    return site(*names, grown=draw(some), marked=draw(some), other_image=draw(st.booleans()))


PLANS = int(os.environ.get("PLANS", "3"))
"""How many courses of plans are tried; each takes a second or two. A long search: PLANS=100."""


@settings(
    max_examples=PLANS,
    deadline=None,
    phases=[Phase.generate],  # a smaller example takes as long as all of them
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(plans(), courses()), min_size=2, max_size=3))
def test_whatever_is_changed_fails_or_is_killed_one_machine_is_touched_at_a_time(
    runs: list[tuple[Any, Course]],
) -> None:
    stack = Stack()
    for wanted, course in runs:
        first = not stack.machines()
        assert_one_at_a_time(update(stack, wanted, course), first=first)
