package hostcmd

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/guestinit/sock"
	"github.com/stilehq/stile/interop/descriptor"
	"github.com/stilehq/stile/interop/wire"
)

// A session is the one command that this process stands for.
type session struct {
	call  *call
	id    uint64
	table []wire.Descriptor

	control *sock.Conn
	writing sync.Mutex // held while control is written to
	poller  *descriptor.Poller
	signals chan os.Signal
	ignored uint64   // by the caller: bit n-1 is signal n
	entries []*entry // by index of the table; nil where there is no stream

	tty       int // /dev/tty, opened anew; -1 without one
	ttyDevice uint64
	terminal  *entry // its output
	modes     []byte // struct termios2, as it was found
	stdin     bool   // the command's standard input is the terminal
	stdout    bool   // its standard output is
	screen    screen
}

// run has the command run and ends this process as it ends.
func (s *session) run() {
	s.ignored = ignored()
	s.openTerminal()
	s.table = s.describe()
	for _, d := range s.table {
		s.stdin = s.stdin || d.Kind == wire.KindTerminal && d.Number == 0
		s.stdout = s.stdout || d.Kind == wire.KindTerminal && d.Number == 1
	}
	s.signals = s.notify()
	run := s.request()
	message := wire.AppendMessage(s.hello(wire.StreamControl, 0), wire.TypeRun, run.Append(nil))
	var err error
	if s.poller, err = descriptor.NewPoller(); err != nil {
		fail(&wire.Error{Code: 125, What: "host", Why: err.Error()})
	}
	if s.control, err = dial(false); err != nil {
		fail(dialError(err))
	}
	if _, err := s.control.Write(message); err != nil {
		s.lost()
	}
	s.connect()
	reader := wire.NewReader(s.control.Read)
	started := false
	for {
		typ, payload, err := reader.Next()
		if err != nil {
			s.lost()
		}
		switch typ {
		case wire.TypeStarted:
			if !started {
				started = true
				s.begin()
			}
		case wire.TypeStopped:
			var m wire.Stopped
			if m.Parse(payload) == nil {
				s.shown(m.After)
				s.stop(syscall.Signal(m.Signal))
			}
		case wire.TypeError:
			var m wire.Error
			if m.Parse(payload) == nil {
				fail(&m)
			}
			s.lost()
		case wire.TypeExit:
			var m wire.Exit
			if m.Parse(payload) != nil {
				s.lost()
			}
			s.exit(&m)
		}
	}
}

// dialLimit is how long the host may take to accept a stream. The kernel's own limit,
// two seconds, is too short for a guest that is busy with a hundred of these.
const dialLimit = 60 * time.Second

// refusedLimit is how long a first stream that is refused is tried again: nobody
// listens, or as many streams wait to be accepted as may.
const refusedLimit = 500 * time.Millisecond

// dial connects to the broker. A further stream of a command is refused only where
// many wait to be accepted.
func dial(further bool) (*sock.Conn, error) {
	const vmaddrCIDHost = 2
	begin := time.Now()
	for {
		c, err := sock.DialVsock(vmaddrCIDHost, wire.HostCommandPort)
		limit := refusedLimit
		switch {
		case err == nil:
			return c, nil
		case errors.Is(err, unix.ETIMEDOUT), errors.Is(err, unix.ECONNRESET) && further:
			limit = dialLimit
		case !errors.Is(err, unix.ECONNRESET):
			return nil, err
		}
		if time.Since(begin) > limit {
			return nil, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// dialError is why there is no broker, for the user.
func dialError(err error) *wire.Error {
	e := &wire.Error{Code: 125, What: "host", Why: "connect to the host: " + err.Error()}
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EINVAL):
		e.Why = "vsock is forbidden here, as Docker's own seccomp profile does"
		e.Hint = "start the container with --security-opt seccomp=unconfined, or with a profile that allows AF_VSOCK"
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNREFUSED):
		e.Code, e.Why = 126, "this distro may run no commands of the host"
		e.Hint = "it is isolated, or its machine is of an older stile: stile stop, on the host"
	}
	return e
}

func (s *session) hello(kind wire.StreamKind, number uint32) []byte {
	h := wire.Hello{Version: wire.Version, Kind: kind, Session: s.id, Number: number}
	return wire.AppendMessage(nil, wire.TypeHello, h.Append(nil))
}

// connect opens the streams of the descriptors.
func (s *session) connect() {
	s.entries = make([]*entry, len(s.table))
	var all sync.WaitGroup
	open := func(e *entry) {
		all.Go(func() {
			c, err := dial(true)
			if err == nil {
				_, err = c.Write(s.hello(wire.StreamData, e.number))
			}
			if err != nil {
				s.lost()
			}
			e.stream = c
		})
	}
	for i, d := range s.table {
		if !d.Attached() {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(d.Number), unix.F_DUPFD_CLOEXEC, 3)
		e := &entry{session: s, number: uint32(i), table: d}
		if err == nil {
			e.fd, err = s.poller.New(fd)
		}
		if err != nil {
			fail(&wire.Error{Code: 125, What: "host: descriptors", Why: err.Error()})
		}
		e.progress.init()
		s.entries[i] = e
		open(e)
	}
	if s.tty >= 0 {
		s.terminal = &entry{session: s, number: wire.TerminalStream, table: wire.Descriptor{Kind: wire.KindTerminal}}
		s.terminal.progress.init()
		open(s.terminal)
	}
	all.Wait()
	// Ours would keep the caller's pipes from ending when the command ends them.
	for _, d := range s.table {
		if d.Number <= 2 && d.Attached() || d.Number > 2 && d.Kind != wire.KindClosed {
			release(d)
		}
	}
}

