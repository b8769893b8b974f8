"""What several parts of the project look for in a stack: type tokens, as the engine has them."""

from __future__ import annotations

ANTI_AFFINITY_RULE = (
    "vsphere:index/computeClusterVmAntiAffinityRule:ComputeClusterVmAntiAffinityRule"
)
CONFIGURATION = "talos:machine/configurationApply:ConfigurationApply"
"""The configuration of one machine, as it is sent to it."""
GATE = "platform:index:Gate"
"""A step that only waits (components/gate.py)."""
KUBECONFIG = "talos:cluster/kubeconfig:Kubeconfig"
MACHINE = "vsphere:index/virtualMachine:VirtualMachine"
MACHINE_SECRETS = "talos:machine/secrets:Secrets"
RELEASE = "kubernetes:helm.sh/v3:Release"
HEALTHY, UPGRADED = "-healthy", "-talos"
"""What the names of a machine's gates end with: that it is healthy, and which Talos it runs."""
