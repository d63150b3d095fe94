package spawn

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Kind says what an Event is.
type Kind int

// The events of a process, in the order in which they can come.
const (
	Started   Kind = iota + 1 // the command has been executed
	Failed                    // it could not be
	Stopped                   // it has stopped
	Continued                 // it goes on
	Ended                     // it has ended and was waited for
	Gone                      // its sitter has ended: the last event
)

// An Event is a change of a process's state.
type Event struct {
	Kind   Kind
	PID    int             // Started: the command's number inside of the distro
	Status unix.WaitStatus // Stopped, Ended
	Usage  unix.Rusage     // Ended
	Err    *StartError     // Failed
}

// A Step is what failed in a start.
type Step int

// The steps at which a start can fail.
const (
	StepFork  Step = stageFork
	StepFiles Step = stageFiles
	StepUser  Step = stageUser
	StepDir   Step = stageDir
	StepExec  Step = stageExec
)

// A StartError says why a command could not be started.
type StartError struct {
	Step  Step
	Path  string // StepExec: what was tried
	Errno unix.Errno
}

// Error names the step and the reason.
func (e *StartError) Error() string {
	switch e.Step {
	case StepFiles:
		return "set up descriptors: " + e.Errno.Error()
	case StepUser:
		return "become the user: " + e.Errno.Error()
	case StepDir:
		return "enter the working directory: " + e.Errno.Error()
	case StepExec:
		return fmt.Sprintf("execute %s: %v", e.Path, e.Errno)
	}
	return "start a process: " + e.Errno.Error()
}

// Unwrap is the kernel's reason.
func (e *StartError) Unwrap() error { return e.Errno }

// A Process is a session of the distro: a sitter and, until it ends, its
// command.
type Process struct {
	s      *Spawner
	tag    uint64
	events func(Event)
	plan   *plan
	paths  []string
	stack  []byte
	sitter int // guarded by s.mu; 0 once waited for
}

// Start starts c. What becomes of it is told to events, one call after the
// other and never on the caller's stack; events must not wait for long. The
// caller keeps its copies of the descriptors of c and may close them when Start
// returns.
func (s *Spawner) Start(c *Command, events func(Event)) (*Process, error) {
	stack, err := s.takeStack()
	if err != nil {
		return nil, err
	}
	pl, temporary, err := lay(c, s.report, stack)
	defer func() {
		for _, fd := range temporary {
			unix.Close(fd)
		}
	}()
	if err != nil {
		s.giveStack(stack)
		return nil, fmt.Errorf("duplicate a descriptor: %w", err)
	}
	s.intoCgroup(&pl.sitterClone)
	p := &Process{s: s, events: events, plan: pl, paths: c.Paths, stack: stack}
	s.mu.Lock()
	s.next++
	p.tag = s.next
	pl.tag = p.tag
	s.tags[p.tag] = p
	s.mu.Unlock()

	var r uintptr
	s.Do(func() {
		// Under the lock: wait must not see the sitter's end before its number is known.
		s.mu.Lock()
		defer s.mu.Unlock()
		if r = clone3(&pl.sitterClone, sitterEntry(), unsafe.Pointer(pl)); !failed(r) {
			p.sitter = int(r)
			s.pids[p.sitter] = p
		}
	})
	if failed(r) {
		s.mu.Lock()
		delete(s.tags, p.tag)
		s.mu.Unlock()
		s.giveStack(stack)
		return nil, &StartError{Step: StepFork, Errno: unix.Errno(-r)}
	}
	return p, nil
}

func (s *Spawner) giveStack(b []byte) {
	s.mu.Lock()
	s.stacks = append(s.stacks, b)
	s.mu.Unlock()
}

// record turns a record into an event.
func (p *Process) record(r record) {
	switch r.kind {
	case recStarted:
		p.plan.keep = nil // argv and environment have been copied by execve
		p.events(Event{Kind: Started, PID: int(r.pid)})
	case recFailed:
		e := &StartError{Step: Step(r.a), Errno: unix.Errno(r.b)}
		if e.Step == StepExec && int(r.pid) < len(p.paths) {
			e.Path = p.paths[r.pid]
		}
		p.events(Event{Kind: Failed, Err: e})
	case recStatus:
		st := unix.WaitStatus(r.a)
		switch {
		case st.Stopped():
			p.events(Event{Kind: Stopped, Status: st})
		case st.Continued():
			p.events(Event{Kind: Continued})
		default:
			p.events(Event{Kind: Ended, Status: st, Usage: p.plan.usage})
		}
	case recGone:
		p.s.mu.Lock()
		delete(p.s.tags, p.tag)
		p.s.stacks = append(p.s.stacks, p.stack)
		p.s.mu.Unlock()
		p.stack, p.plan = nil, nil
		p.events(Event{Kind: Gone})
	}
}

// operate queues one operation for the sitter.
func (p *Process) operate(op, arg int) error {
	info := [16]uint64{0: sigOperate, 3: uint64(op)<<24 | uint64(arg)&0xffffff}
	info[1] = uint64(uint32(0xffffffff)) // SI_QUEUE
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.sitter == 0 {
		return unix.ESRCH
	}
	// unsafe: siginfo_t has no type in x/sys.
	if _, _, e := unix.RawSyscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(p.sitter), sigOperate, uintptr(unsafe.Pointer(&info))); e != 0 {
		return e
	}
	return nil
}

// Signal sends a signal to the command alone, and nothing once it has ended.
func (p *Process) Signal(sig unix.Signal) error { return p.operate(opKill, int(sig)) }

// SignalGroup sends a signal to the command's process group, and nothing once
// the command has ended: what it left behind is not its any more.
func (p *Process) SignalGroup(sig unix.Signal) error { return p.operate(opKillAll, int(sig)) }

// Background makes the sitter's own group the terminal's foreground group, so
// that the kernel stops whoever of the session reads the terminal.
func (p *Process) Background() error { return p.operate(opForeSelf, 0) }

// Foreground makes a process group, numbered as inside of the distro, the
// terminal's foreground group.
func (p *Process) Foreground(group int) error { return p.operate(opForeCmd, group) }

// Sitter is the sitter's process number as guestinit sees it, and the number of
// its session; 0 once it has ended.
func (p *Process) Sitter() int {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.sitter
}

// Release ends the sitter: the session's terminal, if any, hangs up.
func (p *Process) Release() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.sitter != 0 {
		unix.Kill(p.sitter, unix.SIGKILL)
	}
}
