package distro

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/stilehq/stile/interop/wire"
)

// A linkText is a link in a file that people write, and keep with their dotfiles:
//
//	[links.ll]
//	distro = "debian"               # left out: the default
//	command = "ls"                  # left out: the link's name
//	args = ["-l", "--color=auto"]   # before the caller's
//	env = ["LC_ALL=C.UTF-8"]
//	user = "root"                   # left out: the host's user
//	cd = "/srv"                     # left out: the caller's folder
type linkText struct {
	Distro  string   `toml:"distro,omitempty"`
	Command string   `toml:"command,omitempty"`
	Args    []string `toml:"args,omitempty"`
	Env     []string `toml:"env,omitempty"`
	User    string   `toml:"user,omitempty"`
	Cd      string   `toml:"cd,omitempty"`
}

// link checks the text of one link.
func (t linkText) link(path, name string) (Link, error) {
	bad := func(why string) (Link, error) {
		return Link{}, &ConfigError{Path: path, Why: fmt.Sprintf("[links.%s]: %s", name, why)}
	}
	if err := CheckLinkName(name); err != nil {
		return bad(err.Error())
	}
	if t.Distro != "" {
		if err := CheckName(t.Distro); err != nil {
			return bad(err.Error())
		}
	}
	if t.Cd != "" && !filepath.IsAbs(t.Cd) {
		return bad(fmt.Sprintf("cd is %q: write the whole path", t.Cd))
	}
	if err := CheckEnv(t.Env); err != nil {
		return bad(err.Error())
	}
	for _, value := range append([]string{t.Command, t.User, t.Cd}, append(t.Args, t.Env...)...) {
		if strings.Contains(value, "\x00") {
			return bad("a value holds a NUL byte")
		}
	}
	return Link{name, wire.Record{Distro: t.Distro, Command: t.Command, Args: t.Args, Env: t.Env, User: t.User, Cd: t.Cd}}, nil
}

// CheckEnv refuses what is no NAME=VALUE.
func CheckEnv(env []string) error {
	for _, e := range env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return fmt.Errorf("env %q: write NAME=VALUE", e)
		}
	}
	return nil
}

// ReadLinksFile reads links as ExportLinks writes them. Nothing is looked up in
// the store: Record.Distro may be empty, and Home and Stile are.
func ReadLinksFile(path string, data []byte) ([]Link, error) {
	var file struct {
		Links map[string]linkText `toml:"links"`
	}
	if err := decodeTOML(path, data, &file); err != nil {
		return nil, err
	}
	var links []Link
	for name, t := range file.Links {
		l, err := t.link(path, name)
		if err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	return links, nil
}

// ExportLinks writes links for ReadLinksFile: the same links give the same
// bytes, so that a difference in the dotfiles' history is one in the links.
func ExportLinks(links []Link) ([]byte, error) {
	var b bytes.Buffer
	for _, l := range links {
		r := l.Record
		t := linkText{Distro: r.Distro, Command: r.Command, Args: r.Args, Env: r.Env, User: r.User, Cd: r.Cd}
		if t.Command == l.Name {
			t.Command = ""
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		if err := toml.NewEncoder(&b).Encode(map[string]map[string]linkText{"links": {l.Name: t}}); err != nil {
			return nil, fmt.Errorf("export link %s: %w", l.Name, err)
		}
	}
	// One header is enough: an empty [links] before each table says nothing.
	return bytes.ReplaceAll(b.Bytes(), []byte("[links]\n"), nil), nil
}

// ReadLinksFrom reads a file of links.
func ReadLinksFrom(path string) ([]Link, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &ConfigError{Path: path, Why: "there is no such file"}
	}
	if err != nil {
		return nil, fmt.Errorf("read links: %w", err)
	}
	return ReadLinksFile(path, data)
}
