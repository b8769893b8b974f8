package talosapi

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/api/common"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"platform.lab/lab/internal/machine/blockdevices"
	"platform.lab/lab/internal/machine/disk"
	"platform.lab/lab/internal/simulated"
)

const (
	bootIDPath    = "/proc/sys/kernel/random/boot_id"
	sysctlsFolder = "/proc/sys/"
)

// file is one of a machine's files: made from what the machine is, or one of its disk.
type file struct {
	path     string
	mode     fs.FileMode
	size     int64
	modified time.Time
	link     string
	read     func() ([]byte, error)
}

// files are what `talosctl ls`, `read`, `copy` and `usage` see. Simulated: a machine has no file system of its own. These
// are the parts of one that the lab knows to be true: configuration, sysctls, logs, etcd's data, certificates.
type files struct {
	machine *Machine
	all     map[string]file
}

func (b *Machine) files() *files {
	f := &files{machine: b, all: map[string]file{}}
	f.folder("/", b.Begun)

	for _, name := range []string{"/dev", "/etc", "/proc", "/run", "/sys", "/system", "/tmp", "/usr", "/var"} {
		f.folder(name, b.Begun)
	}

	f.system()
	f.processes()
	f.configured()

	for target, folder := range map[string]string{
		"/var/log": disk.LogsFolder, "/var/lib/etcd": disk.EtcdFolder, "/var/lib/kubelet/pki": disk.KubeletFolder,
		"/system/secrets": disk.SecretsFolder, "/system/config/kubernetes": disk.PodsFolder,
	} {
		f.tree(target, b.Disk.Path(folder))
	}

	// The logs of containers, and of who accessed the cluster.
	f.tree("/var/log", b.Disk.OnMachine("/var/log"))

	return f
}

// system are the files that Talos makes from its own state.
func (f *files) system() {
	b := f.machine
	version := b.System.TalosVersion()
	f.text("/etc/os-release", fmt.Sprintf("NAME=\"Talos\"\nID=talos\nVERSION_ID=%s\nPRETTY_NAME=\"Talos (%s)\"\n", version, version))

	hosts := "127.0.0.1 localhost\n::1 localhost\n"
	if address := b.Network.Address(); address.IsValid() {
		hosts += fmt.Sprintf("%s %s\n", address, b.Network.Hostname())
	}

	f.text("/etc/hosts", hosts)

	var resolvers strings.Builder

	if b.Network.Platform != nil {
		for _, address := range b.Network.Resolvers() {
			fmt.Fprintf(&resolvers, "nameserver %s\n", address)
		}
	}

	f.text("/etc/resolv.conf", resolvers.String())

	if _, err := os.Stat(b.Disk.Path(disk.ConfigFile)); err == nil {
		f.disk("/system/state/"+disk.ConfigFile, b.Disk.Path(disk.ConfigFile))
	}

	for _, device := range b.Resources.Devices.List() {
		f.add(file{path: device.Path(), mode: fs.ModeDevice | 0o660, modified: b.Begun})
	}
}

// processes are the parts of /proc that are true of the machine; the kernel itself is the lab's.
func (f *files) processes() {
	b := f.machine
	f.text(bootIDPath, b.BootID+"\n")
	f.text("/proc/sys/kernel/hostname", b.Network.Hostname()+"\n")
	f.text("/proc/uptime", fmt.Sprintf("%.2f 0.00\n", time.Since(b.Begun).Seconds()))

	memory := b.memory()
	f.text("/proc/meminfo", fmt.Sprintf("MemTotal: %14d kB\nMemFree: %15d kB\nMemAvailable: %10d kB\n", memory.Memtotal, memory.Memfree, memory.Memavailable))

	var mounts strings.Builder
	for _, one := range b.mounts() {
		fmt.Fprintf(&mounts, "%s %s\n", one.Filesystem, one.MountedOn)
	}

	f.text("/proc/mounts", mounts.String())

	for _, name := range []string{"arp", "dev", "route", "tcp", "udp"} {
		f.add(file{path: "/proc/net/" + name, mode: 0o444, modified: b.Begun, read: func() (data []byte, err error) {
			err = b.Network.Do(func() error {
				data, err = os.ReadFile("/proc/thread-self/net/" + name)

				return err
			})

			return data, err
		}})
	}
}

