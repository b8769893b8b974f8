package machine

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	kubeletInterval = time.Second
	systemNamespace = "kube-system"
)

// node is the simulated kubelet: it registers the machine's Node, keeps its lease and conditions, and mirrors
// the static pods. It starts no pod: KWOK plays them.
type node struct {
	boot *boot

	mu      sync.Mutex
	current *corev1.Node
	// beat is when the status was last written, lease when the lease was.
	beat, lease time.Time
}

func newNode(b *boot) *node { return &node{boot: b} }

// run is the kubelet from the machine's boot to its end.
func (n *node) run() {
	b := n.boot

	b.services.running("kubelet")

	if b.provider().Machine().Kubelet().SkipNodeRegistration() {
		return
	}

	var (
		client *kubernetes.Clientset
		last   string
	)

	for ; !b.isStopping(); b.sleep(kubeletInterval) {
		err := n.sync(&client)

		if apierrors.IsUnauthorized(err) {
			// The certificate is of a cluster that is gone: ask for another one.
			client = nil

			b.logError("kubelet", os.RemoveAll(b.machine.path(kubeletFolder)))
		}

		if err != nil {
			if last != err.Error() {
				b.log.Debug("kubelet", "error", err)
			}

			last = err.Error()
		}
	}
}

// sync brings the Node, its lease and the mirror pods up to date once.
func (n *node) sync(client **kubernetes.Clientset) error {
	b := n.boot
	provider := b.provider()

	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()

	if *client == nil {
		made, err := b.kubeletClient(ctx, provider)
		if err != nil {
			return err
		}

		*client = made
	}

	object, err := n.register(ctx, *client, provider)
	if err != nil {
		return err
	}

	if err := n.renewLease(ctx, *client, object); err != nil {
		return err
	}

	// A kubelet may list the pods of its own node only, and get none by name that is not bound to it.
	pods, err := (*client).CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + object.Name})
	if err != nil {
		return err
	}

	if object, err = n.writeStatus(ctx, *client, provider, object, pods.Items); err != nil {
		return err
	}

	n.remember(object)

	if err := n.mirror(ctx, *client, object, pods.Items); err != nil {
		return err
	}

	return n.applyConfigured(ctx, *client, provider, object)
}

func (n *node) remember(object *corev1.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()

	n.current = object
}

// object is the Node as last seen; nil before it is registered.
func (n *node) object() *corev1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()

	return n.current
}

// isReady says whether the registered Node is ready; an error says why not, in Talos' words.
func (n *node) isReady() error {
	name := n.boot.hostname()

	object := n.object()
	if object == nil {
		return fmt.Errorf("node %q status is not available yet", name)
	}

	for _, condition := range object.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}

	return fmt.Errorf("node %q is not ready", name)
}
