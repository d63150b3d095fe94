package distro

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/guest"
)

// Mode is what the guest may do with a host folder.
type Mode string

// The modes.
const (
	ReadWrite Mode = "rw"
	ReadOnly  Mode = "ro"
	None      Mode = "none"
)

// UnmarshalText accepts the modes' names only.
func (m *Mode) UnmarshalText(text []byte) error {
	switch v := Mode(text); v {
	case ReadWrite, ReadOnly, None:
		*m = v
		return nil
	}
	return fmt.Errorf("mode %q: choose rw, ro or none", text)
}

// wider reports whether m allows all that other does.
func (m Mode) wider(other Mode) bool {
	rank := map[Mode]int{None: 0, ReadOnly: 1, ReadWrite: 2}
	return rank[m] >= rank[other]
}

// A Share is a host folder that the guest sees at the same path.
type Share struct {
	// Path is where the guest sees it, and as the user wrote it: absolute and
	// clean, with the symlinks in it left alone, for that is the path that
	// shells keep in $PWD and users type.
	Path string `json:"path"`
	// Real is the folder itself, with all symlinks resolved when the list was
	// made. Programs that ask the kernel for their folder see this path, so
	// where it differs the list holds a second share whose Path it is. It is
	// empty for a folder that does not exist now.
	Real string `json:"real,omitempty"`
	Mode Mode   `json:"mode"`
	// Origin says who wanted it: "default", "config" (config.toml) or "command"
	// (stile share).
	Origin string `json:"origin"`

	via string // of a second share: the Path of the first
}

// ShareError says why a folder can't be shared as asked.
type ShareError struct {
	Path string
	Why  string
	Cure string
}

func (e *ShareError) Error() string { return "share " + e.Path + ": " + e.Why }

// Hint is the cure.
func (e *ShareError) Hint() string { return e.Cure }

// Guest is the share as a machine and its guest know it.
func (s Share) Guest() guest.Share {
	sum := sha256.Sum256([]byte(s.Path))
	return guest.Share{Dir: hex.EncodeToString(sum[:8]), Path: s.Path, ReadOnly: s.Mode == ReadOnly}
}

// Shares lists what the machine of a distro shows: the folders of ShareList
// that exist.
func (s *Store) Shares(name string) ([]guest.Share, error) {
	list, err := s.ShareList(name)
	if err != nil {
		return nil, err
	}
	var shares []guest.Share
	for _, share := range list {
		if share.Real != "" {
			shares = append(shares, share.Guest())
		}
	}
	return shares, nil
}

// ShareList lists what a distro shares, ordered by path, so that a folder comes
// before those inside it. Three sources say what is shared, the later winning
// for a path: the defaults (home and /tmp, read-write), config.toml, and the
// commands share and unshare, which go for all distros. An isolated distro has what
// config.toml says of it by name, and nothing else.
//
// A share may lie in another if it allows more: read-write in read-only. One
// that allows less is an error, because it would protect nothing: whoever is
// root in the guest has the outer share too.
func (s *Store) ShareList(name string) ([]Share, error) {
	config, err := LoadConfig(s.Dirs)
	if err != nil {
		return nil, err
	}
	if isolated, err := s.isolated(name); err != nil {
		return nil, err
	} else if isolated {
		own, err := s.configuredIn(config, config.each[name])
		if err != nil {
			return nil, err
		}
		return s.combine(nil, own, nil)
	}
	said, err := s.readShares()
	if err != nil {
		return nil, err
	}
	configured, err := s.configured(config, name)
	if err != nil {
		return nil, err
	}
	return s.combine(s.always(), configured, said)
}

