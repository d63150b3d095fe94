package completions

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// strict are the options under which each shell has to stay quiet.
var strict = map[string][]string{
	"bash": {"--norc", "--noprofile", "-eu", "-o", "pipefail", "-c"},
	"zsh":  {"-f", "-eu", "-o", "pipefail", "-c"},
	"fish": {"--no-config", "-c"},
}

// echo prints the PATH with colons in each shell.
var echo = map[string]string{
	"bash": `printf "%s\n" "$PATH"`,
	"zsh":  `printf "%s\n" "$PATH"`,
	"fish": `string join : $PATH; true`,
}

// lookShell finds a shell; where the host has none a test of that name is skipped,
// so that the run counts it.
func lookShell(t *testing.T, shell string) string {
	t.Helper()
	path, err := exec.LookPath(shell)
	if err != nil {
		t.Run(shell, func(t *testing.T) { t.Skipf("the host has no %s", shell) })
		return ""
	}
	return path
}

// ran are the shells that run here: PowerShell has no package in Debian.
var ran = []string{"bash", "zsh", "fish"}

// options of a test: the program does not exist unless the test makes it.
func options(links string) Options {
	dir := filepath.Dir(links)
	return Options{Links: links, Stile: dir + "/stile", Views: dir + "/views", Fish: dir + "/fish"}
}

func TestInitPutsLinksFirstOnce(t *testing.T) {
	folders := []string{"/home/u/.local/share/stile/bin", "/home/it's/my $HOME/*/[a]/stile/bin", `/back\slash/bin`}
	for _, shell := range ran {
		path := lookShell(t, shell)
		if path == "" {
			continue
		}
		for _, links := range folders {
			script, err := Init(shell, options(links))
			if err != nil {
				t.Fatal(err)
			}
			for _, tc := range []struct{ name, path, want string }{
				{"new", "/usr/bin:/bin", links + ":/usr/bin:/bin"},
				{"there", links + ":/usr/bin:/bin", links + ":/usr/bin:/bin"},
				{"behind", "/usr/bin:" + links + ":/bin", links + ":/usr/bin:/bin"},
				{"last", "/usr/bin:/bin:" + links, links + ":/usr/bin:/bin"},
				{"twice", links + ":" + links + ":/bin:" + links, links + ":/bin"},
				{"alone", links, links},
				{"a folder's of before", filepath.Dir(links) + "/views/0123/bin:/bin", links + ":/bin"},
				{"prefix of another", links + "x:/bin", links + ":" + links + "x:/bin"},
			} {
				t.Run(shell+" "+tc.name, func(t *testing.T) {
					cmd := exec.Command(path, append(strict[shell], script+"\n"+script+"\n"+echo[shell])...)
					cmd.Env = []string{"PATH=" + tc.path, "HOME=" + t.TempDir()}
					out, err := cmd.CombinedOutput()
					if err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
					if got := strings.TrimSuffix(string(out), "\n"); got != tc.want {
						t.Errorf("PATH is\n%s, want\n%s", got, tc.want)
					}
				})
			}
		}
	}
}

// A user's aliases and options do no harm.
func TestInitAmongUsersOwn(t *testing.T) {
	for _, tc := range []struct{ shell, before string }{
		{"bash", "shopt -s expand_aliases extglob; alias export=false unset=false builtin=false local=false"},
		{"bash", "set -o posix"},
		{"zsh", "setopt aliases ksharrays shwordsplit globsubst nullglob noclobber; alias export=false local=false builtin=false"},
		{"zsh", "typeset -U path"},
	} {
		path := lookShell(t, tc.shell)
		if path == "" {
			continue
		}
		links := filepath.Join(t.TempDir(), "bin")
		script, err := Init(tc.shell, options(links))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path, append(strict[tc.shell], tc.before+"\neval "+quote(tc.shell, script)+"\n"+echo[tc.shell])...)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir()}
		out, err := cmd.CombinedOutput()
		if got, want := string(out), links+":/usr/bin:/bin\n"; err != nil || got != want {
			t.Errorf("%s after %q: %v\n%s, want %s", tc.shell, tc.before, err, got, want)
		}
	}
}

func quote(shell, s string) string {
	if shell == "fish" {
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func TestInitUnknown(t *testing.T) {
	if _, err := Init("tcsh", options("/x")); err == nil {
		t.Error("there is a script for tcsh")
	}
	if _, err := Init("bash", options("/a:b")); err == nil {
		t.Error("a folder with a colon is put on the PATH")
	}
}
