package fileserver

import (
	"strconv"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func fdName(fd int) string { return strconv.Itoa(fd) }

// keyOf is the key of what st describes, seen in parent.
func (s *Server) keyOf(parent *node, st *unix.Statx_t) key {
	k := key{share: parent.share, readOnly: parent.readOnly, dev: devOf(st), ino: st.Ino, btime: btimeOf(st)}
	if !k.readOnly && uint32(st.Mode)&unix.S_IFMT == unix.S_IFDIR {
		s.mu.Lock()
		k.readOnly = s.readOnlyRoot(k.dev, k.ino)
		s.mu.Unlock()
	}
	return k
}

// child is the node of name in parent, which st describes, with one more lookup
// counted. It says ENOENT of what is hidden.
func (s *Server) child(parent *node, name string, st *unix.Statx_t) (*node, syscall.Errno) {
	if s.hidden.hides(st) {
		return nil, unix.ENOENT
	}
	if n := s.known(s.keyOf(parent, st), parent, name); n != nil {
		return n, 0
	}
	fd := -1
	if uint32(st.Mode)&unix.S_IFMT == unix.S_IFDIR || crosses(parent, st) {
		var errno syscall.Errno
		if fd, errno = openPath(parent.fd, name); errno != 0 {
			return nil, errno
		}
		// From here on the descriptor says what it is, not the name.
		if errno = statx(fd, "", st); errno == 0 {
			if s.hidden.hides(st) {
				errno = unix.ENOENT
			} else if crosses(parent, st) && kernelWindow(fd) {
				errno = unix.EACCES
			}
		}
		if errno != 0 {
			unix.Close(fd)
			return nil, errno
		}
	}
	return s.add(s.keyOf(parent, st), uint32(st.Mode)&unix.S_IFMT, fd, parent, name), 0
}

// crosses reports that what st describes is on another mount than its parent.
func crosses(parent *node, st *unix.Statx_t) bool {
	return devOf(st) != parent.dev || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

func (s *Server) entryOut(n *node, st *unix.Statx_t, out *fuse.EntryOut) {
	out.NodeId = n.id
	out.Generation = 1
	out.SetEntryTimeout(s.timeout(entryTimeout))
	out.SetAttrTimeout(s.timeout(attrTimeout))
	s.fillAttr(&out.Attr, st)
	s.tell(n, st)
}

// lookup answers with the node of name in parent.
func (s *Server) lookup(parent *node, name string, out *fuse.EntryOut) syscall.Errno {
	var st unix.Statx_t
	if errno := statx(parent.fd, name, &st); errno != 0 {
		return errno
	}
	n, errno := s.child(parent, name, &st)
	if errno != 0 {
		return errno
	}
	s.entryOut(n, &st, out)
	return 0
}

// Lookup finds a name.
func (s *Server) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		return s.lookupShare(name, out)
	}
	if errno := checkName(name); errno != 0 {
		return status(errno)
	}
	parent, errno := s.holdDir(in.NodeId)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(parent)
	errno = s.lookup(parent, name, out)
	if errno == unix.ENOENT {
		if t := s.timeout(negativeTimeout); t > 0 {
			*out = fuse.EntryOut{} // node 0: the name's absence, to be kept
			out.SetEntryTimeout(t)
			return fuse.OK
		}
	}
	return status(errno)
}

// holdForChange is holdDir for a request that makes, moves or removes name.
func (s *Server) holdForChange(id uint64, name string) (*node, syscall.Errno) {
	if id == fuse.FUSE_ROOT_ID {
		return nil, unix.EROFS
	}
	if errno := checkName(name); errno != 0 {
		return nil, errno
	}
	parent, errno := s.holdDir(id)
	if errno == 0 && parent.readOnly {
		s.drop(parent)
		return nil, unix.EROFS
	}
	return parent, errno
}

// make runs f in the directory that in names, as the caller, and answers with
// what f made as name. The mode is corrected where this process's umask took
// something away.
func (s *Server) make(in *fuse.InHeader, name string, mode uint32, out *fuse.EntryOut, f func(dir int) error) fuse.Status {
	parent, errno := s.holdForChange(in.NodeId, name)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(parent)
	if errno := s.as(in, func() syscall.Errno { return retry(func() error { return f(parent.fd) }) }); errno != 0 {
		return status(errno)
	}
	if errno := s.lookup(parent, name, out); errno != 0 {
		return status(errno)
	}
	if mode&s.umask != 0 {
		if n, errno := s.hold(out.NodeId); errno == 0 {
			s.chmod(n.fd, out.Attr.Mode&07777|mode&s.umask&0777)
			out.Attr.Mode |= mode & s.umask & 0777
			s.drop(n)
		}
	}
	return fuse.OK
}

// Mkdir makes a directory.
func (s *Server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.make(&in.InHeader, name, in.Mode, out, func(dir int) error {
		return unix.Mkdirat(dir, name, in.Mode&07777)
	})
}

// Mknod makes a FIFO, a socket or a regular file. Devices are refused but for
// overlayfs's whiteout: a device node that a guest made would be one for
// everyone on the host.
func (s *Server) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	switch in.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFCHR:
		if in.Rdev != 0 {
			return fuse.EPERM
		}
	case unix.S_IFBLK:
		return fuse.EPERM
	default:
		return fuse.EINVAL
	}
	return s.make(&in.InHeader, name, in.Mode, out, func(dir int) error {
		return unix.Mknodat(dir, name, in.Mode, 0)
	})
}

