package siderolink

import (
	"testing"

	"github.com/siderolabs/talos/pkg/machinery/config/configloader"

	"platform.lab/lab/internal/machine/configtest"
)

func TestTheURLSaysWhereAndHowAMachineJoins(t *testing.T) {
	for url, want := range map[string]Settings{
		"grpc://omni.example.net:8090?jointoken=abc": {Host: "omni.example.net:8090", Insecure: true, JoinToken: "abc"},
		"https://omni.example.net?jointoken=abc&grpc_tunnel=true": {
			Host: "omni.example.net:443", JoinToken: "abc", Tunnel: true,
		},
		"https://omni.example.net:8090?grpc_tunnel=y":     {Host: "omni.example.net:8090", Tunnel: true},
		"https://omni.example.net:8090?grpc_tunnel=false": {Host: "omni.example.net:8090"},
	} {
		provider, err := configloader.NewFromBytes([]byte("apiVersion: v1alpha1\nkind: SideroLinkConfig\nuniqueToken: own\napiUrl: " + url + "\n"))
		if err != nil {
			t.Fatal(err)
		}

		want.APIURL = url

		if got, joins := Of(provider); got != want || !joins || UniqueToken(provider) != "own" {
			t.Errorf("%s: %+v", url, got)
		}
	}

	if settings, joins := Of(configtest.Base(t)); joins {
		t.Errorf("%+v", settings)
	}

	if settings, joins := Of(nil); joins || UniqueToken(nil) != "" {
		t.Errorf("%+v", settings)
	}
}
