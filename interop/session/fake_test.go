package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// patience is how long a test waits for what should come at once.
const patience = 20 * time.Second

// A world is a Server between shims and a guestinit, both played by the test. The
// requests go the whole way: Receive and Forward of a supervisor, Accept of the vmm
// process.
type world struct {
	t       *testing.T
	server  *Server
	toVMM   *net.UnixConn // the supervisor's end
	forward sync.Mutex    // held while it is written to
	guest   fakeGuest

	mu      sync.Mutex
	changes []int // what Changed was told

	closing sync.Once
	accepts sync.WaitGroup
}

// newWorld makes a world in which each command is played by play, and that has
// left nothing when the test ends.
func newWorld(t *testing.T, play func(*guestSession), change ...func(*Config)) *world {
	t.Helper()
	checkLeft(t)
	w := &world{t: t}
	w.guest.play = play
	w.guest.sessions = make(map[uint64]*guestSession)
	w.guest.over = make(chan struct{})
	config := Config{Dial: w.guest.dial, Generation: 77, Changed: func(n int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changes = append(w.changes, n)
	}}
	for _, f := range change {
		f(&config)
	}
	var err error
	if w.server, err = NewServer(config); err != nil {
		t.Fatal(err)
	}
	a, b := unixPair(t)
	w.toVMM = a
	w.accepts.Go(func() {
		for {
			q, err := Accept(b)
			if errors.Is(err, ErrRequest) {
				continue
			}
			if err != nil {
				b.Close()
				return
			}
			go w.server.Serve(q)
		}
	})
	t.Cleanup(w.close)
	return w
}

// close ends the world, and fails if that takes long.
func (w *world) close() {
	w.closing.Do(func() {
		w.toVMM.Close()
		w.accepts.Wait()
		done := make(chan struct{})
		go func() {
			w.server.Close()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(patience):
			w.t.Errorf("Server.Close does not return\n%s", stacks())
			return
		}
		close(w.guest.over)
		w.guest.all.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.changes); n > 0 && w.changes[n-1] != 0 {
			w.t.Errorf("at the end %d commands run: %v", w.changes[n-1], w.changes)
		}
	})
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

// checkLeft fails the test if goroutines or descriptors are more at its end than
// now.
func checkLeft(t *testing.T) {
	t.Helper()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			g, f := runtime.NumGoroutine(), openFiles(t)
			if g <= goroutines && len(f) <= len(files) {
				return
			}
			if time.Now().After(end) {
				t.Errorf("%d goroutines, there were %d; descriptors\n%v\n, there were\n%v\n%s", g, goroutines, f, files, stacks())
				return
			}
		}
	})
}

func openFiles(t *testing.T) []string {
	t.Helper()
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, n := range names {
		target, _ := os.Readlink("/proc/self/fd/" + n)
		if !strings.HasPrefix(target, "/proc/") && !strings.Contains(target, "[eventpoll]") && !strings.Contains(target, "[eventfd]") {
			list = append(list, n+" "+target)
		}
	}
	return list
}

