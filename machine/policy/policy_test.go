package policy

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMatchArgs(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		args    []string
		want    bool
	}{
		{"", nil, true},
		{"", []string{""}, false},
		{"pr view *", []string{"pr", "view", "12"}, true},
		{"pr view *", []string{"pr", "view"}, false},
		{"pr view *", []string{"pr", "view", "12", "--web"}, false},
		{"pr view *", []string{"pr view", "12"}, false},
		{"pr view *", []string{"pr", "view 12"}, false},
		{"pr view *", []string{"pr", "view", "1 2\n;"}, true}, // one argument still
		{"pr view *", []string{"pr", "view", ""}, true},
		{"pr ...", []string{"pr"}, true},
		{"pr ...", []string{"pr", "merge", "-d"}, true},
		{"pr ...", nil, false},
		{"...", nil, true},
		{"... x", []string{"a", "x"}, false}, // only the last word is for more
		{"https://*", []string{"https://a/?b=c&d[]"}, true},
		{"https://*", []string{"http://a"}, false},
		{"https://*", []string{"https://"}, true},
		{"a?c", []string{"abc"}, true},
		{"a?c", []string{"ac"}, false},
		{`a\*c`, []string{"a*c"}, true},
		{`a\*c`, []string{"abc"}, false},
		{`a\ b`, []string{"a b"}, true},
		{`a\ b`, []string{"a", "b"}, false},
		{"*a*b", []string{"xaxaxb"}, true},
		{"*a*b", []string{"xaxaxbx"}, false},
		{"  a   b  ", []string{"a", "b"}, true},
		{"...", []string{"..."}, true},
		{`\...`, []string{"..."}, true},
		{`\...`, []string{"x"}, false},
	} {
		if got := MatchArgs(tt.pattern, tt.args); got != tt.want {
			t.Errorf("MatchArgs(%q, %q) = %v", tt.pattern, tt.args, got)
		}
	}
}

