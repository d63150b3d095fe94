package distro

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// A Link is a command of a distro under a name on the host's PATH: a symbolic
// link to the shim in Dirs.Links, and a wire.Record of the same name beside that
// folder, which the shim reads.
type Link struct {
	Name   string
	Record wire.Record
}

// Command is what the link executes in the guest.
func (l Link) Command() string {
	if l.Record.Command == "" {
		return l.Name
	}
	return l.Record.Command
}

// LinkError says why a link can't be made or taken away.
type LinkError struct {
	Name string
	Why  string
	Cure string
}

func (e *LinkError) Error() string { return "link " + e.Name + ": " + e.Why }

// Hint is the cure.
func (e *LinkError) Hint() string { return e.Cure }

func (s *Store) recordPath(name string) string {
	return filepath.Join(s.Dirs.Data, "links", name)
}

// CheckLinkName refuses names that can't be a link's.
func CheckLinkName(name string) error {
	why := ""
	switch {
	case name == "" || name == "." || name == "..":
		why = "that is no command's name"
	case strings.ContainsAny(name, "/\x00"):
		why = "a command's name has no slash in it"
	case name == "stile" || name == wire.RecordArgv0:
		why = "stile itself has this name"
	case strings.ContainsFunc(name, unicode.IsControl):
		why = "the name has a control character in it"
	case len(name) > 255:
		why = "the name is longer than a file's may be"
	case strings.HasPrefix(name, "-") || strings.HasPrefix(name, "."):
		why = fmt.Sprintf("a link's name does not start with %q", name[:1])
	default:
		return nil
	}
	return &LinkError{Name: fmt.Sprintf("%q", name), Why: why, Cure: "give it another name: stile link --as NAME COMMAND"}
}

// Link makes or changes a link. The record's Home is filled in from its Distro, and
// Start from the store.
// shim is the path of the shim. A file in the links' folder that is not a link
// of stile's is left alone, and is an error.
func (s *Store) Link(l Link, shim string) error {
	if err := CheckLinkName(l.Name); err != nil {
		return err
	}
	d, err := s.Get(l.Record.Distro)
	if err != nil {
		return err
	}
	l.Record.Distro, l.Record.Home, l.Record.Start = d.Name, d.Dir, s.Dirs.Environ()
	if err := Ensure(s.Dirs.Links); err != nil {
		return err
	}
	if err := s.CheckLink(l.Name); err != nil {
		return err
	}
	return s.linkDir().write(l, shim)
}

// CheckLink reports why Link would not make a link of this name.
func (s *Store) CheckLink(name string) error {
	if err := CheckLinkName(name); err != nil {
		return err
	}
	if err := s.checkOurs(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// A linkDir is a folder of links with the folder of their records.
type linkDir struct{ links, records string }

func (s *Store) linkDir() *linkDir {
	return &linkDir{links: s.Dirs.Links, records: filepath.Join(s.Dirs.Data, "links")}
}

// write puts a link there. The folder of links exists, and what it has of the
// name is ours.
func (d *linkDir) write(l Link, shim string) error {
	record, err := l.Record.Append(nil)
	if err != nil {
		return fmt.Errorf("link %s: write record: %w", l.Name, err)
	}
	// The record comes first: the shim that is called through the link finds it.
	if err := writeChanged(filepath.Join(d.records, l.Name), record); err != nil {
		return err
	}
	path := filepath.Join(d.links, l.Name)
	if to, err := os.Readlink(path); err == nil && to == shim {
		return nil
	}
	// Links passes over names with a dot. (The link's own name may be as long as
	// a file's can be.)
	temp := filepath.Join(d.links, fmt.Sprintf(".tmp-%016x", rand.Uint64()))
	if err := os.Symlink(shim, temp); err != nil {
		return fmt.Errorf("link %s: %w", l.Name, err)
	}
	if err := os.Rename(temp, path); err != nil {
		os.Remove(temp)
		return fmt.Errorf("link %s: %w", l.Name, err)
	}
	return nil
}

// writeChanged is writeFile where the file does not hold just these bytes yet.
func writeChanged(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return writeFile(path, data)
}

// checkOurs reports why a name in the links' folder is not a link of stile's:
// it has to be a symbolic link that has a record or leads to a shim of ours.
func (s *Store) checkOurs(name string) error {
	path := filepath.Join(s.Dirs.Links, name)
	to, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, recordErr := os.Lstat(s.recordPath(name))
	if err != nil || (recordErr != nil && !within(to, filepath.Join(s.Dirs.Data, "libexec"))) {
		return &LinkError{Name: name, Why: path + " is not a link that stile made", Cure: "move that file away, or choose another name: --as NAME"}
	}
	return nil
}

// Unlink takes a link away.
func (s *Store) Unlink(name string) error {
	if err := CheckLinkName(name); err != nil {
		return err
	}
	err := s.checkOurs(name)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(s.recordPath(name)); err != nil {
			return &LinkError{Name: name, Why: "there is no such link", Cure: "stile links lists those there are"}
		}
	} else if err != nil {
		return err
	}
	for _, path := range []string{filepath.Join(s.Dirs.Links, name), s.recordPath(name)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unlink %s: %w", name, err)
		}
	}
	return nil
}

// Links lists the links in alphabetical order. Files in the folder that are not
// links of stile's are passed over.
func (s *Store) Links() ([]Link, error) {
	entries, err := os.ReadDir(s.Dirs.Links)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var links []Link
	for _, e := range entries {
		if CheckLinkName(e.Name()) != nil || s.checkOurs(e.Name()) != nil {
			continue
		}
		l, err := s.readLink(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // taken away at this moment
		}
		if err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	return links, nil
}

func (s *Store) readLink(name string) (Link, error) {
	data, err := os.ReadFile(s.recordPath(name))
	if err != nil {
		return Link{}, fmt.Errorf("link %s: read record: %w", name, err)
	}
	l := Link{Name: name}
	if err := l.Record.Parse(data); err != nil {
		return Link{}, &LinkError{Name: name, Why: "its record is damaged: " + s.recordPath(name),
			Cure: "make the link again: stile unlink " + name + " && stile link " + name}
	}
	return l, nil
}

// LinksTo lists the links to one distro.
func (s *Store) LinksTo(distro string) ([]Link, error) {
	all, err := s.Links()
	var links []Link
	for _, l := range all {
		if l.Record.Distro == distro {
			links = append(links, l)
		}
	}
	return links, err
}

// HostProgram is the program that a name stands for in a PATH without the
// links' folder, and "" if there is none: what a link of the name hides.
func (d Dirs) HostProgram(path, name string) string {
	for _, dir := range filepath.SplitList(d.WithoutLinks(path)) {
		if !filepath.IsAbs(dir) {
			continue
		}
		file := filepath.Join(dir, name)
		info, err := os.Stat(file)
		if err == nil && info.Mode().IsRegular() && unix.Access(file, unix.X_OK) == nil {
			return file
		}
	}
	return ""
}

// WithoutLinks is a PATH with the folders of links taken out: what stile starts on
// the host has to find the host's programs.
func (d Dirs) WithoutLinks(path string) string {
	var keep []string
	for _, dir := range filepath.SplitList(path) {
		if !d.IsLinks(dir) {
			keep = append(keep, dir)
		}
	}
	return strings.Join(keep, string(os.PathListSeparator))
}
