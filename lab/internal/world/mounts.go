package world

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// protectTree makes the operator's files read-only for all that runs in the world: the tree, and the
// stack file and the virtual environment where they lie elsewhere. What the lab keeps in the tree's .lab stays writable; the
// folder of credentials and that of reports and plans are the world's own.
func protectTree(l Layout, s *Spec) error {
	for _, name := range []string{s.Project, s.StackFile, filepath.Join(s.Project, ".venv")} {
		if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := protect(name, filepath.Join(s.Project, labFolder), l.Root); err != nil {
			return err
		}
	}
	own := map[string]string{filepath.Join(s.Project, privateFolder): l.Private()}
	if s.Out == "" {
		own[filepath.Join(s.Project, outFolder)] = l.Out()
	}
	for target, source := range own {
		if _, err := os.Stat(target); errors.Is(err, os.ErrNotExist) {
			continue // a tree of before there was one
		}
		if err := bind(source, target); err != nil {
			return err
		}
	}
	// No process may stand in the tree as it was before: its files could be written from there.
	return os.Chdir("/")
}

// protect makes a file or folder read-only in this mount namespace, but for the folders below it
// that are named. Edits from outside are seen at once.
func protect(path string, writable ...string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if err := bind(path, path); err != nil {
		return err
	}
	var kept []string
	for _, folder := range writable {
		folder, err := filepath.EvalSymlinks(folder)
		if err != nil || !within(folder, path) {
			continue
		}
		if err := bind(folder, folder); err != nil {
			return err
		}
		kept = append(kept, folder)
	}
	mounts, err := mountsBelow(path)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if slices.ContainsFunc(kept, func(folder string) bool { return within(m.path, folder) }) {
			continue
		}
		if err := unix.Mount("", m.path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|m.flags, ""); err != nil {
			return fmt.Errorf("%s: making it read-only in the world: %w", m.path, err)
		}
	}
	return nil
}

// bind mounts source over target, with all that is mounted below it: the kernel does not let a user
// namespace see what lies under the mounts of its parent.
func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("%s over %s in the world: %w", source, target, err)
	}
	return nil
}

// wireGuards is the folder below /var/run in which WireGuard's programs and their clients meet (wireguard-go's ipc, wgctrl).
const wireGuards = "wireguard"

// ownRun gives the world a /var/run of its own, with all that is in the computer's but WireGuard's sockets: they are called by
// the interface, whatever network it is in, so that of another world would be in the way; and only root makes their folder.
func ownRun(l Layout) error {
	run, err := filepath.EvalSymlinks("/var/run")
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(run)
	if err != nil {
		return err
	}
	own := l.path("run")
	if err := os.MkdirAll(own, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", own, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("%s: %w", own, err)
	}
	for _, entry := range entries {
		if entry.Name() == wireGuards {
			continue
		}
		if err := place(entry, run, own); err != nil && !errors.Is(err, os.ErrNotExist) { // it may have ended just now
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(own, wireGuards), 0o755); err != nil {
		return err
	}
	return bind(own, run)
}

// place lets an entry of one folder be in another one too.
func place(entry os.DirEntry, from, to string) error {
	source, target := filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())
	switch {
	case entry.Type()&os.ModeSymlink != 0:
		leads, err := os.Readlink(source)
		if err != nil {
			return err
		}
		return os.Symlink(leads, target)
	case entry.IsDir():
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(target, nil, 0o600); err != nil {
			return err
		}
	}
	return bind(source, target)
}

// within says whether path is folder or lies in it; both are absolute and without links.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}

// mounted is a mount, and those of its flags that a user namespace must not drop.
type mounted struct {
	path  string
	flags uintptr
}

// lockedFlags are by their names in mountinfo (proc_pid_mountinfo(5)).
var lockedFlags = map[string]uintptr{
	"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
}

// mountsBelow lists the mounts at a path and in it. Of several at one path only the last is reached.
func mountsBelow(path string) ([]mounted, error) {
	file, err := os.Open("/proc/thread-self/mountinfo") // a namespace of the thread alone, where it has one
	if err != nil {
		return nil, err
	}
	defer file.Close()
	byPath := map[string]mounted{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 {
			continue
		}
		m := mounted{path: unescape(fields[4])}
		if !within(m.path, path) {
			continue
		}
		for name := range strings.SplitSeq(fields[5], ",") {
			m.flags |= lockedFlags[name]
		}
		byPath[m.path] = m
	}
	var found []mounted
	for _, m := range byPath {
		found = append(found, m)
	}
	return found, lines.Err()
}

// unescape reads the octal escapes by which the kernel writes blanks in a path.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
