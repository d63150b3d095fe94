// Package fileserver serves host folders over the FUSE protocol, to a guest
// kernel that is not trusted (vmm/virtio/fs carries the requests).
//
// It works on inodes, not on paths. A node is what the guest looked up: the
// device, inode number and time of birth of something in a share. To reach it
// the server holds an O_PATH descriptor of it, or knows the directory node and
// the name where it was last seen and opens one when it is needed, and checks
// that it is still the same inode. Every name that comes from the guest is one
// component, resolved by openat2 with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS
// in a directory held by descriptor; every change is an *at call with such a
// directory. So there is no path for a symlink or a rename on either side to
// bend, whatever the timing, and ".." is never asked for: the guest walks
// symlinks and ".." in its own tree.
//
// # Descriptors
//
// Directories hold a descriptor from their lookup on, as they may become a
// working directory; other nodes from their first use on. At most half of
// RLIMIT_NOFILE is spent on nodes: beyond that those that were not used lately
// give theirs back. Only such a node (or one never used) can be lost: when
// someone on the host moves it elsewhere, the server answers ESTALE, and the
// guest's kernel looks the path up once more before it tells anyone. Files that
// the guest has open are never given up.
//
// # Shares
//
// The root is synthetic: a read-only directory of shares, which come and go
// while the guest runs. A read-only share is enforced here, also for those who
// come through another share that contains it. File systems mounted below a
// share are crossed, except those that are windows to the host's kernel (proc,
// sysfs, cgroup and so on). Inode numbers are the host's own where that is
// unique, which a git index shared by both sides depends on.
//
// # Ownership
//
// The server acts as the user that runs it. As a plain user everything it
// makes is that user's, and the host's permission checks apply after the
// guest's. As root it makes things with the owner that the guest names; checks
// are then the guest kernel's alone (default_permissions), which is what
// virtio-fs always mounts with. The umask is applied by the guest. POSIX ACLs
// are not shown to the guest (EOPNOTSUPP); those on the host are enforced by
// the host, and default ACLs are inherited by what the guest makes.
package fileserver

import (
	"errors"
	"fmt"
	"log"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Options are what can be chosen about a Server. The zero value is right for
// any guest kernel.
type Options struct {
	// EntryTimeout, AttrTimeout and NegativeTimeout are how long the guest
	// may use a name, attributes, or the absence of a name, without asking
	// again. Zero, the default, is coherent with every guest kernel, and
	// slow. CachedTimeouts says what is right for a kernel with stile's
	// patches.
	EntryTimeout    time.Duration
	AttrTimeout     time.Duration
	NegativeTimeout time.Duration

	// Logger is told what is worth knowing, never more than a few lines a
	// second. Nil discards.
	Logger *log.Logger

	// maxNodeFDs and maxHandles override what RLIMIT_NOFILE gives, in tests.
	maxNodeFDs, maxHandles int
}

// Server is a file server. It implements fuse.RawFileSystem; all methods may
// be called concurrently.
type Server struct {
	fuse.RawFileSystem // ENOSYS for what is not implemented

	opts   Options
	procFD int    // /proc/self/fd
	umask  uint32 // of this process: what creation must make good
	asRoot bool   // objects are made with the caller's owner
	euid   uint32
	egid   uint32

	// mu guards the tables of nodes, shares and handles. No system call that
	// can block is made with it held.
	mu          sync.Mutex
	nodes       map[uint64]*node
	byKey       map[key]*node
	nextNode    uint64
	shares      map[string]*share
	nextShare   uint64
	rootChanged time.Time
	open        []*node // nodes with a descriptor that may be given back
	hand        int     // of the clock over open
	maxOpen     int
	handles     map[uint64]*handle
	nextFH      uint64
	maxHandle   int

	inodes inodeNumbers
	hidden hiddenSet
	locks  lockTable

	// interrupt is closed to end the waits of requests in flight.
	interruptMu sync.Mutex
	interrupt   chan struct{}

	cached   atomic.Bool // the guest's kernel takes the timeouts of CachedTimeouts
	timeouts [3]time.Duration
}

var _ fuse.RawFileSystem = (*Server)(nil)

// New makes a Server without shares. The caller closes it.
//
// The server needs no privilege. Its process should have a umask of zero;
// where it has not, the server corrects the mode of each thing it makes.
func New(opts Options) (*Server, error) {
	procFD, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /proc/self/fd: %w", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		unix.Close(procFD)
		return nil, fmt.Errorf("read RLIMIT_NOFILE: %w", err)
	}
	fds := int(min(limit.Cur, 1<<20))
	if opts.maxNodeFDs == 0 {
		opts.maxNodeFDs = fds / 2
	}
	if opts.maxHandles == 0 {
		opts.maxHandles = fds * 3 / 8
	}
	s := &Server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		opts:          opts,
		procFD:        procFD,
		umask:         processUmask(),
		euid:          uint32(unix.Geteuid()),
		egid:          uint32(unix.Getegid()),
		nodes:         make(map[uint64]*node),
		byKey:         make(map[key]*node),
		nextNode:      fuse.FUSE_ROOT_ID + 1,
		shares:        make(map[string]*share),
		handles:       make(map[uint64]*handle),
		nextFH:        1,
		maxOpen:       opts.maxNodeFDs,
		maxHandle:     opts.maxHandles,
		interrupt:     make(chan struct{}),
	}
	s.asRoot = s.euid == 0
	s.locks.init()
	s.setTimeouts(false)
	return s, nil
}

