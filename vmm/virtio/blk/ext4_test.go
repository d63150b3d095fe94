package blk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stilehq/stile/kernel"
	"github.com/stilehq/stile/vmm/boot"
	"github.com/stilehq/stile/vmm/vhostuser"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// A recorder is a Store in memory that remembers what was done to it, in order.
type recorder struct {
	mu     sync.Mutex
	image  []byte
	events []event
}

// An event is a write, a Sync, or the guest's word that a record is stable.
type event struct {
	off    int64
	data   []byte
	sync   bool
	stable int
}

func (r *recorder) add(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.image[e.off:], e.data)
	r.events = append(r.events, e)
}

func (r *recorder) Size() uint64 { return uint64(len(r.image)) }

func (r *recorder) ReadVec(bufs [][]byte, off int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.image[off:]
	for _, dst := range bufs {
		b = b[copy(dst, b):]
	}
	return nil
}

func (r *recorder) ReadNow([][]byte, int64) bool { return false }

func (r *recorder) WriteVec(bufs [][]byte, off int64) error {
	r.add(event{off: off, data: slices.Concat(bufs...)})
	return nil
}

func (r *recorder) Sync() error {
	r.add(event{sync: true})
	return nil
}

func (r *recorder) Discard(off, n int64) error { return r.Zero(off, n, true) }

func (r *recorder) Zero(off, n int64, _ bool) error {
	r.add(event{off: off, data: make([]byte, n)})
	return nil
}

// cut is what a power cut after the first n events leaves of a disk that was
// initial, and the last record that is stable then. What was written since the
// last Sync is there in part, sector by sector.
func cut(initial []byte, events []event, n int, random *rand.Rand) (medium []byte, stable int) {
	medium = bytes.Clone(initial)
	synced := 0
	for i, e := range events[:n] {
		if e.sync {
			synced = i
		}
		stable = max(stable, e.stable)
	}
	part := []float64{0.1, 0.5, 0.9}[random.IntN(3)]
	for i, e := range events[:n] {
		for at := 0; at < len(e.data); at += sectorSize {
			if i < synced || random.Float64() < part {
				copy(medium[e.off+int64(at):], e.data[at:min(len(e.data), at+sectorSize)])
			}
		}
	}
	return medium, stable
}

const (
	ext4Size    = 16 << 20
	ext4Records = 150
	ext4Cuts    = 50
)

// TestPowerCutsOfExt4 has a real guest write to an ext4, with the device behind
// QEMU, and cuts the power 50 times in what it did: each time the file system is
// one that a boot repairs by itself, and holds what was fsynced.
func TestPowerCutsOfExt4(t *testing.T) {
	initial := newExt4(t)
	disk := &recorder{image: bytes.Clone(initial)}
	runGuest(t, disk)
	if t.Failed() {
		return
	}
	writes, syncs := 0, 0
	var forgotten []event // of a device that answers flushes and does not flush
	for _, e := range disk.events {
		if e.sync {
			syncs++
			continue
		}
		if e.data != nil {
			writes++
		}
		forgotten = append(forgotten, e)
	}
	seed := rand.Uint64()
	t.Logf("%d writes, %d flushes; seed %d", writes, syncs, seed)
	if syncs < 2*ext4Records {
		t.Errorf("%d flushes for %d records", syncs, ext4Records)
	}
	cuts := func(events []event, cuts int) (failed int, all error) {
		random := rand.New(rand.NewPCG(seed, 1))
		for range cuts {
			n := 1 + random.IntN(len(events))
			medium, stable := cut(initial, events, n, random)
			if err := checkExt4(t, medium, stable); err != nil {
				failed++
				all = errors.Join(all, fmt.Errorf("after %d events of %d, with record %d stable: %w", n, len(events), stable, err))
			}
		}
		return failed, all
	}
	if failed, err := cuts(disk.events, ext4Cuts); err != nil {
		t.Errorf("%d of %d power cuts lose something: %v", failed, ext4Cuts, err)
	}
	// A disk that does not flush is found out, or this proves nothing.
	const control = 10
	if failed, _ := cuts(forgotten, control); failed < control/2 {
		t.Errorf("without flushes only %d of %d power cuts lose something", failed, control)
	}
}

// newExt4 is an empty file system.
func newExt4(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, ext4Size); err != nil {
		t.Fatal(err)
	}
	// Block size and features of a distro's disk (distro/mktemplate).
	tool(t, "mke2fs", 0, "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "metadata_csum_seed", "-J", "size=4", path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tool runs a program of e2fsprogs, which must end with at most the status most.
func tool(t *testing.T, name string, most int, args ...string) (failed error) {
	t.Helper()
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} { // a user's PATH may lack them
		if _, err := os.Stat(dir + name); err == nil {
			name = dir + name
			break
		}
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > most:
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), args[0], err, out)
	case err != nil && exit == nil:
		t.Fatalf("%v (package e2fsprogs)", err)
	}
	return nil
}

