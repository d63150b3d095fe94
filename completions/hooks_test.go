package completions

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fakeStile stands for stile: it tells on standard error what it was called with,
// and knows one command of the guest, rg.
const fakeStile = `#!/bin/sh
printf 'stile:%s\n' "$*" >&2
case $1 in
not-found) case $3 in rg) exit 0 ;; offered) exit 2 ;; esac; exit 1 ;;
run) shift 2; printf '[%s]' "$@"; exit 5 ;;
view) case $2 in */bad/*) exit 125 ;; esac; printf '%s\n' "${0%/*}/views/0123/bin" ;;
esac
`

// A host is what a shell under test finds.
type host struct {
	t       *testing.T
	dir     string
	options Options
}

func newHost(t *testing.T) *host {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, options: options(dir + "/it's bin")}
	for _, d := range []string{h.options.Links, dir + "/views/0123/bin", dir + "/src/deep", dir + "/src/bad/deep"} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{h.options.Stile: fakeStile, h.options.Links + "/grep": "", h.options.Links + "/a b": "",
		dir + "/src/.stile.toml": "", dir + "/src/bad/.stile.toml": "", dir + "/views/0123/of": ""} {
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// script is what init prints, as a statement of the shell, twice.
func (h *host) script(shell string, o Options) string {
	h.t.Helper()
	text, err := Init(shell, o)
	if err != nil {
		h.t.Fatal(err)
	}
	load := "eval " + quote(shell, text)
	if shell == "fish" {
		load = "echo " + quote(shell, text) + " | source"
	}
	return load + "\n" + load + "\n"
}

// run runs a script under the strict options of a shell.
func (h *host) run(shell, script string) string {
	h.t.Helper()
	path, err := exec.LookPath(shell)
	if err != nil {
		h.t.Skipf("the host has no %s", shell)
	}
	cmd := exec.Command(path, append(strict[shell], script)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + h.dir, "LC_ALL=C.UTF-8"}
	cmd.Dir = h.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Errorf("%s: %v\n%s", shell, err, out)
	}
	return string(out)
}

// has prints whether the functions are there.
var has = map[string]string{
	"bash": `for f in __stile_complete command_not_found_handle __stile_prompt_hook; do declare -F $f >/dev/null && printf "1 " || printf "0 "; done`,
	"zsh":  `for f in __stile_complete command_not_found_handler __stile_prompt_hook; do (( $+functions[$f] )) && printf "1 " || printf "0 "; done`,
	"fish": `for f in __stile_complete __stile_not_found_before __stile_prompt_hook; functions -q $f; and printf "1 "; or printf "0 "; end`,
}

// Each option in each shell, strict and twice: nothing is printed, no process is
// started, and what was not wanted is not there.
func TestInitOptions(t *testing.T) {
	for _, shell := range ran {
		for n := range 8 {
			o := [3]bool{n&1 == 0, n&2 == 0, n&4 == 0}
			t.Run(fmt.Sprint(shell, o), func(t *testing.T) {
				h := newHost(t)
				opts := h.options
				opts.NoCompletions, opts.NoNotFound, opts.NoPrompt = !o[0], !o[1], !o[2]
				want := ""
				for _, on := range o {
					want += map[bool]string{true: "1 ", false: "0 "}[on]
				}
				if got := h.run(shell, h.script(shell, opts)+has[shell]); got != want {
					t.Errorf("printed %q, want %q", got, want)
				}
			})
		}
	}
}

// The hook before a prompt leaves $? alone, and what was there before it.
func TestPromptHookKeepsStatus(t *testing.T) {
	for _, tt := range []struct{ name, shell, before, script, want string }{
		{"string", "bash", "PROMPT_COMMAND='echo last=$?'\n", `set +e; (exit 7); eval "$PROMPT_COMMAND"; echo "$PROMPT_COMMAND"`, "last=7\n__stile_prompt_hook;echo last=$?\n"},
		{"array", "bash", "PROMPT_COMMAND=('echo last=$?' 'echo two')\n", `set +e; (exit 7); for c in "${PROMPT_COMMAND[@]}"; do eval "$c"; done`, "last=7\ntwo\n"},
		{"none", "bash", "", `set +e; (exit 7); eval "$PROMPT_COMMAND"; echo $?`, "7\n"},
		{"hooks", "zsh", "precmd_functions=(mine); mine() { print last=$? }\n", `set +e; (exit 7); for f in $precmd_functions; do (exit 7); $f; done; print $precmd_functions`, "last=7\n__stile_prompt_hook mine\n"},
		{"none", "zsh", "", `set +e; (exit 7); __stile_prompt_hook; print $? $precmd_functions $chpwd_functions`, "7 __stile_prompt_hook __stile_prompt_hook\n"},
		{"none", "fish", "", `sh -c 'exit 7'; __stile_prompt_hook; echo $status`, "7\n"},
	} {
		t.Run(tt.shell+" "+tt.name, func(t *testing.T) {
			h := newHost(t)
			if got := h.run(tt.shell, tt.before+h.script(tt.shell, h.options)+tt.script); got != tt.want {
				t.Errorf("printed %q, want %q", got, tt.want)
			}
		})
	}
}

