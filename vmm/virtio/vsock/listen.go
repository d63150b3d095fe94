package vsock

import (
	"context"
	"net"
	"sync"
)

// backlog bounds the connections that wait for Accept; more are refused.
const backlog = 256

// Dial connects to a port that the guest listens on. It waits until there is a
// driver, and then for the guest's answer, as long as ctx allows. ErrRefused
// says that nobody listens there (yet), ErrReset that the driver was reset
// meanwhile, ErrDeviceClosed that the device is gone. The caller closes the
// Conn.
func (d *Device) Dial(ctx context.Context, port uint32) (*Conn, error) {
	fail := func(err error) (*Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: Addr{d.cid, port}, Err: err}
	}
	d.mu.Lock()
	active := d.active
	d.mu.Unlock()
	select {
	case <-d.closed:
		return fail(ErrDeviceClosed)
	case <-ctx.Done():
		return fail(context.Cause(ctx))
	case <-active:
	}
	c := d.newConn(connKey{guest: port}, connecting)
	if c == nil {
		return fail(ErrTooMany)
	}
	d.mu.Lock()
	for {
		c.key.host = d.nextPort
		if d.nextPort++; d.nextPort == 1<<32-1 { // VMADDR_PORT_ANY
			d.nextPort = firstPort
		}
		if d.conns[c.key] == nil && d.listeners[c.key.host] == nil {
			break
		}
	}
	d.conns[c.key] = c
	d.mu.Unlock()
	select {
	case <-d.closed: // after Close's look at conns, perhaps
		c.finish(ErrDeviceClosed, false)
	default:
	}
	d.out.owe(c, sendRequest, false)

	for {
		c.mu.Lock()
		st, cause := c.state, c.cause
		c.mu.Unlock()
		switch st {
		case connecting:
		case over:
			c.Close()
			if cause != ErrPeerClosed { // else it was accepted and closed again
				return fail(cause)
			}
			return fail(ErrReset)
		default:
			return c, nil
		}
		select {
		case <-c.rwake:
		case <-ctx.Done():
			c.Close()
			return fail(context.Cause(ctx))
		}
	}
}

// Listen takes the guest's connections to port on CID 2. The caller closes the
// Listener.
func (d *Device) Listen(port uint32) (*Listener, error) {
	l := &Listener{dev: d, port: port, conns: make(chan *Conn, backlog), done: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	select {
	case <-d.closed:
		err = ErrDeviceClosed
	default:
		if d.listeners[port] != nil {
			err = ErrPortInUse
		}
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "vsock", Addr: l.Addr(), Err: err}
	}
	d.listeners[port] = l
	return l, nil
}

// A Listener takes connections of the guest to one port. It implements
// net.Listener and survives the device's Reset.
type Listener struct {
	dev   *Device
	port  uint32
	conns chan *Conn
	once  sync.Once
	done  chan struct{}
}

var _ net.Listener = (*Listener)(nil)

// Addr is the port on HostCID, an Addr.
func (l *Listener) Addr() net.Addr { return Addr{HostCID, l.port} }

// Accept waits for the next connection, which is a *Conn. The caller closes it.
// After Close it returns net.ErrClosed (in a *net.OpError).
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AcceptConn is Accept with the type.
func (l *Listener) AcceptConn() (*Conn, error) {
	select {
	case <-l.done: // also if connections wait
	default:
		select {
		case c := <-l.conns:
			return c, nil
		case <-l.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.Addr(), Err: net.ErrClosed}
}

// Close ends Accept and refuses further connections. Those that were not
// accepted are reset, the others stay. It never fails.
func (l *Listener) Close() error {
	l.once.Do(func() {
		l.dev.mu.Lock()
		delete(l.dev.listeners, l.port) // nothing is added to conns after that
		l.dev.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.conns:
				c.Abort()
			default:
				return
			}
		}
	})
	return nil
}

// accept makes the connection of a REQUEST and reports whether somebody listens
// and there is room for one more.
func (d *Device) accept(key connKey, h *header) bool {
	d.mu.Lock()
	l := d.listeners[key.host]
	if l == nil || len(l.conns) == cap(l.conns) {
		d.mu.Unlock()
		return false
	}
	c := d.newConn(key, open)
	if c == nil {
		d.mu.Unlock()
		return false
	}
	c.peerBufAlloc, c.peerFwd = h.bufAlloc, h.fwdCnt
	d.conns[key] = c
	// Owed before Accept can return it: the response precedes the data.
	d.out.owe(c, sendResponse, true)
	l.conns <- c // there is room: this goroutine alone adds
	d.mu.Unlock()
	return true
}
