package agent

import (
	"encoding/binary"
	"os"
	"os/signal"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/guestinit/sock"
	"github.com/stilehq/stile/interop/wire"
)

// ackEvery is how much is read of a pipe before the host is told without having
// asked: it can show more of its own pipe then.
const ackEvery = 16 << 10

// exact is what an entry knows of how much of its input has been read. All is
// guarded by the entry's mu.
type exact struct {
	wrote uint64 // to the command's pipe
	acked uint64 // what the host has been told
	asked bool   // the host waits to be told of more than above
	above uint64
	rest  int           // a reading end that stays when the input has ended, to count what is left; -1: none
	final bool          // wrote is what has been read, and there is nothing to ask
	ended chan struct{} // closed when the end of the stream counts
	once  sync.Once
	last  chan struct{} // closed when final is set
}

// give writes to the command's pipe. The error is that nobody reads it.
func (e *entry) give(c *sock.Conn, b []byte) error {
	var err error
	cerr := e.raw.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			e.mu.Lock()
			var n int
			if n, err = unix.Write(int(fd), b); n > 0 {
				e.exact.wrote += uint64(n)
				b = b[n:]
			}
			e.mu.Unlock()
			if err == unix.EAGAIN {
				e.ack(c, false) // the host's window is full too
				return false
			}
			if err != nil && err != unix.EINTR {
				return true
			}
		}
		err = nil
		return true
	})
	if cerr != nil {
		return cerr
	}
	if err == nil {
		e.ack(c, false)
	}
	return err
}

// taken is how much of the input has been read. The caller holds mu.
func (e *entry) taken() uint64 {
	x := &e.exact
	left := 0
	switch {
	case x.final:
	case x.rest >= 0:
		left, _ = unix.IoctlGetInt(x.rest, unix.TIOCINQ)
	case e.ours != nil && !e.closed:
		e.raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	return x.wrote - uint64(max(left, 0))
}

// ack tells the host how much has been read, if it is worth it, or now.
func (e *entry) ack(c *sock.Conn, now bool) {
	x := &e.exact
	e.mu.Lock()
	n := e.taken()
	often := e.table.Kind == wire.KindPipe && n-x.acked >= ackEvery // a file's reader is not waited for
	tell := n > x.acked && (now || often || x.asked && n > x.above)
	if tell {
		x.acked = n
		if x.asked && n > x.above {
			x.asked = false
		}
	}
	e.mu.Unlock()
	if tell {
		c.Write(binary.LittleEndian.AppendUint64(nil, n))
	}
}

// ask notes that the host waits to be told of more than above.
func (e *entry) ask(above uint64) {
	e.mu.Lock()
	ok := e.isExact() && !e.closed
	if ok {
		e.exact.asked, e.exact.above = true, above
	}
	e.mu.Unlock()
	if !ok {
		return
	}
	readers.watch(e)
	e.look()
}

// look tells the host, if it has asked, and reports whether it still waits.
func (e *entry) look() bool {
	e.mu.Lock()
	c, asked := e.stream, e.exact.asked && !e.closed
	tell := asked && c != nil && e.taken() > e.exact.above
	e.mu.Unlock()
	if tell {
		go e.ack(c, true) // the host may be slow to take it
	}
	return asked && !tell
}

// end says that the end of the stream counts.
func (e *entry) end() { e.exact.once.Do(func() { close(e.exact.ended) }) }

// endInput lets the command find the end of its input. A reading end stays here, or
// what the command leaves unread would be gone with its last reader.
func (e *entry) endInput() {
	e.mu.Lock()
	if !e.closed {
		e.raw.Control(func(fd uintptr) {
			rest, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(fd)), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err == nil {
				e.exact.rest = rest
			}
		})
	}
	e.mu.Unlock()
	e.close()
}

// lastTaken is how much the command has read of its input, when it has ended: what
// it has left in the pipe stays the caller's. A reading end is let go of: there may
// be readers that the command has left.
func (e *entry) lastTaken() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.exact.rest >= 0 {
		e.settle()
	}
	return e.taken()
}

// settle makes the count of what has been read the last. The caller holds mu.
func (e *entry) settle() {
	x := &e.exact
	n := e.taken()
	if !x.final {
		x.wrote, x.final = n, true
		close(x.last)
	}
	if x.rest >= 0 {
		unix.Close(x.rest)
		x.rest = -1
	}
}

// A readerWatch finds out that somebody has read one of the pipes that it watches:
// the kernel sends SIGIO to who has set O_ASYNC on a pipe's writing end, at each
// read. No other event tells of a read of a pipe that was not full.
type readerWatch struct {
	once sync.Once
	mu   sync.Mutex
	list map[*entry]struct{}
}

var readers readerWatch

func (w *readerWatch) watch(e *entry) {
	w.once.Do(func() {
		w.list = make(map[*entry]struct{})
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGIO)
		go func() {
			for range c {
				w.look()
			}
		}()
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list[e] = struct{}{}
	e.async(true)
}

func (w *readerWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := range w.list {
		if !e.look() {
			delete(w.list, e)
			e.async(false)
		}
	}
}

// forget is for an entry that is closed.
func (w *readerWatch) forget(e *entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.list, e)
}

// async has SIGIO sent at each read of the command's pipe, or not.
func (e *entry) async(on bool) {
	flags := unix.O_NONBLOCK
	if on {
		flags |= unix.O_ASYNC
	}
	e.raw.Control(func(fd uintptr) {
		if on {
			unix.FcntlInt(fd, unix.F_SETOWN, os.Getpid())
		}
		unix.FcntlInt(fd, unix.F_SETFL, flags)
	})
}