// isolated reports whether a distro has no shares but its own. One that is not there
// is none, and has those of all.
func (s *Store) isolated(name string) (bool, error) {
	if name == "" {
		return false, nil
	}
	d, err := s.Get(name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return d.Info.Isolated, nil
}

// always are the folders that are shared if nothing else is said.
func (s *Store) always() []string { return []string{s.Dirs.Home, "/tmp"} }

// combine makes the list from folders, and folders with modes, whose paths are absolute.
func (s *Store) combine(always []string, configured, said map[string]Mode) ([]Share, error) {
	byPath := map[string]Share{}
	for _, path := range always {
		if path != "/" {
			byPath[path] = Share{Path: path, Mode: ReadWrite, Origin: "default"}
		}
	}
	for path, mode := range configured {
		byPath[path] = Share{Path: path, Mode: mode, Origin: "config"}
	}
	for path, mode := range said {
		byPath[path] = Share{Path: path, Mode: mode, Origin: "command"}
	}
	real := map[string]Share{}
	var none []Share
	for path, share := range byPath {
		if share.Mode == None {
			none = append(none, share)
			continue
		}
		share.Real, _ = filepath.EvalSymlinks(path)
		real[path] = share
	}
	for _, share := range real {
		if share.Real == "" || share.Real == share.Path || checkPlace(share.Real) != nil {
			continue
		}
		if _, ok := real[share.Real]; !ok {
			twin := share
			twin.Path, twin.via = share.Real, share.Path
			real[twin.Path] = twin
		}
	}
	var list []Share
	for _, share := range real {
		list = append(list, share)
	}
	slices.SortFunc(list, func(a, b Share) int { return strings.Compare(a.Path, b.Path) })
	return list, checkNesting(list, none)
}

// checkNesting refuses a share, or the want of one, in a share that allows more.
func checkNesting(list, none []Share) error {
	for _, in := range slices.Concat(list, none) {
		for _, out := range list {
			if out.Path == in.Path || !within(realOf(in), realOf(out)) || in.Mode.wider(out.Mode) {
				continue
			}
			what := "be read-only"
			if in.Mode == None {
				what = "be kept from the guest"
			}
			return &ShareError{
				Path: in.Path,
				Why:  fmt.Sprintf("it can't %s, as it lies in %s, which is shared %s", what, out.Path, out.Mode),
				Cure: "take back the outer share first (stile unshare " + out.Path + "), then share the folders you want",
			}
		}
	}
	return nil
}

func realOf(s Share) string {
	if s.Real != "" {
		return s.Real
	}
	return s.Path
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// configured is what the configuration file says for one distro, with paths
// that are absolute and clean: only then is it known which of them are the same.
func (s *Store) configured(c *Config, name string) (map[string]Mode, error) {
	all := map[string]Mode{}
	for _, t := range []table{c.global, c.each[name]} {
		one, err := s.configuredIn(c, t)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, one)
	}
	return all, nil
}

// configuredIn is what one table of it says.
func (s *Store) configuredIn(c *Config, t table) (map[string]Mode, error) {
	one := map[string]Mode{}
	for written, mode := range t.Shares {
		path, err := s.expand(written)
		if err == nil && one[path] != "" {
			err = fmt.Errorf("%s is there twice", path)
		}
		if err != nil {
			return nil, &ConfigError{Path: c.path, Why: "shares: " + err.Error()}
		}
		one[path] = mode.value
	}
	return one, nil
}

// expand makes a path of the configuration file absolute and clean.
func (s *Store) expand(path string) (string, error) {
	if path == "~" || strings.HasPrefix(path, "~/") {
		path = s.Dirs.Home + path[1:]
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is not absolute: start it with / or ~/", path)
	}
	path = filepath.Clean(path)
	return path, checkPlace(path)
}

// own are the guest's folders that no share may stand on: it would hide the
// distro's own programs.
var own = []string{
	"/", "/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/run", "/sbin",
	"/usr", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/local", "/usr/sbin",
	"/usr/share", "/var", "/var/cache", "/var/lib", "/var/log", "/var/tmp",
}

// kernelOwn are folders in which nothing is a file to share.
var kernelOwn = []string{"/dev", "/proc", "/sys"}

func checkPlace(path string) error {
	inside := slices.Contains(own, path)
	for _, dir := range kernelOwn {
		inside = inside || within(path, dir)
	}
	if inside {
		return &ShareError{
			Path: path,
			Why:  "the guest has its own " + path,
			Cure: "share a folder inside it, or link what you need into your home",
		}
	}
	return nil
}

// Share notes that a folder is to be shared by all distros and returns the
// share. The path may be relative to the working folder.
func (s *Store) Share(path string, mode Mode) (Share, error) {
	path, err := abs(path)
	if err != nil {
		return Share{}, err
	}
	if err := checkPlace(path); err != nil {
		return Share{}, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			return Share{}, &ShareError{path, "it is not a folder", "share the folder that it lies in"}
		}
		err = unix.Access(path, unix.X_OK)
	}
	if errors.Is(err, fs.ErrPermission) {
		// The machine, whose processes are the user's, could show nothing of it.
		return Share{}, &ShareError{path, "permission denied", "see whom it belongs to, and those above it: ls -ld " + path}
	}
	if err != nil {
		return Share{}, &ShareError{path, "there is no such folder", "make it first: mkdir -p " + path}
	}
	for _, dir := range []string{s.Dirs.Config, s.Dirs.Data, s.Dirs.Cache, s.Dirs.Runtime} {
		if dir, err := filepath.EvalSymlinks(dir); err == nil && within(real, dir) {
			return Share{}, &ShareError{path, "it is stile's own, which no guest may see", "share another folder"}
		}
	}
	share := Share{Path: path, Real: real, Mode: mode, Origin: "command"}
	return share, s.changeShares(path, mode)
}

