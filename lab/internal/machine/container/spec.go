// Package container runs one container of a pod as a process: the lab's own program is started again in new namespaces,
// makes the container's file tree there, and becomes the container's program.
//
// Like a container it has a process, mount, host name and message namespace of its own, a root folder that is new with every
// start, and the network namespace of its pod. Its user is the container's, in a user namespace that has no other one.
// Unlike a container's image the root folder has the computer's own programs and libraries (/usr, /bin, /lib), read-only:
// some programs call git or gpg.
package container

import (
	"golang.org/x/sys/unix"
)

// Command is the hidden command by which the lab's program calls itself inside of a container.
const Command = "inside-pod"

// Spec is what a container is made from.
type Spec struct {
	// Root is an empty folder that the container's tree is mounted over, in its own mount namespace only.
	Root string `json:"root"`
	// Files are placed at absolute paths of the tree: the programs of its image, read-only.
	Files map[string]string `json:"files"`
	// Mounts are the pod's volumes and what the kubelet gives every container, such as /etc/hosts.
	Mounts []Mount `json:"mounts"`
	// Argv is the program with its arguments; looked up in PATH of Environment when it has no slash.
	Argv        []string `json:"argv"`
	Environment []string `json:"environment"`
	Folder      string   `json:"folder"`
	Hostname    string   `json:"hostname"`

	User, Group int64
	// ReadOnly is securityContext.readOnlyRootFilesystem.
	ReadOnly bool `json:"readOnly"`
	// NoNewPrivileges is allowPrivilegeEscalation: false.
	NoNewPrivileges bool `json:"noNewPrivileges"`
	// Privileged keeps all rights that the lab itself has.
	Privileged bool `json:"privileged"`
	// Add and Drop are capabilities without their CAP_.
	Add  []string `json:"add"`
	Drop []string `json:"drop"`
}

// Mount binds a file or folder into the tree.
type Mount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly"`
}

// nested says whether the container's user needs a user namespace of its own: the lab's has root only.
func (s Spec) nested() bool { return s.User != 0 || s.Group != 0 }

// capabilities are by their names without CAP_ (capabilities(7)).
var capabilities = map[string]uintptr{
	"AUDIT_CONTROL": unix.CAP_AUDIT_CONTROL, "AUDIT_READ": unix.CAP_AUDIT_READ, "AUDIT_WRITE": unix.CAP_AUDIT_WRITE,
	"BLOCK_SUSPEND": unix.CAP_BLOCK_SUSPEND, "BPF": unix.CAP_BPF, "CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
	"CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	"FOWNER": unix.CAP_FOWNER, "FSETID": unix.CAP_FSETID, "IPC_LOCK": unix.CAP_IPC_LOCK, "IPC_OWNER": unix.CAP_IPC_OWNER,
	"KILL": unix.CAP_KILL, "LEASE": unix.CAP_LEASE, "LINUX_IMMUTABLE": unix.CAP_LINUX_IMMUTABLE, "MAC_ADMIN": unix.CAP_MAC_ADMIN,
	"MAC_OVERRIDE": unix.CAP_MAC_OVERRIDE, "MKNOD": unix.CAP_MKNOD, "NET_ADMIN": unix.CAP_NET_ADMIN,
	"NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "NET_BROADCAST": unix.CAP_NET_BROADCAST, "NET_RAW": unix.CAP_NET_RAW,
	"PERFMON": unix.CAP_PERFMON, "SETFCAP": unix.CAP_SETFCAP, "SETGID": unix.CAP_SETGID, "SETPCAP": unix.CAP_SETPCAP,
	"SETUID": unix.CAP_SETUID, "SYSLOG": unix.CAP_SYSLOG, "SYS_ADMIN": unix.CAP_SYS_ADMIN, "SYS_BOOT": unix.CAP_SYS_BOOT,
	"SYS_CHROOT": unix.CAP_SYS_CHROOT, "SYS_MODULE": unix.CAP_SYS_MODULE, "SYS_NICE": unix.CAP_SYS_NICE,
	"SYS_PACCT": unix.CAP_SYS_PACCT, "SYS_PTRACE": unix.CAP_SYS_PTRACE, "SYS_RAWIO": unix.CAP_SYS_RAWIO,
	"SYS_RESOURCE": unix.CAP_SYS_RESOURCE, "SYS_TIME": unix.CAP_SYS_TIME, "SYS_TTY_CONFIG": unix.CAP_SYS_TTY_CONFIG,
	"WAKE_ALARM": unix.CAP_WAKE_ALARM,
}

// usual are the capabilities that containerd gives a container (oci.defaultUnixCaps).
var usual = []string{
	"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP", "NET_BIND_SERVICE",
	"SYS_CHROOT", "KILL", "AUDIT_WRITE",
}

// kept are the capabilities that a container's root may ever have.
func (s Spec) kept() map[uintptr]bool {
	kept := map[uintptr]bool{}

	set := func(names []string, value bool) {
		for _, name := range names {
			if name == "ALL" {
				for _, number := range capabilities {
					kept[number] = value
				}
			} else if number, known := capabilities[name]; known {
				kept[number] = value
			}
		}
	}

	// As containerd: "ALL" first, then single ones.
	set(usual, true)
	set(only(s.Add, "ALL"), true)
	set(only(s.Drop, "ALL"), false)
	set(s.Add, true)

	for _, name := range s.Drop {
		if name != "ALL" {
			set([]string{name}, false)
		}
	}

	return kept
}

func only(names []string, wanted string) []string {
	for _, name := range names {
		if name == wanted {
			return []string{wanted}
		}
	}

	return nil
}
