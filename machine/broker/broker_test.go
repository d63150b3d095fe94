package broker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// The sitter of these tests is the test's own program.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == SitterCommand {
		os.Exit(SitterMain())
	}
	os.Exit(m.Run())
}

const limit = 20 * time.Second

// A harness is a broker that grants everything, and what a guest could send to it.
type harness struct {
	*testing.T
	b    *Broker
	last uint64
	mu   sync.Mutex
	asks int
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	if r, w, err := os.Pipe(); err == nil { // the runtime's poller is there from now on
		r.Close()
		w.Close()
	}
	before, fds := runtime.NumGoroutine(), openFiles(t)
	h := &harness{T: t}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.b = New(Config{HelloLimit: 5 * time.Second, Sitter: []string{self, SitterCommand}, Authorize: func(ctx context.Context, r *wire.Run) (*Command, *wire.Error) {
		h.mu.Lock()
		h.asks++
		h.mu.Unlock()
		if r.Path == "wait" {
			<-ctx.Done()
			return nil, &wire.Error{Code: 126, What: "wait", Why: "nobody answered"}
		}
		if r.Path == "no" {
			return nil, &wire.Error{Code: 126, What: "no", Why: "not allowed"}
		}
		dir, err := os.Open(t.TempDir())
		if err != nil {
			return nil, &wire.Error{Code: 125, What: "test", Why: err.Error()}
		}
		return &Command{Path: r.Path, Argv: r.Argv, Env: []string{"PATH=/usr/bin:/bin"}, Dir: dir}, nil
	}})
	t.Cleanup(func() {
		done := make(chan struct{})
		go func() { h.b.Close(); close(done) }()
		select {
		case <-done:
		case <-time.After(limit):
			t.Error("the broker does not close")
		}
		for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
			n, f := runtime.NumGoroutine(), openFiles(t)
			if n <= before && f <= fds {
				break
			}
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Errorf("%d goroutines and %d descriptors, %d and %d before:\n%s", n, f, before, fds, buf[:runtime.Stack(buf, true)])
				break
			}
		}
	})
	return h
}

func openFiles(t *testing.T) int {
	t.Helper()
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

// stream opens a stream to the broker; nothing is said on it yet.
func (h *harness) stream() *net.UnixConn {
	h.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		h.Fatal(err)
	}
	defer theirs.Close()
	c, err := net.FileConn(theirs)
	if err != nil {
		h.Fatal(err)
	}
	h.b.Serve(c.(*net.UnixConn))
	h.Cleanup(func() { ours.Close() })
	ours.SetDeadline(time.Now().Add(limit))
	return ours
}

func hello(kind wire.StreamKind, session uint64, number uint32) []byte {
	m := wire.Hello{Version: wire.Version, Kind: kind, Session: session, Number: number}
	return wire.AppendMessage(nil, wire.TypeHello, m.Append(nil))
}

// A guest is one command, as its process in the guest sees it.
type guest struct {
	*harness
	control *net.UnixConn
	reader  *wire.Reader
	streams map[uint32]*net.UnixConn
}

func (h *harness) start(run wire.Run) *guest {
	h.Helper()
	h.last++
	g := &guest{harness: h, control: h.stream(), streams: map[uint32]*net.UnixConn{}}
	g.reader = wire.NewReader(g.control.Read)
	run.Version, run.Umask = wire.Version, 0o22
	if len(run.Argv) == 0 {
		run.Argv = []string{run.Path}
	}
	g.write(wire.AppendMessage(hello(wire.StreamControl, h.last, 0), wire.TypeRun, run.Append(nil)))
	numbers := []uint32{}
	for i, d := range run.Table {
		if d.Attached() {
			numbers = append(numbers, uint32(i))
		}
	}
	if run.Terminal != nil {
		numbers = append(numbers, wire.TerminalStream)
	}
	for _, n := range numbers {
		c := h.stream()
		if _, err := c.Write(hello(wire.StreamData, h.last, n)); err != nil {
			h.Fatal(err)
		}
		g.streams[n] = c
	}
	return g
}

