package workloads

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"platform.lab/lab/internal/pki"
	"platform.lab/lab/internal/programs"
)

// noLinks remembers what it was asked for: the tests' addresses are all of 127.0.0.0/8, which lo has.
type noLinks struct {
	mu   sync.Mutex
	held map[netip.Addr]place
}

func (l *noLinks) Add(address netip.Addr, on place) error {
	l.mu.Lock()
	defer l.mu.Unlock()

	l.held[address] = on

	return nil
}

func (l *noLinks) Remove(address netip.Addr, _ place) error {
	l.mu.Lock()
	defer l.mu.Unlock()

	delete(l.held, address)

	return nil
}

func (l *noLinks) has(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()

	_, there := l.held[netip.MustParseAddr(address)]

	return there
}

// bench is a cluster of fake clients.
type bench struct {
	*testing.T
	*cluster
	links  *noLinks
	client *fake.Clientset
	custom *dynamicfake.FakeDynamicClient

	mu      sync.Mutex
	watched map[string]bool
}

func newBench(t *testing.T, objects ...runtime.Object) *bench {
	t.Helper()

	authority, err := pki.New()
	if err != nil {
		t.Fatal(err)
	}

	kinds := map[schema.GroupVersionResource]string{definitionResource: "CustomResourceDefinitionList", apiServiceResource: "APIServiceList"}
	for plural, kind := range map[string]string{issuers: "IssuerList", clusterIssuers: "ClusterIssuerList", certificates: "CertificateList"} {
		kinds[schema.ParseGroupResource(plural).WithVersion("v1")] = kind
	}

	kinds[schema.ParseGroupResource(gatewayClasses).WithVersion("v1")] = "GatewayClassList"
	kinds[schema.ParseGroupResource(tlsStores).WithVersion("v1alpha1")] = "TLSStoreList"
	kinds[schema.ParseGroupResource(ciliumPolicies).WithVersion("v2")] = "CiliumNetworkPolicyList"
	kinds[schema.ParseGroupResource(ciliumClusterPolicies).WithVersion("v2")] = "CiliumClusterwideNetworkPolicyList"

	b := &bench{
		T: t, links: &noLinks{held: map[netip.Addr]place{}},
		client: fake.NewClientset(objects...), custom: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds),
		watched: map[string]bool{},
	}
	b.client.PrependWatchReactor("*", b.watching(b.client.Tracker()))
	b.custom.PrependWatchReactor("*", b.watching(b.custom.Tracker()))
	b.cluster = makeCluster(Cluster{ID: "id", Name: "test"}, Options{
		Dir: t.TempDir(), Bin: t.TempDir(), Links: b.links, Authority: authority, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}, &rest.Config{}, b.client, b.custom)

	return b
}

// watching notes when a watch has begun: the fakes forget what happens between a list and its watch.
func (b *bench) watching(tracker clienttesting.ObjectTracker) clienttesting.WatchReactionFunc {
	return func(action clienttesting.Action) (bool, watch.Interface, error) {
		begun, err := tracker.Watch(action.GetResource(), action.GetNamespace())

		b.mu.Lock()
		defer b.mu.Unlock()

		b.watched[action.GetResource().Resource] = true

		return true, begun, err
	}
}

// heard waits until changes of the resources are seen.
func (b *bench) heard(resources ...string) {
	b.Helper()
	b.until("a watch of all that is needed", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()

		return !slices.ContainsFunc(resources, func(name string) bool { return !b.watched[name] })
	})
}

// start runs parts until the test's end.
func (b *bench) start(runs ...func(context.Context, *cluster) error) {
	b.Helper()

	var all []part
	for _, run := range runs {
		all = append(all, part{run: run})
	}

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)

	go func() { ended <- b.cluster.run(ctx, all) }()

	b.Cleanup(func() {
		cancel()

		if err := <-ended; err != nil {
			b.Error(err)
		}

		if len(b.links.held) > 0 {
			b.Errorf("addresses are left: %v", b.links.held)
		}
	})
	b.heard("pods", "services", "endpointslices", "nodes", "deployments", "certificatesigningrequests",
		"validatingwebhookconfigurations", "mutatingwebhookconfigurations", "secrets", "customresourcedefinitions")
}

// until waits for what must come true.
func (b *bench) until(what string, condition func() bool) {
	b.Helper()

	for deadline := time.Now().Add(2 * time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("never came: %s", what)
		}
	}
}

func readyPod(namespace, name, address string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + name), Labels: labels},
		Spec:       corev1.PodSpec{NodeName: "node01", ServiceAccountName: "default"},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: address, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
}

// define makes a custom resource served.
func (b *bench) define(names ...string) {
	b.Helper()

	for _, name := range names {
		definition := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": name},
			"status": map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}},
		}}

		if _, err := b.custom.Resource(definitionResource).Create(b.Context(), definition, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestEveryPartSaysWhatItIs(t *testing.T) {
	for _, images := range [][]programs.Image{nil, programs.Images()} {
		names := map[string]bool{}

		for _, p := range Parts(images) {
			if p.Name == "" || p.Says == "" || names[p.Name] || !slices.Contains([]string{"real", "stand-in", "simulated"}, p.Kind) {
				t.Errorf("%+v", p)
			}

			names[p.Name] = true
		}
	}
}

func TestAProgramThatRunsIsNotAnsweredForAsWell(t *testing.T) {
	kind := func(images []programs.Image) string {
		for _, p := range Parts(images) {
			if p.Name == metricsServerName {
				return p.Kind
			}
		}

		return ""
	}

	if before, runs := kind(nil), kind(programs.Images()); before != "simulated" || runs != "real" {
		t.Errorf("simulated it is %s, as a process %s", before, runs)
	}

	runs := slices.ContainsFunc(parts(programs.Images()), func(p part) bool { return p.Name == metricsServerName })
	if runs {
		t.Error("two answer for metrics-server")
	}
}

func TestAPartThatFailsIsTriedAgain(t *testing.T) {
	b := newBench(t)
	tries := make(chan struct{}, 4)

	b.start(func(ctx context.Context, _ *cluster) error {
		tries <- struct{}{}

		if len(tries) < 2 {
			return errNotYet
		}

		<-ctx.Done()

		return nil
	})
	b.until("a second try", func() bool { return len(tries) == 2 })
}
