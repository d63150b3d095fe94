package virtiotest

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/virtio"
)

// Descriptor flags (section 2.7.5).
const (
	DescNext     = 1
	DescWrite    = 2
	DescIndirect = 4
)

// A Buf is one buffer of a chain.
type Buf struct {
	GPA      uint64
	Len      uint32
	Writable bool
}

// A Ring is the driver's side of one virtqueue. It belongs to one goroutine.
type Ring struct {
	Mem      *Memory
	Size     uint16
	Features uint64
	Kicks    *eventfd.EventFD // driver to device
	Calls    *eventfd.EventFD // device to driver

	Desc, Avail, Used uint64 // addresses

	// Indirect makes Add put each chain into a table of its own.
	Indirect bool

	KickCount int // kicks that Kick sent, not those the device did not want

	tb       testing.TB
	free     []uint16            // descriptors
	chains   map[uint16][]uint16 // by head: descriptors in flight
	lastUsed uint16
	kicked   uint16 // avail index at the last Kick
	fence    atomic.Uint32
}

// NewRing puts an empty ring of size entries into mem. features are those that
// the driver acks (virtio.RingFeatures matter here).
func NewRing(tb testing.TB, mem *Memory, size uint16, features uint64) *Ring {
	tb.Helper()
	n := int(size)
	return NewRingAt(tb, mem, size, features, mem.Alloc(16*n, 16), mem.Alloc(8+2*n, 4), mem.Alloc(8+8*n, 4))
}

// NewRingAt is NewRing with its three parts at addresses where mem is zero.
func NewRingAt(tb testing.TB, mem *Memory, size uint16, features, desc, avail, used uint64) *Ring {
	tb.Helper()
	r := &Ring{Mem: mem, Size: size, Features: features, tb: tb, chains: make(map[uint16][]uint16),
		Desc: desc, Avail: avail, Used: used}
	for i := range size {
		r.free = append(r.free, size-1-i)
	}
	for _, e := range []**eventfd.EventFD{&r.Kicks, &r.Calls} {
		ev, err := eventfd.New()
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { ev.Close() })
		*e = ev
	}
	return r
}

// Config is the ring as a transport describes it, to go on at available index
// base.
func (r *Ring) Config(base uint16) virtio.QueueConfig {
	return virtio.QueueConfig{Size: r.Size, DescGPA: r.Desc, AvailGPA: r.Avail, UsedGPA: r.Used,
		Features: r.Features, Base: base}
}

// Queue is the device's side of the ring.
func (r *Ring) Queue(base uint16) *virtio.Queue {
	r.tb.Helper()
	q, err := virtio.NewQueue(r.Mem.Memory, r.Config(base), r.Kicks, r.Calls)
	if err != nil {
		r.tb.Fatal(err)
	}
	return q
}

// word is an aligned 32-bit word of guest memory.
func (r *Ring) word(gpa uint64) *uint32 {
	return (*uint32)(unsafe.Pointer(&r.Mem.Bytes(gpa, 4)[0])) // rings are 4-byte aligned
}

// SetDesc writes one entry of the descriptor table, or of an indirect table
// where table says.
func (r *Ring) SetDesc(table uint64, i uint16, gpa uint64, n uint32, flags, next uint16) {
	d := r.Mem.Bytes(table+16*uint64(i), 16)
	binary.LittleEndian.PutUint64(d, gpa)
	binary.LittleEndian.PutUint32(d[8:], n)
	binary.LittleEndian.PutUint16(d[12:], flags)
	binary.LittleEndian.PutUint16(d[14:], next)
}

// AvailIdx is the available index as the device sees it.
func (r *Ring) AvailIdx() uint16 { return uint16(atomic.LoadUint32(r.word(r.Avail)) >> 16) }

// Offer makes the chain that starts at descriptor head available, whatever is
// there.
func (r *Ring) Offer(head uint16) {
	idx := r.AvailIdx()
	binary.LittleEndian.PutUint16(r.Mem.Bytes(r.Avail+4+2*uint64(idx%r.Size), 2), head)
	r.SetAvailIdx(idx + 1)
}

// SetAvailIdx sets the available index, whatever that means.
func (r *Ring) SetAvailIdx(idx uint16) {
	w := r.word(r.Avail)
	atomic.StoreUint32(w, atomic.LoadUint32(w)&0xffff|uint32(idx)<<16)
}

// Room reports whether Add has descriptors for a chain of n buffers.
func (r *Ring) Room(n int) bool {
	if r.Indirect {
		n = 1
	}
	return len(r.free) >= n
}

