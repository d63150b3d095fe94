package fileserver

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A handle is a file or directory that the guest has open: one open file
// description of the host each, so that flock means the same on both sides.
// node, fd and writable do not change; the rest is guarded by Server.mu.
type handle struct {
	id       uint64
	node     *node
	fd       int
	writable bool
	append   bool // the description has O_APPEND

	users int
	dead  bool // released: closed with its last user
	dirty bool // written since the last flush
	dir   *dirStream
	// owners of POSIX locks that were taken through this handle
	owners map[uint64]struct{}
}

// addHandle takes over fd. It fails with ENFILE beyond the bound on what a
// guest may have open.
func (s *Server) addHandle(h *handle) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.handles) >= s.maxHandle {
		unix.Close(h.fd)
		return unix.ENFILE
	}
	if h.node.gone {
		unix.Close(h.fd)
		return unix.ESTALE
	}
	h.id = s.nextFH
	s.nextFH++
	h.node.opens++
	s.handles[h.id] = h
	return 0
}

// holdHandle finds a handle and keeps it open until dropHandle; nil if there
// is none.
func (s *Server) holdHandle(fh uint64) *handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.handles[fh]
	if h != nil {
		h.users++
	}
	return h
}

func (s *Server) dropHandle(h *handle) {
	s.mu.Lock()
	h.users--
	last := h.dead && h.users == 0
	s.mu.Unlock()
	if last {
		unix.Close(h.fd)
	}
}

// release ends a handle.
func (s *Server) release(fh uint64) {
	s.mu.Lock()
	h := s.handles[fh]
	if h == nil {
		s.mu.Unlock()
		return
	}
	delete(s.handles, fh)
	h.dead = true
	var fds []int
	if h.users == 0 {
		fds = append(fds, h.fd)
	}
	n := h.node
	if n.opens > 0 {
		n.opens--
	}
	if n.opens == 0 && n.lookups == 0 && n.users == 0 && !n.pinned {
		fds = s.remove(n, fds)
	}
	owners := h.owners
	s.mu.Unlock()
	closeAll(fds)
	for owner := range owners {
		s.locks.release(n, owner)
	}
}

// openFlags are the flags of an open that reach the host's: the access mode.
// O_APPEND, O_SYNC and O_DSYNC are honoured write by write; O_DIRECT is between
// a process and the guest's page cache; O_TRUNC is done apart.
func openFlags(flags uint32) int { return int(flags & unix.O_ACCMODE) }

// openNode opens a regular file. A node of another kind is never opened here:
// a FIFO would block, a device would act; the guest's kernel has its own.
func (s *Server) openNode(n *node, flags uint32) (*handle, syscall.Errno) {
	if !n.isRegular() {
		if n.isDir() {
			return nil, unix.EISDIR
		}
		return nil, unix.ENXIO
	}
	writable := flags&unix.O_ACCMODE != unix.O_RDONLY
	if n.readOnly && (writable || flags&unix.O_TRUNC != 0) {
		return nil, unix.EROFS
	}
	if flags&unix.O_ACCMODE == unix.O_ACCMODE {
		return nil, unix.EINVAL
	}
	h := &handle{node: n, writable: writable}
	var errno syscall.Errno
	h.fd, errno = s.reopen(n.fd, openFlags(flags))
	if errno == unix.EPERM && flags&unix.O_APPEND != 0 {
		// An append-only file (chattr +a) opens with O_APPEND alone.
		h.append = true
		h.fd, errno = s.reopen(n.fd, openFlags(flags)|unix.O_APPEND)
	}
	return h, errno
}

// Open opens a file.
func (s *Server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		return fuse.EISDIR
	}
	n, errno := s.hold(in.NodeId)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(n)
	return status(s.open1(n, in.Flags, in.Mode, out))
}

// flagStale, in OpenOut.OpenFlags, tells a kernel with stile's patches that the
// attributes it holds are no longer the file's; another kernel ignores it, and
// has been given no time to hold them.
const flagStale = 1 << 31

func (s *Server) open1(n *node, flags, openMode uint32, out *fuse.OpenOut) syscall.Errno {
	h, errno := s.openNode(n, flags)
	if errno != 0 {
		return errno
	}
	var st unix.Statx_t
	if errno = statx(h.fd, "", &st); errno == 0 {
		errno = s.hidden.check(&st)
	}
	if errno == 0 && flags&unix.O_TRUNC != 0 {
		errno = s.truncateOpen(h, openMode)
	}
	if errno != 0 {
		unix.Close(h.fd)
		return errno
	}
	now := versionOf(&st)
	if errno := s.addHandle(h); errno != 0 {
		return errno
	}
	s.mu.Lock()
	told := n.told
	s.mu.Unlock()
	out.Fh = h.id
	// Close-to-open: what the guest has cached is good if the file is what
	// the guest was last told it is.
	switch {
	case told.unchanged(now):
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	case s.cached.Load():
		out.OpenFlags |= flagStale
	}
	out.OpenFlags |= noFlush(flags)
	return 0
}

