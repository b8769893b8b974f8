// Package vsphereplugin is the lab's stand-in for the published plugin pulumi-resource-vsphere 4.18.2. It answers to
// the same tokens, property names and defaults, for the functions and resources that the platform uses, and does the
// real work through govmomi, so that the published plugin can take its place. Rules that are not obvious come from
// the Terraform provider that the published plugin wraps (terraform-provider-vsphere 2.16).
package vsphereplugin

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"

	"platform.lab/lab/internal/plugins"
)

const (
	pluginName    = "vsphere"
	pluginVersion = "4.18.2"
)

// Main serves the plugin until the engine ends it.
func Main(ctx context.Context) error {
	return plugins.Serve(ctx, pluginName, pluginVersion, newProvider())
}

// resource is one resource type. Its functions see plain values: Check has filled in defaults, and a dry run never
// reaches them, except plan.
type resource struct {
	token    string
	fields   []field
	autoName bool // a missing name is made of the resource's name and a random suffix

	// create returns the new object's id, also together with an error when the object exists all the same.
	create func(context.Context, *vcenter, attributes) (string, error)
	// read returns what the object looks like now; what vCenter cannot tell is taken from prior. Missing: errGone.
	read   func(_ context.Context, _ *vcenter, id string, prior attributes) (attributes, error)
	update func(_ context.Context, _ *vcenter, id string, old, new attributes) error
	delete func(_ context.Context, _ *vcenter, id string, old attributes) error
	// find turns what `pulumi import` is given into an id, and may set what read shall find in prior.
	find func(_ context.Context, _ *vcenter, given string, prior attributes) (string, error)
	// plan refuses a change that can be seen to be impossible; old is empty for a new resource.
	plan func(old, new property.Map) error
	// relax withdraws differences that this type does not mind.
	relax func(state property.Map, d differ)
}

// errGone says that an object was deleted behind the engine's back.
var errGone = errors.New("the object is gone")

type plugin struct {
	resources map[string]resource
	functions map[string]function

	cancellation *plugins.Cancellation
	mu           sync.Mutex
	vcenter      *vcenter // nil until configured
}

func newProvider() p.Provider {
	pl := &plugin{resources: map[string]resource{}, functions: functions(), cancellation: plugins.NewCancellation()}
	for _, r := range []resource{folder(), contentLibrary(), contentLibraryItem(), tagCategory(), tag(), resourcePool(),
		antiAffinityRule(), virtualMachine()} {
		pl.resources[r.token] = r
	}
	return p.Provider{
		GetSchema:   pl.schema,
		Cancel:      pl.cancellation.Cancel,
		CheckConfig: pl.checkConfig,
		DiffConfig:  pl.diffConfig,
		Configure:   pl.configure,
		Invoke:      pl.invoke,
		Check:       pl.check,
		Diff:        pl.diff,
		Create:      pl.create,
		Read:        pl.read,
		Update:      pl.update,
		Delete:      pl.delete,
	}
}

// configFields are the provider's own settings; the engine passes all of them as text.
func configFields() []field {
	var fields []field
	for _, name := range []string{"user", "password", "vsphereServer", "vcenterServer", "allowUnverifiedSsl", "apiTimeout",
		"vimKeepAlive", "clientDebug", "clientDebugPath", "clientDebugPathRun", "persistSession", "vimSessionPath",
		"restSessionPath"} {
		fields = append(fields, field{name: name, kind: text})
	}
	return fields
}

// setting returns a provider setting as text, from the environment when the program does not give it, as the
// published plugin does.
func setting(given property.Map, name, variable string) string {
	if v := decode(given.Get(name)); v != nil {
		return fmt.Sprint(v)
	}
	return os.Getenv(variable)
}

