// Package types has the fields of an instance that Traefik reads.
package types

// InstanceStateName is an instance's state.
type InstanceStateName string

// InstanceStateNameRunning is the state of one that runs.
const InstanceStateNameRunning InstanceStateName = "running"

// Reservation has instances.
type Reservation struct{ Instances []Instance }

// Instance is a machine.
type Instance struct {
	InstanceId, PrivateIpAddress *string
	State                        *InstanceState
}

// InstanceState has the state's name.
type InstanceState struct{ Name InstanceStateName }
