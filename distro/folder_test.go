package distro

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stilehq/stile/interop/wire"
)

// put writes a file and the folders above it.
func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A file is found from below, counts only once it is trusted, and no more when
// one byte of it changes.
func TestFolderTrust(t *testing.T) {
	s := newStore(t)
	mustImport(t, s, "debian")
	mustImport(t, s, "alpine")
	if err := s.SetDefault("debian"); err != nil {
		t.Fatal(err)
	}
	top := filepath.Join(s.Dirs.Home, "src")
	path := filepath.Join(top, FolderFile)
	deep := filepath.Join(top, "a", "b")
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	wantDefault := func(want string) {
		t.Helper()
		if name, _, err := s.DefaultIn(deep); err != nil || name != want {
			t.Errorf("the distro is %q, %v; want %s", name, err, want)
		}
	}
	wantUntrusted := func() {
		t.Helper()
		var untrusted *UntrustedError
		if name, _, err := s.DefaultIn(deep); !errors.As(err, &untrusted) || untrusted.Path != path {
			t.Errorf("the distro is %q, %v; want an UntrustedError of %s", name, err, path)
		}
	}
	wantDefault("debian")
	put(t, path, "distro = \"alpine\"\n")
	wantUntrusted()
	if f, err := s.Trust(path); err != nil || f.Distro != "alpine" {
		t.Fatalf("Trust: %+v, %v", f, err)
	}
	wantDefault("alpine")
	put(t, path, "distro = \"alpine\"\n#\n")
	wantUntrusted()
	put(t, path, "distro = \"alpine\"\n")
	wantDefault("alpine")
	// The same bytes elsewhere are another file.
	if err := os.Rename(top, top+"2"); err != nil {
		t.Fatal(err)
	}
	deep = filepath.Join(top+"2", "a", "b")
	path = filepath.Join(top+"2", FolderFile)
	wantUntrusted()
	if _, err := s.Trust(path); err != nil {
		t.Fatal(err)
	}
	if found, err := s.Untrust(path); err != nil || !found {
		t.Errorf("Untrust: %v, %v", found, err)
	}
	wantUntrusted()
	if found, err := s.Untrust(path); err != nil || found {
		t.Errorf("Untrust again: %v, %v", found, err)
	}
}

func TestTrustRefuses(t *testing.T) {
	s := newStore(t)
	mustImport(t, s, "debian")
	path := filepath.Join(s.Dirs.Home, FolderFile)
	for text, want := range map[string]string{
		"distro = \"../x\"":                       `it starts with "."`,
		"distro = \"nowhere\"":                    "no such distro",
		"distro = 1":                              ":1:",
		"\ncolour = \"red\"":                      `:2: unknown key "colour"`,
		"[links.\"a/b\"]":                         "slash",
		"[links.a]\nenv = [\"x\"]":                "NAME=VALUE",
		"[links.a]\ncd = \"src\"":                 "whole path",
		"[links.a]\nargs = [\"a\\u0000b\"]":       "NUL",
		strings.Repeat("#", maxFolderFile) + "\n": "at most 64 KiB",
	} {
		put(t, path, text)
		if f, err := s.Trust(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: %+v, %v; want an error with %q", text, f, err, want)
		}
		if f, err := s.ReadFolder(path); err == nil && f.Trusted {
			t.Errorf("%.30q is trusted", text)
		}
	}
}

