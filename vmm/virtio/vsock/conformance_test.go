package vsock

import (
	"io"
	"testing"
	"time"

	"github.com/stilehq/stile/vmm/memory"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// A station is a Device with a port that somebody listens on.
type station struct {
	*Device
	l    *Listener
	from uint32 // the guest's next port
}

const stationPort = 1024

func newStation(tb testing.TB) virtio.Device {
	dev := New(testCID)
	l, err := dev.Listen(stationPort)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { dev.Close() })
	return &station{dev, l, 5000}
}

// packet is one from the guest to the station.
func packet(h header, payload string) []byte {
	h.srcCID, h.dstCID, h.dstPort, h.typ = testCID, HostCID, stationPort, typeStream
	h.length = uint32(len(payload))
	var b [headerSize]byte
	h.encode(&b)
	return append(b[:], payload...)
}

var spec = virtiotest.Spec{
	New:     newStation,
	Watched: []int{txQueue},
	Memory:  16 << 20,
	Work: func(d *virtiotest.Driver) {
		s := d.Device.(*station)
		s.from++
		send := func(op uint16, flags uint32, payload string) {
			d.Helper()
			d.Do(txQueue, d.Out(packet(header{srcPort: s.from, op: op, flags: flags, bufAlloc: 1 << 16}, payload)))
		}
		receive := func(op uint16) string {
			d.Helper()
			in, b := d.In(4096)
			n := d.Do(rxQueue, in)
			var h header
			if n < headerSize {
				d.Fatalf("received %d bytes", n)
			}
			h.decode((*[headerSize]byte)(b))
			if h.op != op || h.dstPort != s.from || h.srcPort != stationPort || h.length != n-headerSize {
				d.Fatalf("received %+v in %d bytes, not operation %d", h, n, op)
			}
			return string(b[headerSize:n])
		}
		send(opRequest, 0, "")
		receive(opResponse)
		c, err := s.l.AcceptConn()
		if err != nil {
			d.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		send(opRW, 0, "ping")
		b := make([]byte, 4)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
			d.Errorf("read %q, %v", b, err)
		}
		wrote := make(chan error, 1)
		go func() {
			_, err := c.Write([]byte("pong"))
			wrote <- err
		}()
		if got := receive(opRW); got != "pong" {
			d.Errorf("the guest read %q", got)
		}
		if err := <-wrote; err != nil {
			d.Error(err)
		}
		send(opShutdown, shutdownBoth, "")
		receive(opRST)
		if _, err := c.Read(b); err != io.EOF {
			d.Errorf("read after the guest's end: %v", err)
		}
	},
	// A reset of a connection that is none costs no answer.
	Flood: func(d *virtiotest.Driver, _ int) []virtiotest.Buf {
		return []virtiotest.Buf{d.Out(packet(header{srcPort: 1, op: opRST}, ""))}
	},
}

func TestDevice(t *testing.T) { virtiotest.TestDevice(t, spec) }

// The rx ring is looked at when there is something to send: a connection's
// answer here.
func TestHostileRx(t *testing.T) {
	for name, breakRing := range virtiotest.Hostile {
		t.Run(name, func(t *testing.T) {
			d := virtiotest.NewDriver(t, newStation(t), virtiotest.Buses["mmio"], 16<<20)
			d.Start(^uint64(0), 64)
			breakRing(d.Rings[rxQueue])
			d.Rings[rxQueue].ForceKick()
			d.Do(txQueue, d.Out(packet(header{srcPort: 7, op: opRequest, bufAlloc: 1 << 16}, "")))
			d.FailedWith(virtio.ErrRing, memory.ErrRange)
			d.Reset()
			d.Forgive()
			spec.Work(started(d))
		})
	}
}

func started(d *virtiotest.Driver) *virtiotest.Driver {
	d.Start(^uint64(0), 0)
	s := d.Device.(*station)
	for len(s.l.conns) > 0 { // the connection that was reset
		<-s.l.conns
	}
	return d
}

// FuzzChains fuzzes rings and buffers; what is in well-formed buffers is
// FuzzPackets' affair.
func FuzzChains(f *testing.F) {
	for op := range uint16(9) {
		p := packet(header{srcPort: 99, op: op, flags: 3, bufAlloc: 1 << 16}, "data")
		seed := append([]byte{255, 255, 6, 0, 0, 0x20, byte(len(p))}, p...)
		seed = append(seed,
			1, rxQueue, 1, virtiotest.DescWrite, 0, 8, 0, 1, // an rx buffer
			1, rxQueue, 2, virtiotest.DescWrite, 0, 9, 44, 0, virtiotest.DescWrite, 0, 10, 8, 0,
			1, txQueue, 2, 0, 0, 0, headerSize, 0, 0, headerSize/2, 0, 4, 0, 2, txQueue,
			1, txQueue, 1, 0, 0, 0, headerSize, 0, 2, txQueue)
		f.Add(seed)
	}
	virtiotest.FuzzDevice(f, spec)
}
