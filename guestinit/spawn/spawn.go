// Package spawn starts commands inside of the distro's namespaces, from outside
// of them and at the price of two clones and one execve.
//
// A thread of guestinit, never used for anything else, has the distro's mount
// namespace and root, and creates children in its pid namespace. Each session
// gets a sitter: a process that shares guestinit's memory, so that nothing is
// copied and no program is loaded for it, leads the session, owns the terminal,
// and is the parent of the command, which starts in a process group of its own.
// So job control in the guest is that of the kernel: a command that led the
// session itself would be in an orphaned process group, whose stop signals the
// kernel throws away. The sitter reports on one pipe for all sessions, is told
// what to do by a queued signal, and does both only for a command that it has
// not waited for yet.
//
// The distro's PID 1 is a reaper of the same kind.
package spawn

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options say how the distro's namespaces are made.
type Options struct {
	// Setup runs on the thread once it has a mount namespace of its own. When it
	// returns the thread's root must be the distro's, with /proc to mount on.
	Setup func() error
	// CgroupFD is the cgroup that all processes of the distro live in, as an open
	// folder of cgroup2, or -1. With it /sys/fs/cgroup is mounted in a cgroup
	// namespace of its own.
	CgroupFD int
	// Reaped, if set, is called after an orphan of the distro has ended.
	Reaped func()
	// Down, if set, is called when the distro's PID 1 has ended, and with it all
	// of its processes.
	Down func()
}

// A Spawner starts commands in one distro.
type Spawner struct {
	opts   Options
	work   chan func()
	report int // the pipe's write end

	mu     sync.Mutex
	tags   map[uint64]*Process
	pids   map[int]*Process // sitters by their number outside of the distro
	next   uint64
	reaper int
	stacks [][]byte
	ready  chan record
}

// New makes the namespaces and starts the reaper.
func New(opts Options) (*Spawner, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe", err)
	}
	unix.SetNonblock(p[0], true)
	s := &Spawner{
		opts:   opts,
		work:   make(chan func()),
		report: p[1],
		tags:   make(map[uint64]*Process),
		pids:   make(map[int]*Process),
		ready:  make(chan record, 1),
	}
	go s.readReports(os.NewFile(uintptr(p[0]), "reports"))
	go s.thread()
	var err error
	s.Do(func() { err = s.enter() })
	if err != nil {
		return nil, err
	}
	go s.wait()
	return s, nil
}

// thread runs what is to run inside of the distro's mount namespace. Its signals
// are blocked for good, but for those that a fault of its own raises: sitters
// inherit the mask, and Go's handlers must never run in them.
func (s *Spawner) thread() {
	runtime.LockOSThread()
	mask := unix.Sigset_t{Val: [16]uint64{^uint64(1<<(unix.SIGSEGV-1) | 1<<(unix.SIGBUS-1) | 1<<(unix.SIGFPE-1))}}
	unix.PthreadSigmask(unix.SIG_SETMASK, &mask, nil)
	for f := range s.work {
		f()
	}
}

// Do runs f on the thread that lives in the distro's mount namespace with the
// distro's root, and waits for it.
func (s *Spawner) Do(f func()) {
	done := make(chan struct{})
	s.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// enter makes the thread a member of the distro.
func (s *Spawner) enter() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := s.opts.Setup(); err != nil {
		return err
	}
	p := &plan{report: int32(s.report), waitSet: 1 << (unix.SIGCHLD - 1), cgroup: s.opts.CgroupFD >= 0}
	stack, err := s.takeStack()
	if err != nil {
		return err
	}
	p.sitterClone = cloneArgs{
		flags:     unix.CLONE_VM | unix.CLONE_CLEAR_SIGHAND | unix.CLONE_NEWPID | unix.CLONE_PIDFD,
		pidfd:     uint64(uintptr(unsafe.Pointer(&p.group))), // on the heap, which does not move
		stack:     uint64(uintptr(unsafe.Pointer(&stack[0]))),
		stackSize: stackSize,
	}
	s.intoCgroup(&p.sitterClone)
	r := clone3(&p.sitterClone, reaperEntry(), unsafe.Pointer(p))
	if failed(r) {
		return fmt.Errorf("start the distro's reaper: %w", unix.Errno(-r))
	}
	s.reaper = int(r)
	reaperPlans = append(reaperPlans, p)
	pidfd := int(p.group)
	defer unix.Close(pidfd)
	ready := <-s.ready
	if ready.b != 0 {
		what := map[int32]string{stageProc: "mount /proc", stageCgroup: "make a cgroup namespace", stageMountCG: "mount /sys/fs/cgroup"}[ready.a]
		return fmt.Errorf("%s in the distro: %w", what, unix.Errno(ready.b))
	}
	spaces := unix.CLONE_NEWPID
	if p.cgroup {
		spaces |= unix.CLONE_NEWCGROUP
	}
	if err := unix.Setns(pidfd, spaces); err != nil {
		return fmt.Errorf("enter the distro's namespaces: %w", err)
	}
	return nil
}

