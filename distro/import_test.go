package distro

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestImport(t *testing.T) {
	want := tarball(t, noise(100<<10))
	for _, how := range compressions {
		s := newStore(t)
		var got []byte
		made := time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("", 3600))
		d, err := s.Import(t.Context(), "debian", bytes.NewReader(compress(t, how, want)), Info{Source: "a source", Created: made},
			func(_ context.Context, image *os.File, archive io.Reader) (err error) {
				if _, err := OpenDisk(image.Name()); !errors.Is(err, ErrInUse) {
					t.Errorf("the image is not locked while it is filled: %v", err)
				}
				got, err = io.ReadAll(archive)
				return err
			})
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the unpacker got %d bytes, want the archive's %d", how, len(got), len(want))
		}
		wantNames(t, filepath.Join(s.Dirs.Data, "distros"), "debian")
		wantNames(t, d.Dir, "disk.img", "settings.toml")
		disk, err := d.OpenDisk()
		if err != nil {
			t.Errorf("%s: %v", how, err)
		}
		disk.Close()
		again, err := s.Get("")
		if err != nil {
			t.Fatalf("the first distro is not the default: %v", err)
		}
		if again.Name != "debian" || again.Dir != d.Dir || again.Info.Source != "a source" || !again.Info.Created.Equal(made.Truncate(time.Second)) {
			t.Errorf("%s: read back as %+v", how, again)
		}
	}
}

// An import that fails, wherever it does, leaves nothing.
func TestImportFails(t *testing.T) {
	whole := tarball(t, noise(100<<10))
	broken := errors.New("guest died")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		name    string
		ctx     context.Context
		archive io.Reader
		unpack  Unpacker
		want    string
	}{
		{"empty", nil, strings.NewReader(""), readAll, "read archive: it is empty"},
		{"no archive", nil, strings.NewReader(strings.Repeat("text ", 1000)), readAll, "read archive: it is not a tar archive"},
		{"no archive, compressed", nil, bytes.NewReader(compress(t, "xz", []byte("text"))), readAll, "read archive: it is not a tar archive"},
		{"cut off", nil, bytes.NewReader(whole[:50000]), readAll, "read archive: it is cut off after 50000 bytes"},
		{"cut off, unnoticed by the unpacker", nil, bytes.NewReader(whole[:50000]), func(context.Context, *os.File, io.Reader) error { return nil }, "cut off after"},
		{"compression cut off", nil, bytes.NewReader(compress(t, "zstd", whole)[:50000]), readAll, "it ends in the middle of its zstd compression"},
		{"compression damaged", nil, bytes.NewReader(changed(compress(t, "gzip", whole), 50000)), readAll, "its gzip compression is damaged"},
		// What is wrong with the archive says more than what the guest makes of it.
		{"damaged and refused", nil, bytes.NewReader(changed(compress(t, "gzip", whole), 50000)), func(_ context.Context, _ *os.File, r io.Reader) error {
			io.Copy(io.Discard, r)
			return broken
		}, "its gzip compression is damaged"},
		{"unpacker", nil, bytes.NewReader(whole), func(context.Context, *os.File, io.Reader) error { return broken }, "guest died"},
		{"cancelled", cancelled, bytes.NewReader(whole), readAll, "context canceled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			ctx := tc.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			before := names(t, "/proc/self/fd")
			d, err := s.Import(ctx, "debian", tc.archive, Info{}, tc.unpack)
			wantError(t, err, tc.want)
			if d != nil {
				t.Errorf("there is a distro: %+v", d)
			}
			wantNames(t, filepath.Join(s.Dirs.Data, "distros"))
			if after := names(t, "/proc/self/fd"); len(after) != len(before) {
				t.Errorf("descriptors %v are open, before it were %v", after, before)
			}
			if _, err := s.Default(); !errors.Is(err, ErrNoDefault) {
				t.Errorf("default: %v", err)
			}
			mustImport(t, s, "debian")
		})
	}
}

func TestImportNameTaken(t *testing.T) {
	s := newStore(t)
	mustImport(t, s, "debian")
	_, err := s.Import(t.Context(), "debian", strings.NewReader("never read"), Info{}, readAll)
	if !errors.Is(err, ErrExists) {
		t.Errorf("Import: %v, want ErrExists", err)
	}
	wantError(t, err, "debian: there is a distro of this name already")
	wantHint(t, err)
	_, err = s.Import(t.Context(), "../debian", strings.NewReader("never read"), Info{}, readAll)
	wantError(t, err, `name "../debian": it starts with "."`)
}

// Of many imports of one name at once, one makes it.
func TestImportTwice(t *testing.T) {
	s := newStore(t)
	const n = 5
	archive := tarball(t, "body")
	var together, all sync.WaitGroup
	together.Add(n)
	errs := make([]error, n)
	for i := range n {
		all.Go(func() {
			_, errs[i] = s.Import(t.Context(), "debian", bytes.NewReader(archive), Info{}, func(ctx context.Context, f *os.File, r io.Reader) error {
				together.Done()
				together.Wait()
				return readAll(ctx, f, r)
			})
		})
	}
	all.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else if !errors.Is(err, ErrExists) {
			t.Errorf("Import: %v, want ErrExists", err)
		}
	}
	if made != 1 {
		t.Errorf("%d of %d imports made the distro", made, n)
	}
	wantNames(t, filepath.Join(s.Dirs.Data, "distros"), "debian")
}

// What a killed import left goes with the next one; what a living one has, not.
func TestSweep(t *testing.T) {
	s := newStore(t)
	// A folder's name may have a pattern's characters in it.
	s.Dirs.Data = filepath.Join(s.Dirs.Data, "a[b*")
	root := filepath.Join(s.Dirs.Data, "distros")
	if err := Ensure(root); err != nil {
		t.Fatal(err)
	}
	dead, err := newTemp(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead.dir, "disk.img"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	dead.lock.Close() // as its process's end does
	alive, err := newTemp(root)
	if err != nil {
		t.Fatal(err)
	}
	defer alive.remove()
	mustImport(t, s, "debian")
	wantNames(t, root, filepath.Base(alive.dir), filepath.Base(alive.dir)+lockSuffix, "debian")
	if list, err := s.Names(); err != nil || len(list) != 1 {
		t.Errorf("distros %v, %v; want debian alone", list, err)
	}
}

// A full disk is an error in words, and leaves nothing.
func TestImportDiskFull(t *testing.T) {
	s := newStore(t)
	if err := Ensure(s.Dirs.Data); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", s.Dirs.Data, "tmpfs", 0, "size=1m,mode=700"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	defer unix.Unmount(s.Dirs.Data, unix.MNT_DETACH)
	_, err := s.Import(t.Context(), "debian", bytes.NewReader(tarball(t, "body")), Info{}, readAll)
	wantError(t, err, "make disk: write ")
	wantError(t, err, "no space left on device")
	wantNames(t, filepath.Join(s.Dirs.Data, "distros"))
}
