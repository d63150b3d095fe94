package vmmproc

import "golang.org/x/sys/unix"

const archAudit = unix.AUDIT_ARCH_AARCH64

// archDenied are refused calls that other machines do not have.
var archDenied []uint32
