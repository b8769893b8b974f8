"""An Omni for unit tests: it knows machines and a cluster, and answers as omnictl's client does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clients.omnictl import AwayError, Cluster, Machine, Member, Omnictl, OmnictlError, Upgrade
from components.omni.machine_ids import swapped

UUIDS = {f"node0{number}": f"421f245c-7fa8-60fa-6af6-00000000000{number}" for number in range(1, 6)}


def machine(name: str, uuid: str, **more: Any) -> Machine:
    known = Machine(
        uuid,
        connected=True,
        maintenance=True,
        cluster="",
        hostname=name,
        addresses=(f"172.16.20.5{name[-1]}", "fdae:41e4:649b:9303::2"),
        talos="v1.13.9",
        error="",
    )
    return replace(known, **more)


@dataclass
class FakeOmni(Omnictl):
    """Keeps what it was told to do, in order."""

    known: dict[str, Machine] = field(default_factory=dict)
    status: Cluster | None = None
    listed: list[Member] = field(default_factory=list)
    under_way: dict[str, Upgrade] = field(default_factory=dict)
    done: list[tuple[str, str]] = field(default_factory=list)
    away: int = 0
    """How many questions find no answer."""
    refuses: OmnictlError | None = None
    """What a sync ends with."""
    after_sync: Callable[[FakeOmni], None] | None = None
    config: str = ""
    backup: dict[str, str] | None = None
    """With which the control planes began."""
    tokens: dict[str, str] | None = field(default_factory=lambda: {"token": "active"})
    """Which join tokens there are, with their states; None: this account may not read them."""

    def with_machines(self, *names: str, in_other_order: bool = False) -> FakeOmni:
        for name in names:
            uuid = swapped(UUIDS[name]) if in_other_order else UUIDS[name]
            self.known[uuid] = machine(name, uuid)
        return self

    def _asked(self) -> None:
        if self.away > 0:
            self.away -= 1
            message = "platform:omni.endpoint: Omni does not answer"
            raise AwayError(message)

    def machines(self, ids: Sequence[str]) -> list[Machine]:
        self._asked()
        return [self.known[one] for one in ids if one in self.known]

    def cluster(self, name: str) -> Cluster | None:
        assert name == "prod"
        self._asked()
        return self.status

    def members(self, cluster: str) -> list[Member]:
        assert cluster == "prod"
        self._asked()
        return self.listed

    def upgrades(self, cluster: str) -> dict[str, Upgrade]:
        assert cluster == "prod"
        self._asked()
        return self.under_way

    def begun_with(self, cluster: str) -> dict[str, str] | None:
        assert cluster == "prod"
        self._asked()
        return self.backup

    def join_token(self, token: str) -> str | None:
        self._asked()
        return None if self.tokens is None else self.tokens.get(token, "")

    def sync(self, template: str) -> str:
        self._asked()
        self.done.append(("sync", template))
        if self.refuses is not None:
            raise self.refuses
        if self.after_sync is not None:
            self.after_sync(self)
        return "* creating Clusters.omni.sidero.dev(prod)\n"

    def wait_ready(self, template: str, seconds: float) -> None:
        assert seconds > 0
        self.done.append(("status", template))

    def remove_lost(self, machine: str) -> None:
        self._asked()
        self.done.append(("remove lost", machine))

    def kubeconfig(self, cluster: str, user: str, days: int) -> str:
        self.done.append(("kubeconfig", f"{cluster} {user} {days}"))
        return self.config
