package vsock

import "github.com/stilehq/stile/vmm/virtio"

// batch is how many packets are handled before the driver is called and what
// they made the device owe is sent.
const batch = 64

// receive handles packets of the tx queue: the work of its goroutine.
func (d *Device) receive(r *run, q *virtio.Queue) (more bool, err error) {
	q.DisableKicks()
	n := 0
	for ; n < batch && !r.stop.Load(); n++ {
		c, err := q.Pop()
		if err != nil {
			return false, err
		}
		if c == nil {
			break
		}
		d.handle(c)
		q.PushQuiet(c, 0)
	}
	if n > 0 {
		if err := q.Notify(); err != nil {
			return false, err
		}
		d.out.flush()
	}
	return n == batch || q.EnableKicks(), nil
}

// handle takes one packet apart. What can't be a packet of this guest is
// dropped; what breaks the rules is answered by a reset.
func (d *Device) handle(ch *virtio.Chain) {
	var raw [headerSize]byte
	if gather(raw[:], ch.Readable) < headerSize {
		return
	}
	var h header
	h.decode(&raw)
	if h.srcCID != d.cid {
		return
	}
	if h.dstCID != HostCID || h.typ != typeStream {
		d.refuse(&h)
		return
	}
	key := connKey{host: h.dstPort, guest: h.srcPort}
	d.mu.Lock()
	c := d.conns[key]
	d.mu.Unlock()
	switch {
	case c != nil:
		if uint64(h.length) > uint64(ch.ReadableLen()-headerSize) {
			c.finish(ErrReset, h.op != opRST)
			return
		}
		c.handle(&h, ch.Readable)
	case h.op == opRequest:
		if !d.accept(key, &h) {
			d.refuse(&h)
		}
	default:
		d.refuse(&h)
	}
}

// refuse answers a packet of no connection, unless it is a reset itself.
func (d *Device) refuse(h *header) {
	if h.op != opRST {
		d.out.reset(reset{srcCID: h.dstCID, srcPort: h.dstPort, dstPort: h.srcPort, typ: h.typ})
	}
}

// handle takes a packet for c, whose payload lies behind the header in iov.
func (c *Conn) handle(h *header, iov [][]byte) {
	c.mu.Lock()
	if h.bufAlloc != c.peerBufAlloc || h.fwdCnt != c.peerFwd {
		c.peerBufAlloc, c.peerFwd = h.bufAlloc, h.fwdCnt
		c.wakeWriter()
		if c.lags() { // now that the guest has made its buffer smaller
			c.dev.out.owe(c, sendCreditUpdate, true)
		}
	}
	switch {
	case h.op == opRST:
		cause := ErrReset
		if c.state == connecting {
			cause = ErrRefused
		}
		c.finishLocked(cause, false)
	case c.state == connecting && h.op == opResponse:
		c.state = open
		c.wakeReader()
		c.mu.Unlock()
	case c.state == connecting:
		c.finishLocked(ErrReset, true)
	case h.op == opRW:
		c.receive(int(h.length), iov)
	case h.op == opCreditUpdate:
		c.mu.Unlock()
	case h.op == opCreditRequest:
		c.mu.Unlock()
		c.dev.out.owe(c, sendCreditUpdate, true)
	case h.op == opShutdown:
		c.peerShutdown(h.flags & shutdownBoth)
	default:
		c.finishLocked(ErrReset, true)
	}
}

// peerShutdown takes a SHUTDOWN. Called with mu held, which it releases.
func (c *Conn) peerShutdown(flags uint32) {
	c.peerShut |= flags
	c.wakeReader()
	c.wakeWriter()
	if c.peerShut&shutdownRecv != 0 {
		c.closeOnce(c.peerNoRead, &c.peerNoReadClosed)
	}
	if c.peerShut == shutdownBoth {
		// The guest's socket waits for a reset before it is gone. What it
		// sent is here already, and it takes nothing more.
		c.finishLocked(ErrPeerClosed, true)
		return
	}
	c.mu.Unlock()
}

// receive takes n bytes of payload. Called with mu held, which it releases.
func (c *Conn) receive(n int, iov [][]byte) {
	if c.peerShut&shutdownSend != 0 || uint32(n) > c.bufAlloc-(c.rxCnt-c.fwdCnt.Load()) {
		// More after it said that there would be none, or more than its credit.
		c.finishLocked(ErrReset, true)
		return
	}
	c.rxCnt += uint32(n)
	if c.readClosed {
		c.forward(n, true) // releases mu
		return
	}
	skip := headerSize
	for _, b := range iov {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		b = b[skip:]
		skip = 0
		for len(b) > 0 && n > 0 {
			dst := c.recv.room(n)
			c.mu.Unlock()
			k := copy(dst, b)
			c.mu.Lock()
			if c.readClosed { // which has counted these bytes as taken
				c.mu.Unlock()
				return
			}
			c.recv.added(k)
			b = b[k:]
			n -= k
		}
	}
	c.wakeReader()
	c.mu.Unlock()
}
