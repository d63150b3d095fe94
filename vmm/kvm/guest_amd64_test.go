package kvm

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/kernel"
	"github.com/stilehq/stile/vmm"
	"github.com/stilehq/stile/vmm/boot"
)

// patience is how long a guest may take for what it does at once: the nested
// lane is slow, and shares its machine.
const patience = time.Minute

// needKVM skips a test that runs guests where KVM will not do. In the nested
// lane it must.
func needKVM(t *testing.T) {
	t.Helper()
	if r := probed(); r.Support != Usable {
		if inLane {
			t.Fatalf("no KVM in the nested lane: %s", r.Reason)
		}
		t.Skipf("%s; run with -exec testdata/lane/run", r.Reason)
	}
}

var probed = sync.OnceValue(Probe)

// leaksNothing fails the test if a descriptor, a goroutine or a mapping of
// guest memory is left at its end. It is called first.
func leaksNothing(t *testing.T) {
	t.Helper()
	count := func() (fds, goroutines, maps int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), runtime.NumGoroutine(), bytes.Count(b, []byte("kvm-vcpu"))
	}
	fds, goroutines, maps := count()
	t.Cleanup(func() {
		var f, g, m int
		for range 50 { // goroutines end a moment after what they did
			if f, g, m = count(); f <= fds && g <= goroutines && m <= maps {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("left: descriptors %d to %d, goroutines %d to %d, vCPUs %d to %d", fds, f, goroutines, g, maps, m)
	})
}

// guestProgram is the compiled testdata/guest. It is kept in the user's cache,
// by what it is made of: a compiler in the nested lane takes a quarter of a
// minute.
var guestProgram = sync.OnceValues(func() ([]byte, error) {
	hash := sha256.New()
	hash.Write([]byte(runtime.Version()))
	sources, err := filepath.Glob("testdata/guest/*.go")
	if err != nil {
		return nil, err
	}
	for _, name := range append(sources, "../../go.sum") {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(b), b)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(cache, "stile", "tests", fmt.Sprintf("kvm-guest-%x", hash.Sum(nil)[:8]))
	if b, err := os.ReadFile(path); err == nil {
		return b, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "build", "-o", path+".new", "./testdata/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the guest's program: %w\n%s", err, out)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// linux is a guest's kernel, for as long as the test runs.
func linux(t *testing.T) *os.File {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path, err := kernel.Find(filepath.Join(cache, "stile"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// initramfs holds the guest's program.
func initramfs(t *testing.T) *os.File {
	t.Helper()
	program, err := guestProgram()
	if err != nil {
		t.Fatal(err)
	}
	f := memfd(t)
	err = boot.WriteInitramfs(f, []boot.File{
		{Name: "dev", Mode: boot.TypeDir | 0o755},
		{Name: "dev/console", Mode: boot.TypeChar | 0o600, Major: 5, Minor: 1},
		{Name: "init", Mode: boot.TypeFile | 0o755, Body: program},
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// memfd is a file that is gone with the test.
func memfd(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	t.Cleanup(func() { f.Close() })
	return f
}

// A guest is a machine of a test, ended with it.
type guest struct {
	*Machine
	t       *testing.T
	console *os.File
}

// startGuest starts a machine of cfg, where Kernel, Memory and CPUs have
// defaults.
func startGuest(t *testing.T, cfg vmm.Config, e Engine) *guest {
	t.Helper()
	g := &guest{t: t, console: memfd(t)}
	if cfg.CPUs == 0 {
		cfg.CPUs = 1
	}
	if cfg.Memory == 0 {
		cfg.Memory = 128 << 20
	}
	cfg.Console = g.console
	m, err := e.Start(t.Context(), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.Machine = m.(*Machine)
	t.Cleanup(func() { g.Kill() })
	return g
}

// startLinux starts stile's kernel with the guest's program in a mode.
func startLinux(t *testing.T, cfg vmm.Config, mode string) *guest {
	t.Helper()
	cfg.Kernel, cfg.Initramfs = linux(t), initramfs(t)
	cfg.Cmdline = append(cfg.Cmdline, "--", mode)
	return startGuest(t, cfg, Engine{})
}

// output is what the guest has printed so far.
func (g *guest) output() string {
	g.t.Helper()
	info, err := g.console.Stat()
	if err != nil {
		g.t.Fatal(err)
	}
	b := make([]byte, info.Size())
	n, _ := g.console.ReadAt(b, 0) // it may grow meanwhile
	return strings.ReplaceAll(string(b[:n]), "\r\n", "\n")
}

// wait waits for the guest's own end.
func (g *guest) wait() error {
	g.t.Helper()
	end := make(chan error, 1)
	go func() { end <- g.Wait() }()
	select {
	case err := <-end:
		return err
	case <-time.After(patience):
		g.t.Fatalf("the guest does not end; exits %v; it printed:\n%s", g.Stats(), g.output())
		return nil
	}
}

// waitOutput waits until the guest has printed text.
func (g *guest) waitOutput(text string) {
	g.t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(g.output(), text); time.Sleep(5 * time.Millisecond) {
		select {
		case <-g.done:
			g.t.Fatalf("the guest ended (%v) before it printed %q:\n%s", g.Wait(), text, g.output())
		default:
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("the guest does not print %q; exits %v; it printed:\n%s", text, g.Stats(), g.output())
		}
	}
}
