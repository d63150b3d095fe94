package vsock

import "sync"

// Chunks of received bytes come in two sizes, so that ten thousand connections
// with a few bytes each do not hold a large one each.
const (
	smallChunk = 4 << 10
	largeChunk = 64 << 10 // VIRTIO_VSOCK_MAX_PKT_BUF_SIZE: what Linux sends at once
)

var smallPool = sync.Pool{New: func() any { return &chunk{b: make([]byte, smallChunk)} }}
var largePool = sync.Pool{New: func() any { return &chunk{b: make([]byte, largeChunk)} }}

type chunk struct {
	b    []byte
	r, w int // b[r:w] waits to be read
	next *chunk
}

func newChunk(n int) *chunk {
	if n <= smallChunk {
		return smallPool.Get().(*chunk)
	}
	return largePool.Get().(*chunk)
}

func (c *chunk) recycle() {
	c.r, c.w, c.next = 0, 0, nil
	if len(c.b) == smallChunk {
		smallPool.Put(c)
	} else {
		largePool.Put(c)
	}
}

// A buffer is the bytes that a connection received and nobody has taken yet.
// One goroutine adds (the device's, for the tx queue), one takes. The
// connection's mutex guards every method; the bytes themselves are copied in
// and out without it: what lies before w does not change until it is discarded,
// and what lies behind it in the last chunk is the adder's.
type buffer struct {
	head, tail *chunk
	n          int  // bytes that wait
	filling    bool // the adder is copying into tail: it must not be recycled
}

// room returns free space for at most n bytes, to be followed by added.
func (b *buffer) room(n int) []byte {
	if b.tail == nil || b.tail.w == len(b.tail.b) {
		c := newChunk(n)
		if b.tail == nil {
			b.head = c
		} else {
			b.tail.next = c
		}
		b.tail = c
	}
	b.filling = true
	free := b.tail.b[b.tail.w:]
	return free[:min(n, len(free))]
}

// added says that n bytes of what room returned are filled. If the buffer was
// dropped meanwhile, they are lost.
func (b *buffer) added(n int) {
	if b.filling {
		b.filling = false
		b.tail.w += n
		b.n += n
	}
}

// appendBytes appends the waiting bytes to dst, chunk by chunk.
func (b *buffer) appendBytes(dst [][]byte) [][]byte {
	for c := b.head; c != nil; c = c.next {
		if c.r < c.w {
			dst = append(dst, c.b[c.r:c.w:c.w])
		}
	}
	return dst
}

// first is the first run of waiting bytes, empty if there is none.
func (b *buffer) first() []byte {
	for c := b.head; c != nil; c = c.next {
		if c.r < c.w {
			return c.b[c.r:c.w:c.w]
		}
	}
	return nil
}

// discard takes out the first n bytes, n <= b.n.
func (b *buffer) discard(n int) {
	b.n -= n
	for c := b.head; c != nil; c = b.head {
		take := min(n, c.w-c.r)
		c.r += take
		n -= take
		if c.r < c.w || c == b.tail && b.filling {
			return
		}
		// Wholly taken: an idle connection holds no chunk.
		if b.head = c.next; b.head == nil {
			b.tail = nil
		}
		c.recycle()
	}
}

// drop forgets all bytes. Somebody may be copying in or out at this moment, so
// the chunks go to the collector and not to the pool.
func (b *buffer) drop() { *b = buffer{} }
