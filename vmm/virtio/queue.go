package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/memory"
)

// ErrRing says that the driver broke the rules of the ring: an index, a
// descriptor or a chain that cannot be. The queue is of no more use then.
var ErrRing = errors.New("malformed virtqueue")

// MaxQueueSize is the largest split ring (section 2.7).
const MaxQueueSize = 32768

// maxChain bounds the descriptors of one chain, indirect ones included. Linux
// makes longer indirect chains than its ring for none of our devices; QEMU's
// VIRTQUEUE_MAX_SIZE is the same.
const maxChain = 1024

// Descriptor flags (section 2.7.5) and ring flags (2.7.7, 2.7.10).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1
	usedNoNotify     = 1

	descSize = 16
)

// QueueConfig is where a driver put one split virtqueue.
type QueueConfig struct {
	Size     uint16 // entries, a power of two
	DescGPA  uint64 // descriptor table, 16-byte aligned
	AvailGPA uint64 // available ring; 4-byte aligned, which every driver does
	UsedGPA  uint64 // used ring, 4-byte aligned
	Features uint64 // acked; RingFeatures matter here
	Base     uint16 // available index to go on from: 0 on a fresh queue
}

// A Queue is the device's side of one split virtqueue. Pop, Unpop, EnableKicks
// and DisableKicks belong to one goroutine at a time; Push, Notify, WaitKick
// and Interrupt may be called from any.
//
// Memory order: the indices are read and written by 32-bit atomic operations
// on the aligned word that holds flags and index, so that a chain is read only
// after the index that announces it, and a used entry is visible before its
// index. After a store that asks for an event an atomic read-modify-write
// stands for the full barrier that the check behind it needs.
type Queue struct {
	mem      *memory.Memory
	cfg      QueueConfig
	kick     *eventfd.EventFD
	call     *eventfd.EventFD
	eventIdx bool
	thread   bool // WaitKick blocks its thread

	desc  []byte
	avail []byte
	used  []byte

	nextAvail uint16 // owned by the popping goroutine

	mu       sync.Mutex // what follows
	usedIdx  uint16
	signaled uint16 // usedIdx at the last call
	hasCall  bool   // the driver was called at least once
	usedFlag uint16
	free     []*Chain // to be used again: Pop allocates nothing in the long run
	count    Count

	inFlight []atomic.Bool // by head: popped and not pushed
	fence    atomic.Uint32
	stopped  atomic.Bool // by Interrupt
}

// A Chain is one descriptor chain: what the driver gives the device to read,
// then what it gives it to fill. The slices are guest memory: the guest can
// change them while the device reads, so a value is read once, and checked
// after that. A Chain is the device's until it is pushed.
type Chain struct {
	Head     uint16   // index of the first descriptor
	Readable [][]byte // device-readable, in order
	Writable [][]byte // device-writable, in order
}

// ReadableLen is the number of bytes in Readable.
func (c *Chain) ReadableLen() int { return total(c.Readable) }

// WritableLen is the number of bytes in Writable.
func (c *Chain) WritableLen() int { return total(c.Writable) }

func total(iov [][]byte) int {
	n := 0
	for _, b := range iov {
		n += len(b)
	}
	return n
}

