package broker

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// An output is our end of what the command writes: a pipe, a socket, a pty's master.
type output struct {
	f      *os.File
	raw    syscall.RawConn
	broker *Broker

	mu      sync.Mutex
	count   uint64 // bytes read
	extra   []byte // read ahead of pump
	closed  bool
	pumping bool
	keep    bool // the command has ended: what it left is not to die of writing
}

func newOutput(b *Broker, f *os.File) *output {
	o := &output{f: f, broker: b}
	o.raw, _ = f.SyscallConn() // fails for a closed file only
	return o
}

// take reads what there is into buf and counts. io.EOF says that nobody can write
// any more.
func (o *output) take(buf []byte) (n int, err error) {
	rerr := o.raw.Read(func(fd uintptr) bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		if len(o.extra) > 0 {
			n, err = copy(buf, o.extra), nil // err may be of the call before
			o.extra = o.extra[n:]
			return true
		}
		n, err = o.read(fd, buf)
		return err != unix.EAGAIN
	})
	if rerr != nil {
		return 0, rerr
	}
	return max(n, 0), err
}

// read is one read(2), counted. The caller holds mu.
func (o *output) read(fd uintptr, buf []byte) (n int, err error) {
	for {
		if n, err = unix.Read(int(fd), buf); err != unix.EINTR {
			break
		}
	}
	switch {
	case err == unix.EAGAIN:
		return 0, err
	case n > 0:
		o.count += uint64(n)
		return n, nil
	}
	return 0, io.EOF // EIO of a pty whose slave nobody has open
}

// maxExtra bounds what is read ahead: more than a pipe or a pty holds.
const maxExtra = 1 << 20

// given is how many bytes have been written so far: those that have been read and
// those that wait, which are read here, for nothing says how many a pty holds.
func (o *output) given() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return o.count
	}
	o.raw.Control(func(fd uintptr) {
		buf := make([]byte, pumpSize)
		for len(o.extra) < maxExtra {
			n, err := o.read(fd, buf)
			if err != nil {
				return
			}
			o.extra = append(o.extra, buf[:n]...)
		}
	})
	return o.count
}

// last is given at the command's end.
func (o *output) last() uint64 {
	o.mu.Lock()
	o.keep = true
	o.mu.Unlock()
	return o.given()
}

// pump gives the stream what the command writes, until nobody can write any more or
// the guest reads no more.
func (o *output) pump(conn *net.UnixConn) {
	o.mu.Lock()
	o.pumping = true
	o.mu.Unlock()
	defer context.AfterFunc(o.broker.ctx, o.close)()
	defer o.close()
	buf := make([]byte, pumpSize)
	for {
		n, err := o.take(buf)
		if n > 0 && conn != nil {
			if _, werr := conn.Write(buf[:n]); werr != nil {
				if !o.kept() {
					return
				}
				conn = nil
			}
		}
		if err != nil {
			if conn != nil {
				conn.CloseWrite()
			}
			return
		}
	}
}

func (o *output) kept() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.keep
}

// unread is for an output that nobody in the guest reads any more: its writers get
// SIGPIPE, unless the command has ended.
func (o *output) unread() {
	if !o.kept() {
		o.close()
	}
}

// release ends the output with its session, but for what the command has left.
func (o *output) release() {
	o.mu.Lock()
	orphan := o.keep && !o.pumping && !o.closed
	if orphan {
		o.pumping = true
	}
	keep := o.keep
	o.mu.Unlock()
	switch {
	case orphan:
		go o.pump(nil)
	case !keep:
		o.close()
	}
}

func (o *output) close() {
	o.mu.Lock()
	first := !o.closed
	o.closed = true
	o.mu.Unlock()
	if first {
		o.f.Close()
	}
}
