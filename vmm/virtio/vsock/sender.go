package vsock

import (
	"fmt"
	"sync"

	"github.com/stilehq/stile/vmm/virtio"
)

// Packets without data that a connection owes the guest. As bits of the Conn
// they need no memory of their own, and several of a kind are one.
type control uint8

const (
	sendRequest control = 1 << iota
	sendResponse
	sendCreditUpdate
	sendCreditRequest
	sendShutdown
)

// controlOps are the operations of the control bits, in the order of sending.
var controlOps = [...]uint16{opRequest, opResponse, opCreditUpdate, opCreditRequest, opShutdown}

// maxResets bounds the resets of connections that the device does not know.
const maxResets = 4096

// maxTurn bounds what one Write puts into the rx queue before it looks whether
// others wait.
const maxTurn = 64 << 10

// A sender fills the guest's rx buffers. Writers copy into them in their own
// goroutines, in turns where buffers are short; packets without data go first,
// so that the response to a request precedes the connection's data.
type sender struct {
	cid uint64 // the guest's

	mu      sync.Mutex
	q       *virtio.Queue // nil while inactive
	fail    func(error)
	owing   list // connections with control bits
	waiting list // connections whose Write waits for rx buffers; the head's turn
	resets  []reset
	first   int // resets before it are sent

	chains []*virtio.Chain // scratch
	bufs   [][]byte        // scratch
	hdr    [headerSize]byte
}

// A reset is a RST for a connection that has no Conn.
type reset struct {
	srcCID           uint64
	srcPort, dstPort uint32
	typ              uint16
}

// start makes the sender use q. fail is called when the queue is broken.
func (s *sender) start(q *virtio.Queue, fail func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.q, s.fail = q, fail
	s.advance()
}

// stop makes the sender leave the queue alone. What is owed stays owed.
func (s *sender) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.q = nil
}

// clear forgets what is owed to no connection.
func (s *sender) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resets, s.first = nil, 0
}

// kicked is the work of the rx queue's goroutine.
func (s *sender) kicked() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.q != nil {
		s.q.DisableKicks()
		s.advance()
	}
	return false, nil
}

// flush sends what is owed, as far as there are buffers.
func (s *sender) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
}

// owe adds control bits to a connection. They are sent now, or by the next flush
// if later is true: the tx queue's goroutine, which has more packets to handle,
// flushes when it has none.
func (s *sender) owe(c *Conn, bits control, later bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.out.over {
		return
	}
	c.out.owes |= bits
	s.owing.push(&c.out.owing, c)
	if !later {
		s.advance()
	}
}

// shutdown owes the guest a SHUTDOWN with flags, added to those sent before.
// Data is not sent after one that says so.
func (s *sender) shutdown(c *Conn, flags uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.out.over {
		return
	}
	c.out.shut |= flags
	c.out.owes |= sendShutdown
	s.owing.push(&c.out.owing, c)
	s.advance()
}

// drop forgets a connection, and resets it in the guest if rst is true.
func (s *sender) drop(c *Conn, rst bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.out.over {
		return
	}
	c.out.over, c.out.owes = true, 0
	s.owing.remove(&c.out.owing)
	s.leave(c)
	if rst {
		s.addReset(reset{HostCID, c.key.host, c.key.guest, typeStream})
	}
	s.advance()
}

// reset owes the guest a RST. The tx queue's goroutine calls it and flushes.
func (s *sender) reset(r reset) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addReset(r)
}

func (s *sender) addReset(r reset) {
	if len(s.resets)-s.first == maxResets {
		return
	}
	if s.first > 0 && len(s.resets) == cap(s.resets) {
		s.resets = s.resets[:copy(s.resets, s.resets[s.first:])]
		s.first = 0
	}
	s.resets = append(s.resets, r)
}

// advance sends what is owed and wakes the next writer. Where buffers are short
// it asks for a kick. The rest of this file is called with mu held.
func (s *sender) advance() {
	if s.q == nil {
		return
	}
	for {
		done := s.sendOwed()
		if s.q == nil || done && s.waiting.head == nil {
			break
		}
		// Somebody needs buffers. A writer that waits is woken if there are
		// some, and comes back here.
		if !s.q.EnableKicks() {
			break
		}
		if done {
			s.waiting.head.conn.wakeWriter()
			break
		}
	}
	if s.q != nil {
		if err := s.q.Notify(); err != nil {
			s.broken1(err)
		}
	}
}

// sendOwed sends resets and control packets and reports whether all are sent.
func (s *sender) sendOwed() bool {
	for s.first < len(s.resets) {
		r := s.resets[s.first]
		h := header{srcCID: r.srcCID, dstCID: s.cid, srcPort: r.srcPort, dstPort: r.dstPort, typ: r.typ, op: opRST}
		if !s.sendBare(&h) {
			return false
		}
		s.first++
	}
	s.resets, s.first = s.resets[:0], 0
	for s.owing.head != nil {
		c := s.owing.head.conn
		for i, op := range controlOps {
			if c.out.owes&(1<<i) == 0 {
				continue
			}
			h := s.header(c, op)
			if op == opShutdown {
				h.flags = c.out.shut
			}
			if !s.sendBare(&h) {
				return false
			}
			c.out.owes &^= 1 << i
		}
		s.owing.remove(&c.out.owing)
	}
	return true
}