func (g *guest) write(b []byte) {
	g.Helper()
	if _, err := g.control.Write(b); err != nil {
		g.Fatal(err)
	}
}

func (g *guest) send(t wire.Type, payload []byte) { g.write(wire.AppendMessage(nil, t, payload)) }

// next is the broker's next message, which must be of a type.
func (g *guest) next(want wire.Type) []byte {
	g.Helper()
	typ, payload, err := g.reader.Next()
	if err != nil || typ != want {
		var e wire.Error
		if typ == wire.TypeError {
			e.Parse(payload)
		}
		g.Fatalf("message %d (%v), %v, want %d", typ, &e, err, want)
	}
	return payload
}

func (g *guest) exit() wire.Exit {
	g.Helper()
	var m wire.Exit
	if err := m.Parse(g.next(wire.TypeExit)); err != nil {
		g.Fatal(err)
	}
	return m
}

// read reads n bytes of a stream.
func (g *guest) read(number uint32, n uint64) string {
	g.Helper()
	b := make([]byte, n)
	if k, err := io.ReadFull(g.streams[number], b); err != nil {
		g.Fatalf("stream %d: %v after %q", number, err, b[:k])
	}
	return string(b)
}

func count(list []wire.Count, number uint32) uint64 {
	for _, c := range list {
		if c.Number == number {
			return c.Bytes
		}
	}
	return 0
}

var (
	in     = wire.Descriptor{Number: 0, Kind: wire.KindPipe, Access: wire.AccessRead}
	null   = wire.Descriptor{Number: 0, Kind: wire.KindNull, Access: wire.AccessRead}
	out    = wire.Descriptor{Number: 1, Kind: wire.KindPipe, Access: wire.AccessWrite}
	errOut = wire.Descriptor{Number: 2, Kind: wire.KindPipe, Access: wire.AccessWrite}
	same   = wire.Descriptor{Number: 2, Kind: wire.KindPipe, Access: wire.AccessWrite, SameAs: 2}
)

func shell(script string, table ...wire.Descriptor) wire.Run {
	return wire.Run{Path: "/bin/sh", Argv: []string{"sh", "-c", script}, Table: table}
}

func TestCommand(t *testing.T) {
	h := newHarness(t)
	g := h.start(shell(`read x; echo "<$x>"; echo err >&2; umask; exit 7`, in, out, errOut))
	g.next(wire.TypeStarted)
	if _, err := g.streams[0].Write([]byte("one\ntwo\n")); err != nil {
		t.Fatal(err)
	}
	m := g.exit()
	if m.Code != 7 || m.Signal != 0 {
		t.Errorf("exit %+v", m)
	}
	if got := g.read(1, count(m.Counts, 1)); got != "<one>\n0022\n" {
		t.Errorf("output %q", got)
	}
	if got := g.read(2, count(m.Counts, 2)); got != "err\n" {
		t.Errorf("errors %q", got)
	}
	if n := count(m.Taken, 0); n != 4 {
		t.Errorf("%d bytes of the input were taken, want 4", n)
	}
}

func TestEnds(t *testing.T) {
	h := newHarness(t)
	for _, tt := range []struct {
		script       string
		code, signal uint8
	}{
		{"exit 0", 0, 0}, {"exit 255", 255, 0}, {"kill -9 $$", 0, 9}, {"kill -15 $$", 0, 15}, {"kill -13 $$", 0, 13},
	} {
		g := h.start(shell(tt.script, null, out, same))
		g.next(wire.TypeStarted)
		if m := g.exit(); m.Code != tt.code || m.Signal != tt.signal {
			t.Errorf("%s: %+v", tt.script, m)
		}
		g.control.Close()
	}
	for path, code := range map[string]uint8{"/nowhere/x": 127, "/etc/passwd": 126, "no": 126, "/": 126} {
		g := h.start(wire.Run{Path: path, Table: []wire.Descriptor{null}})
		var e wire.Error
		if err := e.Parse(g.next(wire.TypeError)); err != nil || e.Code != code {
			t.Errorf("%s: %+v, %v, want %d", path, e, err, code)
		}
	}
}

