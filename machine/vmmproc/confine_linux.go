package vmmproc

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errNoSeccomp says that the host's kernel has no seccomp filters.
var errNoSeccomp = errors.New("the host's kernel has no seccomp filters")

// confine takes from this process, all of its threads and for good, what it has
// no use for and whoever took it over would: to execute, to make processes and
// sockets, to signal and look into others, to change the host. Such calls fail
// with EPERM.
//
// What it opens is not bounded here: shares come and go, and a path is nothing
// that a filter could look at. The file server opens below descriptors of its
// shares only.
func confine() error {
	// Both calls are about one thread; TSYNC takes the others along.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Without it only root may filter, and what is executed could gain rights.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	filter := denials(uint32(os.Getpid())).program()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// SPEC_ALLOW: the mitigation that older kernels tie to a filter (SSBD) would
	// slow the guest down, whose vCPUs are threads of this process.
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog))) // the kernel copies it
	runtime.KeepAlive(filter)
	switch {
	case errno == unix.ENOSYS || errno == unix.EINVAL:
		return errNoSeccomp
	case errno != 0:
		return fmt.Errorf("filter system calls: %w", errno)
	case thread != 0:
		return fmt.Errorf("filter system calls: thread %d has another filter", thread)
	}
	return nil
}

// A denial is a system call that is refused: with errno, or only if its first
// argument is not, or has not the bits of, a value.
type denial struct {
	call  uint32
	errno unix.Errno
	allow allowance
	value uint32
}

type allowance int

const (
	never   allowance = iota
	ifEqual           // the first argument is value
	ifBits            // the first argument has a bit of value
)

type denialList []denial

// denials are the calls that the process pid is refused.
func denials(pid uint32) denialList {
	list := denialList{
		// Go's runtime makes threads by clone; the C library, which has that of
		// clone3 in a place that no filter sees, goes on with clone after ENOSYS.
		{call: unix.SYS_CLONE, errno: unix.EPERM, allow: ifBits, value: unix.CLONE_THREAD},
		{call: unix.SYS_CLONE3, errno: unix.ENOSYS},
		// Signals to itself: preemption, and kicks of vCPUs.
		{call: unix.SYS_TGKILL, errno: unix.EPERM, allow: ifEqual, value: pid},
		{call: unix.SYS_KILL, errno: unix.EPERM, allow: ifEqual, value: pid},
	}
	for _, call := range append([]uint32{
		unix.SYS_EXECVE, unix.SYS_EXECVEAT,
		unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, // all of its sockets are inherited or passed
		unix.SYS_TKILL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO, unix.SYS_PIDFD_SEND_SIGNAL,
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
		unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_CHROOT, unix.SYS_PIVOT_ROOT,
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_FSCONFIG, unix.SYS_MOUNT_SETATTR,
		unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP,
		unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
		unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD,
		unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL,
		unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
	}, archDenied...) {
		list = append(list, denial{call: call, errno: unix.EPERM})
	}
	return list
}

// Offsets in struct seccomp_data (seccomp(2)), of which a filter loads words.
const (
	dataCall = 0
	dataArch = 4
	dataArg0 = 16 // its low word: both of our machines are little-endian
)

// program assembles the list.
func (l denialList) program() []unix.SockFilter {
	const (
		load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		atLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		bits    = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret     = unix.BPF_RET | unix.BPF_K
		x32     = 0x40000000 // __X32_SYSCALL_BIT: calls by other numbers
	)
	refuse := func(e unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(e)}
	}
	p := []unix.SockFilter{
		// Calls of a 32-bit program have other numbers, too.
		{Code: load, K: dataArch},
		{Code: equal, K: archAudit, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: load, K: dataCall},
		{Code: atLeast, K: x32, Jf: 1},
		refuse(unix.ENOSYS),
	}
	for _, d := range l {
		if d.allow == never {
			p = append(p, unix.SockFilter{Code: equal, K: d.call, Jf: 1}, refuse(d.errno))
			continue
		}
		test := uint16(equal)
		if d.allow == ifBits {
			test = bits
		}
		p = append(p, unix.SockFilter{Code: equal, K: d.call, Jf: 4},
			unix.SockFilter{Code: load, K: dataArg0},
			unix.SockFilter{Code: test, K: d.value, Jf: 1},
			unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
			refuse(d.errno))
	}
	return append(p, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
}
