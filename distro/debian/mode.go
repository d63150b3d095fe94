package debian

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// A Mode is how mmdebstrap gets to write files that belong to root.
type Mode string

// The modes, in the order of preference.
const (
	ModeRoot       Mode = "root"       // the caller is root
	ModeUnshare    Mode = "unshare"    // in a user namespace, with a range of subordinate ids
	ModeFakechroot Mode = "fakechroot" // with preloaded libraries that make believe
)

// ChooseMode tries what works here for the calling user. The error is an *Error
// with the cure.
func ChooseMode(path string) (Mode, error) {
	if os.Geteuid() == 0 {
		return ModeRoot, nil
	}
	unshareErr := canUnshare(path)
	if unshareErr == nil {
		return ModeUnshare, nil
	}
	if lookPath(path, "fakechroot") != "" && lookPath(path, "fakeroot") != "" {
		return ModeFakechroot, nil
	}
	return "", &Error{
		What: "make root file system",
		Why:  "this user can't own files as root: " + unshareErr.Error(),
		Cure: "install what gives users a range of ids (sudo apt install uidmap; sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER), or: sudo apt install fakechroot fakeroot",
	}
}

// Usable reports how a Debian can be made here, or why it can't.
func Usable(path string) (Mode, error) {
	if lookPath(path, "mmdebstrap") == "" {
		return "", &Error{What: "make root file system", Why: "there is no mmdebstrap on this system", Cure: "sudo apt install mmdebstrap"}
	}
	return ChooseMode(path)
}

// canUnshare reports why mmdebstrap's mode unshare can't work.
func canUnshare(path string) error {
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if lookPath(path, program) == "" {
			return fmt.Errorf("there is no %s", program)
		}
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if !hasRange(file) {
			return fmt.Errorf("%s has no range of 65536 ids for it", file)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Path, cmd.Args = "/bin/true", []string{"true"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the system lets it make no user namespace: %w", err)
	}
	return nil
}

// hasRange reports whether a file like /etc/subuid gives the calling user, by
// name or number, the 65536 ids that a Debian system needs.
func hasRange(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	uid := strconv.Itoa(os.Getuid())
	name := uid
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != 3 || (fields[0] != name && fields[0] != uid) {
			continue
		}
		if n, err := strconv.Atoi(fields[2]); err == nil && n >= 65536 {
			return true
		}
	}
	return false
}
