package session

import (
	"bytes"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/descriptor"
	"github.com/stilehq/stile/interop/wire"
)

// terminal is the session's terminal: the stream of the guest's pty here, the
// shim, which reads and writes the terminal, and a descriptor of it for what comes
// after the shim.
type terminal struct {
	relay    *relay
	fd       *descriptor.Descriptor
	progress progress // of what the shim was given, then of what was written
	input    *outbox

	mu      sync.Mutex
	stream  Conn
	closed  bool
	initial []byte // struct termios2 when the command was started or continued
	applied []byte // the last that the shim was told to set; nil: none
}

func newTerminal(r *relay, fd *descriptor.Descriptor) *terminal {
	t := &terminal{relay: r, fd: fd, initial: r.run.Terminal.Termios}
	t.input = newOutbox(streamWriter{t})
	return t
}

// streamWriter writes to the terminal's stream, once there is one.
type streamWriter struct{ t *terminal }

func (w streamWriter) Write(b []byte) (int, error) {
	w.t.mu.Lock()
	stream := w.t.stream
	w.t.mu.Unlock()
	if stream == nil {
		return 0, descriptor.ErrClosed
	}
	return stream.Write(b)
}

func (t *terminal) serve() {
	defer t.close()
	defer t.progress.finish()
	stream, err := t.relay.dial(wire.StreamData, wire.TerminalStream)
	if err != nil {
		t.relay.noStream(err)
		return
	}
	t.mu.Lock()
	t.stream = stream
	closed := t.closed
	t.mu.Unlock()
	if closed {
		stream.Close()
	}
	t.relay.goWork(t.input.run)
	var buf buffer
	for {
		n, err := stream.Read(buf.space())
		if n > 0 {
			if !t.show(buf.used(n)) {
				stream.CloseRead()
				return
			}
			t.progress.add(n)
			t.relay.out.Add(uint64(n))
		}
		if err != nil {
			return
		}
	}
}

// show writes to the terminal: through the shim as long as its command runs, then,
// when the shim has left and so has written what it had, directly. It reports
// whether there is still a terminal.
func (t *terminal) show(b []byte) bool {
	if t.relay.shim.send(wire.TypeOutput, b) == nil {
		return true
	}
	select {
	case <-t.relay.shim.gone:
	case <-t.relay.ctx.Done():
		return false
	}
	b = wire.TerminalOutput(t.modes(), b)
	_, err := t.fd.Write(t.relay.ctx, b)
	return err == nil
}

// endInput says that the terminal hung up.
func (t *terminal) endInput() {
	t.input.finish(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.stream != nil {
			t.stream.CloseWrite()
		}
	})
}

func (t *terminal) close() {
	t.mu.Lock()
	stream := t.stream
	t.closed = true
	t.mu.Unlock()
	t.input.finish(nil)
	if stream != nil {
		stream.Close()
	}
	t.fd.Close()
}

// set notes the modes that the shim is told to set.
func (t *terminal) set(termios []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.applied = bytes.Clone(termios)
}

// resumed notes the modes that the shell had set while the command was stopped.
func (t *terminal) resumed(payload []byte) {
	var m wire.Resume
	if m.Parse(payload) != nil || m.Terminal == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.initial, t.applied = m.Terminal.Termios, nil
}

// termiosSize is that of struct termios2, and flagsSize that of the part which the
// kernel leaves as it was set: four words of flags, the line discipline, the
// control characters.
const (
	termiosSize = 44
	flagsSize   = 4*4 + 1 + 19
)

// modes are the terminal's modes now, nil if it is gone.
func (t *terminal) modes() []byte {
	b := make([]byte, termiosSize)
	if t.ioctl(unix.TCGETS2, b) != nil {
		return nil
	}
	return b
}

// ioctl gets or sets the modes: termios holds struct termios2.
func (t *terminal) ioctl(request uintptr, termios []byte) error {
	var e unix.Errno
	err := t.fd.Control(func(fd int) {
		// unsafe: the kernel reads or writes termiosSize bytes there.
		_, _, e = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&termios[0])))
	})
	if err == nil && e != 0 {
		err = e
	}
	return err
}

// restore gives the terminal back the modes that it had, for a shim that was
// killed: unless somebody else has set them since.
func (t *terminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.applied) != termiosSize || len(t.initial) != termiosSize || t.closed {
		return
	}
	now := t.modes()
	if now == nil || !bytes.Equal(now[:flagsSize], t.applied[:flagsSize]) {
		return
	}
	t.ioctl(unix.TCSETS2, t.initial) // a terminal that has gone needs none
}