// NewQueue checks cfg against mem and makes a Queue of it, and ends the effect
// of an earlier Interrupt on kick. The eventfds stay the transport's, which
// closes them after the device's Sleep or Reset. call may be nil: the driver
// looks by itself. The error wraps ErrRing or memory.ErrRange.
func NewQueue(mem *memory.Memory, cfg QueueConfig, kick, call *eventfd.EventFD) (*Queue, error) {
	size := uint64(cfg.Size)
	if size == 0 || size > MaxQueueSize || size&(size-1) != 0 {
		return nil, fmt.Errorf("queue size %d: %w", size, ErrRing)
	}
	if cfg.DescGPA%16 != 0 || cfg.AvailGPA%4 != 0 || cfg.UsedGPA%4 != 0 {
		return nil, fmt.Errorf("ring at %#x, %#x, %#x is not aligned: %w", cfg.DescGPA, cfg.AvailGPA, cfg.UsedGPA, ErrRing)
	}
	q := &Queue{mem: mem, cfg: cfg, kick: kick, call: call,
		eventIdx:  cfg.Features&FeatureEventIdx != 0,
		nextAvail: cfg.Base, inFlight: make([]atomic.Bool, size)}
	var err error
	if q.desc, err = mem.Slice(cfg.DescGPA, size*descSize); err != nil {
		return nil, fmt.Errorf("descriptor table: %w", err)
	}
	// flags, idx, ring, used_event; rounded up so that used_event can be read
	// as part of an aligned word.
	if q.avail, err = mem.Slice(cfg.AvailGPA, 4+2*size+4); err != nil {
		return nil, fmt.Errorf("available ring: %w", err)
	}
	if q.used, err = mem.Slice(cfg.UsedGPA, 4+8*size+2); err != nil {
		return nil, fmt.Errorf("used ring: %w", err)
	}
	for _, ring := range [][]byte{q.avail, q.used} {
		if uintptr(unsafe.Pointer(&ring[0]))%4 != 0 { // address only, to check its alignment
			return nil, fmt.Errorf("guest memory is not aligned: %w", ErrRing)
		}
	}
	// The used index is read back once, here: a queue that slept goes on with
	// its ring. From now on the driver's idea of it is not asked for.
	q.usedIdx = uint16(load32(q.used) >> 16)
	q.signaled = q.usedIdx
	if err := kick.Resume(); err != nil {
		return nil, fmt.Errorf("resume kicks: %w", err)
	}
	return q, nil
}

// Size is the number of entries.
func (q *Queue) Size() uint16 { return q.cfg.Size }

// Base is the available index to go on from in a later NewQueue: what a
// transport saves after the device's Sleep.
func (q *Queue) Base() uint16 { return q.nextAvail }

// UsedIndex is how many chains were pushed since the ring was made, modulo
// 65536: zero on a ring that no device has used yet.
func (q *Queue) UsedIndex() uint16 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.usedIdx
}

// Pop takes the next available chain. It returns nil, nil when there is none,
// and an error that wraps ErrRing or memory.ErrRange when the driver broke the
// rules.
func (q *Queue) Pop() (*Chain, error) {
	idx := uint16(load32(q.avail) >> 16)
	pending := idx - q.nextAvail
	if pending == 0 {
		return nil, nil
	}
	if pending > q.cfg.Size {
		return nil, fmt.Errorf("available index jumps from %d to %d in a queue of %d: %w", q.nextAvail, idx, q.cfg.Size, ErrRing)
	}
	slot := q.nextAvail & (q.cfg.Size - 1)
	head := binary.LittleEndian.Uint16(q.avail[4+2*int(slot):])
	if head >= q.cfg.Size {
		return nil, fmt.Errorf("chain %d in a queue of %d: %w", head, q.cfg.Size, ErrRing)
	}
	if q.inFlight[head].Load() {
		return nil, fmt.Errorf("chain %d is available twice: %w", head, ErrRing)
	}
	q.mu.Lock()
	c := q.newChain(head)
	q.mu.Unlock()
	if err := q.walk(c); err != nil {
		return nil, err
	}
	q.inFlight[head].Store(true)
	q.nextAvail++
	return c, nil
}

// Unpop makes c, the chain that was popped last and of which nothing was used,
// the next one to be popped again. Several are given back in the reverse order
// of their Pops, and only if no chain popped after them was pushed: the driver
// may have reused the ring's entry since then.
func (q *Queue) Unpop(c *Chain) {
	q.nextAvail--
	q.inFlight[c.Head].Store(false)
	q.mu.Lock()
	q.free = append(q.free, c)
	q.mu.Unlock()
}