// A guest's process that goes takes its command along, with its whole group, and
// nothing that has become another's.
func TestGuestGone(t *testing.T) {
	h := newHarness(t)
	g := h.start(shell(`trap "" HUP; sleep 1000 & echo $! $$; wait`, null, out, same))
	g.next(wire.TypeStarted)
	line := make([]byte, 64)
	n, err := g.streams[1].Read(line)
	if err != nil {
		t.Fatal(err)
	}
	var child, leader int
	if _, err := fmt.Sscan(string(line[:n]), &child, &leader); err != nil {
		t.Fatal(err)
	}
	g.control.Close()
	for _, pid := range []int{child, leader} {
		gone(t, pid)
	}
}

func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(b, []byte(") Z ")) {
			return
		}
		if time.Now().After(end) {
			unix.Kill(pid, unix.SIGKILL)
			t.Fatalf("process %d is there: %s", pid, b)
		}
	}
}

// What a command leaves behind goes on when the guest's process has gone, and does
// not die of what it writes.
func TestLeft(t *testing.T) {
	h := newHarness(t)
	file := t.TempDir() + "/f"
	for _, terminal := range []bool{false, true} {
		os.Remove(file)
		table := []wire.Descriptor{null, out, same}
		run := shell("(sleep 0.3; echo late; echo late >&2; sleep 0.1; echo here >"+file+") & echo $!", table...)
		if terminal {
			tty := wire.Descriptor{Number: 1, Kind: wire.KindTerminal, Access: wire.AccessRead | wire.AccessWrite}
			run.Table = []wire.Descriptor{null, tty, {Number: 2, Kind: wire.KindTerminal, Access: tty.Access, SameAs: 2}}
			run.Terminal = &wire.Terminal{Foreground: true}
		}
		g := h.start(run)
		g.next(wire.TypeStarted)
		g.exit()
		g.control.Close()
		for _, c := range g.streams {
			c.Close()
		}
		for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
			if b, err := os.ReadFile(file); err == nil && string(b) == "here\n" {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("terminal %v: what the command left has died", terminal)
			}
		}
	}
}

// A reader that goes ends the writer, as a pipe does.
func TestReaderGone(t *testing.T) {
	h := newHarness(t)
	g := h.start(shell("exec yes", null, out, same))
	g.next(wire.TypeStarted)
	g.read(1, 4)
	g.streams[1].Close()
	if m := g.exit(); m.Signal != uint8(unix.SIGPIPE) {
		t.Errorf("exit %+v", m)
	}
}

func TestMuch(t *testing.T) {
	h := newHarness(t)
	const size = 5 << 20
	file := wire.Descriptor{Number: 0, Kind: wire.KindFile, Access: wire.AccessRead}
	g := h.start(shell("cat", file, out, same))
	g.next(wire.TypeStarted)
	data := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
	go func() {
		g.streams[0].Write(data)
		g.streams[0].CloseWrite()
	}()
	if got := g.read(1, size); got != string(data) {
		t.Error("cat changes what it copies")
	}
	if m := g.exit(); count(m.Counts, 1) != size || count(m.Taken, 0) != size {
		t.Errorf("exit %+v", m)
	}
}

// An Ask is answered when more has been read.
func TestAsk(t *testing.T) {
	h := newHarness(t)
	g := h.start(shell("read x; read y; echo done", in, out, same))
	g.next(wire.TypeStarted)
	g.send(wire.TypeAsk, (&wire.Count{Number: 0, Bytes: 0}).Append(nil))
	if _, err := g.streams[0].Write([]byte("1\n")); err != nil {
		t.Fatal(err)
	}
	if got := g.read(0, 8); got != "\x02\x00\x00\x00\x00\x00\x00\x00" && got != "\x01\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("answer %q", got)
	}
	if _, err := g.streams[0].Write([]byte("2\n")); err != nil {
		t.Fatal(err)
	}
	if m := g.exit(); count(m.Taken, 0) != 4 {
		t.Errorf("exit %+v", m)
	}
}

