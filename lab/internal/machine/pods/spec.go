package pods

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"platform.lab/lab/internal/machine/container"
)

func keys[V any](values map[string]V) iter.Seq[string] { return maps.Keys(values) }

// specOf is a container with all that its spec refers to put in.
func (w *worker) specOf(ctx context.Context, pod *corev1.Pod, one *member) (container.Spec, error) {
	environment, err := w.environment(ctx, pod, one)
	if err != nil {
		return container.Spec{}, err
	}

	user, group := w.userOf(pod, one)
	if err := checkUser(pod, one, user); err != nil {
		return container.Spec{}, err
	}

	mounts, err := w.mountsOf(pod, one, environment)
	if err != nil {
		return container.Spec{}, err
	}

	root := filepath.Join(w.r.folderOf(pod), "roots", one.spec.Name)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return container.Spec{}, err
	}

	files := map[string]string{}
	for target, name := range one.image.Files {
		files[target] = filepath.Join(w.r.Bin, name)
	}

	for target, name := range one.image.System {
		if isPlain(target) {
			files[target] = filepath.Join(w.r.Bin, name)
		}
	}

	folder := one.spec.WorkingDir
	if folder == "" {
		folder = one.image.Folder
	}

	spec := container.Spec{
		Root: root, Files: files, Mounts: mounts, Argv: argvOf(one, environment), Environment: environment.list(), Folder: folder,
		Hostname: w.sandbox.hostname, User: user, Group: group,
	}

	if context := one.spec.SecurityContext; context != nil {
		spec.ReadOnly = isTrue(context.ReadOnlyRootFilesystem)
		spec.Privileged = isTrue(context.Privileged)
		spec.NoNewPrivileges = context.AllowPrivilegeEscalation != nil && !*context.AllowPrivilegeEscalation

		if context.Capabilities != nil {
			spec.Add, spec.Drop = names(context.Capabilities.Add), names(context.Capabilities.Drop)
		}
	}

	return spec, nil
}

// isPlain says whether the computer has a file of its own at a path: behind a link is a program of many names, which must stay.
func isPlain(path string) bool {
	folder, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return false
	}

	info, err := os.Lstat(filepath.Join(folder, filepath.Base(path)))

	return err == nil && info.Mode().IsRegular()
}

func isTrue(value *bool) bool { return value != nil && *value }

func names(capabilities []corev1.Capability) []string {
	var list []string
	for _, one := range capabilities {
		list = append(list, strings.TrimPrefix(strings.ToUpper(string(one)), "CAP_"))
	}

	return list
}

// argvOf is the program with its arguments: command replaces the image's entrypoint and its arguments, args only these.
func argvOf(one *member, environment *variables) []string {
	entrypoint, arguments := one.image.Entrypoint, one.image.Command

	if len(one.spec.Command) > 0 {
		entrypoint, arguments = one.spec.Command, nil
	}

	if len(one.spec.Args) > 0 {
		arguments = one.spec.Args
	}

	lookUp := func(name string) (string, bool) {
		value, known := environment.values[name]

		return value, known
	}

	var argv []string

	for at, word := range slices.Concat(entrypoint, arguments) {
		// What the image says is not expanded.
		if at < len(entrypoint) && len(one.spec.Command) == 0 || at >= len(entrypoint) && len(one.spec.Args) == 0 {
			argv = append(argv, word)
		} else {
			argv = append(argv, expand(word, lookUp))
		}
	}

	return argv
}

// userOf is the container's user and group: its own, else the pod's, else the image's.
func (w *worker) userOf(pod *corev1.Pod, one *member) (user, group int64) {
	user, group = one.image.User, one.image.Group

	if context := pod.Spec.SecurityContext; context != nil {
		user, group = override(user, group, context.RunAsUser, context.RunAsGroup)
	}

	if context := one.spec.SecurityContext; context != nil {
		user, group = override(user, group, context.RunAsUser, context.RunAsGroup)
	}

	return user, group
}

// override takes another user, whose group is root's unless one is named: the image's /etc/passwd does not know it.
func override(user, group int64, otherUser, otherGroup *int64) (int64, int64) {
	if otherUser != nil && *otherUser != user {
		user, group = *otherUser, 0
	}

	if otherGroup != nil {
		group = *otherGroup
	}

	return user, group
}

