package machine

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/vmm/child"
)

// console is a console log that holds text.
func console(t *testing.T, text string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLastWords(t *testing.T) {
	for _, tt := range []struct{ name, text, panicked, last string }{
		{"nothing", "", "", ""},
		{"one line", "hello\n", "", "hello"},
		{"no end of line", "a\nhello", "", "hello"},
		{"empty lines after it", "hello\r\n\r\n\n", "", "hello"},
		{"a time stamp", "[   12.000345] EXT4-fs error\n", "", "EXT4-fs error"},
		{"the supervisor's lines", "hello\nstile: distro d: ends: stile stop\n", "", "hello"},
		{"a panic", "[    1.0] x\n[    1.190012] Kernel panic - not syncing: sysrq triggered crash\n[    1.2] CPU: 0\n[    1.3] ---[ end ]---\n",
			"sysrq triggered crash", "---[ end ]---"},
		{"the first of two panics", "Kernel panic - not syncing: a\nKernel panic - not syncing: b\n", "a", "Kernel panic - not syncing: b"},
		{"what a terminal obeys", "\x1b]0;title\x07\x9b31m\xffred\u202e\n", "", "]0;title31mred"},
		{"a long line", strings.Repeat("x", 300), "", strings.Repeat("x", 200) + "..."},
		{"much before it", strings.Repeat("line\n", 100000) + "end\n", "", "end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if panicked, last := lastWords(console(t, tt.text)); panicked != tt.panicked || last != tt.last {
				t.Errorf("%q, %q; want %q, %q", panicked, last, tt.panicked, tt.last)
			}
		})
	}
	if panicked, last := lastWords(nil); panicked != "" || last != "" {
		t.Errorf("no console: %q, %q", panicked, last)
	}
}

// What is said of a machine whose process ended, by how that one ended.
func TestEnded(t *testing.T) {
	run := func(script string) *child.Process {
		t.Helper()
		p, err := child.Start(exec.Command("sh", "-c", script))
		if err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		return p
	}
	for _, tt := range []struct {
		name, script, console string
		up                    bool
		want                  string
	}{
		{"restart", "exit 0", "", true, "the guest restarted"},
		{"restart with words", "exit 0", "guestinit: the distro's PID 1 has ended\n", true, "the guest restarted; its last words: guestinit: the distro's PID 1 has ended"},
		{"restart at boot", "exit 0", "", false, "the guest's kernel restarted before it was up"},
		{"panic at boot", "exit 0", "Kernel panic - not syncing: No working init found.\nmore\n", false, "the guest's kernel panicked: No working init found."},
		{"the engine's error", "echo the guest died of a triple fault >&2; exit 1", "", true, "vmm process: the guest died of a triple fault"},
		{"the same with words", "echo broken >&2; exit 1", "BUG: x\n", true, "vmm process: broken; the guest's last words: BUG: x"},
		{"killed", "kill -KILL $$", "", true, "vmm process: sh: signal: killed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &vm{vmm: run(tt.script), console: console(t, tt.console)}
			if err := v.ended(tt.up); err == nil || err.Error() != tt.want {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

// Whoever waits for a guest that does not come up is told why.
func TestStartError(t *testing.T) {
	b := newBench(t, time.Hour, nobody)
	b.end(false, "terminated")
	b.end(true, "stile stop")
	var e *wire.Error
	if err := b.startError(nil); !errors.As(err, &e) || e.Why != "its machine was ended before it was up: terminated" || e.Hint != "see: stile logs d" {
		t.Errorf("%v", err)
	}
	if err := b.startError(context.Canceled); !errors.As(err, &e) || e.Why != "context canceled" {
		t.Errorf("%v", err)
	}
}
