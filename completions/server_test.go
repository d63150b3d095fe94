package completions

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// startServer runs the server in a bash of the host's, with completion functions
// of the test's own.
func startServer(t *testing.T, functions string) *Server {
	t.Helper()
	if _, err := os.Stat("/usr/share/bash-completion/bash_completion"); err != nil {
		t.Skip("the host has no bash-completion")
	}
	home := t.TempDir()
	// bash-completion reads this file of the user's.
	if err := os.WriteFile(filepath.Join(home, ".bash_completion"), []byte(functions), 0o600); err != nil {
		t.Fatal(err)
	}
	argv := ServerCommand()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"HOME=" + home, "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		in.Close()
		if rest, err := io.ReadAll(out); err != nil || len(rest) > 0 {
			t.Errorf("the server has more to say: %q, %v", rest, err)
		}
		if err := cmd.Wait(); err != nil && !kill.Stop() {
			t.Errorf("the server does not end: %v", err)
		}
	})
	return NewServer(in, out)
}

func ask(t *testing.T, s *Server, dir, line string, host bool) *Answer {
	t.Helper()
	a, err := s.Ask(&Request{Dir: dir, Command: NewCommand(ParseBash(line, len(line))), HostFiles: host})
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return a
}

func wantCandidates(t *testing.T, s *Server, line string, want ...string) *Answer {
	t.Helper()
	a := ask(t, s, "/", line, true)
	got := slices.Clone(a.Candidates)
	slices.Sort(got)
	if !slices.Equal(got, want) || !a.Complete {
		t.Errorf("%s: %q (complete: %v), want %q", line, got, a.Complete, want)
	}
	return a
}

// Each way of `complete`, with the variables that a function sees.
func TestServerSpecs(t *testing.T) {
	s := startServer(t, `
complete -W 'one two "three four"' words
_see() { COMPREPLY=("$1|$2|$3|$COMP_LINE|$COMP_POINT|$COMP_CWORD|${COMP_WORDS[*]}|$PWD"); }
complete -F _see see
_opts() { compopt -o nospace -o filenames; compopt +o filenames; COMPREPLY=(--a=); }
complete -o nosort -F _opts opts
complete -C 'printf "%s\n" "$COMP_LINE" again #' program
_later() { complete -W 'found' later; return 124; }
complete -F _later later
_is() { [[ $(type -t compopt) == builtin ]] && COMPREPLY=(yes); }
complete -F _is is
complete -A signal -P '<' -S '>' -X '!SIGH*' sig
_odd() { COMPREPLY=('two words' $'new\nline' '*' '$HOME' "it's" 'ü' '-n' ''); }
complete -F _odd odd
`)
	wantCandidates(t, s, "words t", "three four", "two")
	wantCandidates(t, s, `words "three`, "three four")
	wantCandidates(t, s, "words none")
	wantCandidates(t, s, "see größe --a=b", "see|b|=|see größe --a=b|15|4|see größe --a = b|/")
	wantCandidates(t, s, "/usr/bin/see x", "/usr/bin/see|x|/usr/bin/see|/usr/bin/see x|14|1|/usr/bin/see x|/")
	a := wantCandidates(t, s, "opts x", "--a=")
	slices.Sort(a.Options)
	if !slices.Equal(a.Options, []string{"nosort", "nospace"}) {
		t.Errorf("options %q", a.Options)
	}
	wantCandidates(t, s, "program x", "again", "program x")
	wantCandidates(t, s, "later x")
	wantCandidates(t, s, "later f", "found")
	wantCandidates(t, s, "is ", "yes")
	wantCandidates(t, s, "sig SIGHU", "<SIGHUP>")
	wantCandidates(t, s, "odd ", "", "$HOME", "*", "-n", "it's", "new\nline", "two words", "ü")
}

