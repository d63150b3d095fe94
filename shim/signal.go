package main

import (
	"syscall"
	"unsafe"

	"github.com/stilehq/stile/interop/early"
	"github.com/stilehq/stile/interop/wire"
)

// Values of si_code.
const (
	siKernel = 0x80
	siUser   = 0
	siTKill  = -6
)

// A signal is one that reached the shim.
type signal struct {
	number int
	code   int32 // si_code
	pid    int32 // of the sender
}

// signals reads all signals that can be caught. This thread blocks them, so that they
// come through a signalfd, unless another of the runtime's threads gets them first:
// there the runtime unblocks what would kill (TERM, INT, HUP; blockableSig in its
// signal_unix.go), what is a fault, and its own. So all have a handler, which
// writes to a pipe.
//
// What kills is not blocked here either, as soon as there is the handler: the kernel
// prefers this thread then, and what has been sent is in the pipe when the thread
// goes on. Another one might have a signal in its hands for a while, and the barrier
// (wire.TypeBarrier) would let an end of file overtake it.
type signals struct {
	fd   int
	pipe int // its reading end
	buf  [16]signalInfo

	changed bool // local saw one after which the terminal's state may be another
}

// signalInfo is struct signalfd_siginfo.
type signalInfo struct {
	number uint32
	errno  int32
	code   int32
	pid    int32
	rest   [112]byte
}

// sigAction is struct sigaction as the kernel has it.
type sigAction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// Used by handler.
var (
	signalPipe     int32 = -1
	runtimeHandler uintptr
)

func handlerAddress() uintptr

// handled reports whether a signal gets the handler: not those that cannot have
// one, and not those of job control, which the runtime leaves blocked, and whose
// default action is wanted.
func handled(n int) bool {
	return n != int(syscall.SIGKILL) && (n < int(syscall.SIGCONT) || n > int(syscall.SIGTTOU))
}

func sigaction(n int, set, old *sigAction) {
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
}

func sigmask(how int, set uint64) {
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, uintptr(how), uintptr(unsafe.Pointer(&set)), 0, 8, 0, 0)
}

func (s *signals) open() {
	sigmask(sigBlock, ^uint64(0))
	all := ^uint64(0)
	fd, _, e := syscall.RawSyscall6(sysSignalFD4, ^uintptr(0), uintptr(unsafe.Pointer(&all)), 8,
		syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0, 0)
	var p [2]int
	err := syscall.Pipe2(p[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK)
	if e != 0 || err != nil {
		fail(&wire.Error{Code: 125, What: "signals", Why: syscall.EMFILE.Error()})
	}
	s.fd, s.pipe = int(fd), p[0]
	signalPipe = int32(p[1])
	// The runtime's own has the flags and the restorer that handlers need.
	var a sigAction
	sigaction(int(syscall.SIGSEGV), nil, &a)
	runtimeHandler, a.handler = a.handler, handlerAddress()
	for n := 1; n <= 64; n++ {
		if handled(n) {
			sigaction(n, &a, nil)
		}
	}
	sigmask(sigUnblock, killers)
}

// killers are the signals that Go's runtime never leaves blocked in its threads.
const killers = 1<<(syscall.SIGHUP-1) | 1<<(syscall.SIGINT-1) | 1<<(syscall.SIGTERM-1)

// read calls yield for each signal that has arrived: SIGCONT after those that kill,
// for a stopped command that is continued first might stop again at once.
func (s *signals) read(yield func(signal)) {
	for {
		var b [5]int32 // si_signo, si_errno, si_code, padding, si_pid
		n, _ := syscall.Read(s.pipe, (*[20]byte)(unsafe.Pointer(&b))[:])
		if n != 20 {
			break
		}
		s.pass(signal{number: int(b[0]), code: b[2], pid: b[4]}, yield)
	}
	for {
		n, _ := syscall.Read(s.fd, (*[unsafe.Sizeof(s.buf)]byte)(unsafe.Pointer(&s.buf))[:])
		if n <= 0 {
			break
		}
		for _, i := range s.buf[:n/int(unsafe.Sizeof(s.buf[0]))] {
			s.pass(signal{number: int(i.number), code: i.code, pid: i.pid}, yield)
		}
	}
}

// pass leaves out what is of the shim's own making: the runtime's preemption
// (SIGURG), SIGPIPE of a write, the end of `stile start`.
func (s *signals) pass(sig signal, yield func(signal)) {
	own := (sig.code == siUser || sig.code == siTKill) && int(sig.pid) == syscall.Getpid()
	if own && sig.number != int(syscall.SIGCONT) || sig.number == int(syscall.SIGCHLD) && sig.code > 0 {
		return
	}
	yield(sig)
}

// local gives signals the effect that they would have had without the shim's
// blocking them: used as long as no machine has taken the request.
func (s *signals) local() {
	s.read(func(sig signal) {
		if early.Ignored()>>(sig.number-1)&1 != 0 || early.Blocked()>>(sig.number-1)&1 != 0 {
			return
		}
		switch syscall.Signal(sig.number) {
		case syscall.SIGCHLD, syscall.SIGURG:
		case syscall.SIGCONT, syscall.SIGWINCH:
			s.changed = true
		case syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
			raise(sig.number, false)
		default:
			die(sig.number)
		}
	})
}

// raise sends the shim, or its whole process group, a signal with its default
// action, and returns when the shim goes on.
func raise(number int, group bool) {
	var defaults sigAction
	sigaction(number, &defaults, nil)
	if pid := syscall.Getpid(); group {
		syscall.Kill(0, syscall.Signal(number))
	} else {
		// To this thread: another one that does not block it might take it, and
		// race with what comes next here.
		syscall.Tgkill(pid, pid, syscall.Signal(number))
	}
	sigmask(sigUnblock, 1<<(number-1))
	sigmask(sigBlock, 1<<(number-1))
}

// die ends the shim by a signal, as the guest command ended: without a core dump
// of the shim's.
func die(number int) {
	setLimit(rlimitCore, 0, 0)
	syscall.RawSyscall6(syscall.SYS_PRCTL, prSetDumpable, 0, 0, 0, 0, 0)
	raise(number, false)
	exit(128 + number) // one that does not kill by default
}
