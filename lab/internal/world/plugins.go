package world

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// pluginInfo is a wheel's pulumi-plugin.json.
type pluginInfo struct {
	Resource bool   `json:"resource"`
	Name     string `json:"name"`
	Version  string `json:"version"`
	Server   string `json:"server"`
}

// linkPlugins fills the world's plugin folder for every provider package of the virtual
// environment: with the published plugins when those were asked for, else with the stand-ins.
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
	if s.Options.Plugins == "published" {
		store := filepath.Join(s.Bin, "published")
		if err := installPublished(s, store, p); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		return os.Symlink(filepath.Join(store, folder), target)
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	return os.Symlink(filepath.Join(s.Bin, "lab"), filepath.Join(target, "pulumi-resource-"+p.Name))
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
		return fmt.Errorf("LAB_PLUGINS=published: plugin %s %s cannot be had here (%w); "+
			"unset LAB_PLUGINS to use the lab's stand-ins\n%s", p.Name, p.Version, err, out)
	}
	return nil
}