// configured are the files, sysctls and kernel modules of the machine configuration.
func (f *files) configured() {
	provider := f.machine.Provider()
	if provider == nil || provider.Machine() == nil {
		return
	}

	for name, value := range provider.Machine().Sysctls() {
		f.text(sysctlsFolder+strings.ReplaceAll(name, ".", "/"), value+"\n")
	}

	var modules strings.Builder
	for _, module := range provider.Machine().Kernel().Modules() {
		fmt.Fprintf(&modules, "%s 0 0 - Live 0x0\n", module.Name())
	}

	f.text("/proc/modules", modules.String())

	f.mirrors(provider)

	written, err := provider.Machine().Files()
	f.machine.LogError("files of the configuration", err)

	for _, one := range written {
		content := one.Content()
		f.add(file{
			path: path.Clean("/" + one.Path()), mode: one.Permissions(), size: int64(len(content)), modified: f.machine.Begun,
			read: func() ([]byte, error) { return []byte(content), nil },
		})
	}
}

// mirrors are containerd's hosts of registries that have mirrors (internal/pkg/containers/cri/containerd/hosts.go). Talos
// writes them while the machine runs; containerd reads them at each pull.
func (f *files) mirrors(provider config.Provider) {
	for registry, mirror := range provider.RegistryMirrorConfigs() {
		folder := registry
		if registry == "*" {
			folder = "_default"
		} else if host, port, ok := strings.Cut(registry, ":"); ok {
			folder = host + "_" + port + "_"
		}

		var text strings.Builder

		for _, endpoint := range mirror.Endpoints() {
			fmt.Fprintf(&text, "[host.%q]\n  capabilities = ['pull', 'resolve']\n", endpoint.Endpoint())

			if endpoint.OverridePath() {
				text.WriteString("  override_path = true\n")
			}
		}

		f.text("/etc/cri/conf.d/hosts/"+folder+"/hosts.toml", text.String())
	}
}

func (f *files) add(one file) {
	for parent := path.Dir(one.path); parent != "/"; parent = path.Dir(parent) {
		f.folder(parent, one.modified)
	}

	f.all[one.path] = one
}

func (f *files) folder(name string, modified time.Time) {
	if _, ok := f.all[name]; !ok {
		f.all[name] = file{path: name, mode: fs.ModeDir | 0o755, modified: modified}
	}
}

func (f *files) text(name, content string) {
	f.add(file{path: name, mode: 0o444, size: int64(len(content)), modified: f.machine.Begun, read: func() ([]byte, error) { return []byte(content), nil }})
}

// disk shows a file or folder of the machine's disk under another name.
func (f *files) disk(name, source string) {
	info, err := os.Lstat(source)
	if err != nil {
		return // it went while the machine was looked at
	}

	one := file{path: name, mode: info.Mode(), size: info.Size(), modified: info.ModTime(), read: func() ([]byte, error) { return os.ReadFile(source) }}
	if info.IsDir() {
		one.read, one.size = nil, 0
	}

	f.add(one)
}

func (f *files) tree(name, source string) {
	_ = filepath.WalkDir(source, func(found string, _ fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it is not there, or went meanwhile
		}

		if inside, err := filepath.Rel(source, found); err == nil {
			f.disk(path.Join(name, filepath.ToSlash(inside)), found)
		}

		return nil
	})
}