// Add makes a chain of bufs available and returns its head. The device sees it
// at its next look, or after a Kick.
func (r *Ring) Add(bufs ...Buf) uint16 {
	r.tb.Helper()
	if !r.Room(len(bufs)) {
		r.tb.Fatalf("no descriptors for a chain of %d", len(bufs))
	}
	table, n := r.Desc, len(bufs)
	var at []uint16
	take := func(n int) []uint16 {
		out := append([]uint16(nil), r.free[len(r.free)-n:]...)
		r.free = r.free[:len(r.free)-n]
		return out
	}
	var head uint16
	if r.Indirect {
		table = r.Mem.Alloc(16*n, 16)
		for i := range n {
			at = append(at, uint16(i))
		}
		own := take(1)
		head = own[0]
		r.SetDesc(r.Desc, head, table, uint32(16*n), DescIndirect, 0)
		r.chains[head] = own
	} else {
		at = take(n)
		head = at[0]
		r.chains[head] = at
	}
	for i, b := range bufs {
		var flags, next uint16
		if b.Writable {
			flags |= DescWrite
		}
		if i+1 < n {
			flags |= DescNext
			next = at[i+1]
		}
		r.SetDesc(table, at[i], b.GPA, b.Len, flags, next)
	}
	r.Offer(head)
	return head
}

// Kick kicks the device for what was added since the last Kick, if the device
// wants to be kicked (section 2.7.10).
func (r *Ring) Kick() {
	r.fence.Add(1) // the index before the device's wish
	idx := r.AvailIdx()
	old := r.kicked
	r.kicked = idx
	if r.Features&virtio.FeatureEventIdx != 0 {
		event := uint16(atomic.LoadUint32(r.word(r.Used + 4 + 8*uint64(r.Size))))
		if idx-event-1 >= idx-old {
			return
		}
	} else if atomic.LoadUint32(r.word(r.Used))&1 != 0 {
		return
	}
	r.ForceKick()
}

// ForceKick kicks the device whether it wants it or not.
func (r *Ring) ForceKick() {
	r.KickCount++
	if err := r.Kicks.Signal(); err != nil {
		r.tb.Error(err)
	}
}

// UsedIdx is the used index.
func (r *Ring) UsedIdx() uint16 { return uint16(atomic.LoadUint32(r.word(r.Used)) >> 16) }

// InFlight is the number of chains that the device has not given back.
func (r *Ring) InFlight() int { return len(r.chains) }

// TryUsed takes the next chain that the device gave back, if there is one.
func (r *Ring) TryUsed() (head uint16, written uint32, ok bool) {
	r.tb.Helper()
	if r.UsedIdx() == r.lastUsed {
		return 0, 0, false
	}
	e := r.Mem.Bytes(r.Used+4+8*uint64(r.lastUsed%r.Size), 8)
	id := binary.LittleEndian.Uint32(e)
	written = binary.LittleEndian.Uint32(e[4:])
	descs, known := r.chains[uint16(id)]
	if !known || id > 0xffff {
		r.tb.Fatalf("the device gave back chain %d, which it did not have", id)
	}
	delete(r.chains, uint16(id))
	r.free = append(r.free, descs...)
	r.lastUsed++
	return uint16(id), written, true
}

// reoffer makes each chain that the device gave back available again as it is.
func (r *Ring) reoffer() {
	for ; r.lastUsed != r.UsedIdx(); r.lastUsed++ {
		e := r.Mem.Bytes(r.Used+4+8*uint64(r.lastUsed%r.Size), 8)
		r.Offer(uint16(binary.LittleEndian.Uint32(e)))
		r.Kicks.Signal()
	}
}

// EnableCalls asks the device to call for the next chain it gives back, and
// reports whether there is one already.
func (r *Ring) EnableCalls() (more bool) {
	if r.Features&virtio.FeatureEventIdx != 0 {
		binary.LittleEndian.PutUint16(r.Mem.Bytes(r.Avail+4+2*uint64(r.Size), 2), r.lastUsed)
	} else {
		w := r.word(r.Avail)
		atomic.StoreUint32(w, atomic.LoadUint32(w)&^1)
	}
	r.fence.Add(1)
	return r.UsedIdx() != r.lastUsed
}

// DisableCalls asks the device not to call.
func (r *Ring) DisableCalls() {
	if r.Features&virtio.FeatureEventIdx == 0 {
		w := r.word(r.Avail)
		atomic.StoreUint32(w, atomic.LoadUint32(w)|1)
	}
}

// WaitUsed waits for the next chain that the device gives back, by its calls:
// a call that is missing is a failed test.
func (r *Ring) WaitUsed(timeout time.Duration) (head uint16, written uint32, ok bool) {
	r.tb.Helper()
	timer := time.AfterFunc(timeout, func() { r.Calls.Interrupt() })
	defer func() {
		timer.Stop()
		r.Calls.Resume()
	}()
	for {
		if head, written, ok = r.TryUsed(); ok {
			return head, written, true
		}
		if r.EnableCalls() {
			continue
		}
		if err := r.Calls.Wait(); err != nil {
			return 0, 0, false
		}
	}
}
