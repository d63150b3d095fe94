package distro

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// commandsPath is the file that remembers which commands a distro had when it
// was asked last. It lies with the distro's disk, and goes with it.
func commandsPath(d *Distro) string { return filepath.Join(d.Dir, "commands") }

// RememberCommands keeps the names of a distro's commands.
func (s *Store) RememberCommands(d *Distro, names []string) error {
	return writeChanged(commandsPath(d), []byte(strings.Join(names, "\n")+"\n"))
}

// Commands are the names that were remembered last: none if none ever were. The
// disk changes only while a machine runs, and then the machine can be asked.
func (s *Store) Commands(d *Distro) ([]string, error) {
	data, err := os.ReadFile(commandsPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read commands of %s: %w", d.Name, err)
	}
	return strings.Fields(string(data)), nil
}
