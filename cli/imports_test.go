package cli

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/stilehq/stile"

// layers lists the parts from top to bottom, as in docs/design.md: nothing imports
// anything of a line above its own, and what stands on one line may import each
// other.
var layers = [][]string{
	{""},
	{"cli"},
	{"shim", "guestinit", "guestinit/...", "completions", "stiletest"},
	{"machine", "machine/..."},
	{"distro", "distro/..."},
	{"interop/..."},
	{"vmm/..."},
	{"kernel", "kernel/..."},
}

// layer is the line of a package, -1 if it is on none.
func layer(path string) int {
	for i, l := range layers {
		for _, p := range l {
			if dir, ok := strings.CutSuffix(p, "/..."); ok && strings.HasPrefix(path, dir+"/") || path == p || ok && path == dir {
				return i
			}
		}
	}
	return -1
}

// packages lists all packages of the module, each with what it imports, itself or
// by way of others.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, module+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		all[strings.TrimPrefix(strings.TrimPrefix(f[0], module), "/")] = f[1:]
	}
	if len(all) < 30 {
		t.Fatalf("only %d packages were found", len(all))
	}
	return all
}

func TestNothingImportsUpwards(t *testing.T) {
	for path, deps := range packages(t) {
		if strings.Contains(path, "testdata/") || strings.HasPrefix(path, "testdata") {
			continue // programs of tests
		}
		own := layer(path)
		if own < 0 {
			t.Errorf("package %s is in no layer: docs/design.md has them", path)
		}
		for _, d := range deps {
			if rest, ok := strings.CutPrefix(d, module+"/"); ok && layer(rest) < own {
				t.Errorf("%s imports %s, which is above it", path, rest)
			}
		}
	}
}

// What each part must not know.
func TestForbiddenImports(t *testing.T) {
	all := packages(t)
	for _, tt := range []struct {
		from      string // a package, or with /... all below it
		forbidden []string
	}{
		{"vmm/...", []string{"interop/...", "cli", "machine/...", "distro/..."}},
		// A device is the same under each engine and each transport.
		{"vmm/virtio/...", []string{"vmm/qemu", "vmm/kvm", "vmm/vhostuser", "vmm/child"}},
		{"vmm/vhostuser", []string{"vmm/qemu", "vmm/kvm", "vmm/virtio/vsock", "vmm/virtio/fs"}},
		{"vmm/fileserver", []string{"vmm/virtio/...", "vmm/qemu", "vmm/vhostuser"}},
		{"vmm/memory", []string{"vmm/virtio", "vmm/vhostuser"}},
		// Their start is part of each command's time, or of each boot's.
		{"interop/wire", []string{"fmt", "os", "net", "io", "time", "strings", "reflect"}},
		{"interop/early", []string{"fmt", "os", "syscall", "errors"}},
		{"guestinit", []string{"net", "net/http", "cli", "machine", "distro", "vmm/..."}},
		// What reads guests' and callers' bytes executes nothing.
		{"interop/...", []string{"os/exec", "machine/...", "distro/..."}},
	} {
		n := 0
		for path, deps := range all {
			if !matches(path, tt.from) || strings.Contains(path, "testdata") || strings.HasSuffix(path, "test") {
				continue // programs and packages of tests
			}
			n++
			for _, d := range deps {
				name := strings.TrimPrefix(d, module+"/")
				if slices.ContainsFunc(tt.forbidden, func(f string) bool { return matches(name, f) }) {
					t.Errorf("%s imports %s", path, name)
				}
			}
		}
		if n == 0 {
			t.Errorf("there is no package %s", tt.from)
		}
	}
}

func matches(path, pattern string) bool {
	dir, ok := strings.CutSuffix(pattern, "/...")
	return path == pattern || ok && (path == dir || strings.HasPrefix(path, dir+"/"))
}