func (pl *plugin) checkConfig(_ context.Context, r p.CheckRequest) (p.CheckResponse, error) {
	c := checker{resource: pluginName}
	inputs := map[string]property.Value{}
	for name, v := range r.Inputs.All {
		if name == "version" || name == "pluginDownloadURL" || name == "__internal" {
			continue // the engine's own
		}
		if v.IsBool() || v.IsNumber() {
			v = property.WithGoValue(v, fmt.Sprint(decode(v)))
		}
		inputs[name] = v
	}
	checked := c.object(nil, configFields(), property.NewMap(inputs)).Delete(defaultsKey)
	for _, name := range []string{"user", "password"} {
		if !checked.Get(name).IsComputed() && setting(checked, name, "VSPHERE_"+strings.ToUpper(name)) == "" {
			c.failures = append(c.failures, p.CheckFailure{Property: name, Reason: fmt.Sprintf(
				"Provider is missing a required configuration key, try `pulumi config set vsphere:%s`: "+
					"The %s for vSphere API operations", name, map[string]string{"user": "user name",
					"password": "user password"}[name])})
		}
	}
	for name, v := range r.Inputs.All {
		if name == "version" || name == "pluginDownloadURL" || name == "__internal" {
			checked = checked.Set(name, v)
		}
	}
	return p.CheckResponse{Inputs: checked, Failures: c.failures}, nil
}

// diffConfig never asks for replacement: the objects stay what they are when vCenter is reached in another way.
func (pl *plugin) diffConfig(_ context.Context, r p.DiffRequest) (p.DiffResponse, error) {
	d := differ{}
	before := r.OldInputs
	if before.Len() == 0 {
		before = r.State
	}
	d.object(nil, configFields(), before, r.Inputs, false)
	return p.DiffResponse{HasChanges: len(d) > 0, DetailedDiff: d}, nil
}

// configure logs in at once, so that wrong credentials are reported before anything is planned.
func (pl *plugin) configure(ctx context.Context, r p.ConfigureRequest) error {
	for _, name := range []string{"user", "password", "vsphereServer"} {
		if r.Args.Get(name).IsComputed() {
			return nil // a preview in which the settings are not known yet
		}
	}
	server := setting(r.Args, "vsphereServer", "VSPHERE_SERVER")
	if server == "" {
		server = setting(r.Args, "vcenterServer", "VSPHERE_VCENTER")
	}
	if server == "" {
		return errors.New("one of vsphere_server or [deprecated] vcenter_server must be provided")
	}
	ctx, done := pl.deadline(ctx, 0)
	defer done()
	vc, err := connect(ctx, server, setting(r.Args, "user", "VSPHERE_USER"), setting(r.Args, "password", "VSPHERE_PASSWORD"),
		setting(r.Args, "allowUnverifiedSsl", "VSPHERE_ALLOW_UNVERIFIED_SSL"))
	if err != nil {
		return err
	}
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.vcenter = vc
	return nil
}

func (pl *plugin) connection() (*vcenter, error) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.vcenter == nil {
		return nil, errors.New("the vsphere provider is not configured: vsphereServer, user or password is not known yet")
	}
	return pl.vcenter, nil
}

// deadline ends an operation when the engine cancels, and after its custom timeout (in seconds) when it has one.
func (pl *plugin) deadline(ctx context.Context, seconds float64) (context.Context, context.CancelFunc) {
	ctx, done := pl.cancellation.Bind(ctx)
	if seconds <= 0 {
		return ctx, done
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds*float64(time.Second)))
	return ctx, func() { cancel(); done() }
}

func (pl *plugin) resource(urn presource.URN) (resource, error) {
	r, ok := pl.resources[string(urn.Type())]
	if !ok {
		return resource{}, fmt.Errorf("unrecognized resource type (%s): the lab's stand-in for the vsphere plugin serves %s",
			urn.Type(), strings.Join(plugins.SortedKeys(pl.resources), ", "))
	}
	return r, nil
}

