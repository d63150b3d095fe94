package vsock

import (
	"io"
	"net"
	"os"
)

// maxCreditLag bounds the bytes that were taken and not told to the guest.
const maxCreditLag = 64 << 10

// Read reads what has come, waiting for at least one byte. It returns io.EOF
// when the guest's end has said that it sends no more, and ErrReset (in a
// *net.OpError) after a reset; in both cases after the bytes that came before.
func (c *Conn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if err := c.waitBytes(len(p) > 0); err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) {
		c.mu.Lock()
		b := c.recv.first()
		c.mu.Unlock()
		if len(b) == 0 {
			break
		}
		k := copy(p[n:], b)
		c.Discard(k)
		n += k
	}
	return n, nil
}

// Peek waits for bytes like Read and appends them to dst without copying: the
// slices are the receive buffer's own, and stay as they are until Discard or
// Close. So a relay writes received bytes to a descriptor straight from there.
func (c *Conn) Peek(dst [][]byte) ([][]byte, error) {
	if err := c.waitBytes(true); err != nil {
		return dst, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recv.appendBytes(dst), nil
}

// Discard takes the first n bytes of what Peek returned, or fewer where fewer
// are there: they are lost, and the guest gets credit for them.
func (c *Conn) Discard(n int) {
	c.mu.Lock()
	n = min(n, c.recv.n)
	c.recv.discard(n)
	c.forward(n, false)
}

// Buffered is the number of bytes that can be read without waiting.
func (c *Conn) Buffered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recv.n
}

// WriteTo implements io.WriterTo: it writes to w all bytes up to the end of
// file, without copying them first.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	var total int64
	for {
		err := c.waitBytes(true)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		c.mu.Lock()
		b := c.recv.first()
		c.mu.Unlock()
		n, err := w.Write(b)
		c.Discard(max(n, 0))
		total += int64(n)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return total, err
		}
	}
}

// waitBytes waits until there are bytes; it does not if need is false.
func (c *Conn) waitBytes(need bool) error {
	for {
		if c.rdl.expired() {
			return c.opError("read", os.ErrDeadlineExceeded)
		}
		c.mu.Lock()
		err := c.readable(need)
		c.mu.Unlock()
		switch {
		case err == nil || err == io.EOF:
			return err
		case err != errWait:
			return c.opError("read", err)
		}
		select {
		case <-c.rwake:
		case <-c.rdl.wait():
		}
	}
}

var errWait = net.UnknownNetworkError("wait") // never leaves the package

// readable says what a reader finds: nil, an error, or errWait. mu is held.
func (c *Conn) readable(need bool) error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.readClosed:
		return io.EOF
	case c.recv.n > 0 || !need:
		return nil
	case c.peerShut&shutdownSend != 0:
		return io.EOF
	case c.state == over:
		return c.cause
	}
	return errWait
}

// forward counts n bytes as taken, and tells the guest where it may be waiting
// for that. Called with mu held, which it releases. later is for the tx queue's
// goroutine.
func (c *Conn) forward(n int, later bool) {
	fwd := c.fwdCnt.Load() + uint32(n)
	c.fwdCnt.Store(fwd)
	tell := n > 0 && c.lags()
	c.mu.Unlock()
	if tell {
		c.dev.out.owe(c, sendCreditUpdate, later)
	}
}

// lags reports whether the guest's idea of fwdCnt is so old that it may hold
// its writer up; mu is held.
func (c *Conn) lags() bool {
	allowed := min(c.bufAlloc, c.peerBufAlloc) / 4
	return c.state == open && c.peerShut&shutdownSend == 0 &&
		c.fwdCnt.Load()-c.toldFwd.Load() >= max(1, min(allowed, maxCreditLag))
}
