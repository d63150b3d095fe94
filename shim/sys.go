package main

import (
	"syscall"
	"unsafe"

	"github.com/stilehq/stile/interop/early"
	"github.com/stilehq/stile/interop/wire"
)

// What package syscall does not name (include/uapi of the kernel; the numbers
// are the same on all architectures that Go knows with 64 bits, but mips, ppc
// and sparc).
const (
	rlimitCPU    = 0
	rlimitFSize  = 1
	rlimitStack  = 3
	rlimitCore   = 4
	rlimitNoFile = 7

	prSetDumpable = 4

	fDupFDQuery = 1024 + 3 // since 6.10
	kcmpFile    = 0

	ioctlTCGETS2    = 0x802c542a
	ioctlTCSETS2    = 0x402c542b
	ioctlTIOCGPGRP  = 0x540f
	ioctlTIOCGWINSZ = 0x5413

	sigBlock   = 0
	sigUnblock = 1

	seekCurrent = 1
	oPath       = 0x200000

	deviceNull = 1<<8 | 3 // /dev/null
	devicePtmx = 5<<8 | 2 // /dev/ptmx, and each master opened by it
)

const (
	pollIn  = 0x1
	pollOut = 0x4
	pollErr = 0x8
	pollHup = 0x10
)

type pollFD struct {
	fd      int32
	events  int16
	revents int16
}

// poll waits for one of fds; a negative descriptor is passed over. With wait
// false it only looks.
func poll(fds []pollFD, wait bool) {
	var none syscall.Timespec
	timeout := &none
	if wait {
		timeout = nil
	}
	for i := range fds {
		fds[i].revents = 0
	}
	syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)),
		uintptr(unsafe.Pointer(timeout)), 0, 0, 0)
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

func fcntl(fd, command, arg int) (int, error) {
	n, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), uintptr(command), uintptr(arg))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// getFlags are the status flags of a descriptor, if it is open.
func getFlags(fd int) (int, bool) {
	n, err := fcntl(fd, syscall.F_GETFL, 0)
	return n, err == nil
}

// duplicate reports whether two descriptors are one open file, and whether the
// kernel could tell: fcntl does since 6.10, kcmp where it is built in and no
// seccomp filter forbids it.
func duplicate(a, b int) (same, known bool) {
	if n, err := fcntl(a, fDupFDQuery, b); err == nil {
		return n == 1, true
	}
	pid := uintptr(syscall.Getpid())
	n, _, e := syscall.RawSyscall6(sysKcmp, pid, pid, kcmpFile, uintptr(a), uintptr(b), 0)
	return n == 0, e == 0
}

func getLimit(resource int, l *wire.Limit) bool {
	var v [2]uint64
	_, _, e := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, uintptr(resource), 0, uintptr(unsafe.Pointer(&v)), 0, 0)
	l.Soft, l.Max = v[0], v[1]
	return e == 0
}

func setLimit(resource int, soft, hard uint64) {
	v := [2]uint64{soft, hard}
	syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, uintptr(resource), uintptr(unsafe.Pointer(&v)), 0, 0, 0)
}

// priority is 20 less the nice value.
func priority() uint8 {
	n, _, e := syscall.RawSyscall(syscall.SYS_GETPRIORITY, 0, 0, 0)
	if e != 0 {
		return 0
	}
	return uint8(n)
}

// readFile reads a file. Only syscall's error values are returned.
func readFile(path string) ([]byte, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	b, err := readAll(fd)
	syscall.Close(fd)
	return b, err
}

// readAll reads an open file from its start.
func readAll(fd int) ([]byte, error) {
	b := make([]byte, 0, 2048)
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := syscall.Pread(fd, b[len(b):cap(b)], int64(len(b)))
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return b, nil
		}
		b = b[:len(b)+n]
	}
}

func readLink(path string) (string, error) {
	var b [4096]byte
	n, err := syscall.Readlink(path, b[:])
	if err != nil || n == 0 {
		return "", syscall.ENOENT
	}
	return string(b[:n]), nil
}

// say writes text to standard error, as far as that takes it at once.
func say(text string) {
	if early.Recorded() && !early.Open(2) {
		return
	}
	look := []pollFD{{fd: 2, events: pollOut}}
	if poll(look, false); look[0].revents != 0 {
		syscall.Write(2, []byte(text))
	}
}

// release lets go of the descriptors that the machine has now, the terminal
// excepted. /dev/null takes the place of standard input and output, so that nothing
// that is opened later is found under these numbers. Standard error stays: were
// the machine its last writer, what the shim has to say when that machine ends
// would find no reader any more.
func release(table []wire.Descriptor) {
	null := -1
	for _, d := range table {
		fd := int(d.Number)
		if fd == 2 || d.Kind == wire.KindClosed || d.Kind == wire.KindTerminal || d.Kind == wire.KindNull {
			continue
		}
		if fd > 2 {
			syscall.Close(fd)
			continue
		}
		if null < 0 {
			null, _ = syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		}
		if null < 0 || syscall.Dup3(null, fd, 0) != nil {
			syscall.Close(fd)
		}
	}
	if null >= 0 {
		syscall.Close(null)
	}
}

// printError prints an error of stile's own: its line, and the hint below.
func printError(e *wire.Error) {
	text := "stile: " + e.Error() + "\n"
	if e.Hint != "" {
		text += "stile: " + e.Hint + "\n"
	}
	say(text)
}

// fail ends the shim with an error of stile's own.
func fail(e *wire.Error) {
	printError(e)
	exit(int(e.Code))
}

func exit(code int) {
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, uintptr(code), 0, 0)
	}
}