func (pl *plugin) check(_ context.Context, r p.CheckRequest) (p.CheckResponse, error) {
	res, err := pl.resource(r.Urn)
	if err != nil {
		return p.CheckResponse{}, err
	}
	inputs := r.Inputs
	named := res.autoName && inputs.Get("name").IsNull()
	if named {
		inputs = inputs.Set("name", property.New(autoName(r)))
	}
	c := checker{resource: r.Urn.Name()}
	checked := c.object(nil, res.fields, inputs)
	if named {
		checked = checked.Set(defaultsKey, property.New(checked.Get(defaultsKey).AsArray().Append(property.New("name"))))
	}
	return p.CheckResponse{Inputs: checked, Failures: c.failures}, nil
}

// autoName keeps the name of an existing resource and otherwise adds seven random hexadecimal digits.
func autoName(r p.CheckRequest) string {
	if old := r.State.Get("name"); old.IsString() {
		return old.AsString()
	}
	seed := r.RandomSeed
	if len(seed) < 4 {
		seed = make([]byte, 4)
		_, _ = rand.Read(seed) // never fails
	}
	return r.Urn.Name() + "-" + hex.EncodeToString(seed[:4])[:7]
}

func (pl *plugin) diff(_ context.Context, r p.DiffRequest) (p.DiffResponse, error) {
	res, err := pl.resource(r.Urn)
	if err != nil {
		return p.DiffResponse{}, err
	}
	inputs, err := withoutIgnored(r.Inputs, r.State, r.IgnoreChanges)
	if err != nil {
		return p.DiffResponse{}, err
	}
	if res.plan != nil {
		if err := res.plan(r.State, inputs); err != nil {
			return p.DiffResponse{}, fmt.Errorf("diffing %s: %w", r.Urn, err)
		}
	}
	d := differ{}
	d.object(nil, res.fields, r.State, inputs, false)
	if res.relax != nil {
		res.relax(r.State, d)
	}
	return p.DiffResponse{HasChanges: len(d) > 0, DetailedDiff: d,
		DeleteBeforeReplace: d.replaces() && res.autoName && keepsGivenName(r.State, inputs)}, nil
}

// keepsGivenName says that the old and the new object would bear the same name, so that the old one must go first: the
// program gave the name itself and did not change it.
func keepsGivenName(state, inputs property.Map) bool {
	filledIn := textsOf(decode(inputs.Get(defaultsKey)))
	return !slices.Contains(filledIn, "name") && equal(field{kind: text}, state.Get("name"), inputs.Get("name"))
}

func (pl *plugin) create(ctx context.Context, r p.CreateRequest) (p.CreateResponse, error) {
	res, err := pl.resource(r.Urn)
	if err != nil {
		return p.CreateResponse{}, err
	}
	planned := merge(res.fields, property.Map{}, r.Properties)
	if res.plan != nil {
		if err := res.plan(property.Map{}, r.Properties); err != nil {
			return p.CreateResponse{}, fmt.Errorf("creating %s: %w", r.Urn, err)
		}
	}
	if r.DryRun {
		return p.CreateResponse{Properties: planned}, nil
	}
	vc, err := pl.connection()
	if err != nil {
		return p.CreateResponse{}, err
	}
	ctx, done := pl.deadline(ctx, r.Timeout)
	defer done()

	wanted := decodeMap(planned)
	id, err := res.create(ctx, vc, wanted)
	if id == "" {
		return p.CreateResponse{}, err
	}
	if err != nil { // it exists, so the engine must know it
		return p.CreateResponse{ID: id, Properties: withSecretInputs(wanted, r.Properties),
			PartialState: &p.InitializationFailed{Reasons: []string{err.Error()}}}, err
	}
	state, err := res.read(ctx, vc, id, wanted)
	if err != nil {
		return p.CreateResponse{ID: id, Properties: withSecretInputs(wanted, r.Properties),
			PartialState: &p.InitializationFailed{Reasons: []string{err.Error()}}}, err
	}
	return p.CreateResponse{ID: id, Properties: withSecretInputs(state, r.Properties)}, nil
}

func withSecretInputs(state attributes, inputs property.Map) property.Map {
	return withSecrets(property.New(encodeMap(state)), property.New(inputs)).AsMap()
}

