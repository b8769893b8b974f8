package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"platform.lab/lab/internal/machine/container"
	"platform.lab/lab/internal/machine/isolated"
	"platform.lab/lab/internal/machine/lifetime"
	"platform.lab/lab/internal/network"
	"platform.lab/lab/internal/programs"
)

// TestMain is three programs: the tests, in namespaces of their own; the lab's program in a container; and the program of
// the containers.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == container.Command:
		_ = container.Inside()

		os.Exit(1)
	case filepath.Base(os.Args[0]) == "actor":
		act(os.Args[1:])
		os.Exit(0)
	}

	isolated.Main(m)
}

// facts are what the containers' program sees of its container.
type facts struct {
	Arguments, Environment []string
	Folder, Hostname       string
	User, PID              int
	Files                  map[string]string
	Writable               map[string]bool
	Addresses              []string
	Capabilities           string
}

// patience is how long a test waits for what must come. On a busy machine a program may not run for seconds.
const patience = 2 * time.Minute

// waits is what a program of the tests says when it has chosen what SIGTERM does to it. A pod without probes is ready before
// that, and a Go program that is process 1 and has no handler yet ends with code 2.
const waits = "waits"

// act is the program of the tests' containers. Its words: tell FILE... prints facts; exit CODE; say TEXT; last TEXT writes the
// termination message; write FILE TEXT; serve PORT answers by the file /data/well; sleep; deaf sleeps and ignores SIGTERM.
func act(words []string) {
	take := func() string {
		word := words[0]
		words = words[1:]

		return word
	}

	for len(words) > 0 {
		switch take() {
		case "tell":
			tell(words)

			return
		case "exit":
			code, _ := strconv.Atoi(take())
			os.Exit(code)
		case "say":
			fmt.Println(take())
		case "last":
			_ = os.WriteFile("/dev/termination-log", []byte(take()), 0o600)
		case "write":
			if err := os.WriteFile(take(), []byte(take()), 0o600); err != nil {
				fmt.Println(err)
				os.Exit(3)
			}
		case "eat":
			size, _ := strconv.Atoi(take())
			eaten := make([]byte, size<<20)

			for i := range eaten {
				eaten[i] = 1
			}

			time.Sleep(time.Minute)
			fmt.Println(eaten[0])
		case "spin":
			for used := (unix.Rusage{}); used.Utime.Nano() < int64(500*time.Millisecond); {
				_ = unix.Getrusage(unix.RUSAGE_SELF, &used)
			}
		case "serve":
			serve(take())
		case "deaf":
			signal.Ignore(syscall.SIGTERM)
			fmt.Println(waits)
			time.Sleep(time.Hour)
		case "sleep":
			terms := make(chan os.Signal, 1)
			signal.Notify(terms, syscall.SIGTERM)
			fmt.Println(waits)
			<-terms
			fmt.Println("asked to end")

			return
		}
	}
}

func serve(port string) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text, err := os.ReadFile("/data" + r.URL.Path); err != nil {
			http.Error(w, "no", http.StatusServiceUnavailable)
		} else {
			_, _ = w.Write(text)
		}
	})
	fmt.Println(http.ListenAndServe(":"+port, handler))
}

func tell(paths []string) {
	seen := facts{Arguments: paths, Environment: os.Environ(), User: os.Getuid(), PID: os.Getpid(), Files: map[string]string{}, Writable: map[string]bool{}}
	seen.Folder, _ = os.Getwd()
	seen.Hostname, _ = os.Hostname()

	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			data = []byte(err.Error())
		}

		seen.Files[path] = string(data)
		seen.Writable[path] = unix.Access(path, unix.W_OK) == nil
	}

	seen.Writable["/"] = os.WriteFile("/probe", nil, 0o600) == nil

	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if rights, ok := strings.CutPrefix(line, "CapEff:"); ok {
			seen.Capabilities = strings.TrimSpace(rights)
		}
	}

	addresses, _ := net.InterfaceAddrs()
	for _, one := range addresses {
		seen.Addresses = append(seen.Addresses, one.String())
	}

	_ = json.NewEncoder(os.Stdout).Encode(seen)
}

// machine is a node with a network, whose pods the tests write.
type machine struct {
	*testing.T
	*network.Namespace

	life    *lifetime.Lifetime
	client  *fake.Clientset
	runtime *Runtime
	node    *corev1.Node
	pods    map[types.UID]bool
}

