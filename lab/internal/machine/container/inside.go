package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// The files by which Start and Inside talk: the spec, and what went wrong before the program began.
const (
	specFile = 3 + iota
	problemFile
)

// Inside is what Command does: it makes the container's tree and becomes its program. It returns only when it failed, and
// has told Start so.
func Inside() error {
	runtime.LockOSThread() // rights are a thread's, and the one that calls execve counts

	problems := os.NewFile(problemFile, "problem")
	unix.CloseOnExec(problemFile)

	err := inside()
	fmt.Fprint(problems, err)

	return err
}

func inside() error {
	var spec Spec

	reader := os.NewFile(specFile, "spec")
	if err := json.NewDecoder(reader).Decode(&spec); err != nil {
		return fmt.Errorf("the container's spec: %w", err)
	}

	reader.Close()

	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("host name %q: %w", spec.Hostname, err)
	}

	unix.Umask(0)

	if err := makeTree(spec); err != nil {
		return err
	}

	if err := enterTree(spec); err != nil {
		return err
	}

	unix.Umask(0o022)

	// No resource of the lab's own is for the container.
	if err := unix.CloseRange(problemFile+1, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("open files: %w", err)
	}

	program, err := lookUp(spec)
	if err != nil {
		return err
	}

	if err := giveUpRights(spec); err != nil {
		return err
	}

	return fmt.Errorf("exec %s: %w", program, unix.Exec(program, spec.Argv, spec.Environment))
}

// system are folders of the computer that every tree has, where the computer has them. /usr is placed folder by folder: its
// `local` is the image's, which has programs there.
var system = []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/alternatives"}

// folders are those of every tree, with their permissions.
var folders = []struct {
	path string
	mode uint32
}{
	{"/etc", 0o755}, {"/dev", 0o755}, {"/proc", 0o555}, {"/sys", 0o555}, {"/tmp", 0o777 | unix.S_ISVTX}, {"/run", 0o755}, {"/var", 0o755},
	{"/var/tmp", 0o777 | unix.S_ISVTX}, {"/home", 0o755}, {"/root", 0o700}, {"/opt", 0o755},
}

// devices are those that a container has.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

func makeTree(spec Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}

	if err := unix.Mount("tmpfs", spec.Root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("root folder: %w", err)
	}

	in := func(path string) string { return filepath.Join(spec.Root, path) }

	for _, folder := range folders {
		if err := os.MkdirAll(in(folder.path), 0o755); err != nil {
			return err
		}

		if err := unix.Chmod(in(folder.path), folder.mode); err != nil {
			return fmt.Errorf("%s: %w", folder.path, err)
		}
	}

	if err := os.Symlink("/run", in("/var/run")); err != nil {
		return err
	}

	if err := placeUsr(in("/usr")); err != nil {
		return err
	}

	for _, path := range system {
		if err := placeSystem(path, in(path)); err != nil {
			return err
		}
	}

	if err := makeDevices(in("/dev")); err != nil {
		return err
	}

	if err := unix.Mount("proc", in("/proc"), "proc", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}

	if err := writeUsers(spec, in("/etc")); err != nil {
		return err
	}

	for target, source := range spec.Files {
		if err := bind(Mount{Source: source, Target: target, ReadOnly: true}, spec.Root); err != nil {
			return err
		}
	}

	// A mount below another one comes after it.
	mounts := slices.Clone(spec.Mounts)
	slices.SortStableFunc(mounts, func(a, b Mount) int {
		return strings.Count(filepath.Clean(a.Target), "/") - strings.Count(filepath.Clean(b.Target), "/")
	})

	for _, mount := range mounts {
		if err := bind(mount, spec.Root); err != nil {
			return err
		}
	}

	return nil
}

func placeUsr(target string) error {
	entries, err := os.ReadDir("/usr")
	if err != nil {
		return err
	}

	if err := os.MkdirAll(filepath.Join(target, "local", "bin"), 0o755); err != nil {
		return err
	}

	for _, entry := range entries {
		if entry.Name() == "local" {
			continue
		}

		if err := placeSystem(filepath.Join("/usr", entry.Name()), filepath.Join(target, entry.Name())); err != nil {
			return err
		}
	}

	return nil
}

// placeSystem gives the tree what the computer has at a path: the same link, or the file or folder, read-only.
func placeSystem(path, target string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}

	if info.Mode()&fs.ModeSymlink != 0 {
		link, err := os.Readlink(path)
		if err != nil {
			return err
		}

		return os.Symlink(link, target)
	}

	return bindAt(path, target, true)
}

