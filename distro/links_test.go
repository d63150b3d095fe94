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

// linkStore is a store with a distro, and the path of a shim in it.
func linkStore(t testing.TB) (*Store, string) {
	s := newStore(t)
	mustImport(t, s, "debian")
	return s, filepath.Join(s.Dirs.Data, "libexec", "shim")
}

func link(name string) Link {
	return Link{name, wire.Record{Stile: "/opt/stile", Args: []string{"-a", "two words", ""}, Env: []string{"A=b\nc"}}}
}

func TestLink(t *testing.T) {
	s, shim := linkStore(t)
	for _, name := range []string{"git", "[", "g++", "a b", strings.Repeat("n", 255)} {
		if err := s.Link(link(name), shim); err != nil {
			t.Errorf("Link %.20q: %v", name, err)
			continue
		}
		if to, err := os.Readlink(filepath.Join(s.Dirs.Links, name)); err != nil || to != shim {
			t.Errorf("%.20q leads to %q, %v; want the shim", name, to, err)
		}
	}
	changed := link("git")
	changed.Record.Command = "/usr/bin/git"
	if err := s.Link(changed, shim+"2"); err != nil {
		t.Error(err)
	}
	if to, err := os.Readlink(filepath.Join(s.Dirs.Links, "git")); err != nil || to != shim+"2" {
		t.Errorf("changed, git leads to %q, %v", to, err)
	}
	links, err := s.Links()
	if err != nil || len(links) != 5 {
		t.Fatalf("%d links, %v; want 5", len(links), err)
	}
	i := slices.IndexFunc(links, func(l Link) bool { return l.Name == "git" })
	d, err := s.Get("debian")
	if err != nil {
		t.Fatal(err)
	}
	got := links[i].Record
	if got.Distro != "debian" || got.Home != d.Dir || got.Command != "/usr/bin/git" || !slices.Equal(got.Args, changed.Record.Args) || !slices.Equal(got.Env, changed.Record.Env) {
		t.Errorf("record of git: %+v", got)
	}
	if links[i].Command() != "/usr/bin/git" || link("x").Command() != "x" {
		t.Error("a link's command is wrong")
	}
	if !slices.IsSortedFunc(links, func(a, b Link) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("links are in no order")
	}
	mustImport(t, s, "other")
	other := link("ls")
	other.Record.Distro = "other"
	if err := s.Link(other, shim); err != nil {
		t.Fatal(err)
	}
	if to, err := s.LinksTo("other"); err != nil || len(to) != 1 || to[0].Name != "ls" {
		t.Errorf("links to other: %v, %v", to, err)
	}
	for _, l := range append(links, other) {
		if err := s.Unlink(l.Name); err != nil {
			t.Error(err)
		}
	}
	wantNames(t, s.Dirs.Links)
	wantNames(t, filepath.Join(s.Dirs.Data, "links"))
}

func TestBadLinks(t *testing.T) {
	s, shim := linkStore(t)
	for name, want := range map[string]string{
		"": "no command's name", ".": "no command's name", "..": "no command's name", "../x": "no slash", "a/b": "no slash", "a\x00": "no slash",
		"stile": "stile itself", "stile-run": "stile itself", "-x": `does not start with "-"`, ".x": `does not start with "."`,
		strings.Repeat("n", 256): "longer than a file's", "a\nb": "control character", "\x1b[m": "control character",
	} {
		for what, err := range map[string]error{"Link": s.Link(link(name), shim), "Unlink": s.Unlink(name)} {
			if err == nil {
				t.Errorf("%s(%q) is done", what, name)
				continue
			}
			wantError(t, err, want)
			wantHint(t, err)
		}
	}
	nowhere := link("git")
	nowhere.Record.Distro = "gone"
	if err := s.Link(nowhere, shim); !errors.Is(err, ErrNotFound) {
		t.Errorf("Link to a distro that is not there: %v", err)
	}
	nul := link("git")
	nul.Record.Args = []string{"a\x00b"}
	wantError(t, s.Link(nul, shim), "link git: write record: ")
	wantNames(t, s.Dirs.Links)
	wantNames(t, filepath.Join(s.Dirs.Data, "links"))
	err := s.Unlink("git")
	wantError(t, err, "link git: there is no such link")
	wantHint(t, err)
}

