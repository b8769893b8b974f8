package omni

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/siderolabs/omni/client/pkg/omni/resources/omni"
	"k8s.io/client-go/transport"

	"platform.lab/lab/internal/httpserver"
)

const (
	// apiServerPort is where a control plane's API server is, in SideroLink too.
	apiServerPort = "6443"
	// apiServerPatience is how long one may take that is well.
	apiServerPatience = 5 * time.Second
)

// balancer is the load balancer of the clusters in SideroLink: their machines find an API server there.
type balancer struct {
	omni *Omni
	link *sideroLink

	mu   sync.Mutex
	open map[string]context.CancelFunc
	all  sync.WaitGroup
}

// serveBalancers keeps a port for each cluster.
func (o *Omni) serveBalancers(ctx context.Context, link *sideroLink) error {
	b := &balancer{omni: o, link: link, open: map[string]context.CancelFunc{}}
	defer b.all.Wait()
	for {
		if err := b.match(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("the load balancer is not as the clusters want it", "error", err)
		}
		if !sleep(ctx, again) {
			return nil
		}
	}
}

func (b *balancer) match(ctx context.Context) error {
	wanted, err := safe.StateListAll[*omni.LoadBalancerConfig](ctx, b.omni.state)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	keep := map[string]bool{}
	for one := range wanted.All() {
		cluster, port := one.Metadata().ID(), one.TypedSpec().Value.BindPort
		keep[cluster] = true
		if b.open[cluster] != nil {
			continue
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(b.link.server.Addr().String(), port))
		if err != nil {
			return err
		}
		inner, cancel := context.WithCancel(ctx)
		b.open[cluster] = cancel
		b.all.Go(func() { b.serve(inner, listener, cluster) })
	}
	for cluster, cancel := range b.open {
		if !keep[cluster] {
			cancel()
			delete(b.open, cluster)
		}
	}
	return nil
}

func (b *balancer) serve(ctx context.Context, listener net.Listener, cluster string) {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		b.all.Go(func() { b.forward(ctx, connection, cluster) })
	}
}

func (b *balancer) forward(ctx context.Context, from net.Conn, cluster string) {
	defer from.Close()
	to, err := b.omni.dialAPIServer(ctx, cluster)
	if err != nil {
		return
	}
	defer to.Close()
	stop := context.AfterFunc(ctx, func() {
		from.Close()
		to.Close()
	})
	defer stop()
	join(from, to)
}

// join carries what either side says to the other until both are silent.
func join(one, other net.Conn) {
	var both sync.WaitGroup
	carry := func(to, from net.Conn) {
		defer both.Done()
		_, _ = io.Copy(to, from) // either end may go at any time
		if half, can := to.(interface{ CloseWrite() error }); can {
			_ = half.CloseWrite()
		}
	}
	both.Add(2)
	go carry(one, other)
	go carry(other, one)
	both.Wait()
}

// dialAPIServer connects to a control plane of a cluster that answers.
func (o *Omni) dialAPIServer(ctx context.Context, cluster string) (net.Conn, error) {
	var faults []error
	addresses, err := o.controlPlaneAddresses(ctx, cluster)
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		connection, err := (&net.Dialer{Timeout: apiServerPatience}).DialContext(ctx, "tcp", net.JoinHostPort(address, apiServerPort))
		if err == nil {
			return connection, nil
		}
		faults = append(faults, err)
	}
	return nil, errors.Join(append(faults, errors.New("no control plane of cluster "+cluster+" answers"))...)
}

func (o *Omni) controlPlaneAddresses(ctx context.Context, cluster string) ([]string, error) {
	found, err := safe.StateGetByID[*omni.Cluster](ctx, o.state, cluster)
	if err != nil {
		return nil, err
	}
	view, err := o.view(ctx, found)
	if err != nil {
		return nil, err
	}
	var addresses []string
	for _, m := range view.controlPlanes() {
		if m.wanted && m.configured() && m.answers() {
			addresses = append(addresses, m.address())
		}
	}
	return addresses, nil
}

