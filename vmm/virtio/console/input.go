package console

import (
	"fmt"
	"io"
	"sync"

	"github.com/stilehq/stile/vmm/virtio"
)

// An input moves bytes from a Reader to the receive queue, one read at a time:
// the next read waits until the guest has taken the last one's bytes.
type input struct {
	r    io.Reader
	once sync.Once
	took chan struct{} // the pending bytes were taken

	mu      sync.Mutex
	q       *virtio.Queue // nil while inactive or broken
	fail    func(error)
	pending []byte
}

func newInput(r io.Reader) *input { return &input{r: r, took: make(chan struct{}, 1)} }

// start gives the guest what is pending, and reads on.
func (in *input) start(q *virtio.Queue, fail func(error)) {
	in.mu.Lock()
	in.q, in.fail = q, fail
	in.mu.Unlock()
	in.once.Do(func() { go in.read() })
}

func (in *input) stop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.q = nil
}

// read is the goroutine of the Reader. It ends with it.
func (in *input) read() {
	buf := make([]byte, 4096)
	for {
		n, err := in.r.Read(buf)
		if n > 0 {
			in.mu.Lock()
			in.pending = buf[:n]
			if err := in.deliver(); err != nil {
				in.fail(err)
			}
			in.mu.Unlock()
			<-in.took
		}
		if err != nil {
			return
		}
	}
}

// kicked is the work of the receive queue's goroutine.
func (in *input) kicked() (more bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return false, in.deliver()
}

// deliver puts pending bytes into the buffers that are there, and asks for a
// kick where they are too few. Called with mu held.
func (in *input) deliver() error {
	for in.q != nil && len(in.pending) > 0 {
		c, err := in.q.Pop()
		if err == nil && c != nil && c.WritableLen() == 0 {
			// Nothing would ever come of it, and a driver that offers one after
			// the other would keep this loop, and so the mutex, for ever.
			err = fmt.Errorf("empty receive buffer: %w", virtio.ErrRing)
		}
		if err != nil {
			in.q = nil
			return err
		}
		if c == nil {
			if in.q.EnableKicks() {
				continue
			}
			return nil
		}
		n := 0
		for _, b := range c.Writable {
			n += copy(b, in.pending[n:])
		}
		in.pending = in.pending[n:]
		if err := in.q.Push(c, uint32(n)); err != nil {
			in.q = nil
			return err
		}
		if len(in.pending) == 0 {
			in.took <- struct{}{}
		}
	}
	return nil
}
