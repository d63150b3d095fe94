package vsock

import (
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

const testCID = 42

// A guest is a driver and a socket layer in the manner of
// net/vmw_vsock/virtio_transport_common.c: it keeps the rx ring full of small
// buffers, and a sender's credit is bounded by the smaller of both buf_allocs.
type guest struct {
	t          testing.TB
	dev        *Device
	mem        *virtiotest.Memory
	rx, tx, ev *virtiotest.Ring
	features   uint64
	rxBuf      int        // size of an rx buffer
	bufAlloc   uint32     // of new connections
	failed     chan error // what the device reported

	mu        sync.Mutex // conns, listeners, log
	conns     map[connKey]*gconn
	listeners map[uint32]chan *gconn
	log       []header // packets received, without RW

	txMu   sync.Mutex
	txBufs []uint64
	bufOf  map[uint16]uint64

	stopRx  chan struct{}
	rxEnded chan struct{}
	rxAddr  map[uint16]uint64
}

type gconn struct {
	g        *guest
	key      connKey
	mu       sync.Mutex
	cond     *sync.Cond
	in       []byte
	open     bool
	rst      bool
	shut     uint32 // the host's flags
	bufAlloc uint32
	fwd      uint32
	told     uint32
	rxCnt    uint32
	txCnt    uint32
	peerBuf  uint32
	peerFwd  uint32
	silent   bool // never says anything about credit by itself
}

type guestOpt func(*guest)

func newGuest(t testing.TB, dev *Device, opts ...guestOpt) *guest {
	t.Helper()
	g := &guest{t: t, dev: dev, features: virtio.RingFeatures, rxBuf: 4096, bufAlloc: 256 << 10,
		conns: make(map[connKey]*gconn), listeners: make(map[uint32]chan *gconn),
		bufOf: make(map[uint16]uint64), rxAddr: make(map[uint16]uint64), failed: make(chan error, 1)}
	for _, o := range opts {
		o(g)
	}
	g.mem = virtiotest.NewMemory(t, 32<<20)
	g.rx = virtiotest.NewRing(t, g.mem, 128, g.features)
	g.tx = virtiotest.NewRing(t, g.mem, 128, g.features)
	g.ev = virtiotest.NewRing(t, g.mem, 8, g.features)
	for range 64 {
		g.txBufs = append(g.txBufs, g.mem.Alloc(headerSize+largeChunk, 64))
	}
	return g
}

// start activates the device at the rings' bases and fills the rx ring.
func (g *guest) start(bases ...uint16) {
	g.t.Helper()
	base := [3]uint16{}
	copy(base[:], bases)
	err := g.dev.Activate(virtio.Activation{Memory: g.mem.Memory, Features: g.features,
		Queues: []*virtio.Queue{g.rx.Queue(base[0]), g.tx.Queue(base[1]), g.ev.Queue(base[2])},
		Fail: func(err error) {
			select {
			case g.failed <- err:
			default:
			}
		}})
	if err != nil {
		g.t.Fatal(err)
	}
}

// runRx gives all rx buffers and takes packets until stop.
func (g *guest) runRx() {
	for g.rx.Room(1) {
		addr := g.mem.Alloc(g.rxBuf, 64)
		g.rxAddr[g.rx.Add(virtiotest.Buf{GPA: addr, Len: uint32(g.rxBuf), Writable: true})] = addr
	}
	g.rx.Kick()
	g.stopRx, g.rxEnded = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(g.rxEnded)
		for {
			head, n, ok := g.rx.TryUsed()
			if !ok {
				g.rx.Kick()
				if g.rx.EnableCalls() {
					continue
				}
				if err := g.rx.Calls.Wait(); err != nil {
					if !errors.Is(err, eventfd.ErrInterrupted) {
						g.t.Error(err)
					}
					return
				}
				continue
			}
			addr := g.rxAddr[head]
			delete(g.rxAddr, head)
			if n < headerSize {
				g.t.Errorf("rx packet of %d bytes", n)
			} else {
				g.deliver(g.mem.Bytes(addr, int(n)))
			}
			g.rxAddr[g.rx.Add(virtiotest.Buf{GPA: addr, Len: uint32(g.rxBuf), Writable: true})] = addr
		}
	}()
}

func (g *guest) stop() {
	if g.stopRx != nil {
		g.rx.Calls.Interrupt()
		<-g.rxEnded
		g.rx.Calls.Resume()
		g.stopRx = nil
	}
}

// send puts one packet into the tx ring, waiting for room.
func (g *guest) send(h header, payload []byte) {
	g.txMu.Lock()
	defer g.txMu.Unlock()
	for len(g.txBufs) == 0 || !g.tx.Room(2) {
		head, _, ok := g.tx.WaitUsed(10 * time.Second)
		if !ok {
			g.t.Error("the device takes no tx packets")
			return
		}
		g.txBufs = append(g.txBufs, g.bufOf[head])
		delete(g.bufOf, head)
	}
	addr := g.txBufs[len(g.txBufs)-1]
	g.txBufs = g.txBufs[:len(g.txBufs)-1]
	b := g.mem.Bytes(addr, headerSize+len(payload))
	h.encode((*[headerSize]byte)(b))
	copy(b[headerSize:], payload)
	bufs := []virtiotest.Buf{{GPA: addr, Len: headerSize}}
	if len(payload) > 0 {
		bufs = append(bufs, virtiotest.Buf{GPA: addr + headerSize, Len: uint32(len(payload))})
	}
	g.bufOf[g.tx.Add(bufs...)] = addr
	g.tx.Kick()
}

