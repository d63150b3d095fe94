// Package sock is what guestinit needs of stream sockets: vsock in a guest, unix
// sockets in tests. It waits in the runtime's poller, so that no thread is held
// by an idle stream, and does without package net, whose start a slow guest
// would pay for at each boot.
package sock

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bufferSize is how much a vsock socket takes in before its peer must wait.
// Linux caps the sender's credit by the same number (256 KiB at first), see
// net/vmw_vsock/virtio_transport_common.c.
const bufferSize = 1 << 20

// A Conn is a connected stream socket. Its methods may be used by several
// goroutines at once.
type Conn struct {
	file *os.File
	raw  syscall.RawConn
}

// New returns a Conn that owns the descriptor fd.
func New(fd int) (*Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), "stream")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Conn{file: f, raw: raw}, nil
}

// Read reads what is there, and io.EOF after the peer's half-close.
func (c *Conn) Read(b []byte) (int, error) { return c.file.Read(b) }

// Write writes all of b.
func (c *Conn) Write(b []byte) (int, error) { return c.file.Write(b) }

// ReadFunc calls f, which must not block, each time the socket may have become
// readable, until f returns true.
func (c *Conn) ReadFunc(f func(fd uintptr) bool) error { return c.raw.Read(f) }

// SetReadDeadline bounds the reads that follow; the zero time lifts it.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.file.SetReadDeadline(t) }

// CloseRead says that no more is read: the peer's writes fail.
func (c *Conn) CloseRead() error { return c.shutdown(unix.SHUT_RD) }

// CloseWrite ends this direction: the peer reads end of file.
func (c *Conn) CloseWrite() error { return c.shutdown(unix.SHUT_WR) }

func (c *Conn) shutdown(how int) error {
	var err error
	if cerr := c.raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), how) }); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("shutdown", err)
}

// Close closes the socket. What was written still reaches the peer.
func (c *Conn) Close() error { return c.file.Close() }

// A Listener accepts stream connections.
type Listener struct {
	file *os.File
	raw  syscall.RawConn
}

// ListenVsock listens on a vsock port for connections from any CID.
func ListenVsock(port uint32) (*Listener, error) {
	return listen(unix.AF_VSOCK, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})
}

// ListenUnix listens on a unix socket; tests stand in for a host with it.
func ListenUnix(path string) (*Listener, error) {
	return listen(unix.AF_UNIX, &unix.SockaddrUnix{Name: path})
}

func listen(family int, sa unix.Sockaddr) (*Listener, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if family == unix.AF_VSOCK {
		setBuffer(fd) // accepted sockets take it over
	}
	if err := unix.Bind(fd, sa); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, 4096); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("listen", err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Listener{file: f, raw: raw}, nil
}

// Accept waits for the next connection.
func (l *Listener) Accept() (*Conn, error) {
	for {
		var fd int
		var err error
		cerr := l.raw.Read(func(s uintptr) bool {
			fd, _, err = unix.Accept4(int(s), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return err != unix.EAGAIN
		})
		switch {
		case cerr != nil:
			return nil, cerr
		case err == unix.EINTR || err == unix.ECONNABORTED:
			continue
		case err != nil:
			return nil, os.NewSyscallError("accept", err)
		}
		return New(fd)
	}
}

// Close stops listening; Accept returns with an error.
func (l *Listener) Close() error { return l.file.Close() }

// DialVsock connects to a vsock address, within the kernel's own limit of two
// seconds.
func DialVsock(cid, port uint32) (*Conn, error) {
	for {
		// A signal (the Go runtime's own, too) makes the kernel give the
		// connection up (vsock_connect in net/vmw_vsock/af_vsock.c).
		if c, err := dialVsock(cid, port); !errors.Is(err, unix.EINTR) {
			return c, err
		}
	}
}

func dialVsock(cid, port uint32) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	setBuffer(fd)
	// Blocking: at boot nothing else is to be done, and a poller's round trip costs more.
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: port}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return New(fd)
}

// setBuffer raises the receive window; a kernel that refuses keeps its default.
func setBuffer(fd int) {
	for _, opt := range []uintptr{unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE, unix.SO_VM_SOCKETS_BUFFER_SIZE} {
		v := uint64(bufferSize)
		// unsafe: the option is a 64-bit integer, for which x/sys has no call.
		unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.AF_VSOCK, opt, uintptr(unsafe.Pointer(&v)), 8, 0)
	}
}

var _ io.ReadWriteCloser = (*Conn)(nil)
