package vsphereplugin

// Content libraries and their items. An OVA behind an address is not fetched by vCenter: the plugin downloads it and
// uploads the descriptor and the disks.

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/vapi/library"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func contentLibrary() resource {
	return resource{
		token: "vsphere:index/contentLibrary:ContentLibrary",
		fields: []field{
			{name: "name", kind: text, required: true, replaces: true},
			{name: "description", kind: text, replaces: true},
			{name: "storageBackings", kind: textSet, required: true, replaces: true},
			{name: "publication", kind: block, computed: true, replaces: true, fields: []field{
				{name: "authenticationMethod", kind: text, fallback: "NONE"},
				{name: "username", kind: text, computed: true},
				{name: "password", kind: text, computed: true},
				{name: "published", kind: boolean, fallback: false},
				{name: "publishUrl", kind: text, output: true},
			}},
			{name: "subscription", kind: block, unserved: true},
		},
		autoName: true,
		create:   createLibrary, read: readLibrary,
		delete: func(ctx context.Context, vc *vcenter, id string, _ attributes) error {
			return library.NewManager(vc.rest).DeleteLibrary(ctx, &library.Library{ID: id, Type: "LOCAL"})
		},
		find: func(_ context.Context, _ *vcenter, given string, _ attributes) (string, error) { return given, nil },
	}
}

func createLibrary(ctx context.Context, vc *vcenter, a attributes) (string, error) {
	lib := library.Library{Name: a.text("name"), Description: types.New(a.text("description")), Type: "LOCAL"}
	for _, id := range a.texts("storageBackings") {
		if _, err := find.NewFinder(vc.Client.Client).ObjectReference(ctx, ref("Datastore", id)); err != nil {
			return "", fmt.Errorf("storage backing: datastore with ID %q not found: %w", id, err)
		}
		lib.Storage = append(lib.Storage, library.StorageBacking{DatastoreID: id, Type: "DATASTORE"})
	}
	if pub := a.block("publication"); pub != nil {
		lib.Publication = &library.Publication{Published: types.NewBool(pub.flag("published")),
			AuthenticationMethod: pub.text("authenticationMethod"), UserName: pub.text("username"), Password: pub.text("password")}
	}
	return library.NewManager(vc.rest).CreateLibrary(ctx, lib)
}

func readLibrary(ctx context.Context, vc *vcenter, id string, prior attributes) (attributes, error) {
	lib, err := library.NewManager(vc.rest).GetLibraryByID(ctx, id)
	if isGone(err) {
		return nil, errGone
	} else if err != nil {
		return nil, err
	}
	out := prior.clone()
	out["name"], out["description"] = lib.Name, value(lib.Description)
	backings := []any{}
	for _, b := range lib.Storage {
		if b.Type == "DATASTORE" {
			backings = append(backings, b.DatastoreID)
		}
	}
	out["storageBackings"] = backings
	if pub := lib.Publication; pub != nil {
		out["publication"] = map[string]any{"authenticationMethod": pub.AuthenticationMethod, "username": pub.UserName,
			"password":   prior.block("publication").text("password"), // vCenter never tells it
			"publishUrl": pub.PublishURL, "published": value(pub.Published)}
	}
	return out, nil
}

func contentLibraryItem() resource {
	return resource{
		token: "vsphere:index/contentLibraryItem:ContentLibraryItem",
		fields: []field{
			{name: "name", kind: text, required: true, replaces: true},
			{name: "libraryId", kind: text, required: true, replaces: true},
			{name: "description", kind: text, replaces: true},
			{name: "fileUrl", kind: text, replaces: true},
			{name: "type", kind: text, fallback: "ovf", replaces: true},
			{name: "sourceUuid", kind: text, unserved: true},
		},
		autoName: true,
		create:   createItem,
		read: func(ctx context.Context, vc *vcenter, id string, prior attributes) (attributes, error) {
			item, err := library.NewManager(vc.rest).GetLibraryItem(ctx, id)
			if isGone(err) {
				return nil, errGone
			} else if err != nil {
				return nil, err
			}
			out := prior.clone() // vCenter does not remember where the file came from
			out["name"], out["description"] = item.Name, value(item.Description)
			out["type"], out["libraryId"] = item.Type, item.LibraryID
			return out, nil
		},
		delete: func(ctx context.Context, vc *vcenter, id string, _ attributes) error {
			return library.NewManager(vc.rest).DeleteLibraryItem(ctx, &library.Item{ID: id})
		},
		find: func(_ context.Context, _ *vcenter, given string, _ attributes) (string, error) { return given, nil },
	}
}

