package virtio_test

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/memory"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// features are the ways that a ring is used.
var features = map[string]uint64{
	"none":     virtio.FeatureVersion1,
	"event":    virtio.FeatureVersion1 | virtio.FeatureEventIdx,
	"indirect": virtio.FeatureVersion1 | virtio.FeatureIndirectDesc,
	"all":      virtio.RingFeatures,
}

func newRing(t testing.TB, size uint16, f uint64) *virtiotest.Ring {
	t.Helper()
	r := virtiotest.NewRing(t, virtiotest.NewMemory(t, 4<<20), size, f)
	r.Indirect = f&virtio.FeatureIndirectDesc != 0
	return r
}

// buf is a buffer of n bytes.
func buf(r *virtiotest.Ring, n int, writable bool) virtiotest.Buf {
	return virtiotest.Buf{GPA: r.Mem.Alloc(n, 8), Len: uint32(n), Writable: writable}
}

func mustPop(t testing.TB, q *virtio.Queue) *virtio.Chain {
	t.Helper()
	c, err := q.Pop()
	if err != nil || c == nil {
		t.Fatalf("Pop: %v, %v", c, err)
	}
	return c
}

// A chain's slices are its buffers, in order, readable ones first; the indices
// wrap, at every ring size.
func TestPopPush(t *testing.T) {
	for name, f := range features {
		for _, size := range []uint16{2, 4, 256} {
			r := newRing(t, size, f)
			out, in := buf(r, 24, false), buf(r, 100, true)
			copy(r.Mem.Bytes(out.GPA, 24), "a readable buffer")
			// Bring the indices close to where they wrap.
			r.SetAvailIdx(65500)
			q := r.Queue(65500)
			for i := range 100 {
				want := r.Add(out, in)
				c := mustPop(t, q)
				if c.Head != want || c.ReadableLen() != 24 || c.WritableLen() != 100 || string(c.Readable[0][:17]) != "a readable buffer" {
					t.Fatalf("%s, %d: chain %d with %d and %d bytes", name, size, c.Head, c.ReadableLen(), c.WritableLen())
				}
				c.Writable[0][0] = byte(i)
				if err := q.Push(c, uint32(i)); err != nil {
					t.Fatal(err)
				}
				head, n, ok := r.TryUsed()
				if !ok || head != want || n != uint32(i) || r.Mem.Bytes(in.GPA, 1)[0] != byte(i) {
					t.Fatalf("%s, %d: used chain %d with %d bytes, %v", name, size, head, n, ok)
				}
			}
			if q.Base() != 65500+100-65536 {
				t.Errorf("%s: the next index is %d", name, q.Base())
			}
			if c, err := q.Pop(); c != nil || err != nil {
				t.Errorf("%s: Pop of an empty ring: %v, %v", name, c, err)
			}
		}
	}
}

