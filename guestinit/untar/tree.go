package untar

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// A tree is the folder that is unpacked into, and the only way to names in it.
// All paths are clean (see the function clean).
type tree struct {
	root   int    // O_PATH
	parent int    // the folder that was last opened, or -1
	opened string // its path
}

func (t *tree) close() {
	t.forget()
	unix.Close(t.root)
}

// forget closes the folder that was last opened: its path may lead elsewhere
// from now on.
func (t *tree) forget() {
	if t.parent >= 0 {
		unix.Close(t.parent)
	}
	t.parent, t.opened = -1, ""
}

// open opens a path as a process would whose root directory is the tree's.
func (t *tree) open(name string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(t.root, name, &how)
		// EAGAIN: something was renamed on this machine while the kernel looked
		// at ".." (openat2(2)).
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// enter returns the folder of a path, which it makes if it must, and the last
// component. The descriptor stays the tree's and is good until the next call.
func (t *tree) enter(name string) (dir int, base string, err error) {
	if name == "." {
		return -1, "", errors.New("the root folder can't be replaced")
	}
	folder, base := split(name)
	if t.parent < 0 || t.opened != folder {
		fd, err := t.folder(folder)
		if err != nil {
			return -1, "", err
		}
		t.forget()
		t.parent, t.opened = fd, folder
	}
	return t.parent, base, nil
}

// folder opens a folder, and makes those on the way that lack.
func (t *tree) folder(name string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY
	fd, err := t.open(name, flags)
	if err != unix.ENOENT {
		return fd, folderError(name, err)
	}
	// Down from the root: each has to be there before the next.
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if err := t.makeParent(name[:i]); err != nil {
			return -1, folderError(name[:i], err)
		}
	}
	fd, err = t.open(name, flags)
	return fd, folderError(name, err)
}

// makeParent makes a folder, whose own is there, with what it gets if no entry
// says otherwise.
func (t *tree) makeParent(name string) error {
	fd, err := t.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		unix.Close(fd)
		return nil
	}
	if err != unix.ENOENT {
		return err
	}
	up, err := t.open(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(up)
	if err := unix.Mkdirat(up, path.Base(name), 0o755); err != nil {
		if err == unix.EEXIST {
			return errors.New("it is a symbolic link to nothing")
		}
		return err
	}
	// Whatever the umask is.
	return unix.Fchmodat(up, path.Base(name), 0o755, 0)
}

func folderError(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("open folder %s: %w", quote(name), err)
}