func (g *guest) deliver(b []byte) {
	var h header
	h.decode((*[headerSize]byte)(b))
	if h.srcCID != HostCID && h.op != opRST || h.dstCID != testCID || int(h.length) != len(b)-headerSize {
		g.t.Errorf("malformed packet from the device: %+v in %d bytes", h, len(b))
	}
	key := connKey{host: h.srcPort, guest: h.dstPort}
	g.mu.Lock()
	c := g.conns[key]
	if h.op != opRW {
		g.log = append(g.log, h)
	}
	if c == nil && h.op == opRequest {
		l := g.listeners[h.dstPort]
		if l == nil {
			g.mu.Unlock()
			g.send(g.header(key, opRST), nil)
			return
		}
		c = g.newConn(key)
		c.open = true
		c.credit(&h)
		g.mu.Unlock()
		g.send(c.header(opResponse), nil)
		l <- c
		return
	}
	g.mu.Unlock()
	if c == nil {
		if h.op != opRST {
			g.send(g.header(key, opRST), nil)
		}
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.credit(&h)
	switch h.op {
	case opResponse:
		c.open = true
	case opRST:
		c.rst = true
		g.remove(c)
	case opShutdown:
		c.shut |= h.flags
		if c.shut == shutdownBoth && len(c.in) == 0 {
			c.rst = true
			g.remove(c)
			g.send(c.header(opRST), nil)
		}
	case opRW:
		if c.rxCnt-c.fwd+h.length > c.bufAlloc {
			g.t.Errorf("the device overran the guest's credit: %d bytes more with %d of %d in the buffer", h.length, c.rxCnt-c.fwd, c.bufAlloc)
		}
		c.rxCnt += h.length
		c.in = append(c.in, b[headerSize:]...)
	case opCreditRequest:
		g.send(c.header(opCreditUpdate), nil)
	case opCreditUpdate:
	default:
		g.t.Errorf("unexpected packet %+v", h)
	}
	c.cond.Broadcast()
}

func (g *guest) header(key connKey, op uint16) header {
	return header{srcCID: testCID, dstCID: HostCID, srcPort: key.guest, dstPort: key.host, typ: typeStream, op: op}
}

// newConn is called with g.mu held.
func (g *guest) newConn(key connKey) *gconn {
	c := &gconn{g: g, key: key, bufAlloc: g.bufAlloc}
	c.cond = sync.NewCond(&c.mu)
	g.conns[key] = c
	return c
}

func (g *guest) remove(c *gconn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c.key)
}

func (g *guest) listen(port uint32) chan *gconn {
	g.mu.Lock()
	defer g.mu.Unlock()
	ch := make(chan *gconn, 20000)
	g.listeners[port] = ch
	return ch
}

// dial connects from guest port from to the host's port.
func (g *guest) dial(from, port uint32) (*gconn, error) {
	g.mu.Lock()
	c := g.newConn(connKey{host: port, guest: from})
	g.mu.Unlock()
	g.send(c.header(opRequest), nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.open && !c.rst {
		c.cond.Wait()
	}
	if c.rst {
		return nil, errors.New("refused")
	}
	return c, nil
}

// logged counts packets of one operation.
func (g *guest) logged(op uint16) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, h := range g.log {
		if h.op == op {
			n++
		}
	}
	return n
}

// header is called with c.mu held or before anybody else knows c.
func (c *gconn) header(op uint16) header {
	h := c.g.header(c.key, op)
	h.bufAlloc, h.fwdCnt = c.bufAlloc, c.fwd
	c.told = c.fwd
	return h
}

func (c *gconn) credit(h *header) { c.peerBuf, c.peerFwd = h.bufAlloc, h.fwdCnt }

// Write sends with the credit that Linux would use.
func (c *gconn) Write(p []byte) (int, error) {
	n := 0
	c.mu.Lock()
	defer c.mu.Unlock()
	for n < len(p) {
		if c.rst || c.shut&shutdownRecv != 0 {
			return n, errors.New("broken pipe")
		}
		credit := int(int32(min(c.peerBuf, c.bufAlloc) - (c.txCnt - c.peerFwd)))
		if credit <= 0 {
			c.cond.Wait()
			continue
		}
		k := min(len(p)-n, credit, largeChunk)
		c.txCnt += uint32(k)
		h := c.header(opRW)
		h.length = uint32(k)
		c.mu.Unlock()
		c.g.send(h, p[n:n+k])
		c.mu.Lock()
		n += k
	}
	return n, nil
}

func (c *gconn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.in) == 0 {
		if c.rst || c.shut&shutdownSend != 0 {
			return 0, io.EOF
		}
		c.cond.Wait()
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	c.fwd += uint32(n)
	// virtio_transport_stream_do_dequeue.
	if !c.silent && c.bufAlloc-(c.fwd-c.told) < largeChunk {
		c.g.send(c.header(opCreditUpdate), nil)
	}
	return n, nil
}

func (c *gconn) shutdown(flags uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.header(opShutdown)
	h.flags = flags
	c.g.send(h, nil)
}
