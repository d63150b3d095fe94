package main

import (
	"syscall"

	"github.com/stilehq/stile/interop/early"
	"github.com/stilehq/stile/interop/wire"
)

// The resource limits that the guest command gets. RLIMIT_AS and RLIMIT_DATA are
// not among them: the shim itself could not live in what suits a small command,
// so that they never arrive here whole.
var limits = [...]int{rlimitCPU, rlimitFSize, rlimitStack, rlimitCore, rlimitNoFile}

// request builds the request, and the descriptors that go with it.
func (s *session) request() (*wire.Run, []int, *wire.Error) {
	c := s.call
	run := &wire.Run{
		Version: wire.Version, Distro: c.Distro, Argv: c.argv, Path: c.path, Env: early.Env(),
		CwdFallback: c.CwdFallback, User: c.User, Login: c.Login,
		Ignored: early.Ignored(), Blocked: early.Blocked(), Priority: priority(),
		Cwd: c.Cd,
	}
	for _, e := range c.Env {
		run.Env = replace(run.Env, e)
	}
	if run.Cwd == "" {
		cwd, err := workingDirectory()
		if err != nil && !c.CwdFallback {
			return nil, nil, &wire.Error{Code: 125, What: "current folder", Why: err.Error(), Hint: "cd to a folder that exists"}
		}
		run.Cwd = cwd
	}
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	run.Umask = uint32(mask)
	for _, r := range limits {
		l := wire.Limit{Resource: uint32(r)}
		if r == rlimitNoFile {
			l.Soft, l.Max = early.Files()
		} else if !getLimit(r, &l) {
			continue
		}
		run.Limits = append(run.Limits, l)
	}
	var descriptors []int
	run.Table, descriptors = s.describe()
	if s.terminal.fd >= 0 {
		run.Terminal = s.terminal.state()
		descriptors = append(descriptors, s.terminal.fd)
	}
	return run, descriptors, nil
}

// replace puts e, NAME=VALUE, in the place of the variable in env, or at its end.
func replace(env []string, e string) []string {
	n := 0
	for n < len(e) && e[n] != '=' {
		n++
	}
	kept := env[:0:0]
	for _, old := range env {
		if len(old) > n && old[n] == '=' && old[:n] == e[:n] {
			continue
		}
		kept = append(kept, old)
	}
	return append(kept, e)
}

// workingDirectory is the working directory as the calling shell sees it: $PWD
// where that is the same folder, for it keeps the symlinks on the way.
func workingDirectory() (string, error) {
	var here, there syscall.Stat_t
	if err := syscall.Stat(".", &here); err != nil {
		return "", err
	}
	for _, e := range early.Env() {
		if !cut(&e, "PWD=") || len(e) == 0 || e[0] != '/' {
			continue
		}
		if syscall.Stat(e, &there) == nil && here.Dev == there.Dev && here.Ino == there.Ino {
			return e, nil
		}
		break
	}
	var b [4096]byte
	n, err := syscall.Getcwd(b[:])
	if err != nil {
		return "", err // ENOENT: it was deleted
	}
	if b[0] != '/' {
		return "", syscall.ENOENT // "(unreachable)": outside of this root
	}
	return string(b[:n-1]), nil
}

// describe describes descriptors 0 to 2, and lists those that go with the request.
func (s *session) describe() (table []wire.Descriptor, attached []int) {
	var stats [3]syscall.Stat_t
	for fd := range 3 {
		d := wire.Descriptor{Number: uint32(fd), Kind: wire.KindClosed}
		flags, open := 0, early.Open(fd)
		if open {
			flags, open = getFlags(fd)
		}
		if !open || syscall.Fstat(fd, &stats[fd]) != nil {
			table = append(table, d)
			continue
		}
		d.Kind = s.kind(fd, &stats[fd])
		d.Access = access(fd, flags, d.Kind)
		for i, e := range table {
			if e.SameAs == 0 && e.Kind == d.Kind && e.Access == d.Access &&
				stats[i].Dev == stats[fd].Dev && stats[i].Ino == stats[fd].Ino && sameFile(i, fd, d.Kind) {
				d.SameAs = uint32(i) + 1
				break
			}
		}
		table = append(table, d)
		if d.Attached() {
			attached = append(attached, fd)
		}
	}
	return table, attached
}

// kind tells what an open descriptor is.
func (s *session) kind(fd int, st *syscall.Stat_t) wire.Kind {
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFIFO:
		return wire.KindPipe
	case syscall.S_IFREG, syscall.S_IFBLK:
		return wire.KindFile
	case syscall.S_IFSOCK:
		if t, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE); err == nil && t == syscall.SOCK_STREAM {
			return wire.KindSocket
		}
	case syscall.S_IFCHR:
		switch {
		case st.Rdev == deviceNull:
			return wire.KindNull
		case s.terminal.is(fd, st):
			return wire.KindTerminal
		}
	}
	return wire.KindOther
}

// access tells in which directions a descriptor is used. Of those that would
// take both, only sockets, terminals and /dev/null do: of anything else the
// machine would read what nobody asked it to.
func access(fd, flags int, kind wire.Kind) wire.Access {
	switch flags & syscall.O_ACCMODE {
	case syscall.O_RDONLY:
		return wire.AccessRead
	case syscall.O_WRONLY:
		return wire.AccessWrite
	}
	if kind == wire.KindSocket || kind == wire.KindTerminal || kind == wire.KindNull {
		return wire.AccessRead | wire.AccessWrite
	}
	if fd == 0 {
		return wire.AccessRead
	}
	return wire.AccessWrite
}

// sameFile reports whether two descriptors of one inode are one open file.
func sameFile(a, b int, kind wire.Kind) bool {
	if kind == wire.KindTerminal || kind == wire.KindNull {
		return true // it makes no difference, and is often asked
	}
	if same, known := duplicate(a, b); known {
		return same
	}
	if kind == wire.KindPipe || kind == wire.KindSocket {
		return true // one pipe: it has no offset that could differ
	}
	x, errX := syscall.Seek(a, 0, seekCurrent)
	y, errY := syscall.Seek(b, 0, seekCurrent)
	return errX == nil && errY == nil && x == y && x > 0
}
