package distro

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Errors of the store that callers tell apart.
var (
	ErrNotFound  = errors.New("no such distro")
	ErrExists    = errors.New("there is a distro of this name already")
	ErrNoDefault = errors.New("no distro is the default")
)

// NotFoundError names a distro that is not in the store. It is an ErrNotFound.
type NotFoundError struct {
	Name  string
	Known []string // the distros there are
}

func (e *NotFoundError) Error() string { return e.Name + ": " + ErrNotFound.Error() }

// Is makes errors.Is(err, ErrNotFound) true.
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// Hint is the cure.
func (e *NotFoundError) Hint() string {
	if len(e.Known) == 0 {
		return "there is none yet; make one: stile install debian --name " + e.Name
	}
	return "there are: " + strings.Join(e.Known, ", ")
}

// Info is what is known about a distro since it was made, in its settings.toml.
type Info struct {
	Source  string    `toml:"source" json:"source"`   // as given to install or import
	Created time.Time `toml:"created" json:"created"` // UTC, to the second
	// Isolated: it has of the host what its own part of config.toml names, and no
	// commands.
	Isolated bool `toml:"isolated,omitempty" json:"isolated"`
}

// A Distro is one of the store.
type Distro struct {
	Name string
	Dir  string // Data/distros/NAME
	Info Info
}

// DiskPath is the distro's disk image.
func (d *Distro) DiskPath() string { return filepath.Join(d.Dir, "disk.img") }

// Owner is the user whose distro it is.
func (d *Distro) Owner() (uid int, err error) {
	var st unix.Stat_t
	if err := unix.Stat(d.Dir, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", d.Dir, err)
	}
	return int(st.Uid), nil
}

// OpenDisk opens and locks the distro's disk image: see the function OpenDisk.
func (d *Distro) OpenDisk() (*os.File, error) { return OpenDisk(d.DiskPath()) }

// Usage is the disk image's size as the guest sees it, and what it takes of the
// host's disk, in bytes.
func (d *Distro) Usage() (logical, allocated int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(d.DiskPath(), &st); err != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", d.DiskPath(), err)
	}
	return st.Size, st.Blocks * 512, nil
}

// A Store is the distros of one user.
type Store struct {
	Dirs Dirs
}

// NewStore returns the store in the given folders. Nothing is made.
func NewStore(dirs Dirs) *Store { return &Store{Dirs: dirs} }

// tempPrefix starts the names of folders that are being made or removed: no
// distro's name starts with a dot.
const tempPrefix = ".new-"

func (s *Store) root() string { return filepath.Join(s.Dirs.Data, "distros") }

// Names lists the distros in alphabetical order.
func (s *Store) Names() ([]string, error) {
	entries, err := os.ReadDir(s.root())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list distros: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// List reads all distros, in alphabetical order of their names.
func (s *Store) List() ([]*Distro, error) {
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	var list []*Distro
	for _, name := range names {
		d, err := s.Get(name)
		if errors.Is(err, ErrNotFound) {
			continue // removed at this moment
		}
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

// Get reads one distro; with the name "" the default.
func (s *Store) Get(name string) (*Distro, error) {
	if name == "" {
		var err error
		if name, err = s.Default(); err != nil {
			return nil, err
		}
	}
	if err := s.Dirs.CheckName(name); err != nil {
		return nil, err
	}
	d := &Distro{Name: name, Dir: filepath.Join(s.root(), name)}
	if _, err := os.Stat(d.Dir); errors.Is(err, fs.ErrNotExist) {
		known, err := s.Names()
		if err != nil {
			return nil, err
		}
		return nil, &NotFoundError{Name: name, Known: known}
	} else if err != nil {
		return nil, fmt.Errorf("read distro %s: %w", name, err)
	}
	path := filepath.Join(d.Dir, "settings.toml")
	if err := readTOML(path, &d.Info); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d, nil
}

// Default is the name of the default distro: the one that SetDefault named, or
// else the only one there is. The error is ErrNoDefault, with words around it,
// if neither is to be had.
func (s *Store) Default() (string, error) {
	data, err := os.ReadFile(s.defaultPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read default distro: %w", err)
	}
	names, err := s.Names()
	if err != nil {
		return "", err
	}
	if name := strings.TrimSpace(string(data)); slices.Contains(names, name) {
		return name, nil
	}
	switch len(names) {
	case 0:
		return "", &noDefaultError{"there is no distro yet", "make one: stile install debian"}
	case 1:
		return names[0], nil
	}
	return "", &noDefaultError{
		fmt.Sprintf("none of %s is the default", strings.Join(names, ", ")),
		"choose one: stile default " + names[0],
	}
}

type noDefaultError struct{ why, hint string }

func (e *noDefaultError) Error() string        { return "choose distro: " + e.why }
func (e *noDefaultError) Hint() string         { return e.hint }
func (e *noDefaultError) Is(target error) bool { return target == ErrNoDefault }

// SetDefault makes a distro the default.
func (s *Store) SetDefault(name string) error {
	d, err := s.Get(name)
	if err != nil {
		return err
	}
	return writeFile(s.defaultPath(), []byte(d.Name+"\n"))
}

func (s *Store) defaultPath() string { return filepath.Join(s.Dirs.Data, "default") }

// Remove deletes a distro and its disk. While a machine runs it the error is an
// *InUseError and nothing is changed.
func (s *Store) Remove(name string) error {
	if name == "" {
		return &NameError{name, "it is empty", "name the distro to remove"}
	}
	d, err := s.Get(name)
	if err != nil {
		return err
	}
	// The lock is held until the folder has its new name. Who opens the image
	// meanwhile waits for nothing: samePlace tells them that it is gone.
	f, err := lockFile(d.DiskPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if f != nil {
		defer f.Close()
	}
	trash, err := newTemp(s.root())
	if err != nil {
		return fmt.Errorf("remove distro %s: %w", name, err)
	}
	defer trash.remove()
	if err := os.Rename(d.Dir, filepath.Join(trash.dir, name)); err != nil {
		return fmt.Errorf("remove distro %s: %w", name, err)
	}
	if err := os.RemoveAll(trash.dir); err != nil {
		return fmt.Errorf("remove distro %s: %w", name, err)
	}
	return nil
}

// writeFile replaces a file in one step: readers see the old or the new bytes.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := Ensure(dir); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
