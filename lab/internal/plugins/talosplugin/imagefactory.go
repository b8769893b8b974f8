package talosplugin

// Layer: imageFactory/schematic:Schematic, which registers a schematic with the image factory, and
// imageFactory/getUrls, which names what the factory makes of it.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/siderolabs/talos/pkg/machinery/platforms"
	"golang.org/x/mod/semver"
	"gopkg.in/yaml.v3"

	"platform.lab/lab/internal/plugins"
)

// maxAnswer bounds what is read of the factory's answer, in bytes.
const maxAnswer = 1 << 16

type schematicResource struct{ config *config }

func (schematicResource) schema() schema {
	return schema{"schematic": {kind: text, valid: validSchematic}}
}

func (schematicResource) check(property.Map) []p.CheckFailure { return nil }

func (schematicResource) plan(_ context.Context, inputs, _ property.Map) (plan, error) {
	return plan{outputs: inputs}, nil
}

func (r schematicResource) create(ctx context.Context, planned property.Map) (string, property.Map, error) {
	id, err := r.config.registerSchematic(ctx, plugins.TextOf(planned, "schematic"))
	if err != nil {
		return "", property.Map{}, fmt.Errorf("failed to create schematic: %w", err)
	}

	return id, planned, nil
}

// update registers the new schematic; the output `id` becomes the new one's.
func (r schematicResource) update(ctx context.Context, planned, _ property.Map) (property.Map, error) {
	id, err := r.config.registerSchematic(ctx, plugins.TextOf(planned, "schematic"))
	if err != nil {
		return property.Map{}, fmt.Errorf("failed to update schematic: %w", err)
	}

	return withID(planned, id), nil
}

func (schematicResource) delete(context.Context, property.Map) error { return nil }

func (schematicResource) adopt(id string) (string, property.Map, error) {
	return "", property.Map{}, errNoImport(id)
}

// schematic is the document that the factory takes (image-factory's POST /schematics).
type schematic struct {
	Overlay *struct {
		Name    string         `yaml:"name,omitempty"`
		Image   string         `yaml:"image,omitempty"`
		Options map[string]any `yaml:"options,omitempty"`
	} `yaml:"overlay,omitempty"`
	Customization struct {
		ExtraKernelArgs []string `yaml:"extraKernelArgs,omitempty"`
		Meta            []struct {
			Key   uint8  `yaml:"key"`
			Value string `yaml:"value"`
		} `yaml:"meta,omitempty"`
		SystemExtensions *struct {
			OfficialExtensions []string `yaml:"officialExtensions,omitempty"`
		} `yaml:"systemExtensions,omitempty"`
		SecureBoot *struct {
			IncludeWellKnownCertificates bool `yaml:"includeWellKnownCertificates,omitempty"`
		} `yaml:"secureboot,omitempty"`
		Bootloader string `yaml:"bootloader,omitempty"`
	} `yaml:"customization"`
}

func parseSchematic(document string) (schematic, error) {
	decoder := yaml.NewDecoder(bytes.NewBufferString(document))
	decoder.KnownFields(true)

	var parsed schematic
	if err := decoder.Decode(&parsed); err != nil && !errors.Is(err, io.EOF) {
		return schematic{}, fmt.Errorf("failed to unmarshal schematic: %w", err)
	}

	return parsed, nil
}

func validSchematic(document string) error {
	_, err := parseSchematic(document)

	return err
}

// registerSchematic posts a schematic, the vanilla one when the document is empty, and returns its id.
func (c *config) registerSchematic(ctx context.Context, document string) (string, error) {
	parsed, err := parseSchematic(document)
	if err != nil {
		return "", err
	}

	body, err := yaml.Marshal(parsed)
	if err != nil {
		return "", err
	}

	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.imageFactoryURL+"/schematics", bytes.NewReader(body))
	if err != nil {
		return "", err
	}

	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()

	return schematicID(answer)
}

func schematicID(answer *http.Response) (string, error) {
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return "", err
	}

	if answer.StatusCode/100 != 2 {
		return "", fmt.Errorf("HTTP %d: %s", answer.StatusCode, bytes.TrimSpace(content))
	}

	var created struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(content, &created); err != nil || created.ID == "" {
		return "", fmt.Errorf("the image factory at %s answered without a schematic id", answer.Request.URL)
	}

	return created.ID, nil
}

