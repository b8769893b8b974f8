// Package meta is what Talos keeps in its META partition: short values by number, which survive a reset of the other partitions.
package meta

import (
	"maps"
	"sync"

	"platform.lab/lab/internal/machine/disk"
)

// A value takes entry bytes more than its text, of the partition's size in bytes (Talos 1.13.9, internal/pkg/meta/internal/adv/talos).
const (
	size  = 256<<10 - 40
	entry = 8
)

// Partition is a machine's META while its system runs.
type Partition struct {
	disk    disk.Disk
	changed func()

	mu     sync.Mutex
	values map[uint8]string
}

// Load reads a disk's META; changed is told when a value is another one.
func Load(on disk.Disk, changed func()) (*Partition, error) {
	values, err := on.Meta()

	return &Partition{disk: on, changed: changed, values: values}, err
}

// Get is the value of a key, "" when it has none.
func (p *Partition) Get(key uint8) string {
	p.mu.Lock()
	defer p.mu.Unlock()

	return p.values[key]
}

// All are the values by their keys.
func (p *Partition) All() map[uint8]string {
	p.mu.Lock()
	defer p.mu.Unlock()

	return maps.Clone(p.values)
}

// Set writes a value; false when it does not fit.
func (p *Partition) Set(key uint8, value string) (bool, error) {
	return p.change(func(values map[uint8]string) bool {
		values[key] = value

		taken := 0
		for _, one := range values {
			taken += entry + len(one)
		}

		return taken <= size
	})
}

// Delete removes a key; false when it is not there.
func (p *Partition) Delete(key uint8) (bool, error) {
	return p.change(func(values map[uint8]string) bool {
		_, found := values[key]
		delete(values, key)

		return found
	})
}

func (p *Partition) change(change func(map[uint8]string) bool) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()

	next := maps.Clone(p.values)
	if !change(next) {
		return false, nil
	}

	if err := p.disk.SaveMeta(next); err != nil {
		return false, err
	}

	p.values = next
	p.changed()

	return true, nil
}
