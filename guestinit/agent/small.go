package agent

import (
	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// sendSmall sends the output of an entry that has no stream on the control stream,
// in order with the session's Exit. It reports whether a stream comes for the rest.
func (e *entry) sendSmall() bool {
	var err error
	rerr := e.raw.Read(func(fd uintptr) bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		err = e.takeSmall(fd)
		return err != unix.EAGAIN
	})
	return rerr == nil && err == nil // else it is closed, or at its end
}

// takeSmall sends what has been written until there is no more (EAGAIN), it is the
// end (EOF), or a stream is needed (nil). The caller holds mu.
func (e *entry) takeSmall(fd uintptr) error {
	var buf [4 << 10]byte
	for e.small {
		left := wire.SmallOutput - e.count
		if left == 0 {
			e.openStream()
			break
		}
		n, err := e.read(fd, buf[:min(left, uint64(len(buf)))])
		if err != nil {
			return err
		}
		e.s.send(wire.TypeWrote, (&wire.Wrote{Number: e.number, Bytes: buf[:n]}).Append(nil))
	}
	return nil
}

// openStream asks for a stream. The caller holds mu.
func (e *entry) openStream() {
	e.small = false
	e.s.send(wire.TypeOpen, (&wire.Count{Number: e.number, Bytes: e.count}).Append(nil))
}

// flushSmall sends what the command has written, now that it has ended. What it has
// left may write more, when the control stream is no more.
func (e *entry) flushSmall() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.small || e.closed {
		return
	}
	e.raw.Control(func(fd uintptr) {
		if e.takeSmall(fd) == unix.EAGAIN {
			e.openStream()
		}
	})
}
