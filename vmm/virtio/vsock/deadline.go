package vsock

import (
	"sync"
	"time"
)

// A deadline is a point in time that can be moved while somebody waits for it;
// its zero value is never. It is the one of net.Pipe.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{} // closed when the deadline has passed; made on demand
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // the timer fired: wait until it has closed the channel
	}
	d.timer = nil

	closed := false
	if d.passed != nil {
		select {
		case <-d.passed:
			closed = true
		default:
		}
	}
	if t.IsZero() {
		if closed {
			d.passed = nil
		}
		return
	}
	if d.passed == nil || closed && time.Until(t) > 0 {
		d.passed, closed = make(chan struct{}), false
	}
	if left := time.Until(t); left > 0 {
		passed := d.passed
		d.timer = time.AfterFunc(left, func() { close(passed) })
	} else if !closed {
		close(d.passed)
	}
}

// wait returns a channel that is closed when the deadline has passed. A later
// set may make another one: waiters are woken by set's caller and ask again.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

func (d *deadline) expired() bool {
	select {
	case <-d.wait():
		return true
	default:
		return false
	}
}
