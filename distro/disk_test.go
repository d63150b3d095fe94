package distro

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newImage(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := createImage(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return path
}

// tool skips the test where the host lacks a program.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	t.Skipf("the host has no %s", name)
	return ""
}

func TestNewDiskIsClean(t *testing.T) {
	path := newImage(t)
	out, err := exec.Command(tool(t, "e2fsck"), "-fn", path).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func TestNewDiskIsSparse(t *testing.T) {
	var st unix.Stat_t
	if err := unix.Stat(newImage(t), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != DiskSize || st.Blocks*512 > 16<<20 {
		t.Errorf("size %d, want %d; allocated %d, want at most 16 MiB", st.Size, int64(DiskSize), st.Blocks*512)
	}
}

// Each disk has a UUID of its own, in each copy of the superblock, and inode
// tables that the guest's kernel leaves alone.
func TestNewDiskIdentity(t *testing.T) {
	dumpe2fs := tool(t, "dumpe2fs")
	dump := func(path string, args ...string) string {
		out, err := exec.Command(dumpe2fs, append(args, path)...).Output()
		if err != nil {
			t.Fatalf("dumpe2fs %v: %v", args, err)
		}
		return string(out)
	}
	line := func(text, prefix string) string {
		for l := range strings.Lines(text) {
			if strings.HasPrefix(l, prefix) {
				return l
			}
		}
		t.Fatalf("no line %q", prefix)
		return ""
	}
	a, b := newImage(t), newImage(t)
	whole := dump(a)
	if line(whole, "Filesystem UUID:") == line(dump(b), "Filesystem UUID:") {
		t.Error("two disks have one UUID")
	}
	if line(whole, "Directory Hash Seed:") == line(dump(b), "Directory Hash Seed:") {
		t.Error("two disks have one hash seed")
	}
	if n, groups := strings.Count(whole, "ITABLE_ZEROED"), strings.Count(whole, "Inode table at"); n != groups {
		t.Errorf("%d of %d inode tables are marked as zeroed", n, groups)
	}
	for _, backup := range []string{"32768", "98304", "7962624"} { // groups 1, 3, 243
		if got := dump(a, "-h", "-o", "superblock="+backup, "-o", "blocksize=4096"); line(got, "Filesystem UUID:") != line(whole, "Filesystem UUID:") {
			t.Errorf("backup at block %s has another UUID", backup)
		}
	}
}

func TestBadImages(t *testing.T) {
	whole := newImage(t)
	for _, tc := range []struct {
		name string
		harm func(path string) error
		want string
	}{
		{"empty", func(p string) error { return os.Truncate(p, 0) }, "truncated"},
		{"first half", func(p string) error { return os.Truncate(p, DiskSize/2) }, "truncated"},
		{"last byte lacks", func(p string) error { return os.Truncate(p, DiskSize-1) }, "truncated"},
		{"zeroes", func(p string) error { os.Truncate(p, 0); return os.Truncate(p, DiskSize) }, "no ext4"},
		{"block size", func(p string) error { return patch(p, superOffset+superLogBlock, 0xff) }, "damaged"},
		{"block count", func(p string) error { return patch(p, superOffset+superBlocksHi+3, 0xff) }, "damaged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.img")
			if out, err := exec.Command("cp", "--sparse=always", whole, path).CombinedOutput(); err != nil {
				t.Fatalf("cp: %s", out)
			}
			if err := tc.harm(path); err != nil {
				t.Fatal(err)
			}
			f, err := OpenDisk(path)
			var bad *ImageError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("OpenDisk = %v, %v; want an ImageError with %q", f, err, tc.want)
			}
		})
	}
}

func patch(path string, at int64, b byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte{b}, at)
	return err
}

// The lock is of the open file: it stays with a process that inherited the
// descriptor when its opener has closed it.
func TestDiskLockOutlivesOpener(t *testing.T) {
	path := newImage(t)
	f, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "60")
	child.ExtraFiles = []*os.File{f}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()

	_, err = OpenDisk(path)
	if !errors.Is(err, ErrInUse) {
		t.Errorf("second OpenDisk: %v, want ErrInUse", err)
	}
	f.Close()
	_, err = OpenDisk(path)
	var inUse *InUseError
	if !errors.As(err, &inUse) {
		t.Fatalf("OpenDisk after the opener closed: %v, want an InUseError", err)
	}
	if inUse.PID != child.Process.Pid || inUse.Command != "sleep" {
		t.Errorf("in use by %d (%s), want %d (sleep)", inUse.PID, inUse.Command, child.Process.Pid)
	}
	child.Process.Kill()
	child.Wait()
	again, err := OpenDisk(path)
	if err != nil {
		t.Fatalf("OpenDisk after the last holder's end: %v", err)
	}
	again.Close()
}

func TestTemplateIsWhole(t *testing.T) {
	n := 0
	err := ReadTemplate(bytes.NewReader(template), func(int64, []byte) error { n++; return nil })
	if err != nil || n == 0 {
		t.Errorf("%d blocks, %v", n, err)
	}
	if len(template) > 200<<10 {
		t.Errorf("the template has %d bytes in every binary", len(template))
	}
	if err := ReadTemplate(bytes.NewReader(template[:len(template)/2]), func(int64, []byte) error { return nil }); err == nil {
		t.Error("half a template is taken for a whole one")
	}
}
