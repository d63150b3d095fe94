package fileserver

import (
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Locks are the host's own, so that both sides see each other's. flock belongs
// to an open file, and each open of the guest is one on the host. A POSIX lock
// belongs to a process: each pair of node and lock owner gets an open file
// description of its own, whose OFD locks meet those of every other owner,
// POSIX locks of host processes among them.

const (
	// maxWaits bounds the requests that wait for a lock at one time.
	maxWaits = 256
	// maxOwners bounds the descriptors that POSIX locks hold.
	maxOwners = 4096
	// A wait asks again after these times. Waiting in fcntl would take a
	// thread each, which nothing could call back.
	firstRetry, lastRetry = time.Millisecond, 25 * time.Millisecond
	// lockPatience is how long a wait takes when the guest's kernel has
	// said (lockRetries) that it asks again by itself.
	lockPatience = 200 * time.Millisecond
)

// lockRetries, in LkIn.LkFlags, is set by a kernel with stile's patches: on
// EAGAIN it looks for signals and asks again. An unpatched kernel would leave
// a killed process waiting until the lock is granted.
const lockRetries = 1 << 16

type lockOwner struct {
	node  *node
	owner uint64
}

type lockTable struct {
	mu    sync.Mutex
	fds   map[lockOwner]*lockFD
	waits chan struct{}
}

// A lockFD is one owner's open file description on one node.
type lockFD struct {
	fd       int
	writable bool
	pid      uint32
	users    int
	dead     bool
}

func (t *lockTable) init() {
	t.fds = make(map[lockOwner]*lockFD)
	t.waits = make(chan struct{}, maxWaits)
}

// hold finds the owner's description on h's node, or makes one.
func (t *lockTable) hold(s *Server, h *handle, in *fuse.LkIn) (*lockFD, syscall.Errno) {
	k := lockOwner{h.node, in.Owner}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.fds[k]
	if l == nil {
		if len(t.fds) >= maxOwners {
			return nil, unix.ENOLCK
		}
		// Both kinds of lock, where the file lets us: the owner may
		// come with another handle later.
		fd, errno := s.reopen(h.fd, unix.O_RDWR|unix.O_NONBLOCK)
		writable := errno == 0
		if errno != 0 {
			fd, errno = s.reopen(h.fd, unix.O_NONBLOCK|b2i(h.writable)*unix.O_WRONLY)
			writable = h.writable
		}
		if errno != 0 {
			return nil, errno
		}
		l = &lockFD{fd: fd, writable: writable}
		t.fds[k] = l
		s.mu.Lock()
		if h.owners == nil {
			h.owners = make(map[uint64]struct{})
		}
		h.owners[in.Owner] = struct{}{}
		s.mu.Unlock()
	}
	l.pid = in.Lk.Pid
	l.users++
	return l, 0
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (t *lockTable) drop(l *lockFD) {
	t.mu.Lock()
	l.users--
	last := l.dead && l.users == 0
	t.mu.Unlock()
	if last {
		unix.Close(l.fd)
	}
}

// release ends all POSIX locks of an owner on a node.
func (t *lockTable) release(n *node, owner uint64) {
	t.remove(func(k lockOwner) bool { return k.node == n && k.owner == owner }, lockOwner{n, owner})
}

func (t *lockTable) reset() {
	t.remove(func(lockOwner) bool { return true })
}

func (t *lockTable) forgetShare(sr *share) {
	t.remove(func(k lockOwner) bool { return k.node.share == sr })
}

// remove closes the descriptions that match; among only, if given.
func (t *lockTable) remove(match func(lockOwner) bool, only ...lockOwner) {
	t.mu.Lock()
	defer t.mu.Unlock()
	end := func(k lockOwner, l *lockFD) {
		delete(t.fds, k)
		l.dead = true
		if l.users == 0 {
			unix.Close(l.fd)
		}
	}
	if len(only) > 0 {
		for _, k := range only {
			if l := t.fds[k]; l != nil {
				end(k, l)
			}
		}
		return
	}
	for k, l := range t.fds {
		if match(k) {
			end(k, l)
		}
	}
}

// flockT is the lock that a request describes.
func flockT(in *fuse.LkIn) (unix.Flock_t, syscall.Errno) {
	lk := in.Lk
	if lk.Start > 1<<63-1 || lk.End < lk.Start {
		return unix.Flock_t{}, unix.EINVAL
	}
	f := unix.Flock_t{Type: int16(lk.Typ), Whence: unix.SEEK_SET, Start: int64(lk.Start)}
	if lk.End < 1<<63-1 {
		f.Len = int64(lk.End - lk.Start + 1)
	}
	return f, 0
}

// GetLk asks for a lock in the way of one that the caller would set.
func (s *Server) GetLk(_ <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	h := s.holdHandle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer s.dropHandle(h)
	f, errno := flockT(in)
	if errno != 0 {
		return status(errno)
	}
	l, errno := s.locks.hold(s, h, in)
	if errno != 0 {
		return status(errno)
	}
	defer s.locks.drop(l)
	if errno := retry(func() error { return unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_GETLK, &f) }); errno != 0 {
		return status(errno)
	}
	out.Lk = fuse.FileLock{Typ: uint32(f.Type)}
	if f.Type != unix.F_UNLCK {
		out.Lk.Start, out.Lk.End = uint64(f.Start), 1<<63-1
		if f.Len != 0 {
			out.Lk.End = uint64(f.Start + f.Len - 1)
		}
		// Only guest processes have a number that means something there.
		out.Lk.Pid = s.locks.otherPid(h.node, in.Owner)
	}
	return fuse.OK
}

// otherPid is the process of the one other owner of locks on n in the guest, or
// 0 if there are none or many.
func (t *lockTable) otherPid(n *node, owner uint64) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var pid uint32
	for k, l := range t.fds {
		if k.node == n && k.owner != owner {
			if pid != 0 {
				return 0
			}
			pid = l.pid
		}
	}
	return pid
}

