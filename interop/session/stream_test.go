package session

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A fakeConn is one end of a stream between the vmm process and guestinit, with
// the manners of a vsock connection and a guest that can misbehave: it may give no
// credit, reset, and read nothing.
type fakeConn struct {
	shared *sync.Mutex
	wake   *sync.Cond
	peer   *fakeConn

	in                              []byte // received, not read
	credit                          int    // how much in may hold
	readClosed, writeClosed, closed bool
	reset                           bool
	readBy, writeBy                 time.Time
	peerNoRead                      chan struct{}
	peerNoReadClosed                bool
}

var _ Conn = (*fakeConn)(nil)

var errReset = &net.OpError{Op: "read", Net: "fake", Err: syscall.ECONNRESET}

const fakeCredit = 64 << 10

func fakePair() (host, guest *fakeConn) {
	mu := new(sync.Mutex)
	cond := sync.NewCond(mu)
	host = &fakeConn{shared: mu, wake: cond, credit: fakeCredit, peerNoRead: make(chan struct{})}
	guest = &fakeConn{shared: mu, wake: cond, credit: fakeCredit, peerNoRead: make(chan struct{}), peer: host}
	host.peer = guest
	return host, guest
}

func expired(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (c *fakeConn) Read(b []byte) (int, error) {
	c.shared.Lock()
	defer c.shared.Unlock()
	for {
		switch {
		case expired(c.readBy):
			return 0, os.ErrDeadlineExceeded
		case c.closed:
			return 0, net.ErrClosed
		case c.readClosed:
			return 0, io.EOF
		case len(c.in) > 0:
			n := copy(b, c.in)
			if c.in = c.in[n:]; len(c.in) == 0 {
				c.in = nil
			}
			c.wake.Broadcast()
			return n, nil
		case c.reset:
			return 0, errReset
		case c.peer.writeClosed:
			return 0, io.EOF
		}
		c.wake.Wait()
	}
}

func (c *fakeConn) Write(b []byte) (int, error) {
	c.shared.Lock()
	defer c.shared.Unlock()
	done := 0
	for {
		switch {
		case expired(c.writeBy):
			return done, os.ErrDeadlineExceeded
		case c.closed:
			return done, net.ErrClosed
		case c.writeClosed, c.peer.readClosed:
			return done, syscall.EPIPE
		case c.reset:
			return done, errReset
		}
		n := min(max(c.peer.credit-len(c.peer.in), 0), len(b)-done)
		c.peer.in = append(c.peer.in, b[done:done+n]...)
		if done += n; n > 0 {
			c.wake.Broadcast()
		}
		if done == len(b) {
			return done, nil
		}
		c.wake.Wait()
	}
}

func (c *fakeConn) noMoreReads() {
	c.readClosed, c.in = true, nil
	if p := c.peer; !p.peerNoReadClosed {
		p.peerNoReadClosed = true
		close(p.peerNoRead)
	}
}

func (c *fakeConn) do(f func()) error {
	c.shared.Lock()
	defer c.shared.Unlock()
	f()
	c.wake.Broadcast()
	return nil
}

func (c *fakeConn) CloseRead() error  { return c.do(c.noMoreReads) }
func (c *fakeConn) CloseWrite() error { return c.do(func() { c.writeClosed = true }) }
func (c *fakeConn) Close() error {
	return c.do(func() {
		c.closed, c.writeClosed = true, true
		c.noMoreReads()
	})
}

// abort ends both ends at once.
func (c *fakeConn) abort() {
	c.do(func() {
		c.reset, c.peer.reset = true, true
		c.noMoreReads()
	})
}

// setCredit changes how much is taken in before the peer must wait.
func (c *fakeConn) setCredit(n int)                 { c.do(func() { c.credit = n }) }
func (c *fakeConn) PeerReadClosed() <-chan struct{} { return c.peerNoRead }

func (c *fakeConn) SetReadDeadline(t time.Time) error {
	return c.do(func() { c.readBy = t; c.wakeAt(t) })
}
func (c *fakeConn) SetWriteDeadline(t time.Time) error {
	return c.do(func() { c.writeBy = t; c.wakeAt(t) })
}
func (c *fakeConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *fakeConn) wakeAt(t time.Time) {
	if d := time.Until(t); d > 0 && !t.IsZero() {
		time.AfterFunc(d, c.wake.Broadcast)
	}
}

func (c *fakeConn) LocalAddr() net.Addr  { return nil }
func (c *fakeConn) RemoteAddr() net.Addr { return nil }
