package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// volumes are the folders of a pod's volumes, by name.
type volumes map[string]string

// file is one of a volume that the kubelet writes.
type file struct {
	data []byte
	mode fs.FileMode
}

const (
	usualMode = 0o644
	// tokenSeconds is the usual life of a projected token, and renewShare the part of it after which another is asked for.
	tokenSeconds = 3600
	renewShare   = 0.8
)

// mountVolumes makes the pod's volumes, and writes again what ConfigMaps, Secrets, labels and tokens have become.
func (w *worker) mountVolumes(ctx context.Context, pod *corev1.Pod) error {
	var problems []error

	for _, volume := range pod.Spec.Volumes {
		path := filepath.Join(w.r.folderOf(pod), "volumes", volume.Name)

		real, err := w.mountVolume(ctx, pod, volume, path)
		if err != nil {
			problems = append(problems, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", volume.Name, err))

			continue
		}

		w.volumes[volume.Name] = real
	}

	return errors.Join(problems...)
}

func (w *worker) mountVolume(ctx context.Context, pod *corev1.Pod, volume corev1.Volume, path string) (string, error) {
	switch {
	case volume.EmptyDir != nil:
		return path, makeFolder(path, 0o777)
	case volume.HostPath != nil:
		return w.hostPath(volume.HostPath)
	}

	files, err := w.filesOf(ctx, pod, volume, path)
	if err != nil {
		return "", err
	}

	return path, writeFiles(path, files)
}

func makeFolder(path string, mode fs.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}

	return os.Chmod(path, mode)
}

// hostPath is a path of the machine, where the lab has one.
func (w *worker) hostPath(wanted *corev1.HostPathVolumeSource) (string, error) {
	path, there := w.r.HostPath(wanted.Path)
	if !there {
		return "", fmt.Errorf("hostPath %s is not in the lab", wanted.Path)
	}

	kind := corev1.HostPathUnset
	if wanted.Type != nil {
		kind = *wanted.Type
	}

	switch kind {
	case corev1.HostPathDirectoryOrCreate:
		return path, os.MkdirAll(path, 0o755)
	case corev1.HostPathFileOrCreate:
		made, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err == nil {
			err = made.Close()
		}

		return path, err
	default:
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("hostPath type check failed: %s is not a %s", wanted.Path, strings.ToLower(string(kind)))
		}

		return path, nil
	}
}

// filesOf are those of a volume that comes from the API.
func (w *worker) filesOf(ctx context.Context, pod *corev1.Pod, volume corev1.Volume, path string) (map[string]file, error) {
	switch {
	case volume.ConfigMap != nil:
		return w.configMapFiles(ctx, pod, volume.ConfigMap.Name, volume.ConfigMap.Items, volume.ConfigMap.Optional, modeOf(volume.ConfigMap.DefaultMode))
	case volume.Secret != nil:
		return w.secretFiles(ctx, pod, volume.Secret.SecretName, volume.Secret.Items, volume.Secret.Optional, modeOf(volume.Secret.DefaultMode))
	case volume.DownwardAPI != nil:
		return w.downwardFiles(pod, volume.DownwardAPI.Items, modeOf(volume.DownwardAPI.DefaultMode))
	case volume.Projected != nil:
		all := map[string]file{}

		for _, source := range volume.Projected.Sources {
			files, err := w.projectedFiles(ctx, pod, source, modeOf(volume.Projected.DefaultMode), path)
			if err != nil {
				return nil, err
			}

			for name, one := range files {
				all[name] = one
			}
		}

		return all, nil
	}

	return nil, errors.New("the lab's kubelet has emptyDir, configMap, secret, projected, downwardAPI and hostPath volumes only")
}

func modeOf(wanted *int32) fs.FileMode {
	if wanted == nil {
		return usualMode
	}

	return fs.FileMode(*wanted) & fs.ModePerm //nolint:gosec // nine bits
}

func (w *worker) projectedFiles(ctx context.Context, pod *corev1.Pod, source corev1.VolumeProjection, mode fs.FileMode, path string) (map[string]file, error) {
	switch {
	case source.ConfigMap != nil:
		return w.configMapFiles(ctx, pod, source.ConfigMap.Name, source.ConfigMap.Items, source.ConfigMap.Optional, mode)
	case source.Secret != nil:
		return w.secretFiles(ctx, pod, source.Secret.Name, source.Secret.Items, source.Secret.Optional, mode)
	case source.DownwardAPI != nil:
		return w.downwardFiles(pod, source.DownwardAPI.Items, mode)
	case source.ServiceAccountToken != nil:
		return w.tokenFiles(ctx, pod, source.ServiceAccountToken, path)
	}

	return nil, errors.New("the lab's kubelet projects configMap, secret, downwardAPI and serviceAccountToken only")
}

// tokenFiles gives a token of the pod's account, bound to the pod. The present one stays until most of its life is over.
func (w *worker) tokenFiles(ctx context.Context, pod *corev1.Pod, wanted *corev1.ServiceAccountTokenProjection, path string) (map[string]file, error) {
	seconds := int64(tokenSeconds)
	if wanted.ExpirationSeconds != nil {
		seconds = *wanted.ExpirationSeconds
	}

	present := filepath.Join(path, wanted.Path)
	if info, err := os.Stat(present); err == nil && time.Since(info.ModTime()) < time.Duration(float64(seconds)*renewShare)*time.Second {
		data, err := os.ReadFile(present)

		return map[string]file{wanted.Path: {data, usualMode}}, err
	}

	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if wanted.Audience != "" {
		request.Spec.Audiences = []string{wanted.Audience}
	}

	answer, err := w.r.api().CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("failed to fetch token: %w", err)
	}

	return map[string]file{wanted.Path: {[]byte(answer.Status.Token), usualMode}}, nil
}

