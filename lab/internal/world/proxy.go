package world

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"

	"platform.lab/lab/internal/outproxy"
)

// proxyURL is the proxy to the internet; nil without one.
func (s Settings) proxyURL() *url.URL {
	if s.Network.Proxy == nil {
		return nil
	}
	return parsed(s.Network.Proxy.URL)
}

func (s Settings) proxyHost() string {
	if location := s.proxyURL(); location != nil {
		return location.Hostname()
	}
	return ""
}

// serveProxy serves network.proxy: it reaches what has a name in the world, and logs each place that was asked for.
func serveProxy(answer answerer, l Layout, spec *Spec, addresses map[string]netip.Addr, say func(string, ...any)) error {
	location := spec.Settings.proxyURL()
	if location == nil {
		return nil
	}
	if location.Scheme != "http" {
		return fmt.Errorf("platform:network.proxy.url = %s: the lab's proxy speaks http", location)
	}
	log, err := os.OpenFile(l.path("proxy.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	host := location.Hostname()
	listener, err := listenAt(location, host, "network.proxy.url", nil, addresses[host])
	if err != nil {
		return fmt.Errorf("HTTP proxy: %w", err)
	}
	var handler http.Handler = &outproxy.Proxy{Log: log, Resolve: func(name string) (string, error) {
		if address, known := addresses[name]; known {
			return address.String(), nil
		}
		return "", &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}}
	answer(listener, handler, "HTTP proxy")
	say("HTTP proxy at %s (simulated)", location)
	return nil
}
