package vsock

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// closeTimeout is how long a closed connection waits for the guest's reset, as
// Linux does (VSOCK_CLOSE_TIMEOUT).
const closeTimeout = 8 * time.Second

// An Addr is one end of a connection.
type Addr struct {
	CID  uint64
	Port uint32
}

// Network is "vsock".
func (a Addr) Network() string { return "vsock" }

func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

type state uint8

const (
	connecting state = iota // REQUEST is sent or owed
	open
	closing // closed here, SHUTDOWN is sent or owed, the guest's RST is awaited
	over    // no longer known to the device
)

// A Conn is the host's end of a connection. It implements net.Conn and
// io.WriterTo; all methods may be called concurrently, except that Peek and
// Discard belong to one goroutine, which is then the only one that reads.
//
// Whoever got it from Dial or Accept closes it, also after an error: it counts
// against the device's limit until then.
type Conn struct {
	dev      *Device
	key      connKey
	bufAlloc uint32 // receive buffer, told to the guest; does not change

	fwdCnt  atomic.Uint32 // bytes taken out of the receive buffer; written with mu held
	toldFwd atomic.Uint32 // fwdCnt as the guest was told last; written with dev.out.mu held

	rmu, wmu     sync.Mutex    // one Read, one Write at a time
	rwake, wwake chan struct{} // capacity 1: something changed for who waits
	rdl, wdl     deadline

	// The sender's, guarded by dev.out.mu.
	out struct {
		owing, waiting link
		owes           control
		shut           uint32 // flags of SHUTDOWN, sent or owed
		over           bool
	}

	mu           sync.Mutex // what follows
	state        state
	cause        error  // of over
	recv         buffer // bytes received and not taken
	rxCnt        uint32 // bytes received
	txCnt        uint32 // bytes sent
	peerBufAlloc uint32
	peerFwd      uint32
	peerShut     uint32 // flags of the guest's SHUTDOWNs
	readClosed   bool
	writeClosed  bool
	closed       bool // by Close
	linger       *time.Timer

	done, peerNoRead             chan struct{}
	doneClosed, peerNoReadClosed bool

	src []byte // what the Write under way has left; guarded by wmu
}

var (
	_ net.Conn    = (*Conn)(nil)
	_ io.WriterTo = (*Conn)(nil)
)

// newConn makes a Conn and takes one of the device's slots for it, which the
// last of Close and the connection's end gives back. It returns nil if all are
// taken.
func (d *Device) newConn(key connKey, st state) *Conn {
	n := d.count.Add(1)
	if n > maxConns {
		d.count.Add(-1)
		return nil
	}
	return &Conn{dev: d, key: key, state: st,
		bufAlloc: uint32(max(minBufAlloc, min(maxBufAlloc, bufBudget/int(n)))),
		rwake:    make(chan struct{}, 1), wwake: make(chan struct{}, 1),
		done: make(chan struct{}), peerNoRead: make(chan struct{}),
	}
}

// finish ends the connection for the device and frees its ports, with a RST to
// the guest if rst is true. What was received can still be read.
func (c *Conn) finish(cause error, rst bool) {
	c.mu.Lock()
	c.finishLocked(cause, rst)
}

// finishLocked is finish with mu held, which it releases.
func (c *Conn) finishLocked(cause error, rst bool) {
	if c.state == over {
		c.mu.Unlock()
		return
	}
	c.state, c.cause = over, cause
	if c.linger != nil {
		c.linger.Stop()
	}
	c.closeOnce(c.peerNoRead, &c.peerNoReadClosed)
	c.closeOnce(c.done, &c.doneClosed)
	c.wakeReader()
	c.wakeWriter()
	free := c.closed
	c.mu.Unlock()

	d := c.dev
	d.mu.Lock()
	if d.conns[c.key] == c {
		delete(d.conns, c.key)
	}
	d.mu.Unlock()
	d.out.drop(c, rst)
	if free {
		d.count.Add(-1)
	}
}

// closeOnce closes ch; mu is held.
func (c *Conn) closeOnce(ch chan struct{}, closed *bool) {
	if !*closed {
		*closed = true
		close(ch)
	}
}

func (c *Conn) wakeReader() { wake(c.rwake) }
func (c *Conn) wakeWriter() { wake(c.wwake) }

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// LocalAddr is the host's end: an Addr with HostCID.
func (c *Conn) LocalAddr() net.Addr { return Addr{HostCID, c.key.host} }

// RemoteAddr is the guest's end, an Addr.
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.dev.cid, c.key.guest} }

// Done is closed when the connection is over in both directions: the guest's
// end was closed or reset, or is through with what this end had closed, or the
// device was reset. Received bytes may still wait to be read.
func (c *Conn) Done() <-chan struct{} { return c.done }

// PeerReadClosed is closed when the guest's end reads no more, so that each
// Write would return ErrPeerClosed: how a relay learns it that has nothing to
// write at the moment. It is closed at the latest when Done is.
func (c *Conn) PeerReadClosed() <-chan struct{} { return c.peerNoRead }

// SetDeadline sets both deadlines. It never fails.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline makes Read, Peek and WriteTo return os.ErrDeadlineExceeded
// (in a net.Error) at t; the zero time is never. It never fails.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.rdl.set(t)
	c.wakeReader()
	return nil
}

// SetWriteDeadline is SetReadDeadline for Write and WriteFunc.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.wdl.set(t)
	c.wakeWriter()
	return nil
}

// CloseRead tells the guest that this end reads no more: its writes fail.
// Received bytes are dropped, later Reads return io.EOF. It never fails.
func (c *Conn) CloseRead() error {
	c.mu.Lock()
	c.readClosed = true
	c.forward(c.dropReceived(), false)
	c.wakeReader()
	c.dev.out.shutdown(c, shutdownRecv)
	return nil
}

// CloseWrite tells the guest that this end writes no more: after the bytes that
// were written its reads return end of file. Later Writes return ErrWriteClosed.
// It never fails.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	c.writeClosed = true
	c.mu.Unlock()
	c.wakeWriter()
	c.dev.out.shutdown(c, shutdownSend)
	return nil
}

// Close ends the connection. Bytes that were written reach the guest, bytes that
// were not read are dropped. Reads and Writes that wait return net.ErrClosed.
// It does not wait for the guest, and never fails.
func (c *Conn) Close() error { return c.close(false) }

// Abort is Close that resets the connection: the guest's end is over at once,
// and cannot take it for an orderly end if it still writes.
func (c *Conn) Abort() error { return c.close(true) }

func (c *Conn) close(rst bool) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed, c.readClosed, c.writeClosed = true, true, true
	was := c.state
	if was == open {
		c.state = closing
		c.linger = time.AfterFunc(closeTimeout, func() { c.finish(net.ErrClosed, true) })
	}
	c.forward(c.dropReceived(), false)
	c.wakeReader()
	c.wakeWriter()
	switch {
	case was == over:
		c.dev.count.Add(-1)
	case rst || was == connecting:
		c.finish(net.ErrClosed, true)
	default:
		c.dev.out.shutdown(c, shutdownBoth)
	}
	return nil
}

// dropReceived empties the buffer and returns how much it held, with what is
// being copied in at the moment, which will be lost. mu is held.
func (c *Conn) dropReceived() int {
	n := int(c.rxCnt - c.fwdCnt.Load())
	c.recv.drop()
	return n
}
