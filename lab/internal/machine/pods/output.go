package pods

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A container's log as its runtime writes it and a kubelet names it (Kubernetes, pkg/kubelet/kuberuntime: the log of the CRI):
// a line has the time, the stream, whether it is whole, and what the container wrote.
const (
	machineLogs  = "/var/log"
	podLogs      = "pods"
	containerLog = "containers"

	wholeLine, partOfLine = "F", "P"
	// longestPart of a line is written at once, as containerd does.
	longestPart = 16 << 10
)

// podLogFolder is the name of a pod's folder below /var/log/pods.
func podLogFolder(pod *corev1.Pod) string {
	return pod.Namespace + "_" + pod.Name + "_" + string(pod.UID)
}

// logPath is the file of a container's output; each start has one of its own.
func (r *Runtime) logPath(pod *corev1.Pod, name string, number int32) string {
	return filepath.Join(r.LogFolder, podLogs, podLogFolder(pod), name, fmt.Sprintf("%d.log", number))
}

// logLink is where readers of all logs look for it.
func (r *Runtime) logLink(pod *corev1.Pod, name string, number int32) string {
	file := fmt.Sprintf("%s_%s_%s-%s.log", pod.Name, pod.Namespace, name, containerID(pod.UID, name, number))

	return filepath.Join(r.LogFolder, containerLog, file)
}

// containerID tells the starts of containers apart: as long as a real runtime's.
func containerID(uid types.UID, name string, number int32) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d", uid, name, number))

	return hex.EncodeToString(sum[:])
}

// MakeLogFolders makes the folders of logs, which a kubelet has as soon as it runs.
func (r *Runtime) MakeLogFolders() error {
	return errors.Join(
		os.MkdirAll(filepath.Join(r.LogFolder, podLogs), 0o755),
		os.MkdirAll(filepath.Join(r.LogFolder, containerLog), 0o755),
	)
}

// removeLogs forgets the logs in a pod's folder, with the links to them.
func (r *Runtime) removeLogs(folder string) error {
	links, err := os.ReadDir(filepath.Join(r.LogFolder, containerLog))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}

	var problems []error

	for _, entry := range links {
		link := filepath.Join(r.LogFolder, containerLog, entry.Name())
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, filepath.Join(machineLogs, podLogs, folder)+"/") {
			problems = append(problems, os.Remove(link))
		}
	}

	return errors.Join(errors.Join(problems...), os.RemoveAll(filepath.Join(r.LogFolder, podLogs, folder)))
}

// sweepLogs removes those of pods that went while the machine was off.
func (r *Runtime) sweepLogs(pods []corev1.Pod) error {
	folders, err := os.ReadDir(filepath.Join(r.LogFolder, podLogs))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}

	here := map[string]bool{}
	for i := range pods {
		here[podLogFolder(&pods[i])] = true
	}

	var problems []error

	for _, folder := range folders {
		if !here[folder.Name()] {
			problems = append(problems, r.removeLogs(folder.Name()))
		}
	}

	return errors.Join(problems...)
}

// output takes what one start of a container writes.
type output struct {
	// stdout and stderr are the container's ends of the pipes.
	stdout, stderr *os.File
	// copied is done when all of it is in the log.
	copied sync.WaitGroup
}

// openLog begins the log of a container's start.
func (r *Runtime) openLog(pod *corev1.Pod, name string, number int32) (*output, error) {
	path := r.logPath(pod, name, number)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}

	// A kubelet keeps the last one and that before.
	if number > 1 {
		if err := errors.Join(os.RemoveAll(r.logPath(pod, name, number-2)), os.RemoveAll(r.logLink(pod, name, number-2))); err != nil {
			return nil, err
		}
	}

	if err := r.linkLog(pod, name, number); err != nil {
		return nil, err
	}

	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}

	taken, err := takeOutput(file)
	if err != nil {
		file.Close()
	}

	return taken, err
}

// linkLog makes the link to a log, by the path that the log has on the machine.
func (r *Runtime) linkLog(pod *corev1.Pod, name string, number int32) error {
	below, err := filepath.Rel(r.LogFolder, r.logPath(pod, name, number))
	if err != nil {
		return err
	}

	link := r.logLink(pod, name, number)
	if err := errors.Join(r.MakeLogFolders(), os.RemoveAll(link)); err != nil {
		return err
	}

	return os.Symlink(filepath.Join(machineLogs, below), link)
}

// takeOutput copies two streams into a log until both have ended, and closes it.
func takeOutput(file *os.File) (*output, error) {
	fromOut, stdout, err := os.Pipe()
	if err != nil {
		return nil, err
	}

	fromError, stderr, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, fromOut.Close(), stdout.Close())
	}

	log := &runtimeLog{file: file}
	o := &output{stdout: stdout, stderr: stderr}
	o.copied.Go(func() { log.take("stdout", fromOut) })
	o.copied.Go(func() { log.take("stderr", fromError) })

	go func() {
		o.copied.Wait()
		file.Close()
	}()

	return o, nil
}

// begun closes the ends that only the container is to have.
func (o *output) begun() {
	o.stdout.Close()
	o.stderr.Close()
}

// runtimeLog is a log that two streams are written into.
type runtimeLog struct {
	mu   sync.Mutex
	file *os.File
}

func (l *runtimeLog) take(stream string, from *os.File) {
	defer from.Close()

	reader := bufio.NewReaderSize(from, longestPart)

	for {
		text, err := reader.ReadSlice('\n')
		if len(text) > 0 {
			tag := wholeLine
			if errors.Is(err, bufio.ErrBufferFull) {
				tag = partOfLine
			}

			l.write(stream, tag, bytes.TrimSuffix(text, []byte("\n")))
		}

		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// write adds a line. What a full disk does not take is lost, as on a machine.
func (l *runtimeLog) write(stream, tag string, text []byte) {
	line := fmt.Appendf(nil, "%s %s %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), stream, tag, text)

	l.mu.Lock()
	defer l.mu.Unlock()

	_, _ = l.file.Write(line)
}

// Plain gives what a container wrote from a moment on, out of the whole lines of its log, and the beginning of a line that is
// not whole yet.
func Plain(log []byte, from time.Time) (text, rest []byte) {
	for {
		line, after, whole := bytes.Cut(log, []byte("\n"))
		if !whole {
			return text, log
		}

		log = after

		words := bytes.SplitN(line, []byte(" "), 4)
		if len(words) < 4 {
			continue
		}

		if at, err := time.Parse(time.RFC3339Nano, string(words[0])); err != nil || at.Before(from) {
			continue
		}

		text = append(text, words[3]...)

		if string(words[2]) == wholeLine {
			text = append(text, '\n')
		}
	}
}

// readLog is all that a container wrote; "" when there is no such log.
func readLog(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()

	data, err := io.ReadAll(file)
	if err != nil {
		return ""
	}

	text, _ := Plain(data, time.Time{})

	return string(text)
}
