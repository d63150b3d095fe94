package spawn

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What runs in this file runs in processes that share guestinit's memory and
// nothing else of it: no thread of the Go runtime, a foreign stack, all signals
// blocked. The rules are those of syscall.forkAndExecInChild1: nosplit
// functions, raw system calls, no allocation, no pointer stored (a collection
// may be under way, and its write barrier belongs to the runtime), and a frame
// each so small that the linker's nosplit check passes. They read a plan that
// its owner keeps alive, and write only to the plan's scalars.

// A record is one report on the shared pipe, written in one piece.
type record struct {
	tag  uint64
	kind uint32
	pid  int32
	a, b int32
}

const recordSize = 24

// Kinds of records.
const (
	recStarted = 1 // pid of the command in its namespace
	recFailed  = 2 // a = stage, b = errno, pid = index of the path
	recStatus  = 3 // a = wait status
	recReady   = 4 // of the reaper: a = stage, b = errno
	recReaped  = 5 // of the reaper: pid of an orphan
)

// Stages at which a start can fail.
const (
	stageFork    = 1
	stageFiles   = 2
	stageUser    = 3
	stageDir     = 4
	stageExec    = 5
	stageCgroup  = 6
	stageProc    = 7
	stageMountCG = 8
)

// Operations that a sitter performs on SIGRTMIN+8 with op<<24|argument.
const (
	sigOperate = 42
	opKill     = 1 // signal to the command alone
	opKillAll  = 2 // signal to its process group
	opForeSelf = 3 // the terminal's foreground is the sitter's own group
	opForeCmd  = 4 // ... the group given by the command's pid
)

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// A limit is struct rlimit64 with its resource.
type limit struct {
	resource  uint64
	soft, max uint64
}

// sigaction is the kernel's struct.
type sigaction struct{ handler, flags, restorer, mask uint64 }

var (
	ignore     = sigaction{handler: 1}
	sitterName = []byte("stile-sitter\x00")
	reaperName = []byte("stile-reaper\x00")
	devTTY     = []byte("/dev/tty\x00")
	slashDir   = []byte("/\x00")
	binSh      = []byte("/bin/sh\x00")
	strProc    = []byte("proc\x00")
	dirProc    = []byte("/proc\x00")
	strCgroup  = []byte("cgroup2\x00")
	dirCgroup  = []byte("/sys/fs/cgroup\x00")
)

// A plan is all that sitter and command need, laid out before the clone.
type plan struct {
	sitterClone, commandClone cloneArgs
	commandEntry              uintptr

	// the sitter's
	tag     uint64
	report  int32
	slave   int32 // -1 without a terminal
	gaps    [][2]uint32
	waitSet uint64
	info    [16]uint64 // siginfo_t
	rec     record
	status  int32
	usage   unix.Rusage // of the command, once it has ended
	child   int32
	group   int32

	cgroup bool // the reaper's: it has a cgroup of its own

	// the command's
	foreground bool
	dups       [][2]int32
	umask      uint32
	limits     []limit
	setUser    bool
	uid, gid   uint32
	groups     []uint32
	dir, home  uintptr // home is 0 where a missing dir is an error
	ignored    uint64
	blocked    uint64
	nice       int32
	paths      []uintptr
	argv, envv uintptr
	shArgv     []uintptr // sh, path, arguments: for a script without #!
	head       [80]byte

	// what the command leaves on failure
	stage, errno, index int32

	keep any // what the addresses above point into
}

// clone3 is in clone_amd64.s.
//
//go:noescape
func clone3(args *cloneArgs, entry uintptr, p unsafe.Pointer) uintptr

func sitterEntry() uintptr
func commandEntry() uintptr
func reaperEntry() uintptr

// failed reports whether the result of a raw clone3 is an error.
//
//go:nosplit
//go:norace
func failed(r uintptr) bool { return r > ^uintptr(4095) }

// send writes p.rec to the report pipe.
//
//go:nosplit
//go:norace
func send(p *plan, kind uint32, pid, a, b int32) {
	p.rec.tag, p.rec.kind, p.rec.pid, p.rec.a, p.rec.b = p.tag, kind, pid, a, b
	for {
		_, _, e := syscall.RawSyscall(unix.SYS_WRITE, uintptr(p.report), uintptr(unsafe.Pointer(&p.rec)), recordSize)
		if e != syscall.EINTR {
			return
		}
	}
}

