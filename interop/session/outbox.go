package session

import (
	"errors"
	"io"
	"sync"
)

// errOutbox says that a peer does not read what it is sent.
var errOutbox = errors.New("peer does not read")

// outboxLimit bounds what waits to be written to a stream of control messages or
// of typed input: a guest that reads neither must hold up nobody who writes them.
const outboxLimit = 1 << 20

// An outbox writes to a stream without making the writer wait.
type outbox struct {
	w io.Writer

	mu     sync.Mutex
	queue  []byte
	closed bool
	err    error
	after  func() // called once all is written, after finish
	wake   chan struct{}
}

func newOutbox(w io.Writer) *outbox { return &outbox{w: w, wake: make(chan struct{}, 1)} }

// put queues b. The error is errOutbox; a stream that has failed takes everything
// and forgets it, for its reader to find.
func (o *outbox) put(b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil || o.closed {
		return nil
	}
	if len(o.queue)+len(b) > outboxLimit {
		return errOutbox
	}
	o.queue = append(o.queue, b...)
	o.poke()
	return nil
}

// finish ends the outbox when its queue has been written; then after is called.
func (o *outbox) finish(after func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.closed, o.after = true, after
		o.poke()
	}
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run writes until finish, or until a write fails.
func (o *outbox) run() {
	for {
		o.mu.Lock()
		b, closed, err := o.queue, o.closed, o.err
		o.queue = nil
		o.mu.Unlock()
		switch {
		case err != nil:
			return
		case len(b) > 0:
			if _, err := o.w.Write(b); err != nil {
				o.mu.Lock()
				o.err = err
				o.mu.Unlock()
			}
		case closed:
			if o.after != nil {
				o.after()
			}
			return
		default:
			<-o.wake
		}
	}
}
