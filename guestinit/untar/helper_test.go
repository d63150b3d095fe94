package untar

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An item is an entry of an archive that a test makes; owner and time are filled
// in.
type item struct {
	tar.Header
	body string
}

func file(name, body string) item { return item{tar.Header{Name: name, Mode: 0o644}, body} }
func dir(name string) item {
	return item{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}
func symlink(name, to string) item {
	return item{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}, ""}
}
func hardlink(name, to string) item {
	return item{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}, ""}
}

func (i item) mode(mode int64) item { i.Mode = mode; return i }
func (i item) pax(key, value string) item {
	i.PAXRecords = map[string]string{key: value}
	return i
}

var someTime = time.Unix(1234567890, 123456789)

// pack makes an archive of entries that belong to the caller, so that tests of
// names and order need no root.
func pack(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := i.Header
		if h.Typeflag != tar.TypeXGlobalHeader {
			h.Format = tar.FormatPAX
			h.Size = int64(len(i.body))
			if h.Uid == 0 && h.Gid == 0 {
				h.Uid, h.Gid = os.Getuid(), os.Getgid()
			}
			if h.ModTime.IsZero() {
				h.ModTime = someTime
			}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("write header of %s: %v", h.Name, err)
		}
		if _, err := w.Write([]byte(i.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack unpacks into an empty folder, whose path it returns, and checks that no
// descriptor is left open.
func unpack(t testing.TB, archive []byte) (string, error) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	err := Unpack(bytes.NewReader(archive), root, nil)
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, before it were %d", after, before)
	}
	return root, err
}

func mustUnpack(t testing.TB, items ...item) string {
	t.Helper()
	root, err := unpack(t, pack(t, items...))
	if err != nil {
		t.Fatalf("Unpack: %v", err)
	}
	return root
}

func descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make devices and give files away")
	}
}

// listing describes all of a tree but access times and space, a line a name.
func listing(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	first := map[uint64]string{} // names by inode
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := "." + strings.TrimPrefix(path, root)
		line := fmt.Sprintf("%q mode %o owner %d:%d time %d.%09d links %d", name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Nlink)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size %d sum %x", st.Size, sha256.Sum256(data))
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" to %q", to)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if other, ok := first[st.Ino]; ok {
			line += " is " + other
		} else {
			first[st.Ino] = name
		}
		attrs, err := xattrs(path)
		if err != nil {
			return fmt.Errorf("attributes of %s: %w", path, err)
		}
		lines = append(lines, line+attrs)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func xattrs(path string) (string, error) {
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", err
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	text := ""
	for _, name := range names {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return "", err
		}
		text += fmt.Sprintf(" %s=%x", name, buf[:n])
	}
	return text, nil
}

func compare(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: lacks  %s", what, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: has    %s", what, line)
		}
	}
}

func wantFile(t *testing.T, root, name, body string) {
	t.Helper()
	path := filepath.Join(root, name)
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	if !info.Mode().IsRegular() {
		t.Errorf("%s is %v, want a file", name, info.Mode())
		return
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != body {
		t.Errorf("%s has %.80q, %v; want %.80q", name, got, err, body)
	}
}

func wantArchiveError(t *testing.T, err error, words string) {
	t.Helper()
	var bad *ArchiveError
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), words) {
		t.Errorf("Unpack: %v; want an ArchiveError with %q", err, words)
	}
}