// sitter is the leader of a session and the parent of its command.
//
//go:nosplit
//go:norace
//go:nocheckptr
func sitter(p *plan) {
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&sitterName[0])), 0)
	// At once: a copy of another session's pipe would hold back its end of file.
	for i := range p.gaps {
		syscall.RawSyscall(unix.SYS_CLOSE_RANGE, uintptr(p.gaps[i][0]), uintptr(p.gaps[i][1]), 0)
	}
	syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	if p.slave >= 0 {
		syscall.RawSyscall(unix.SYS_IOCTL, uintptr(p.slave), unix.TIOCSCTTY, 0)
	}

	r := clone3(&p.commandClone, p.commandEntry, unsafe.Pointer(p))
	if failed(r) {
		send(p, recFailed, 0, stageFork, int32(-r))
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	p.child = int32(r)
	// CLONE_VFORK: the command has been executed by now, or has ended.
	if p.stage != 0 {
		syscall.RawSyscall6(unix.SYS_WAIT4, r, uintptr(unsafe.Pointer(&p.status)), unix.WALL, 0, 0, 0)
		send(p, recFailed, p.index, p.stage, p.errno)
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	if p.report > 0 {
		syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 0, uintptr(p.report)-1, 0)
	}
	syscall.RawSyscall(unix.SYS_CLOSE_RANGE, uintptr(p.report)+1, uintptr(^uint32(0)), 0)
	send(p, recStarted, p.child, 0, 0)

	for {
		s, _, _ := syscall.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&p.waitSet)), uintptr(unsafe.Pointer(&p.info)), 0, 8, 0, 0)
		if s == uintptr(unix.SIGCHLD) {
			sitterWait(p)
		} else if s == sigOperate && int32(p.info[2]) == 0 {
			// si_pid 0: from outside of the pid namespace, that is guestinit.
			sitterOperate(p, uint32(p.info[3]))
		}
	}
}

// sitterWait reports each change of the command's state. A sitter without a
// terminal has nothing to lead once the command has ended.
//
//go:nosplit
//go:norace
func sitterWait(p *plan) {
	for p.child != 0 {
		r, _, e := syscall.RawSyscall6(unix.SYS_WAIT4, uintptr(p.child), uintptr(unsafe.Pointer(&p.status)),
			unix.WNOHANG|unix.WUNTRACED|unix.WCONTINUED|unix.WALL, uintptr(unsafe.Pointer(&p.usage)), 0, 0)
		if e == syscall.EINTR {
			continue
		}
		if e != 0 || r == 0 {
			return
		}
		ended := p.status&0xff != 0x7f && p.status != 0xffff
		child := p.child
		if ended {
			p.child = 0
		}
		send(p, recStatus, child, p.status, 0)
		if ended && p.slave < 0 {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
}

// sitterOperate does what guestinit asks for. Signals go to the command only
// while it has not been waited for, so never to a stranger with its number.
//
//go:nosplit
//go:norace
func sitterOperate(p *plan, op uint32) {
	arg := uintptr(op & 0xffffff)
	switch op >> 24 {
	case opKill:
		if p.child != 0 {
			syscall.RawSyscall(unix.SYS_KILL, uintptr(p.child), arg, 0)
		}
	case opKillAll:
		if p.child != 0 {
			syscall.RawSyscall(unix.SYS_KILL, uintptr(-p.child), arg, 0)
		}
	case opForeSelf, opForeCmd:
		// The sitter keeps no descriptor of the terminal, so that the master
		// sees when nobody else has one.
		fd, _, e := syscall.RawSyscall(unix.SYS_OPEN, uintptr(unsafe.Pointer(&devTTY[0])), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if e != 0 {
			return
		}
		p.group = int32(arg)
		if op>>24 == opForeSelf {
			pid, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
			p.group = int32(pid)
		}
		syscall.RawSyscall(unix.SYS_IOCTL, fd, unix.TIOCSPGRP, uintptr(unsafe.Pointer(&p.group)))
		syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
}

// command becomes the user's program.
//
//go:nosplit
//go:norace
//go:nocheckptr
func command(p *plan) {
	var e syscall.Errno
	syscall.RawSyscall(unix.SYS_SETPGID, 0, 0, 0)
	if p.slave >= 0 && p.foreground {
		pid, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
		p.group = int32(pid)
		syscall.RawSyscall(unix.SYS_IOCTL, uintptr(p.slave), unix.TIOCSPGRP, uintptr(unsafe.Pointer(&p.group)))
	}
	// No source is a target too (see lay), so the order does not matter. Before
	// the limits: RLIMIT_NOFILE bounds new descriptors only.
	for i := range p.dups {
		if _, _, e = syscall.RawSyscall(unix.SYS_DUP3, uintptr(p.dups[i][0]), uintptr(p.dups[i][1]), 0); e != 0 {
			giveUp(p, stageFiles, e)
		}
	}
	syscall.RawSyscall(unix.SYS_UMASK, uintptr(p.umask), 0, 0)
	for i := range p.limits {
		// A limit that the kernel refuses stays as it is.
		syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(p.limits[i].resource), uintptr(unsafe.Pointer(&p.limits[i].soft)), 0, 0, 0)
	}
	if p.nice != 0 { // while it may
		syscall.RawSyscall(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, uintptr(p.nice))
	}
	if p.setUser {
		var list uintptr
		if len(p.groups) > 0 {
			list = uintptr(unsafe.Pointer(&p.groups[0]))
		}
		if _, _, e = syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(p.groups)), list, 0); e != 0 {
			giveUp(p, stageUser, e)
		}
		if _, _, e = syscall.RawSyscall(unix.SYS_SETRESGID, uintptr(p.gid), uintptr(p.gid), uintptr(p.gid)); e != 0 {
			giveUp(p, stageUser, e)
		}
		if _, _, e = syscall.RawSyscall(unix.SYS_SETRESUID, uintptr(p.uid), uintptr(p.uid), uintptr(p.uid)); e != 0 {
			giveUp(p, stageUser, e)
		}
	}
	// As the user: a folder that root may enter is not one that the user may.
	if _, _, e = syscall.RawSyscall(unix.SYS_CHDIR, p.dir, 0, 0); e != 0 {
		if p.home == 0 {
			giveUp(p, stageDir, e)
		}
		if _, _, e = syscall.RawSyscall(unix.SYS_CHDIR, p.home, 0, 0); e != 0 {
			syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(&slashDir[0])), 0, 0)
		}
	}
	for s := uintptr(1); s <= 64; s++ {
		if p.ignored&(1<<(s-1)) != 0 {
			syscall.RawSyscall6(unix.SYS_RT_SIGACTION, s, uintptr(unsafe.Pointer(&ignore)), 0, 8, 0, 0)
		}
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&p.blocked)), 0, 8, 0, 0)
	execute(p)
}

