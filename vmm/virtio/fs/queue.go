package fs

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/virtio"
)

const (
	// patience is how long a leader may be at one request, to twice that,
	// before another takes the ring: longer than a disk takes as a rule, for
	// to look more often is to take time from the guest where processors are
	// few.
	patience = 10 * time.Millisecond
	// restAfter is how many times patience the ring is idle before nobody
	// watches its leader any more.
	restAfter = 10
	// pushBatch is how many answers wait for a call to the driver while
	// there is more to take off the ring.
	pushBatch = 8
	// longTransfer is the size of a READ or WRITE that has a goroutine of its
	// own: to copy that much takes longer than to start one.
	longTransfer = 64 << 10
)

// A queue is one virtqueue with the goroutines that serve it: a leader, who
// alone pops, a watcher while there is work, and those with one request each.
type queue struct {
	run   *run
	q     *virtio.Queue
	limit int // of workers and leaders

	mu       sync.Mutex
	term     uint64 // of the leader: another number, and it has been replaced
	count    uint64 // of requests that leaders have begun
	handling bool   // the leader is at one
	watched  bool
	ended    bool
	workers  int // goroutines besides the leader
}

func (q *queue) start() {
	if q.limit > 1 {
		q.q.UseThread()
	}
	q.run.wg.Add(1)
	go q.lead(0)
}

// lead takes chains off the ring and answers them, until it is replaced or the
// run ends.
func (q *queue) lead(term uint64) {
	defer q.run.wg.Done()
	for quiet := 0; ; {
		// Next looks whether the run has ended, which a ring that is never
		// empty must not keep from being seen.
		c, err := q.q.Pop()
		if c == nil && err == nil || q.run.over() {
			if quiet > 0 {
				q.call()
				quiet = 0
			}
			if c != nil {
				q.q.Unpop(c)
			}
			c, err = q.q.Next()
		}
		if err != nil {
			q.end(err)
			return
		}
		req := parse(c)
		if req.waits() {
			q.run.wg.Go(func() { q.push(c, q.run.device.answer(req, c)) })
			continue
		}
		if req.long() && q.delegate(req, c) {
			continue
		}
		q.begin()
		written := q.run.device.answer(req, c)
		q.q.PushQuiet(c, uint32(written))
		if !q.finish(term) {
			q.call()
			return
		}
		if quiet++; quiet == pushBatch {
			q.call()
			quiet = 0
		}
	}
}

// delegate gives a request to a goroutine of its own, if there may be one more.
func (q *queue) delegate(req *request, c *virtio.Chain) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.workers >= q.limit {
		return false
	}
	q.workers++
	q.run.wg.Go(func() {
		q.push(c, q.run.device.answer(req, c))
		q.mu.Lock()
		q.workers--
		q.mu.Unlock()
	})
	return true
}

// begin says that the leader is at a request, and sees that someone watches it.
func (q *queue) begin() {
	q.mu.Lock()
	q.handling = true
	q.count++
	if !q.watched && q.limit > 1 {
		q.watched = true
		q.run.wg.Add(1)
		go q.watch()
	}
	q.mu.Unlock()
}

// finish says that the leader is done with its request, and reports whether it
// still leads.
func (q *queue) finish(term uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.term != term {
		q.workers--
		return false
	}
	q.handling = false
	return true
}

// watch replaces a leader that is too long at one request. The old one goes when
// it is done.
func (q *queue) watch() {
	defer q.run.wg.Done()
	tick := time.NewTicker(patience)
	defer tick.Stop()
	last, idle := uint64(0), 0
	for {
		select {
		case <-tick.C:
		case <-q.run.ended:
			return
		}
		q.mu.Lock()
		stuck := q.handling && q.count == last && q.workers < q.limit
		if idle++; q.handling || q.count != last {
			idle = 0
		}
		last = q.count
		if stuck {
			q.term++
			q.workers++
			q.handling = false
			q.run.wg.Add(1)
			go q.lead(q.term)
		}
		q.watched = idle < restAfter
		rest := !q.watched
		q.mu.Unlock()
		if stuck {
			q.call() // for what the old one has answered and not told
		}
		if rest {
			return
		}
	}
}

// end is a leader's end: that of the run, or a ring that the driver has broken,
// which is told once.
func (q *queue) end(err error) {
	q.mu.Lock()
	first := !q.ended
	q.ended = true
	q.mu.Unlock()
	if first && !errors.Is(err, eventfd.ErrInterrupted) {
		q.run.fail(fmt.Errorf("virtio-fs: %w", err))
	}
}

func (q *queue) push(c *virtio.Chain, written int) {
	q.q.PushQuiet(c, uint32(written))
	q.call()
}

func (q *queue) call() {
	if err := q.q.Notify(); err != nil {
		q.run.device.log.Printf("call driver: %v", err)
	}
}