var (
	gateway = netip.MustParsePrefix("192.0.2.254/24")
	own     = netip.MustParsePrefix("192.0.2.11/24")
)

func (m *machine) Address() netip.Addr     { return own.Addr() }
func (m *machine) Resolvers() []netip.Addr { return []netip.Addr{gateway.Addr()} }

// DialContext is the namespace's; both embedded types have something of that name.
func (m *machine) DialContext(ctx context.Context, protocol, address string) (net.Conn, error) {
	return m.Namespace.DialContext(ctx, protocol, address)
}

func newMachine(t *testing.T) *machine {
	t.Helper()

	bridge, err := network.NewBridge("lab0", gateway)
	if err != nil {
		t.Fatal(err)
	}

	space, err := bridge.NewNamespace("vm1")
	if err != nil {
		t.Fatal(err)
	}

	if err := space.AddAddress(own); err != nil {
		t.Fatal(err)
	}

	if err := space.SetDefaultRoute(gateway.Addr()); err != nil {
		t.Fatal(err)
	}

	bin := t.TempDir()
	if err := os.Symlink("/proc/self/exe", filepath.Join(bin, "unused")); err != nil {
		t.Fatal(err)
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}

	if err := os.Link(self, filepath.Join(bin, "actor")); err != nil {
		copyProgram(t, self, filepath.Join(bin, "actor"))
	}

	m := &machine{T: t, Namespace: space, pods: map[types.UID]bool{}}
	m.life = lifetime.New(t.Context(), slog.New(slog.DiscardHandler))
	m.client = fake.NewClientset(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: "https", Port: 443}}},
	})
	m.client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "token" {
			return false, nil, nil
		}

		return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: "a.token"}}, nil
	})

	m.node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node01"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.0.0/24"}}
	m.node.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	m.runtime = New(Settings{
		Lifetime: m.life, Bin: bin, Self: []string{self}, Folder: t.TempDir(), LogFolder: filepath.Join(bin, "var", "log"), Network: m,
		Images:   []programs.Image{{Repository: "example/actor", Files: map[string]string{"/usr/local/bin/actor": "actor"}, Entrypoint: []string{"actor"}, User: 65532}},
		HostPath: func(path string) (string, bool) { return filepath.Join(bin, path), strings.HasPrefix(path, "/var") },
		Cluster:  func() (string, []string) { return "cluster.local", []string{"10.96.0.10"} },
		Log:      slog.New(slog.DiscardHandler),
		Routed: func(_ *corev1.Pod, address netip.Addr, there bool) error {
			if there {
				return network.AddRoute(address, own.Addr())
			}

			return network.RemoveRoute(address)
		},
	})

	t.Cleanup(func() {
		m.life.Cut()
		m.life.Wait()
		space.Close()
		bridge.Close()
	})

	return m
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()

	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}

	if err != nil {
		t.Fatal(err)
	}
}

// pod is one of a single container with these arguments.
func pod(name string, arguments ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "apps", UID: types.UID("uid-" + name), Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName: "node01", ServiceAccountName: "default", RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{Name: "main", Image: "example/actor:1", Args: arguments}},
		},
	}
}

// create gives a pod to the machine.
func (m *machine) create(p *corev1.Pod) {
	m.Helper()

	if _, err := m.client.CoreV1().Pods(p.Namespace).Create(m.Context(), p, metav1.CreateOptions{}); err != nil {
		m.Fatal(err)
	}

	m.sync()
}

// delete asks for a pod's end as an API server does. The fake one lets a status that was written meanwhile undo it, where a
// real one refuses what is stale.
func (m *machine) delete(p *corev1.Pod, grace int64) {
	m.Helper()

	end := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds, p.Finalizers = &end, &grace, []string{"test/keeps-it"}

	if err := m.client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), p, "apps"); err != nil {
		m.Fatal(err)
	}
}

func (m *machine) sync() {
	m.Helper()

	list, err := m.client.CoreV1().Pods("").List(m.Context(), metav1.ListOptions{})
	if err != nil {
		m.Fatal(err)
	}

	m.runtime.Sync(m.client, m.node, true, list.Items)
}