// execute tries each path, as execvp(3) does.
//
//go:nosplit
//go:norace
//go:nocheckptr
func execute(p *plan) {
	denied := false
	last := syscall.ENOENT
	for i := range p.paths {
		_, _, e := syscall.RawSyscall(unix.SYS_EXECVE, p.paths[i], p.argv, p.envv)
		if e == syscall.ENOEXEC && isScript(p, p.paths[i]) {
			p.shArgv[1] = p.paths[i]
			_, _, e = syscall.RawSyscall(unix.SYS_EXECVE, p.shArgv[0], uintptr(unsafe.Pointer(&p.shArgv[0])), p.envv)
		}
		switch e {
		case syscall.EACCES:
			if !denied {
				denied, p.index = true, int32(i)
			}
		case syscall.ENOENT, syscall.ENOTDIR, syscall.ESTALE, syscall.ENODEV, syscall.ETIMEDOUT:
			last = e
		default:
			p.index = int32(i)
			giveUp(p, stageExec, e)
		}
	}
	if denied {
		last = syscall.EACCES
	}
	giveUp(p, stageExec, last)
}

// isScript tells a text from a binary of some other machine as bash does: by a
// NUL in its first line. Shells run the former with sh.
//
//go:nosplit
//go:norace
func isScript(p *plan, path uintptr) bool {
	fd, _, e := syscall.RawSyscall(unix.SYS_OPEN, path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if e != 0 {
		return false
	}
	n, _, e := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&p.head)), uintptr(len(p.head)))
	syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	if e != 0 || n > uintptr(len(p.head)) {
		return false
	}
	for i := uintptr(0); i < n; i++ {
		if p.head[i] == 0 {
			return false
		}
		if p.head[i] == '\n' {
			return true
		}
	}
	return true
}

// giveUp leaves the reason in the plan, for the sitter, and ends the process.
//
//go:nosplit
//go:norace
func giveUp(p *plan, stage int32, e syscall.Errno) {
	p.stage, p.errno = stage, int32(e)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// reaper is PID 1 of the distro's pid namespace. It makes the mounts that only
// a process inside of the namespaces can make, then waits for orphans and says
// when one has ended.
//
//go:nosplit
//go:norace
func reaper(p *plan) {
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&reaperName[0])), 0)
	// guestinit never ends, but its tests do.
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	if p.report > 0 {
		syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 0, uintptr(p.report)-1, 0)
	}
	syscall.RawSyscall(unix.SYS_CLOSE_RANGE, uintptr(p.report)+1, uintptr(^uint32(0)), 0)
	syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	stage := int32(0)
	_, _, e := syscall.RawSyscall6(unix.SYS_MOUNT, uintptr(unsafe.Pointer(&strProc[0])), uintptr(unsafe.Pointer(&dirProc[0])),
		uintptr(unsafe.Pointer(&strProc[0])), flags, 0, 0)
	if e != 0 {
		stage = stageProc
	} else if p.cgroup {
		if _, _, e = syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP, 0, 0); e != 0 {
			stage = stageCgroup
		} else if _, _, e = syscall.RawSyscall6(unix.SYS_MOUNT, uintptr(unsafe.Pointer(&strCgroup[0])), uintptr(unsafe.Pointer(&dirCgroup[0])),
			uintptr(unsafe.Pointer(&strCgroup[0])), flags, 0, 0); e != 0 {
			stage = stageMountCG
		}
	}
	send(p, recReady, 0, stage, int32(e))
	for {
		r, _, e := syscall.RawSyscall6(unix.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&p.status)), unix.WALL, 0, 0, 0)
		if e == syscall.ECHILD {
			syscall.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&p.waitSet)), uintptr(unsafe.Pointer(&p.info)), 0, 8, 0, 0)
		} else if e == 0 {
			send(p, recReaped, int32(r), p.status, 0)
		}
	}
}