// read serves refresh, where the id is ours, and import, where the id is what the operator gave and there is no state.
func (pl *plugin) read(ctx context.Context, r p.ReadRequest) (p.ReadResponse, error) {
	res, err := pl.resource(r.Urn)
	if err != nil {
		return p.ReadResponse{}, err
	}
	vc, err := pl.connection()
	if err != nil {
		return p.ReadResponse{}, err
	}
	ctx, done := pl.deadline(ctx, 0)
	defer done()

	id, prior := r.ID, decodeMap(r.Properties)
	if r.Properties.Len() == 0 && r.Inputs.Len() == 0 {
		for _, f := range res.fields {
			if f.fallback != nil {
				prior[f.name] = f.fallback
			}
		}
		if id, err = res.find(ctx, vc, r.ID, prior); err != nil {
			return p.ReadResponse{}, fmt.Errorf("importing %q: %w", r.ID, err)
		}
	}
	state, err := res.read(ctx, vc, id, prior)
	if errors.Is(err, errGone) {
		return p.ReadResponse{}, nil
	}
	if err != nil {
		return p.ReadResponse{}, fmt.Errorf("refreshing %s: %w", r.Urn, err)
	}
	outputs := withSecrets(withSecrets(property.New(encodeMap(state)), property.New(r.Properties)), property.New(r.Inputs)).AsMap()
	return p.ReadResponse{ID: id, Properties: outputs, Inputs: inputsOf(res.fields, r.Inputs, outputs)}, nil
}

func (pl *plugin) update(ctx context.Context, r p.UpdateRequest) (p.UpdateResponse, error) {
	res, err := pl.resource(r.Urn)
	if err != nil {
		return p.UpdateResponse{}, err
	}
	inputs, err := withoutIgnored(r.Inputs, r.State, r.IgnoreChanges)
	if err != nil {
		return p.UpdateResponse{}, err
	}
	planned := merge(res.fields, r.State, inputs)
	if res.plan != nil {
		if err := res.plan(r.State, inputs); err != nil {
			return p.UpdateResponse{}, fmt.Errorf("updating %s: %w", r.Urn, err)
		}
	}
	if r.DryRun {
		return p.UpdateResponse{Properties: planned}, nil
	}
	vc, err := pl.connection()
	if err != nil {
		return p.UpdateResponse{}, err
	}
	ctx, done := pl.deadline(ctx, r.Timeout)
	defer done()

	old, wanted := decodeMap(r.State), decodeMap(planned)
	if res.update == nil {
		return p.UpdateResponse{}, fmt.Errorf("%s has nothing that can be changed in place", r.Urn.Type())
	}
	if err := res.update(ctx, vc, r.ID, old, wanted); err != nil {
		return pl.failedUpdate(ctx, vc, res, r, old, err)
	}
	state, err := res.read(ctx, vc, r.ID, wanted)
	if err != nil {
		return p.UpdateResponse{}, fmt.Errorf("updating %s: %w", r.Urn, err)
	}
	return p.UpdateResponse{Properties: withSecretInputs(state, inputs)}, nil
}

// failedUpdate reports how far an update came, so that the next one starts from the truth.
func (pl *plugin) failedUpdate(ctx context.Context, vc *vcenter, res resource, r p.UpdateRequest, old attributes,
	cause error) (p.UpdateResponse, error) {
	state, err := res.read(context.WithoutCancel(ctx), vc, r.ID, old)
	if err != nil {
		return p.UpdateResponse{}, cause
	}
	return p.UpdateResponse{Properties: withSecretInputs(state, r.State),
		PartialState: &p.InitializationFailed{Reasons: []string{cause.Error()}}}, cause
}

func (pl *plugin) delete(ctx context.Context, r p.DeleteRequest) error {
	res, err := pl.resource(r.Urn)
	if err != nil {
		return err
	}
	vc, err := pl.connection()
	if err != nil {
		return err
	}
	ctx, done := pl.deadline(ctx, r.Timeout)
	defer done()
	return res.delete(ctx, vc, r.ID, decodeMap(r.Properties))
}
