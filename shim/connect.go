package main

import (
	"syscall"
	"unsafe"

	"github.com/stilehq/stile/interop/early"
	"github.com/stilehq/stile/interop/wire"
)

// maxSocketPath is how long a path name in a socket address can be.
const maxSocketPath = 107

// connect connects to the machine. If none answers, or start is set, it has
// `stile start` run first.
func (s *session) connect(start bool) {
	err := error(syscall.ENOENT)
	if !start {
		err = s.dial()
	}
	if err == syscall.ENOENT || err == syscall.ECONNREFUSED {
		s.start()
		err = s.dial()
	}
	if err != nil {
		fail(&wire.Error{Code: 125, What: "distro " + s.call.Distro, Why: "connect to its machine: " + err.Error(),
			Hint: "see: stile status"})
	}
}

// dial connects to the machine's socket. While the machine is too busy to take
// the connection, signals have their usual effect.
func (s *session) dial() error {
	path, err := readLink(s.call.Home + "/" + wire.SocketLink)
	if err != nil {
		return syscall.ENOENT
	}
	if len(path) > maxSocketPath {
		dir, base := split(path)
		fd, err := syscall.Open(dir, oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		path = "/proc/self/fd/" + decimal(fd) + "/" + base
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	limit := syscall.Timeval{Usec: 50_000}
	syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit)
	for {
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
		if err != syscall.EAGAIN && err != syscall.EINTR {
			break
		}
		s.signals.local()
	}
	if err != nil {
		syscall.Close(fd)
		return err
	}
	syscall.SetNonblock(fd, true)
	s.socket = fd
	return nil
}

// start has the machine started, or waits until somebody else's start is done. That
// of a distro that is lent `stile start` starts as its owner.
// What goes wrong is said by `stile start`.
func (s *session) start() {
	c := s.call
	why := ""
	env := early.Env()
	if c.lent {
		for _, e := range c.Start {
			env = replace(env, e)
		}
	}
	pid, err := spawn(c.Stile, []string{c.Stile, "start", "--quiet", c.Distro}, env)
	if err != nil {
		why = err.Error()
	} else if status := s.wait(pid); status != 0 {
		if status != 127<<8 {
			exit(125) // it has said why
		}
		why = "cannot be executed"
	}
	if why != "" {
		fail(&wire.Error{Code: 125, What: "start distro " + c.Distro, Why: c.Stile + ": " + why,
			Hint: "make the links again with: stile link"})
	}
}

// wait waits for a child. Signals have their usual effect meanwhile.
func (s *session) wait(pid int) (status syscall.WaitStatus) {
	fds := []pollFD{{fd: int32(s.signals.fd), events: pollIn}, {fd: int32(s.signals.pipe), events: pollIn}, {fd: -1, events: pollIn}}
	if fd, _, e := syscall.RawSyscall(sysPidFDOpen, uintptr(pid), 0, 0); e == 0 {
		fds[2].fd = int32(fd)
		defer syscall.Close(int(fd))
	}
	for fds[2].fd >= 0 {
		poll(fds, true)
		s.signals.local()
		if fds[2].revents != 0 {
			break
		}
	}
	for {
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			return status
		}
	}
}

// spawn starts a program as the shim itself was started: same ignored and blocked
// signals, same limit of open files. It gets /dev/null as standard input, standard
// error as both outputs, and no other descriptor, for a machine that it starts
// would keep the caller's pipes open.
func spawn(path string, argv, env []string) (pid int, err error) {
	const xOK = 1
	if err := syscall.Access(path, xOK); err != nil {
		return 0, err
	}
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(null)
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		return 0, err
	}
	args, err := syscall.SlicePtrFromStrings(argv)
	if err != nil {
		return 0, err
	}
	vars, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return 0, err
	}
	var files [2]uint64
	files[0], files[1] = early.Files()
	sigmask(sigBlock, killers) // the child would write them to this process's pipe
	defer sigmask(sigUnblock, killers)
	n, e := fork(p, &args[0], &vars[0], null, &files, early.Ignored(), early.Blocked())
	if e != 0 {
		return 0, e
	}
	return n, nil
}

// fork is fork(2), and execve(2) in the child. Package syscall's own gives the
// child this thread's blocked signals: all of them. The child shares no memory
// with the shim; between the two calls it makes only system calls, as nothing
// else is safe in a copy of one thread of a Go program.
//
//go:norace
//go:noinline
//go:nocheckptr
func fork(path *byte, argv, envp **byte, null int, files *[2]uint64, ignored, blocked uint64) (int, syscall.Errno) {
	ignore := sigAction{handler: 1}
	pid, _, e := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 || pid != 0 {
		return int(pid), e
	}
	for n := uintptr(1); n <= 64; n++ {
		if ignored>>(n-1)&1 != 0 {
			syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&ignore)), 0, 8, 0, 0)
		}
	}
	syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, rlimitNoFile, uintptr(unsafe.Pointer(files)), 0, 0, 0)
	syscall.RawSyscall(syscall.SYS_DUP3, uintptr(null), 0, 0)
	syscall.RawSyscall(syscall.SYS_DUP3, 2, 1, 0)
	if _, _, e := syscall.RawSyscall(sysCloseRange, 3, 1<<31-1, 0); e != 0 { // before Linux 5.9
		for fd := uintptr(3); fd < 4096; fd++ {
			syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
		}
	}
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(&blocked)), 0, 8, 0, 0)
	syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(argv)), uintptr(unsafe.Pointer(envp)))
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
