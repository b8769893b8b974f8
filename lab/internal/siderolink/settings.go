package siderolink

import (
	"errors"
	"net/url"

	"github.com/siderolabs/talos/pkg/machinery/config"
)

// Settings are what a machine's configuration says of SideroLink (SideroLinkConfig.apiUrl).
type Settings struct {
	// APIURL is the whole of it; it holds the join token.
	APIURL string
	// Host is that of the API, with its port.
	Host string
	// Insecure is the scheme grpc:// instead of https://: without TLS.
	Insecure  bool
	JoinToken string
	// Tunnel asks for WireGuard inside gRPC, for a site that lets no UDP out.
	Tunnel bool
}

// Of are the settings of a configuration; false when it does not have the machine join anything. The URL is read as Talos
// 1.13.9 reads it (internal/pkg/endpoint, controllers/siderolink/config.go).
func Of(provider config.Provider) (Settings, bool) {
	if provider == nil || provider.SideroLink() == nil || provider.SideroLink().APIUrl() == nil {
		return Settings{}, false
	}

	api := provider.SideroLink().APIUrl()
	query := api.Query()

	return Settings{
		APIURL: api.String(), Host: hostOf(api), Insecure: api.Scheme == "grpc", JoinToken: query.Get("jointoken"),
		Tunnel: query.Get("grpc_tunnel") == "true" || query.Get("grpc_tunnel") == "y",
	}, true
}

func hostOf(api *url.URL) string {
	if api.Port() == "" { // gRPC's own default, whatever the scheme
		return api.Host + ":443"
	}

	return api.Host
}

// UniqueToken is the one that a configuration brings along; a machine's META has precedence (controllers/runtime/unique_token.go).
func UniqueToken(provider config.Provider) string {
	if provider == nil || provider.SideroLink() == nil {
		return ""
	}

	return provider.SideroLink().UniqueToken()
}

// provisioned is what the API answered; its endpoints are taken one after the other, until none is left and the API is asked again.
type provisioned struct {
	serverKey string
	server    string
	node      string
	endpoints []string
	// peer is the address by which the tunnel's other end knows this machine; "" is WireGuard over UDP.
	peer string
}

// take gives the next endpoint.
func (p *provisioned) take() (string, error) {
	if len(p.endpoints) == 0 {
		return "", errors.New("host returned no endpoints")
	}

	next := p.endpoints[0]
	p.endpoints = p.endpoints[1:]

	return next, nil
}
