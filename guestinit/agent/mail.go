package agent

import (
	"io"
	"sync"
)

// A mailbox is a queue with one reader, whose writers never wait: the goroutine
// that reports on all processes is one of them.
type mailbox struct {
	mu    sync.Mutex
	queue []any
	wake  chan struct{}
}

func (m *mailbox) put(v any) {
	m.mu.Lock()
	m.queue = append(m.queue, v)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take waits for the next letter.
func (m *mailbox) take() any {
	for {
		m.mu.Lock()
		if len(m.queue) > 0 {
			v := m.queue[0]
			m.queue = m.queue[1:]
			m.mu.Unlock()
			return v
		}
		m.mu.Unlock()
		<-m.wake
	}
}

// An outbox writes messages to a stream without making the sender wait, and
// closes the stream when it is finished.
type outbox struct {
	w    io.WriteCloser
	wake chan struct{}

	mu     sync.Mutex
	queue  []byte
	closed bool
}

func (o *outbox) init(w io.WriteCloser) {
	o.w, o.wake = w, make(chan struct{}, 1)
}

func (o *outbox) put(b []byte) {
	o.mu.Lock()
	if !o.closed {
		o.queue = append(o.queue, b...)
	}
	o.mu.Unlock()
	o.poke()
}

// finish closes the stream once all is written. What is put after it is lost.
func (o *outbox) finish() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.poke()
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run writes until finish. A stream that fails takes no more; that its reader is
// gone is known from reading it.
func (o *outbox) run() {
	for {
		o.mu.Lock()
		b, closed := o.queue, o.closed
		o.queue = nil
		o.mu.Unlock()
		switch {
		case len(b) > 0:
			o.w.Write(b)
		case closed:
			o.w.Close()
			return
		default:
			<-o.wake
		}
	}
}
