// Package world is the datacenter in a box: namespaces without a way out, in which the production
// addresses and names belong to servers of the lab.
//
// Three processes make a world: the command that the operator started (outside), the first process
// of the new namespaces (init), and the servers (serve). When the first one dies, the kernel ends
// all others.
package world

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"platform.lab/lab/internal/stackfile"
)

// Layout is the folder of one world; everything a run leaves behind lies in it.
type Layout struct{ Root string }

func (l Layout) path(parts ...string) string {
	return filepath.Join(append([]string{l.Root}, parts...)...)
}

func (l Layout) Spec() string       { return l.path("world.json") }
func (l Layout) Alive() string      { return l.path("alive.json") }
func (l Layout) Control() string    { return l.path("control.sock") }
func (l Layout) Log() string        { return l.path("world.log") }
func (l Layout) Machines() string   { return l.path("machines") }
func (l Layout) Settings() string   { return l.path("settings") } // of the stacks, as the engine reads and writes them
func (l Layout) Private() string    { return l.path("private") }  // stands in for the tree's folder of that name
func (l Layout) Out() string        { return l.path("out") }      // stands in for the tree's .lab/out
func (l Layout) Backend() string    { return l.path("backend") }
func (l Layout) PulumiHome() string { return l.path("pulumi-home") }
func (l Layout) Tools() string      { return l.path("tools") }
func (l Layout) Authority() string  { return l.path("ca.crt") }
func (l Layout) Hosts() string      { return l.path("hosts") }
func (l Layout) Repository() string { return l.path("repository") }
func (l Layout) Charts() string     { return l.path("charts") }         // packages that appear in the repositories while it runs
func (l Layout) Storage() string    { return l.path("storage") }        // what backups have left, by bucket
func (l Layout) Alerts() string     { return l.path("alerts.jsonl") }   // what the platform's alerts have told, a line each
func (l Layout) ACME() string       { return l.path("acme") }           // logs of the ACME servers and of the public DNS
func (l Layout) Workloads() string  { return l.path("workloads.json") } // what they simulate

// settings is the stack's, made from the operator's file; madeSettings is the same before a command
// has written into it.
func (l Layout) settings(stack string) string {
	return filepath.Join(l.Settings(), "Pulumi."+stack+".yaml")
}
func (l Layout) madeSettings() string { return l.path("made-settings.yaml") }

// Folders of the tree that the lab knows.
const (
	labFolder     = ".lab"     // where the lab keeps what it builds, and its worlds
	outFolder     = ".lab/out" // reports, previews and plans
	privateFolder = "private"  // credentials and snapshots, where docs/procedures puts them
)

// BackendURL is the state's. Without metadata=skip each file has another beside it, which a run that is killed while
// it writes leaves empty; then no command can read the state (gocloud.dev/blob/fileblob).
func (l Layout) BackendURL() string { return "file://" + l.Backend() + "?metadata=skip" }

// Spec is all that a world is made from.
type Spec struct {
	Project   string             `json:"project"`   // folder of Pulumi.yaml
	StackFile string             `json:"stackFile"` // the operator's; only read
	Stack     string             `json:"stack"`     // its name
	Bin       string             `json:"bin"`       // folder of the built programs
	Settings  Settings           `json:"settings"`
	Secrets   *stackfile.Secrets `json:"secrets"`
	Own       stackfile.Own      `json:"own"` // settings that were changed in the world
	Out       string             `json:"out"` // folder for what the command leaves; "" is the world's own
	Options   Options            `json:"options"`
	Versions  map[string]string  `json:"versions"` // of the programs, for the summary
}

// Options are what a run may choose about its simulation.
type Options struct {
	BootDelay        time.Duration   `json:"bootDelay"`        // from power on to maintenance mode or services
	InstallDelay     time.Duration   `json:"installDelay"`     // from the first configuration to the reboot
	CloneDelay       time.Duration   `json:"cloneDelay"`       // of each clone in vCenter
	PublishedPlugins map[string]bool `json:"publishedPlugins"` // by package; if not, the lab stands in for it
	Hosts            int             `json:"hosts"`            // of the cluster; 0: as many as machines
	Faults           []string        `json:"faults"`           // see Faults
	Site             Site            `json:"site"`             // what the site has and no settings hold
	OmniHour         time.Duration   `json:"omniHour"`         // how long an hour of the simulated Omni's schedule of backups takes
	Programs         string          `json:"programs"`         // "real": pods whose images the lab knows run as processes
	ProgramsAsked    bool            `json:"programsAsked"`    // somebody wrote that, and wants nothing else
}

