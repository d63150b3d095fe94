package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stilehq/stile/interop/wire"
)

// The entry of the caller's terminal goes along, from where ncurses would have it.
func TestTerminfo(t *testing.T) {
	m := newMachine(t)
	head := string([]byte{0x1a, 1}) + strings.Repeat("\x00", 10)
	for name, text := range map[string]string{
		"own/f/foot": head + "own", "home/.terminfo/66/foot": head + "home", "dirs/f/foot": head + "dirs", "own/x/xterm": head,
		"own/l/long": head + strings.Repeat("x", wire.MaxTerminfo), "own/n/none": "no entry at all", "dirs/n/none": head + "behind",
	} {
		path := filepath.Join(m.dir, "terminfo", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	own, home, dirs := "TERMINFO="+m.dir+"/terminfo/own", "HOME="+m.dir+"/terminfo/home", "TERMINFO_DIRS=/nowhere::"+m.dir+"/terminfo/dirs"
	for _, tt := range []struct {
		env  []string
		want string
	}{
		{[]string{"TERM=foot", own, home, dirs}, head + "own"},
		{[]string{"TERM=foot", home, dirs}, head + "home"},
		{[]string{"TERM=foot", dirs}, head + "dirs"},
		{[]string{"TERM=none", own, dirs}, head + "behind"},
		{[]string{"TERM=no-such-terminal", own, home, dirs}, ""},
		{[]string{"TERM=xterm", own}, ""}, // it is everywhere
		{[]string{"TERM=long", own}, ""},
		{[]string{"TERM=../own/f/foot", own}, ""},
		{[]string{"TERM=", own}, ""},
		{[]string{own}, ""},
	} {
		cmd := exec.Command(m.path("git"))
		cmd.Env = tt.env
		p := m.start(cmd)
		r := m.accept()
		if got := string(r.run.Terminfo); got != tt.want {
			t.Errorf("%q: %q is sent, want %q", tt.env, got, tt.want)
		}
		r.send(wire.TypeStarted, nil)
		r.exit(wire.Exit{})
		p.expectExit(0, "")
		r.close()
	}
}
