package kernel_test

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stilehq/stile/kernel"
)

// built returns the kernel that the tests below boot. They fail when there is
// none: a kernel that nobody tried is worse than a red line.
func built(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path, err := kernel.Find(filepath.Join(cache, "stile"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTerminal boots the kernel and runs the cases of internal/ttyguest in it.
func TestTerminal(t *testing.T) {
	image := built(t)
	dir := t.TempDir()
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, archive(t, buildGuest(t, dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	out := boot(t, image, initrd)

	passed := 0
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "pass "); ok {
			passed++
			t.Run(name, func(t *testing.T) {})
		} else if failure, ok := strings.CutPrefix(line, "fail "); ok {
			name, reason, _ := strings.Cut(failure, ": ")
			t.Run(name, func(t *testing.T) { t.Error(reason) })
		}
	}
	if passed == 0 || !strings.Contains(out, "\ndone") {
		t.Errorf("the guest did not get through its cases:\n%s", out)
	}
}

// buildGuest compiles the guest's only program, static also under -race.
func buildGuest(t *testing.T, dir string) []byte {
	t.Helper()
	path := filepath.Join(dir, "init")
	cmd := exec.Command("go", "build", "-o", path, "./internal/ttyguest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the guest's program: %v\n%s", err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// boot runs the kernel under QEMU until the guest ends, and returns what it
// printed. No KVM: the answer must not hang on the host.
func boot(t *testing.T, image, initrd string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "microvm,x-option-roms=off,acpi=off,pit=off,pic=off,rtc=on", "-accel", "tcg", "-cpu", "max", "-m", "256M",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", image, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 reboot=t lapic_khz=1000000 tsc=reliable tsc_early_khz=2000000")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-system-x86_64 (package qemu-system-x86): %v\n%s", err, out)
	}
	return strings.ReplaceAll(string(out), "\r\n", "\n")
}

// archive makes an initramfs (the newc format of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst) of /init and the
// console that the kernel opens for it.
func archive(t *testing.T, program []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	pad := func() {
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	entry := func(name string, mode, major, minor int, body []byte) {
		// ino, mode, uid, gid, links, time, size, device, its number, name's length, checksum
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			0, mode, 0, 0, 1, 0, len(body), 0, 0, major, minor, len(name)+1, 0, name)
		pad()
		b.Write(body)
		pad()
	}
	entry("dev", 0o040755, 0, 0, nil)
	entry("dev/console", 0o020600, 5, 1, nil)
	entry("init", 0o100755, 0, 0, program)
	entry("TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes()
}

// TestImage holds what engines rely on, and the size: the image is read at
// each start of a machine.
func TestImage(t *testing.T) {
	path := built(t)
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Type != elf.ET_EXEC || f.Machine != elf.EM_X86_64 {
		t.Errorf("%v for %v", f.Type, f.Machine)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	const limit = 16 << 20
	if info.Size() > limit {
		t.Errorf("%d bytes, more than %d", info.Size(), limit)
	}
}