// until waits for a pod to be as wanted; it is given as the API has it.
func (m *machine) until(name, what string, wanted func(*corev1.Pod) bool) *corev1.Pod {
	m.Helper()

	var last *corev1.Pod

	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		m.sync()

		found, err := m.client.CoreV1().Pods("apps").Get(m.Context(), name, metav1.GetOptions{})
		if err != nil {
			m.Fatal(err)
		}

		if last = found; wanted(found) {
			return found
		}
	}

	text, _ := json.MarshalIndent(last.Status, "", " ")
	m.Fatalf("%s is not %s: %s\nlog: %s", name, what, text, m.log(name))

	return nil
}

func (m *machine) log(name string) string {
	found, err := m.client.CoreV1().Pods("apps").Get(m.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}

	data, err := os.ReadFile(m.runtime.LogFile(found, "main", false))
	if err != nil {
		return err.Error()
	}

	text, _ := Plain(data, time.Time{})

	return string(text)
}

// facts of a pod that told them.
func (m *machine) facts(name string) facts {
	m.Helper()

	m.until(name, "over", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })

	var seen facts
	if err := json.Unmarshal([]byte(m.log(name)), &seen); err != nil {
		m.Fatal(err, m.log(name))
	}

	return seen
}

func isPodReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(one corev1.PodCondition) bool {
		return one.Type == corev1.PodReady && one.Status == corev1.ConditionTrue
	})
}

func first(p *corev1.Pod) corev1.ContainerStatus {
	if len(p.Status.ContainerStatuses) == 0 {
		return corev1.ContainerStatus{}
	}

	return p.Status.ContainerStatuses[0]
}

func TestAContainerSeesWhatItsPodSays(t *testing.T) {
	m := newMachine(t)
	_, _ = m.client.CoreV1().ConfigMaps("apps").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "apps"}, Data: map[string]string{"colour": "blue", "file.txt": "text"},
	}, metav1.CreateOptions{})
	_, _ = m.client.CoreV1().Secrets("apps").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "hidden", Namespace: "apps"}, Data: map[string][]byte{"word": []byte("sesame")},
	}, metav1.CreateOptions{})

	files := []string{"/var/run/secrets/token", "/run/secrets/token", "/etc/hosts", "/etc/resolv.conf", "/config/file.txt", "/projected/token", "/projected/labels", "/one/file.txt", "/empty", "/etc/shadow"}
	p := pod("facts", append([]string{"tell"}, files...)...)
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	user, yes := int64(1234), true
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsNonRoot: &yes}

	c := &p.Spec.Containers[0]
	c.Args = append(c.Args, "$(GREETING)", "$$(GREETING)", "$(UNKNOWN)")
	c.WorkingDir = "/empty"
	c.SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")}
	from := func(source corev1.EnvVarSource) *corev1.EnvVarSource { return &source }
	c.Env = []corev1.EnvVar{
		{Name: "NAME", ValueFrom: from(corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}})},
		{Name: "ADDRESS", ValueFrom: from(corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}})},
		{Name: "WORD", ValueFrom: from(corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "hidden"}, Key: "word"}})},
		{Name: "MEMORY", ValueFrom: from(corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}})},
		{Name: "CPU", ValueFrom: from(corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}})},
		{Name: "GREETING", Value: "hello $(NAME) at $(KUBERNETES_SERVICE_HOST)"},
	}
	c.EnvFrom = []corev1.EnvFromSource{{Prefix: "SET_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}
	settings := corev1.LocalObjectReference{Name: "settings"}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: settings}}},
		{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "projected", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		}}}},
	}
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "projected", MountPath: "/var/run/secrets"}, {Name: "config", MountPath: "/config", ReadOnly: true}, {Name: "empty", MountPath: "/empty"}, {Name: "projected", MountPath: "/projected"},
		{Name: "config", MountPath: "/one/file.txt", SubPath: "file.txt"},
	}

	m.create(p)
	seen := m.facts("facts")

	for path, wanted := range map[string]string{
		"/var/run/secrets/token": "a.token", "/run/secrets/token": "a.token", "/config/file.txt": "text", "/one/file.txt": "text", "/projected/token": "a.token", "/projected/labels": `app="facts"`,
		"/etc/resolv.conf": "search apps.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
	} {
		if seen.Files[path] != wanted {
			t.Errorf("%s: %q", path, seen.Files[path])
		}
	}

	address := m.until("facts", "there", func(p *corev1.Pod) bool { return p.Status.PodIP != "" }).Status.PodIP
	if !strings.Contains(seen.Files["/etc/hosts"], address+"\tfacts") || !slices.Contains(seen.Addresses, address+"/32") {
		t.Errorf("hosts %q, addresses %q", seen.Files["/etc/hosts"], seen.Addresses)
	}

	for _, wanted := range []string{
		"NAME=facts", "ADDRESS=" + address, "WORD=sesame", "MEMORY=512", "CPU=4", "SET_colour=blue", "GREETING=hello facts at 10.96.0.1",
		"KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443", "HOSTNAME=facts",
	} {
		if !slices.Contains(seen.Environment, wanted) {
			t.Errorf("%s is not in %q", wanted, seen.Environment)
		}
	}

	if strings.Contains(strings.Join(seen.Environment, " "), isolated.Variable) {
		t.Errorf("the lab's own environment: %q", seen.Environment)
	}

	if got := seen.Arguments[len(files):]; !slices.Equal(got, []string{"hello facts at 10.96.0.1", "$(GREETING)", "$(UNKNOWN)"}) {
		t.Errorf("arguments %q", got)
	}

	if seen.User != 1234 || seen.PID != 1 || seen.Folder != "/empty" || seen.Hostname != "facts" || strings.Trim(seen.Capabilities, "0") != "" {
		t.Errorf("%+v", seen)
	}

	if seen.Writable["/"] || !seen.Writable["/empty"] || seen.Writable["/config/file.txt"] {
		t.Errorf("writable: %v", seen.Writable)
	}

	if !strings.Contains(seen.Files["/etc/shadow"], "no such file") {
		t.Error("the computer's own /etc is in the container")
	}
}

