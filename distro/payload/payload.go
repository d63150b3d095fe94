// Package payload finds the parts that stile hands to others: the shim, which
// links execute; guestinit, which goes into each guest's initramfs; and the
// kernel. A build with the tag dist has them inside. Other builds take shim and
// guestinit from the folder of the running program and the kernel from the
// cache, where `make kernel` has put it.
package payload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/stilehq/stile/distro"
)

// MissingError names a part that is not where it should be.
type MissingError struct {
	Part string
	Path string
}

func (e *MissingError) Error() string { return "find " + e.Part + ": there is no " + e.Path }

// Hint is the cure.
func (e *MissingError) Hint() string {
	return "run make build in stile's source folder, or install stile anew"
}

// Shim puts the shim where links can lead to it for good, below dirs.Data, and
// returns its path. A shim of another stile that is there is replaced, in one
// step: the links and the commands that run are not disturbed.
func Shim(dirs distro.Dirs) (string, error) {
	src, err := shim()
	if err != nil {
		return "", err
	}
	defer src.Close()
	path := filepath.Join(dirs.Data, "libexec", "shim")
	// The time of the source tells whether it was copied before, with no look
	// at a megabyte at each command.
	if info, err := os.Stat(path); err == nil && info.Size() == src.size && info.ModTime().Equal(src.time) {
		return path, nil
	}
	data, err := io.ReadAll(src)
	if err != nil {
		return "", fmt.Errorf("read shim: %w", err)
	}
	if err := install(path, data, src.time); err != nil {
		return "", fmt.Errorf("write shim: %w", err)
	}
	return path, nil
}

// GuestInit returns the bytes of guestinit.
func GuestInit() ([]byte, error) {
	src, err := guestInit()
	if err != nil {
		return nil, err
	}
	defer src.Close()
	data, err := io.ReadAll(src)
	if err != nil {
		return nil, fmt.Errorf("read guestinit: %w", err)
	}
	return data, nil
}

// Kernel returns the path of the guest's kernel, an uncompressed vmlinux. The
// error has a Hint if it has to be built first.
func Kernel(dirs distro.Dirs) (string, error) { return kernelPath(dirs) }

// A part is an open part with its size and time of change.
type part struct {
	io.Reader
	close func() error
	size  int64
	time  time.Time
}

// Close closes the file under it.
func (p *part) Close() error { return p.close() }

// beside opens a part in the folder of the running program.
func beside(name string) (*part, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find stile's own program: %w", err)
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return nil, fmt.Errorf("find stile's own program: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), name)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &MissingError{name, path}
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	return &part{f, f.Close, info.Size(), info.ModTime()}, nil
}

// embedded opens a part inside the running program, whose time is the
// program's.
func embedded(data []byte) (*part, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find stile's own program: %w", err)
	}
	info, err := os.Stat(self)
	if err != nil {
		return nil, fmt.Errorf("find stile's own program: %w", err)
	}
	none := func() error { return nil }
	return &part{bytes.NewReader(data), none, int64(len(data)), info.ModTime()}, nil
}

// install puts an executable file at path in one step.
func install(path string, data []byte, modified time.Time) (err error) {
	dir := filepath.Dir(path)
	if err := distro.Ensure(dir); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(0o755); err != nil {
		return err
	}
	// Closed before it gets its name: a file that is open for writing can't be
	// executed (ETXTBSY).
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Chtimes(f.Name(), time.Time{}, modified); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