// createItem makes the item before its files, in the published plugin's order: an import that fails leaves an empty
// item behind, which then stands in the way of the next attempt.
func createItem(ctx context.Context, vc *vcenter, a attributes) (string, error) {
	manager := library.NewManager(vc.rest)
	if _, err := manager.GetLibraryByID(ctx, a.text("libraryId")); err != nil {
		return "", fmt.Errorf("unable to find content library (%s): %w", a.text("libraryId"), err)
	}
	id, err := manager.CreateLibraryItem(ctx, library.Item{Name: a.text("name"),
		Description: types.New(a.text("description")), LibraryID: a.text("libraryId"), Type: a.text("type")})
	if err != nil {
		return "", fmt.Errorf("content library item %s: %w", a.text("name"), err)
	}
	update, err := manager.CreateLibraryItemUpdateSession(ctx, library.Session{LibraryItemID: id})
	if err != nil {
		return "", fmt.Errorf("content library item %s: %w", a.text("name"), err)
	}
	if err := upload(ctx, vc, manager, update, a.text("fileUrl")); err != nil {
		_ = manager.CancelLibraryItemUpdateSession(context.WithoutCancel(ctx), update)
		return "", fmt.Errorf("content library item %s: %w", a.text("name"), err)
	}
	if err := manager.CompleteLibraryItemUpdateSession(ctx, update); err != nil {
		return "", fmt.Errorf("content library item %s: %w", a.text("name"), err)
	}
	return id, nil
}

// upload brings the file into the item: an OVA's descriptor and disks from here, anything else that has an address
// by vCenter itself.
func upload(ctx context.Context, vc *vcenter, manager *library.Manager, update, file string) error {
	remote := strings.HasPrefix(file, "http")
	switch {
	case file == "":
		return errors.New("file_url is empty")
	case strings.HasSuffix(file, ".ova") && remote:
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, file, nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("got status %d (%s) while getting the file from %s", response.StatusCode,
				http.StatusText(response.StatusCode), file)
		}
		return uploadOVA(ctx, vc, manager, update, file, response.Body)
	case strings.HasSuffix(file, ".ova"):
		archive, err := os.Open(file)
		if err != nil {
			return err
		}
		defer func() { _ = archive.Close() }()
		return uploadOVA(ctx, vc, manager, update, file, archive)
	case remote:
		if _, err := manager.AddLibraryItemFileFromURI(ctx, update, path.Base(file), file); err != nil {
			return err
		}
		return manager.WaitOnLibraryItemUpdateSession(ctx, update, time.Second, func() {})
	default:
		return fmt.Errorf("%s: the lab's stand-in for the vsphere plugin imports a local file only when it is an .ova", file)
	}
}

func uploadOVA(ctx context.Context, vc *vcenter, manager *library.Manager, update, file string, archive io.Reader) error {
	descriptor := false
	for entries := tar.NewReader(archive); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s is not an OVA: %w", file, err)
		}
		name := entry.Name
		switch path.Ext(name) {
		case ".ovf":
			descriptor = true
			name = strings.TrimSuffix(path.Base(file), ".ova") + ".ovf"
		case ".mf", ".cert":
			continue // the published plugin uploads what the descriptor refers to
		}
		if err := uploadFile(ctx, vc, manager, update, name, entry.Size, entries); err != nil {
			return fmt.Errorf("uploading %s: %w", name, err)
		}
	}
	if !descriptor {
		return fmt.Errorf("%s holds no .ovf descriptor", file)
	}
	return nil
}

func uploadFile(ctx context.Context, vc *vcenter, manager *library.Manager, update, name string, size int64, from io.Reader) error {
	target, err := manager.AddLibraryItemFile(ctx, update, library.UpdateFile{Name: name, SourceType: "PUSH", Size: size})
	if err != nil {
		return err
	}
	to, err := url.Parse(target.UploadEndpoint.URI)
	if err != nil {
		return err
	}
	options := soap.DefaultUpload
	options.ContentLength = size
	return vc.rest.Upload(ctx, from, to, &options)
}
