package virtio

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/stilehq/stile/vmm/eventfd"
)

// A Server is the goroutines of a device between Activate and Sleep or Reset:
// what most devices need, whose requests are answered one after the other. The
// zero Server has none.
type Server struct {
	stop   atomic.Bool
	queues []*Queue
	wg     sync.WaitGroup
}

// serveBatch is how many chains are answered before the driver is called.
const serveBatch = 64

// Serve answers q's chains, in a goroutine of its own, with what handle returns
// as the number of bytes written. fail is called, once, with what is wrong with
// the queue or with handle's error, and q is left alone after that.
func (s *Server) Serve(q *Queue, fail func(error), handle func(*Chain) (written uint32, err error)) {
	s.Run(q, fail, func() (more bool, err error) {
		q.DisableKicks()
		n := 0
		for ; n < serveBatch && !s.stop.Load(); n++ {
			c, err := q.Pop()
			if err != nil {
				return false, err
			}
			if c == nil {
				break
			}
			written, err := handle(c)
			if err != nil {
				return false, err
			}
			q.PushQuiet(c, written)
		}
		if n > 0 {
			if err := q.Notify(); err != nil {
				return false, err
			}
		}
		return n == serveBatch || q.EnableKicks(), nil
	})
}

// Run calls work, in a goroutine of its own, now and after each kick of q, and
// again at once while it says that there is more to do.
func (s *Server) Run(q *Queue, fail func(error), work func() (more bool, err error)) {
	s.queues = append(s.queues, q)
	s.wg.Go(func() {
		for !s.stop.Load() {
			more, err := work()
			if err == nil && !more {
				err = q.WaitKick()
			}
			if err != nil {
				if !errors.Is(err, eventfd.ErrInterrupted) {
					fail(err)
				}
				return
			}
		}
	})
}

// Stop ends the goroutines: no guest memory is touched when it returns. What was
// popped has been pushed, unless its queue is broken. The Server can be used
// again.
func (s *Server) Stop() error {
	s.stop.Store(true)
	var errs []error
	for _, q := range s.queues {
		errs = append(errs, q.Interrupt())
	}
	s.wg.Wait()
	s.queues = nil
	s.stop.Store(false)
	return errors.Join(errs...)
}
