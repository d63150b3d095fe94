package distro

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// HostPath is the file of the rules for host commands that guests call (package
// machine/policy). `stile host` writes it.
func (d Dirs) HostPath() string { return filepath.Join(d.Config, "host.toml") }

// HostLogPath is the log of what guests asked for.
func (d Dirs) HostLogPath() string { return filepath.Join(d.Data, "host.log") }

// ReadTOML reads a settings file into v and refuses keys that v has no field for: a
// *ConfigError. A file that does not exist is an fs.ErrNotExist.
func ReadTOML(path string, v any) error { return readTOML(path, v) }

// ChangeFile replaces a file's content by what change makes of it, under a lock
// against other commands that do the same. A file that does not exist is empty.
func ChangeFile(path string, change func(old []byte) ([]byte, error)) error {
	if err := Ensure(filepath.Dir(path)); err != nil {
		return err
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer lock.Close()
	if err := ofdLock(lock, unix.F_OFD_SETLKW); err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	data, err := change(old)
	if err != nil {
		return err
	}
	return writeFile(path, data)
}
