package vsock

import (
	"net"
	"os"
)

// Write copies p into the guest's receive buffers, waiting for credit and for
// buffers. When it returns nil the bytes are where the guest's driver finds
// them, ahead of whatever ends the connection later.
//
// It returns ErrPeerClosed as soon as the guest's end reads no more, ErrReset
// after a reset, ErrWriteClosed after CloseWrite, each in a *net.OpError.
func (c *Conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.src = p
	defer func() { c.src = nil }()
	for first := true; first || len(c.src) > 0; first = false {
		if _, err := c.write(len(c.src), nil); err != nil {
			return len(p) - len(c.src), err
		}
	}
	return len(p), nil
}

// WriteFunc waits for credit and buffers and has fill write up to max bytes
// straight into guest memory: with readv(2) from a descriptor there is no copy
// between. fill returns how many bytes it wrote, in order; zero with a nil
// error sends nothing. WriteFunc returns fill's result, or the errors of Write.
//
// fill must not wait: no connection of the device sends while it runs. Nor may
// it keep the slices.
func (c *Conn) WriteFunc(max int, fill func(bufs [][]byte) (int, error)) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.write(max, fill)
}

// write sends up to max bytes, at least one unless max is zero or fill gives
// none. Without fill it sends from src. wmu is held.
func (c *Conn) write(max int, fill func(bufs [][]byte) (int, error)) (int, error) {
	asked := false
	for {
		if c.wdl.expired() {
			c.dev.out.giveUp(c)
			return 0, c.opError("write", os.ErrDeadlineExceeded)
		}
		c.mu.Lock()
		err := c.writable()
		credit := c.credit()
		c.mu.Unlock()
		if err != nil {
			c.dev.out.giveUp(c)
			return 0, c.opError("write", err)
		}
		if max == 0 {
			return 0, nil
		}
		if credit == 0 {
			// An older Linux tells its fwd_cnt late unless it is asked.
			if !asked {
				c.dev.out.owe(c, sendCreditRequest, false)
				asked = true
			}
			c.waitWriter()
			continue
		}
		n, wait, err := c.dev.out.send(c, min(max, credit, maxTurn), fill)
		if wait {
			c.waitWriter()
			continue
		}
		if n == 0 && err == nil && c.outOver() {
			continue // writable says why
		}
		c.mu.Lock()
		c.txCnt += uint32(n)
		c.mu.Unlock()
		return n, err
	}
}

func (c *Conn) waitWriter() {
	select {
	case <-c.wwake:
	case <-c.wdl.wait():
	}
}

// outOver reports whether the sender sends no more data of c.
func (c *Conn) outOver() bool {
	s := &c.dev.out
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.out.over || c.out.shut&shutdownSend != 0
}

// fromSrc is the fill of Write.
func (c *Conn) fromSrc(bufs [][]byte) int {
	n := scatter(bufs, c.src)
	c.src = c.src[n:]
	return n
}

// writable says why a writer can write no more; mu is held.
func (c *Conn) writable() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.writeClosed:
		return ErrWriteClosed
	case c.peerShut&shutdownRecv != 0:
		return ErrPeerClosed
	case c.state == over:
		return c.cause
	}
	return nil
}

// credit is how many bytes the guest takes at the moment; mu is held.
func (c *Conn) credit() int {
	inFlight := c.txCnt - c.peerFwd
	if inFlight >= c.peerBufAlloc {
		return 0
	}
	return int(c.peerBufAlloc - inFlight)
}
