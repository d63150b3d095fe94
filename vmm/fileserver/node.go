package fileserver

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// A key says which inode a node is. The time of birth tells an inode from a
// later one with the same number; it is zero where a file system has none.
type key struct {
	share    *share
	readOnly bool
	dev, ino uint64
	btime    int64
}

func (k key) same(st *unix.Statx_t) bool {
	return k.dev == devOf(st) && k.ino == st.Ino && k.btime == btimeOf(st)
}

func devOf(st *unix.Statx_t) uint64 { return unix.Mkdev(st.Dev_major, st.Dev_minor) }

func btimeOf(st *unix.Statx_t) int64 {
	if st.Mask&unix.STATX_BTIME == 0 {
		return 0
	}
	return st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
}

// A node is an inode that the guest knows. What follows key is guarded by
// Server.mu; fd does not change while users is not zero, except from -1.
type node struct {
	id uint64
	key
	format uint32 // S_IFMT of its mode, which no inode changes

	fd      int // O_PATH, -1 if there is none
	openIdx int // in Server.open, -1 if it is not there
	used    bool
	pinned  bool   // the root of a share
	gone    bool   // removed from the tables
	lookups uint64 // that the guest has not forgotten
	users   int    // requests at work on it
	opens   int    // handles
	parent  *node  // where it was last seen
	name    string

	// told is what the guest was last told about the file's content, to
	// know at open whether its cache is still good.
	told version
}

func (n *node) isDir() bool     { return n.format == unix.S_IFDIR }
func (n *node) isRegular() bool { return n.format == unix.S_IFREG }

// hold finds the node of a request and keeps it, with a descriptor, until drop.
func (s *Server) hold(id uint64) (*node, syscall.Errno) {
	n, errno := s.holdLazily(id)
	if errno != 0 {
		return nil, errno
	}
	if errno := s.ensureFD(n, 0); errno != 0 {
		s.drop(n)
		return nil, errno
	}
	return n, 0
}

// holdDir is hold for a directory of a share.
func (s *Server) holdDir(id uint64) (*node, syscall.Errno) {
	n, errno := s.hold(id)
	if errno == 0 && !n.isDir() {
		s.drop(n)
		return nil, unix.ENOTDIR
	}
	return n, errno
}

// holdLazily is hold without the promise of a descriptor.
func (s *Server) holdLazily(id uint64) (*node, syscall.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[id]
	if n == nil {
		return nil, unix.ESTALE
	}
	n.users++
	n.used = true
	return n, 0
}

// maxDepth bounds the walk up to a directory that has a descriptor.
const maxDepth = 512

// ensureFD gives n, which is held, a descriptor.
func (s *Server) ensureFD(n *node, depth int) syscall.Errno {
	s.mu.Lock()
	if n.fd >= 0 {
		s.mu.Unlock()
		return 0
	}
	parent, name := n.parent, n.name
	if parent == nil || parent.gone || n.gone || depth > maxDepth {
		s.mu.Unlock()
		return unix.ESTALE
	}
	parent.users++
	s.mu.Unlock()
	defer s.drop(parent)

	if errno := s.ensureFD(parent, depth+1); errno != 0 {
		return errno
	}
	fd, errno := openPath(parent.fd, name)
	if errno != 0 {
		return lost(errno)
	}
	var st unix.Statx_t
	if errno = statx(fd, "", &st); errno == 0 && !n.same(&st) {
		errno = unix.ESTALE
	}
	if errno != 0 {
		unix.Close(fd)
		return errno
	}
	s.mu.Lock()
	victims := []int(nil)
	if n.fd < 0 {
		victims = s.setFD(n, fd)
		fd = -1
	}
	s.mu.Unlock()
	closeAll(victims)
	if fd >= 0 {
		unix.Close(fd)
	}
	return 0
}

// lost turns the errors that say "not there any more" into ESTALE, upon which
// the guest's kernel looks up again.
func lost(errno syscall.Errno) syscall.Errno {
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV:
		return unix.ESTALE
	}
	return errno
}