func makeDevices(folder string) error {
	if err := unix.Mount("tmpfs", folder, "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("/dev: %w", err)
	}

	for _, name := range devices {
		if _, err := os.Stat("/dev/" + name); err == nil {
			if err := bindAt("/dev/"+name, filepath.Join(folder, name), false); err != nil {
				return err
			}
		}
	}

	for name, mode := range map[string]os.FileMode{"pts": 0o755, "shm": 0o777 | fs.ModeSticky, "mqueue": 0o755} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o755); err != nil {
			return err
		}

		if err := os.Chmod(filepath.Join(folder, name), mode); err != nil {
			return err
		}
	}

	if err := unix.Mount("devpts", filepath.Join(folder, "pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return fmt.Errorf("/dev/pts: %w", err)
	}

	for name, link := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := os.Symlink(link, filepath.Join(folder, name)); err != nil {
			return err
		}
	}

	return nil
}

// writeUsers gives the tree the accounts of root and of the container's user: some programs look themselves up.
func writeUsers(spec Spec, folder string) error {
	users, groups := "root:x:0:0:root:/root:/sbin/nologin\n", "root:x:0:\n"
	if spec.User != 0 {
		users += fmt.Sprintf("app:x:%d:%d:app:/home:/sbin/nologin\n", spec.User, spec.Group)
	}

	if spec.Group != 0 {
		groups += fmt.Sprintf("app:x:%d:\n", spec.Group)
	}

	for name, text := range map[string]string{"passwd": users, "group": groups, "nsswitch.conf": "hosts: files dns\n"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil { // everybody may read it
			return err
		}
	}

	return nil
}

// bind places a mount of the spec. A link on the way, such as /var/run or one in a volume, leads to a place in the tree.
func bind(mount Mount, root string) error {
	target, err := securejoin.SecureJoin(root, mount.Target)
	if err == nil {
		err = bindAt(mount.Source, target, mount.ReadOnly)
	}

	if err != nil {
		return fmt.Errorf("mount %s: %w", mount.Target, err)
	}

	return nil
}

func bindAt(source, target string, readOnly bool) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}

	if err := makeTarget(target, info.IsDir()); err != nil {
		return err
	}

	// With all that is mounted below it: the kernel does not let a user namespace see what lies under its parent's mounts.
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}

	if !readOnly {
		return nil
	}

	return makeReadOnly(target)
}

func makeTarget(target string, folder bool) error {
	if folder {
		return os.MkdirAll(target, 0o755)
	}

	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}

	file, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}

	return file.Close()
}

// makeReadOnly keeps the flags that a user namespace must not drop.
func makeReadOnly(path string) error {
	var state unix.Statfs_t
	if err := unix.Statfs(path, &state); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}

	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY)

	for locked, flag := range map[int64]uintptr{
		unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV, unix.ST_NOEXEC: unix.MS_NOEXEC,
		unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_NODIRATIME: unix.MS_NODIRATIME, unix.ST_RELATIME: unix.MS_RELATIME,
	} {
		if state.Flags&locked != 0 {
			flags |= flag
		}
	}

	if err := unix.Mount("", path, "", flags, ""); err != nil {
		return fmt.Errorf("%s: read-only: %w", path, err)
	}

	return nil
}

// enterTree makes the tree the root of the mount namespace.
func enterTree(spec Spec) error {
	if err := os.Chdir(spec.Root); err != nil {
		return err
	}

	// The old root lies under the new one for a moment (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}

	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("the computer's root: %w", err)
	}

	folder := spec.Folder
	if folder == "" {
		folder = "/"
	}

	if err := os.MkdirAll(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("working directory: %w", err)
	}

	if spec.ReadOnly {
		if err := makeReadOnly("/"); err != nil {
			return err
		}
	}

	if err := os.Chdir(folder); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}

	return nil
}

// lookUp finds the program as a runtime does: with a slash as it is, else in the container's PATH.
func lookUp(spec Spec) (string, error) {
	if len(spec.Argv) == 0 {
		return "", errors.New("no command specified")
	}

	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

	for _, pair := range spec.Environment {
		if value, ok := strings.CutPrefix(pair, "PATH="); ok {
			path = value
		}
	}

	if err := os.Setenv("PATH", path); err != nil {
		return "", err
	}

	program, err := exec.LookPath(spec.Argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return "", err
	}

	return program, nil
}

// lastCapability is more than any kernel has.
const lastCapability = 63

// giveUpRights leaves the program those of the spec.
func giveUpRights(spec Spec) error {
	if spec.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("allowPrivilegeEscalation: %w", err)
		}
	}

	if spec.Privileged {
		return nil
	}

	kept := spec.kept()

	for number := uintptr(0); number <= lastCapability; number++ {
		if kept[number] {
			continue
		}

		if err := unix.Prctl(unix.PR_CAPBSET_DROP, number, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("capability %d: %w", number, err)
		}
	}

	// What a user other than root had to make the tree.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}

	return nil
}