func (w *worker) configMapFiles(ctx context.Context, pod *corev1.Pod, name string, items []corev1.KeyToPath, optional *bool, mode fs.FileMode) (map[string]file, error) {
	found, err := w.configMap(ctx, pod, name, optional)
	if err != nil || found == nil {
		return nil, err
	}

	data := map[string][]byte{}
	for key, value := range found.Data {
		data[key] = []byte(value)
	}

	for key, value := range found.BinaryData {
		data[key] = value
	}

	return pick(data, items, optional, mode)
}

func (w *worker) secretFiles(ctx context.Context, pod *corev1.Pod, name string, items []corev1.KeyToPath, optional *bool, mode fs.FileMode) (map[string]file, error) {
	found, err := w.secret(ctx, pod, name, optional)
	if err != nil || found == nil {
		return nil, err
	}

	return pick(found.Data, items, optional, mode)
}

// pick takes the items, or all when there are none.
func pick(data map[string][]byte, items []corev1.KeyToPath, optional *bool, mode fs.FileMode) (map[string]file, error) {
	files := map[string]file{}

	if len(items) == 0 {
		for key, value := range data {
			files[key] = file{value, mode}
		}

		return files, nil
	}

	for _, item := range items {
		value, there := data[item.Key]
		if !there {
			if isTrue(optional) {
				continue
			}

			return nil, fmt.Errorf("references non-existent key: %s", item.Key)
		}

		own := mode
		if item.Mode != nil {
			own = modeOf(item.Mode)
		}

		files[item.Path] = file{value, own}
	}

	return files, nil
}

func (w *worker) downwardFiles(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode fs.FileMode) (map[string]file, error) {
	files := map[string]file{}

	for _, item := range items {
		var (
			value string
			err   error
		)

		if item.FieldRef != nil {
			value, err = w.field(pod, item.FieldRef.FieldPath)
		} else if item.ResourceFieldRef != nil {
			value, err = w.resourceField(pod, item.ResourceFieldRef, nil)
		}

		if err != nil {
			return nil, err
		}

		own := mode
		if item.Mode != nil {
			own = modeOf(item.Mode)
		}

		files[item.Path] = file{[]byte(value), own}
	}

	return files, nil
}

// Names of what stands in a written volume, as the kubelet has them: programs watch the link (pkg/volume/util,
// AtomicWriter, of Kubernetes).
const (
	dataLink = "..data"
	nextLink = "..data_tmp"
)

// writeFiles makes a volume hold exactly these files, in one step; nothing is touched when it does already.
func writeFiles(folder string, files map[string]file) error {
	if err := makeFolder(folder, 0o755); err != nil {
		return err
	}

	link := filepath.Join(folder, dataLink)

	before, err := os.Readlink(link)
	if err == nil && same(filepath.Join(folder, before), files) {
		return nil
	}

	made, err := os.MkdirTemp(folder, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return err
	}

	if err := os.Chmod(made, 0o755); err != nil {
		return err
	}

	for name, one := range files {
		path := filepath.Join(made, filepath.Clean("/"+name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}

		if err := os.WriteFile(path, one.data, one.mode); err != nil {
			return err
		}

		if err := os.Chmod(path, one.mode); err != nil { // whatever the umask
			return err
		}
	}

	next := filepath.Join(folder, nextLink)
	if err := os.Symlink(filepath.Base(made), next); err != nil {
		return err
	}

	if err := os.Rename(next, link); err != nil {
		return err
	}

	if err := linkFiles(folder, files); err != nil {
		return err
	}

	if before == "" {
		return nil
	}

	return os.RemoveAll(filepath.Join(folder, before))
}

// linkFiles gives the volume a link for each first part of a path, and removes those of files that are gone.
func linkFiles(folder string, files map[string]file) error {
	wanted := map[string]bool{}

	for name := range files {
		first, _, _ := strings.Cut(strings.TrimPrefix(filepath.Clean("/"+name), "/"), "/")
		wanted[first] = true
	}

	present, err := os.ReadDir(folder)
	if err != nil {
		return err
	}

	for _, entry := range present {
		name := entry.Name()
		if strings.HasPrefix(name, "..") {
			continue
		}

		if wanted[name] {
			delete(wanted, name)
		} else if err := os.Remove(filepath.Join(folder, name)); err != nil {
			return err
		}
	}

	for name := range wanted {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(folder, name)); err != nil {
			return err
		}
	}

	return nil
}

// same says whether a folder holds exactly these files.
func same(folder string, files map[string]file) bool {
	var found []string

	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}

		name, err := filepath.Rel(folder, path)
		found = append(found, name)

		return err
	})
	if err != nil || len(found) != len(files) {
		return false
	}

	return !slices.ContainsFunc(found, func(name string) bool {
		wanted, there := files[name]
		if !there {
			return true
		}

		data, err := os.ReadFile(filepath.Join(folder, name))

		return err != nil || string(data) != string(wanted.data)
	})
}
