package fileserver

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// as runs f, which makes something, with the owner that the request names. Only
// root can do that; a plain user makes things of its own.
//
// The file-system ids belong to the thread. Leaving uid 0 takes the
// capabilities over files from the effective set, so CAP_DAC_OVERRIDE and its
// kin are raised again: who may make something where was the guest kernel's to
// decide, which alone knows the caller's groups.
func (s *Server) as(in *fuse.InHeader, f func() syscall.Errno) syscall.Errno {
	if !s.asRoot || in.Uid == s.euid && in.Gid == s.egid {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	caps, err := capGet()
	if err != nil {
		return errnoOf(err)
	}
	defer func() {
		setFSID(unix.SYS_SETFSUID, s.euid)
		setFSID(unix.SYS_SETFSGID, s.egid)
		if capSet(caps) != nil {
			// A thread with the wrong rights must not run anything
			// else: locked once more it ends with its goroutine.
			runtime.LockOSThread()
		}
	}()
	if !setFSID(unix.SYS_SETFSGID, in.Gid) || !setFSID(unix.SYS_SETFSUID, in.Uid) {
		return unix.EPERM
	}
	if err := capSet(caps); err != nil {
		return errnoOf(err)
	}
	return f()
}

// setFSID sets a file-system id of this thread, and reports whether it took:
// the call itself returns the old id, never an error.
func setFSID(call uintptr, id uint32) bool {
	unix.RawSyscall(call, uintptr(id), 0, 0)
	now, _, _ := unix.RawSyscall(call, ^uintptr(0), 0, 0)
	return uint32(now) == id
}

type caps [2]unix.CapUserData

func capHeader() unix.CapUserHeader {
	return unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // pid 0: this thread
}

func capGet() (c caps, err error) {
	h := capHeader()
	_, _, errno := unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&c[0])), 0) // filled by the kernel
	if errno != 0 {
		err = errno
	}
	return c, err
}

func capSet(c caps) error {
	h := capHeader()
	_, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&c[0])), 0) // read by the kernel
	if errno != 0 {
		return errno
	}
	return nil
}

// processUmask reads the umask without changing it, which all threads share.
// Where /proc does not say, the usual one is assumed: correcting a mode that
// needs no correction does no harm.
func processUmask() uint32 {
	text, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if v, ok := strings.CutPrefix(line, "Umask:"); ok {
				if m, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32); err == nil {
					return uint32(m)
				}
			}
		}
	}
	return 0o022
}