// SetLk sets or clears a lock without waiting.
func (s *Server) SetLk(_ <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return s.withLock(in, func(try func() syscall.Errno) syscall.Errno { return try() })
}

// SetLkw sets a lock, waiting for it.
func (s *Server) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return s.withLock(in, func(try func() syscall.Errno) syscall.Errno {
		errno := try()
		if errno != unix.EAGAIN || in.Lk.Typ == unix.F_UNLCK {
			return errno
		}
		select {
		case s.locks.waits <- struct{}{}:
			defer func() { <-s.locks.waits }()
		default:
			return unix.ENOLCK
		}
		// What a wait that is cut short says: a patched kernel asks
		// again; another one is going away when this happens.
		short := unix.ENOLCK
		var patience <-chan time.Time
		if in.LkFlags&lockRetries != 0 {
			short = unix.EAGAIN
			patience = time.After(lockPatience)
		}
		interrupted := s.interrupted()
		for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-patience:
				t.Stop()
				return unix.EAGAIN
			case <-cancel:
				t.Stop()
				return unix.EINTR
			case <-interrupted:
				t.Stop()
				return short
			}
			if errno := try(); errno != unix.EAGAIN {
				return errno
			}
		}
	})
}

// withLock gives run a function that tries once to do what in says.
func (s *Server) withLock(in *fuse.LkIn, run func(try func() syscall.Errno) syscall.Errno) fuse.Status {
	h := s.holdHandle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer s.dropHandle(h)
	if in.LkFlags&fuse.LK_FLOCK != 0 {
		how := map[uint32]int{unix.F_RDLCK: unix.LOCK_SH, unix.F_WRLCK: unix.LOCK_EX, unix.F_UNLCK: unix.LOCK_UN}
		op, ok := how[in.Lk.Typ]
		if !ok {
			return fuse.EINVAL
		}
		return status(run(func() syscall.Errno {
			return retry(func() error { return unix.Flock(h.fd, op|unix.LOCK_NB) })
		}))
	}
	if h.dir != nil {
		return fuse.EINVAL
	}
	f, errno := flockT(in)
	if errno != 0 {
		return status(errno)
	}
	l, errno := s.locks.hold(s, h, in)
	if errno != 0 {
		return status(errno)
	}
	defer s.locks.drop(l)
	return status(run(func() syscall.Errno {
		lk := f
		e := retry(func() error { return unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_SETLK, &lk) })
		if e == unix.EACCES {
			e = unix.EAGAIN
		}
		return e
	}))
}
