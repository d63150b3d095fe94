package distro

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
)

// An Unpacker fills the empty file system on image with the entries of an
// uncompressed tar archive. machine.Unpack is the one in use: it boots a guest
// to do it, so that owners, devices and attributes need no root on the host.
type Unpacker func(ctx context.Context, image *os.File, archive io.Reader) error

// Import makes a distro from a tar archive, plain or compressed with gzip, xz
// or zstd. The distro appears in the store whole or not at all. The first one
// becomes the default.
func (s *Store) Import(ctx context.Context, name string, archive io.Reader, info Info, unpack Unpacker) (*Distro, error) {
	if err := s.CheckNew(name); err != nil {
		return nil, err
	}
	if err := Ensure(s.root()); err != nil {
		return nil, err
	}
	s.sweep()
	tar, err := Decompress(archive)
	if err != nil {
		return nil, err
	}
	defer tar.Close()
	temp, err := newTemp(s.root())
	if err != nil {
		return nil, fmt.Errorf("make distro %s: %w", name, err)
	}
	defer temp.remove()

	// The disk's lock is held until the distro has its name, so that no machine
	// can start on it before the last writer is done.
	image, err := createImage(filepath.Join(temp.dir, "disk.img"))
	if err != nil {
		return nil, err
	}
	defer image.Close()
	checked := newTarCheck(tar)
	if err := unpack(ctx, image, checked); err != nil {
		return nil, firstError(checked.err(), ctx.Err(), err)
	}
	if err := firstError(checked.finish(), ctx.Err()); err != nil {
		return nil, err
	}
	if err := image.Sync(); err != nil {
		return nil, fmt.Errorf("write disk of %s: %w", name, err)
	}
	info.Created = info.Created.UTC().Truncate(time.Second)
	if err := writeTOML(filepath.Join(temp.dir, "settings.toml"), &info); err != nil {
		return nil, err
	}
	d := &Distro{Name: name, Dir: filepath.Join(s.root(), name), Info: info}
	if err := unix.Renameat2(unix.AT_FDCWD, temp.dir, unix.AT_FDCWD, d.Dir, unix.RENAME_NOREPLACE); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil, s.CheckNew(name)
		}
		return nil, fmt.Errorf("make distro %s: %w", name, err)
	}
	if _, err := s.Default(); errors.Is(err, ErrNoDefault) || s.only(name) {
		return d, s.SetDefault(name)
	}
	return d, nil
}

func (s *Store) only(name string) bool {
	names, err := s.Names()
	return err == nil && len(names) == 1 && names[0] == name
}

// CheckNew refuses a name that is wrong or taken. The latter error is ErrExists
// with words around it.
func (s *Store) CheckNew(name string) error {
	if err := s.Dirs.CheckName(name); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(s.root(), name)); err == nil {
		return &existsError{name}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make distro %s: %w", name, err)
	}
	return nil
}

type existsError struct{ name string }

func (e *existsError) Error() string { return e.name + ": " + ErrExists.Error() }
func (e *existsError) Hint() string {
	return "choose another name (--name), or remove it first: stile remove " + e.name
}
func (e *existsError) Is(target error) bool { return target == ErrExists }

// createImage makes a locked disk image with an empty file system.
func createImage(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	err = ofdLock(f, unix.F_OFD_SETLK)
	if err == nil {
		err = WriteTemplate(f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

const lockSuffix = ".lock"

// A temp is a folder that is being filled or emptied. A lock on a file beside it
// says that its maker lives: sweep removes those whose maker was killed.
type temp struct {
	dir  string
	lock *os.File
}

func newTemp(root string) (*temp, error) {
	for {
		lock, err := os.CreateTemp(root, tempPrefix+"*"+lockSuffix)
		if err != nil {
			return nil, err
		}
		// A sweep of another process may come first: then again.
		if ofdLock(lock, unix.F_OFD_SETLK) != nil || samePlace(lock, lock.Name()) != nil {
			lock.Close()
			continue
		}
		t := &temp{dir: strings.TrimSuffix(lock.Name(), lockSuffix), lock: lock}
		if err := os.Mkdir(t.dir, 0o700); err != nil {
			t.remove()
			return nil, err
		}
		return t, nil
	}
}

// remove deletes the folder, unless it has been renamed, and its lock.
func (t *temp) remove() {
	os.RemoveAll(t.dir)
	os.Remove(t.lock.Name())
	t.lock.Close()
}

// sweep deletes what killed imports and removals have left: folders whose lock
// nobody holds.
func (s *Store) sweep() {
	entries, _ := os.ReadDir(s.root())
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) || !strings.HasSuffix(e.Name(), lockSuffix) {
			continue
		}
		path := filepath.Join(s.root(), e.Name())
		lock, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if ofdLock(lock, unix.F_OFD_SETLK) == nil {
			(&temp{dir: strings.TrimSuffix(path, lockSuffix), lock: lock}).remove()
		}
		lock.Close()
	}
}

// firstError is the first of several that is not nil: the one to show.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func writeTOML(path string, v any) error {
	data, err := toml.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeFile(path, data)
}
