package session

import (
	"sync"

	"github.com/stilehq/stile/interop/wire"
)

// A small is the output of an entry that has no stream yet (wire.Descriptor.Small):
// what has come on the control stream and is to be written.
type small struct {
	wake chan struct{}

	mu    sync.Mutex
	queue []byte
	total int  // bytes that have come
	asked bool // guestinit wants a stream for the rest
	over  bool // no more will come
}

// put queues b. A guest that sends more than it may breaks the protocol.
func (s *small) put(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total += len(b); s.asked || s.total > wire.SmallOutput {
		return wire.ErrField
	}
	s.queue = append(s.queue, b...)
	s.poke()
	return nil
}

// open notes that what comes next comes on a stream.
func (s *small) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked {
		return wire.ErrField
	}
	s.asked = true
	s.poke()
	return nil
}

// finish says that no more will come.
func (s *small) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.poke()
}

func (s *small) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// next waits for bytes. There are none when the rest, if any, comes on a stream.
func (s *small) next() []byte {
	for {
		s.mu.Lock()
		b, end := s.queue, s.asked || s.over
		s.queue = nil
		s.mu.Unlock()
		if len(b) > 0 || end {
			return b
		}
		<-s.wake
	}
}

// writeSmall writes what comes on the control stream, and reports whether the
// entry is to have a stream. What nobody reads is dropped: the guest has been told.
func (e *entry) writeSmall() (stream bool) {
	for lost := false; ; {
		b := e.small.next()
		if len(b) == 0 {
			e.small.mu.Lock()
			defer e.small.mu.Unlock()
			return e.small.asked
		}
		if lost = lost || !e.write(b); lost {
			e.progress.finish() // Exit waits for it, and the notice goes before
		}
	}
}
