package hostcmd

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

const termios2Size = 44

// describe describes the descriptors that the caller has left open.
func (s *session) describe() (table []wire.Descriptor) {
	fds := []int{0, 1, 2}
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		for _, e := range entries {
			fd, err := strconv.Atoi(e.Name())
			if err != nil || fd <= 2 || fd > wire.MaxHostDescriptor {
				continue
			}
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
				fds = append(fds, fd)
			}
		}
	}
	var stats []unix.Stat_t
	for _, fd := range fds {
		var st unix.Stat_t
		d := wire.Descriptor{Number: uint32(fd), Kind: wire.KindClosed}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err == nil && unix.Fstat(fd, &st) == nil {
			d.Kind, d.Access = s.kind(fd, flags, &st)
		}
		// Of what is above 2 what a shell opens for its commands: see package shim.
		switch d.Kind {
		case wire.KindPipe, wire.KindFile, wire.KindNull, wire.KindTerminal:
		default:
			if fd > 2 {
				continue
			}
		}
		if len(table) == wire.MaxDescriptors {
			break
		}
		for i, e := range table {
			if d.Kind != wire.KindClosed && e.SameAs == 0 && e.Kind == d.Kind && e.Access == d.Access &&
				stats[i].Dev == st.Dev && stats[i].Ino == st.Ino && sameFile(int(e.Number), fd, d.Kind) {
				d.SameAs = uint32(i) + 1
				break
			}
		}
		table, stats = append(table, d), append(stats, st)
	}
	return table
}

func (s *session) kind(fd, flags int, st *unix.Stat_t) (wire.Kind, wire.Access) {
	access := wire.AccessRead
	switch {
	case flags&unix.O_ACCMODE == unix.O_WRONLY:
		access = wire.AccessWrite
	case flags&unix.O_ACCMODE == unix.O_RDWR && fd != 0:
		access = wire.AccessWrite // see package shim
	}
	both := access
	if flags&unix.O_ACCMODE == unix.O_RDWR {
		both = wire.AccessRead | wire.AccessWrite
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return wire.KindPipe, access
	case unix.S_IFREG, unix.S_IFBLK:
		return wire.KindFile, access
	case unix.S_IFSOCK:
		if t, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil && t == unix.SOCK_STREAM {
			return wire.KindSocket, both
		}
	case unix.S_IFCHR:
		switch {
		case unix.Major(st.Rdev) == 1 && unix.Minor(st.Rdev) == 3:
			return wire.KindNull, both
		case s.tty >= 0 && st.Rdev == s.ttyDevice:
			return wire.KindTerminal, both
		}
	}
	return wire.KindOther, access
}

// sameFile reports whether two descriptors of one inode are one open file.
func sameFile(a, b int, kind wire.Kind) bool {
	if kind == wire.KindTerminal || kind == wire.KindNull {
		return true // it makes no difference
	}
	pid := uintptr(os.Getpid())
	const kcmpFile = 0
	if r, _, e := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(a), uintptr(b), 0); e == 0 {
		return r == 0
	}
	return kind == wire.KindPipe || kind == wire.KindSocket // no offset that could differ
}

// request builds the request.
func (s *session) request() *wire.Run {
	run := &wire.Run{Version: wire.Version, Argv: s.call.argv, Path: s.call.command, Env: os.Environ(),
		Ignored: s.ignored, Table: s.table}
	// As the kernel has it: with no symbolic link in it, which the host would not follow.
	if cwd, err := unix.Getwd(); err == nil && strings.HasPrefix(cwd, "/") {
		run.Cwd = cwd
	}
	mask := unix.Umask(0)
	unix.Umask(mask)
	run.Umask = uint32(mask)
	if s.tty >= 0 {
		run.Terminal = s.state()
	}
	return run
}

// ignored are the signals that the caller ignores, as far as the runtime has left
// that alone: bit n-1 is signal n.
func ignored() (set uint64) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("SigIgn:")); ok {
			set, _ = strconv.ParseUint(string(bytes.TrimSpace(v)), 16, 64)
		}
	}
	return set
}
