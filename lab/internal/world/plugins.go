package world

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// standIns are the provider packages that the lab can stand in for.
var standIns = []string{"kubernetes", "talos", "vsphere"}

// PublishedPlugins says of each provider package whether the published plugin runs. The choice is "stand-in" for
// none, "published" for all of them, or their names with commas between.
func PublishedPlugins(choice string) (map[string]bool, error) {
	published := map[string]bool{}
	for _, name := range standIns {
		published[name] = choice == "published"
	}
	if choice == "published" || choice == "stand-in" {
		return published, nil
	}
	for name := range strings.SplitSeq(choice, ",") {
		if !slices.Contains(standIns, name) {
			return nil, fmt.Errorf("--plugins %q: must be stand-in, published, or some of %s with commas between",
				choice, strings.Join(standIns, ", "))
		}
		published[name] = true
	}
	return published, nil
}

// pluginInfo is a wheel's pulumi-plugin.json.
type pluginInfo struct {
	Resource bool   `json:"resource"`
	Name     string `json:"name"`
	Version  string `json:"version"`
	Server   string `json:"server"`
}

// linkPlugins fills the world's plugin folder for every provider package of the virtual
// environment: with the published plugin where that was asked for, else with the stand-in.
func linkPlugins(l Layout, s *Spec) error {
	files, err := filepath.Glob(filepath.Join(s.Project, ".venv", "lib", "python3*", "site-packages", "*", "pulumi-plugin.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var p pluginInfo
		if err := json.Unmarshal(text, &p); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if !p.Resource {
			continue
		}
		if err := linkPlugin(l, s, p); err != nil {
			return err
		}
	}
	return nil
}

func linkPlugin(l Layout, s *Spec, p pluginInfo) error {
	folder := filepath.Join("plugins", fmt.Sprintf("resource-%s-v%s", p.Name, p.Version))
	target := filepath.Join(l.PulumiHome(), folder)
	if s.Options.PublishedPlugins[p.Name] {
		store := filepath.Join(s.Bin, "published")
		if err := installPublished(s, store, p); err != nil {
			return err
		}
		return linkFiles(filepath.Join(store, folder), target)
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	return os.Symlink(filepath.Join(s.Bin, "lab"), filepath.Join(target, "pulumi-resource-"+p.Name))
}

// linkFiles makes target a folder with a link to each file of source. The folder itself cannot be a
// link: the engine overlooks such a plugin.
func linkFiles(source, target string) error {
	files, err := os.ReadDir(source)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	for _, file := range files {
		if err := os.Symlink(filepath.Join(source, file.Name()), filepath.Join(target, file.Name())); err != nil {
			return err
		}
	}
	return nil
}

// installPublished lets the engine fetch a plugin from its publisher; it needs internet.
func installPublished(s *Spec, store string, p pluginInfo) error {
	argv := []string{"plugin", "install", "resource", p.Name, p.Version}
	if p.Server != "" {
		argv = append(argv, "--server", p.Server)
	}
	cmd := exec.Command(filepath.Join(s.Bin, "pulumi"), argv...)
	cmd.Env = append(os.Environ(), "PULUMI_HOME="+store, "PULUMI_SKIP_UPDATE_CHECK=true")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the published plugin %s %s cannot be downloaded here (%w); "+
			"unset LAB_PLUGINS to use the lab's stand-in\n%s", p.Name, p.Version, err, out)
	}
	return nil
}
