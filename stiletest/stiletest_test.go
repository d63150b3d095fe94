package stiletest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/wire"
)

// fakeStile stands for stile: `run` tells what it was asked for, and runs it here.
const fakeStile = `#!/bin/sh
[ "$1" = run ] || { echo "$*" >>"$HOME/calls"; [ "$1" != remove ] || rm -r "$HOME/data/stile/distros/$2"; exit; }
shift
while [ "$1" != -- ]; do printf '%s ' "$1" >>"$HOME/calls"; shift; done
shift
echo "$*" >>"$HOME/calls"
exec "$@"
`

// setUp gives the test a home with a distro, a link, and the fake stile; it returns
// the home.
func setUp(t *testing.T, distros ...string) string {
	t.Helper()
	home := t.TempDir()
	for name, value := range map[string]string{"HOME": home, "XDG_DATA_HOME": home + "/data", "XDG_CONFIG_HOME": home + "/config",
		"XDG_CACHE_HOME": home + "/cache", "XDG_RUNTIME_DIR": "/tmp", "PATH": home + "/bin:/usr/bin:/bin"} {
		t.Setenv(name, value)
	}
	if err := os.Mkdir(home+"/bin", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(home+"/bin/stile", []byte(fakeStile), 0o700); err != nil {
		t.Fatal(err)
	}
	dirs, err := distro.FindDirs()
	if err != nil {
		t.Fatal(err)
	}
	store := distro.NewStore(dirs)
	for _, name := range distros {
		dir := filepath.Join(dirs.Data, "distros", name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(dir, "disk.img"))
		if err != nil {
			t.Fatal(err)
		}
		if err := distro.WriteTemplate(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for link, r := range map[string]wire.Record{
			"hello": {Command: "printf", Args: []string{"<%s>"}, Env: []string{"A=b"}, User: "root"},
			"cp":    {}, // testscript has one
		} {
			r.Distro, r.Stile = name, home+"/bin/stile"
			if err := store.Link(distro.Link{Name: link, Record: r}, "/bin/true"); err != nil {
				t.Fatal(err)
			}
		}
	}
	return home
}

func scripts(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, name+".txtar"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func calls(t *testing.T, home string) string {
	t.Helper()
	b, err := os.ReadFile(home + "/calls")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCommands(t *testing.T) {
	home := setUp(t, "deb")
	dir := scripts(t, map[string]string{"all": `
guest sh -c 'echo "$1"; echo err >&2' x 'a  b'
stdout '^a  b$'
stderr '^err$'
! guest false
stdin in
guest cat
stdout '^input$'
hello x y
stdout '^<x><y>$'
host sh -c 'echo host'
stdout '^host$'
! host false
[!guest] stop
[distro:other] stop
[distro:deb] guest true
cp in out
-- in --
input
`})
	// Scripts are parallel tests: they are done when the test around them is.
	t.Run("scripts", func(t *testing.T) { Run(t, Params{Dir: dir}) })
	want := `-d deb sh -c echo "$1"; echo err >&2 x a  b
-d deb false
-d deb cat
-d deb -e A=b -u root printf <%s> x y
-d deb true
`
	if got := calls(t, home); got != want {
		t.Errorf("stile was called\n%s\nwant\n%s", got, want)
	}
}

// A fakeT takes down how scripts end.
type fakeT struct {
	testing.TB
	log    strings.Builder
	failed []string
}

type ended struct{}

func (t *fakeT) Skip(args ...any)  { panic("skip") }
func (t *fakeT) Fatal(args ...any) { t.Log(args...); t.FailNow() }
func (t *fakeT) Parallel()         {}
func (t *fakeT) Log(args ...any)   { fmt.Fprintln(&t.log, args...) }
func (t *fakeT) FailNow()          { panic(ended{}) }
func (t *fakeT) Verbose() bool     { return false }
func (t *fakeT) Run(name string, f func(testscript.T)) {
	if t.protect(func() { f(t) }) {
		t.failed = append(t.failed, name)
	}
}

func (t *fakeT) protect(f func()) (failed bool) {
	defer func() {
		if v := recover(); v != nil {
			if v != (ended{}) {
				panic(v)
			}
			failed = true
		}
	}()
	f()
	return false
}

// What has to fail does.
func TestFailures(t *testing.T) {
	setUp(t, "deb")
	for text, want := range map[string]string{
		"guest false":       "unexpected command failure",
		"! guest true":      "unexpected command success",
		"guest":             "usage: guest CMD ARG...",
		"host no-such-cmd":  "no-such-cmd: the host has no such command",
		"[distros:x] guest": "unknown condition",
	} {
		f := &fakeT{}
		f.protect(func() { RunT(f, Params{Dir: scripts(t, map[string]string{"s": text + "\n"})}) })
		if len(f.failed) != 1 || !strings.Contains(f.log.String(), want) {
			t.Errorf("%s: failed %q, log\n%s\nwant %s", text, f.failed, f.log.String(), want)
		}
	}
}

func TestWithoutDistro(t *testing.T) {
	setUp(t)
	f := &fakeT{}
	f.protect(func() {
		RunT(f, Params{Dir: scripts(t, map[string]string{"asks": "[guest] guest true\nhost true\n", "needs": "guest true\n"})})
	})
	if len(f.failed) != 1 || f.failed[0] != "needs" || !strings.Contains(f.log.String(), "there is no distro") {
		t.Errorf("failed %q, log\n%s", f.failed, f.log.String())
	}
}

// Each script has a copy, and nothing of it is left.
func TestClone(t *testing.T) {
	home := setUp(t, "deb")
	dir := scripts(t, map[string]string{"a": "guest echo a\nhello\n[!distro:deb] stop\n", "b": "guest echo b\n"})
	t.Run("scripts", func(t *testing.T) { Run(t, Params{Clone: true, Dir: dir}) })
	names, err := os.ReadDir(home + "/data/stile/distros")
	if err != nil || len(names) != 1 {
		t.Errorf("left are %v, %v", names, err)
	}
	got := calls(t, home)
	if n := strings.Count(got, "-d test-"); n != 3 || strings.Contains(got, "-d deb") || strings.Count(got, "stop --force test-") != 2 || strings.Count(got, "remove test-") != 2 {
		t.Errorf("stile was called\n%s", got)
	}
}
