package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/machine"
	"github.com/stilehq/stile/vmm/kvm"
)

// home gives the test a home with nothing in it, and returns its path.
func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "st") // short: a socket's path holds 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("HOME", dir)
	for _, v := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "SHELL"} {
		t.Setenv(v, "")
	}
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	t.Setenv("PATH", "/usr/bin:/bin")
	return dir
}

// A result is what a command line came to.
type result struct {
	out, err string
	status   int
}

// stile runs a command line.
func stile(args ...string) result {
	var out, errs bytes.Buffer
	ui := &ui{out: &out, err: &errs}
	app := &app{ui: ui, version: "test"}
	status := exitOK
	var exit exitError
	if err := app.main(args); errors.As(err, &exit) {
		status = int(exit)
	} else if err != nil {
		status = ui.fail(err)
	}
	return result{out.String(), errs.String(), status}
}

// makeDistro puts a distro without a disk into the store.
func makeDistro(t *testing.T, name string) {
	t.Helper()
	dirs, err := distro.FindDirs()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(dirs.Data, "distros", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	settings := "source = \"debian:trixie\"\ncreated = 2026-01-02T03:04:05Z\n"
	if err := os.WriteFile(filepath.Join(dir, "settings.toml"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Help and errors say the same of each command, and help leaves no flag out.
func TestHelpAgrees(t *testing.T) {
	home(t)
	list := stile("help")
	for _, c := range commands() {
		usage := "usage: " + c.usage()
		help := stile("help", c.name)
		if help.status != 0 || help.err != "" || !strings.HasPrefix(help.out, usage+"\n\n"+c.short+".") {
			t.Errorf("help %s: %+v", c.name, help)
		}
		if got := stile(c.name, "--help"); got != help {
			t.Errorf("%s --help: %+v, want %+v", c.name, got, help)
		}
		for _, alias := range c.aliases {
			if got := stile("help", alias); got != help {
				t.Errorf("help %s: %+v", alias, got)
			}
		}
		if listed := strings.Contains(list.out, "\n  "+c.name+" "); listed == c.hidden {
			t.Errorf("%s is listed: %v", c.name, listed)
		}
		c.flagSet().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || !strings.Contains(help.out, "--"+f.Name) {
				t.Errorf("help %s does not tell of --%s", c.name, f.Name)
			}
			short := f.Shorthand != "" && strings.Contains(c.args, "-"+f.Shorthand)
			if !short && !strings.Contains(c.args, "--"+f.Name) && !strings.Contains(c.args, "[FLAG...]") {
				t.Errorf("usage of %s does not tell of --%s: %s", c.name, f.Name, c.usage())
			}
		})
		want := fmt.Sprintf("stile: %s: unknown flag: --bogus\nstile: %s\n", c.name, usage)
		if got := stile(c.name, "--bogus"); got != (result{"", want, exitStile}) {
			t.Errorf("%s --bogus: %+v", c.name, got)
		}
		if c.min > 0 {
			want := fmt.Sprintf("stile: %s: something is missing\nstile: %s\n", c.name, usage)
			if got := stile(c.name); got != (result{"", want, exitStile}) {
				t.Errorf("%s: %+v", c.name, got)
			}
		}
		if c.max >= 0 {
			want := fmt.Sprintf("stile: %s: \"d\" is too much\nstile: %s\n", c.name, usage)
			got := stile(append([]string{c.name}, strings.Split("abcd", "")[3-c.max:]...)...)
			if got != (result{"", want, exitStile}) {
				t.Errorf("%s with %d arguments: %+v", c.name, c.max+1, got)
			}
		}
		if c.max < 0 != strings.Contains(strings.TrimPrefix(c.args, "[FLAG...]"), "...") && !c.hidden {
			t.Errorf("usage of %s: %s, and it takes %d to %d arguments", c.name, c.usage(), c.min, c.max)
		}
	}
}

// What users type wrongly: one line, what to do, 125, and nothing was made.
func TestBadCommandLines(t *testing.T) {
	dir := home(t)
	for _, tt := range []struct {
		args      []string
		line, tip string
	}{
		{[]string{"bogus"}, `there is no command "bogus"`, "stile help lists the commands"},
		{[]string{"--bogus"}, "there is no flag --bogus", "stile help lists the commands"},
		{[]string{"help", "bogus"}, `there is no command "bogus"`, "stile help lists the commands"},
		{[]string{"run", "true"}, "choose distro: there is no distro yet", "make one: stile install debian"},
		{[]string{"run", "-d", "x", "true"}, "x: no such distro", "there is none yet; make one: stile install debian --name x"},
		{[]string{"run", "-d", "../x", "true"}, `name "../x": it starts with "."`, "a name has lower-case letters, digits, '.', '_' and '-', and starts with a letter or a digit"},
		{[]string{"shell"}, "choose distro: there is no distro yet", "make one: stile install debian"},
		{[]string{"link", "grep"}, "choose distro: there is no distro yet", "make one: stile install debian"},
		{[]string{"link", "--as", "x", "a", "b"}, "link --as x: one name can't be that of several commands", "link them one by one"},
		{[]string{"unlink", "x"}, "link x: there is no such link", "stile links lists those there are"},
		{[]string{"stop", "x", "--all"}, "stop: a name and --all contradict each other", "usage: stile stop [NAME|--all] [--force]"},
		{[]string{"install", "suse"}, "install suse: there is no such source", "debian and debian:SUITE are possible; an archive: stile import NAME FILE"},
		{[]string{"import", "x", "/"}, "import /: it is a folder", "make an archive of it: tar -C / -c . | stile import NAME -"},
		{[]string{"import", "x", "/nowhere"}, "import x: open /nowhere: no such file or directory", "name an archive that is there, or - for the standard input"},
		{[]string{"init", "tcsh"}, `init: there is no shell "tcsh"`, "known are: bash, zsh, fish, pwsh"},
		{[]string{"remove", "x"}, "x: no such distro", "there is none yet; make one: stile install debian --name x"},
		{[]string{"share", "/nowhere"}, "share /nowhere: there is no such folder", "make it first: mkdir -p /nowhere"},
	} {
		want := "stile: " + tt.line + "\n"
		if tt.tip != "" {
			want += "stile: " + tt.tip + "\n"
		}
		if got := stile(tt.args...); got != (result{"", want, exitStile}) {
			t.Errorf("stile %q: %+v, want %q", tt.args, got, want)
		}
	}
	if made, err := os.ReadDir(dir); err != nil || len(made) != 0 {
		t.Errorf("in the home now: %v, %v", made, err)
	}
}

func TestJSON(t *testing.T) {
	home(t)
	decode := func(args ...string) (list []map[string]any) {
		t.Helper()
		r := stile(args...)
		if err := json.Unmarshal([]byte(r.out), &list); err != nil || list == nil || r.err != "" {
			t.Errorf("stile %q: %+v: %v", args, r, err)
		}
		return list
	}
	for _, c := range []string{"list", "links", "status"} {
		if list := decode(c, "--json"); len(list) != 0 {
			t.Errorf("%s of nothing: %v", c, list)
		}
	}
	makeDistro(t, "deb")
	if got := fmt.Sprint(decode("list", "--json")); got != "[map[allocated:0 created:2026-01-02T03:04:05Z default:true name:deb running:false size:0 source:debian:trixie]]" {
		t.Errorf("list: %s", got)
	}
	if got := fmt.Sprint(decode("status", "--json")); got != "[map[name:deb state:stopped]]" {
		t.Errorf("status: %s", got)
	}
	if list := decode("shares", "--json"); len(list) != 2 || list[0]["path"] != "/tmp" || list[0]["mode"] != "rw" {
		t.Errorf("shares: %v", list)
	}
}

func TestLists(t *testing.T) {
	home(t)
	for args, want := range map[string]string{
		"list":   "stile: there is no distro yet; make one: stile install debian\n",
		"status": "stile: there is no distro yet; make one: stile install debian\n",
		"links":  "stile: there are no links yet; make some: stile link grep git\n",
	} {
		if got := stile(args); got != (result{"", want, 0}) {
			t.Errorf("%s: %+v", args, got)
		}
	}
	makeDistro(t, "deb")
	makeDistro(t, "other")
	if got := stile("default"); got.status != exitStile {
		t.Errorf("default of two: %+v", got)
	}
	if got := stile("default", "deb"); got != (result{}) {
		t.Errorf("default deb: %+v", got)
	}
	if got := stile("default"); got != (result{"deb\n", "", 0}) {
		t.Errorf("default: %+v", got)
	}
	want := "NAME   STATE    SIZE  CREATED     SOURCE\n" +
		"deb *  stopped  0 B   2026-01-02  debian:trixie\n" +
		"other  stopped  0 B   2026-01-02  debian:trixie\n"
	if got := stile("list"); got != (result{want, "", 0}) {
		t.Errorf("list: %+v", got)
	}
	if got := stile("stop", "--all"); got != (result{}) {
		t.Errorf("stop of what does not run: %+v", got)
	}
}

// doctor runs everywhere, says each thing once, and has a cure for what lacks.
func TestDoctor(t *testing.T) {
	home(t)
	r := stile("doctor", "--json")
	var checks []check
	if err := json.Unmarshal([]byte(r.out), &checks); err != nil || r.err != "" {
		t.Fatalf("%v: %+v", err, r)
	}
	names, failed := map[string]bool{}, false
	for _, c := range checks {
		if names[c.Name] || c.Detail == "" || strings.Contains(c.Detail, "\n") {
			t.Errorf("%+v", c)
		}
		names[c.Name] = true
		switch c.Level {
		case levelOK:
			if c.Cure != "" {
				t.Errorf("a cure for what is well: %+v", c)
			}
		case levelNote, levelProblem:
			if c.Cure == "" {
				t.Errorf("no cure: %+v", c)
			}
		default:
			t.Errorf("level: %+v", c)
		}
		failed = failed || c.Level == levelProblem
	}
	for _, name := range []string{"KVM", "QEMU", "kernel", "guestinit", "settings", "mmdebstrap", "disk", "memory", "runtime", "PATH"} {
		if !names[name] {
			t.Errorf("nothing is said of %s", name)
		}
	}
	// Neither a kernel nor guestinit is where this test runs.
	if !failed || r.status != exitFailed {
		t.Errorf("status %d, and something lacks: %v", r.status, failed)
	}
	text := stile("doctor")
	if n := strings.Count(text.out, "\n"); text.status != exitFailed || n < len(checks) || text.err != "" {
		t.Errorf("%+v", text)
	}
}

func TestDoctorSeesProblems(t *testing.T) {
	dir := home(t)
	if c := checkKVM(kvm.Result{Support: kvm.NoPermission, Reason: "no permission", Hint: "join"}); c.Level != levelNote || !strings.HasPrefix(c.Detail, "no permission; ") || c.Cure != "join" {
		t.Errorf("no permission: %+v", c)
	}
	if c := checkKVM(kvm.Result{Support: kvm.Usable, Reason: "fast"}); c.Level != levelOK || c.Detail != "fast" {
		t.Errorf("usable: %+v", c)
	}
	t.Setenv("PATH", dir)
	if c := checkQEMU(context.Background()); c.Level != levelProblem || c.Cure == "" {
		t.Errorf("no QEMU: %+v", c)
	}
	config := filepath.Join(dir, ".config/stile/config.toml")
	if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte("memory = \"1GiB\"\nbogus = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dirs, err := distro.FindDirs()
	if err != nil {
		t.Fatal(err)
	}
	if c := checkConfig(distro.NewStore(dirs)); c.Level != levelProblem || !strings.Contains(c.Detail, "bogus") || !strings.Contains(c.Detail, "2") {
		t.Errorf("an unknown key: %+v", c)
	}
	dirs.Runtime = "/" + strings.Repeat("x", 90)
	if c := checkRuntime(dirs); c.Level != levelNote || c.Cure == "" {
		t.Errorf("a long runtime folder: %+v", c)
	}
	dirs.Data = filepath.Join(dir, "a/b/c")
	if c := checkDisk(dirs); c.Level == levelProblem {
		t.Errorf("a folder to be made: %+v", c)
	}
}

type hinted struct{ error }

func (hinted) Hint() string { return "the cure" }

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		err        error
		line, hint string
		status     int
	}{
		{errors.New("a: b"), "a: b", "", 125},
		{errors.New("a\nb\r\nc"), "a; b; c", "", 125},
		{&wire.Error{Code: 127, What: "x", Why: "not found", Hint: "look"}, "x: not found", "look", 127},
		{fmt.Errorf("w: %w", &wire.Error{Code: 126, What: "x", Why: "y"}), "x: y", "", 126},
		{&wire.Error{What: "x", Why: "no code"}, "x: no code", "", 125},
		{hinted{errors.New("x")}, "x", "the cure", 125},
		{fmt.Errorf("outer: %w", hinted{errors.New("x")}), "outer: x", "the cure", 125},
		{&usageError{newStopCommand(), "no"}, "stop: no", "usage: stile stop [NAME|--all] [--force]", 125},
		{&stuckError{"deb", time.Second}, "stop deb: it has not ended in 1s", "to stop it at once: stile stop --force deb", 125},
		{&runningError{"deb"}, "remove deb: its machine runs", "stop it first: stile stop deb", 125},
		{fmt.Errorf("x: %w", context.Canceled), "interrupted: nothing was changed", "", 125},
		{fmt.Errorf("write x: %w", syscall.ENOSPC), "write x: no space left on device", "the disk is full: make room on it, then try again", 125},
		{fmt.Errorf("write x: %w", syscall.EDQUOT), "write x: disk quota exceeded", "your quota is used up: make room, then try again", 125},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.EROFS}, "open /x: read-only file system", "the file system is read-only; XDG_DATA_HOME can name a folder elsewhere", 125},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, "open /x: permission denied", "see whom it belongs to; a sudo stile of before may have left it to root", 125},
		{machine.ErrNotRunning, "not running", "", 125},
	} {
		line, hint, status := explain(tt.err)
		if line != tt.line || hint != tt.hint || status != tt.status {
			t.Errorf("%#v: %q, %q, %d", tt.err, line, hint, status)
		}
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	u := &ui{out: &out}
	u.table([]string{"NAME", "WHAT"}, [][]string{{"ä", "x\x1b[31m\n"}, {"long one", ""}})
	if want := "NAME      WHAT\nä         x?[31m?\nlong one\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	out.Reset()
	u.width = 10
	u.table([]string{"NAME", "WHAT"}, [][]string{{"a", "0123456789"}})
	if want := "NAME  WHAT\na     012…\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestKeptBy(t *testing.T) {
	for _, tt := range []struct {
		s    machine.Status
		want string
	}{
		{machine.Status{Sessions: 1}, "1 command"},
		{machine.Status{Sessions: 2, Left: []string{"7 sleep"}}, "2 commands; left behind: 7 sleep"},
		{machine.Status{IdleIn: 12.4}, "nothing: ends in 12s"},
		{machine.Status{}, ""},
	} {
		if got := keptBy(&tt.s); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.s, got, tt.want)
		}
	}
}
