package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/stilehq/stile/completions"
	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/wire"
)

// tab is what zsh is told about a line of stile's own, without descriptions.
func tab(line string) string {
	r := stile(append([]string{"complete", "zsh"}, strings.Split(line, " ")...)...)
	if r.err != "" || r.status != 0 {
		return "failed: " + r.err
	}
	fields := strings.Split(strings.TrimSuffix(r.out, "\x00"), "\x00")
	list := fields[:1:1]
	for i := 2; i < len(fields); i += 2 {
		list = append(list, fields[i])
	}
	return strings.Trim(strings.Join(list, " "), " ")
}

// stile completes itself: commands, flags, their values, distros, links, and the
// commands that a distro had.
func TestCompleteOwn(t *testing.T) {
	home(t)
	makeDistro(t, "deb")
	makeDistro(t, "alpine")
	dirs, err := distro.FindDirs()
	if err != nil {
		t.Fatal(err)
	}
	store := distro.NewStore(dirs)
	d, err := store.Get("deb")
	if err != nil {
		t.Fatal(err)
	}
	if err := store.SetDefault("deb"); err != nil {
		t.Fatal(err)
	}
	if err := store.RememberCommands(d, []string{"grep", "git", "ls"}); err != nil {
		t.Fatal(err)
	}
	if err := store.Link(distro.Link{Name: "gg", Record: wire.Record{Distro: "deb", Stile: "/bin/false"}}, "/bin/true"); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"stile lin":             "wlink wlinks",
		"stile mach":            "",
		"stile no-such ":        "",
		"stile --v":             "w--version",
		"stile start ":          "walpine wdeb",
		"stile start deb ":      "",
		"stile run -d ":         "walpine wdeb",
		"stile run --distro=a":  "w--distro=alpine",
		"stile run --dis":       "w--distro",
		"stile link g":          "wgit wgrep",
		"stile link git g":      "wgrep",
		"stile link -d alpine ": "",
		"stile unlink ":         "wgg",
		"stile init ":           "wbash wzsh wfish wpwsh",
		"stile help conf":       "wconfig",
		"stile import x ":       "native",
		"stile share ":          "native",
		"stile link --from ":    "native",
	} {
		if got := tab(line); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	// Each command that is listed, and each of its flags, with what help says.
	r := stile("complete", "fish", "stile", "")
	for _, c := range commands() {
		if listed := strings.Contains("\n"+r.out, "\n"+c.name+"\t"+c.short+"\n"); listed == c.hidden {
			t.Errorf("stile %s is offered: %v", c.name, listed)
		}
		flags := stile("complete", "fish", "stile", c.name, "--")
		for _, f := range flagCandidates(c.flagSet()) {
			if strings.HasPrefix(f.Text, "--") && !strings.Contains("\n"+flags.out, "\n"+f.Text+"\t") {
				t.Errorf("%s of stile %s is not offered: %s", f.Text, c.name, flags.out)
			}
		}
	}
}

// What the shells' hooks should never send costs nothing but a status.
func TestCompleteNonsense(t *testing.T) {
	home(t)
	for _, args := range [][]string{{"bash", "x"}, {"bash", "git x", "y", " "}, {"tcsh", "git", "x"}} {
		if r := stile(append([]string{"complete"}, args...)...); r.out != "" || r.err != "" || r.status != exitFailed {
			t.Errorf("%q: %+v", args, r)
		}
	}
	// A command that is no link is the host's own affair.
	if got := tab("git checkout x"); got != "native" {
		t.Errorf("git: %q", got)
	}
}

// What is remembered fits the words before, and what is there of the word.
func TestCompletionCache(t *testing.T) {
	ask := func(line string) *completions.Request {
		return &completions.Request{Command: completions.NewCommand(completions.ParseBash(line, len(line)))}
	}
	for line, want := range map[string]string{
		"git ": "\n", "git che": "\n", "git -": "\n-", "git --ver": "\n--", "git commit --am": "commit\n--",
		"git commit -m ": "none", "git commit 'a b' ": "none", "git a b c d ": "none", "git log --format=x": "none", "cat README.md ": "none",
	} {
		key, _ := cacheContext(&ask(line).Command)
		if key == "" {
			key = "none"
		}
		if key != want {
			t.Errorf("%q is remembered by %q, want %q", line, key, want)
		}
	}
	c := &completionCache{dir: t.TempDir()}
	if a := c.find(ask("git che")); a != nil {
		t.Errorf("an empty cache has %+v", a)
	}
	server := completions.NewServer(discard{}, strings.NewReader(
		"Onospace\x00Ccheckout \x00Ccommit \x00V12-34\x00E0\x00"+"C--all\x00C--amend\x00V12-34\x00E0\x00"+
			"Cnew\x00V56-78\x00E0\x00"))
	r := &completions.Resident{Server: server, Kill: func() {}}
	learn := func(line string) {
		c.learn(r, ask(line), &completions.Answer{Complete: true, Candidates: []string{"x"}})
	}
	learn("git commit --am")
	learn("git commit --al") // known by now: nothing is asked
	if a := c.find(ask("git che")); a == nil || !slices.Equal(a.Candidates, []string{"checkout "}) || !a.Has("nospace") {
		t.Errorf("git che: %+v", a)
	}
	if a := c.find(ask("git commit --")); a == nil || len(a.Candidates) != 2 {
		t.Errorf("git commit --: %+v", a)
	}
	if a := c.find(ask("git push --")); a != nil {
		t.Errorf("git push --: %+v", a)
	}
	// Another version of the command: what was known of the old one goes.
	learn("git -")
	if a := c.find(ask("git commit --")); a != nil {
		t.Errorf("of the old version there is still %+v", a)
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