// header is that of a packet of c, and notes that it tells the guest fwd_cnt.
func (s *sender) header(c *Conn, op uint16) header {
	fwd := c.fwdCnt.Load()
	c.toldFwd.Store(fwd)
	return header{srcCID: HostCID, dstCID: s.cid, srcPort: c.key.host, dstPort: c.key.guest,
		typ: typeStream, op: op, bufAlloc: c.bufAlloc, fwdCnt: fwd}
}

// sendBare sends a packet without data. It reports false if there is no buffer.
func (s *sender) sendBare(h *header) bool {
	c := s.pop()
	if c == nil {
		return false
	}
	h.encode(&s.hdr)
	s.q.PushQuiet(c, uint32(scatter(c.Writable, s.hdr[:])))
	return true
}

// pop takes an rx buffer; nil if there is none, or if the queue is broken.
func (s *sender) pop() *virtio.Chain {
	if s.q == nil {
		return nil
	}
	c, err := s.q.Pop()
	if err == nil && c != nil && c.WritableLen() <= headerSize {
		// It would carry no data, ever.
		err = fmt.Errorf("rx buffer of %d bytes: %w", c.WritableLen(), virtio.ErrRing)
	}
	if err != nil {
		s.broken1(err)
		return nil
	}
	return c
}

// broken reports that the device can go on no more on this queue.
func (s *sender) broken(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken1(err)
}

func (s *sender) broken1(err error) {
	if s.q != nil {
		s.q = nil
		s.fail(fmt.Errorf("vsock: rx queue: %w", err))
	}
}

// leave ends c's wait for buffers.
func (s *sender) leave(c *Conn) { s.waiting.remove(&c.out.waiting) }

// send puts up to n bytes of data into rx buffers: what fill writes into the
// slices of guest memory that it gets, or c.src without it. wait says that it is not c's turn, or
// that there are no buffers: the caller waits for wakeWriter and tries again, or
// gives up with giveUp.
func (s *sender) send(c *Conn, n int, fill func(bufs [][]byte) (int, error)) (sent int, wait bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.out.over || c.out.shut&shutdownSend != 0 {
		s.leave(c)
		return 0, false, nil // the caller finds out why
	}
	if s.waiting.head != nil && s.waiting.head != &c.out.waiting || s.q == nil || !s.sendOwed() {
		s.waiting.push(&c.out.waiting, c)
		s.advance()
		return 0, true, nil
	}

	chains, bufs, room := s.chains[:0], s.bufs[:0], 0
	for room < n {
		ch := s.pop()
		if ch == nil {
			break
		}
		take := min(ch.WritableLen()-headerSize, n-room)
		bufs = virtio.AppendPart(bufs, ch.Writable, headerSize, take)
		chains = append(chains, ch)
		room += take
	}
	if s.q == nil || room == 0 {
		s.waiting.push(&c.out.waiting, c)
		s.advance()
		return 0, true, nil
	}
	if fill != nil {
		sent, err = fill(bufs)
		sent = max(0, min(sent, room))
	} else {
		sent = c.fromSrc(bufs)
	}
	clear(bufs)
	s.chains, s.bufs = chains[:0], bufs[:0]
	s.pushData(c, chains, sent, n)
	s.leave(c)
	s.advance()
	return sent, false, err
}

// pushData makes packets of the n bytes that were written to chains, each of
// which holds what its size allows of limit bytes in all, and gives the rest of
// the chains back.
func (s *sender) pushData(c *Conn, chains []*virtio.Chain, n, limit int) {
	used, left := 0, n
	for left > 0 {
		left -= chains[used].WritableLen() - headerSize
		used++
	}
	for i := len(chains) - 1; i >= used; i-- {
		s.q.Unpop(chains[i])
	}
	h := s.header(c, opRW)
	for _, ch := range chains[:used] {
		take := min(ch.WritableLen()-headerSize, n)
		n -= take
		h.length = uint32(take)
		h.encode(&s.hdr)
		scatter(ch.Writable, s.hdr[:])
		s.q.PushQuiet(ch, uint32(headerSize+take))
	}
}

// giveUp takes c out of the queue of writers.
func (s *sender) giveUp(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(c)
	s.advance()
}

// A list is a doubly linked list of connections through a link in each.
type list struct{ head, tail *link }

type link struct {
	conn       *Conn // nil while in no list
	prev, next *link
}

// push appends, unless l is in the list.
func (l *list) push(e *link, c *Conn) {
	if e.conn != nil {
		return
	}
	e.conn, e.prev, e.next = c, l.tail, nil
	if l.tail == nil {
		l.head = e
	} else {
		l.tail.next = e
	}
	l.tail = e
}

// remove takes e out, if it is in the list.
func (l *list) remove(e *link) {
	if e.conn == nil {
		return
	}
	if e.prev == nil {
		l.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	*e = link{}
}