func TestAContainerThatFailsIsStartedAgainAfterAPauseThatGrows(t *testing.T) {
	m := newMachine(t)
	m.create(pod("crash", "say", "before", "last", "no luck", "exit", "7"))

	p := m.until("crash", "held back", func(p *corev1.Pod) bool {
		wait := first(p).State.Waiting

		return wait != nil && wait.Reason == "CrashLoopBackOff"
	})

	status := first(p)
	if status.RestartCount != 1 || status.State.Waiting.Message != "back-off 10s restarting failed container=main pod=crash_apps(uid-crash)" {
		t.Errorf("%+v", status)
	}

	if ended := status.LastTerminationState.Terminated; ended == nil || ended.ExitCode != 7 || ended.Message != "no luck" || ended.Reason != "Error" {
		t.Errorf("%+v", ended)
	}

	if p.Status.Phase != corev1.PodRunning || isPodReady(p) {
		t.Errorf("%+v", p.Status)
	}

	if previous := m.runtime.LogFile(p, "main", true); previous == "" || previous == m.runtime.LogFile(p, "main", false) {
		t.Errorf("the log before: %q", previous)
	}
}

func TestAContainersLogIsWhereReadersOfAMachineLookForIt(t *testing.T) {
	m := newMachine(t)
	m.create(pod("talks", "say", "hello", "sleep"))
	m.until("talks", "waiting", func(*corev1.Pod) bool { return strings.Contains(m.log("talks"), waits) })

	talks := m.until("talks", "running", func(p *corev1.Pod) bool { return first(p).State.Running != nil })
	id, _ := strings.CutPrefix(first(talks).ContainerID, "process://")
	file := "/var/log/pods/apps_talks_" + string(talks.UID) + "/main/0.log"
	link := "/var/log/containers/talks_apps_main-" + id + ".log"

	reader := pod("reader", "tell", link, file)
	reader.Spec.RestartPolicy = corev1.RestartPolicyNever
	reader.Spec.Volumes = []corev1.Volume{{Name: "logs", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/log"}}}}
	reader.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "logs", MountPath: "/var/log", ReadOnly: true}}
	m.create(reader)

	seen := m.facts("reader")
	line := regexp.MustCompile(`^\d{4}-\d\d-\d\dT[\d:.]+Z stdout F hello\n`)

	if !line.MatchString(seen.Files[link]) || seen.Files[link] != seen.Files[file] {
		t.Errorf("by the link %q, in the file %q", seen.Files[link], seen.Files[file])
	}

	var now int64

	if err := m.client.CoreV1().Pods("apps").Delete(t.Context(), "talks", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}

	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		m.sync()

		_, err := os.Lstat(filepath.Join(m.runtime.LogFolder, strings.TrimPrefix(link, "/var/log")))
		_, other := os.Stat(filepath.Join(m.runtime.LogFolder, strings.TrimPrefix(file, "/var/log")))

		if errors.Is(err, fs.ErrNotExist) && errors.Is(other, fs.ErrNotExist) {
			return
		}

		if time.Now().After(end) {
			t.Fatal("the logs of a pod that is gone are still there")
		}
	}
}

