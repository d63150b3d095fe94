package main

import (
	"syscall"

	"github.com/stilehq/stile/interop/early"
	"github.com/stilehq/stile/interop/wire"
)

// describe describes the descriptors that the caller has left open, and lists those
// that go with the request.
func (s *session) describe() (table []wire.Descriptor, attached []int) {
	fds := append([]int{0, 1, 2}, more()...)
	stats := make([]syscall.Stat_t, len(fds))
	for _, fd := range fds {
		st := &stats[len(table)]
		d := wire.Descriptor{Number: uint32(fd), Kind: wire.KindClosed}
		flags, open := 0, fd > 2 || early.Open(fd)
		if open {
			flags, open = getFlags(fd)
		}
		if open = open && syscall.Fstat(fd, st) == nil; open {
			d.Kind = s.kind(fd, st)
			d.Access = access(fd, flags, d.Kind)
		}
		if fd > 2 && (!open || !passes(d.Kind, flags)) || len(table) == wire.MaxDescriptors {
			continue
		}
		for i, e := range table {
			if open && e.SameAs == 0 && e.Kind == d.Kind && e.Access == d.Access &&
				stats[i].Dev == st.Dev && stats[i].Ino == st.Ino && sameFile(int(e.Number), fd, d.Kind) {
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

// more lists the descriptors above 2 that the shim was started with, as far as
// /proc tells. Its own are closed by execve(2), which those never were.
func more() (fds []int) {
	dir, err := syscall.Open("/proc/self/fd", syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer syscall.Close(dir)
	var b [2048]byte
	var names []string
	for {
		n, err := syscall.ReadDirent(dir, b[:])
		if err != nil || n <= 0 {
			break
		}
		_, _, names = syscall.ParseDirent(b[:n], -1, names)
	}
	for _, name := range names {
		fd, ok := number(name)
		if !ok || fd <= 2 || fd > wire.MaxNumber {
			continue
		}
		if flags, err := fcntl(fd, syscall.F_GETFD, 0); err == nil && flags&syscall.FD_CLOEXEC == 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}

// passes reports whether a descriptor above 2 is passed on: what a shell opens for
// its commands. A socket would have to be read ahead, and whoever left it open for
// no reason would lose what arrives.
func passes(kind wire.Kind, flags int) bool {
	switch kind {
	case wire.KindPipe, wire.KindFile, wire.KindNull, wire.KindTerminal:
		return flags&oPath == 0
	}
	return false
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