// truncateOpen does O_TRUNC, on what was checked. It needs write permission
// even where the access mode has none (O_RDONLY|O_TRUNC).
func (s *Server) truncateOpen(h *handle, openMode uint32) syscall.Errno {
	fd := h.fd
	if !h.writable {
		var errno syscall.Errno
		if fd, errno = s.reopen(h.node.fd, unix.O_WRONLY); errno != 0 {
			return errno
		}
		defer unix.Close(fd)
	}
	if errno := retry(func() error { return unix.Ftruncate(fd, 0) }); errno != 0 {
		return errno
	}
	if openMode&fuse.OPEN_KILL_SUIDGID != 0 {
		return s.killSetID(h.node)
	}
	return 0
}

// noFlush spares the request at each close of what was opened for reading: it
// has nothing to write back. Its POSIX locks, if it has any, go with the last
// descriptor of the open.
func noFlush(flags uint32) uint32 {
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		return fuse.FOPEN_NOFLUSH
	}
	return 0
}

// Create makes and opens a file, or opens what someone else made meanwhile.
func (s *Server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	parent, errno := s.holdForChange(in.NodeId, name)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(parent)
	if in.Flags&unix.O_ACCMODE == unix.O_ACCMODE {
		return fuse.EINVAL
	}
	// Always O_EXCL first: so nothing that exists is opened before it was
	// looked at.
	fd := -1
	errno = s.as(&in.InHeader, func() (e syscall.Errno) {
		fd, e = openBeneath(parent.fd, name, openFlags(in.Flags)|unix.O_CREAT|unix.O_EXCL, in.Mode&07777)
		return e
	})
	if errno == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
		return status(s.createExisting(parent, in, name, out))
	}
	if errno != 0 {
		return status(errno)
	}
	return status(s.created(parent, name, fd, in, out))
}

// created answers with the new file that fd has open.
func (s *Server) created(parent *node, name string, fd int, in *fuse.CreateIn, out *fuse.CreateOut) (errno syscall.Errno) {
	h := &handle{fd: fd, writable: in.Flags&unix.O_ACCMODE != unix.O_RDONLY}
	path, errno := s.reopen(fd, unix.O_PATH)
	if errno != 0 {
		unix.Close(fd)
		return errno
	}
	if in.Mode&s.umask != 0 {
		unix.Fchmod(fd, in.Mode&07777)
	}
	var st unix.Statx_t
	if errno := statx(fd, "", &st); errno != 0 {
		unix.Close(fd)
		unix.Close(path)
		return errno
	}
	n := s.add(s.keyOf(parent, &st), unix.S_IFREG, path, parent, name)
	h.node = n
	if errno := s.addHandle(h); errno != 0 {
		s.Forget(n.id, 1)
		return errno
	}
	s.entryOut(n, &st, &out.EntryOut)
	out.OpenOut = fuse.OpenOut{Fh: h.id, OpenFlags: noFlush(in.Flags)}
	return 0
}

func (s *Server) createExisting(parent *node, in *fuse.CreateIn, name string, out *fuse.CreateOut) syscall.Errno {
	var st unix.Statx_t
	if errno := statx(parent.fd, name, &st); errno != 0 {
		return lost(errno)
	}
	n, errno := s.child(parent, name, &st)
	if errno == unix.ENOENT {
		return unix.EACCES // it is hidden
	}
	if errno != 0 {
		return errno
	}
	s.mu.Lock()
	n.users++
	s.mu.Unlock()
	defer s.drop(n)
	if errno = s.ensureFD(n, 0); errno == 0 {
		if !n.isRegular() {
			errno = unix.ESTALE // the guest's kernel looks again, and sees what it is
		} else {
			errno = s.open1(n, in.Flags&^(unix.O_CREAT|unix.O_EXCL), in.OpenFlags, &out.OpenOut)
		}
	}
	if errno == 0 {
		if errno = statx(n.fd, "", &st); errno == 0 {
			s.entryOut(n, &st, &out.EntryOut)
			return 0
		}
		s.release(out.Fh)
	}
	s.Forget(n.id, 1)
	return errno
}

// Tmpfile makes a file without a name, which Link can give it.
func (s *Server) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		return fuse.EROFS
	}
	parent, errno := s.holdDir(in.NodeId)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(parent)
	if parent.readOnly {
		return fuse.EROFS
	}
	fd := -1
	errno = s.as(&in.InHeader, func() (e syscall.Errno) {
		fd, e = openBeneath(parent.fd, ".", openFlags(in.Flags)|unix.O_TMPFILE|int(in.Flags&unix.O_EXCL), in.Mode&07777)
		return e
	})
	if errno != 0 {
		return status(errno)
	}
	return status(s.created(parent, "", fd, in, out))
}

// Release closes a file; its flock goes with it.
func (s *Server) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { s.release(in.Fh) }

// Flush is a close of one descriptor: it ends the closer's POSIX locks, and
// reports what a network file system has to say about the writes.
func (s *Server) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h := s.holdHandle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer s.dropHandle(h)
	s.locks.release(h.node, in.LockOwner)
	s.mu.Lock()
	dirty := h.dirty
	h.dirty = false
	s.mu.Unlock()
	if !dirty {
		return fuse.OK
	}
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fuse.OK
	}
	return status(errnoOf(unix.Close(fd)))
}

// Fsync puts a file on the disk.
func (s *Server) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := s.holdHandle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer s.dropHandle(h)
	if in.FsyncFlags&1 != 0 {
		return status(retry(func() error { return unix.Fdatasync(h.fd) }))
	}
	return status(retry(func() error { return unix.Fsync(h.fd) }))
}
