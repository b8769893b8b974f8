package world

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"platform.lab/lab/internal/programs"
)

// What a world takes, measured with all layers on three control planes (docs/figures.md), and a bit.
const (
	mib              = 1 << 20
	memoryOfServers  = 1300 * mib
	memoryOfPlane    = 800 * mib // etcd, API server, controller manager, scheduler
	memoryOfWorker   = 20 * mib
	diskOfServers    = 400 * mib
	diskOfPlane      = 250 * mib // etcd allocates its log ahead
	almostNone       = 100 * mib // below it programs fail, each in its own words
	roomInterval     = 2 * time.Second
	controlPlaneRole = "controlplane"
)

// room is what a world needs, or what there is for it, in bytes.
type room struct{ memory, disk uint64 }

func needed(s Settings) room {
	r := room{memory: memoryOfServers, disk: diskOfServers}
	for _, m := range s.Machines {
		if m.Role == controlPlaneRole {
			r.memory += memoryOfPlane
			r.disk += diskOfPlane
		} else {
			r.memory += memoryOfWorker
		}
	}
	return r
}

// available is what the machine, and the control group that this process is in, have left.
func available(folder string) (room, error) {
	disk, err := programs.FreeDisk(folder)
	if err != nil {
		return room{}, err
	}
	memory, err := freeMemory()
	return room{memory: memory, disk: disk}, err
}

// checkRoom refuses a world that would fill the disk, or take more than twice the memory there is, and
// warns of one that may.
func checkRoom(l Layout, s Settings, warn func(string, ...any)) error {
	has, err := available(l.Root)
	if err != nil {
		return err
	}
	return judgeRoom(l, len(s.Machines), needed(s), has, warn)
}

func judgeRoom(l Layout, machines int, wants, has room, warn func(string, ...any)) error {
	var problems []error
	if has.disk < wants.disk {
		problems = append(problems, fmt.Errorf("disk of %s: a world of %d machines needs about %s, and %s are free; "+
			"free some, or name a folder on another disk with --state", l.Root, machines, size(wants.disk), size(has.disk)))
	}
	memory := fmt.Errorf("memory: a world of %d machines needs about %s, and %s are available; "+
		"end other programs or worlds, or rehearse fewer machines", machines, size(wants.memory), size(has.memory))
	switch {
	case has.memory < wants.memory/2:
		problems = append(problems, memory)
	case has.memory < wants.memory:
		warn("%v", memory)
	}
	return errors.Join(problems...)
}

// watchRoom tells once when disk or memory is almost used up, and of each time that the kernel ended
// programs for lack of memory.
func watchRoom(l Layout, say func(string, ...any)) {
	killed, told := killedForMemory(), map[string]bool{}
	for range time.Tick(roomInterval) {
		if now := killedForMemory(); now > killed {
			say("MEMORY: the kernel has ended %d programs of this machine for lack of it", now-killed)
			killed = now
		}
		for kind, text := range shortages(l) {
			if !told[kind] {
				told[kind] = true
				say("%s: %s", strings.ToUpper(kind), text)
			}
		}
	}
}

// shortages says of disk and memory what is almost used up, with the numbers.
func shortages(l Layout) map[string]string {
	has, err := available(l.Root)
	if err != nil {
		return nil
	}
	spec, err := l.readSpec()
	if err != nil {
		return nil
	}
	return shortagesOf(l, needed(spec.Settings), has)
}

func shortagesOf(l Layout, wants, has room) map[string]string {
	found := map[string]string{}
	if has.disk < almostNone {
		found["disk"] = fmt.Sprintf("%s are left on that of %s, of the %s or so that this world needs: what writes there fails",
			size(has.disk), l.Root, size(wants.disk))
	}
	if has.memory < almostNone {
		found["memory"] = fmt.Sprintf("%s are left, of the %s or so that this world needs: programs get slow, or the kernel ends them",
			size(has.memory), size(wants.memory))
	}
	return found
}

// shortage is the same in one text, for an error; "" when nothing lacks.
func shortage(l Layout) string {
	text := ""
	for kind, one := range shortages(l) {
		text += "; " + kind + ": " + one
	}
	return text
}

func size(bytes uint64) string { return programs.Size(bytes) }

// freeMemory is what is left for this process: of the machine's, and of its control group's.
func freeMemory() (uint64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	free := (field(text, "MemAvailable:") + field(text, "SwapFree:")) * 1024
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return free, nil //nolint:nilerr // a kernel without control groups
	}
	for line := range strings.SplitSeq(string(groups), "\n") {
		path, unified := strings.CutPrefix(line, "0::")
		if !unified {
			continue
		}
		for folder := filepath.Join("/sys/fs/cgroup", path); within(folder, "/sys/fs/cgroup"); folder = filepath.Dir(folder) {
			if left, limited := leftInGroup(folder); limited {
				free = min(free, left)
			}
		}
	}
	return free, nil
}

// leftInGroup is what a control group has left; what it only caches can be had back.
func leftInGroup(folder string) (uint64, bool) {
	limit, err := number(filepath.Join(folder, "memory.max"))
	if err != nil { // there is none, or it is "max"
		return 0, false
	}
	used, err := number(filepath.Join(folder, "memory.current"))
	if err != nil {
		return 0, false
	}
	if stat, err := os.ReadFile(filepath.Join(folder, "memory.stat")); err == nil {
		used -= min(used, field(stat, "inactive_file"))
	}
	return limit - min(limit, used), true
}

func number(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// killedForMemory counts the programs that the kernel has ended for lack of memory since it started.
func killedForMemory() uint64 {
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	return field(text, "oom_kill")
}

// field is the number that follows a word at the beginning of a line, or 0.
func field(text []byte, word string) uint64 {
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) >= 2 && string(fields[0]) == word {
			value, _ := strconv.ParseUint(string(fields[1]), 10, 64) // 0 when it is none
			return value
		}
	}
	return 0
}
