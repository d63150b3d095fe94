package virtiotest

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/virtio"
)

// Where a fuzzed driver has its rings: fixed, so that its input can be short.
const (
	fuzzRing   = 0x1000           // of each ring: descriptors, available ring, used ring
	fuzzAvail  = 0x600            // offset in it
	fuzzUsed   = 0xa00            // offset in it
	fuzzQueues = 8                // room for rings
	fuzzSize   = 64               // largest ring
	fuzzData   = 0x8000           // buffers begin here: an offset from Base
	fuzzMemory = fuzzData + 1<<17 // bytes in all
)

// Operations of a fuzzed driver: one byte, and what it says.
const (
	opWrite  = iota // offset/4 (2 bytes), length (1), bytes: into guest memory
	opChain         // queue, buffers (1 byte each), then for each: flags (1), address (2), length (2)
	opKick          // queue
	opIndex         // queue, available index (2 bytes)
	opSleep         // and wake
	opReset         // and start
	opConfig        // offset, 4 bytes
	opsCount
)

// FuzzDevice fuzzes a kind of device: its input is a driver's settings and what
// the driver does, to rings, guest memory and config space. The device is run
// until it has seen all of it. What fails is a panic, a fault, a device that
// hangs, and one that goes on after its Reset.
func FuzzDevice(f *testing.F, s Spec) {
	for _, seed := range fuzzSeeds(s) {
		f.Add(seed)
	}
	mem := NewMemory(f, fuzzMemory)
	f.Fuzz(func(t *testing.T, data []byte) {
		clear(mem.bytes)
		d := &fuzzDriver{fuzzInput: &fuzzInput{b: data}, Spec: s}
		d.run(t, mem.For(t))
	})
}

// fuzzSeeds are a few drivers that mean well, one for each watched queue.
func fuzzSeeds(s Spec) (all [][]byte) {
	for _, q := range s.Watched {
		for _, settings := range [][]byte{{0, 0, 3}, {255, 255, 6}} {
			b := append([]byte(nil), settings...)
			b = append(b, opWrite, 0, 0x20, 16, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0)
			b = append(b, opChain, byte(q), 3, 0, 0, 0, 16, 0, 0, 0, 2, 0, 2, DescWrite, 0, 8, 1, 2)
			b = append(b, opKick, byte(q), opSleep)
			b = append(b, opChain, byte(q), 1, DescWrite, 0, 4, 0, 16, opKick, byte(q), opReset, opKick, byte(q))
			all = append(all, b)
		}
	}
	return all
}

// A fuzzInput gives bytes away, and zeros at its end.
type fuzzInput struct{ b []byte }

func (in *fuzzInput) byte() byte {
	if len(in.b) == 0 {
		return 0
	}
	v := in.b[0]
	in.b = in.b[1:]
	return v
}

func (in *fuzzInput) u16() uint16 { return uint16(in.byte()) | uint16(in.byte())<<8 }

func (in *fuzzInput) bytes(n int) []byte {
	n = min(n, len(in.b))
	b := in.b[:n]
	in.b = in.b[n:]
	return b
}

type fuzzDriver struct {
	*fuzzInput
	Spec
	*Driver
	next [fuzzQueues]uint16 // free descriptor
}

func (d *fuzzDriver) run(t *testing.T, mem *Memory) {
	dev := d.New(t)
	d.Driver = newDriver(t, dev, newMMIO, mem)
	acked := uint64(d.byte())<<24 | uint64(d.byte()) | virtio.FeatureVersion1
	acked &= d.Bus.Features()
	size := uint16(1) << (d.byte() % 7)
	for i, n := range dev.QueueSizes() {
		at := Base + uint64(i)*fuzzRing
		r := &Ring{Mem: mem, Size: min(n, size, fuzzSize), Features: acked, tb: t, Desc: at, Avail: at + fuzzAvail, Used: at + fuzzUsed,
			Kicks: d.Bus.(*MMIO).Kicks()[i]}
		d.Rings = append(d.Rings, r)
	}
	d.Features = acked
	d.early()
	d.Bus.Start(acked, d.Rings)
	d.drain()
	for n := 0; len(d.b) > 0 && n < 200; n++ {
		d.step()
	}
	d.drain()
	d.Reset()
}

// early is what the driver does before the device is there.
func (d *fuzzDriver) early() {
	for n := 0; len(d.b) > 0 && d.b[0]%opsCount < opIndex && n < 4; n++ {
		d.step()
	}
}

func (d *fuzzDriver) queue() (int, *Ring) {
	i := int(d.byte()) % len(d.Rings)
	return i, d.Rings[i]
}

func (d *fuzzDriver) step() {
	switch d.byte() % opsCount {
	case opWrite:
		off := int(d.u16()) * 4 % fuzzMemory
		b := d.bytes(int(d.byte()))
		copy(d.Mem.bytes[off:], b)
	case opChain:
		d.chain()
	case opKick:
		_, r := d.queue()
		r.Kicks.Signal()
		d.drain()
	case opIndex:
		_, r := d.queue()
		r.SetAvailIdx(d.u16())
	case opSleep:
		d.Sleep()
		d.Wake()
	case opReset:
		d.Reset()
		d.Forgive()
		for _, r := range d.Rings { // or every later index would be a jump
			r.SetAvailIdx(0)
			clear(d.Mem.Bytes(r.Used, 4))
		}
		d.Bus.Start(d.Features, d.Rings)
	case opConfig:
		d.WriteConfig(uint32(d.byte()), d.bytes(4))
	}
}

// chain makes a chain of buffers that lie in guest memory, or end a little
// behind it.
func (d *fuzzDriver) chain() {
	i, r := d.queue()
	n := int(d.byte()) % 8
	if n == 0 {
		r.Offer(d.u16()) // whatever is there
		return
	}
	head := d.next[i] % r.Size
	for k := range n {
		flags := uint16(d.byte()) & (DescWrite | DescIndirect)
		gpa := Base + fuzzData + uint64(d.u16())*2
		length := uint32(d.u16())
		at := d.next[i] % r.Size
		d.next[i]++
		if k+1 < n && flags&DescIndirect == 0 {
			flags |= DescNext
		}
		if flags&DescIndirect != 0 {
			length = length % 8 * 16
		}
		r.SetDesc(r.Desc, at, gpa, length, flags, d.next[i]%r.Size)
	}
	r.Offer(head)
}

// drain kicks the watched queues and waits until the device has seen all that
// was there. A kick is taken when the device is back at its wait for kicks; the
// second one is taken when what the first found is done.
func (d *fuzzDriver) drain() {
	m := d.Bus.(*MMIO)
	if m.Read32(RegStatus)&StatusDriverOK == 0 {
		return
	}
	for _, i := range d.Watched {
		for range 2 {
			kick := d.Rings[i].Kicks
			kick.Signal()
			end := time.Now().Add(patience)
			for d.Failure() == nil && isSet(kick.File().SyscallConn()) {
				// Only a thread with nothing to do looks for kicks at once.
				time.Sleep(time.Microsecond)
				if time.Now().After(end) {
					d.Fatalf("queue %d: the device hangs", i)
				}
			}
		}
	}
}

// isSet reports whether an eventfd's counter is not zero.
func isSet(conn interface {
	Control(func(fd uintptr)) error
}, err error) (set bool) {
	if err != nil {
		panic(err)
	}
	conn.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(p, 0)
		set = n == 1
	})
	return set
}
