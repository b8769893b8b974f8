"""Configuration: the types of resources that several parts look for in a stack.

Type tokens, as the engine has them.
"""

from __future__ import annotations

ANTI_AFFINITY_RULE = (
    "vsphere:index/computeClusterVmAntiAffinityRule:ComputeClusterVmAntiAffinityRule"
)
CONFIGURATION = "talos:machine/configurationApply:ConfigurationApply"
"""The configuration of one machine, as it is sent to it."""
CONTENT_LIBRARY = "vsphere:index/contentLibrary:ContentLibrary"
FOLDER = "vsphere:index/folder:Folder"
GATE = "platform:index:Gate"
"""A step that only waits (components/gate.py)."""
IMAGE = "vsphere:index/contentLibraryItem:ContentLibraryItem"
"""An item of the content library: what machines are made from."""
KUBECONFIG = "talos:cluster/kubeconfig:Kubeconfig"
MACHINE = "vsphere:index/virtualMachine:VirtualMachine"
MACHINE_SECRETS = "talos:machine/secrets:Secrets"
RELEASE = "kubernetes:helm.sh/v3:Release"
TAG = "vsphere:index/tag:Tag"
TAG_CATEGORY = "vsphere:index/tagCategory:TagCategory"

HEALTHY, JOINED, PLACE, UPGRADED = "-healthy", "-joined", "-place", "-talos"
"""What the names of a machine's gates end with: that it is healthy, that Omni has it, its place in
the order of deletions, and which Talos it runs."""
