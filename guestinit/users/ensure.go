package users

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/guest"
)

// shells are tried in order where the distro lacks the user's own.
var shells = []string{"/bin/bash", "/bin/sh"}

// Ensure sees to it that the distro has the host's user: the same name, uid, gid
// and group. Files that say so already are left alone.
func Ensure(open Files, u guest.User) error {
	shell := Shell(open, u.Shell)
	if err := edit(open, "/etc/passwd", 0o644, func(b []byte) []byte { return withUser(b, u, shell) }); err != nil {
		return err
	}
	if err := edit(open, "/etc/group", 0o644, func(b []byte) []byte { return withGroup(b, u) }); err != nil {
		return err
	}
	if u.UID == 0 {
		return nil
	}
	if err := editExisting(open, "/etc/shadow", func(b []byte) []byte { return withShadow(b, u.Name) }); err != nil {
		return err
	}
	// Who may start the machine is its root already: `stile run -u root`.
	name := strings.ReplaceAll(u.Name, `\`, `\\`)
	return create(open, "/etc/sudoers.d/stile", 0o440, name+" ALL=(ALL:ALL) NOPASSWD: ALL\n"+
		"Defaults:"+name+" env_keep += \"TERMINFO_DIRS\"\n") // of a terminal that the distro does not know
}

// Shell is the given one if the distro has it, else one that it has.
func Shell(open Files, shell string) string {
	for _, s := range append([]string{shell}, shells...) {
		if s == "" {
			continue
		}
		if f, err := open(s, os.O_RDONLY, 0); err == nil {
			info, err := f.Stat()
			f.Close()
			if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return s
			}
		}
	}
	return "/bin/sh"
}

// noLogin are the shells of users who are no persons.
var noLogin = map[string]bool{"nologin": true, "false": true, "sync": true}

// withUser is /etc/passwd with the user in it. A line of the same name becomes
// the user's; otherwise his is put before the first line with his uid, so that
// the uid's name is his.
func withUser(b []byte, u guest.User, shell string) []byte {
	mine := func(comment, shell string) string {
		return strings.Join([]string{u.Name, "x", strconv.Itoa(int(u.UID)), strconv.Itoa(int(u.GID)), comment, u.Home, shell}, ":")
	}
	var out []string
	done := false
	for line := range lines(b) {
		e, f := parse(line)
		switch {
		case e == nil || done && e.Name != u.Name:
		case e.Name == u.Name && done:
			continue // a second line of that name
		case e.Name == u.Name:
			done = true
			if noLogin[filepath.Base(e.Shell)] {
				e.Shell = shell // a service's name in the distro, a person's on the host
			}
			if e.UID != u.UID || e.GID != u.GID || e.Shell != f[6] || e.Home != u.Home && u.UID != 0 {
				line = mine(f[4], e.Shell)
			}
		case e.UID == u.UID && !named(b, u.Name):
			done = true
			out = append(out, mine("", shell))
		}
		out = append(out, line)
	}
	if !done {
		out = append(out, mine("", shell))
	}
	return []byte(strings.Join(out, "\n") + "\n")
}

func named(passwd []byte, name string) bool {
	return find(passwd, func(f []string) bool { return f[0] == name }) != nil
}

// withGroup is /etc/group with the user's group in it, if no group has its gid.
func withGroup(b []byte, u guest.User) []byte {
	gid := strconv.Itoa(int(u.GID))
	name := u.Group
	for line := range lines(b) {
		f := strings.Split(line, ":")
		if len(f) != 4 {
			continue
		}
		if f[2] == gid {
			return b
		}
		if f[0] == name {
			name = "host-" + u.Group // the distro's own of that name has another gid
		}
	}
	return append(endLine(b), name+":x:"+gid+":\n"...)
}

// withShadow is /etc/shadow with a line for the user that allows no password.
func withShadow(b []byte, name string) []byte {
	for line := range lines(b) {
		if strings.HasPrefix(line, name+":") {
			return b
		}
	}
	return append(endLine(b), name+":*:::::::\n"...)
}

func endLine(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) > 0 && b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	return b
}

// edit changes a file of the distro, or makes it.
func edit(open Files, path string, mode uint32, change func([]byte) []byte) error {
	old, err := read(open, path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	changed := change(old)
	if err == nil && bytes.Equal(old, changed) {
		return nil
	}
	return write(open, path, mode, changed)
}

// editExisting is edit for a file that a distro may do without.
func editExisting(open Files, path string, change func([]byte) []byte) error {
	f, err := open(path, os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	f.Close()
	if err != nil {
		return err
	}
	return edit(open, path, uint32(info.Mode().Perm()), change)
}

// create makes a file whose folder a distro may lack, and leaves one that is
// there alone.
func create(open Files, path string, mode uint32, text string) error {
	f, err := open(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err = f.WriteString(text); err == nil {
		err = f.Chmod(os.FileMode(mode))
	}
	return errors.Join(err, f.Close())
}

// write replaces a file in one step, so that a power cut leaves the old or the
// new one. Where its name is a symbolic link of the distro's, what that leads to
// is written instead.
func write(open Files, path string, mode uint32, b []byte) error {
	dir, err := open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	at, name := int(dir.Fd()), filepath.Base(path)
	temporary := path + ".stile"
	var st unix.Stat_t
	if unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		temporary = path
	}
	f, err := open(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil && temporary != path {
		err = unix.Renameat(at, name+".stile", at, name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