// Files of the user's own in the links' folder are left alone.
func TestForeignFiles(t *testing.T) {
	s, shim := linkStore(t)
	if err := Ensure(s.Dirs.Links); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(s.Dirs.Links, name) }
	for _, err := range []error{
		os.WriteFile(in("script"), []byte("mine"), 0o755), os.Symlink("/bin/true", in("alien")), os.Mkdir(in("folder"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"script", "alien", "folder"} {
		for _, err := range []error{s.Link(link(name), shim), s.Unlink(name)} {
			wantError(t, err, in(name)+" is not a link that stile made")
			wantHint(t, err)
		}
	}
	if got, err := os.ReadFile(in("script")); err != nil || string(got) != "mine" {
		t.Errorf("the user's script has %q, %v", got, err)
	}
	if to, err := os.Readlink(in("alien")); err != nil || to != "/bin/true" {
		t.Errorf("the user's link leads to %q, %v", to, err)
	}
	wantNames(t, filepath.Join(s.Dirs.Data, "links"))
	if err := s.Link(link("git"), shim); err != nil {
		t.Fatal(err)
	}
	if links, err := s.Links(); err != nil || len(links) != 1 {
		t.Errorf("links %v, %v; want git alone", links, err)
	}
	// Half of a link can be taken away, and made whole.
	for _, half := range []string{in("git"), s.recordPath("git")} {
		if err := os.Remove(half); err != nil {
			t.Fatal(err)
		}
		if err := s.Link(link("git"), shim); err != nil {
			t.Errorf("Link without %s: %v", half, err)
		}
		if err := os.Remove(half); err != nil {
			t.Fatal(err)
		}
		if err := s.Unlink("git"); err != nil {
			t.Errorf("Unlink without %s: %v", half, err)
		}
		if err := s.Link(link("git"), shim); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.recordPath("git"), []byte("distro=debian\x00half"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.Links()
	wantError(t, err, "link git: its record is damaged: "+s.recordPath("git"))
	wantHint(t, err)
	if err := s.Unlink("git"); err != nil {
		t.Errorf("Unlink of a damaged one: %v", err)
	}
}

func TestWithoutLinks(t *testing.T) {
	d := Dirs{Links: "/data/bin"}
	for path, want := range map[string]string{
		"": "", "/data/bin": "", "/a:/data/bin:/b": "/a:/b", "/data/bin/:/a:/data/./bin": "/a", "/a::/b": "/a::/b", ":/data/bin": "", "/data/bin2": "/data/bin2",
	} {
		if got := d.WithoutLinks(path); got != want {
			t.Errorf("WithoutLinks(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestHostProgram(t *testing.T) {
	top := t.TempDir()
	d := Dirs{Links: filepath.Join(top, "links")}
	for _, dir := range []string{"links", "one", "two"} {
		mkdir(t, top, dir)
	}
	mkdir(t, top, "one/folder")
	for name, mode := range map[string]os.FileMode{"links/git": 0o755, "one/git": 0o644, "two/git": 0o755, "links/only": 0o755, "two/folder": 0o755} {
		if err := os.WriteFile(filepath.Join(top, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(filepath.Join(top, "two"))
	path := strings.Join([]string{d.Links, "", ".", filepath.Join(top, "gone"), filepath.Join(top, "one"), filepath.Join(top, "two")}, ":")
	for name, want := range map[string]string{"git": "two/git", "folder": "two/folder", "only": "", "none": ""} {
		if want != "" {
			want = filepath.Join(top, want)
		}
		if got := d.HostProgram(path, name); got != want {
			t.Errorf("HostProgram(%s) = %q, want %q", name, got, want)
		}
	}
}