func (c *config) urlsFunction() function {
	return function{
		arguments: schema{
			"architecture": {kind: text, oneOf: []string{"amd64", "arm64"}},
			"talosVersion": requiredText,
			"schematicId":  requiredText,
			"platform":     {kind: text, required: true, oneOf: platformNames()},
		},
		call: c.getURLs,
	}
}

func (c *config) getURLs(_ context.Context, arguments property.Map) (property.Map, error) {
	arguments = arguments.Set("architecture", or(arguments.Get("architecture"), property.New("amd64")))

	version := withV(plugins.TextOf(arguments, "talosVersion"))
	if !semver.IsValid(version) {
		return property.Map{}, errors.New("talos_version is not valid: The provided version is not a valid semantic version.") //nolint:staticcheck // the provider's own words
	}

	base, err := url.Parse(c.imageFactoryURL)
	if err != nil {
		return property.Map{}, fmt.Errorf("failed to parse image factory base URL: %w", err)
	}

	names := factoryNames{base: base, schematic: plugins.TextOf(arguments, "schematicId"), version: version}
	urls := names.urls(platformOf(plugins.TextOf(arguments, "platform")), plugins.TextOf(arguments, "architecture"))

	return withID(arguments.Set("urls", property.New(urls)), ""), nil
}

func platformNames() []string {
	names := []string{"metal"}
	for _, platform := range platforms.CloudPlatforms() {
		names = append(names, platform.Name)
	}

	return names
}

// platformOf finds one of platformNames.
func platformOf(name string) platforms.Platform {
	cloud := platforms.CloudPlatforms()
	if i := slices.IndexFunc(cloud, func(c platforms.Platform) bool { return c.Name == name }); i >= 0 {
		return cloud[i]
	}

	return platforms.MetalPlatform()
}

// factoryNames builds the addresses of one schematic's images.
type factoryNames struct {
	base               *url.URL
	schematic, version string
}

func (n factoryNames) image(path string) property.Value {
	return property.New(fmt.Sprintf("%s/image/%s/%s/%s", n.base, n.schematic, n.version, path))
}

func (n factoryNames) installer(name string) property.Value {
	return property.New(fmt.Sprintf("%s/%s/%s:%s", n.base.Host, name, n.schematic, n.version))
}

func (n factoryNames) urls(platform platforms.Platform, architecture string) map[string]property.Value {
	urls := map[string]property.Value{"installer": n.installer(platform.Name + "-installer")}
	metal := platform.Name == "metal"
	secure := metal || platform.SecureBootSupported

	if secure {
		urls["installerSecureboot"] = n.installer(platform.Name + "-installer-secureboot")
	}

	offers := func(method platforms.BootMethod) bool { return metal || slices.Contains(platform.BootMethods, method) }

	if offers(platforms.BootMethodDiskImage) {
		urls["diskImage"] = n.image(platform.DiskImageDefaultPath(architecture))
		if secure {
			urls["diskImageSecureboot"] = n.image(platform.SecureBootDiskImageDefaultPath(architecture))
		}
	}

	if offers(platforms.BootMethodISO) {
		urls["iso"] = n.image(platform.ISOPath(architecture))
		if secure {
			urls["isoSecureboot"] = n.image(platform.SecureBootISOPath(architecture))
		}
	}

	if offers(platforms.BootMethodPXE) {
		urls["pxe"] = property.New(fmt.Sprintf("%s://pxe.%s/pxe/%s/%s/%s", n.base.Scheme, n.base.Host, n.schematic, n.version, platform.PXEScriptPath(architecture)))
	}

	if metal {
		urls["kernel"] = n.image(platform.KernelPath(architecture))
		urls["kernelCommandLine"] = n.image(platform.CmdlinePath(architecture))
		urls["initramfs"] = n.image(platform.InitramfsPath(architecture))
		urls["uki"] = n.image(platform.SecureBootUKIPath(architecture))
	}

	return urls
}
