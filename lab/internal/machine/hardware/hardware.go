// Package hardware describes a virtual machine as its guest sees it.
package hardware

// VM is a virtual machine as its machine sees it.
type VM struct {
	// ID is the VM's UUID: the identity of its disk.
	ID        string
	Name      string
	CPUs      int
	MemoryMiB int
	DisksGiB  []int
	// Networks are the port groups of the network cards, the first one's among them.
	Networks []string
	// GuestInfo is the VM's extraConfig; only keys with the prefix "guestinfo." matter.
	GuestInfo map[string]string
	Image     Image
}

// Image is what the VM's disk was made from, or what an upgrade installs on it.
type Image struct {
	// TalosVersion is the version as a tag: "v1.13.9".
	TalosVersion string `json:"talosVersion"`
	Schematic    string `json:"schematic"`
}
