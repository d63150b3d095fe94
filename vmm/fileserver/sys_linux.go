package fileserver

import (
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls on the hot paths, without the allocation of a C string that
// each wrapper of x/sys makes for its name.

// maxName is NAME_MAX: no file system of Linux has longer names.
const maxName = 255

// A cstring is a name ended by a NUL, on the caller's stack.
type cstring [maxName + 1]byte

func (c *cstring) set(name string) {
	c[copy(c[:maxName], name)] = 0
}

// ptr is for the duration of one system call only, hence uintptr at the call.
func (c *cstring) ptr() unsafe.Pointer { return unsafe.Pointer(c) }

const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

// statx fills st for name in dir, or for dir itself when name is empty. It
// follows no symlink and mounts nothing.
func statx(dir int, name string, st *unix.Statx_t) syscall.Errno {
	var c cstring
	c.set(name)
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(c.ptr()),
			unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statxMask,
			uintptr(unsafe.Pointer(st)), 0) // the kernel fills st
		if errno != unix.EINTR {
			return errno
		}
	}
}

// openBeneath opens the single component name in dir: never through a symlink,
// a magic link, or out of dir.
func openBeneath(dir int, name string, flags int, mode uint32) (int, syscall.Errno) {
	var c cstring
	c.set(name)
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT2, uintptr(dir), uintptr(c.ptr()),
			uintptr(unsafe.Pointer(&how)), unix.SizeofOpenHow, 0, 0) // the kernel reads how
		// EAGAIN: a rename or mount somewhere on the host raced with the
		// check of RESOLVE_BENEATH.
		if errno != unix.EINTR && errno != unix.EAGAIN {
			return int(fd), errno
		}
	}
}

// openPath is openBeneath for a descriptor that stands for the node and can
// do nothing else.
func openPath(dir int, name string) (int, syscall.Errno) {
	return openBeneath(dir, name, unix.O_PATH, 0)
}

// reopen opens what fd stands for, through the descriptor of /proc/self/fd:
// the one magic link that is followed, and it leads to an inode that was
// checked.
func (s *Server) reopen(fd, flags int) (int, syscall.Errno) {
	var c cstring
	c[len(strconv.AppendInt(c[:0], int64(fd), 10))] = 0
	for {
		r, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(s.procFD), uintptr(c.ptr()),
			uintptr(flags|unix.O_CLOEXEC|unix.O_NOCTTY), 0, 0, 0)
		if errno != unix.EINTR {
			return int(r), errno
		}
	}
}

// retry runs f until it is not interrupted: Go's own signals interrupt system
// calls, and the guest asked for none of that.
func retry(f func() error) syscall.Errno {
	for {
		if e := errnoOf(f()); e != unix.EINTR {
			return e
		}
	}
}

// errnoOf is the number behind an error of x/sys, EIO for anything else.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	return unix.EIO
}

// iovecs makes the kernel's form of bufs, not longer than IOV_MAX, without an
// allocation for the usual few: into is where they go.
func iovecs(into []unix.Iovec, bufs [][]byte) []unix.Iovec {
	for _, b := range bufs {
		if len(into) == iovMax {
			break
		}
		if len(b) == 0 {
			continue
		}
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		into = append(into, v)
	}
	return into
}

const iovMax = 1024

// preadv and pwritev move bytes between a descriptor and buffers that may be
// guest memory. A call moves less than asked for at the end of a file, when a
// disk is full, or at a signal.
func preadv(fd int, bufs [][]byte, off int64) (int, syscall.Errno) {
	var few [16]unix.Iovec
	iov := iovecs(few[:0], bufs)
	if len(iov) == 0 {
		return 0, 0
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_PREADV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])),
			uintptr(len(iov)), uintptr(off), uintptr(uint64(off)>>32), 0) // the kernel reads iov
		runtime.KeepAlive(bufs)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

func pwritev2(fd int, bufs [][]byte, off int64, flags int) (int, syscall.Errno) {
	var few [16]unix.Iovec
	iov := iovecs(few[:0], bufs)
	if len(iov) == 0 {
		return 0, 0
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])),
			uintptr(len(iov)), uintptr(off), uintptr(uint64(off)>>32), uintptr(flags)) // the kernel reads iov
		runtime.KeepAlive(bufs)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}
