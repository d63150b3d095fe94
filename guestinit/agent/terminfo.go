package agent

import (
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/guestinit/users"
	"github.com/stilehq/stile/interop/wire"
)

// distroTerminfo are the folders in which distros have terminfo entries. A ~/.terminfo
// of the host's user is shared, and found by whoever looks there.
var distroTerminfo = []string{"/usr/share/terminfo", "/lib/terminfo", "/etc/terminfo", "/usr/lib/terminfo"}

const (
	// stileTerminfo has the entries that came with requests. It is no folder that
	// programs look into by themselves: TERMINFO_DIRS tells them.
	stileTerminfo = "/run/stile/terminfo"
	// fallbackTerm is what today's terminals understand, and what distros have
	// that have any.
	fallbackTerm = "xterm-256color"
)

// fixTerm has programs find the terminfo entry of the caller's terminal where the
// distro lacks it: by that which came with the request or, where the host has none
// either, by another name.
func fixTerm(env []string, entry []byte, files users.Files) []string {
	term, own, dirs := -1, "", -1
	for i, e := range env {
		name, value, _ := strings.Cut(e, "=")
		switch name {
		case "TERM":
			term = i
		case "TERMINFO":
			own = value
		case "TERMINFO_DIRS":
			dirs = i
		}
	}
	if term < 0 {
		return env
	}
	name := strings.TrimPrefix(env[term], "TERM=")
	if !wire.TerminfoName(name) || hasTerminfo(files, name, append([]string{own}, distroTerminfo...)) {
		return env
	}
	if !wire.IsTerminfo(entry) || !keepTerminfo(files, name, entry) {
		if hasTerminfo(files, fallbackTerm, distroTerminfo) {
			env[term] = "TERM=" + fallbackTerm
		}
		return env
	}
	// The empty one at the end stands for what ncurses has built in.
	if dirs < 0 {
		return append(env, "TERMINFO_DIRS="+stileTerminfo+":")
	}
	env[dirs] += ":" + stileTerminfo + ":"
	return env
}

// hasTerminfo reports whether one of the folders has an entry.
func hasTerminfo(files users.Files, name string, dirs []string) bool {
	for _, dir := range dirs {
		if dir == "" || dir[0] != '/' {
			continue
		}
		if f, err := files(dir+"/"+name[:1]+"/"+name, unix.O_PATH, 0); err == nil {
			f.Close()
			return true
		}
	}
	return false
}

// terminfoMu is held while an entry is written: sessions come at once.
var terminfoMu sync.Mutex

// keepTerminfo sees to it that stile's folder has an entry.
func keepTerminfo(files users.Files, name string, entry []byte) bool {
	if len(entry) > wire.MaxTerminfo {
		return false
	}
	terminfoMu.Lock()
	defer terminfoMu.Unlock()
	sub := stileTerminfo + "/" + name[:1]
	path := sub + "/" + name
	if old, err := files(path, os.O_RDONLY, 0); err == nil {
		b := make([]byte, wire.MaxTerminfo+1)
		n, _ := old.ReadAt(b, 0)
		old.Close()
		if string(b[:n]) == string(entry) {
			return true
		}
	}
	dir, err := makeFolder(files, "/run/stile", "terminfo", name[:1])
	if err != nil {
		return false
	}
	defer dir.Close()
	temporary := "." + name // names have no dot at their beginning
	f, err := files(sub+"/"+temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return false
	}
	_, err = f.Write(entry)
	f.Close()
	return err == nil && unix.Renameat(int(dir.Fd()), temporary, int(dir.Fd()), name) == nil
}

// makeFolder opens the folder base/NAME/NAME, which it makes where it lacks.
func makeFolder(files users.Files, base string, names ...string) (*os.File, error) {
	dir, err := files(base, unix.O_PATH|unix.O_DIRECTORY, 0)
	for _, name := range names {
		if err != nil {
			return nil, err
		}
		unix.Mkdirat(int(dir.Fd()), name, 0o755) // if it is not there then, opening it fails
		dir.Close()
		base += "/" + name
		dir, err = files(base, unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	return dir, err
}