// under are a file or folder and all below it, in order; an error when it is not there, in Talos' words.
func (f *files) under(root string) ([]file, error) {
	root = path.Clean("/" + root)
	if _, ok := f.all[root]; !ok {
		return nil, missing("lstat", root)
	}

	var found []file

	for name, one := range f.all {
		if name == root || root == "/" || strings.HasPrefix(name, root+"/") {
			found = append(found, one)
		}
	}

	slices.SortFunc(found, func(a, b file) int {
		return slices.Compare(strings.Split(a.path, "/"), strings.Split(b.path, "/"))
	})

	return found, nil
}

// missing is the error for a file that is not there: in Talos' words, but where only a kernel could know it.
func missing(call, name string) error {
	if name = path.Clean("/" + name); strings.HasPrefix(name, "/sys/") {
		return status.Error(codes.Unimplemented, simulated.File(name))
	}

	return status.Errorf(codes.NotFound, "%s %s: no such file or directory", call, name)
}

// relative is a file's name seen from root, and how deep it lies under it (root itself and its entries: 0).
func relative(root, name string) (string, int) {
	root = path.Clean("/" + root)
	if name == root {
		return ".", 0
	}

	inside := strings.TrimPrefix(strings.TrimPrefix(name, root), "/")

	return inside, strings.Count(inside, "/")
}

func (*machineService) List(in *machineapi.ListRequest, stream machineapi.MachineService_ListServer) error {
	found, err := at(stream.Context()).files().under(in.Root)
	if err != nil {
		return err
	}

	for _, one := range found {
		name, depth := relative(in.Root, one.path)
		if !wantedType(in.Types, one.mode) || depth > 0 && !in.Recurse || in.RecursionDepth > 0 && depth > int(in.RecursionDepth) {
			continue
		}

		if name == "." && !one.mode.IsDir() {
			name = path.Base(one.path)
		}

		if err := stream.Send(&machineapi.FileInfo{
			Name: one.path, RelativeName: name, Size: one.size, Mode: uint32(one.mode), Modified: one.modified.Unix(), IsDir: one.mode.IsDir(), Link: one.link,
		}); err != nil {
			return err
		}
	}

	return nil
}

func wantedType(types []machineapi.ListRequest_Type, mode fs.FileMode) bool {
	if len(types) == 0 {
		return true
	}

	kind := machineapi.ListRequest_REGULAR

	switch {
	case mode.IsDir():
		kind = machineapi.ListRequest_DIRECTORY
	case mode&fs.ModeSymlink != 0:
		kind = machineapi.ListRequest_SYMLINK
	case !mode.IsRegular():
		return false
	}

	return slices.Contains(types, kind)
}

func (*machineService) Read(in *machineapi.ReadRequest, stream machineapi.MachineService_ReadServer) error {
	one, ok := at(stream.Context()).files().all[path.Clean("/"+in.Path)]

	switch {
	case !ok:
		return missing("stat", in.Path)
	case one.read == nil:
		return errors.New("path must be a regular file")
	}

	data, err := one.read()
	if err != nil {
		return err
	}

	return sendChunks(stream.Send, data)
}

// sendChunks sends data in the pieces that Talos' streams are made of.
func sendChunks(send func(*common.Data) error, data []byte) error {
	for chunk := range slices.Chunk(data, 64<<10) {
		if err := send(&common.Data{Bytes: chunk}); err != nil {
			return err
		}
	}

	return nil
}

// chunkWriter is a stream of Talos' as a writer.
type chunkWriter func(*common.Data) error

func (w chunkWriter) Write(data []byte) (int, error) {
	return len(data), sendChunks(w, slices.Clone(data))
}

func (*machineService) Copy(in *machineapi.CopyRequest, stream machineapi.MachineService_CopyServer) error {
	found, err := at(stream.Context()).files().under(in.RootPath)
	if err != nil {
		return err
	}

	compressed := gzip.NewWriter(chunkWriter(stream.Send))
	archive := tar.NewWriter(compressed)

	for _, one := range found {
		name, _ := relative(in.RootPath, one.path)
		if name == "." {
			if one.mode.IsDir() {
				continue // the caller has made it
			}

			name = path.Base(one.path)
		}

		if err := pack(archive, name, one); err != nil {
			return err
		}
	}

	return errors.Join(archive.Close(), compressed.Close())
}