// checkExt4 does with a disk what the next boot does, and looks at all of it.
func checkExt4(t *testing.T, medium []byte, stable int) error {
	t.Helper()
	dir := t.TempDir()
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(image, medium, 0o600); err != nil {
		t.Fatal(err)
	}
	// The journal, and files that were being removed: 1 says so.
	if err := tool(t, "e2fsck", 1, "-p", image); err != nil {
		return err
	}
	if err := tool(t, "e2fsck", 0, "-fn", image); err != nil {
		return err
	}
	if stable == 0 {
		return nil
	}
	log, current := filepath.Join(dir, "log"), filepath.Join(dir, "current")
	if err := tool(t, "debugfs", 0, "-R", "dump /log "+log, image); err != nil {
		return err
	}
	if err := tool(t, "debugfs", 0, "-R", "dump /current "+current, image); err != nil {
		return err
	}
	var want strings.Builder
	for n := range stable {
		want.WriteString(guestRecord(n+1, 3000))
	}
	if got, err := os.ReadFile(log); err != nil || !strings.HasPrefix(string(got), want.String()) {
		return fmt.Errorf("the log has not what was fsynced: %d bytes, %w", len(got), err)
	}
	got, err := os.ReadFile(current)
	if err != nil {
		return fmt.Errorf("the replaced file is gone: %w", err)
	}
	line, _, _ := strings.Cut(string(got), "\n")
	n, err := strconv.Atoi(strings.TrimPrefix(line, "record "))
	if err != nil || n < stable || string(got) != guestRecord(n, 5000) {
		return fmt.Errorf("the replaced file has %d bytes and begins with %.20q", len(got), line)
	}
	return nil
}

// guestRecord is also that of testdata/guest.
func guestRecord(n, size int) string {
	return strings.Repeat(fmt.Sprintf("record %d\n", n), size)[:size]
}

// runGuest runs testdata/guest under QEMU's TCG on a disk, to its end. No KVM:
// the answer must not hang on the host.
func runGuest(t *testing.T, disk *recorder) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	image, err := kernel.Find(filepath.Join(cache, "stile"))
	if err != nil {
		t.Fatal(err)
	}
	initrd := guestInitramfs(t)
	ours, theirs := virtiotest.SocketPair(t)
	file, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	defer file.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "microvm,x-option-roms=off,acpi=off,pit=off,pic=off,rtc=on,memory-backend=mem", "-accel", "tcg", "-cpu", "max", "-m", "256M",
		"-object", "memory-backend-memfd,id=mem,size=256M,share=on",
		"-global", "virtio-mmio.force-legacy=false",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-chardev", "socket,id=disk,fd=3", "-device", "vhost-user-blk,chardev=disk",
		"-kernel", image, "-initrd", initrd,
		"-append", fmt.Sprintf("console=ttyS0 quiet panic=-1 reboot=t lapic_khz=1000000 tsc=reliable tsc_early_khz=2000000 records=%d", ext4Records))
	cmd.ExtraFiles = []*os.File{file}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (package qemu-system-x86)", err)
	}
	file.Close()
	served := make(chan error, 1)
	go func() { served <- vhostuser.Serve(ctx, ours, New(disk, Options{})) }()
	var text strings.Builder
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if n, ok := strings.CutPrefix(line, "stable "); ok {
			if stable, err := strconv.Atoi(n); err == nil {
				disk.add(event{stable: stable})
				continue
			}
		}
		fmt.Fprintln(&text, line)
	}
	err = cmd.Wait()
	if err := errors.Join(err, <-served); err != nil || !strings.HasPrefix(text.String(), "done\n") {
		t.Fatalf("the guest did not get through: %v\n%s%s", err, text.String(), errs.String())
	}
}

// guestInitramfs is the path of an initramfs with testdata/guest, static also
// under -race.
func guestInitramfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "init")
	cmd := exec.Command("go", "build", "-o", program, "./testdata/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the guest's program: %v\n%s", err, out)
	}
	body, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initramfs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	err = boot.WriteInitramfs(f, []boot.File{
		{Name: "dev", Mode: boot.TypeDir | 0o755},
		{Name: "dev/console", Mode: boot.TypeChar | 0o600, Major: 5, Minor: 1},
		{Name: "init", Mode: boot.TypeFile | 0o755, Body: body},
	})
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