// release lets go of a descriptor of the caller's. 2 stays, for what stile has to
// say; and numbers below it are taken by /dev/null, which nothing is lost in.
func release(d wire.Descriptor) {
	switch {
	case d.Number > 2:
		unix.Close(int(d.Number))
	case d.Number < 2:
		if null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
			unix.Dup3(null, int(d.Number), unix.O_CLOEXEC)
			unix.Close(null)
		}
	}
}

// begin moves bytes, and passes signals on, now that the command runs.
func (s *session) begin() {
	for _, e := range s.entries {
		if e != nil {
			e.begin()
		}
	}
	if s.tty >= 0 {
		s.startTerminal()
	}
	go s.forward()
}

func (s *session) send(t wire.Type, payload []byte) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.control.Write(wire.AppendMessage(nil, t, payload))
}

// exit ends this process as the command has ended, when all that it wrote is written
// here, and what it left of its input is the next reader's.
func (s *session) exit(m *wire.Exit) {
	for _, c := range m.Counts {
		switch {
		case c.Number == wire.TerminalStream && s.terminal != nil:
			s.terminal.progress.reach(c.Bytes)
		case uint64(c.Number) < uint64(len(s.entries)) && s.entries[c.Number] != nil:
			s.entries[c.Number].progress.reach(c.Bytes)
		}
	}
	for _, c := range m.Taken {
		if uint64(c.Number) < uint64(len(s.entries)) && s.entries[c.Number] != nil && s.entries[c.Number].table.Exact() {
			s.entries[c.Number].take(c.Bytes)
		}
	}
	s.restore()
	if m.Signal > 0 && m.Signal <= 64 {
		die(syscall.Signal(m.Signal))
	}
	os.Exit(int(m.Code))
}

// shown waits until so much of the terminal's output has been shown.
func (s *session) shown(n uint64) {
	if s.terminal != nil {
		s.terminal.progress.reach(n)
	}
}

// lost ends this process whose command is lost.
func (s *session) lost() {
	s.restore()
	fail(&wire.Error{Code: 125, What: "host command " + s.call.command, Why: "the connection to the host is lost"})
}

// An entry is an attached one of the descriptor table, or the terminal.
type entry struct {
	session *session
	number  uint32
	table   wire.Descriptor
	fd      *descriptor.Descriptor
	stream  *sock.Conn

	progress progress
	mu       sync.Mutex
	taken    uint64
}

func (e *entry) begin() {
	if e.table.Access&wire.AccessWrite != 0 {
		go e.output()
	}
	if e.table.Access&wire.AccessRead != 0 {
		go e.input()
	}
}

// output writes what the command writes. A write that fails ends its pipe on the
// host, so that it gets SIGPIPE.
func (e *entry) output() {
	defer e.progress.finish()
	if e.table.Access == wire.AccessWrite {
		go func() {
			<-e.fd.Gone() // without a write, as in `host tail -f log | head -1`
			e.stream.Close()
		}()
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := e.stream.Read(buf)
		if n > 0 {
			m, werr := e.fd.Write(context.Background(), buf[:n])
			e.progress.add(m)
			if werr != nil {
				if e.table.Access == wire.AccessWrite {
					e.stream.Close()
				} else {
					e.stream.CloseRead()
				}
				return
			}
		}
		if err != nil {
			e.fd.CloseWrite()
			if e.table.Access == wire.AccessWrite {
				e.fd.Close() // nobody on the host can write any more
			}
			return
		}
	}
}

// input sends what there is to read. Of an Exact entry it only looks at that, and
// takes what the host says has been read.
func (e *entry) input() {
	ctx := context.Background()
	exact := e.table.Exact() && e.fd.Peeks()
	if exact {
		go e.readTaken()
	}
	buf := make([]byte, 64<<10)
	for {
		var n int
		var err error
		if exact {
			n, err = e.fd.Peek(ctx, buf, e.ask)
		} else {
			n, err = e.fd.Read(ctx, buf)
		}
		if n > 0 {
			if _, werr := e.stream.Write(buf[:n]); werr != nil {
				return // nobody on the host reads it any more; Exit says how much was read
			}
		}
		if err != nil {
			e.stream.CloseWrite()
			return
		}
	}
}

// ask has the host say when more has been read than is known of.
func (e *entry) ask() {
	e.mu.Lock()
	c := wire.Count{Number: e.number, Bytes: e.taken}
	e.mu.Unlock()
	e.session.send(wire.TypeAsk, c.Append(nil))
}

func (e *entry) readTaken() {
	var b [8]byte
	for {
		if _, err := io.ReadFull(struct{ io.Reader }{e.stream}, b[:]); err != nil {
			return
		}
		var n uint64
		for i, c := range b {
			n |= uint64(c) << (8 * i)
		}
		e.take(n)
	}
}

func (e *entry) take(total uint64) {
	e.mu.Lock()
	e.taken = max(e.taken, total)
	e.mu.Unlock()
	e.fd.Take(total)
}

// progress is how much of a stream has been written here.
type progress struct {
	mu      sync.Mutex
	changed sync.Cond
	n       uint64
	done    bool
}

func (p *progress) init() { p.changed.L = &p.mu }

func (p *progress) add(n int) {
	p.mu.Lock()
	p.n += uint64(max(n, 0))
	p.mu.Unlock()
	p.changed.Broadcast()
}

func (p *progress) finish() {
	p.mu.Lock()
	p.done = true
	p.mu.Unlock()
	p.changed.Broadcast()
}

// reach waits until n bytes have been written, or no more can be.
func (p *progress) reach(n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.n < n && !p.done {
		p.changed.Wait()
	}
}
