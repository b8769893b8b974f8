// Package arguments makes the command lines of the programs that Talos starts, and merges what the machine
// configuration adds to them.
package arguments

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Arguments are a program's flags; a flag may be given more than once.
type Arguments map[string][]string

// Policy says what an extraArgs flag of the machine configuration does to Talos' own.
type Policy int

const (
	overwrite Policy = iota
	Additive
	Denied
)

// Merge puts the configuration's extraArgs over the flags (Talos 1.13.9, pkg/argsbuilder).
func (a Arguments) Merge(extra map[string][]string, policies map[string]Policy) error {
	for _, key := range slices.Sorted(maps.Keys(extra)) {
		switch policies[key] {
		case Denied:
			return fmt.Errorf("extra arg %q is not allowed", key)
		case Additive:
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

// Lines are the flags as a command line, in the order of their names.
func (a Arguments) Lines() []string {
	var list []string

	for _, key := range slices.Sorted(maps.Keys(a)) {
		for _, value := range a[key] {
			list = append(list, "--"+key+"="+value)
		}
	}

	return list
}

// Of makes arguments of single values.
func Of(values map[string]string) Arguments {
	a := Arguments{}
	for key, value := range values {
		a[key] = []string{value}
	}

	return a
}

// Policies gives one policy to several flags.
func Policies(policy Policy, keys ...string) map[string]Policy {
	m := map[string]Policy{}
	for _, key := range keys {
		m[key] = policy
	}

	return m
}
