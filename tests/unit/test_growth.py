"""A machine that has grown: what makes its node have the new size, and that it is awaited."""

from __future__ import annotations

from typing import Any

import pytest

from clients import talosctl
from clients.waiting import Clock
from components.talos import growth, health
from components.talos.etcd import HealthError, Member
from components.talos.growth import Size, lacking, quantity
from components.talos.health import Observer
from tests.unit.fake_talos import FakeMachine, FakeTalos

OLD = Size(4, 8192, 100)


class Api:
    """A Kubernetes API whose node knows more only after what its machine really needs."""

    def __init__(self, machine: FakeMachine, new: Size) -> None:
        self.machine, self.new = machine, new

    def get(self, path: str) -> dict[str, Any]:
        assert path == "/api/v1/nodes/node01"
        booted, restarted = self.machine.boots > 0, self.machine.kubelets > 0
        cpus = self.new.cpus if booted else OLD.cpus
        memory = self.new.memory_mib if booted or restarted else OLD.memory_mib
        return {
            "status": {
                "capacity": {
                    "cpu": str(int(cpus)),
                    "memory": f"{int(memory * 0.97) * 1024}Ki",
                    "ephemeral-storage": "97Gi",
                }
            }
        }


def grow(
    monkeypatch: pytest.MonkeyPatch,
    new: Size,
    *,
    boot: str | None = "boot-1",
    unmet: dict[str, str] | None = None,
) -> FakeMachine:
    machine = FakeMachine("node01", "172.16.20.51", unmet=unmet or {})
    fake = FakeTalos([machine])
    monkeypatch.setattr(growth, "KubernetesApi", lambda _: Api(machine, new))
    with talosctl.connect("talosconfig", fake.run, fake.dial) as talos:
        member = Member("node01", "172.16.20.51", control_plane=True)
        clock = Clock(lambda: fake.now, fake.sleep)
        Observer(talos, [member], clock).take_up(member, OLD, new, boot)
    return machine


def test_more_memory_takes_a_restart_of_the_kubelet_and_no_boot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = grow(monkeypatch, Size(4, 16384, 100))
    assert (machine.boots, machine.kubelets) == (0, 1)


@pytest.mark.parametrize("new", [Size(6, 8192, 100), Size(4, 8192, 200), Size(6, 16384, 100)])
def test_more_cpus_or_a_larger_system_disk_take_a_reboot(
    monkeypatch: pytest.MonkeyPatch, new: Size
) -> None:
    machine = grow(monkeypatch, new)
    assert (machine.boots, machine.kubelets) == (1, 0)


def test_a_machine_without_a_cni_comes_back_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = grow(monkeypatch, Size(6, 8192, 100), unmet={"nodeReady": "not ready"})
    assert (machine.boots, machine.kubelets) == (1, 0)


def test_a_machine_that_the_provider_has_switched_off_and_on_is_not_rebooted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = grow(monkeypatch, Size(4, 8192, 200), boot="the boot before")
    assert (machine.boots, machine.kubelets) == (0, 0)


def test_a_node_that_never_shows_its_size_is_an_error_that_says_what_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "CAPACITY_SECONDS", 10.0)
    with pytest.raises(HealthError, match=r"node01.*its node has 4 of 6 CPUs"):
        grow(monkeypatch, Size(6, 8192, 100), boot="the boot before")


def test_a_nodes_capacity_is_read_and_the_kernels_share_is_no_lack() -> None:
    assert [quantity(one) for one in ("4", "3920m", "1Ki", "2Gi")] == [4, 3.92, 1024, 2 << 30]
    assert lacking(Size(4, 15900, 90), Size(4, 16384, 100)) == ""
    assert lacking(Size(4, 8000, 90), Size(4, 16384, 100)) == (
        "its node has 8000 of 16384 MiB of memory"
    )


def test_a_gate_of_an_older_form_tells_no_size() -> None:
    assert Size.of_gate({"cpus": 4, "memoryMiB": 8192, "disksGiB": [100]}) is None
    given = {"cpus": 4, "memoryMiB": 8192, "disksGiB": {"system": 100, "data": 50}}
    assert Size.of_gate(given) == Size(4, 8192, 100, {"data": 50})


def test_a_larger_data_disk_takes_a_reboot_and_a_new_one_takes_none() -> None:
    old = Size(4, 8192, 100, {"data": 50})
    assert old.boots_for(Size(4, 8192, 100, {"data": 80}))
    assert not old.boots_for(Size(4, 8192, 100, {"data": 50, "logs": 80}))
    assert not old.boots_for(Size(4, 8192, 100))
