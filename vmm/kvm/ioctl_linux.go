package kvm

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The numbers of include/uapi/linux/kvm.h, made as _IO and its kin make them
// (include/uapi/asm-generic/ioctl.h).
const (
	kvmIO = 0xae

	dirNone  = 0
	dirWrite = 1 << 30
	dirRead  = 2 << 30
)

func ioctlNumber(dir, nr, size uintptr) uintptr { return dir | size<<16 | kvmIO<<8 | nr }

// apiVersion is the only one that there ever was.
const apiVersion = 12

// An ioctlError is a KVM request that was refused.
type ioctlError struct {
	name  string
	errno unix.Errno
}

func (e *ioctlError) Error() string { return e.name + ": " + e.errno.Error() }
func (e *ioctlError) Unwrap() error { return e.errno }

// ioctl makes a request whose argument is a value. EINTR is never retried here:
// for KVM_RUN it is how a kick arrives, and the others don't have it.
func ioctl(fd int, name string, number, arg uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, arg)
	if errno != 0 {
		return 0, &ioctlError{name, errno}
	}
	return int(n), nil
}

// ioctlPtr makes a request whose argument is a struct of T, or begins with one.
func ioctlPtr[T any](fd int, name string, number uintptr, arg *T) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, uintptr(unsafe.Pointer(arg))) // the kernel fills or reads it
	if errno != 0 {
		return 0, &ioctlError{name, errno}
	}
	return int(n), nil
}

// checkExtension is a capability's value, 0 where there is none.
func checkExtension(fd int, capability uintptr) (int, error) {
	n, err := ioctl(fd, "KVM_CHECK_EXTENSION", ioctlNumber(dirNone, 0x03, 0), capability)
	if err != nil {
		return 0, fmt.Errorf("capability %d: %w", capability, err)
	}
	return n, nil
}
