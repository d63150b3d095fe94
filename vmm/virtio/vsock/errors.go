package vsock

import (
	"net"
	"syscall"
)

// Errors of connections. Each is found by errors.Is behind the *net.OpError
// that methods return, and so is the errno that the same event has on a socket.
var (
	// ErrRefused says that nobody listens on the guest's port (ECONNREFUSED).
	ErrRefused error = &connError{"connection refused by the guest", syscall.ECONNREFUSED}
	// ErrReset says that the guest ended the connection at once, broke the
	// rules on it, or that its driver was reset (ECONNRESET).
	ErrReset error = &connError{"connection reset", syscall.ECONNRESET}
	// ErrPeerClosed says that the guest's end reads no more (EPIPE).
	ErrPeerClosed error = &connError{"the guest reads no more", syscall.EPIPE}
	// ErrWriteClosed is returned by a Write after CloseWrite (EPIPE).
	ErrWriteClosed error = &connError{"write after CloseWrite", syscall.EPIPE}
	// ErrDeviceClosed says that the device is gone for good (ENODEV).
	ErrDeviceClosed error = &connError{"vsock device is closed", syscall.ENODEV}
	// ErrPortInUse says that something listens on the host's port already
	// (EADDRINUSE).
	ErrPortInUse error = &connError{"port is in use", syscall.EADDRINUSE}
	// ErrTooMany says that the device carries as many connections as it may
	// (EMFILE).
	ErrTooMany error = &connError{"too many connections", syscall.EMFILE}
)

type connError struct {
	text  string
	errno syscall.Errno
}

func (e *connError) Error() string { return e.text }
func (e *connError) Unwrap() error { return e.errno }

// opError gives err its place, as package net does.
func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