// A pattern and arguments that a guest chose cost no more than their lengths.
func TestMatchIsBounded(t *testing.T) {
	word := strings.Repeat("*a", 50) + "b"
	arg := strings.Repeat("a", 100_000)
	done := make(chan bool, 1)
	go func() { done <- MatchArgs(word, []string{arg}) }()
	select {
	case got := <-done:
		if got {
			t.Error("it matches")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it takes for ever")
	}
}

func TestDecide(t *testing.T) {
	p := &Policy{Rules: []Rule{
		{Action: Allow, Path: "/usr/bin/gh", Real: "/usr/bin/gh", AnyArgs: true},
		{Action: Deny, Path: "/usr/bin/gh", Real: "/usr/bin/gh", Args: "auth ..."},
		{Action: Ask, Path: "/usr/bin/gh", Real: "/usr/bin/gh", Distro: "work", AnyArgs: true},
		{Action: Allow, Path: "/snap/bin/code", Real: "/usr/bin/snap", AnyArgs: true},
		{Action: Allow, Path: "/usr/bin/py", Real: "/usr/bin/python3", AnyArgs: true},
		{Action: Deny, Path: "/usr/bin/python3", Real: "/usr/bin/python3", AnyArgs: true, Distro: "work"},
		{Action: Allow, Path: "/opt/x", Real: "/opt/x", Args: ""},
		{Action: Deny, Path: "/opt/y", Real: "/opt/y", AnyArgs: true},
		{Action: Allow, Path: "/opt/y", Real: "/opt/y", Args: "ok"},
	}}
	for _, tt := range []struct {
		distro, command string
		args            []string
		want            Action
		why             string
	}{
		{"deb", "gh", nil, Allow, ""},
		{"deb", "/usr/bin/gh", nil, Allow, ""},
		{"deb", "/usr/bin/../bin/gh", nil, Allow, ""},
		{"deb", "/home/me/gh", nil, Deny, "not allowed"},
		{"deb", "gh", []string{"auth", "token"}, Deny, "denied"},
		{"work", "gh", nil, Ask, ""},
		{"work", "gh", []string{"auth"}, Deny, "denied"},
		{"deb", "code", []string{"."}, Allow, ""},
		{"deb", "/usr/bin/snap", []string{"run", "x"}, Deny, "not allowed"}, // only by that name
		{"deb", "snap", nil, Deny, "not allowed"},
		{"deb", "py", nil, Allow, ""},
		{"work", "py", nil, Deny, "denied, as /usr/bin/python3 is"},
		{"deb", "x", nil, Allow, ""},
		{"deb", "x", []string{"a"}, Deny, "not allowed with these arguments"},
		{"deb", "y", nil, Deny, "denied"},
		{"deb", "y", []string{"ok"}, Allow, ""},
		{"deb", "", nil, Deny, "not allowed"},
		{"deb", "/", nil, Deny, "not allowed"},
		{"deb", "..", nil, Deny, "not allowed"},
		{"deb", "bin/gh", nil, Deny, "not allowed"},
	} {
		d := p.Decide(&Request{tt.distro, tt.command, tt.args})
		if d.Action != tt.want || d.Why != tt.why {
			t.Errorf("%s: %s %q: %s %q, want %s %q", tt.distro, tt.command, tt.args, d.Action, d.Why, tt.want, tt.why)
		}
	}
}

func program(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// What a guest could change does not run, unless the rule says so.
func TestCheck(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	safe := program(t, dir+"/safe/tool")
	program(t, dir+"/share/bin/tool")
	own := program(t, dir+"/stile/shim")
	for link, target := range map[string]string{
		"safe/link":     "tool",
		"safe/away":     "../share/bin/tool",
		"share/back":    "../safe/tool",
		"safe/twice":    "../share/back",
		"safe/dir":      "../share",
		"safe/own":      "../stile/shim",
		"safe/dangling": "nowhere",
		"safe/loop":     "loop",
	} {
		if err := os.Symlink(target, dir+"/"+link); err != nil {
			t.Fatal(err)
		}
	}
	places := []Place{{Path: dir + "/share"}, {Path: dir + "/stile", Own: true}}
	for _, tt := range []struct {
		path, real string
		shared     bool
		want       string // part of the error, "" is none
	}{
		{"safe/tool", "safe/tool", false, ""},
		{"safe/link", "safe/tool", false, ""},
		{"safe/link", "safe/other", false, "it leads to"},
		{"share/bin/tool", "share/bin/tool", false, "guests can write"},
		{"share/bin/tool", "share/bin/tool", true, ""},
		{"safe/away", "share/bin/tool", false, "guests can write"},
		{"share/back", "safe/tool", false, "guests can write"},
		{"safe/twice", "safe/tool", false, "guests can write"},
		{"safe/dir/bin/tool", "share/bin/tool", false, "guests can write"},
		{"safe/own", "stile/shim", true, "stile's own"},
		{"stile/shim", "stile/shim", true, "stile's own"},
		{"safe/dangling", "safe/nowhere", false, "not on the host"},
		{"safe/loop", "safe/loop", false, "symbolic links"},
		{"safe", "safe", false, "not executable"},
	} {
		r := Rule{Path: dir + "/" + tt.path, Real: dir + "/" + tt.real, Shared: tt.shared}
		err := r.Check(places)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s, %v: %v, want %q", tt.path, tt.shared, err, tt.want)
		}
	}
	if err := os.Chmod(safe, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := (&Rule{Path: safe, Real: safe}).Check(places); err == nil {
		t.Error("a program without the right to execute passes")
	}
	if _, err := NewRule(Allow, own, "", true, places); err == nil {
		t.Error("a rule for stile's own program can be made")
	}
	_, err = NewRule(Allow, "no-such-command", dir+"/safe", false, places)
	var bad *CheckError
	if !errors.As(err, &bad) || !bad.Missing {
		t.Errorf("a rule for nothing: %v", err)
	}
	if !Writable(dir+"/share", places) || !Writable(dir+"/safe/dir", places) || Writable(dir+"/safe", places) || !Writable(dir+"/nowhere", places) {
		t.Error("Writable is wrong")
	}
}

func TestEnviron(t *testing.T) {
	host := []string{"HOME=/home/me", "PATH=/usr/bin:/home/me/bin:relative:/bin", "GIT_DIR=/x", "LD_PRELOAD=/y", "LC_TIME=C", "SECRET=s"}
	guest := []string{"TERM=xterm-256color", "COLORTERM=$(evil)", "HOME=/root", "PATH=/evil", "LD_PRELOAD=/evil", "PYTHONPATH=/evil",
		"GIT_SSH_COMMAND=evil", "EDITOR=evil", "NAMED=n\xff", "OTHER=o", "LC_TIME=evil", "STILE_ENGINE=x", "NAMED=second", "odd"}
	got := Environ(host, guest, []string{"NAMED", "PYTHONPATH", "HOME"}, func(dir string) bool { return dir == "/home/me/bin" })
	slices.Sort(got)
	want := []string{"HOME=/home/me", "LC_TIME=C", "NAMED=n\xff", "PATH=/usr/bin:/bin", "TERM=xterm-256color"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config", "host.toml")
	if p, err := Load(path); err != nil || len(p.Rules) > 0 {
		t.Fatalf("no file: %v, %v", p, err)
	}
	want := Policy{
		Helper: []string{"ask", "-x"},
		Rules: []Rule{
			{Action: Allow, Path: "/usr/bin/gh", Real: "/usr/bin/gh", AnyArgs: true, Env: []string{"X"}},
			{Action: Deny, Path: "/usr/bin/gh", Real: "/opt/gh", Args: "a \"b\"\n", Distro: "deb"},
			{Action: Ask, Path: "/usr/bin/x", Real: "/usr/bin/x", Args: "", Shared: true},
		},
		Links: []Link{{Name: "code"}, {Name: "gh", Distro: "deb"}},
	}
	if err := Change(path, func(p *Policy) error { *p = want; return nil }); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil || !reflect.DeepEqual(*got, want) {
		t.Fatalf("%+v, %v, want %+v", got, err, want)
	}
	if l := got.LinksOf("deb"); !slices.Equal(l, []string{"code", "gh"}) {
		t.Errorf("links of deb: %q", l)
	}
	for content, why := range map[string]string{
		"[[rule]]\naction = \"permit\"\npath = \"/x\"":                  "action",
		"[[rule]]\naction = \"allow\"\npath = \"x\"":                    "write it whole",
		"[[rule]]\naction = \"allow\"\npath = \"/x/../y\"":              "write it whole",
		"[[rule]]\naction = \"allow\"\npath = \"/x\"\nenv = [\"PATH\"]": "never comes",
		"[[rule]]\naction = \"allow\"\npath = \"/x\"\nargz = \"\"":      "unknown key",
		"[[link]]\nname = \"a/b\"":                                      "no command's name",
		"[[rule":                                                        "host.toml",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := Load(path); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, %v, want %q", content, p, err, why)
		}
	}
}

func TestLog(t *testing.T) {
	l := &Log{Path: filepath.Join(t.TempDir(), "host.log")}
	big := strings.Repeat("x", 3000)
	n := 0
	for range 600 {
		if err := l.Add(Entry{Distro: "deb", Command: "c", Args: []string{"\x1b[2J", big, big, big}, Answer: "denied"}); err != nil {
			t.Fatal(err)
		}
		n++
	}
	all, err := ReadLog(l.Path)
	if err != nil {
		t.Fatal(err)
	}
	// Twice as much as one file holds at most, and at least one file.
	if len(all) < 200 || len(all) > n {
		t.Errorf("%d of %d entries", len(all), n)
	}
	if got := all[0].Args; len(got) != 3 || got[2] != "..." {
		t.Errorf("the arguments of one entry: %d", len(got))
	}
	if info, err := os.Stat(l.Path); err != nil || info.Size() > maxLog+2*maxLogArgs || info.Mode().Perm() != 0o600 {
		t.Errorf("the log: %v, %v", info, err)
	}
}

// The documentation has the list of what never comes from a guest.
func TestNeverIsDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/interop.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]string{Never, described} {
		for _, name := range list {
			if !strings.Contains(string(b), "`"+name+"`") {
				t.Errorf("docs/interop.md does not have %s", name)
			}
		}
	}
	for _, name := range login {
		if strings.HasSuffix(strings.ToLower(name), "_proxy") {
			continue // "proxies"
		}
		if !strings.Contains(string(b), "`"+name+"`") {
			t.Errorf("docs/interop.md does not have %s", name)
		}
	}
}