// A function that breaks things breaks its own answer only.
func TestServerIsolation(t *testing.T) {
	s := startServer(t, `
__stile_limit=1
_exit() { exit 3; }; complete -F _exit exits
_strict() { set -eu; IFS=x; PATH=; cd /tmp; COMPREPLY=(a$undefined); }; complete -F _strict strict
_hang() { sleep 1000; }; complete -F _hang hangs
_noise() { echo noise; echo noise >&2; echo noise >/dev/tty; read -r x; COMPREPLY=(quiet); }; complete -F _noise noise
_close() { exec 0<&- 1>&- 2>&- 8>&1; COMPREPLY=(closed); }; complete -F _close closes
_global() { COMPREPLY=("${counter=0}"); counter=1; }; complete -F _global global
_well() { COMPREPLY=(well "$PWD"); }; complete -F _well well
`)
	for _, bad := range []string{"exits", "strict", "hangs"} {
		if a := ask(t, s, "/", bad+" x", true); a.Complete || len(a.Candidates) > 0 {
			t.Errorf("%s: %+v", bad, a)
		}
		wantCandidates(t, s, "well x", "/", "well")
	}
	wantCandidates(t, s, "noise x", "quiet")
	wantCandidates(t, s, "closes x", "closed")
	for range 2 {
		wantCandidates(t, s, "global x", "0")
	}
	a := ask(t, s, "/nowhere/at all", "well x", true)
	if !slices.Equal(a.Candidates, []string{"well", "/"}) {
		t.Errorf("in a folder that is not there: %q", a.Candidates)
	}
}

// File names are asked of the host, or given by the guest.
func TestServerFiles(t *testing.T) {
	s := startServer(t, `
_ext() { local cur=${COMP_WORDS[COMP_CWORD]}; _filedir '@(txt|md)'; }; complete -F _ext ext
_dirs() { local cur=${COMP_WORDS[COMP_CWORD]}; _filedir -d; }; complete -F _dirs dirs
`)
	dir := t.TempDir()
	for _, name := range []string{"a b.txt", "b.md", "c.go"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]Files{
		"ext a\\ ":      {Pattern: "@(txt|md)", Cur: `a\ `},
		"dirs s":        {Dirs: true, Cur: "s"},
		"unknown-cmd x": {Cur: "x"},
	} {
		a := ask(t, s, dir, line, true)
		if !slices.Equal(a.Files, []Files{want}) || len(a.Candidates) > 0 {
			t.Errorf("%s: %+v, want %+v", line, a, want)
		}
	}
	a := ask(t, s, dir, "ext ", false)
	slices.Sort(a.Candidates)
	if !slices.Equal(a.Candidates, []string{"a b.txt", "b.md", "sub/"}) || !a.Has("filenames") {
		t.Errorf("in the guest: %+v", a)
	}
}

// Whatever a guest answers, Ask ends.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("Onospace\x00Ca\x00Ffiles\x00\x00x\x00E0\x00"))
	f.Add([]byte("\x00"))
	f.Add([]byte("F\x00"))
	f.Add([]byte(strings.Repeat("C", maxField+1)))
	r := &Request{Dir: "/", Command: NewCommand(ParseBash("a b", 3))}
	f.Fuzz(func(t *testing.T, out []byte) {
		a, err := NewServer(io.Discard, bytes.NewReader(out)).Ask(r)
		if (a == nil) == (err == nil) {
			t.Errorf("%v and %v", a, err)
		}
	})
}

func TestAnswerHasLimits(t *testing.T) {
	r := &Request{Dir: "/", Command: NewCommand(ParseBash("a b", 3))}
	endless := io.MultiReader(strings.NewReader(strings.Repeat("Cx\x00", maxAnswer/3+1)), strings.NewReader("E0\x00"))
	if a, err := NewServer(io.Discard, endless).Ask(r); err == nil {
		t.Errorf("%d candidates are taken", len(a.Candidates))
	}
	if a, err := NewServer(io.Discard, strings.NewReader(strings.Repeat("C", maxField+1)+"\x00E0\x00")).Ask(r); err == nil {
		t.Errorf("a candidate of %d bytes is taken", len(a.Candidates[0]))
	}
}