// Settings are the parts of `python -m ops show --json` that a world is built from.
type Settings struct {
	Cluster struct {
		Name string `json:"name"`
	} `json:"cluster"`
	Site struct {
		Vcenter      string `json:"vcenter"`
		User         string `json:"user"`
		Datacenter   string `json:"datacenter"`
		Cluster      string `json:"cluster"`
		ResourcePool string `json:"resourcePool"`
		Datastore    string `json:"datastore"`
		Network      string `json:"network"`
		ImageFactory string `json:"imageFactory"`

		StoragePolicy  string   `json:"storagePolicy"`
		Folder         string   `json:"folder"`
		ContentLibrary string   `json:"contentLibrary"`
		TagCategory    string   `json:"tagCategory"`
		Existing       []string `json:"existing"`
	} `json:"site"`
	Machines []Machine `json:"machines"`
	Network  struct {
		CIDR    netip.Prefix `json:"cidr"`
		Gateway netip.Addr   `json:"gateway"`
		// NameServers are asked by the machines.
		NameServers []netip.Addr `json:"nameServers"`
		Proxy       *struct {
			URL string `json:"url"`
		} `json:"proxy"`
		Firewall *struct {
			Operators []netip.Prefix `json:"operators"`
		} `json:"firewall"`
	} `json:"network"`
	Talos struct {
		Version   string `json:"version"`
		Schematic string `json:"schematic"`
	} `json:"talos"`
	Kubernetes struct {
		Version string `json:"version"`
	} `json:"kubernetes"`
	Services struct {
		ArgoCD *struct {
			Domain              string `json:"domain"`
			RepositoryURL       string `json:"repositoryUrl"`
			Revision            string `json:"revision"`
			RepositoryAuthority string `json:"repositoryAuthority"`
			RepositoryAccess    *struct {
				Kind string `json:"kind"`
			} `json:"repositoryAccess"`
			GitHost        string `json:"gitHost"`
			CommitStatuses *struct {
				AppID          int64  `json:"appId"`
				InstallationID int64  `json:"installationId"`
				URL            string `json:"url"`
			} `json:"commitStatuses"`
		} `json:"argocd"`
		Backup *struct {
			Endpoint  string `json:"endpoint"`
			Bucket    string `json:"bucket"`
			Region    string `json:"region"`
			PathStyle bool   `json:"pathStyle"`
		} `json:"backup"`
		CertManager *struct {
			Domain string `json:"domain"`
			ACME   *struct {
				Directory string `json:"directory"`
				CA        string `json:"ca"`
			} `json:"acme"`
			DNS *struct {
				Provider   string       `json:"provider"`
				NameServer string       `json:"nameServer"`
				KeyName    string       `json:"keyName"`
				Algorithm  string       `json:"algorithm"`
				Resolvers  []netip.Addr `json:"resolvers"`
			} `json:"dns"`
		} `json:"certManager"`
		Monitoring *struct {
			Receivers struct {
				Email *struct {
					Server string `json:"server"`
					User   string `json:"user"`
				} `json:"email"`
			} `json:"receivers"`
		} `json:"monitoring"`
		Traefik *struct {
			Address         netip.Addr `json:"address"`
			DashboardDomain string     `json:"dashboardDomain"`
		} `json:"traefik"`
	} `json:"services"`
	// Omni is nil for a cluster that the stack manages itself.
	Omni    *Omni `json:"omni"`
	Secrets []struct {
		Key string `json:"key"` // with its namespace
	} `json:"secrets"` // that the program requires
}

// Machine is one of the settings' machines.
type Machine struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Role    string `json:"role"`
	Host    string `json:"host"`

	Datastore string `json:"datastore"`
	Networks  []struct {
		Network string `json:"network"`
	} `json:"networks"`
}

// secretKeys are the keys that the program requires, without their namespace.
func (s *Settings) secretKeys() []string {
	var keys []string
	for _, secret := range s.Secrets {
		keys = append(keys, strings.TrimPrefix(secret.Key, Namespace+":"))
	}
	return keys
}

func (l Layout) readSpec() (*Spec, error) {
	text, err := os.ReadFile(l.Spec())
	if err != nil {
		return nil, err
	}
	s := &Spec{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("%s: %w", l.Spec(), err)
	}
	return s, nil
}

// specNow is the spec with what commands have changed since the world was made; as it was made, when it cannot be read.
func (l Layout) specNow(made *Spec) *Spec {
	spec, err := l.readSpec()
	if err != nil {
		return made
	}
	return spec
}

func (l Layout) writeSpec(s *Spec) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return stackfile.WriteAtomically(l.Spec(), text)
}

// updateSpec changes the spec while no other command does. After a failure it is given as it was.
func (l Layout) updateSpec(change func(*Spec) error) (*Spec, error) {
	lock, err := os.OpenFile(l.path("world.json.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	before, err := l.readSpec()
	if err != nil {
		return nil, err
	}
	s, err := l.readSpec()
	if err != nil {
		return nil, err
	}
	if err := change(s); err != nil {
		return before, err
	}
	return s, l.writeSpec(s)
}

// alive says where a running world can be entered; PID is that of its init, seen from outside.
type alive struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

func (l Layout) readAlive() (a alive) {
	text, err := os.ReadFile(l.Alive())
	if err != nil || json.Unmarshal(text, &a) != nil {
		return alive{}
	}
	return a
}

// Running tells the process id of a world's init, or 0 when the world is not there.
func (l Layout) Running() int {
	a := l.readAlive()
	if a.PID == 0 {
		return 0
	}
	// A process id may have been given again: only an init of ours has this namespace file.
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", a.PID))
	if err != nil || !containsArgument(command, l.Root) {
		return 0
	}
	return a.PID
}

func containsArgument(cmdline []byte, argument string) bool {
	start := 0
	for i, b := range cmdline {
		if b == 0 {
			if string(cmdline[start:i]) == argument {
				return true
			}
			start = i + 1
		}
	}
	return false
}
