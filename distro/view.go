package distro

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A view is a folder of links as one FolderFile wants them: Data/views/KEY/bin
// with the records beside it, where the shim looks for them. In a shell whose
// folder the file is for it stands before Dirs.Links on the PATH, so that make
// and editors started there find the same commands. It holds the links that go
// to the default distro, now to the folder's, and the folder's own.

// viewOf is the file in a view that names its FolderFile.
const viewOf = "of"

// Views is the folder of all views.
func (d Dirs) Views() string { return filepath.Join(d.Data, "views") }

func (d Dirs) viewDir(f *Folder) string {
	sum := sha256.Sum256([]byte(f.Path))
	return filepath.Join(d.Views(), hex.EncodeToString(sum[:8]))
}

// IsLinks reports whether a folder on a PATH is one of links: the one of all, or
// a view's.
func (d Dirs) IsLinks(dir string) bool {
	if dir == "" {
		return false
	}
	dir = filepath.Clean(dir)
	return dir == d.Links || filepath.Base(dir) == "bin" && filepath.Dir(filepath.Dir(dir)) == d.Views()
}

// View makes or brings up to date the view of a trusted folder and returns the
// path of its links. stile is the program's own path, for links of the folder's
// own, and shim the shim's.
func (s *Store) View(f *Folder, stile, shim string) (string, error) {
	if !f.Trusted {
		return "", &UntrustedError{f.Path}
	}
	// The error of a distro that is not there is better here than at each command.
	chosen, err := s.Get(f.Distro)
	if err != nil {
		return "", err
	}
	all, err := s.Links()
	if err != nil {
		return "", err
	}
	standard, err := s.Default()
	if err != nil && !errors.Is(err, ErrNoDefault) {
		return "", err
	}
	links := map[string]Link{}
	for _, l := range all {
		if l.Record.Distro == standard && standard != "" {
			l.Record.Distro = chosen.Name
			links[l.Name] = l
		}
	}
	for _, l := range f.Links {
		if l.Record.Distro == "" {
			l.Record.Distro = chosen.Name
		}
		l.Record.Stile = stile
		links[l.Name] = l
	}
	// The view is a store's folders of links, made by the same code. The shells'
	// hooks compare the file's time with that of what they found.
	dir := s.Dirs.viewDir(f)
	if err := writeFile(filepath.Join(dir, viewOf), []byte(f.Path+"\n")); err != nil {
		return "", err
	}
	view := &linkDir{links: filepath.Join(dir, "bin"), records: filepath.Join(dir, "links")}
	if err := Ensure(view.links); err != nil {
		return "", err
	}
	for _, l := range links {
		d, err := s.Get(l.Record.Distro)
		if err != nil {
			return "", err
		}
		l.Record.Home, l.Record.Start = d.Dir, s.Dirs.Environ()
		if err := view.write(l, shim); err != nil {
			return "", err
		}
	}
	return view.links, view.keep(func(name string) bool { _, ok := links[name]; return ok })
}

// RefreshViews brings all views up to date after links have changed. One whose
// file is gone, is trusted no more, or names a distro that is not there goes.
func (s *Store) RefreshViews(stile, shim string) error {
	entries, err := os.ReadDir(s.Dirs.Views())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list views: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(s.Dirs.Views(), e.Name())
		of, err := os.ReadFile(filepath.Join(dir, viewOf))
		var f *Folder
		if err == nil {
			f, err = s.ReadFolder(strings.TrimSuffix(string(of), "\n"))
		}
		if err == nil {
			_, err = s.View(f, stile, shim)
		}
		if err == nil {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove view: %w", err)
		}
	}
	return nil
}

// keep removes the links whose names are not wanted.
func (d *linkDir) keep(wanted func(name string) bool) error {
	for _, dir := range []string{d.links, d.records} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("list links: %w", err)
		}
		for _, e := range slices.Backward(entries) {
			if wanted(e.Name()) {
				continue
			}
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove link: %w", err)
			}
		}
	}
	return nil
}

// ViewOf is the path of the FolderFile whose view has the folder bin of links.
func (d Dirs) ViewOf(bin string) (string, error) {
	of, err := os.ReadFile(filepath.Join(filepath.Dir(bin), viewOf))
	if err != nil {
		return "", fmt.Errorf("read view: %w", err)
	}
	return strings.TrimSuffix(string(of), "\n"), nil
}
