// Package distro is the store on the host: distros with their disk images and
// the facts about them, the settings, the shares, and the links. It runs
// nothing and prints nothing.
//
// # Folders
//
// Everything lies in five folders, from the XDG variables or their defaults
// (see Dirs). All of them are made with mode 0700 when something is first
// written there:
//
//	Config   config.toml        the user's settings; stile never writes it
//	         host.toml          which commands of the host guests may run
//	Data     distros/NAME/      disk.img, settings.toml
//	         default            name of the default distro
//	         shares.json        what `stile share` and `stile unshare` said
//	         host.log           what guests asked to run on the host
//	         bin/NAME           links: symlinks to the shim
//	         links/NAME         a record for each link, which the shim reads
//	         views/KEY/         bin/ and links/ as a folder's .stile.toml wants them
//	         trusted/           which of those files count
//	         libexec/           the shim
//	Cache    rootfs/, kernel/   everything here can be made again
//	Runtime  NAME/              of a running machine: socket, log, lock
package distro

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// Dirs are the folders in which stile keeps what it has on the host. None of
// them needs to exist; Ensure makes one.
type Dirs struct {
	Config  string // $XDG_CONFIG_HOME/stile, or ~/.config/stile
	Data    string // $XDG_DATA_HOME/stile, or ~/.local/share/stile
	Cache   string // $XDG_CACHE_HOME/stile, or ~/.cache/stile
	Runtime string // see RuntimeDir
	Links   string // Data/bin: the folder for the user's PATH
	Home    string // the user's home
}

// FindDirs works out the folders from the environment. As the XDG Base
// Directory specification asks, a variable that holds a relative path counts as
// unset.
func FindDirs() (Dirs, error) {
	home, err := homeDir()
	if err != nil {
		return Dirs{}, err
	}
	runtime, err := RuntimeDir()
	if err != nil {
		return Dirs{}, err
	}
	data := xdg("XDG_DATA_HOME", home, defaultData)
	return Dirs{
		Config:  xdg("XDG_CONFIG_HOME", home, defaultConfig),
		Data:    data,
		Cache:   xdg("XDG_CACHE_HOME", home, defaultCache),
		Runtime: runtime,
		Links:   filepath.Join(data, "bin"),
		Home:    home,
	}, nil
}

// DirsOf are the folders of another user, whose XDG variables are not known.
func DirsOf(home string, uid int) (Dirs, error) {
	runtime, err := runtimeFallback("/run/user", os.TempDir(), uid)
	if err != nil {
		return Dirs{}, err
	}
	in := func(dir string) string { return filepath.Join(home, dir, "stile") }
	data := in(defaultData)
	return Dirs{Config: in(defaultConfig), Data: data, Cache: in(defaultCache),
		Runtime: runtime, Links: filepath.Join(data, "bin"), Home: home}, nil
}

// The folders below the home where the XDG variables are not set.
const (
	defaultConfig = ".config"
	defaultData   = ".local/share"
	defaultCache  = ".cache"
)

// Environ is the environment, NAME=VALUE, in which FindDirs finds these folders
// but for Runtime, which a user's logins come and go with.
func (d Dirs) Environ() []string {
	return []string{
		"HOME=" + d.Home,
		"XDG_CONFIG_HOME=" + filepath.Dir(d.Config),
		"XDG_DATA_HOME=" + filepath.Dir(d.Data),
		"XDG_CACHE_HOME=" + filepath.Dir(d.Cache),
	}
}

func xdg(variable, home, fallback string) string {
	if dir := os.Getenv(variable); filepath.IsAbs(dir) {
		return filepath.Join(dir, "stile")
	}
	return filepath.Join(home, fallback, "stile")
}

// homeDir is $HOME, and without it the home of the user database: cron and
// init scripts may leave the variable out.
func homeDir() (string, error) {
	if home := os.Getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Clean(home), nil
	}
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("find home folder: HOME is not set: %w", err)
	}
	if !filepath.IsAbs(u.HomeDir) {
		return "", errors.New("find home folder: HOME is not set and the user database names none")
	}
	return filepath.Clean(u.HomeDir), nil
}

// RuntimeDir is the folder of sockets and locks: $XDG_RUNTIME_DIR/stile, else
// /run/user/UID/stile where a login has made that folder for us, else
// /tmp/stile-UID. A shell under cron, which lacks the variable, so arrives at
// the same folder as a login shell on the same machine.
func RuntimeDir() (string, error) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "stile"), nil
	}
	return runtimeFallback("/run/user", os.TempDir(), os.Getuid())
}

func runtimeFallback(run, tmp string, uid int) (string, error) {
	dir := filepath.Join(run, strconv.Itoa(uid))
	if ours(dir, uid) == nil {
		return filepath.Join(dir, "stile"), nil
	}
	// Anyone may have made the name in /tmp before us: it has to be a real
	// folder, ours alone.
	dir = filepath.Join(tmp, "stile-"+strconv.Itoa(uid))
	if err := ours(dir, uid); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", &FolderError{"runtime folder", dir, err}
	}
	return dir, nil
}

// FolderError says why one of stile's folders can't be trusted.
type FolderError struct {
	What string // "folder", "runtime folder"
	Path string
	Err  error
}

func (e *FolderError) Error() string { return "use " + e.What + " " + e.Path + ": " + e.Err.Error() }

// Unwrap is the reason.
func (e *FolderError) Unwrap() error { return e.Err }

// Hint is the cure.
func (e *FolderError) Hint() string {
	return "it has to be your own, and nobody else may write it: ls -ld " + e.Path
}

// ours reports why dir can't be trusted: it has to be a folder, not a symlink,
// that belongs to uid and that nobody else may write.
func ours(dir string, uid int) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		return errors.New("it is a symbolic link")
	case !info.IsDir():
		return errors.New("it is not a folder")
	case !ok || int(st.Uid) != uid:
		return errors.New("it belongs to another user")
	case info.Mode().Perm()&0o022 != 0:
		return errors.New("others may write it")
	}
	return nil
}

// Ensure makes dir, and the folders above it that lack, with mode 0700, and
// refuses one that another user could have put there.
func Ensure(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	// Data and configuration may well be a symlink of the user's own: follow.
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return &FolderError{"folder", dir, fmt.Errorf("it belongs to another user (uid %d)", st.Uid)}
	}
	return nil
}

// EnsureRuntime makes the folder of one machine below Runtime and returns its
// path. Unlike Ensure it follows no symlink on the way.
func (d Dirs) EnsureRuntime(name string) (string, error) {
	if err := d.CheckName(name); err != nil {
		return "", err
	}
	if err := Ensure(d.Runtime); err != nil {
		return "", err
	}
	if err := ours(d.Runtime, os.Geteuid()); err != nil {
		return "", &FolderError{"runtime folder", d.Runtime, err}
	}
	dir := d.MachineDir(name)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make runtime folder: %w", err)
	}
	if err := ours(dir, os.Geteuid()); err != nil {
		return "", &FolderError{"runtime folder", dir, err}
	}
	return dir, nil
}

// MachineDir is the folder of a running machine: Runtime/NAME.
func (d Dirs) MachineDir(name string) string { return filepath.Join(d.Runtime, name) }

// SocketPath is where the machine of a distro listens.
func (d Dirs) SocketPath(name string) string { return filepath.Join(d.MachineDir(name), "socket") }

// KernelCache is the folder below which package kernel keeps what it built.
func (d Dirs) KernelCache() string { return d.Cache }
