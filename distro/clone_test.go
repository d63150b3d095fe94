package distro

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// segments are the places of a sparse file that hold something other than zeros,
// in blocks of 64 KiB, with what they hold.
func segments(t *testing.T, path string) (list []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const block = 64 << 10
	zeros := make([]byte, block)
	for at := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err != nil {
			return list // ENXIO: the rest is a hole
		}
		at = start / block * block
		b := make([]byte, block)
		n, err := f.ReadAt(b, at)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if string(b[:n]) != string(zeros[:n]) {
			list = append(list, fmt.Sprintf("%d %x", at, sha256.Sum256(b[:n])))
		}
		at += block
	}
}

func TestClone(t *testing.T) {
	s := newStore(t)
	d := mustImport(t, s, "debian")
	if err := s.RememberCommands(d, []string{"git"}); err != nil {
		t.Fatal(err)
	}
	c, err := s.Clone(t.Context(), "debian", "copy")
	if err != nil {
		t.Fatal(err)
	}
	if a, b := segments(t, d.DiskPath()), segments(t, c.DiskPath()); len(a) == 0 || !slices.Equal(a, b) {
		t.Errorf("the disk holds %q, the copy's %q", a, b)
	}
	size, allocated, err := c.Usage()
	if was, _, _ := d.Usage(); err != nil || size != was || allocated >= size/2 {
		t.Errorf("the copy has %d bytes and takes %d, %v", size, allocated, err)
	}
	if names, err := s.Commands(c); err != nil || len(names) != 1 || c.Info != d.Info {
		t.Errorf("the copy knows %q, %v, and is %+v", names, err, c.Info)
	}
	if _, err := s.Clone(t.Context(), "debian", "copy"); !errors.Is(err, ErrExists) {
		t.Errorf("a second copy of the name: %v", err)
	}
	disk, err := d.OpenDisk()
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if _, err := s.Clone(t.Context(), "debian", "other"); !errors.Is(err, ErrInUse) {
		t.Errorf("a disk that is in use is copied: %v", err)
	}
	wantNames(t, s.root(), "copy", "debian")
}
