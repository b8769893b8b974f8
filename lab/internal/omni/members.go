package omni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"gopkg.in/yaml.v3"
)

const (
	// upgradeMark says on a ClusterMachine which installer it was sent last, and when.
	upgradeMark = "simulated-omni/upgrade"
	// settleTime is how long a member shows itself as ready that has just been changed.
	settleTime = 10 * time.Second
	// bootTime is how long a machine may show itself in maintenance that was given a configuration.
	bootTime = 30 * time.Second
	// upgradeTime is when an upgrade is sent again that did not come about.
	upgradeTime = time.Minute
)

// configureMembers gives each member what it is to have: first configurations at once; then changes one machine of a set
// after the other, each when the others are well, and Talos on the control planes first.
func (o *Omni) configureMembers(ctx context.Context, c *clusterView) error {
	var faults []error
	wanted := map[*member][]byte{}
	for _, m := range c.members {
		if !m.wanted || m.machine == nil || m.status == nil {
			continue
		}
		faults = append(faults, o.chooseSchematic(ctx, c, m))
		configuration, err := o.generate(ctx, c, m)
		if err != nil {
			faults = append(faults, o.generationFault(ctx, m, err))
			continue
		}
		wanted[m] = configuration
		m.outdated = o.isOutdated(c, m, configuration)
		if !m.outdated && m.config.TypedSpec().Value.LastConfigError != "" {
			faults = append(faults, change(ctx, o.state, m.config, func(res *omni.ClusterMachineConfigStatus) {
				res.TypedSpec().Value.LastConfigError = ""
			}))
		}
	}
	if err := o.moveKubernetes(ctx, c); err != nil {
		faults = append(faults, err)
	}
	for _, m := range c.members {
		configuration, chosen := wanted[m]
		if !chosen || !m.answers() {
			continue
		}
		switch {
		case !m.configured() || m.status.TypedSpec().Value.Maintenance:
			faults = append(faults, o.configureFirst(ctx, c, m, configuration))
		case m.outdated && !m.locked && o.mayChange(c, m):
			faults = append(faults, o.replace(ctx, c, m, configuration))
		}
	}
	return errors.Join(faults...)
}

func (o *Omni) generationFault(ctx context.Context, m *member, fault error) error {
	return errors.Join(fault, put(ctx, o.state, omni.NewClusterMachineConfigStatus(m.id), func(res *omni.ClusterMachineConfigStatus) error {
		res.TypedSpec().Value.LastConfigError = fault.Error()
		return nil
	}))
}

func (o *Omni) isOutdated(c *clusterView, m *member, configuration []byte) bool {
	return !m.configured() || m.config.TypedSpec().Value.ClusterMachineConfigSha256 != hashOf(configuration) || m.hasOtherTalos(c)
}

// hasOtherTalos tells whether the machine runs another Talos, or another schematic, than it is to.
func (m *member) hasOtherTalos(c *clusterView) bool {
	spec := m.status.TypedSpec().Value
	return spec.TalosVersion != "v"+c.talosVersion() || spec.GetSchematic().GetFullId() != m.schematicID
}

// mayChange tells whether a member's turn has come.
func (o *Omni) mayChange(c *clusterView, m *member) bool {
	if !m.running() {
		return false
	}
	for _, other := range c.members {
		if other == m || !other.wanted {
			continue
		}
		if !m.controlPlane && other.controlPlane && other.outdated && m.hasOtherTalos(c) {
			return false
		}
		if other.set == m.set && other.configured() && (!other.ready() || !o.settled(other)) {
			return false
		}
	}
	return true
}

// settled tells whether it is long enough ago that a member was changed, so that what it shows is of after that.
func (o *Omni) settled(m *member) bool {
	_, sent := m.upgradeSent()
	return time.Since(m.config.Metadata().Updated()) > o.settle && time.Since(sent) > o.settle
}

// configureFirst gives a machine in maintenance its configuration. One that has another Talos installed is upgraded
// before (omni pull request 952).
func (o *Omni) configureFirst(ctx context.Context, c *clusterView, m *member, configuration []byte) error {
	if m.configured() && time.Since(m.config.Metadata().Updated()) < bootTime {
		return nil // it boots with what it was given
	}
	if m.hasOtherTalos(c) && omni.GetMachineStatusSystemDisk(m.status) != "" {
		return o.upgrade(ctx, c, m)
	}
	_, maintenance, err := o.reach(ctx, m.id, m.address())
	if err != nil || !maintenance {
		return err
	}
	return o.apply(ctx, c, m, configuration)
}

// replace gives a member its new Talos, or its new configuration.
func (o *Omni) replace(ctx context.Context, c *clusterView, m *member, configuration []byte) error {
	if m.hasOtherTalos(c) {
		return o.upgrade(ctx, c, m)
	}
	if err := o.apply(ctx, c, m, configuration); err != nil {
		return err
	}
	return o.touch(ctx, m)
}

// touch makes the rest of the round see a member that was just changed.
func (o *Omni) touch(ctx context.Context, m *member) error {
	fresh, err := known[*omni.ClusterMachineConfigStatus](ctx, o.state, omni.NewClusterMachineConfigStatus(m.id))
	if err == nil && fresh != nil {
		m.config = fresh
	}
	return err
}

