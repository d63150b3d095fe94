package vsock

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// A fuzzGuest sends whatever packets it likes, to a host whose program dials,
// accepts, reads, writes and closes in between, and watches what it gets: no
// packet is malformed, and none has more data than the guest gave credit for.
type fuzzGuest struct {
	*testing.T
	dev   *Device
	l     *Listener
	rx    *virtiotest.Ring
	addr  map[uint16]uint64
	conns []*Conn // the host's

	credit map[connKey]*fuzzCredit
}

// fuzzCredit is what the guest has told of a connection, and got.
type fuzzCredit struct{ bufAlloc, fwdCnt, received uint32 }

const (
	fuzzBuf  = headerSize + 200 // bytes of an rx buffer
	fuzzBufs = 32
)

// Operations of FuzzPackets: one byte, then what it says. A number below
// fuzzOps is one of these, by remainder.
const (
	fuzzPacket = iota // port (1 byte), operation (1), flags (1), length (1), buf_alloc/16 (2), fwd_cnt (2), what is odd about it (1)
	fuzzAccept
	fuzzRead  // connection
	fuzzWrite // connection, length
	fuzzCloseWrite
	fuzzCloseRead
	fuzzClose
	fuzzAbort
	fuzzTransportReset
	fuzzOps
)

// FuzzPackets fuzzes what the guest sends in well-formed chains.
func FuzzPackets(f *testing.F) {
	pkt := func(op, flags, n byte, buf, fwd uint16) []byte {
		b := []byte{fuzzPacket, 1, op, flags, n}
		b = binary.LittleEndian.AppendUint16(b, buf)
		return append(binary.LittleEndian.AppendUint16(b, fwd), 0)
	}
	request := append(pkt(opRequest, 0, 0, 4096, 0), fuzzAccept)
	for _, more := range [][]byte{
		append(pkt(opRW, 0, 100, 4096, 0), fuzzRead, 0, fuzzWrite, 0, 255, fuzzClose, 0),
		append(pkt(opShutdown, shutdownSend, 0, 16, 0), fuzzWrite, 0, 255, fuzzCloseWrite, 0, fuzzRead, 0),
		append(pkt(opCreditRequest, 0, 0, 0, 9), pkt(opCreditUpdate, 0, 0, 1, 0xffff)...),
		append(pkt(opRST, 0, 0, 0, 0), pkt(opRequest, 0, 0, 16, 0)...),
		{fuzzCloseRead, 0, fuzzPacket, 1, opRW, 0, 200, 0, 1, 0, 0, 3, fuzzAbort, 0, fuzzTransportReset},
	} {
		f.Add(append(append([]byte(nil), request...), more...))
	}
	mem := virtiotest.NewMemory(f, 64<<10)
	all := mem.Bytes(virtiotest.Base, 64<<10)
	f.Fuzz(func(t *testing.T, data []byte) {
		clear(all)
		g := &fuzzGuest{T: t, dev: New(testCID), addr: make(map[uint16]uint64), credit: make(map[connKey]*fuzzCredit)}
		g.start(mem)
		for n := 0; n < 300 && len(data) > 0; n++ {
			data = g.step(data)
			g.dev.out.flush()
			g.take()
		}
		for _, c := range g.conns {
			c.Close()
		}
		g.dev.Close()
		g.dev.Reset()
		if n := g.dev.count.Load(); n != 0 {
			t.Errorf("%d connections hold their slots", n)
		}
		if len(g.dev.conns) != 0 {
			t.Errorf("%d connections are known", len(g.dev.conns))
		}
	})
}

// start starts the sender on an rx ring in mem. Packets are handled in the
// test's own goroutine, as the tx queue's would.
func (g *fuzzGuest) start(mem *virtiotest.Memory) {
	const desc, avail, used, bufs = virtiotest.Base, virtiotest.Base + 0x400, virtiotest.Base + 0x800, virtiotest.Base + 0x1000
	g.rx = virtiotest.NewRingAt(g.T, mem.For(g.T), fuzzBufs, virtio.FeatureVersion1, desc, avail, used)
	for i := range uint64(fuzzBufs) {
		g.give(bufs + i*256)
	}
	g.dev.out.start(g.rx.Queue(0), func(err error) { g.Errorf("failed: %v", err) })
	close(g.dev.active)
	var err error
	if g.l, err = g.dev.Listen(stationPort); err != nil {
		g.Fatal(err)
	}
}

func (g *fuzzGuest) give(addr uint64) {
	g.addr[g.rx.Add(virtiotest.Buf{GPA: addr, Len: fuzzBuf, Writable: true})] = addr
}

