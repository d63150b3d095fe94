package broker

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// An input is our end of what the command reads. Of an Exact one it counts how much
// has been read, for the rest stays the guest's.
type input struct {
	f     *os.File
	raw   syscall.RawConn
	table wire.Descriptor

	mu      sync.Mutex
	conn    *net.UnixConn
	wrote   uint64
	rest    int // a reading end that stays when the input has ended; -1: none
	ended   bool
	done    bool // close was called
	final   uint64
	above   uint64 // the guest waits to be told of more than that
	asked   bool
	closed  chan struct{}
	telling sync.Mutex // held while the guest is told
}

func newInput(f *os.File, d wire.Descriptor) *input {
	in := &input{f: f, table: d, rest: -1, closed: make(chan struct{})}
	in.raw, _ = f.SyscallConn() // fails for a closed file only
	return in
}

// pump gives the command what the guest sends.
func (in *input) pump(conn *net.UnixConn) {
	in.mu.Lock()
	in.conn = conn
	in.mu.Unlock()
	buf := make([]byte, pumpSize)
	for {
		n, err := conn.Read(buf)
		if n > 0 && in.give(buf[:n]) != nil {
			conn.CloseRead() // nobody reads it any more
			return
		}
		if err == io.EOF {
			in.end()
		}
		if err != nil {
			return
		}
	}
}

// give writes to the command's pipe.
func (in *input) give(b []byte) error {
	if !in.table.Exact() {
		_, err := in.f.Write(b)
		return err
	}
	var err error
	cerr := in.raw.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			in.mu.Lock()
			var n int
			if n, err = unix.Write(int(fd), b); n > 0 {
				in.wrote += uint64(n)
				b = b[n:]
			}
			in.mu.Unlock()
			if err == unix.EAGAIN {
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
	return err
}

// end lets the command find the end of its input. Of an Exact one a reading end
// stays here, or what is left unread would be gone with its last reader.
func (in *input) end() {
	if in.table.Kind == wire.KindSocket || in.table.Access&wire.AccessWrite != 0 {
		in.raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
		return
	}
	in.mu.Lock()
	if in.ended || in.done {
		in.mu.Unlock()
		return
	}
	in.raw.Control(func(fd uintptr) {
		if in.table.Exact() {
			in.rest = reading(fd)
		}
	})
	in.ended = true
	in.mu.Unlock()
	in.f.Close()
}

// taken is how much has been read. The caller holds mu.
func (in *input) taken() uint64 {
	left := 0
	switch {
	case in.done:
		return in.final
	case in.rest >= 0:
		left, _ = unix.IoctlGetInt(in.rest, unix.TIOCINQ)
	case !in.ended:
		in.raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	return in.wrote - uint64(max(left, 0))
}

// lastTaken is how much had been read at the command's end.
func (in *input) lastTaken() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.taken()
}

// How often a pipe is looked at while the guest waits for its being read: no event
// tells of a read of a pipe that is not full.
const (
	lookFirst = 200 * time.Microsecond
	lookMost  = 10 * time.Millisecond
)

// ask tells the guest when more than above has been read, on the stream's way back.
func (in *input) ask(above uint64) {
	in.mu.Lock()
	running := in.asked
	in.asked, in.above = true, above
	in.mu.Unlock()
	if running {
		return
	}
	go func() {
		for pause := lookFirst; ; pause = min(2*pause, lookMost) {
			in.mu.Lock()
			n, conn := in.taken(), in.conn
			tell := n > in.above && conn != nil
			if tell || in.done {
				in.asked = false
			}
			done := in.done
			in.mu.Unlock()
			if tell {
				in.telling.Lock()
				conn.Write(binary.LittleEndian.AppendUint64(nil, n))
				in.telling.Unlock()
			}
			if tell || done {
				return
			}
			time.Sleep(pause)
		}
	}()
}

func (in *input) close() {
	in.mu.Lock()
	if in.done {
		in.mu.Unlock()
		return
	}
	in.final, in.done = in.taken(), true
	if in.rest >= 0 {
		unix.Close(in.rest)
		in.rest = -1
	}
	conn := in.conn
	in.mu.Unlock()
	in.f.Close()
	if conn != nil {
		conn.CloseRead() // ends pump
	}
	close(in.closed)
}