func threads(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func unixPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = unixConn(fds[0]); err != nil {
		t.Fatal(err)
	}
	if b, err = unixConn(fds[1]); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// A fakeGuest is guestinit.
type fakeGuest struct {
	play func(*guestSession)
	all  sync.WaitGroup
	// before, if set, is called before a stream is opened; accept sees it first
	// then, and takes it if it returns true.
	before func(*fakeConn)
	accept func(*fakeConn) bool
	over   chan struct{} // closed when no more streams will come

	mu       sync.Mutex
	sessions map[uint64]*guestSession
}

// A guestSession is a session as guestinit has it.
type guestSession struct {
	run     wire.Run
	control *fakeConn
	reader  *wire.Reader
	mu      sync.Mutex
	streams map[uint32]*fakeConn
	asked   map[uint32]bool // streams of Small entries
	closed  bool
	came    chan struct{} // gets one for each stream
	over    chan struct{} // the fakeGuest's
}

func (g *fakeGuest) dial(ctx context.Context) (Conn, error) {
	host, guest := fakePair()
	if g.before != nil {
		g.before(guest)
	}
	g.all.Go(func() {
		if g.accept == nil || !g.accept(guest) {
			g.greet(guest)
		}
	})
	return host, nil
}

func (g *fakeGuest) session(id uint64) *guestSession {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sessions[id]
	if s == nil {
		s = &guestSession{streams: make(map[uint32]*fakeConn), asked: make(map[uint32]bool), came: make(chan struct{}, 1000), over: g.over}
		g.sessions[id] = s
	}
	return s
}

func (g *fakeGuest) greet(c *fakeConn) {
	r := wire.NewReader(c.Read)
	typ, payload, err := r.Next()
	var h wire.Hello
	if err != nil || typ != wire.TypeHello || h.Parse(payload) != nil || h.Version != wire.Version || h.Generation != 77 {
		c.abort()
		return
	}
	s := g.session(h.Session)
	switch h.Kind {
	case wire.StreamControl:
		typ, payload, err := r.Next()
		if err != nil || typ != wire.TypeRun || s.run.Parse(payload) != nil || s.run.Session != h.Session {
			c.abort()
			return
		}
		s.control, s.reader = c, r
		g.play(s)
	case wire.StreamData:
		s.mu.Lock()
		s.streams[h.Number] = c
		if s.closed {
			c.Close()
		}
		s.mu.Unlock()
		s.came <- struct{}{}
	default:
		c.abort()
	}
}

// stream waits for a data stream, for which a Small entry must ask. One that never
// came is as one that was reset.
func (s *guestSession) stream(number uint32) *fakeConn {
	if int64(number) < int64(len(s.run.Table)) && s.run.Table[number].Small() {
		s.mu.Lock()
		first := !s.asked[number]
		s.asked[number] = true
		s.mu.Unlock()
		if first {
			s.send(wire.TypeOpen, (&wire.Count{Number: number}).Append(nil))
		}
	}
	for {
		s.mu.Lock()
		c := s.streams[number]
		s.mu.Unlock()
		if c != nil {
			return c
		}
		select {
		case <-s.came:
		case <-s.over:
			_, c := fakePair()
			c.abort()
			return c
		}
	}
}

func (s *guestSession) send(t wire.Type, payload []byte) {
	s.control.Write(wire.AppendMessage(nil, t, payload))
}

// wrote sends a piece of a Small entry's output.
func (s *guestSession) wrote(number uint32, b []byte) {
	s.send(wire.TypeWrote, (&wire.Wrote{Number: number, Bytes: b}).Append(nil))
}

func (s *guestSession) started() { s.send(wire.TypeStarted, (&wire.Started{PID: 42}).Append(nil)) }

func (s *guestSession) exit(e wire.Exit) { s.send(wire.TypeExit, e.Append(nil)) }

// end waits until the control stream ends, and ends all streams.
func (s *guestSession) end() {
	for {
		if _, _, err := s.reader.Next(); err != nil {
			break
		}
	}
	s.close()
}

func (s *guestSession) close() {
	s.control.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, c := range s.streams {
		c.Close()
	}
}

// die is the guest's sudden end.
func (s *guestSession) die() {
	s.control.abort()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.streams {
		c.abort()
	}
}

// cat is a guest command that copies stream 0 to stream 1.
func cat(s *guestSession) {
	s.started()
	in, out := s.stream(0), s.stream(1)
	n, _ := io.Copy(justWriter{out}, s.reading(0))
	s.exit(wire.Exit{Counts: []wire.Count{{Number: 1, Bytes: uint64(n)}}, Unread: []uint32{0}, Taken: s.taken(0, int(n))})
	out.Close()
	in.Close()
	s.end()
}

// reading reads an input and says how much it has read, as guestinit does.
func (s *guestSession) reading(number uint32) io.Reader {
	return &takingReader{c: s.stream(number), exact: s.run.Table[number].Exact()}
}

// taken is for Exit: that of an input n bytes have been read.
func (s *guestSession) taken(number uint32, n int) []wire.Count {
	if !s.run.Table[number].Exact() {
		return nil
	}
	return []wire.Count{{Number: number, Bytes: uint64(n)}}
}

type takingReader struct {
	c     *fakeConn
	exact bool
	n     uint64
}

func (r *takingReader) Read(b []byte) (int, error) {
	n, err := r.c.Read(b)
	if r.n += uint64(n); r.exact && n > 0 {
		r.c.Write(binary.LittleEndian.AppendUint64(nil, r.n))
	}
	return n, err
}

type justReader struct{ io.Reader }
type justWriter struct{ io.Writer }

// A testShim is the shim's end of a session.
type testShim struct {
	t      *testing.T
	conn   *net.UnixConn
	reader *wire.Reader
}

// start sends a request the way of a shim: the files go to the machine, and are
// closed here.
func (w *world) start(run wire.Run, files ...*os.File) *testShim {
	w.t.Helper()
	run.Version, run.Distro = wire.Version, "d"
	ours, theirs := unixPair(w.t)
	s := &testShim{t: w.t, conn: ours, reader: wire.NewReader(ours.Read)}
	w.t.Cleanup(func() { ours.Close() })
	var fds []int
	for _, f := range files {
		fds = append(fds, number(w.t, f))
	}
	message := wire.AppendMessage(nil, wire.TypeRun, run.Append(nil))
	go func() {
		n, _, err := ours.WriteMsgUnix(message, unix.UnixRights(fds...), nil)
		if err == nil && n < len(message) {
			ours.Write(message[n:])
		}
	}()
	theirs.SetReadDeadline(time.Now().Add(patience))
	first, err := Receive(theirs)
	if err != nil {
		w.t.Fatalf("receive: %v", err)
	}
	for _, f := range files {
		f.Close()
	}
	w.forward.Lock()
	err = Forward(w.toVMM, theirs, first)
	w.forward.Unlock()
	if err != nil {
		w.t.Fatalf("forward: %v", err)
	}
	first.Close()
	theirs.Close()
	return s
}

// next is the next message.
func (s *testShim) next() (wire.Type, []byte, error) {
	s.conn.SetReadDeadline(time.Now().Add(patience))
	typ, payload, err := s.reader.Next()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Errorf("the shim is told nothing\n%s", stacks())
	}
	return typ, payload, err
}