// newChain is called with mu held.
func (q *Queue) newChain(head uint16) *Chain {
	c := new(Chain)
	if n := len(q.free); n > 0 {
		c, q.free = q.free[n-1], q.free[:n-1]
	}
	c.Head, c.Readable, c.Writable = head, c.Readable[:0], c.Writable[:0]
	return c
}

// walk follows the chain from c.Head and fills c's slices.
func (q *Queue) walk(c *Chain) error {
	table, at := q.desc, c.Head
	indirect := false
	var length uint64
	for n := 0; ; n++ {
		limit := min(int(q.cfg.Size), maxChain)
		if indirect {
			limit = maxChain
		}
		if n >= limit {
			return fmt.Errorf("chain %d is longer than %d descriptors: %w", c.Head, limit, ErrRing)
		}
		if int(at) >= len(table)/descSize {
			return fmt.Errorf("chain %d: descriptor %d is outside its table of %d: %w", c.Head, at, len(table)/descSize, ErrRing)
		}
		d := table[int(at)*descSize:][:descSize]
		addr := binary.LittleEndian.Uint64(d)
		n32 := binary.LittleEndian.Uint32(d[8:])
		flags := binary.LittleEndian.Uint16(d[12:])
		next := binary.LittleEndian.Uint16(d[14:])

		if flags&descIndirect != 0 {
			if indirect || flags&descNext != 0 || q.cfg.Features&FeatureIndirectDesc == 0 {
				return fmt.Errorf("chain %d: indirect descriptor where none may be: %w", c.Head, ErrRing)
			}
			if n32 == 0 || n32%descSize != 0 || n32 > maxChain*descSize {
				return fmt.Errorf("chain %d: indirect table of %d bytes: %w", c.Head, n32, ErrRing)
			}
			var err error
			if table, err = q.mem.Slice(addr, uint64(n32)); err != nil {
				return fmt.Errorf("chain %d: indirect table: %w", c.Head, err)
			}
			indirect, at = true, 0
			continue
		}
		if length += uint64(n32); length > 1<<32-1 {
			return fmt.Errorf("chain %d holds more than 4 GiB: %w", c.Head, ErrRing)
		}
		var err error
		if flags&descWrite != 0 {
			c.Writable, err = q.mem.AppendSlices(c.Writable, addr, uint64(n32))
		} else if len(c.Writable) > 0 {
			err = fmt.Errorf("a readable descriptor behind a writable one: %w", ErrRing)
		} else {
			c.Readable, err = q.mem.AppendSlices(c.Readable, addr, uint64(n32))
		}
		if err != nil {
			return fmt.Errorf("chain %d: %w", c.Head, err)
		}
		if flags&descNext == 0 {
			return nil
		}
		at = next
	}
}

// Push gives a chain back with the number of bytes written to its Writable
// part, and calls the driver if it wants to be. The chain is not used after
// that. The error is that of the call eventfd.
func (q *Queue) Push(c *Chain, written uint32) error {
	q.push(c, written)
	return q.Notify()
}

// PushQuiet is Push without the call: for a batch, which ends with Notify.
func (q *Queue) PushQuiet(c *Chain, written uint32) { q.push(c, written) }

func (q *Queue) push(c *Chain, written uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	slot := q.usedIdx & (q.cfg.Size - 1)
	e := q.used[4+8*int(slot):]
	binary.LittleEndian.PutUint32(e, uint32(c.Head))
	binary.LittleEndian.PutUint32(e[4:], written)
	q.usedIdx++
	q.count.Chains++
	q.inFlight[c.Head].Store(false) // before the driver may offer it again
	q.storeUsed()
	q.free = append(q.free, c)
}

// storeUsed publishes flags and index of the used ring; mu is held.
func (q *Queue) storeUsed() { store32(q.used, uint32(q.usedIdx)<<16|uint32(q.usedFlag)) }

