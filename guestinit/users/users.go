// Package users knows who a distro's users are, from its /etc/passwd and
// /etc/group, and adds the host's user to them.
package users

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// A User is an entry of /etc/passwd with the groups it belongs to.
type User struct {
	Name     string
	UID, GID uint32
	Groups   []uint32 // supplementary, without GID
	Home     string
	Shell    string
}

// ErrUnknown says that the distro has no such user.
var ErrUnknown = errors.New("no such user")

// maxFile bounds what is read of a distro's /etc/passwd and /etc/group.
const maxFile = 16 << 20

// Files opens the distro's own files: root.Open.
type Files func(path string, flags int, mode uint32) (*os.File, error)

// Lookup finds a user by name, or by uid where name is a number that is no name.
func Lookup(open Files, name string) (*User, error) {
	passwd, err := read(open, "/etc/passwd")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	u := find(passwd, func(f []string) bool { return f[0] == name })
	if u == nil {
		if _, err := strconv.ParseUint(name, 10, 32); err == nil {
			u = find(passwd, func(f []string) bool { return f[2] == name })
		}
	}
	if u == nil && name == "root" {
		u = &User{Name: "root", Home: "/root", Shell: "/bin/sh"} // every kernel has this one
	}
	if u == nil {
		return nil, ErrUnknown
	}
	group, err := read(open, "/etc/group")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	u.Groups = groups(group, u)
	return u, nil
}

func read(open Files, path string) ([]byte, error) {
	f, err := open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return b, nil
}

// passwdFields are name, password, uid, gid, comment, home, shell.
const passwdFields = 7

// parse is the user of a line of /etc/passwd, nil if it is none.
func parse(line string) (*User, []string) {
	f := strings.Split(line, ":")
	if len(f) != passwdFields || f[0] == "" || f[0][0] == '#' {
		return nil, nil
	}
	uid, err := strconv.ParseUint(f[2], 10, 32)
	if err != nil {
		return nil, nil
	}
	gid, err := strconv.ParseUint(f[3], 10, 32)
	if err != nil {
		return nil, nil
	}
	return &User{Name: f[0], UID: uint32(uid), GID: uint32(gid), Home: f[5], Shell: f[6]}, f
}

// find is the first user whose fields match.
func find(passwd []byte, match func([]string) bool) *User {
	for line := range lines(passwd) {
		if u, f := parse(line); u != nil && match(f) {
			return u
		}
	}
	return nil
}

// groups are the gids of the groups that list u as a member.
func groups(group []byte, u *User) []uint32 {
	var out []uint32
	for line := range lines(group) {
		f := strings.Split(line, ":")
		if len(f) != 4 {
			continue
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil || uint32(gid) == u.GID {
			continue
		}
		for _, m := range strings.Split(f[3], ",") {
			if m == u.Name {
				out = append(out, uint32(gid))
				break
			}
		}
	}
	return out
}

func lines(b []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		s := bufio.NewScanner(bytes.NewReader(b))
		s.Buffer(nil, maxFile)
		for s.Scan() {
			if !yield(s.Text()) {
				return
			}
		}
	}
}
