package agent

import (
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/guestinit/sock"
	"github.com/stilehq/stile/guestinit/spawn"
	"github.com/stilehq/stile/interop/wire"
)

// pumpSize is the buffer of one direction of a stream: a pipe's capacity.
const pumpSize = 64 << 10

// past is a deadline that has passed: it ends a read under way.
var past = time.Unix(1, 0)

// An entry is one of the descriptor table that has a stream: a pipe, or a pair
// of sockets where both directions are needed, of which the command has one end.
type entry struct {
	s      *session
	number uint32 // index in the table
	table  wire.Descriptor
	theirs int      // the command's end until it has been started, then -1
	ours   *os.File // our end, non-blocking
	raw    syscall.RawConn
	socket bool

	streams chan *sock.Conn // the stream, when it has come

	mu     sync.Mutex
	stream *sock.Conn // once it serves
	count  uint64     // bytes read from the command's side
	closed bool
	small  bool // what is read goes to the control stream
	exact  exact
}

// makeEntries makes what stands under the command's descriptors, in table order,
// and lists it in c.
func (s *session) makeEntries(c *spawn.Command) error {
	s.entries = make([]*entry, len(s.run.Table))
	ends := make([]int, len(s.run.Table)) // the command's end of each, -1: closed
	for i, d := range s.run.Table {
		ends[i] = -1
		switch {
		case d.SameAs > 0:
			ends[i] = ends[d.SameAs-1]
		case d.Kind == wire.KindTerminal:
			ends[i] = s.terminal.slave
		case d.Kind == wire.KindNull:
			flags := unix.O_RDWR
			switch d.Access {
			case wire.AccessRead:
				flags = unix.O_RDONLY
			case wire.AccessWrite:
				flags = unix.O_WRONLY
			}
			fd, err := unix.Open("/dev/null", flags|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("open /dev/null: %w", err)
			}
			s.entries[i] = &entry{table: wire.Descriptor{Kind: d.Kind}, theirs: fd}
			ends[i] = fd
		case d.Attached():
			if d.File != nil && d.Exact() {
				if fd, ok := s.openFile(i, d.File); ok {
					s.entries[i] = &entry{table: wire.Descriptor{Kind: d.Kind}, theirs: fd}
					ends[i] = fd
					break
				}
			}
			e, err := s.newEntry(uint32(i), d, c.User)
			if err != nil {
				return err
			}
			s.entries[i] = e
			ends[i] = e.theirs
		}
		if ends[i] >= 0 {
			c.Files = append(c.Files, spawn.File{FD: ends[i], Number: int(d.Number)})
		}
	}
	return nil
}

func (s *session) newEntry(number uint32, d wire.Descriptor, u spawn.User) (*entry, error) {
	e := &entry{s: s, number: number, table: d, small: d.Small(), streams: make(chan *sock.Conn, 1)}
	e.exact.rest, e.exact.ended, e.exact.last = -1, make(chan struct{}), make(chan struct{})
	var fds [2]int // ours, theirs
	var err error
	if d.Kind == wire.KindSocket || d.Access == wire.AccessRead|wire.AccessWrite {
		e.socket = true
		fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("create socket pair: %w", err)
		}
	} else {
		var p [2]int
		if err = unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return nil, fmt.Errorf("create pipe: %w", err)
		}
		fds = p
		if d.Access == wire.AccessRead {
			fds = [2]int{p[1], p[0]}
		}
		// As if the user had made it: /dev/stdout can be opened.
		unix.Fchown(fds[1], int(u.UID), int(u.GID))
	}
	unix.SetNonblock(fds[0], true)
	e.ours = os.NewFile(uintptr(fds[0]), "descriptor")
	e.theirs = fds[1]
	if e.raw, err = e.ours.SyscallConn(); err != nil {
		e.close()
		e.closeTheirs()
		return nil, err
	}
	return e, nil
}

func (e *entry) reads() bool   { return e.table.Access&wire.AccessRead != 0 }
func (e *entry) writes() bool  { return e.table.Access&wire.AccessWrite != 0 }
func (e *entry) isExact() bool { return !e.socket && e.table.Exact() }

func (e *entry) closeTheirs() {
	if e.theirs >= 0 {
		unix.Close(e.theirs)
		e.theirs = -1
	}
}

// close closes our end: the command's writes fail, its reads find the end.
func (e *entry) close() {
	e.mu.Lock()
	first := e.ours != nil && !e.closed
	if first && e.isExact() && e.exact.rest < 0 {
		e.settle()
	}
	e.closed = true
	e.mu.Unlock()
	if first && e.isExact() {
		readers.forget(e)
	}
	if first {
		e.ours.Close() // waits for take, which takes the lock
	}
}

// attach gives the entry its stream.
func (e *entry) attach(c *sock.Conn) {
	select {
	case e.streams <- c:
	default:
		c.Close() // it has one
	}
}

