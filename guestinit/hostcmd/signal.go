package hostcmd

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// notify begins to catch the signals that are the command's. Those for readers and
// writers of the terminal in the background keep their effect, and so do those of the
// runtime's own.
func (s *session) notify() chan os.Signal {
	c := make(chan os.Signal, 64)
	for n := 1; n <= 64; n++ {
		sig := syscall.Signal(n)
		switch sig {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE,
			unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGSYS, unix.SIGPROF, 32, 33, 34:
			continue
		}
		if s.ignored>>(n-1)&1 == 0 {
			signal.Notify(c, sig)
		}
	}
	signal.Ignore(unix.SIGPIPE) // a write to a pipe that nobody reads is the command's affair
	return c
}

// forward passes signals on.
func (s *session) forward() {
	for sig := range s.signals {
		n := sig.(syscall.Signal)
		switch n {
		case unix.SIGWINCH:
			if s.tty >= 0 {
				size := s.size()
				s.send(wire.TypeWinSize, size.Append(nil))
				continue
			}
		case unix.SIGCONT:
			s.resume()
			continue
		}
		m := wire.Signal{Number: uint8(n)}
		s.send(wire.TypeSignal, m.Append(nil))
	}
}

// stop stops this process as the command has stopped, and has the command go on when
// this process does.
func (s *session) stop(sig syscall.Signal) {
	switch sig {
	case unix.SIGTSTP, unix.SIGSTOP:
	case unix.SIGTTIN, unix.SIGTTOU:
		if s.foreground() {
			s.resume() // it is in the foreground by now
			return
		}
	default:
		return
	}
	s.suspend()
	before := time.Now()
	raise(sig)
	if sig != unix.SIGTSTP && time.Since(before) < notStopped && !s.foreground() {
		// The kernel stops nobody of an orphaned process group, whom nobody could
		// continue: its reads of the terminal fail, and the command's would stop it again.
		s.send(wire.TypeSignal, (&wire.Signal{Number: uint8(unix.SIGHUP)}).Append(nil))
	}
	s.resume()
}

// notStopped is less than any stop takes that somebody ends.
const notStopped = time.Millisecond

// raise sends this process a signal with its default action, and returns when the
// process goes on. The runtime's own handler comes back after that: its Reset leaves
// it where it is.
func raise(sig syscall.Signal) {
	// To this thread, so that the signal's effect comes before the call's return.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var defaults, old sigAction
	sigaction(sig, &defaults, &old)
	unblock(sig)
	unix.Tgkill(os.Getpid(), unix.Gettid(), sig)
	sigaction(sig, &old, nil)
}

// sigAction is struct sigaction as the kernel has it; all zero is the default.
type sigAction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

func sigaction(sig syscall.Signal, set, old *sigAction) {
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
}

func unblock(sig syscall.Signal) {
	var set unix.Sigset_t
	set.Val[0] = 1 << (uint(sig) - 1)
	unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil)
}

// die ends this process by a signal, as the command ended: without a core dump.
func die(sig syscall.Signal) {
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	raise(sig)
	os.Exit(128 + int(sig)) // one that does not kill by default
}