func TestInitContainersRunInOrderAndASidecarGoesOn(t *testing.T) {
	m := newMachine(t)
	p := pod("ordered", "tell", "/data/first", "/data/second")
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	mounts := []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	p.Spec.Containers[0].VolumeMounts = mounts
	goesOn := corev1.ContainerRestartPolicyAlways
	p.Spec.InitContainers = []corev1.Container{
		{Name: "one", Image: "example/actor", Args: []string{"write", "/data/first", "1"}, VolumeMounts: mounts},
		{Name: "beside", Image: "example/actor", Args: []string{"sleep"}, RestartPolicy: &goesOn},
		{Name: "two", Image: "example/actor", Args: []string{"write", "/data/second", "2"}, VolumeMounts: mounts},
	}
	m.create(p)

	seen := m.facts("ordered")
	if seen.Files["/data/first"] != "1" || seen.Files["/data/second"] != "2" {
		t.Errorf("%v", seen.Files)
	}
}

func TestProbesDecideWhetherAPodIsReadyAndWhenItIsStartedAgain(t *testing.T) {
	m := newMachine(t)
	p := pod("probed", "serve", "80")
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	c := &p.Spec.Containers[0]
	c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}
	get := func(path string) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("http")}}
	}
	c.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}, PeriodSeconds: 1, FailureThreshold: 30}
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: get("/ready"), PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 30}
	c.LivenessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", "test ! -e /data/dead"}}},
		PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 30, // a shell that starts late is no sign of death
	}
	grace := int64(1)
	p.Spec.TerminationGracePeriodSeconds = &grace
	m.create(p)

	m.until("probed", "started", func(p *corev1.Pod) bool { return first(p).Started != nil && *first(p).Started })

	data := filepath.Join(m.runtime.Folder, "uid-probed", "volumes", "data")
	if err := os.WriteFile(filepath.Join(data, "ready"), []byte("yes"), 0o644); err != nil {
		t.Fatal(err)
	}

	p = m.until("probed", "ready", isPodReady)

	// From the lab, as the proxy of Services reaches it.
	answer, err := http.Get("http://" + p.Status.PodIP + "/ready")
	if err != nil {
		t.Fatal(err)
	}

	answer.Body.Close()

	if err := os.Remove(filepath.Join(data, "ready")); err != nil {
		t.Fatal(err)
	}

	m.until("probed", "not ready", func(p *corev1.Pod) bool { return !isPodReady(p) })

	if err := os.WriteFile(filepath.Join(data, "dead"), nil, 0o644); err != nil {
		t.Fatal(err)
	}

	m.until("probed", "started again", func(p *corev1.Pod) bool { return first(p).RestartCount > 0 })
}

func TestAPodThatIsDeletedIsAskedToEndAndThenGone(t *testing.T) {
	for name, one := range map[string]struct {
		word  string
		grace int64
		code  int32
	}{"listens": {"sleep", 60, 0}, "deaf": {"deaf", 1, 137}} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.create(pod(name, one.word))
			m.until(name, "waiting", func(*corev1.Pod) bool { return strings.Contains(m.log(name), waits) })

			var last int32 = -1

			m.client.PrependReactor("update", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
				update, _ := action.(clienttesting.UpdateAction)
				if updated, ok := update.GetObject().(*corev1.Pod); ok && first(updated).State.Terminated != nil {
					last = first(updated).State.Terminated.ExitCode
				}

				return false, nil, nil
			})

			for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
				p, err := m.client.CoreV1().Pods("apps").Get(t.Context(), name, metav1.GetOptions{})
				if err != nil {
					break
				}

				if time.Now().After(end) {
					t.Fatal("it is still there")
				}

				if p.DeletionTimestamp == nil {
					m.delete(p, one.grace)
				}

				m.sync()
			}

			if last != one.code {
				t.Errorf("exit code %d", last)
			}
		})
	}
}

