package distro

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// FolderFile is the name of the file that says which distro a folder, and what
// is below it, uses in place of the default:
//
//	distro = "alpine"
//
//	[links.make]           # a link for this folder alone, or another meaning
//	args = ["-j4"]         # of one that there is; see LinksFile for the keys
//
// Such a file comes with what others wrote, a cloned repository say, and can
// make `ls` run anything: it counts only after the user trusted it, with just
// these bytes.
const FolderFile = ".stile.toml"

// maxFolderFile is more than anybody writes by hand.
const maxFolderFile = 64 << 10

// A Folder is a FolderFile that was found.
type Folder struct {
	Path    string // of the file
	Distro  string // "" is the default
	Links   []Link // of the folder alone, by name; Record.Distro is always set if Distro is
	Trusted bool

	sum string // of path and bytes
}

// Dir is the folder that the file is for.
func (f *Folder) Dir() string { return filepath.Dir(f.Path) }

// UntrustedError names a FolderFile that nobody has trusted.
type UntrustedError struct{ Path string }

func (e *UntrustedError) Error() string {
	return e.Path + ": it is not trusted, or has changed since it was"
}

// Hint is the cure.
func (e *UntrustedError) Hint() string { return "read it, then: stile trust " + e.Path }

// Folder finds the FolderFile that counts in dir: the one nearest on the way up.
// It is nil if there is none. What an untrusted file says is not even parsed.
func (s *Store) Folder(dir string) (*Folder, error) {
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, FolderFile)
		// Neither a fifo nor a device is waited for, wherever a link leads.
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return s.ReadFolder(path)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("look for %s: %w", FolderFile, err)
		}
		if dir == filepath.Dir(dir) {
			return nil, nil
		}
	}
}

// ReadFolder reads one FolderFile.
func (s *Store) ReadFolder(path string) (*Folder, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read folder's settings: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFolderFile {
		return nil, &ConfigError{Path: path, Why: fmt.Sprintf("it is no file of at most %v", Size(maxFolderFile))}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read folder's settings: %w", err)
	}
	sum := sha256.Sum256(append([]byte(path+"\x00"), data...))
	f := &Folder{Path: path, sum: hex.EncodeToString(sum[:])}
	if _, err := os.Stat(s.trustPath(f)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return f, nil
		}
		return nil, fmt.Errorf("read trust: %w", err)
	}
	f.Trusted = true
	return f, s.parseFolder(f, data)
}

func (s *Store) parseFolder(f *Folder, data []byte) error {
	var file struct {
		Distro string              `toml:"distro"`
		Links  map[string]linkText `toml:"links"`
	}
	if err := decodeTOML(f.Path, data, &file); err != nil {
		return err
	}
	if file.Distro != "" {
		if err := CheckName(file.Distro); err != nil {
			return &ConfigError{Path: f.Path, Why: err.Error()}
		}
	}
	f.Distro = file.Distro
	for _, name := range slices.Sorted(maps.Keys(file.Links)) {
		l, err := file.Links[name].link(f.Path, name)
		if err != nil {
			return err
		}
		if l.Record.Distro == "" {
			l.Record.Distro = f.Distro
		}
		f.Links = append(f.Links, l)
	}
	return nil
}

func (s *Store) trustPath(f *Folder) string {
	return filepath.Join(s.Dirs.Data, "trusted", f.sum)
}

// Trust trusts a FolderFile as it is now. One that makes no sense is an error,
// and not trusted.
func (s *Store) Trust(path string) (*Folder, error) {
	f, err := s.ReadFolder(path)
	if err != nil || f.Trusted {
		return f, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read folder's settings: %w", err)
	}
	// What is trusted are the bytes that are parsed here, not those of before.
	sum := sha256.Sum256(append([]byte(path+"\x00"), data...))
	f.sum = hex.EncodeToString(sum[:])
	if err := s.parseFolder(f, data); err != nil {
		return nil, err
	}
	if f.Distro != "" {
		if _, err := s.Get(f.Distro); err != nil {
			return nil, err
		}
	}
	f.Trusted = true
	return f, writeFile(s.trustPath(f), []byte(path+"\n"))
}

// Untrust takes all trust in a FolderFile back, in what it held before too. It
// reports whether there was any.
func (s *Store) Untrust(path string) (bool, error) {
	dir := filepath.Join(s.Dirs.Data, "trusted")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read trust: %w", err)
	}
	found := false
	for _, e := range entries {
		of, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil || string(bytes.TrimSuffix(of, []byte("\n"))) != path {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return found, fmt.Errorf("untrust %s: %w", path, err)
		}
		found = true
	}
	return found, nil
}

// DefaultIn is the default distro in a folder: that of its FolderFile, else the
// store's own. The Folder is nil where no file says so. An untrusted file is an
// *UntrustedError: what it would change, nobody should get unawares.
func (s *Store) DefaultIn(dir string) (string, *Folder, error) {
	f, err := s.Folder(dir)
	if err != nil {
		return "", nil, err
	}
	if f != nil && !f.Trusted {
		return "", nil, &UntrustedError{f.Path}
	}
	if f != nil && f.Distro != "" {
		return f.Distro, f, nil
	}
	name, err := s.Default()
	return name, nil, err
}
