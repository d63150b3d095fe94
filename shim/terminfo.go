package main

import (
	"syscall"

	"github.com/stilehq/stile/interop/wire"
)

// terminfoDirs are where terminfo(5) is looked for when the environment has said
// its own: those of the distributions and of NixOS.
var terminfoDirs = [...]string{"/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo", "/usr/lib/terminfo",
	"/usr/local/share/terminfo", "/run/current-system/sw/share/terminfo"}

// everywhere are the terminals that each distro with terminfo knows: to look for
// their entries would cost every command the time.
var everywhere = [...]string{"dumb", "linux", "xterm", "xterm-256color", "vt100", "vt220"}

// terminfo is the compiled entry of the caller's terminal, for a guest that lacks
// it; "" if the host lacks it too, or if it is one that is everywhere.
func terminfo(env []string) string {
	var term, own, home, dirs string
	for _, e := range env {
		switch {
		case cut(&e, "TERM="):
			term = e
		case cut(&e, "TERMINFO="):
			own = e
		case cut(&e, "HOME="):
			home = e
		case cut(&e, "TERMINFO_DIRS="):
			dirs = e
		}
	}
	for _, name := range everywhere {
		if term == name {
			return ""
		}
	}
	if !wire.TerminfoName(term) {
		return ""
	}
	if own != "" {
		if e := terminfoIn(own, term); e != "" {
			return e
		}
	}
	if home != "" {
		if e := terminfoIn(home+"/.terminfo", term); e != "" {
			return e
		}
	}
	for dirs != "" {
		n := 0
		for n < len(dirs) && dirs[n] != ':' {
			n++
		}
		if e := terminfoIn(dirs[:n], term); e != "" {
			return e
		}
		dirs = dirs[min(n+1, len(dirs)):]
	}
	for _, dir := range terminfoDirs {
		if e := terminfoIn(dir, term); e != "" {
			return e
		}
	}
	return ""
}

// terminfoIn reads an entry of a folder: DIR/x/xterm, or DIR/78/xterm as on file
// systems that do not tell X from x.
func terminfoIn(dir, term string) string {
	if dir == "" || dir[0] != '/' {
		return ""
	}
	const digits = "0123456789abcdef"
	for _, sub := range [...]string{term[:1], string([]byte{digits[term[0]>>4], digits[term[0]&15]})} {
		fd, err := syscall.Open(dir+"/"+sub+"/"+term, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		b := make([]byte, wire.MaxTerminfo+1)
		n, err := syscall.Pread(fd, b, 0)
		syscall.Close(fd)
		if err == nil && n <= wire.MaxTerminfo && wire.IsTerminfo(b[:n]) {
			return string(b[:n])
		}
	}
	return ""
}