// reaperPlans keeps plans of processes that use them for as long as they live.
var reaperPlans []*plan

func (s *Spawner) intoCgroup(a *cloneArgs) {
	if s.opts.CgroupFD >= 0 {
		a.flags |= unix.CLONE_INTO_CGROUP
		a.cgroup = uint64(s.opts.CgroupFD)
	}
}

// Reaper is the process number of the distro's PID 1, as guestinit sees it.
func (s *Spawner) Reaper() int { return s.reaper }

// takeStack returns memory for the stacks of a sitter and its command. It is
// mapped, not allocated: the collector must not move or free what a process
// runs on.
func (s *Spawner) takeStack() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.stacks); n > 0 {
		b := s.stacks[n-1]
		s.stacks = s.stacks[:n-1]
		return b, nil
	}
	const many = 16
	b, err := unix.Mmap(-1, 0, many*2*stackSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map stacks of sitters: %w", err)
	}
	for i := 1; i < many; i++ {
		s.stacks = append(s.stacks, b[i*2*stackSize:(i+1)*2*stackSize])
	}
	return b[:2*stackSize], nil
}

// readReports hands the records of all sitters to their processes.
func (s *Spawner) readReports(f *os.File) {
	buf := make([]byte, 64*recordSize)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		for i := 0; i+recordSize <= n; i += recordSize {
			r := *(*record)(unsafe.Pointer(&buf[i])) // unsafe: the struct that the sitter wrote
			switch {
			case r.kind == recReady:
				s.ready <- r
			case r.kind == recReaped:
				if s.opts.Reaped != nil {
					s.opts.Reaped()
				}
			default:
				s.mu.Lock()
				p := s.tags[r.tag]
				s.mu.Unlock()
				if p != nil {
					p.record(r)
				}
			}
		}
	}
}

// wait collects sitters that have ended. They are made without an exit signal
// (__WCLONE), so that neither the runtime's handlers nor other children come
// into it. A number stays the sitter's until wait4 under the lock.
func (s *Spawner) wait() {
	for {
		var info [16]uint64 // siginfo_t: si_pid is at byte 16
		_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WNOWAIT|unix.WCLONE, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return
		}
		pid := int(int32(info[2]))
		s.mu.Lock()
		p := s.pids[pid]
		delete(s.pids, pid)
		unix.Wait4(pid, nil, unix.WNOHANG|unix.WCLONE, nil)
		if p != nil {
			p.sitter = 0
		}
		s.mu.Unlock()
		switch {
		case p != nil:
			s.flush(p)
		case pid == s.reaper:
			if s.opts.Down != nil {
				s.opts.Down()
			}
		}
	}
}

// flush sends a last record for p through the pipe, behind those of the sitter.
func (s *Spawner) flush(p *Process) {
	r := record{tag: p.tag, kind: recGone}
	b := (*[recordSize]byte)(unsafe.Pointer(&r)) // unsafe: as the sitter writes it
	unix.Write(s.report, b[:])
}

const recGone = 6 // the sitter has been waited for
