package vcenter

import (
	"archive/tar"
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func newVim(ctx context.Context, client *soap.Client) (*vim25.Client, error) {
	return vim25.NewClient(ctx, client)
}

func newSession(client *vim25.Client) *session.Manager { return session.NewManager(client) }

// fileOf downloads an OVA and takes one file out of it.
func fileOf(t *testing.T, ova, name string) string {
	t.Helper()
	response, err := http.Get(ova)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	for archive := tar.NewReader(response.Body); ; {
		header, err := archive.Next()
		if err != nil {
			t.Fatalf("%s in %s: %v", name, ova, err)
		}
		if header.Name == name {
			content, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			return string(content)
		}
	}
}

func queryConfigOption(
	ctx context.Context, client *vim25.Client, browser types.ManagedObjectReference,
) (*types.VirtualMachineConfigOption, error) {
	response, err := methods.QueryConfigOption(ctx, client, &types.QueryConfigOption{This: browser})
	if err != nil {
		return nil, err
	}
	return response.Returnval, nil
}
