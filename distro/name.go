package distro

import (
	"fmt"
	"strings"
)

// MaxName is the length that a distro's name may have. It leaves room for the
// folder in a socket's path.
const MaxName = 40

// maxSocketPath is what sun_path of struct sockaddr_un holds, less the NUL at
// its end (unix(7)).
const maxSocketPath = 107

// A NameError says what is wrong with a name that was given for a distro.
type NameError struct {
	Name string
	Why  string
	Cure string
}

func (e *NameError) Error() string { return fmt.Sprintf("name %q: %s", e.Name, e.Why) }

// Hint is the cure.
func (e *NameError) Hint() string { return e.Cure }

// CheckName refuses a name that can't be a distro's. A name is a file name, a
// host name, and part of a socket's path.
func CheckName(name string) error {
	const cure = "a name has lower-case letters, digits, '.', '_' and '-', and starts with a letter or a digit"
	switch {
	case name == "":
		return &NameError{name, "it is empty", cure}
	case len(name) > MaxName:
		return &NameError{name, fmt.Sprintf("it has %d characters, and may have %d", len(name), MaxName), "choose a shorter name"}
	case strings.IndexByte(".-_", name[0]) >= 0:
		return &NameError{name, fmt.Sprintf("it starts with %q", name[:1]), cure}
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r) {
			return &NameError{name, fmt.Sprintf("it has %q in it", r), cure}
		}
	}
	return nil
}

// CheckName refuses a name that can't be a distro's here: besides the rules of
// the function CheckName, the path of its machine's socket must not be too long
// for the kernel.
func (d Dirs) CheckName(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if path := d.SocketPath(name); len(path) > maxSocketPath {
		return &NameError{
			Name: name,
			Why: fmt.Sprintf("its socket's path would have %d bytes, and a socket's path may have %d: %s",
				len(path), maxSocketPath, path),
			Cure: "choose a shorter name, or set XDG_RUNTIME_DIR to a shorter path",
		}
	}
	return nil
}
