"""`python -m ops rehearse drill`: the fire drill, in the world that it runs in.

Build, destroy all but what is protected, build again: the cluster has the same authority, a
kubeconfig from before the fire still works, and every layer is ready again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from ops.rehearsal import platform, report
from ops.rehearsal.life import OUT, chapter
from ops.rehearsal.tools import Engine, ToolError, run, status_of, without_omni, write_credentials

RESULT = OUT / "drill.json"


def drill() -> None:
    """Walk through it; the first thing that is not as before ends it."""
    without_omni(
        "`pulumi destroy` leaves the cluster and its keys in Omni, and a rebuild has others, so "
        "this drill would not end as it must"
    )
    OUT.mkdir(parents=True, exist_ok=True)
    engine, times = Engine(), dict[str, float]()
    with chapter("pulumi up", times):
        engine.up()
    write_credentials(engine)
    authority = _authority()
    with chapter("the fire: pulumi destroy --exclude-protected", times):
        engine.destroy()
    with chapter("the rebuild: pulumi up", times):
        engine.up()
    with chapter("after the rebuild", times):
        # With the kubeconfig from before the fire.
        version = json.loads(run("kubectl", "get", "--raw", "/version"))["gitVersion"]
        if _authority() != authority:
            message = "the rebuilt cluster has another authority: old backups are worthless"
            raise ToolError(message)
        found = platform.layers()
        print(platform.table(found))
        missing = [one.name for one in found if not one.complete]
        if missing:
            message = f"not ready after the rebuild: {', '.join(missing)}"
            raise ToolError(message)
        engine.preview_expecting_no_changes()
    result: dict[str, Any] = {
        "seconds": {title: round(seconds, 1) for title, seconds in times.items()},
        "kubernetes": version,
        "layers": {one.name: f"{one.ready}/{one.wanted}" for one in found},
        "sameAuthority": True,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print("\n=== summary")
    for title, seconds in times.items():
        print(f"{title:50} {seconds:7.1f} s")
    print("the same authority, and a kubeconfig from before the fire still works")
    print(f"\nkept as {RESULT.name} in {OUT.name}/\n\n{report.real_and_simulated()}")


def _authority() -> str:
    """Give the cluster's authority, as every pod trusts it."""
    text = run(
        "kubectl", "get", "configmap", "kube-root-ca.crt", "--namespace", "default",
        "--output", r"jsonpath={.data.ca\.crt}",
    )  # fmt: skip
    if not text:
        message = "the cluster has not published its authority"
        raise ToolError(message)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Drill; gives the exit status."""
    parser().parse_args(arguments)
    return status_of("drill", drill)


def parser() -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    return argparse.ArgumentParser(prog="python -m ops rehearse drill", description=__doc__)
