package fileserver

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

// posixFolder names a folder that TestPOSIX is to run in, instead of a share
// that this kernel mounts: one inside of a guest (testdata/posix.txtar).
const posixFolder = "STILE_POSIX_FOLDER"

// TestPOSIX runs go-fuse's table of POSIX behaviours in a share.
func TestPOSIX(t *testing.T) {
	for name, f := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			if name == "FcntlFlockLocksFile" {
				t.Skip("it wants one process's POSIX locks through two descriptors to conflict, which they do on no file system of Linux")
			}
			f(t, posixDir(t))
		})
	}
	for name, f := range ownPOSIX {
		t.Run(name, func(t *testing.T) { f(t, posixDir(t)) })
	}
}

// ownPOSIX is what posixtest leaves out.
var ownPOSIX = map[string]func(*testing.T, string){
	"MmapShared":    testMmapShared,
	"RenameFlags":   testRenameFlags,
	"UnlinkedOpen":  testUnlinkedOpen,
	"ModeAndTimes":  testModeAndTimes,
	"MmapTruncated": testMmapTruncated,
}

// poke writes to a mapping, by a system call: where this process serves the file
// itself, a page fault would keep a thread from stopping for the collector, and that
// the server's goroutines from answering the fault.
func poke(t *testing.T, m []byte, s string) {
	t.Helper()
	r, w := pipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	if _, err := unix.Write(w, []byte(s)); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(r, m[:len(s)]); n != len(s) {
		t.Fatalf("write to the mapping: %d, %v", n, err)
	}
}

// peek reads a mapping, as poke writes.
func peek(t *testing.T, m []byte) string {
	t.Helper()
	r, w := pipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	if n, err := unix.Write(w, m); n != len(m) {
		t.Fatalf("read from the mapping: %d, %v", n, err)
	}
	b := make([]byte, len(m))
	if n, err := unix.Read(r, b); n != len(m) {
		t.Fatalf("read back: %d, %v", n, err)
	}
	return string(b)
}

func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

// What is written through a shared mapping is in the file, and the other way round.
func testMmapShared(t *testing.T, dir string) {
	path := filepath.Join(dir, "mapped")
	if err := os.WriteFile(path, bytes.Repeat([]byte{'a'}, 3*4096), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 3*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatalf("mmap: %v", err)
	}
	defer unix.Munmap(m)
	poke(t, m[4090:], "across a page")
	if err := unix.Msync(m, unix.MS_SYNC); err != nil {
		t.Fatalf("msync: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 3*4096 || string(b[4090:4103]) != "across a page" || b[4089] != 'a' || b[4103] != 'a' {
		t.Errorf("the file has %q, %v", b[4080:4110], err)
	}
	if _, err := f.WriteAt([]byte("written"), 9000); err != nil {
		t.Fatal(err)
	}
	if got := peek(t, m[9000:9007]); got != "written" {
		t.Errorf("the mapping has %q", got)
	}
}

// A private mapping of a file keeps what it has read when the file shrinks to it.
func testMmapTruncated(t *testing.T, dir string) {
	path := filepath.Join(dir, "mapped")
	if err := os.WriteFile(path, bytes.Repeat([]byte{'b'}, 2*4096), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatalf("mmap: %v", err)
	}
	defer unix.Munmap(m)
	poke(t, m, "x")
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	if first, last := peek(t, m[:1]), peek(t, m[4095:]); first != "x" || last != "b" {
		t.Errorf("the mapping has %q and %q", first, last)
	}
	if b, err := os.ReadFile(path); err != nil || len(b) != 4096 || b[0] != 'b' {
		t.Errorf("the file has %d bytes, %v", len(b), err)
	}
}

// renameat2's flags: one that must not replace does not, and two names change places.
func testRenameFlags(t *testing.T, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, path := range []string{a, b} {
		if err := os.WriteFile(path, []byte(filepath.Base(path)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE); err != unix.EEXIST {
		t.Errorf("RENAME_NOREPLACE over a file: %v", err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		t.Fatalf("RENAME_EXCHANGE: %v", err)
	}
	for path, want := range map[string]string{a: "b", b: "a"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v, want %q", filepath.Base(path), got, err, want)
		}
	}
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, filepath.Join(dir, "c"), unix.RENAME_NOREPLACE); err != nil {
		t.Errorf("RENAME_NOREPLACE to a new name: %v", err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != unix.ENOENT {
		t.Errorf("RENAME_EXCHANGE with a name that is gone: %v", err)
	}
}

// A file that has no name any more lives as long as it is open.
func testUnlinkedOpen(t *testing.T, dir string) {
	f, err := os.Create(filepath.Join(dir, "gone"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("still here"), 5000); err != nil {
		t.Fatal(err)
	}
	if err := f.Chmod(0o640); err != nil {
		t.Errorf("chmod: %v", err)
	}
	b := make([]byte, 10)
	if _, err := f.ReadAt(b, 5000); err != nil || string(b) != "still here" {
		t.Errorf("read %q, %v", b, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink != 0 || st.Size != 5010 || st.Mode&0o777 != 0o640 {
		t.Errorf("%d links, %d bytes, mode %o, %v", st.Nlink, st.Size, st.Mode, err)
	}
}

// Modes and times are kept to the bit and the nanosecond.
func testModeAndTimes(t *testing.T, dir string) {
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(path, 0o1751); err != nil {
		t.Fatal(err)
	}
	times := []unix.Timespec{{Sec: 1e9, Nsec: 123456789}, {Sec: 5, Nsec: 999999999}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, times, 0); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o1751 || st.Atim != times[0] || st.Mtim != times[1] {
		t.Errorf("mode %o, times %v and %v", st.Mode&0o7777, st.Atim, st.Mtim)
	}
}

// posixDir is an empty folder of a share.
func posixDir(t *testing.T) string {
	in := os.Getenv(posixFolder)
	if in == "" {
		return mount(t, Options{}).guest
	}
	dir, err := os.MkdirTemp(in, "posix")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