func TestALimitOfMemoryEndsAContainer(t *testing.T) {
	m := newMachine(t)
	p := pod("hungry", "eat", "200")
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	m.create(p)

	m.until("hungry", "killed", func(p *corev1.Pod) bool {
		for _, state := range []corev1.ContainerState{first(p).State, first(p).LastTerminationState} {
			if state.Terminated != nil && state.Terminated.Reason == "OOMKilled" && state.Terminated.ExitCode == 137 {
				return true
			}
		}

		return false
	})
}

func TestWhatCannotStartSaysWhy(t *testing.T) {
	yes, root := true, int64(0)

	for name, one := range map[string]struct {
		change func(*corev1.Pod)
		reason string
		words  string
	}{
		"program": {func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"no-such-program"} }, "StartError", "executable file not found in $PATH"},
		"secret": {func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "missing"}}}}
		}, "CreateContainerConfigError", `secrets "missing" not found`},
		"root": {func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &root, RunAsNonRoot: &yes}
		}, "CreateContainerConfigError", "runAsNonRoot"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			p := pod(name, "sleep")
			one.change(p)
			m.create(p)

			m.until(name, "refused", func(p *corev1.Pod) bool {
				for _, state := range []corev1.ContainerState{first(p).State, first(p).LastTerminationState} {
					if state.Waiting != nil && state.Waiting.Reason == one.reason && strings.Contains(state.Waiting.Message, one.words) ||
						state.Terminated != nil && state.Terminated.Reason == one.reason && strings.Contains(state.Terminated.Message, one.words) {
						return true
					}
				}

				return false
			})
		})
	}
}

func TestAContainerThatCannotBeStartedIsHeldBackToo(t *testing.T) {
	m := newMachine(t)
	p := pod("absent", "sleep")
	p.Spec.Containers[0].Command = []string{"no-such-program"}
	m.create(p)

	m.until("absent", "held back", func(p *corev1.Pod) bool {
		wait := first(p).State.Waiting

		return wait != nil && wait.Reason == "CrashLoopBackOff" && first(p).RestartCount == 1
	})
}

func TestUseIsMeasured(t *testing.T) {
	m := newMachine(t)
	m.create(pod("busy", "spin", "sleep"))
	m.until("busy", "running", isPodReady)

	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		use := m.runtime.Used()["uid-busy"]["main"]
		if use.Seconds > 0.4 && use.Bytes > 1<<20 {
			return
		}

		if time.Now().After(end) {
			t.Fatalf("%+v", use)
		}
	}
}

func TestACommandRunsInAPod(t *testing.T) {
	m := newMachine(t)
	m.create(pod("target", "sleep"))
	m.until("target", "running", isPodReady)

	var out strings.Builder

	err := m.runtime.Executor("apps").ExecInContainer(t.Context(), "target", "", "main", []string{"/bin/sh", "-c", "hostname; id -u; exit 3"}, nil, closing{&out}, closing{&out}, false, nil, 0)
	if err == nil || !strings.Contains(err.Error(), "3") || out.String() != "target\n65532\n" {
		t.Errorf("%v: %q", err, out.String())
	}
}

type closing struct{ *strings.Builder }

func (closing) Close() error { return nil }

func TestPodsOfUnknownImagesAreLeftAlone(t *testing.T) {
	m := newMachine(t)
	p := pod("other")
	p.Spec.Containers[0].Image = "example/other:1"

	if m.runtime.Owns(p) {
		t.Error("owned")
	}

	p.Spec.Containers[0].Image = "example/actor@sha256:00"
	p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}

	if m.runtime.Owns(p) || (*Runtime)(nil).Owns(pod("any")) {
		t.Error("a mirror pod, or one without a runtime, is owned")
	}
}

func TestAProgramOfTheComputerBehindALinkStaysAsItIs(t *testing.T) {
	folder := t.TempDir()
	program, link := filepath.Join(folder, "program"), filepath.Join(folder, "link")

	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}

	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}

	for path, wanted := range map[string]bool{program: true, link: false, filepath.Join(folder, "missing"): false, "/no/folder": false} {
		if got := isPlain(path); got != wanted {
			t.Errorf("%s: %t", path, got)
		}
	}
}