// upgradeSent is which installer the member was sent last, and when.
func (m *member) upgradeSent() (image string, at time.Time) {
	text, _ := m.clusterMachine.Metadata().Annotations().Get(upgradeMark)
	when, image, _ := strings.Cut(text, " ")
	at, err := time.Parse(time.RFC3339Nano, when)
	if err != nil {
		return "", time.Time{}
	}
	return image, at
}

func (o *Omni) upgrade(ctx context.Context, c *clusterView, m *member) error {
	image := o.installer(m, c.talosVersion(), m.schematicID)
	if sent, at := m.upgradeSent(); sent == image && time.Since(at) < upgradeTime {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, upgradeTime)
	defer cancel()
	talos, _, err := o.reach(ctx, m.id, m.address())
	if err != nil {
		return err
	}
	mark := time.Now().Format(time.RFC3339Nano) + " " + image
	err = change(ctx, o.state, m.clusterMachine, func(res *omni.ClusterMachine) {
		res.Metadata().Annotations().Set(upgradeMark, mark)
	})
	if err != nil {
		return err
	}
	m.clusterMachine.Metadata().Annotations().Set(upgradeMark, mark) // the rest of the round sees it
	o.log.Info("Talos is replaced", "cluster", c.name(), "machine", m.id, "image", image)
	_, err = talos.UpgradeWithOptions(ctx, client.WithUpgradeImage(image)) //nolint:staticcheck // what Omni 1.9 calls
	return err
}

// moveKubernetes gives the next member the cluster's Kubernetes version: control planes first, each when all are well.
func (o *Omni) moveKubernetes(ctx context.Context, c *clusterView) error {
	wanted := c.cluster.TypedSpec().Value.KubernetesVersion
	var next *member
	for _, m := range c.members {
		if !m.wanted {
			continue
		}
		if m.configured() && (!m.ready() || !o.settled(m) || m.outdated) {
			return nil
		}
		if next == nil && m.clusterMachine.TypedSpec().Value.KubernetesVersion != wanted && !m.locked {
			next = m
		}
	}
	if next == nil {
		return nil
	}
	o.log.Info("Kubernetes moves", "cluster", c.name(), "machine", next.id, "version", wanted)
	return change(ctx, o.state, next.clusterMachine, func(res *omni.ClusterMachine) {
		res.TypedSpec().Value.KubernetesVersion = wanted
	})
}

// chooseSchematic: where the template says which extensions a machine has, and it has others, the image factory makes a
// schematic with them.
func (o *Omni) chooseSchematic(ctx context.Context, c *clusterView, m *member) error {
	wanted, said, err := o.extensionsOf(ctx, c, m)
	if err != nil || !said {
		return err
	}
	has := m.status.TypedSpec().Value.GetSchematic()
	if slices.Equal(wanted, slices.Sorted(slices.Values(has.GetExtensions()))) {
		return nil
	}
	if o.options.Schematic == nil {
		return fmt.Errorf("machine %s has the extensions %v, and is to have %v: this simulated Omni has no image factory", m.id, has.GetExtensions(), wanted)
	}
	raw, err := withExtensions([]byte(has.GetRaw()), wanted)
	if err != nil {
		return err
	}
	m.schematicID, err = o.options.Schematic(ctx, raw)
	return err
}

// extensionsOf are the extensions that the template wants on a machine: its own, else its set's, else the cluster's.
func (o *Omni) extensionsOf(ctx context.Context, c *clusterView, m *member) (wanted []string, said bool, err error) {
	all, err := safe.StateListAll[*omni.ExtensionsConfiguration](ctx, o.state, state.WithLabelQuery(resource.LabelEqual(omni.LabelCluster, c.name())))
	if err != nil {
		return nil, false, err
	}
	level := 0
	for one := range all.All() {
		labels := one.Metadata().Labels()
		set, inSet := labels.Get(omni.LabelMachineSet)
		machine, ofMachine := labels.Get(omni.LabelClusterMachine)
		rank := 0
		switch {
		case ofMachine && machine == m.id:
			rank = 3
		case inSet && !ofMachine && set == m.set:
			rank = 2
		case !inSet && !ofMachine:
			rank = 1
		}
		if rank > level {
			level, wanted = rank, slices.Sorted(slices.Values(one.TypedSpec().Value.Extensions))
		}
	}
	return wanted, level > 0, nil
}

// withExtensions is a schematic with other extensions, and all else as it was.
func withExtensions(raw []byte, extensions []string) ([]byte, error) {
	schematic := map[string]any{}
	if err := yaml.Unmarshal(raw, &schematic); err != nil {
		return nil, fmt.Errorf("the machine's schematic cannot be read: %w", err)
	}
	customization, is := schematic["customization"].(map[string]any)
	if !is {
		customization = map[string]any{}
	}
	customization["systemExtensions"] = map[string]any{"officialExtensions": extensions}
	schematic["customization"] = customization
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(4)
	err := errors.Join(encoder.Encode(schematic), encoder.Close())
	return out.Bytes(), err
}
