package machine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/guest"
)

// The folder that a guest names is entered in a share, by no link, or is the home.
func TestHostFolder(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"home/share/a/b", "home/share/own/stile", "home/outside"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"out": "../outside", "in": "a", "root": "/"} {
		if err := os.Symlink(target, filepath.Join(dir, "home/share", link)); err != nil {
			t.Fatal(err)
		}
	}
	home, share := dir+"/home", dir+"/home/share"
	h := &hostCommands{dirs: distro.Dirs{Home: home, Config: share + "/own/stile", Data: dir + "/none", Cache: dir + "/none", Runtime: dir + "/none"}}
	shares := []guest.Share{{Path: share}, {Path: dir + "/gone"}}
	for cwd, want := range map[string]string{
		share:                   share,
		share + "/a/b":          share + "/a/b",
		share + "/own":          share + "/own",
		share + "/own/stile":    "", // stile's own
		share + "/in":           "",
		share + "/out":          "",
		share + "/root/etc":     "",
		share + "/nowhere":      "",
		dir + "/gone":           "",
		share + "/../outside":   home, // no guest's kernel says so
		share + "/a/":           home,
		share + "x":             home,
		dir + "/home/outside":   home,
		"/etc":                  home,
		"":                      home,
		"relative":              home,
		share + "/a\x00/../../": home,
	} {
		f, path, err := h.folder(cwd, shares)
		if want == "" {
			if err == nil {
				f.Close()
				t.Errorf("%q: %s was entered", cwd, path)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", cwd, err)
			continue
		}
		real, err := os.Readlink("/proc/self/fd/" + fd(f))
		if err != nil || real != want || path != want {
			t.Errorf("%q: %s, said to be %s, %v, want %s", cwd, real, path, err, want)
		}
		f.Close()
	}
}

func fd(f *os.File) string { return strconv.Itoa(int(f.Fd())) }

// A name of a guest's that is copied from a message into a shell is that name.
func TestPrintableName(t *testing.T) {
	for _, name := range []string{"gh", "/usr/bin/x-y_z", "a b", "$(touch x)", "`x`", "it's", `"`, "a;b", "*", "", "!x", `\`, "~", "é"} {
		out, err := exec.Command("sh", "-c", "printf %s "+printableName(name)).Output()
		plain := strings.IndexFunc(name, func(r rune) bool { return r > 0x7e }) < 0
		if err != nil || plain && string(out) != name {
			t.Errorf("%q is written %s, which is %q: %v", name, printableName(name), out, err)
		}
	}
	for _, name := range []string{"\x1b[2J", "a\nb", "'\x00'; touch x", strings.Repeat("x", 1000)} {
		got := printableName(name)
		if len(got) > 600 || strings.ContainsAny(got, "\x1b\n\x00") {
			t.Errorf("%q is written %q", name, got)
		}
		if err := exec.Command("sh", "-n", "-c", ": "+got).Run(); err != nil {
			t.Errorf("%q is written %q, which is no word of a shell's", name, got)
		}
	}
}

func TestAsk(t *testing.T) {
	helper := filepath.Join(t.TempDir(), "helper")
	script := "#!/bin/sh\necho \"$2\" >\"$0.asked\"\nexit $1\n"
	if err := os.WriteFile(helper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	many := make([]string, 100)
	for _, tt := range []struct {
		helper []string
		why    string
	}{
		{[]string{helper, "0"}, ""},
		{[]string{helper, "1"}, "the host's user said no"},
		{[]string{helper + ".none"}, "the host's user is to be asked, and the program that asks does not run"},
		{nil, "the host's user is to be asked, and there is no program that could ask"},
	} {
		if got := ask(ctx, tt.helper, nil, "deb", "/usr/bin/gh", append([]string{"a b", "\x1b[2J"}, many...)); got != tt.why {
			t.Errorf("%q: %q, want %q", tt.helper, got, tt.why)
		}
	}
	b, err := os.ReadFile(helper + ".asked")
	if err != nil || !strings.Contains(string(b), "The distro deb wants to run on this host:\n\n/usr/bin/gh 'a b' '\\x1b[2J' ''") || len(b) > 300 {
		t.Errorf("asked %q, %v", b, err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if got := ask(gone, []string{helper, "0"}, nil, "deb", "x", nil); got != "the host's user did not answer" {
		t.Errorf("a guest that has gone: %q", got)
	}
}
