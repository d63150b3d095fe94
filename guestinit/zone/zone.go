// Package zone has a distro's local time follow the host's: /etc/localtime is what
// every program looks at that has no TZ. It is the user's file, too, so it is
// changed only where it is what the distro came with or what stile put there.
package zone

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/guest"
)

const (
	localtime = "localtime" // in /etc
	// timezone is Debian's second place for the name, which Java for one reads.
	timezone = "timezone"
	// record, in recordDir, lists what stile has put there: one state a line. It is
	// made once, and then says what was the user's choice and what was not.
	recordDir = "/var/lib/stile"
	record    = "localtime"
	maxFile   = 1 << 20
)

// zoneFiles is where distros have the files of zones. The link is relative, as
// systemd makes it; a link that a user or dpkg-reconfigure makes is not.
const zoneFiles = "usr/share/zoneinfo/"

// Files opens the distro's own files: root.Open.
type Files func(path string, flags int, mode uint32) (*os.File, error)

// Follow makes z the distro's time zone, unless its user has chosen one.
func Follow(open Files, z guest.Zone) error {
	if err := follow(open, z); err != nil {
		return fmt.Errorf("time zone: %w", err)
	}
	return nil
}

func follow(open Files, z guest.Zone) error {
	etc, err := open("/etc", unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no program of this distro looks there
	}
	if err != nil {
		return err
	}
	defer etc.Close()
	now, err := look(open, etc)
	if err != nil {
		return err
	}
	known, err := read(open, recordDir+"/"+record)
	first := errors.Is(err, fs.ErrNotExist)
	if err != nil && !first {
		return err
	}
	ours := now.kind == nothing || now.kind != other && (first && now.isUTC || !first && listed(known, now.String()))
	want := wanted(open, z)
	if !ours || now.String() == want.String() {
		if !first {
			return nil
		}
		// From now on what is there is a choice, but for this where it is ours.
		if !ours {
			now = state{kind: other}
		}
		return put(open, recordDir, record, []byte(now.String()+"\n"))
	}
	// Both, and before: a power cut leaves one of them.
	if err := put(open, recordDir, record, []byte(now.String()+"\n"+want.String()+"\n")); err != nil {
		return err
	}
	if err := want.make(open, etc); err != nil {
		return err
	}
	return rename(open, etc, now, want.name)
}

// rename changes the name in /etc/timezone, if that is there and says what
// /etc/localtime said. A zone without a name has no such file: better none than a
// wrong one.
func rename(open Files, etc *os.File, from state, to string) error {
	b, err := read(open, "/etc/"+timezone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	name := strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return err
	case name != from.name && !(isUTC(name) && (from.isUTC || from.kind == nothing)):
		return nil
	case to == "":
		return unix.Unlinkat(int(etc.Fd()), timezone, 0)
	}
	return put(open, "/etc", timezone, []byte(to+"\n"))
}

func listed(known []byte, s string) bool {
	for line := range strings.Lines(string(known)) {
		if strings.TrimSuffix(line, "\n") == s {
			return true
		}
	}
	return false
}

type kind int

const (
	nothing kind = iota
	link
	file
	other // what no distro has there
)

// A state is one of /etc/localtime.
type state struct {
	kind   kind
	target string // of a link
	name   string // of its zone: Europe/Berlin
	data   []byte // of a file
	isUTC  bool
}

// String tells the state from any other. No link is called none, nor file-...
func (s state) String() string {
	switch s.kind {
	case link:
		return s.target
	case file:
		return fmt.Sprintf("file-%x", sha256.Sum256(s.data))
	case nothing:
		return "none"
	}
	return "other"
}

// look finds what is there.
func look(open Files, etc *os.File) (s state, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(int(etc.Fd()), localtime, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return s, nil
	case err != nil:
		return s, err
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(etc.Fd()), localtime, b)
		if err != nil {
			return s, err
		}
		s.kind, s.target = link, string(b[:n])
		_, s.name, _ = strings.Cut(s.target, "/zoneinfo/")
		s.isUTC = isUTC(s.name)
	case st.Mode&unix.S_IFMT == unix.S_IFREG:
		s.kind = file
		if s.data, err = read(open, "/etc/"+localtime); err != nil {
			return s, err
		}
		s.isUTC = bytes.HasSuffix(s.data, []byte("\nUTC0\n")) // its last line: tzfile(5)
	default:
		s.kind = other
	}
	return s, nil
}

// isUTC reports whether a zone is UTC, which is what distros come with.
func isUTC(name string) bool {
	switch strings.TrimPrefix(name, "Etc/") {
	case "UTC", "UCT", "Universal", "Zulu":
		return true
	}
	return false
}

// wanted is what the host's zone is in this distro: a link where it has that zone,
// for programs read its name there, and the host's own file otherwise.
func wanted(open Files, z guest.Zone) state {
	if z.Name == "" && len(z.Data) == 0 {
		z.Name = "Etc/UTC" // what a host has that has no /etc/localtime
	}
	if z.Name != "" {
		if f, err := open("/"+zoneFiles+z.Name, unix.O_PATH, 0); err == nil {
			f.Close()
			return state{kind: link, target: "../" + zoneFiles + z.Name, name: z.Name}
		}
	}
	if len(z.Data) > 0 {
		return state{kind: file, data: z.Data}
	}
	return state{} // UTC again
}

// make makes /etc/localtime what s says.
func (s state) make(open Files, etc *os.File) error {
	at := int(etc.Fd())
	switch s.kind {
	case link:
		const temporary = localtime + ".stile"
		if err := unix.Unlinkat(at, temporary, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err := unix.Symlinkat(s.target, at, temporary); err != nil {
			return err
		}
		return unix.Renameat(at, temporary, at, localtime)
	case file:
		return put(open, "/etc", localtime, s.data)
	}
	err := unix.Unlinkat(at, localtime, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func read(open Files, path string) ([]byte, error) {
	f, err := open(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// put writes a file in one step: a power cut leaves the old or the new one. A
// symbolic link of its name is replaced.
func put(open Files, dir, name string, b []byte) error {
	d, err := folder(open, dir)
	if err != nil {
		return err
	}
	defer d.Close()
	temporary := name + ".stile"
	f, err := open(dir+"/"+temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return unix.Renameat(int(d.Fd()), temporary, int(d.Fd()), name)
}

// folder opens a folder of the distro's, and makes it where it lacks.
func folder(open Files, path string) (*os.File, error) {
	d, err := open(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	at := strings.LastIndexByte(path, '/')
	if at < 0 || path == "/" {
		return nil, err
	}
	parent, err := folder(open, cmp.Or(path[:at], "/"))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(parent.Fd()), path[at+1:], 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return open(path, unix.O_PATH|unix.O_DIRECTORY, 0)
}