// take checks what came, and gives the buffers back.
func (g *fuzzGuest) take() {
	for {
		head, n, ok := g.rx.TryUsed()
		if !ok {
			return
		}
		addr := g.addr[head]
		b := g.rx.Mem.Bytes(addr, fuzzBuf)
		var h header
		h.decode((*[headerSize]byte)(b))
		if h.dstCID != testCID || h.op < opRequest || h.op > opCreditRequest || n < headerSize || h.length != n-headerSize || h.length != 0 && h.op != opRW {
			g.Errorf("malformed packet: %+v in %d bytes", h, n)
		}
		key := connKey{host: h.srcPort, guest: h.dstPort}
		c := g.credit[key]
		switch {
		case h.op == opRST:
			if h.srcCID == HostCID && h.typ == typeStream { // else it answers what was for nobody
				delete(g.credit, key)
			}
		case h.op == opRW && c == nil:
			g.Errorf("data for a connection that is none: %+v", h)
		case h.op == opRW:
			c.received += h.length
			// A buf_alloc that shrinks does not take back what was allowed.
			if over := int32(c.received - c.fwdCnt - c.bufAlloc); over > 0 {
				g.Errorf("%d bytes more than the credit: %+v", over, *c)
			}
		}
		g.give(addr)
	}
}

func (g *fuzzGuest) step(data []byte) []byte {
	next := func() byte {
		if len(data) == 0 {
			return 0
		}
		v := data[0]
		data = data[1:]
		return v
	}
	op := next() % fuzzOps
	switch op {
	case fuzzPacket:
		h := header{srcCID: testCID, dstCID: HostCID, srcPort: uint32(next() % 4), dstPort: stationPort, typ: typeStream, op: uint16(next() % 9)}
		h.flags, h.length = uint32(next()), uint32(next())
		h.bufAlloc = (uint32(next()) | uint32(next())<<8) * 16
		h.fwdCnt = uint32(next()) | uint32(next())<<8
		g.packet(h, next())
		return data
	case fuzzAccept:
		select {
		case c := <-g.l.conns:
			// Nothing waits for anything in this test.
			c.SetDeadline(time.Unix(1, 0))
			g.conns = append(g.conns, c)
		default:
		}
		return data
	case fuzzTransportReset:
		g.dev.TransportReset()
		clear(g.credit)
		return data
	}
	if len(g.conns) == 0 {
		return data
	}
	c := g.conns[int(next())%len(g.conns)]
	switch op {
	case fuzzRead:
		c.SetReadDeadline(time.Time{})
		c.mu.Lock()
		some := len(c.recv.first()) > 0
		c.mu.Unlock()
		if some {
			c.Read(make([]byte, 100))
		}
	case fuzzWrite:
		g.write(c, int(next()))
	case fuzzCloseWrite:
		c.CloseWrite()
	case fuzzCloseRead:
		c.CloseRead()
	case fuzzClose:
		c.Close()
	case fuzzAbort:
		c.Abort()
	}
	return data
}

// write writes as much as goes without waiting.
func (g *fuzzGuest) write(c *Conn, n int) {
	c.mu.Lock()
	room := c.credit()
	err := c.writable()
	c.mu.Unlock()
	if n = min(n, room); n > 0 && err == nil {
		c.SetWriteDeadline(time.Time{})
		c.Write(make([]byte, n))
		c.SetWriteDeadline(time.Unix(1, 0))
	}
}

// packet hands one packet to the device.
func (g *fuzzGuest) packet(h header, odd byte) {
	payload := int(h.length)
	if odd&1 != 0 { // says other than it holds
		payload = int(odd)
	}
	if odd&2 != 0 {
		h.length = ^uint32(0) - h.length
	}
	if odd&4 != 0 {
		h.srcCID = uint64(odd)
	}
	if odd&8 != 0 {
		h.dstCID = uint64(odd)
	}
	if odd&16 != 0 {
		h.typ = uint16(odd)
	}
	if odd&32 != 0 {
		h.dstPort = firstPort + uint32(odd)
	}
	key := connKey{host: h.dstPort, guest: h.srcPort}
	if h.srcCID == testCID && h.op == opRequest && g.credit[key] == nil {
		g.credit[key] = new(fuzzCredit)
	}
	if c := g.credit[key]; c != nil && h.srcCID == testCID && h.dstCID == HostCID && h.typ == typeStream {
		// The most that any packet allowed, as the device may have sent by it.
		if int32(h.bufAlloc+h.fwdCnt-c.bufAlloc-c.fwdCnt) > 0 {
			c.bufAlloc, c.fwdCnt = h.bufAlloc, h.fwdCnt
		}
	}
	if h.srcCID == testCID && h.dstCID == HostCID && h.typ == typeStream && h.op == opRST {
		defer delete(g.credit, key)
	}
	var raw [headerSize]byte
	h.encode(&raw)
	body := make([]byte, payload)
	// In three pieces, the header in two of them.
	g.dev.handle(&virtio.Chain{Readable: [][]byte{raw[:odd%headerSize], raw[odd%headerSize:], body[:payload/2], body[payload/2:]}})
}
