package vmmproc

import "golang.org/x/sys/unix"

const archAudit = unix.AUDIT_ARCH_X86_64

// archDenied are refused calls that other machines do not have.
var archDenied = []uint32{unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT, unix.SYS_USELIB}
