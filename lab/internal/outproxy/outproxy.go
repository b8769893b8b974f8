// Package outproxy is the lab's stand-in for a site's HTTP proxy to the internet: CONNECT for TLS, and plain requests.
package outproxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
)

// Proxy is an http.Handler.
type Proxy struct {
	// Resolve gives the address of a name, as the proxy's own name servers know it.
	Resolve func(name string) (string, error)
	// Log gets a line for each place that is asked for.
	Log io.Writer
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	where := r.Host
	if r.Method != http.MethodConnect && r.URL.Host == "" {
		http.Error(w, "this is a proxy: ask it for a URL", http.StatusBadRequest)

		return
	}

	fmt.Fprintln(p.Log, r.Method, where)

	address, err := p.address(where)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)

		return
	}

	if r.Method == http.MethodConnect {
		p.tunnel(w, address)

		return
	}

	(&httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(&url.URL{Scheme: "http", Host: address})
			request.Out.Host = r.Host
			request.Out.URL.Path, request.Out.URL.RawPath = r.URL.Path, r.URL.RawPath
		},
	}).ServeHTTP(w, r)
}

// address is where a host with its port is; a port is missing in plain requests to port 80.
func (p *Proxy) address(where string) (string, error) {
	host, port, err := net.SplitHostPort(where)
	if err != nil {
		host, port = where, "80"
	}

	if net.ParseIP(host) == nil {
		if host, err = p.Resolve(host); err != nil {
			return "", err
		}
	}

	return net.JoinHostPort(host, port), nil
}

func (p *Proxy) tunnel(w http.ResponseWriter, address string) {
	far, err := net.Dial("tcp", address)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)

		return
	}
	defer far.Close()

	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)

		return
	}
	defer near.Close()

	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}

	go func() {
		_, _ = io.Copy(far, buffered) // either side may go at any time
		far.Close()
	}()

	_, _ = io.Copy(near, far) // as above
}
