package fileserver

import (
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// CachedTimeouts are the timeouts for a guest kernel that has stile's patches
// (SetCached): its caches are dropped at once where a command crosses the
// fence, and attributes are checked at each open, so that a timeout only says
// how soon a process that runs all the while sees what the host did. They are
// those of virtiofsd's cache=auto.
var CachedTimeouts = [3]time.Duration{time.Second, time.Second, time.Second}

const (
	entryTimeout = iota
	attrTimeout
	negativeTimeout
)

// SetCached says whether the guest's kernel drops its caches when a command
// starts: then names and attributes are given out with CachedTimeouts, or those
// of Options where they are longer. The device finds out from FUSE_INIT.
func (s *Server) SetCached(on bool) { s.setTimeouts(on) }

func (s *Server) setTimeouts(cached bool) {
	t := [3]time.Duration{s.opts.EntryTimeout, s.opts.AttrTimeout, s.opts.NegativeTimeout}
	if cached {
		for i := range t {
			t[i] = max(t[i], CachedTimeouts[i])
		}
	}
	s.mu.Lock()
	s.timeouts = t
	s.mu.Unlock()
	s.cached.Store(cached)
}

func (s *Server) timeout(which int) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.timeouts[which]
}

// A version tells one state of a file's content from another.
type version struct {
	ctime, mtime int64
	size         uint64
	racy         bool // sampled so soon after the change that a later one could look the same
}

// racyWindow is longer than the tick with which any kernel stamps files.
const racyWindow = 20 * time.Millisecond

func versionOf(st *unix.Statx_t) version {
	v := version{
		ctime: st.Ctime.Sec*1e9 + int64(st.Ctime.Nsec),
		mtime: st.Mtime.Sec*1e9 + int64(st.Mtime.Nsec),
		size:  st.Size,
	}
	v.racy = time.Now().UnixNano()-v.ctime < int64(racyWindow)
	return v
}

// unchanged reports that content sampled as v is what a sample w shows.
func (v version) unchanged(w version) bool {
	return !v.racy && v.ctime == w.ctime && v.mtime == w.mtime && v.size == w.size
}

// tell notes what the guest is about to be told.
func (s *Server) tell(n *node, st *unix.Statx_t) {
	if !n.isRegular() {
		return
	}
	v := versionOf(st)
	s.mu.Lock()
	n.told = v
	s.mu.Unlock()
}

func (s *Server) fillAttr(a *fuse.Attr, st *unix.Statx_t) {
	*a = fuse.Attr{
		Ino:       s.inodes.number(devOf(st), st.Ino),
		Size:      st.Size,
		Blocks:    st.Blocks,
		Atime:     uint64(st.Atime.Sec),
		Mtime:     uint64(st.Mtime.Sec),
		Ctime:     uint64(st.Ctime.Sec),
		Atimensec: st.Atime.Nsec,
		Mtimensec: st.Mtime.Nsec,
		Ctimensec: st.Ctime.Nsec,
		Mode:      uint32(st.Mode),
		Nlink:     st.Nlink,
		Owner:     fuse.Owner{Uid: st.Uid, Gid: st.Gid},
		Rdev:      uint32(unix.Mkdev(st.Rdev_major, st.Rdev_minor)),
		Blksize:   st.Blksize,
	}
}

// inodeNumbers gives each inode of several file systems a number of its own
// among all of them. The first file system keeps its numbers, and the others
// their low 48 bits: git's index records 32 of them, and both sides share it.
type inodeNumbers struct {
	mu    sync.Mutex
	devs  map[uint64]uint64
	odd   map[[2]uint64]uint64 // those that do not fit
	nextN uint64
}

const (
	inodeBits    = 48
	oddInode     = 1 << 63
	syntheticIno = 1<<62 | 1 // the root's
)

func (t *inodeNumbers) number(dev, ino uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.devs == nil {
		t.devs = make(map[uint64]uint64)
		t.odd = make(map[[2]uint64]uint64)
	}
	i, ok := t.devs[dev]
	if !ok {
		i = uint64(len(t.devs))
		t.devs[dev] = i
	}
	if ino>>inodeBits == 0 && i < 1<<14 {
		return i<<inodeBits | ino
	}
	k := [2]uint64{dev, ino}
	n, ok := t.odd[k]
	if !ok {
		t.nextN++
		n = oddInode | t.nextN
		t.odd[k] = n
	}
	return n
}

// stat reads the attributes of n, from a handle where the guest named one.
func (s *Server) stat(id uint64, fh uint64, hasFH bool, st *unix.Statx_t) (*node, syscall.Errno) {
	if hasFH {
		if h := s.holdHandle(fh); h != nil {
			defer s.dropHandle(h)
			if h.node.id == id {
				n, errno := s.holdLazily(id)
				if errno == 0 {
					errno = statx(h.fd, "", st)
				}
				return n, errno
			}
		}
	}
	n, errno := s.holdLazily(id)
	if errno != 0 {
		return nil, errno
	}
	// A node without a descriptor is looked at where it was last seen.
	s.mu.Lock()
	parent, name := n.parent, n.name
	if n.fd < 0 && parent != nil && parent.fd >= 0 {
		parent.users++
	} else {
		parent = nil
	}
	s.mu.Unlock()
	if parent != nil {
		errno = statx(parent.fd, name, st)
		s.drop(parent)
		if errno == 0 && n.same(st) {
			return n, 0
		}
	}
	if errno = s.ensureFD(n, 0); errno == 0 {
		errno = statx(n.fd, "", st)
	}
	return n, errno
}

