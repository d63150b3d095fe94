package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stilehq/stile/distro"
)

func TestExplainPath(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"home/src/deep", "home/.config/stile", "outside"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"home/out": "../outside", "home/in": "src", "outside/back": "../home/src", "other": "home"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	dirs := distro.Dirs{Config: dir + "/home/.config/stile", Data: dir + "/none", Cache: dir + "/none", Runtime: dir + "/none"}
	shares := []distro.Share{
		{Path: dir + "/home", Real: dir + "/home", Mode: distro.ReadOnly},
		{Path: dir + "/home/src", Real: dir + "/home/src", Mode: distro.ReadWrite},
	}
	for _, tt := range []struct {
		path string
		same bool
		why  string // part of it
	}{
		{"home", true, "read-only, by " + dir + "/home"},
		{"home/file", true, "read-only"}, // not there yet
		{"home/src/deep/x/y", true, "by " + dir + "/home/src"},
		{"home/in/deep", true, "read-only"}, // by the path that was named
		{"home/.config/stile/host.toml", false, "stile's own"},
		{"home/out/x", false, "a link to " + dir + "/outside/x"},
		{"outside", false, "the distro's own: on the host it is another file"},
		{"outside/back/deep", false, dir + "/home/src/deep, where the host's leads, is shared"},
		{"homes", false, "the distro's own"},
	} {
		e, err := explainPath(dirs, "deb", shares, dir+"/"+tt.path)
		if err != nil || e.Same != tt.same || !strings.Contains(e.Why, tt.why) {
			t.Errorf("%s: %v %q, %v, want %v %q", tt.path, e.Same, e.Why, err, tt.same, tt.why)
		}
	}
}
