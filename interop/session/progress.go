package session

import (
	"context"
	"sync"
)

// progress counts the bytes of one output stream that have been written.
type progress struct {
	mu      sync.Mutex
	n       uint64
	done    bool
	changed chan struct{} // closed at the next change; nil while nobody waits
}

func (p *progress) add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n += uint64(n)
	p.notify()
}

// finish says that no more will be written.
func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	p.notify()
}

func (p *progress) notify() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

func (p *progress) count() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// reach waits until n bytes have been written, or no more will be, or ctx is done.
func (p *progress) reach(ctx context.Context, n uint64) {
	for {
		p.mu.Lock()
		if p.n >= n || p.done {
			p.mu.Unlock()
			return
		}
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
