package virtio

import "sync"

// A Count is the work of one queue.
type Count struct {
	Chains uint64 `json:"chains"` // given back to the driver: requests, packets, buffers
	Calls  uint64 `json:"calls"`  // of the driver: interrupts, where its transport asks for them
}

// Count is the work of the queue so far.
func (q *Queue) Count() Count {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count
}

// A Counter counts the work of a device's queues, from one activation to the
// next and on.
type Counter struct {
	mu     sync.Mutex
	before []Count  // of queues that are no more
	queues []*Queue // of the present activation
}

// Counting returns d, for a transport, and its counter.
func Counting(d Device) (Device, *Counter) {
	c := &Counter{before: make([]Count, len(d.QueueSizes()))}
	w := counting{d, c}
	if s, ok := d.(SharedMemory); ok {
		return struct {
			counting
			SharedMemory
		}{w, s}, c
	}
	return w, c
}

// Counts is the work of each queue. It may be called at any time.
func (c *Counter) Counts() []Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sum()
}

// sum adds up; mu is held.
func (c *Counter) sum() []Count {
	counts := append([]Count(nil), c.before...)
	for i, q := range c.queues {
		if q == nil {
			continue
		}
		n := q.Count()
		counts[i].Chains += n.Chains
		counts[i].Calls += n.Calls
	}
	return counts
}

// counting is a Device that tells its Counter of its queues.
type counting struct {
	Device
	counter *Counter
}

// Activate implements Device.
func (d counting) Activate(a Activation) error {
	c := d.counter
	c.mu.Lock()
	c.before = c.sum()
	c.queues = append([]*Queue(nil), a.Queues[:min(len(a.Queues), len(c.before))]...)
	c.mu.Unlock()
	return d.Device.Activate(a)
}