// kubernetesReady tells whether an API server of the cluster is ready.
func (o *Omni) kubernetesReady(ctx context.Context, c *clusterView) bool {
	booted, err := known[*omni.ClusterBootstrapStatus](ctx, o.state, omni.NewClusterBootstrapStatus(c.name()))
	if err != nil || booted == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, apiServerPatience)
	defer cancel()
	way, err := o.apiServer(ctx, c.name())
	if err != nil {
		return false
	}
	defer way.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+apiServerName+"/readyz", nil)
	if err != nil {
		return false
	}
	answer, err := way.RoundTrip(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// apiServerName is in the certificate of each API server.
const apiServerName = "kubernetes.default.svc"

// apiServer is the way to an API server of a cluster, as its administrator.
func (o *Omni) apiServer(ctx context.Context, cluster string) (*http.Transport, error) {
	credentials, err := o.kubernetesCredentials(ctx, cluster)
	if err != nil {
		return nil, err
	}
	credentials.ServerName = apiServerName
	return &http.Transport{
		TLSClientConfig: credentials, TLSHandshakeTimeout: apiServerPatience, IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return o.dialAPIServer(ctx, cluster) },
	}, nil
}

// ServeKubernetes answers for the API servers of all clusters until the context ends: what a token says becomes an
// impersonation.
func (o *Omni) ServeKubernetes(ctx context.Context, listener net.Listener, certificate *tls.Certificate) error {
	if certificate != nil {
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12})
	}
	proxy := &kubernetesProxy{omni: o, ways: map[string]*http.Transport{}}
	defer proxy.close()
	return httpserver.Serve(ctx, listener, &http.Server{Handler: proxy}, o.log)
}

// kubernetesProxy keeps a way to each cluster that was asked for.
type kubernetesProxy struct {
	omni *Omni

	mu   sync.Mutex
	ways map[string]*http.Transport
}

func (p *kubernetesProxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, way := range p.ways {
		way.CloseIdleConnections()
	}
}

// way: a cluster that was made anew has another authority, and its UUID tells.
func (p *kubernetesProxy) way(ctx context.Context, cluster string) (*http.Transport, error) {
	id, err := safe.StateGetByID[*omni.ClusterUUID](ctx, p.omni.state, cluster)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if way := p.ways[id.TypedSpec().Value.Uuid]; way != nil {
		return way, nil
	}
	way, err := p.omni.apiServer(ctx, cluster)
	if err == nil {
		p.ways[id.TypedSpec().Value.Uuid] = way
	}
	return way, err
}

// ServeHTTP checks the token of a request and passes it on as the token's user.
func (p *kubernetesProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	who, err := p.omni.readToken(token)
	if err != nil {
		p.omni.log.Info("token of the Kubernetes proxy refused", "error", err)
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	way, err := p.way(r.Context(), who.Cluster)
	if err != nil {
		http.Error(w, "cluster not found", http.StatusNotFound)
		return
	}
	forward := &httputil.ReverseProxy{
		Transport: way,
		Rewrite: func(request *httputil.ProxyRequest) {
			request.Out.URL.Scheme, request.Out.URL.Host, request.Out.Host = "https", apiServerName, ""
			request.Out.Header.Del("Authorization")
			for name := range request.Out.Header {
				if strings.HasPrefix(name, "Impersonate-") {
					request.Out.Header.Del(name)
				}
			}
			request.Out.Header.Set(transport.ImpersonateUserHeader, who.Subject)
			for _, group := range who.Groups {
				request.Out.Header.Add(transport.ImpersonateGroupHeader, group)
			}
		},
		FlushInterval: -1, // watches
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			p.omni.log.Info("the Kubernetes proxy reaches no API server", "cluster", who.Cluster, "error", err)
			http.Error(w, "Bad Gateway", http.StatusBadGateway)
		},
	}
	forward.ServeHTTP(w, r)
}

// removeNode takes a removed machine's Node out of Kubernetes. Where that fails Kubernetes keeps a Node that is not ready,
// which ends nothing.
func (o *Omni) removeNode(ctx context.Context, c *clusterView, m *member) {
	name := m.hostname()
	if c.leaving() || name == "" {
		return
	}
	way, err := o.apiServer(ctx, c.name())
	if err != nil {
		return
	}
	defer way.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodDelete, "https://"+apiServerName+"/api/v1/nodes/"+url.PathEscape(name), nil)
	if err != nil {
		return
	}
	answer, err := way.RoundTrip(request)
	if err != nil {
		o.log.Warn("the Node of a removed machine stays", "cluster", c.name(), "node", name, "error", err)
		return
	}
	defer answer.Body.Close()
	o.log.Info("Node removed", "cluster", c.name(), "node", name, "status", answer.Status)
}