// Unshare takes back a share, also a default one. The error is a *ShareError if
// the folder is not shared.
func (s *Store) Unshare(path string) (Share, error) {
	path, err := abs(path)
	if err != nil {
		return Share{}, err
	}
	list, err := s.ShareList("")
	if err != nil {
		return Share{}, err
	}
	at := slices.IndexFunc(list, func(sh Share) bool { return sh.Path == path })
	if at < 0 {
		e := &ShareError{Path: path, Why: "it is not shared", Cure: "stile shares lists what is"}
		for _, out := range list {
			if within(path, out.Path) {
				e.Why = "it is not shared itself: it lies in " + out.Path + ", which is"
			}
		}
		return Share{}, e
	}
	if via := list[at].via; via != "" {
		return Share{}, &ShareError{path, "it is shared as " + via, "take that back: stile unshare " + via}
	}
	return list[at], s.changeShares(path, None)
}

// abs is filepath.Abs, except that it takes the working folder as the shell has
// it, in $PWD (os.Getwd does so where that is the same folder).
func abs(path string) (string, error) {
	if path == "" {
		return "", &ShareError{`""`, "it is empty", "name a folder; the working folder is ."}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find folder: %w", err)
	}
	return path, nil
}

type sharesFile struct {
	Shares map[string]Mode `json:"shares"`
}

func (s *Store) sharesPath() string { return filepath.Join(s.Dirs.Data, "shares.json") }

func (s *Store) readShares() (map[string]Mode, error) {
	data, err := os.ReadFile(s.sharesPath())
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]Mode{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read shares: %w", err)
	}
	var file sharesFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("read shares: %s: %w", s.sharesPath(), err)
	}
	if file.Shares == nil {
		file.Shares = map[string]Mode{}
	}
	return file.Shares, nil
}

// changeShares sets one folder's mode, under a lock against other commands that
// do the same, and writes nothing if the whole would make no sense.
func (s *Store) changeShares(path string, mode Mode) error {
	if err := Ensure(s.Dirs.Data); err != nil {
		return err
	}
	lock, err := os.OpenFile(s.sharesPath()+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("write shares: %w", err)
	}
	defer lock.Close()
	if err := ofdLock(lock, unix.F_OFD_SETLKW); err != nil {
		return fmt.Errorf("lock shares: %w", err)
	}
	said, err := s.readShares()
	if err != nil {
		return err
	}
	config, err := LoadConfig(s.Dirs)
	if err != nil {
		return err
	}
	configured, err := s.configured(config, "")
	if err != nil {
		return err
	}
	said[path] = mode
	if mode == None && path != s.Dirs.Home && path != "/tmp" {
		if _, ok := configured[path]; !ok {
			delete(said, path)
		}
	}
	if _, err := s.combine(s.always(), configured, said); err != nil {
		return err
	}
	data, err := json.MarshalIndent(sharesFile{said}, "", "\t")
	if err != nil {
		return fmt.Errorf("write shares: %w", err)
	}
	return writeFile(s.sharesPath(), append(data, '\n'))
}