// A folder's links come first in it and below, and are gone elsewhere. A file that
// is not trusted is told of once.
func TestPromptHookFollowsFolder(t *testing.T) {
	for _, shell := range ran {
		t.Run(shell, func(t *testing.T) {
			h := newHost(t)
			hook, show := "__stile_prompt_hook\n", echo[shell]+"\n"
			got := h.run(shell, h.script(shell, h.options)+hook+show+"cd src/deep\n"+hook+show+hook+hook+"cd ..\n"+hook+show+
				"cd bad/deep\n"+hook+hook+show+"cd ../..\n"+hook+show+"cd /\n"+hook+show)
			rest := h.options.Links + ":/usr/bin:/bin\n"
			view := h.dir + "/views/0123/bin:" + rest
			// zsh and fish have a hook on cd, so that the one of the prompt finds all done.
			told := "stile:view " + h.dir + "/src/.stile.toml\n"
			bad := "stile:view " + h.dir + "/src/bad/.stile.toml\n"
			if want := rest + told + view + view + bad + rest + told + view + rest; got != want {
				t.Errorf("printed\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestNotFound(t *testing.T) {
	missing := map[string]string{"bash": "bash: nope: command not found\n", "zsh": "zsh: command not found: nope\n"}
	for _, tt := range []struct{ shell, before, chained string }{
		{"bash", "", missing["bash"]},
		{"bash", "command_not_found_handle() { echo \"before $*\"; return 9; }\n", "before nope -x\n"},
		{"zsh", "", missing["zsh"]},
		{"zsh", "command_not_found_handler() { echo \"before $*\"; return 9; }\n", "before nope -x\n"},
		{"fish", "function fish_command_not_found; echo before $argv; end\n", "before nope -x\n"},
	} {
		t.Run(tt.shell+" "+tt.before, func(t *testing.T) {
			h := newHost(t)
			status := map[bool]string{true: "echo $status\n", false: "echo $?\n"}[tt.shell == "fish"]
			off := "set +e\n"
			if tt.shell == "fish" {
				off = ""
			}
			got := h.run(tt.shell, tt.before+h.script(tt.shell, h.options)+off+"rg 'a b' '' '*'\n"+status+"offered\n"+status+"nope -x\n"+status+"exit 0\n")
			// fish shows where it happened, and reports 127 whatever its function ends with.
			ran := map[bool]string{true: "127", false: "5"}[tt.shell == "fish"]
			want := "stile:not-found -- rg\nstile:run -- rg a b  *\n[rg][a b][][*]" + ran + "\nstile:not-found -- offered\n127\nstile:not-found -- nope\n" + tt.chained
			want += map[bool]string{true: "9\n", false: "127\n"}[tt.shell != "fish" && tt.before != ""]
			got = regexp.MustCompile(`fish: \n.*\n\^~*\^?\n`).ReplaceAllString(got, "")
			if got != want {
				t.Errorf("printed\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// What PowerShell gets is not run here: there is no PowerShell to be had.
func TestPowerShellIsFilledIn(t *testing.T) {
	o := options("/home/it's/bin")
	text, err := Init("pwsh", o)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "@LINKS@") || strings.Contains(text, "@STILE@") || !strings.Contains(text, "'/home/it''s/bin'") {
		t.Errorf("placeholders are left, or are not quoted:\n%s", text)
	}
	for _, pair := range []string{"{}", "()", "[]"} {
		if strings.Count(text, pair[:1]) != strings.Count(text, pair[1:]) {
			t.Errorf("%s do not match", pair)
		}
	}
	without := o
	without.NoCompletions, without.NoNotFound, without.NoPrompt = true, true, true
	if short, err := Init("pwsh", without); err != nil || strings.Contains(short, "Register-ArgumentCompleter") || strings.Contains(short, "CommandNotFoundAction") {
		t.Errorf("%v\n%s", err, short)
	}
}

func TestFishFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fish")
	if err := FishFiles(dir, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a folder is made for nothing")
	}
	for _, names := range [][]string{{"git", "it's", "g++"}, {"git"}} {
		if err := FishFiles(dir, names); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(names) {
			t.Errorf("%v, %v; want files for %q", entries, err, names)
		}
	}
}