// Notify calls the driver for the chains pushed since the last call, if the
// driver wants to be called for one of them (section 2.7.7).
func (q *Queue) Notify() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	want := false
	q.fence.Add(1) // the index before the driver's wish
	if q.eventIdx {
		event := uint16(load32(q.avail[4+2*int(q.cfg.Size):]))
		fresh := q.usedIdx - q.signaled
		want = !q.hasCall && fresh != 0 || q.hasCall && q.usedIdx-event-1 < fresh
	} else {
		want = q.usedIdx != q.signaled && load32(q.avail)&availNoInterrupt == 0
	}
	q.signaled = q.usedIdx
	q.hasCall = q.hasCall || want
	if !want || q.call == nil {
		return nil
	}
	q.count.Calls++
	return q.call.Signal()
}

// SetCall makes Notify call through another eventfd, or not at all if call is
// nil: vhost-user front-ends change it while the queue runs, to mask and unmask
// interrupts. When SetCall returns, the old one is used no more and may be
// closed. The transport signals the new one once, so that no call is lost.
func (q *Queue) SetCall(call *eventfd.EventFD) {
	q.mu.Lock()
	q.call = call
	q.mu.Unlock()
}

// EnableKicks asks the driver to kick for the next chain and reports whether
// one came meanwhile: then there will be no kick for it, and the caller pops
// again instead of waiting.
func (q *Queue) EnableKicks() (more bool) {
	q.mu.Lock()
	if q.eventIdx {
		binary.LittleEndian.PutUint16(q.used[4+8*int(q.cfg.Size):], q.nextAvail)
	} else {
		q.usedFlag &^= usedNoNotify
		q.storeUsed()
	}
	q.mu.Unlock()
	q.fence.Add(1) // the wish before the driver's index
	return uint16(load32(q.avail)>>16) != q.nextAvail
}

// DisableKicks tells the driver that the device looks by itself.
func (q *Queue) DisableKicks() {
	if q.eventIdx {
		return // an event index that is passed already asks for nothing
	}
	q.mu.Lock()
	q.usedFlag |= usedNoNotify
	q.storeUsed()
	q.mu.Unlock()
}

// WaitKick waits for the driver's kick. It returns eventfd.ErrInterrupted after
// Interrupt.
func (q *Queue) WaitKick() error {
	if q.thread {
		return q.kick.WaitThread()
	}
	return q.kick.Wait()
}

// UseThread makes WaitKick block its thread, which is quicker, and costs one:
// see eventfd.EventFD.WaitThread. It is called before anyone waits.
func (q *Queue) UseThread() { q.thread = true }

// Interrupt ends the present and each later WaitKick: how a device stops its
// goroutine on this queue. The next NewQueue on the same eventfd ends that.
func (q *Queue) Interrupt() error {
	q.stopped.Store(true)
	return q.kick.Interrupt()
}

// Next pops the next chain, waiting for a kick while there is none: the body of
// most device loops. It returns eventfd.ErrInterrupted after Interrupt, also
// while there are chains: a driver that never lets the ring run empty must not
// keep its device from stopping.
func (q *Queue) Next() (*Chain, error) {
	for {
		if q.stopped.Load() {
			return nil, eventfd.ErrInterrupted
		}
		c, err := q.Pop()
		if c != nil || err != nil {
			return c, err
		}
		if q.EnableKicks() {
			continue
		}
		if err := q.WaitKick(); err != nil {
			return nil, err
		}
		q.DisableKicks()
	}
}

// load32 and store32 see the little-endian word of the ring that starts at b,
// which NewQueue has checked to be aligned. Every architecture that stile runs
// on is little-endian.
func load32(b []byte) uint32     { return atomic.LoadUint32((*uint32)(unsafe.Pointer(&b[0]))) }
func store32(b []byte, v uint32) { atomic.StoreUint32((*uint32)(unsafe.Pointer(&b[0])), v) }
