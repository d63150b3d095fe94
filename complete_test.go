package main_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestCompletion runs the scripts of testdata/complete, which press TAB in real
// shells.
func TestCompletion(t *testing.T) {
	testscript.Run(t, scripts("testdata/complete", map[string]func(*testscript.TestScript, bool, []string){
		"alike": cmdAlike,
		"tabs":  cmdTabs,
	}))
}

// completionKeys makes an interactive bash print what its line holds at C-x p, and
// insert all candidates at C-x i.
const completionKeys = `
unset HISTFILE
set +o history
PS1='READY> '
bind 'set bell-style none'
bind 'set completion-query-items -1'
bind 'set page-completions off'
bind 'set enable-bracketed-paste off'
bind '"\C-xi": insert-completions'
bind -x '"\C-xp": printf "\n<<%s>>\n" "${READLINE_LINE@Q}"'
`

// alike FILE DIR: for each line of FILE, the host's bash with stile's hooks puts
// the same into its line as an interactive bash of the guest that has loaded
// bash-completion itself, both in folder DIR, when all candidates are inserted and,
// in the long test, at TAB. How many lines agreed is printed.
func cmdAlike(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: alike FILE DIR")
	}
	dir := ts.MkAbs(args[1])
	start := func(name, rc string, argv ...string) *terminal {
		file := ts.MkAbs(name)
		ts.Check(os.WriteFile(file, []byte(rc+completionKeys), 0o600))
		path, err := lookPath(ts.Getenv("PATH"), argv[0])
		ts.Check(err)
		t, err := startTerminal(path, append(argv, "--noprofile", "--rcfile", file, "-i"), dir, environ(ts))
		ts.Check(err)
		if err := t.expect(regexp.MustCompile("READY> ")); err != nil {
			ts.Fatalf("%s: no prompt: %v: %q", name, err, t.rest())
		}
		return t
	}
	guest := start("guest.rc", ". /usr/share/bash-completion/bash_completion\n", "stile", "run", "bash")
	defer guest.close()
	host := start("host.rc", "eval \"$(stile init bash)\"\n", "bash")
	defer host.close()

	lines, agreed := 0, 0
	for _, line := range strings.Split(strings.TrimRight(ts.ReadFile(args[0]), "\n"), "\n") {
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		lines++
		good := true
		keys := []string{"\x18i"}
		if os.Getenv("STILE_TEST_LONG") != "" {
			keys = append(keys, "\t")
		}
		for _, key := range keys {
			var got [2]string
			var errs [2]error
			var wg sync.WaitGroup
			for i, t := range []*terminal{guest, host} {
				wg.Go(func() { got[i], errs[i] = typed(t, "\x05\x15"+line+key+"\x18p") })
			}
			wg.Wait()
			for i, err := range errs {
				if err != nil {
					ts.Fatalf("%s: shell %d: %v", line, i, err)
				}
			}
			if got[0] != got[1] {
				good = false
				ts.Logf("%s%q: the guest's bash makes %s, the host's %s", line, key, got[0], got[1])
			}
		}
		if good {
			agreed++
		}
	}
	fmt.Fprintf(ts.Stdout(), "%d of %d\n", agreed, lines)
	ts.Logf("alike: %d of %d command lines", agreed, lines)
	if agreed != lines {
		ts.Fatalf("%d command lines differ", lines-agreed)
	}
}

// typed types keys, the last of which makes the shell print what its line holds,
// and returns that.
func typed(t *terminal, keys string) (string, error) {
	if _, err := t.master.WriteString(keys); err != nil {
		return "", err
	}
	re := regexp.MustCompile(`<<(.*)>>\r*\n`)
	if err := t.expect(re); err != nil {
		return "", fmt.Errorf("%w: %q", err, t.rest())
	}
	found := re.FindAllSubmatch(t.before(), -1)
	return string(found[len(found)-1][1]), nil
}

// shellRC are the rc files with which each shell is tried: at C-x p it prints its
// line, and empties it.
var shellRC = map[string]string{
	"bash": "eval \"$(stile init bash)\"\n" + completionKeys + `bind -x '"\C-xp": printf "\n<<%s>>\n" "$READLINE_LINE"; READLINE_LINE='` + "\n",
	"zsh": `eval "$(stile init zsh)"
autoload -Uz compinit
compinit -u -d $HOME/.zcompdump
unset HISTFILE
unsetopt prompt_cr prompt_sp beep list_ambiguous
PROMPT='READY> '
show() { zle -I; print -r -- "<<$BUFFER>>"; BUFFER= }
zle -N show
bindkey -e
bindkey '^Xp' show
`,
	"fish": `stile init fish | source
set -g fish_greeting
function fish_prompt
    echo 'READY> '
end
bind \cxp 'echo; echo "<<"(commandline)">>"; commandline ""; commandline -f repaint'
`,
}

// tabs SHELL FILE DIR: for each line LINE -> WANT of FILE, an interactive SHELL with
// stile's hooks makes WANT of LINE at one TAB, in the folder DIR. A vertical bar in
// LINE is where the cursor is; what is behind it stays.
func cmdTabs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: tabs SHELL FILE DIR")
	}
	shell := args[0]
	rc := ts.MkAbs("rc." + shell)
	argv := map[string][]string{"bash": {"bash", "--noprofile", "--rcfile", rc, "-i"}, "zsh": {"zsh", "-d", "-i"}, "fish": {"fish", "--no-config", "-i", "-C", "source " + rc}}[shell]
	path, err := lookPath(ts.Getenv("PATH"), shell)
	ts.Check(err)
	env := environ(ts)
	if shell == "zsh" {
		rc = ts.MkAbs(".zshrc")
		env = append(env, "ZDOTDIR="+ts.MkAbs("."))
	}
	ts.Check(os.WriteFile(rc, []byte(shellRC[shell]), 0o600))
	t, err := startTerminal(path, argv, ts.MkAbs(args[2]), env)
	ts.Check(err)
	defer t.close()
	if err := t.expect(regexp.MustCompile("READY> ")); err != nil {
		ts.Fatalf("%s: no prompt: %v: %q", shell, err, t.rest())
	}
	lines, wrong := 0, 0
	for _, line := range strings.Split(strings.TrimRight(ts.ReadFile(args[1]), "\n"), "\n") {
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		line, want, ok := strings.Cut(line, " -> ")
		if !ok {
			ts.Fatalf("%s: there is no arrow in %q", args[1], line)
		}
		before, after, _ := strings.Cut(line, "|")
		lines++
		got, err := typed(t, before+after+strings.Repeat("\x02", utf8.RuneCountInString(after))+"\t\x18p")
		if err != nil {
			ts.Fatalf("%s: %q: %v", shell, line, err)
		}
		if want = strings.ReplaceAll(want, "_", " "); got != want {
			wrong++
			ts.Logf("%s: %q became %q, want %q", shell, line, got, want)
		}
	}
	if lines == 0 || wrong > 0 {
		ts.Fatalf("%s: %d of %d lines are not as they should be", shell, wrong, lines)
	}
	ts.Logf("tabs: %d lines in %s", lines, shell)
}