// Chains come back in any order, and a queue that slept goes on with its ring.
func TestOutOfOrderAndSleep(t *testing.T) {
	r := newRing(t, 8, virtio.RingFeatures)
	q := r.Queue(0)
	var heads []uint16
	for range 6 {
		heads = append(heads, r.Add(buf(r, 8, true)))
	}
	var chains []*virtio.Chain
	for range 4 {
		chains = append(chains, mustPop(t, q))
	}
	for _, i := range []int{2, 0, 3, 1} {
		if err := q.Push(chains[i], 8); err != nil {
			t.Fatal(err)
		}
	}
	if q.UsedIndex() != 4 || q.Base() != 4 {
		t.Fatalf("used %d, base %d", q.UsedIndex(), q.Base())
	}
	q = r.Queue(q.Base())
	for range 2 {
		if err := q.Push(mustPop(t, q), 8); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{2, 0, 3, 1, 4, 5} {
		if head, _, ok := r.TryUsed(); !ok || head != heads[i] {
			t.Errorf("used chain %d, %v, not %d", head, ok, heads[i])
		}
	}
}

// Chains that were given back unused are popped again, in their old order.
func TestUnpop(t *testing.T) {
	r := newRing(t, 8, virtio.FeatureVersion1)
	q := r.Queue(0)
	var want []uint16
	for range 5 {
		want = append(want, r.Add(buf(r, 8, true)))
	}
	first := mustPop(t, q)
	a, b, c := mustPop(t, q), mustPop(t, q), mustPop(t, q)
	for _, ch := range []*virtio.Chain{c, b, a} {
		q.Unpop(ch)
	}
	q.Push(first, 0)
	for _, head := range want[1:] {
		if ch := mustPop(t, q); ch.Head != head {
			t.Errorf("popped chain %d, not %d", ch.Head, head)
		}
	}
}

// A driver is called when it wants to be, and never besides.
func TestCalls(t *testing.T) {
	for name, f := range features {
		r := newRing(t, 64, f)
		q := r.Queue(0)
		push := func() {
			r.Add(buf(r, 8, true))
			if err := q.Push(mustPop(t, q), 0); err != nil {
				t.Fatal(err)
			}
		}
		r.EnableCalls()
		push()
		if n, err := pending(r.Calls); n != 1 || err != nil {
			t.Errorf("%s: %d calls for the first chain, %v", name, n, err)
		}
		r.DisableCalls()
		push()
		push()
		if n, _ := pending(r.Calls); n != 0 {
			t.Errorf("%s: %d calls that nobody wanted", name, n)
		}
		for {
			if _, _, ok := r.TryUsed(); !ok {
				break
			}
		}
		if r.EnableCalls() {
			t.Errorf("%s: more than was used", name)
		}
		push()
		if n, _ := pending(r.Calls); n != 1 {
			t.Errorf("%s: %d calls after EnableCalls", name, n)
		}
	}
}

// pending takes the counter of an eventfd.
func pending(e *eventfd.EventFD) (n int, err error) {
	conn, err := e.File().SyscallConn()
	if err != nil {
		return 0, err
	}
	var b [8]byte
	cerr := conn.Read(func(fd uintptr) bool {
		_, err = unix.Read(int(fd), b[:])
		return true
	})
	if err == unix.EAGAIN {
		return 0, nil
	}
	return int(binary.NativeEndian.Uint64(b[:])), errors.Join(cerr, err)
}

// Next ends at Interrupt though the ring is never empty.
func TestNextEndsAtInterrupt(t *testing.T) {
	r := newRing(t, 8, virtio.FeatureVersion1)
	q := r.Queue(0)
	r.Add(buf(r, 8, true))
	r.Add(buf(r, 8, true))
	if c, err := q.Next(); c == nil || err != nil {
		t.Fatalf("Next: %v, %v", c, err)
	}
	if err := q.Interrupt(); err != nil {
		t.Fatal(err)
	}
	if c, err := q.Next(); !errors.Is(err, eventfd.ErrInterrupted) {
		t.Errorf("Next after Interrupt: %v, %v", c, err)
	}
	q = r.Queue(q.Base())
	if c, err := q.Next(); c == nil || err != nil {
		t.Errorf("Next on the queue made anew: %v, %v", c, err)
	}
}

// A kick between a look at the ring and the wait is not lost.
func TestKicksAreNotLost(t *testing.T) {
	for name, f := range features {
		r := newRing(t, 16, f)
		q := r.Queue(0)
		const n = 5000
		done := make(chan error, 1)
		go func() {
			for range n {
				c, err := q.Next()
				if err == nil {
					err = q.Push(c, 0)
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		b := buf(r, 8, true)
		for i := range n {
			for !r.Room(1) {
				if _, _, ok := r.WaitUsed(10 * time.Second); !ok {
					t.Fatalf("%s: the device is stuck at chain %d", name, i)
				}
			}
			r.Add(b)
			r.Kick()
		}
		if err := <-done; err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Logf("%s: %d kicks for %d chains", name, r.KickCount, n)
	}
}

// A server stops for good though its driver never stops, and can be used again.
func TestServerStops(t *testing.T) {
	r := newRing(t, 8, virtio.FeatureVersion1)
	b := buf(r, 8, true)
	var s virtio.Server
	for round := range 3 {
		handled := make(chan struct{}, 1)
		q := r.Queue(uint16(round * 4))
		s.Serve(q, func(err error) { t.Error(err) }, func(*virtio.Chain) (uint32, error) {
			select {
			case handled <- struct{}{}:
			default:
			}
			return 8, nil
		})
		for range 4 {
			r.Add(b)
		}
		r.ForceKick()
		for range 4 {
			if _, n, ok := r.WaitUsed(10 * time.Second); !ok || n != 8 {
				t.Fatalf("round %d: used %d, %v", round, n, ok)
			}
		}
		<-handled
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if q.Base() != uint16(round*4+4) {
			t.Errorf("round %d: the next index is %d", round, q.Base())
		}
	}
}

func TestNewQueueRefuses(t *testing.T) {
	r := newRing(t, 16, virtio.FeatureVersion1)
	ok := r.Config(0)
	for name, change := range map[string]func(c *virtio.QueueConfig){
		"size 0":            func(c *virtio.QueueConfig) { c.Size = 0 },
		"size 12":           func(c *virtio.QueueConfig) { c.Size = 12 },
		"size above 32768":  func(c *virtio.QueueConfig) { c.Size = 32768; c.Size++ },
		"table beyond":      func(c *virtio.QueueConfig) { c.DescGPA = virtiotest.Base + 4<<20 - 128 },
		"avail beyond":      func(c *virtio.QueueConfig) { c.AvailGPA = virtiotest.Base + 4<<20 - 36 },
		"used beyond":       func(c *virtio.QueueConfig) { c.UsedGPA = ^uint64(3) },
		"table not aligned": func(c *virtio.QueueConfig) { c.DescGPA += 8 },
		"avail not aligned": func(c *virtio.QueueConfig) { c.AvailGPA += 2 },
		"used not aligned":  func(c *virtio.QueueConfig) { c.UsedGPA++ },
	} {
		cfg := ok
		change(&cfg)
		_, err := virtio.NewQueue(r.Mem.Memory, cfg, r.Kicks, r.Calls)
		if !errors.Is(err, virtio.ErrRing) && !errors.Is(err, memory.ErrRange) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A chain that is available twice, before the device has given it back.
func TestChainTwice(t *testing.T) {
	r := newRing(t, 8, virtio.FeatureVersion1)
	q := r.Queue(0)
	head := r.Add(buf(r, 8, true))
	r.Offer(head)
	c := mustPop(t, q)
	if c, err := q.Pop(); !errors.Is(err, virtio.ErrRing) {
		t.Errorf("the second Pop: %v, %v", c, err)
	}
	q.Push(c, 0)
	if _, err := q.Pop(); err != nil { // now it may
		t.Error(err)
	}
}

// FuzzQueue pops whatever a driver has made of a ring. What is popped lies in
// guest memory, and the queue's own writes stay in its used ring.
func FuzzQueue(f *testing.F) {
	const (
		memSize           = 0x4000
		desc, avail, used = 0, 0x1000, 0x2000
	)
	seed := func(settings [4]byte, descs ...[]byte) []byte {
		b := append(settings[:], 3, 0) // available index
		b = append(b, 0, 0, 1, 0, 2, 0, 3, 0)
		return append(b, slices.Concat(descs...)...)
	}
	d := func(gpa uint64, n uint32, flags, next uint16) []byte {
		b := binary.LittleEndian.AppendUint64(nil, gpa)
		b = binary.LittleEndian.AppendUint32(b, n)
		b = binary.LittleEndian.AppendUint16(b, flags)
		return binary.LittleEndian.AppendUint16(b, next)
	}
	const base = virtiotest.Base
	f.Add(seed([4]byte{3, 7, 0, 0}, d(base+0x3000, 16, 1, 1), d(base+0x3100, 16, 2, 0), d(base+0x3200, 8, 3, 3), d(base+0x3300, 8, 2, 0)))
	f.Add(seed([4]byte{3, 7, 0, 0}, d(base+0x40, 32, 4, 0), d(base, 16, 0, 0), d(base, 16, 1, 2), d(base, 16, 1, 1), d(base+0x3000, 9, 1, 1), d(base+0x3000, 7, 2, 0)))
	f.Add(seed([4]byte{2, 0, 0, 0}, d(base, 16, 1, 0), d(base+memSize-1, 2, 0, 0), d(^uint64(0), 1, 2, 0)))
	f.Add(seed([4]byte{0, 3, 200, 1}, d(base, 0xffffffff, 2, 0)))
	mem := virtiotest.NewMemory(f, memSize)
	all := mem.Bytes(base, memSize)
	f.Fuzz(func(t *testing.T, data []byte) {
		clear(all)
		if len(data) < 6 {
			return
		}
		size := uint16(1) << (data[0] % 8)
		features := virtio.FeatureVersion1 | uint64(data[1]&3)<<28
		start := binary.LittleEndian.Uint16(data[2:])
		cfg := virtio.QueueConfig{Size: size, DescGPA: base + desc, AvailGPA: base + avail, UsedGPA: base + used, Features: features, Base: start}
		kick, err := eventfd.New()
		if err != nil {
			t.Fatal(err)
		}
		defer kick.Close()
		idx := binary.LittleEndian.Uint16(data[4:])
		data = data[6:]
		// First the available ring, from the slot of the start on, then the table.
		for i := range size {
			if len(data) < 2 {
				break
			}
			copy(all[avail+4+2*int((start+i)%size):], data[:2])
			data = data[2:]
			if i == 3 && size > 4 {
				break // seeds are short
			}
		}
		copy(all[desc:desc+0x1000], data)
		binary.LittleEndian.PutUint16(all[avail+2:], start+idx)

		q, err := virtio.NewQueue(mem.Memory, cfg, kick, nil)
		if err != nil {
			t.Fatal(err)
		}
		before := slices.Clone(all)
		popped, inFlight := 0, map[uint16]bool{}
		for {
			c, err := q.Pop()
			if err != nil {
				if !errors.Is(err, virtio.ErrRing) && !errors.Is(err, memory.ErrRange) {
					t.Fatal(err)
				}
				break
			}
			if c == nil {
				break
			}
			if popped++; popped > int(size) {
				t.Fatalf("%d chains in a ring of %d", popped, size)
			}
			if inFlight[c.Head] || c.Head >= size {
				t.Fatalf("chain %d of %d, in flight already: %v", c.Head, size, inFlight[c.Head])
			}
			inFlight[c.Head] = true
			total := 0
			for _, b := range append(slices.Clone(c.Readable), c.Writable...) {
				if gpa, err := mem.GPA(b); err != nil || gpa-base+uint64(len(b)) > memSize || cap(b) != len(b) {
					t.Fatalf("a buffer of %d bytes (%d) at %#x: %v", len(b), cap(b), gpa, err)
				}
				total += len(b)
			}
			if total != c.ReadableLen()+c.WritableLen() {
				t.Fatalf("%d bytes are %d and %d", total, c.ReadableLen(), c.WritableLen())
			}
			if popped%3 == 0 {
				q.EnableKicks()
				q.DisableKicks()
			}
			if popped%2 == 0 {
				q.Push(c, uint32(total))
				delete(inFlight, c.Head)
			}
		}
		if popped > 0 && q.Base() != start+uint16(popped) {
			t.Fatalf("the next index is %d after %d from %d", q.Base(), popped, start)
		}
		if q.UsedIndex() != uint16(popped/2) {
			t.Fatalf("%d chains used, not %d", q.UsedIndex(), popped/2)
		}
		end := used + 4 + 8*int(size) + 2
		if !slices.Equal(before[:used], all[:used]) || !slices.Equal(before[end:], all[end:]) {
			t.Fatal("the queue wrote outside its used ring")
		}
	})
}