// GetAttr reads attributes.
func (s *Server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		s.rootAttr(&out.Attr)
		return fuse.OK
	}
	var st unix.Statx_t
	n, errno := s.stat(in.NodeId, in.Fh(), in.Flags()&fuse.FUSE_GETATTR_FH != 0, &st)
	if n != nil {
		defer s.drop(n)
	}
	if errno != 0 {
		return status(errno)
	}
	s.attrOut(n, &st, out)
	return fuse.OK
}

func (s *Server) attrOut(n *node, st *unix.Statx_t, out *fuse.AttrOut) {
	s.fillAttr(&out.Attr, st)
	out.SetTimeout(s.timeout(attrTimeout))
	s.tell(n, st)
}

// Statx reads attributes with the time of birth.
func (s *Server) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		var a fuse.Attr
		s.rootAttr(&a)
		out.Statx = fuse.Statx{Mask: unix.STATX_BASIC_STATS, Mode: uint16(a.Mode), Nlink: a.Nlink,
			Ino: a.Ino, Blksize: a.Blksize}
		return fuse.OK
	}
	var st unix.Statx_t
	n, errno := s.stat(in.NodeId, in.Fh, in.GetattrFlags&fuse.FUSE_GETATTR_FH != 0, &st)
	if n != nil {
		defer s.drop(n)
	}
	if errno != 0 {
		return status(errno)
	}
	out.FromStatx(&st)
	out.Statx.Ino = s.inodes.number(devOf(&st), st.Ino)
	out.Mask &= statxMask &^ unix.STATX_MNT_ID
	// The device is the guest's to say, and a mount point on the host is
	// none there.
	out.DevMajor, out.DevMinor = 0, 0
	out.Attributes &^= unix.STATX_ATTR_MOUNT_ROOT | unix.STATX_ATTR_AUTOMOUNT
	out.SetTimeout(s.timeout(attrTimeout))
	s.tell(n, &st)
	return fuse.OK
}

// SetAttr changes mode, owner, size and times.
func (s *Server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		return fuse.EROFS
	}
	n, errno := s.hold(in.NodeId)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(n)
	if n.readOnly {
		return fuse.EROFS
	}
	if errno := s.setAttr(n, in); errno != 0 {
		return status(errno)
	}
	var st unix.Statx_t
	if errno := statx(n.fd, "", &st); errno != 0 {
		return status(errno)
	}
	s.attrOut(n, &st, out)
	return fuse.OK
}

// setAttr does the parts in the order of the kernel's own callers: the size
// last but for the times, so that an explicit time is not overwritten by the
// truncation, and the owner before the mode, because chown clears set-id bits.
func (s *Server) setAttr(n *node, in *fuse.SetAttrIn) syscall.Errno {
	uid, hasUID := in.GetUID()
	gid, hasGID := in.GetGID()
	if hasUID || hasGID {
		errno := retry(func() error {
			return unix.Fchownat(n.fd, "", chownID(uid, hasUID), chownID(gid, hasGID), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
		})
		if errno != 0 {
			return errno
		}
	}
	if mode, ok := in.GetMode(); ok {
		if errno := s.chmod(n.fd, mode); errno != 0 {
			return errno
		}
	}
	if size, ok := in.GetSize(); ok {
		if errno := s.truncate(n, in, size); errno != 0 {
			return errno
		}
	}
	if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		if errno := s.killSetID(n); errno != 0 {
			return errno
		}
	}
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		return s.setTimes(n, in)
	}
	return 0
}

func chownID(id uint32, has bool) int {
	if !has {
		return -1
	}
	return int(id)
}

// chmod changes the mode of what an O_PATH descriptor stands for. The magic
// link leads to the inode itself, also when that is a symlink, which the
// kernel then refuses.
func (s *Server) chmod(fd int, mode uint32) syscall.Errno {
	name := fdName(fd)
	return retry(func() error { return unix.Fchmodat(s.procFD, name, mode, 0) })
}

func (s *Server) truncate(n *node, in *fuse.SetAttrIn, size uint64) syscall.Errno {
	if size > 1<<63-1 {
		return unix.EFBIG
	}
	if fh, ok := in.GetFh(); ok {
		if h := s.holdHandle(fh); h != nil {
			defer s.dropHandle(h)
			if h.node == n && h.writable {
				return retry(func() error { return unix.Ftruncate(h.fd, int64(size)) })
			}
		}
	}
	if !n.isRegular() {
		return unix.EINVAL
	}
	fd, errno := s.reopen(n.fd, unix.O_WRONLY|unix.O_NONBLOCK)
	if errno != 0 {
		return errno
	}
	defer unix.Close(fd)
	return retry(func() error { return unix.Ftruncate(fd, int64(size)) })
}

func (s *Server) setTimes(n *node, in *fuse.SetAttrIn) syscall.Errno {
	ts := [2]unix.Timespec{
		timespec(in.Valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		timespec(in.Valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
	}
	return retry(func() error { return unix.UtimesNanoAt(n.fd, "", ts[:], unix.AT_EMPTY_PATH) })
}

func timespec(valid, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}

// killSetID clears what a write by someone without CAP_FSETID clears. The
// host's kernel does it by itself when the server is a plain user.
func (s *Server) killSetID(n *node) syscall.Errno {
	if !s.asRoot || !n.isRegular() {
		return 0
	}
	var st unix.Statx_t
	if errno := statx(n.fd, "", &st); errno != 0 {
		return errno
	}
	mode := uint32(st.Mode)
	kill := mode & unix.S_ISUID
	if mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP {
		kill |= unix.S_ISGID
	}
	if kill == 0 {
		return 0
	}
	return s.chmod(n.fd, mode&07777&^kill)
}
