package fileserver

import (
	"strings"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	maxXattrName  = 255       // XATTR_NAME_MAX
	maxXattrValue = 64 << 10  // XATTR_SIZE_MAX
	maxXattrList  = 64 << 10  // XATTR_LIST_MAX
	aclPrefix     = "system." // POSIX ACLs: not between kernels that map ids differently
)

// xattrName makes the C string of an attribute's name.
func xattrName(name string) (*byte, syscall.Errno) {
	switch {
	case name == "" || len(name) > maxXattrName:
		return nil, unix.ERANGE
	case strings.HasPrefix(name, aclPrefix):
		return nil, unix.EOPNOTSUPP
	}
	p, err := unix.BytePtrFromString(name)
	return p, errnoOf(err)
}

// withXattrs runs f with the path of a node in /proc. There is no call that
// takes an O_PATH descriptor before Linux 6.13 (getxattrat), and the magic
// link leads to the inode itself, also when that is a symlink.
func (s *Server) withXattrs(id uint64, f func(n *node, path *byte) syscall.Errno) syscall.Errno {
	if id == fuse.FUSE_ROOT_ID {
		return unix.EOPNOTSUPP
	}
	n, errno := s.hold(id)
	if errno != 0 {
		return errno
	}
	defer s.drop(n)
	path, err := unix.BytePtrFromString("/proc/self/fd/" + fdName(n.fd))
	if err != nil {
		return errnoOf(err)
	}
	return f(n, path)
}

func xattrCall(call uintptr, path, name *byte, value []byte, flags uintptr) (int, syscall.Errno) {
	var p unsafe.Pointer
	if len(value) > 0 {
		p = unsafe.Pointer(&value[0])
	}
	r, _, errno := unix.Syscall6(call, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(name)),
		uintptr(p), uintptr(len(value)), flags, 0) // the kernel fills or reads value
	return int(r), errno
}

// GetXAttr reads an extended attribute, or its size when dest is empty.
func (s *Server) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	name, errno := xattrName(attr)
	if errno != 0 {
		return 0, status(errno)
	}
	var n int
	errno = s.withXattrs(in.NodeId, func(_ *node, path *byte) (e syscall.Errno) {
		n, e = xattrCall(unix.SYS_GETXATTR, path, name, dest[:min(len(dest), maxXattrValue)], 0)
		return e
	})
	return uint32(n), status(errno)
}

// ListXAttr lists the names of extended attributes, without those that are not
// served.
func (s *Server) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	var list []byte
	errno := s.withXattrs(in.NodeId, func(_ *node, path *byte) syscall.Errno {
		buf := make([]byte, 1024)
		for {
			n, _, e := unix.Syscall(unix.SYS_LISTXATTR, uintptr(unsafe.Pointer(path)),
				uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf))) // the kernel fills buf
			if e == unix.ERANGE && len(buf) < maxXattrList {
				buf = make([]byte, maxXattrList)
				continue
			}
			list = buf[:n*b2u(e == 0)]
			return e
		}
	})
	if errno != 0 {
		return 0, status(errno)
	}
	kept := list[:0]
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name != "" && !strings.HasPrefix(name, aclPrefix) {
			kept = append(append(kept, name...), 0)
		}
	}
	if len(dest) > 0 && len(kept) > len(dest) {
		return uint32(len(kept)), fuse.ERANGE
	}
	copy(dest, kept)
	return uint32(len(kept)), fuse.OK
}

func b2u(b bool) uintptr {
	if b {
		return 1
	}
	return 0
}

// SetXAttr writes an extended attribute.
func (s *Server) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	name, errno := xattrName(attr)
	if errno != 0 {
		return status(errno)
	}
	if len(data) > maxXattrValue || int(in.Size) > len(data) {
		return status(unix.E2BIG)
	}
	data = data[:in.Size]
	return status(s.withXattrs(in.NodeId, func(n *node, path *byte) syscall.Errno {
		if n.readOnly {
			return unix.EROFS
		}
		_, e := xattrCall(unix.SYS_SETXATTR, path, name, data, uintptr(in.Flags))
		return e
	}))
}

// RemoveXAttr removes an extended attribute.
func (s *Server) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, attr string) fuse.Status {
	name, errno := xattrName(attr)
	if errno != 0 {
		return status(errno)
	}
	return status(s.withXattrs(in.NodeId, func(n *node, path *byte) syscall.Errno {
		if n.readOnly {
			return unix.EROFS
		}
		_, _, e := unix.Syscall(unix.SYS_REMOVEXATTR, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(name)), 0)
		return e
	}))
}