// setFD gives n its descriptor and returns those of nodes that have to give
// theirs back. mu is held; the caller closes them after that.
func (s *Server) setFD(n *node, fd int) (victims []int) {
	n.fd = fd
	n.openIdx = len(s.open)
	s.open = append(s.open, n)
	// A clock with a bounded number of looks: under a flood in which all
	// are in use the bound gives way rather than the request.
	for looks := 0; len(s.open) > s.maxOpen && looks < 64; looks++ {
		s.hand = (s.hand + 1) % len(s.open)
		v := s.open[s.hand]
		if v == n || v.users > 0 || v.opens > 0 {
			continue
		}
		if v.used {
			v.used = false
			continue
		}
		victims = append(victims, s.takeFD(v))
	}
	return victims
}

// takeFD removes n's descriptor and returns it; mu is held.
func (s *Server) takeFD(n *node) int {
	fd := n.fd
	n.fd = -1
	if i := n.openIdx; i >= 0 {
		last := s.open[len(s.open)-1]
		s.open[i], last.openIdx = last, i
		s.open[len(s.open)-1] = nil
		s.open = s.open[:len(s.open)-1]
		n.openIdx = -1
	}
	return fd
}

// drop ends a hold, if there is one.
func (s *Server) drop(n *node) {
	if n == nil {
		return
	}
	s.mu.Lock()
	n.users--
	var fds []int
	if n.users == 0 && n.lookups == 0 && n.opens == 0 && !n.pinned {
		fds = s.remove(n, nil)
	}
	s.mu.Unlock()
	closeAll(fds)
}

// remove takes n out of the tables and adds its descriptor to fds; mu is held.
func (s *Server) remove(n *node, fds []int) []int {
	if !n.gone {
		n.gone = true
		delete(s.nodes, n.id)
		if s.byKey[n.key] == n {
			delete(s.byKey, n.key)
		}
	}
	n.parent = nil
	if n.fd >= 0 {
		fds = append(fds, s.takeFD(n))
	}
	return fds
}

// known returns the node of what st describes, seen as name in parent, with one
// more lookup counted; nil if the guest does not know it.
func (s *Server) known(k key, parent *node, name string) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byKey[k]
	if n == nil {
		return nil
	}
	n.lookups++
	n.used = true
	if n.parent != parent || n.name != name {
		if !n.pinned {
			n.parent, n.name = parent, name
		}
	}
	return n
}

// add makes a node of what st describes, or finds the one that another request
// made meanwhile, with one more lookup counted. fd becomes the node's or is
// closed.
func (s *Server) add(k key, format uint32, fd int, parent *node, name string) *node {
	s.mu.Lock()
	n := s.byKey[k]
	if n == nil {
		n = &node{id: s.nextNode, key: k, format: format, fd: -1, openIdx: -1}
		s.nextNode++
		s.nodes[n.id] = n
		s.byKey[k] = n
	}
	n.lookups++
	n.used = true
	if !n.pinned {
		n.parent, n.name = parent, name
	}
	var victims []int
	if fd >= 0 && n.fd < 0 {
		victims = s.setFD(n, fd)
	} else if fd >= 0 {
		victims = append(victims, fd)
	}
	s.mu.Unlock()
	closeAll(victims)
	return n
}

// holdMoving holds the node of what st describes, seen in parent, if the guest
// knows it, with a descriptor: its name is about to go, by which it could no
// longer be found, and another request may be on its way to it. Nil is none.
func (s *Server) holdMoving(parent *node, st *unix.Statx_t) *node {
	k := s.keyOf(parent, st)
	s.mu.Lock()
	n := s.byKey[k]
	if n != nil {
		n.users++
	}
	s.mu.Unlock()
	if n != nil {
		// Without one it is lost, as if the host had moved it.
		_ = s.ensureFD(n, 0)
	}
	return n
}

// moved notes where the guest has put a node itself.
func (s *Server) moved(k key, parent *node, name string) {
	s.mu.Lock()
	if n := s.byKey[k]; n != nil && !n.pinned {
		n.parent, n.name = parent, name
	}
	s.mu.Unlock()
}

// Forget drops lookups that the guest no longer remembers.
func (s *Server) Forget(id, lookups uint64) {
	s.mu.Lock()
	n := s.nodes[id]
	var fds []int
	if n != nil {
		n.lookups -= min(lookups, n.lookups)
		if n.lookups == 0 && n.users == 0 && n.opens == 0 && !n.pinned {
			fds = s.remove(n, nil)
		}
	}
	s.mu.Unlock()
	closeAll(fds)
}