// checkUser holds a container to runAsNonRoot, in the kubelet's words.
func checkUser(pod *corev1.Pod, one *member, user int64) error {
	var wanted *bool
	if context := pod.Spec.SecurityContext; context != nil {
		wanted = context.RunAsNonRoot
	}

	if context := one.spec.SecurityContext; context != nil && context.RunAsNonRoot != nil {
		wanted = context.RunAsNonRoot
	}

	if isTrue(wanted) && user == 0 {
		return errors.New("container has runAsNonRoot and image will run as root")
	}

	return nil
}

// mountsOf are the container's volumes, and what every container gets.
func (w *worker) mountsOf(pod *corev1.Pod, one *member, environment *variables) ([]container.Mount, error) {
	folder := w.r.folderOf(pod)
	mounts := []container.Mount{
		{Source: filepath.Join(folder, hostsFile), Target: "/etc/hosts"},
		{Source: filepath.Join(folder, resolvFile), Target: "/etc/resolv.conf"},
		{Source: filepath.Join(folder, hostnameFile), Target: "/etc/hostname"},
	}

	if w.r.Trust != "" {
		mounts = append(mounts, container.Mount{Source: w.r.Trust, Target: "/etc/ssl/certs/ca-certificates.crt", ReadOnly: true})
	}

	message, err := w.messageFile(pod, one)
	if err != nil {
		return nil, err
	}

	mounts = append(mounts, container.Mount{Source: message, Target: messagePath(one)})

	for _, mount := range one.spec.VolumeMounts {
		source, there := w.volumes[mount.Name]
		if !there {
			return nil, fmt.Errorf("volume %q is not mounted", mount.Name)
		}

		below := mount.SubPath
		if mount.SubPathExpr != "" {
			below = expand(mount.SubPathExpr, func(name string) (string, bool) {
				value, known := environment.values[name]

				return value, known
			})
		}

		if below != "" {
			if source, err = subPath(source, below); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", mount.Name, one.spec.Name, err)
			}
		}

		mounts = append(mounts, container.Mount{Source: source, Target: mount.MountPath, ReadOnly: mount.ReadOnly})
	}

	return mounts, nil
}

// subPath is a file or folder of a volume, which must lie in it; what is missing becomes a folder, as with a kubelet.
func subPath(volume, below string) (string, error) {
	path := filepath.Join(volume, filepath.Clean("/"+below))

	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(path, 0o750); err != nil {
			return "", err
		}
	}

	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}

	root, err := filepath.EvalSymlinks(volume)
	if err != nil {
		return "", err
	}

	if real != root && !strings.HasPrefix(real, root+"/") {
		return "", fmt.Errorf("subpath %q not within volume path", below)
	}

	return real, nil
}

const usualMessagePath = "/dev/termination-log"

func messagePath(one *member) string {
	if one.spec.TerminationMessagePath != "" {
		return one.spec.TerminationMessagePath
	}

	return usualMessagePath
}

// messageFile is the empty file that a container writes its last words into.
func (w *worker) messageFile(pod *corev1.Pod, one *member) (string, error) {
	path := filepath.Join(w.r.folderOf(pod), "messages", one.spec.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}

	return path, os.WriteFile(path, nil, 0o666) //nolint:gosec // the container writes it
}

// A kubelet's bounds of a termination message.
const (
	messageBytes     = 4096
	messageLogBytes  = 2048
	messageLogLines  = 80
	mostMessageBytes = 1 << 20
)

// terminationMessage is what the container wrote, or the end of its log when it failed and its policy says so.
func (w *worker) terminationMessage(pod *corev1.Pod, one *member, code int) string {
	said := tail(filepath.Join(w.r.folderOf(pod), "messages", one.spec.Name), messageBytes, mostMessageBytes)
	if said != "" || code == 0 || one.spec.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
		return said
	}

	w.mu.Lock()
	number := one.restarts
	w.mu.Unlock()

	return endOf(readLog(w.r.logPath(pod, one.spec.Name, number)), messageLogBytes, messageLogLines)
}

// tail is the end of a file, at most so many bytes and lines.
func tail(path string, bytes, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}

	return endOf(string(data), bytes, lines)
}

func endOf(text string, bytes, lines int) string {
	all := strings.SplitAfter(text[max(0, len(text)-bytes):], "\n")

	return strings.Join(all[max(0, len(all)-lines-1):], "")
}