// expect is the payload of the next message, which is of type want.
func (s *testShim) expect(want wire.Type) []byte {
	s.t.Helper()
	typ, payload, err := s.next()
	if err != nil || typ != want {
		s.t.Fatalf("the shim is told type %d %q, %v, want type %d", typ, payload, err, want)
	}
	return payload
}

// expectExit skips messages until Exit.
func (s *testShim) expectExit() wire.Exit {
	s.t.Helper()
	for {
		typ, payload, err := s.next()
		if err != nil {
			s.t.Fatalf("the session ended with no Exit: %v", err)
		}
		var e wire.Exit
		switch typ {
		case wire.TypeExit:
			if err := e.Parse(payload); err != nil {
				s.t.Fatal(err)
			}
			return e
		case wire.TypeError, wire.TypeNotice:
			var we wire.Error
			we.Parse(payload)
			s.t.Fatalf("the shim is told: %v", &we)
		}
	}
}

// lastWords are what the shim is told at the end: an Error's line, "exit" and a
// status, or "" where the connection ends with nothing said, which a shim puts into
// words of its own.
func (s *testShim) lastWords() string {
	for {
		typ, payload, err := s.next()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
				return err.Error()
			}
			return ""
		}
		switch typ {
		case wire.TypeError:
			var e wire.Error
			if err := e.Parse(payload); err != nil {
				return err.Error()
			}
			return e.Error()
		case wire.TypeExit:
			var e wire.Exit
			if err := e.Parse(payload); err != nil {
				return err.Error()
			}
			return fmt.Sprint("exit ", e.Code)
		}
	}
}

func (s *testShim) send(t wire.Type, payload []byte) {
	s.t.Helper()
	if _, err := s.conn.Write(wire.AppendMessage(nil, t, payload)); err != nil {
		s.t.Errorf("send to the machine: %v", err)
	}
}

// pipe is pipe(2), with blocking ends.
func pipe(t *testing.T, flags ...int) (r, w *os.File) {
	t.Helper()
	var fds [2]int
	flag := unix.O_CLOEXEC
	for _, f := range flags {
		flag |= f
	}
	if err := unix.Pipe2(fds[:], flag); err != nil {
		t.Fatal(err)
	}
	r, w = rawFile(fds[0]), rawFile(fds[1])
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// rawFile is a file whose flags nobody changes: os.NewFile makes a file of a
// blocking descriptor that stays so.
func rawFile(fd int) *os.File { return os.NewFile(uintptr(fd), fmt.Sprint("fd ", fd)) }

// number is a file's descriptor. Method Fd would make the file blocking.
func number(t *testing.T, f *os.File) int {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := -1
	if err := raw.Control(func(fd uintptr) { n = int(fd) }); err != nil {
		t.Fatal(err)
	}
	return n
}

// flags are a file's status flags.
func flags(t *testing.T, f *os.File) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(number(t, f)), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// dup is another descriptor of the same open file.
func dup(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(number(t, f)), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	d := rawFile(fd)
	t.Cleanup(func() { d.Close() })
	return d
}

// soon waits for a condition.
func soon(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it does not come to that\n%s", what, stacks())
		}
	}
}

// inOut is the table of a command with standard input and output of these kinds.
func inOut(in, out wire.Kind) []wire.Descriptor {
	return []wire.Descriptor{{Number: 0, Kind: in, Access: wire.AccessRead}, {Number: 1, Kind: out, Access: wire.AccessWrite}}
}