// String names the file system, as /proc/mounts of a guest shows it.
func (s *Server) String() string { return "stile" }

// Protocol returns the options with which fuse.NewProtocolServer or
// fuse.NewServer are to run the server.
func (s *Server) Protocol() *fuse.MountOptions {
	return &fuse.MountOptions{
		Name:          s.String(),
		FsName:        s.String(),
		MaxWrite:      1 << 20,
		MaxBackground: 64,
		EnableLocks:   true,
		DisableSplice: true,
		AllowOther:    s.asRoot,
		// READDIRPLUS where the guest's kernel sees that attributes are
		// asked for; O_TRUNC within open; set-id bits killed here instead
		// of by a getxattr before each write.
		ExtraCapabilities: fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ATOMIC_O_TRUNC |
			fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ASYNC_DIO | fuse.CAP_NO_EXPORT_SUPPORT |
			fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		Logger:       s.opts.Logger,
		PanicHandler: s.onPanic,
	}
}

func (s *Server) onPanic(v any) fuse.Status {
	s.logf("request panicked: %v", v)
	return fuse.EIO
}

func (s *Server) logf(format string, args ...any) {
	if s.opts.Logger != nil {
		s.opts.Logger.Printf(format, args...)
	}
}

// Interrupt ends the waits of requests in flight (locks that others hold), so
// that a device can wait for its workers.
func (s *Server) Interrupt() {
	s.interruptMu.Lock()
	defer s.interruptMu.Unlock()
	close(s.interrupt)
	s.interrupt = make(chan struct{})
}

func (s *Server) interrupted() <-chan struct{} {
	s.interruptMu.Lock()
	defer s.interruptMu.Unlock()
	return s.interrupt
}

// Reset forgets everything that the guest looked up, opened and locked; shares
// stay. It is called when the guest's kernel has gone or mounts anew, with no
// request in flight.
func (s *Server) Reset() {
	s.locks.reset()
	s.mu.Lock()
	var closers []int
	for _, h := range s.handles {
		h.dead = true
		if h.users == 0 {
			closers = append(closers, h.fd)
		}
	}
	clear(s.handles)
	for _, n := range s.nodes {
		if n.pinned {
			continue
		}
		n.lookups, n.opens = 0, 0
		if n.users == 0 {
			closers = s.remove(n, closers)
		}
	}
	s.mu.Unlock()
	closeAll(closers)
}

// Close releases everything. No request is in flight.
func (s *Server) Close() error {
	s.Reset()
	s.mu.Lock()
	names := make([]string, 0, len(s.shares))
	for dir := range s.shares {
		names = append(names, dir)
	}
	s.mu.Unlock()
	var errs []error
	for _, dir := range names {
		errs = append(errs, s.RemoveShare(dir))
	}
	s.hidden.close()
	errs = append(errs, unix.Close(s.procFD))
	return errors.Join(errs...)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func status(errno syscall.Errno) fuse.Status { return fuse.Status(errno) }