// serve moves bytes until both directions have ended.
func (e *entry) serve() {
	if e.ours == nil {
		return
	}
	defer e.close()
	if e.table.Small() && !e.sendSmall() {
		return
	}
	c, err := e.wait()
	if err != nil {
		return
	}
	defer c.Close()
	e.mu.Lock()
	e.stream = c
	e.mu.Unlock()
	var both sync.WaitGroup
	if e.reads() {
		both.Go(func() { e.input(c) })
	}
	if e.writes() {
		both.Go(func() { e.output(c) })
		if !e.reads() {
			// The host ends this half when nobody reads the other any more.
			go func() {
				io.Copy(io.Discard, readOnly{c})
				e.close()
			}()
		}
	}
	both.Wait()
}

// readOnly hides a connection's other methods from io.Copy.
type readOnly struct{ io.Reader }

// wait waits for the stream, which may come after the command has started: long after
// it on a host that has much to do, and even after its end.
func (e *entry) wait() (*sock.Conn, error) {
	select {
	case c := <-e.streams:
		return c, nil
	case <-e.s.hostEnd:
	}
	select {
	case c := <-e.streams:
		return c, nil
	case <-time.After(helloLimit):
		return nil, os.ErrDeadlineExceeded
	}
}

// input gives the command what the host sends.
func (e *entry) input(c *sock.Conn) {
	if !e.socket {
		go e.watch(c)
	}
	write := func(b []byte) error {
		_, err := e.ours.Write(b)
		return err
	}
	if e.isExact() {
		write = func(b []byte) error { return e.give(c, b) }
	}
	buf := make([]byte, pumpSize)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if werr := write(buf[:n]); werr != nil {
				e.readersGone(c)
				return
			}
		}
		if err == nil {
			continue
		}
		switch {
		case e.socket:
			e.raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
		case e.isExact() && err == io.EOF:
			if e.table.Kind == wire.KindPipe {
				<-e.exact.ended
			}
			e.endInput()
			<-e.exact.last // the stream stays for it
			e.ack(c, true)
		default:
			e.close()
		}
		return
	}
}

// readersGone tells the host that nobody reads the input any more, and how much has
// been read of it.
func (e *entry) readersGone(c *sock.Conn) {
	if e.isExact() {
		e.ack(c, true)
		c.CloseWrite()
	}
	c.CloseRead()
}

// watch tells the host when no process is left that could read the pipe.
func (e *entry) watch(c *sock.Conn) {
	err := e.raw.Read(func(fd uintptr) bool { return polled(fd)&unix.POLLERR != 0 })
	if err == nil {
		e.readersGone(c)
		c.SetReadDeadline(past)
	}
}

// polled is what poll(2) says of fd now.
func polled(fd uintptr) int16 {
	p := [1]unix.PollFd{{Fd: int32(fd)}}
	unix.Poll(p[:], 0)
	return p[0].Revents
}

// output gives the host what the command writes.
func (e *entry) output(c *sock.Conn) {
	defer c.CloseWrite()
	buf := make([]byte, pumpSize)
	for {
		n, err := e.take(buf)
		if n > 0 {
			if _, werr := c.Write(buf[:n]); werr != nil {
				e.endOutput(c)
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// endOutput makes the command's writes fail, since nobody reads what they write.
func (e *entry) endOutput(c *sock.Conn) {
	if e.socket {
		e.raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RD) })
		return
	}
	e.close()
}

// take reads from our end and counts. io.EOF says that nobody can write to it
// any more.
func (e *entry) take(buf []byte) (n int, err error) {
	rerr := e.raw.Read(func(fd uintptr) bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		n, err = e.read(fd, buf)
		return err != unix.EAGAIN
	})
	if rerr != nil {
		return 0, rerr
	}
	return n, err
}

// read reads what there is, and counts. The caller holds mu.
func (e *entry) read(fd uintptr, buf []byte) (n int, err error) {
	for {
		n, err = unix.Read(int(fd), buf)
		if err != unix.EINTR {
			break
		}
	}
	switch {
	case n > 0:
		e.count += uint64(n)
	case err == nil:
		err = io.EOF
	}
	return max(n, 0), err
}

// given is how many bytes the command's side has written so far: those that have
// been taken and those that wait.
func (e *entry) given() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ours == nil || e.closed {
		return e.count
	}
	waiting := 0
	e.raw.Control(func(fd uintptr) { waiting, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return e.count + uint64(max(waiting, 0))
}

// unread reports whether no process of the guest can read the entry any more, or
// write to one that is for that.
func (e *entry) unread() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ours == nil || e.closed {
		return true
	}
	gone := false
	e.raw.Control(func(fd uintptr) { gone = polled(fd)&(unix.POLLERR|unix.POLLHUP) != 0 })
	return gone
}
