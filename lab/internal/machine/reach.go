package machine

// canReach says whether another machine's API can be reached from this one.
func (b *boot) canReach(other *boot) bool {
	return b == other || other.network.Address().IsValid() && b.network.Answers(other.network.Address(), apiPort)
}

// reachable says whether the machine's cable is plugged in and it has an address.
func (b *boot) reachable() bool {
	return b.network.Address().IsValid()
}
