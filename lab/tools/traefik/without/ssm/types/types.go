// Package types has the fields that Traefik reads.
package types

// InstanceInformation is a machine.
type InstanceInformation struct{ InstanceId, IPAddress *string }

// InstanceInformationStringFilter is a filter.
type InstanceInformationStringFilter struct {
	Key    *string
	Values []string
}
