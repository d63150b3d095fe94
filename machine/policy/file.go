package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/stilehq/stile/distro"
)

// file is a Policy as its file has it.
type file struct {
	Helper []string   `toml:"helper,omitempty"`
	Rules  []fileRule `toml:"rule,omitempty"`
	Links  []fileLink `toml:"link,omitempty"`
}

type fileRule struct {
	Action string   `toml:"action"`
	Path   string   `toml:"path"`
	Real   string   `toml:"real,omitempty"` // the same as path where it is left out
	Args   *string  `toml:"args,omitempty"`
	Distro string   `toml:"distro,omitempty"`
	Shared bool     `toml:"shared,omitempty"`
	Env    []string `toml:"env,omitempty"`
}

type fileLink struct {
	Name   string `toml:"name"`
	Distro string `toml:"distro,omitempty"`
}

const heading = `# Which commands of this host guests may run. Written by "stile host"; comments are
# not kept. See stile help host.

`

// Load reads the policy in a file. One that does not exist allows nothing; one that
// makes no sense is an error, and allows nothing either.
func Load(path string) (*Policy, error) {
	var f file
	if err := distro.ReadTOML(path, &f); errors.Is(err, fs.ErrNotExist) {
		return &Policy{}, nil
	} else if err != nil {
		return nil, err
	}
	p := &Policy{Helper: f.Helper}
	bad := func(format string, args ...any) error {
		return &distro.ConfigError{Path: path, Why: fmt.Sprintf(format, args...)}
	}
	for i, r := range f.Rules {
		rule := Rule{Path: r.Path, Real: r.Real, Distro: r.Distro, Shared: r.Shared, Env: r.Env, AnyArgs: r.Args == nil}
		if err := rule.Action.UnmarshalText([]byte(r.Action)); err != nil {
			return nil, bad("rule %d: %v", i+1, err)
		}
		if rule.Real == "" {
			rule.Real = rule.Path
		}
		for _, p := range []string{rule.Path, rule.Real} {
			if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" {
				return nil, bad("rule %d: path %q: write it whole, from / on", i+1, p)
			}
		}
		if r.Args != nil {
			rule.Args = *r.Args
		}
		for _, name := range rule.Env {
			if err := CheckEnv(name); err != nil {
				return nil, bad("rule %d: %v", i+1, err)
			}
		}
		p.Rules = append(p.Rules, rule)
	}
	for i, l := range f.Links {
		if err := CheckLink(l.Name); err != nil {
			return nil, bad("link %d: %v", i+1, err)
		}
		p.Links = append(p.Links, Link(l))
	}
	return p, nil
}

// CheckEnv refuses a variable that no rule can let through.
func CheckEnv(name string) error {
	if name == "" || strings.ContainsAny(name, "=\x00") {
		return fmt.Errorf("variable %q: that is no name", name)
	}
	if IsNever(name) {
		return fmt.Errorf("variable %s: it makes programs run or load others, and never comes from a guest", name)
	}
	return nil
}

// CheckLink refuses what can be no command's name.
func CheckLink(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00\n") {
		return fmt.Errorf("link %q: that is no command's name", name)
	}
	if name == "host" || name == "stile" {
		return fmt.Errorf("link %s: the folder of the links has stile's own command of that name", name)
	}
	return nil
}

// Change changes the policy in a file under a lock.
func Change(path string, change func(*Policy) error) error {
	return distro.ChangeFile(path, func([]byte) ([]byte, error) {
		p, err := Load(path)
		if err != nil {
			return nil, err
		}
		if err := change(p); err != nil {
			return nil, err
		}
		return p.marshal()
	})
}

func (p *Policy) marshal() ([]byte, error) {
	f := file{Helper: p.Helper}
	for _, r := range p.Rules {
		fr := fileRule{Action: string(r.Action), Path: r.Path, Real: r.Real, Distro: r.Distro, Shared: r.Shared, Env: r.Env}
		if fr.Real == fr.Path {
			fr.Real = ""
		}
		if !r.AnyArgs {
			fr.Args = &r.Args
		}
		f.Rules = append(f.Rules, fr)
	}
	for _, l := range p.Links {
		f.Links = append(f.Links, fileLink(l))
	}
	b, err := toml.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("write rules: %w", err)
	}
	return append([]byte(heading), b...), nil
}
