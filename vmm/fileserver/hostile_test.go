package fileserver

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// TestFolderSwappedForASymlink swaps a folder on the host for a symlink to one
// outside of the share, in a loop, while the guest works through it. Nothing
// outside is ever touched or read.
func TestFolderSwappedForASymlink(t *testing.T) {
	m := mount(t, Options{})
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("outside"), 0o644))
	dir, link := filepath.Join(m.host, "dir"), filepath.Join(m.host, "link")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "victim"), []byte("inside"), 0o644))
	must(t, os.Symlink(outside, link))

	// The guest's kernel follows symlinks in its own tree, where outside is
	// the same path here: so the requests go to the server directly.
	root := lookupID(t, m.Server, fuse.FUSE_ROOT_ID, "share")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	})
	until := time.Now().Add(time.Second)
	for i := 0; time.Now().Before(until); i++ {
		var out fuse.EntryOut
		in := fuse.InHeader{NodeId: root}
		if m.Lookup(nil, &in, "dir", &out) != fuse.OK {
			continue
		}
		in.NodeId = out.NodeId
		m.Mkdir(nil, &fuse.MkdirIn{InHeader: in, Mode: 0o755}, fmt.Sprint("d", i%7), &fuse.EntryOut{})
		m.Symlink(nil, &in, "x", fmt.Sprint("s", i%7), &fuse.EntryOut{})
		var made fuse.CreateOut
		if m.Create(nil, &fuse.CreateIn{InHeader: in, Flags: unix.O_RDWR | unix.O_TRUNC, Mode: 0o644}, fmt.Sprint("f", i%7), &made) == fuse.OK {
			m.Write(nil, &fuse.WriteIn{InHeader: in, Fh: made.Fh, Size: 1}, []byte("x"))
			m.Release(nil, &fuse.ReleaseIn{Fh: made.Fh})
		}
		var victim fuse.EntryOut
		if m.Lookup(nil, &in, "victim", &victim) == fuse.OK {
			var open fuse.OpenOut
			if m.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: victim.NodeId}}, &open) == fuse.OK {
				r, code := m.Read(nil, &fuse.ReadIn{Fh: open.Fh, Size: 16}, nil)
				if code == fuse.OK {
					b, _ := r.Bytes(make([]byte, 16))
					r.Done()
					if bytes.Equal(b, []byte("outside")) {
						t.Fatal("the guest read a file outside of the share")
					}
				}
				m.Release(nil, &fuse.ReleaseIn{Fh: open.Fh})
			}
		}
		m.Unlink(nil, &in, fmt.Sprint("f", i%7))
		m.Rmdir(nil, &in, fmt.Sprint("d", i%7))
		m.Unlink(nil, &in, fmt.Sprint("s", i%7))
		m.Rename(nil, &fuse.RenameIn{InHeader: in, Newdir: in.NodeId}, "victim", "victim")
	}
	close(stop)
	wg.Wait()
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside has %v, %v", entries, err)
	}
	if b, err := os.ReadFile(filepath.Join(outside, "victim")); string(b) != "outside" {
		t.Errorf("outside reads %q, %v", b, err)
	}
}

func lookupID(t testing.TB, s *Server, parent uint64, name string) uint64 {
	t.Helper()
	var out fuse.EntryOut
	if code := s.Lookup(nil, &fuse.InHeader{NodeId: parent}, name, &out); code != fuse.OK {
		t.Fatalf("lookup %s: %v", name, code)
	}
	return out.NodeId
}

func TestNamesThatAreNone(t *testing.T) {
	m := mount(t, Options{})
	root := lookupID(t, m.Server, fuse.FUSE_ROOT_ID, "share")
	for _, name := range []string{"", ".", "..", "a/b", "../x", "/etc", "..\x00", string(make([]byte, 300))} {
		in := fuse.InHeader{NodeId: root}
		if m.Lookup(nil, &in, name, &fuse.EntryOut{}) == fuse.OK {
			t.Errorf("lookup of %q", name)
		}
		if m.Mkdir(nil, &fuse.MkdirIn{InHeader: in}, name, &fuse.EntryOut{}) == fuse.OK {
			t.Errorf("mkdir of %q", name)
		}
		if m.Rename(nil, &fuse.RenameIn{InHeader: in, Newdir: root}, "x", name) == fuse.OK {
			t.Errorf("rename to %q", name)
		}
		if m.Rmdir(nil, &in, name) == fuse.OK || m.Unlink(nil, &in, name) == fuse.OK {
			t.Errorf("removal of %q", name)
		}
	}
	// What is no regular file is not opened here, whatever the guest asks.
	must(t, unix.Mkfifo(filepath.Join(m.host, "fifo"), 0o666))
	fifo := lookupID(t, m.Server, root, "fifo")
	if code := m.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: fifo}}, &fuse.OpenOut{}); code == fuse.OK {
		t.Error("a FIFO was opened")
	}
}