func TestView(t *testing.T) {
	s, shim := linkStore(t)
	mustImport(t, s, "alpine")
	mustImport(t, s, "work")
	if err := s.SetDefault("debian"); err != nil {
		t.Fatal(err)
	}
	for name, distro := range map[string]string{"grep": "debian", "git": "debian", "kubectl": "work"} {
		if err := s.Link(Link{name, wire.Record{Distro: distro, Stile: "/opt/stile"}}, shim); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(s.Dirs.Home, "src", FolderFile)
	put(t, path, "distro = \"alpine\"\n[links.git]\nargs = [\"--no-pager\"]\n[links.lint]\ndistro = \"work\"\ncommand = \"golint\"\n")
	untrusted, err := s.ReadFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	if bin, err := s.View(untrusted, "/opt/stile", shim); err == nil {
		t.Errorf("an untrusted file has the view %s", bin)
	}
	f, err := s.Trust(path)
	if err != nil {
		t.Fatal(err)
	}
	bin, err := s.View(f, "/opt/stile", shim)
	if err != nil {
		t.Fatal(err)
	}
	wantNames(t, bin, "git", "grep", "lint")
	record := func(name string) (r wire.Record) {
		t.Helper()
		// As the shim finds it.
		data, err := os.ReadFile(filepath.Join(bin, "../links", name))
		if err == nil {
			err = r.Parse(data)
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	alpine, _ := s.Get("alpine")
	if r := record("git"); r.Distro != "alpine" || r.Home != alpine.Dir || !slices.Equal(r.Args, []string{"--no-pager"}) || r.Stile != "/opt/stile" {
		t.Errorf("git is %+v", r)
	}
	if r := record("grep"); r.Distro != "alpine" || r.Home != alpine.Dir {
		t.Errorf("grep is %+v", r)
	}
	if r := record("lint"); r.Distro != "work" || r.Command != "golint" {
		t.Errorf("lint is %+v", r)
	}
	if of, err := s.Dirs.ViewOf(bin); err != nil || of != path || !s.Dirs.IsLinks(bin+"/") {
		t.Errorf("the view is of %s, %v; a folder of links: %v", of, err, s.Dirs.IsLinks(bin))
	}
	if got := s.Dirs.WithoutLinks(bin + ":/bin:" + s.Dirs.Links + "::/x/bin"); got != "/bin::/x/bin" {
		t.Errorf("without links the PATH is %s", got)
	}

	// A link that is taken away goes from the view too, and a view that nobody
	// may have any more goes whole.
	if err := s.Unlink("grep"); err != nil {
		t.Fatal(err)
	}
	if err := s.RefreshViews("/opt/stile", shim); err != nil {
		t.Fatal(err)
	}
	wantNames(t, bin, "git", "lint")
	if _, err := s.Untrust(path); err != nil {
		t.Fatal(err)
	}
	if err := s.RefreshViews("/opt/stile", shim); err != nil {
		t.Fatal(err)
	}
	wantNames(t, s.Dirs.Views())
}

// What is exported comes back the same, whatever the values hold.
func TestLinksFile(t *testing.T) {
	links := []Link{
		{"a b", wire.Record{Distro: "debian", Command: "/usr/bin/git", Args: []string{"", "two words", `"'\$`, "ü\nx"}, Env: []string{"A=b=c", "E="}, User: "root", Cd: "/a b"}},
		{"g++", wire.Record{Distro: "alpine"}},
		{"grep", wire.Record{Distro: "debian", Command: "grep"}},
	}
	text, err := ExportLinks(links)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadLinksFile("links.toml", text)
	if err != nil || len(got) != 3 {
		t.Fatalf("%v, %v from\n%s", got, err, text)
	}
	for i, l := range got {
		want := links[i]
		if l.Name != want.Name || l.Command() != want.Command() || l.Record.Distro != want.Record.Distro || l.Record.User != want.Record.User ||
			l.Record.Cd != want.Record.Cd || !slices.Equal(l.Record.Args, want.Record.Args) || !slices.Equal(l.Record.Env, want.Record.Env) {
			t.Errorf("link %d is %+v, want %+v, from\n%s", i, l, want, text)
		}
	}
	again, err := ExportLinks(got)
	if err != nil || string(again) != string(text) {
		t.Errorf("exported again: %v\n%s\nwant\n%s", err, again, text)
	}
	for text, want := range map[string]string{
		"[links.grep]\ncolour = 1": "links.toml:2: unknown key",
		"links = 1":                "links.toml:1:",
		"[links.stile]":            "stile itself",
		"[":                        "links.toml:1:",
	} {
		if l, err := ReadLinksFile("links.toml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, l, err, want)
		}
	}
}

func TestShellSettings(t *testing.T) {
	s := newStore(t)
	load := func() (ShellSettings, error) {
		c, err := LoadConfig(s.Dirs)
		if err != nil {
			return ShellSettings{}, err
		}
		return c.Shell(), nil
	}
	if got, err := load(); err != nil || got != (ShellSettings{NotFoundOffer, 300e6, false}) {
		t.Errorf("defaults: %+v, %v", got, err)
	}
	configure(t, s, "[shell]\ncommand_not_found = \"run\"\ncomplete_wait = \"2s\"\ncomplete_start = true\n")
	if got, err := load(); err != nil || got != (ShellSettings{NotFoundRun, 2e9, true}) {
		t.Errorf("set: %+v, %v", got, err)
	}
	for _, text := range []string{"command_not_found = \"maybe\"", "complete_wait = \"3\"", "complete_start = 1", "x = 1"} {
		configure(t, s, "[shell]\n"+text)
		if got, err := load(); err == nil {
			t.Errorf("%s is taken: %+v", text, got)
		}
	}
}