func TestTerminal(t *testing.T) {
	h := newHarness(t)
	access := wire.AccessRead | wire.AccessWrite
	run := shell(`trap "" TTOU; stty size; read x; echo "<$x>"; kill -STOP $$; echo on`,
		wire.Descriptor{Number: 0, Kind: wire.KindTerminal, Access: access},
		wire.Descriptor{Number: 1, Kind: wire.KindTerminal, Access: access, SameAs: 1},
		wire.Descriptor{Number: 2, Kind: wire.KindTerminal, Access: access, SameAs: 1})
	run.Terminal = &wire.Terminal{Foreground: true, Size: wire.WinSize{Rows: 11, Cols: 22}}
	g := h.start(run)
	g.next(wire.TypeStarted)
	tty := g.streams[wire.TerminalStream]
	if _, err := tty.Write([]byte("a\n")); err != nil {
		t.Fatal(err)
	}
	var st wire.Stopped
	if err := st.Parse(g.next(wire.TypeStopped)); err != nil || st.Signal != uint8(unix.SIGSTOP) {
		t.Fatalf("stopped %+v, %v", st, err)
	}
	got := g.read(wire.TerminalStream, st.After)
	if !strings.Contains(got, "11 22\r\n") || !strings.HasSuffix(got, "<a>\r\n") {
		t.Errorf("printed %q", got)
	}
	g.send(wire.TypeResume, (&wire.Resume{Terminal: run.Terminal}).Append(nil))
	m := g.exit()
	if got := g.read(wire.TerminalStream, count(m.Counts, wire.TerminalStream)-st.After); got != "on\r\n" {
		t.Errorf("exit %+v, stopped %+v", m, st)
		t.Errorf("printed %q", got)
	}
	// A reader in the background is stopped.
	run.Argv[2] = "read x; echo got $x"
	run.Terminal.Foreground = false
	g = h.start(run)
	g.next(wire.TypeStarted)
	if err := st.Parse(g.next(wire.TypeStopped)); err != nil || st.Signal != uint8(unix.SIGTTIN) {
		t.Fatalf("stopped %+v, %v", st, err)
	}
	run.Terminal.Foreground = true
	g.send(wire.TypeResume, (&wire.Resume{Terminal: run.Terminal}).Append(nil))
	if _, err := g.streams[wire.TerminalStream].Write([]byte("b\n")); err != nil {
		t.Fatal(err)
	}
	if m := g.exit(); m.Code != 0 {
		t.Errorf("exit %+v", m)
	}
}

func TestSignals(t *testing.T) {
	h := newHarness(t)
	g := h.start(shell(`trap "echo usr1; exit 3" USR1; echo up; while :; do sleep 0.01; done`, null, out, same))
	g.next(wire.TypeStarted)
	g.read(1, 3)
	g.send(wire.TypeSignal, (&wire.Signal{Number: uint8(unix.SIGUSR1)}).Append(nil))
	if m := g.exit(); m.Code != 3 {
		t.Errorf("exit %+v", m)
	}
	// Ignored signals are the command's too.
	run := shell(`kill -TERM $$; echo alive`, null, out, same)
	run.Ignored = 1 << (unix.SIGTERM - 1)
	g = h.start(run)
	g.next(wire.TypeStarted)
	if m := g.exit(); m.Code != 0 || m.Signal != 0 {
		t.Errorf("exit %+v", m)
	}
}

func TestMany(t *testing.T) {
	h := newHarness(t)
	var guests []*guest
	for i := range 100 {
		guests = append(guests, h.start(shell(fmt.Sprintf("echo %d", i), null, out, same)))
	}
	for i, g := range guests {
		g.next(wire.TypeStarted)
		m := g.exit()
		if got, want := g.read(1, count(m.Counts, 1)), fmt.Sprintln(i); got != want {
			t.Errorf("%d: %q", i, got)
		}
		g.control.Close()
	}
}