// Symlink makes a symlink. Its text is the guest's: nothing here follows it.
func (s *Server) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return s.make(in, name, 0, out, func(dir int) error {
		return unix.Symlinkat(target, dir, name)
	})
}

// Readlink reads a symlink's text.
func (s *Server) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		return nil, fuse.EINVAL
	}
	n, errno := s.hold(in.NodeId)
	if errno != 0 {
		return nil, status(errno)
	}
	defer s.drop(n)
	if n.format != unix.S_IFLNK {
		return nil, fuse.EINVAL
	}
	buf := make([]byte, unix.PathMax)
	var got int
	errno = retry(func() (err error) {
		got, err = unix.Readlinkat(n.fd, "", buf)
		return err
	})
	if errno != 0 {
		return nil, status(errno)
	}
	return buf[:got], fuse.OK
}

// Link makes another name of a node.
func (s *Server) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if in.Oldnodeid == fuse.FUSE_ROOT_ID {
		return fuse.EPERM
	}
	old, errno := s.hold(in.Oldnodeid)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(old)
	if old.readOnly {
		return fuse.EROFS
	}
	parent, errno := s.holdForChange(in.NodeId, name)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(parent)
	if parent.share != old.share {
		return fuse.EXDEV
	}
	errno = retry(func() error {
		return unix.Linkat(s.procFD, fdName(old.fd), parent.fd, name, unix.AT_SYMLINK_FOLLOW)
	})
	if errno != 0 {
		return status(errno)
	}
	return status(s.lookup(parent, name, out))
}

// Unlink removes a name that is not a directory.
func (s *Server) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove1(in, name, 0)
}

// Rmdir removes an empty directory.
func (s *Server) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove1(in, name, unix.AT_REMOVEDIR)
}

func (s *Server) remove1(in *fuse.InHeader, name string, flags int) fuse.Status {
	parent, errno := s.holdForChange(in.NodeId, name)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(parent)
	var st unix.Statx_t
	if errno := statx(parent.fd, name, &st); errno != 0 {
		return status(errno)
	}
	if errno := s.mayMove(&st); errno != 0 {
		return status(errno)
	}
	defer s.drop(s.holdMoving(parent, &st))
	return status(retry(func() error { return unix.Unlinkat(parent.fd, name, flags) }))
}

// mayMove says whether the guest may move, replace or remove what st describes:
// not if it is hidden or leads to something hidden, as then it would stand
// elsewhere than the host believes, and not the root of a share.
func (s *Server) mayMove(st *unix.Statx_t) syscall.Errno {
	if s.hidden.hides(st) {
		return unix.EBUSY
	}
	if uint32(st.Mode)&unix.S_IFMT == unix.S_IFDIR {
		if s.hidden.leadsTo(devOf(st), st.Ino) || s.isShareRoot(devOf(st), st.Ino) {
			return unix.EBUSY
		}
	}
	return 0
}

// Rename moves a name, with the flags of renameat2.
func (s *Server) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if in.Flags&^uint32(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 {
		return fuse.EINVAL
	}
	from, errno := s.holdForChange(in.NodeId, oldName)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(from)
	to, errno := s.holdForChange(in.Newdir, newName)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(to)
	if from.share != to.share {
		return fuse.EXDEV
	}
	var old, target unix.Statx_t
	if errno := statx(from.fd, oldName, &old); errno != 0 {
		return status(errno)
	}
	if errno := s.mayMove(&old); errno != 0 {
		return status(errno)
	}
	defer s.drop(s.holdMoving(from, &old))
	errno = statx(to.fd, newName, &target)
	switch {
	case errno == 0 && in.Flags&unix.RENAME_NOREPLACE != 0:
		return status(unix.EEXIST)
	case errno == 0:
		if errno := s.mayMove(&target); errno != 0 {
			return status(errno)
		}
		defer s.drop(s.holdMoving(to, &target))
	case errno != unix.ENOENT:
		return status(errno)
	}
	errno = retry(func() error {
		return unix.Renameat2(from.fd, oldName, to.fd, newName, uint(in.Flags))
	})
	if errno != 0 {
		return status(errno)
	}
	s.moved(s.keyOf(from, &old), to, newName)
	if in.Flags&unix.RENAME_EXCHANGE != 0 {
		s.moved(s.keyOf(to, &target), from, oldName)
	}
	return fuse.OK
}

// StatFs describes the file system that holds a node.
func (s *Server) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		out.Bsize, out.Frsize, out.NameLen = 4096, 4096, maxName
		return fuse.OK
	}
	n, errno := s.hold(in.NodeId)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(n)
	var fs syscall.Statfs_t
	errno = retry(func() error { return syscall.Fstatfs(n.fd, &fs) })
	if errno == 0 {
		out.FromStatfsT(&fs)
	}
	return status(errno)
}

// Access checks permissions as the server's own user. A guest that mounts with
// default_permissions, as virtio-fs does, never asks.
func (s *Server) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		if in.Mask&unix.W_OK != 0 {
			return fuse.EROFS
		}
		return fuse.OK
	}
	n, errno := s.hold(in.NodeId)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(n)
	if n.readOnly && in.Mask&unix.W_OK != 0 {
		return fuse.EROFS
	}
	name := fdName(n.fd)
	return status(retry(func() error { return unix.Faccessat(s.procFD, name, in.Mask&7, 0) }))
}