// pack adds a file to an archive; one that went meanwhile is left out, and so are devices.
func pack(archive *tar.Writer, name string, one file) error {
	if one.mode.IsDir() {
		return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: int64(one.mode.Perm()), ModTime: one.modified})
	}

	if one.read == nil {
		return nil
	}

	data, err := one.read()
	if err != nil {
		return nil //nolint:nilerr // it went meanwhile
	}

	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(one.mode.Perm()), ModTime: one.modified, Size: int64(len(data))}); err != nil {
		return err
	}

	_, err = archive.Write(data)

	return err
}

func (*machineService) DiskUsage(in *machineapi.DiskUsageRequest, stream machineapi.MachineService_DiskUsageServer) error {
	roots := in.Paths
	if len(roots) == 0 {
		roots = []string{"/"}
	}

	all := at(stream.Context()).files()

	for _, root := range roots {
		found, err := all.under(root)
		if err != nil {
			return err
		}

		for _, one := range sized(found) {
			name, depth := relative(root, one.path)
			if name != "." {
				depth++
			}

			skip := in.RecursionDepth > 0 && depth >= int(in.RecursionDepth) && name != "." || !one.mode.IsDir() && !in.All ||
				in.Threshold > 0 && one.size < in.Threshold || in.Threshold < 0 && one.size > -in.Threshold
			if skip {
				continue
			}

			if err := stream.Send(&machineapi.DiskUsageInfo{Name: one.path, RelativeName: name, Size: one.size}); err != nil {
				return err
			}
		}
	}

	return nil
}

// sized gives folders the sum of what lies in them, and puts them behind it, as du does.
func sized(found []file) []file {
	sums := map[string]int64{}

	for _, one := range found {
		for parent := one.path; ; parent = path.Dir(parent) {
			sums[parent] += one.size

			if parent == "/" {
				break
			}
		}
	}

	out := slices.Clone(found)
	for i := range out {
		out[i].size = sums[out[i].path]
	}

	slices.SortStableFunc(out, func(a, b file) int {
		switch {
		case strings.HasPrefix(b.path, strings.TrimSuffix(a.path, "/")+"/"):
			return 1
		case strings.HasPrefix(a.path, strings.TrimSuffix(b.path, "/")+"/"):
			return -1
		default:
			return cmp.Compare(a.path, b.path)
		}
	})

	return out
}

// mounts are the file systems that Talos makes of its partitions; their sizes are those of the simulated disk.
func (b *Machine) mounts() []*machineapi.MountStat {
	stats := []*machineapi.MountStat{{Filesystem: "rootfs", MountedOn: "/"}}

	for _, name := range []string{"proc", "sysfs", "devtmpfs", "tmpfs"} {
		stats = append(stats, &machineapi.MountStat{Filesystem: name, MountedOn: map[string]string{
			"proc": "/proc", "sysfs": "/sys", "devtmpfs": "/dev", "tmpfs": "/run",
		}[name]})
	}

	if b.InMaintenance() {
		return stats
	}

	points := map[string]string{"STATE": "/system/state", blockdevices.Ephemeral: "/var"}
	used := map[string]uint64{blockdevices.Ephemeral: b.Disk.EphemeralUsed()}

	for partition, volume := range b.Resources.Volumes() {
		if point, ok := points[volume.Name]; ok {
			stats = append(stats, &machineapi.MountStat{
				Filesystem: blockdevices.SystemPartition(partition), Size: volume.Size, Available: volume.Size - min(used[volume.Name], volume.Size), MountedOn: point,
			})
		}
	}

	return append(stats, b.Resources.Mounts()...)
}

func (*machineService) Mounts(ctx context.Context, _ *emptypb.Empty) (*machineapi.MountsResponse, error) {
	return &machineapi.MountsResponse{Messages: []*machineapi.Mounts{{Stats: at(ctx).mounts()}}}, nil
}