// TestAppendersOnBothSides appends lines from the host and through the mount at
// once: none may overwrite another.
func TestAppendersOnBothSides(t *testing.T) {
	m := mount(t, Options{})
	const lines = 2000
	var wg sync.WaitGroup
	for i, dir := range []string{m.host, m.guest, m.guest} {
		f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		must(t, err)
		wg.Go(func() {
			defer f.Close()
			for n := range lines {
				if _, err := fmt.Fprintf(f, "%d line %06d\n", i, n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, dir := range []string{m.host, m.guest} {
		b, err := os.ReadFile(filepath.Join(dir, "log"))
		must(t, err)
		var next [3]int
		for line := range bytes.Lines(b) {
			var who, n int
			if _, err := fmt.Sscanf(string(line), "%d line %d\n", &who, &n); err != nil || n != next[who] {
				t.Fatalf("%s: line %q of %d, want number %d", dir, line, who, next[who])
			}
			next[who]++
		}
		if next != [3]int{lines, lines, lines} {
			t.Errorf("%s: %v lines", dir, next)
		}
	}
}

// TestNeverStale alternates between the sides: what one closed the other reads.
func TestNeverStale(t *testing.T) {
	m := mount(t, Options{})
	host, guest := filepath.Join(m.host, "f"), filepath.Join(m.guest, "f")
	for i := range 300 {
		want := []byte(fmt.Sprintf("%0*d", 1+i%5, i))
		w, r := host, guest
		if i%3 == 0 {
			w, r = guest, host
		}
		must(t, os.WriteFile(w, want, 0o644))
		if got, err := os.ReadFile(r); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("round %d: %q, %v, want %q", i, got, err, want)
		}
		if i%10 == 9 { // as editors do
			must(t, os.WriteFile(host+"~", want, 0o644))
			must(t, os.Rename(host+"~", host))
		}
		if i%20 == 19 {
			must(t, os.Remove(host))
			if _, err := os.Stat(guest); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("round %d: removed, and %v", i, err)
			}
		}
	}
}

func TestLocksMeet(t *testing.T) {
	m := mount(t, Options{})
	must(t, os.WriteFile(filepath.Join(m.host, "l"), []byte("0123456789"), 0o644))
	host, err := os.OpenFile(filepath.Join(m.host, "l"), os.O_RDWR, 0)
	must(t, err)
	defer host.Close()
	guest, err := os.OpenFile(filepath.Join(m.guest, "l"), os.O_RDWR, 0)
	must(t, err)
	defer guest.Close()
	for _, c := range []struct {
		name         string
		lock, unlock func(f *os.File) error
	}{
		{"flock", func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) },
			func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) }},
		{"posix", func(f *os.File) error {
			return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 2, Len: 3})
		}, func(f *os.File) error {
			return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK, Start: 2, Len: 3})
		}},
	} {
		must(t, c.lock(host))
		wantErr(t, c.name+" against the host's", c.lock(guest), unix.EAGAIN)
		must(t, c.unlock(host))
		must(t, c.lock(guest))
		wantErr(t, c.name+" against the guest's", c.lock(host), unix.EAGAIN)
		must(t, c.unlock(guest))
		must(t, c.lock(host))
		must(t, c.unlock(host))
	}
}

// TestFewDescriptors runs with next to none for nodes.
func TestFewDescriptors(t *testing.T) {
	m := mount(t, Options{maxNodeFDs: 8})
	for i := range 40 {
		dir := filepath.Join(m.guest, fmt.Sprint("d", i), "e")
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "f"), []byte(fmt.Sprint(i)), 0o644))
	}
	for i := range 40 {
		b, err := os.ReadFile(filepath.Join(m.guest, fmt.Sprint("d", i), "e", "f"))
		if err != nil || string(b) != fmt.Sprint(i) {
			t.Errorf("%d: %q, %v", i, b, err)
		}
	}
	m.mu.Lock()
	n := len(m.open)
	m.mu.Unlock()
	if n > 24 {
		t.Errorf("%d descriptors of nodes, bound 8", n)
	}
	must(t, os.RemoveAll(filepath.Join(m.guest, "d3")))
}
