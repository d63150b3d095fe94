package untar

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A RootError says why an unpacked archive is no root file system.
type RootError struct {
	Why  string
	Cure string
}

func (e *RootError) Error() string { return "read archive: " + e.Why }

// Hint is the cure.
func (e *RootError) Hint() string { return e.Cure }

// programs are the folders where a distro has its commands.
var programs = []string{"bin", "usr/bin", "sbin", "usr/sbin", "usr/local/bin"}

// CheckRoot reports by a *RootError that a folder is not a Linux root file
// system: it has neither /bin nor /usr, or nothing in it can be executed. It is
// apart from Unpack, which takes any archive.
func CheckRoot(root string) error {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open root folder %s: %w", root, err)
	}
	t := tree{root: fd, parent: -1}
	defer t.close()
	if !t.isFolder("bin") && !t.isFolder("usr") {
		return t.notRoot()
	}
	for _, dir := range programs {
		found, err := t.hasProgram(dir)
		if err != nil {
			return fmt.Errorf("read /%s: %w", dir, err)
		}
		if found {
			return nil
		}
	}
	return &RootError{
		Why:  "there is no program in it: nothing in /" + strings.Join(programs, ", /") + " can be executed",
		Cure: "make the archive of a whole Linux system, as root: tar -C FOLDER -cf FILE .",
	}
}

func (t *tree) isFolder(name string) bool {
	fd, err := t.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// notRoot finds out what else the archive is.
func (t *tree) notRoot() error {
	entries, err := t.list(".")
	if err != nil {
		return fmt.Errorf("read root folder: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "lost+found" { // ext4's own
			names = append(names, e.Name())
		}
	}
	for _, image := range []string{"oci-layout", "manifest.json"} {
		if slices.Contains(names, image) {
			return &RootError{
				Why:  "it is a container image with its layers, not a root file system: it has " + image + " in it",
				Cure: "export a container of it: docker export $(docker create IMAGE) > FILE",
			}
		}
	}
	for _, name := range names {
		if t.isFolder(path.Join(name, "bin")) || t.isFolder(path.Join(name, "usr")) {
			return &RootError{
				Why:  "it is not a root file system: the system is in its folder " + quote(name),
				Cure: "make the archive from inside that folder: tar -C FOLDER -cf FILE .",
			}
		}
	}
	return &RootError{
		Why:  "it is not a root file system: it has neither /bin nor /usr",
		Cure: "make the archive of a whole Linux system, as root: tar -C FOLDER -cf FILE .",
	}
}

// list reads a folder; one that is not there is empty.
func (t *tree) list(name string) ([]fs.DirEntry, error) {
	fd, err := t.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
			return nil, nil
		}
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return f.ReadDir(-1)
}

func (t *tree) hasProgram(dir string) (bool, error) {
	entries, err := t.list(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		// Through links: /bin/sh is one.
		fd, err := t.open(path.Join(dir, e.Name()), unix.O_PATH)
		if err != nil {
			continue // a link to nothing
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return true, nil
		}
	}
	return false, nil
}
