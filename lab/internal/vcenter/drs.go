// DRS: where machines run, and the rules that keep them apart. vcsim keeps the rules and does not follow them.

package vcenter

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// drsDelay is the time after a change of the rules until DRS moves machines; the real one looks every minute.
const drsDelay = 2 * time.Second

// apart is a rule that is on, and the VMs that it keeps on different hosts.
type apart struct {
	types.ClusterRuleInfo
	vms []types.ManagedObjectReference
}

// rules are those that keep VMs apart.
func (v *VCenter) rules(ctx *simulator.Context) []apart {
	var found []apart
	for _, entity := range v.registry().All("ClusterComputeResource") {
		cluster, ok := entity.(*simulator.ClusterComputeResource)
		if !ok {
			continue
		}
		ctx.WithLock(cluster, func() {
			config, ok := cluster.ConfigurationEx.(*types.ClusterConfigInfoEx)
			if !ok {
				return
			}
			for _, rule := range config.Rule {
				if spec, ok := rule.(*types.ClusterAntiAffinityRuleSpec); ok && isTrue(spec.Enabled) {
					found = append(found, apart{spec.ClusterRuleInfo, slices.Clone(spec.Vm)})
				}
			}
		})
	}
	return found
}

func isTrue(b *bool) bool { return b != nil && *b }

// hosts are all of them, by name.
func (v *VCenter) hosts() []*simulator.HostSystem {
	var hosts []*simulator.HostSystem
	for _, entity := range v.registry().All("HostSystem") {
		if host, ok := entity.(*simulator.HostSystem); ok {
			hosts = append(hosts, host)
		}
	}
	slices.SortFunc(hosts, func(a, b *simulator.HostSystem) int { return strings.Compare(a.Name, b.Name) })
	return hosts
}

// violated is the rule that a VM would break on a host with the VMs that run there; nil when it breaks none.
func (v *VCenter) violated(rules []apart, vm, host types.ManagedObjectReference) *apart {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, rule := range rules {
		if !slices.Contains(rule.vms, vm) {
			continue
		}
		for _, other := range rule.vms {
			if known, exists := v.vms[other]; exists && other != vm && known.PoweredOn && known.HostID == host {
				return &rule
			}
		}
	}
	return nil
}

// placePowerOn is DRS's placement of a VM that is switched on: the host where it is, if no rule is against that, else
// the first that obeys all rules. A rule that is a must and cannot be obeyed refuses; another one is given up.
func (v *VCenter) placePowerOn(ctx *simulator.Context, reference types.ManagedObjectReference) types.BaseMethodFault {
	vm, ok := v.registry().Get(reference).(*simulator.VirtualMachine)
	if !ok || vm.Runtime.Host == nil {
		return nil
	}
	rules := v.rules(ctx)
	if v.violated(rules, reference, *vm.Runtime.Host) == nil {
		return nil
	}
	refused := &types.NoCompatibleHost{}
	must := false
	for _, host := range v.hosts() {
		rule := v.violated(rules, reference, host.Self)
		if rule == nil {
			v.move(ctx, vm, host)
			return nil
		}
		must = must || isTrue(rule.Mandatory)
		refused.Host = append(refused.Host, host.Self)
		refused.Error = append(refused.Error, types.LocalizedMethodFault{
			Fault:            &types.RuleViolation{Host: &host.Self, Rule: &rule.ClusterRuleInfo},
			LocalizedMessage: "Virtual machine '" + vm.Name + "' on host '" + host.Name + "' would violate the rule '" + rule.Name + "'.",
		})
	}
	if must {
		return refused
	}
	return nil
}

// move puts a VM on another host; running, it is vMotion, which its guest does not notice.
func (v *VCenter) move(ctx *simulator.Context, vm *simulator.VirtualMachine, to *simulator.HostSystem) {
	from, ok := v.registry().Get(*vm.Runtime.Host).(*simulator.HostSystem)
	if !ok || from.Self == to.Self {
		return
	}
	ctx.WithLock(from, func() { v.registry().RemoveReference(ctx, from, &from.Vm, vm.Self) })
	ctx.WithLock(to, func() { v.registry().AppendReference(ctx, to, &to.Vm, vm.Self) })
	ctx.WithLock(vm, func() {
		host := to.Self
		ctx.Update(vm, []types.PropertyChange{
			{Name: "runtime.host", Val: &host}, {Name: "summary.runtime.host", Val: &host},
		})
	})
	v.options.Log.Info("DRS moved a VM", "vm", vm.Name, "from", from.Name, "to", to.Name)
}

// balance moves running VMs that break a rule to hosts where they break none, as DRS does after a change of the rules.
func (v *VCenter) balance() {
	time.Sleep(drsDelay)
	ctx := &simulator.Context{Context: context.Background(), Map: v.registry()}
	rules := v.rules(ctx)
	for _, rule := range rules {
		for _, reference := range rule.vms {
			vm, ok := v.registry().Get(reference).(*simulator.VirtualMachine)
			if !ok || vm.Runtime.Host == nil || v.violated(rules, reference, *vm.Runtime.Host) == nil {
				continue
			}
			for _, host := range v.hosts() {
				if v.violated(rules, reference, host.Self) == nil {
					v.move(ctx, vm, host)
					break
				}
			}
		}
	}
}
