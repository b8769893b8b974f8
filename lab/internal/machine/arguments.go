package machine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// arguments are a program's flags; a flag may be given more than once.
type arguments map[string][]string

// mergePolicy says what an extraArgs flag of the machine configuration does to Talos' own.
type mergePolicy int

const (
	overwrite mergePolicy = iota
	additive
	denied
)

// merge puts the configuration's extraArgs over the flags (Talos 1.13.9, pkg/argsbuilder).
func (a arguments) merge(extra map[string][]string, policies map[string]mergePolicy) error {
	for _, key := range slices.Sorted(maps.Keys(extra)) {
		switch policies[key] {
		case denied:
			return fmt.Errorf("extra arg %q is not allowed", key)
		case additive:
			a[key] = []string{strings.Join(union(a[key], extra[key]), ",")}
		case overwrite:
			a[key] = slices.Clone(extra[key])
		}
	}

	return nil
}

// union are the comma-separated values of both lists, each once, in their order.
func union(lists ...[]string) []string {
	var values []string

	for _, value := range strings.Split(strings.Join(slices.Concat(lists...), ","), ",") {
		if value = strings.TrimSpace(value); value != "" && !slices.Contains(values, value) {
			values = append(values, value)
		}
	}

	return values
}

// list are the flags as a command line, in the order of their names.
func (a arguments) list() []string {
	var list []string

	for _, key := range slices.Sorted(maps.Keys(a)) {
		for _, value := range a[key] {
			list = append(list, "--"+key+"="+value)
		}
	}

	return list
}

// flags makes arguments of single values.
func flags(values map[string]string) arguments {
	a := arguments{}
	for key, value := range values {
		a[key] = []string{value}
	}

	return a
}

// policies gives one policy to several flags.
func policies(policy mergePolicy, keys ...string) map[string]mergePolicy {
	m := map[string]mergePolicy{}
	for _, key := range keys {
		m[key] = policy
	}

	return m
}
