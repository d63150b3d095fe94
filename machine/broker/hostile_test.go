package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stilehq/stile/interop/wire"
)

// closes makes sure that the broker ends a stream, whatever it says before.
func closes(t *testing.T, c *net.UnixConn) []byte {
	t.Helper()
	b, err := io.ReadAll(c)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Fatal("the stream stays open")
	}
	return b
}

// What no honest guest sends ends its stream, and is asked nobody about.
func TestNonsense(t *testing.T) {
	h := newHarness(t)
	run := func(r wire.Run) []byte {
		if r.Argv == nil {
			r.Argv = []string{"x"}
		}
		h.last++
		return wire.AppendMessage(hello(wire.StreamControl, h.last, 0), wire.TypeRun, r.Append(nil))
	}
	huge := binary.LittleEndian.AppendUint32([]byte{byte(wire.TypeHello), 0, 0, 0}, wire.MaxPayload)
	tty := wire.Descriptor{Number: 0, Kind: wire.KindTerminal}
	many := wire.Run{}
	for i := range wire.MaxDescriptors + 1 {
		many.Table = append(many.Table, wire.Descriptor{Number: uint32(i), Kind: wire.KindNull, Access: wire.AccessRead})
	}
	for name, b := range map[string][]byte{
		"an HTTP request":       []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"a large hello":         append(huge, make([]byte, 1000)...),
		"another type":          wire.AppendMessage(nil, wire.TypeRun, nil),
		"another version":       wire.AppendMessage(nil, wire.TypeHello, (&wire.Hello{Version: 99, Kind: wire.StreamControl}).Append(nil)),
		"another kind":          hello(wire.StreamImport, 1, 0),
		"no request":            wire.AppendMessage(hello(wire.StreamControl, 1, 0), wire.TypeSignal, nil),
		"broken fields":         wire.AppendMessage(hello(wire.StreamControl, 2, 0), wire.TypeRun, []byte{1, 2, 3}),
		"no arguments":          wire.AppendMessage(hello(wire.StreamControl, 3, 0), wire.TypeRun, (&wire.Run{Path: "x"}).Append(nil)),
		"an empty argv[0]":      run(wire.Run{Argv: []string{""}}),
		"NUL":                   run(wire.Run{Argv: []string{"a\x00b"}}),
		"a large descriptor":    run(wire.Run{Table: []wire.Descriptor{{Number: 256, Kind: wire.KindPipe, Access: wire.AccessRead}}}),
		"a descriptor twice":    run(wire.Run{Table: []wire.Descriptor{in, in}}),
		"no direction":          run(wire.Run{Table: []wire.Descriptor{{Number: 3, Kind: wire.KindPipe}}}),
		"too many descriptors":  run(many),
		"no such entry":         run(wire.Run{Table: []wire.Descriptor{{Number: 3, Kind: wire.KindPipe, Access: 1, SameAs: 1}}}),
		"a terminal out of air": run(wire.Run{Table: []wire.Descriptor{tty}}),
	} {
		c := h.stream()
		c.Write(b)
		c.CloseWrite()
		if got := closes(t, c); bytes.HasPrefix(got, []byte{byte(wire.TypeStarted), 0}) {
			t.Errorf("%s: it was started", name)
		}
	}
	if h.asks != 0 {
		t.Errorf("%d of them were asked about", h.asks)
	}
}

// A stream that says nothing does not stay, and a session's number is one session's.
func TestStrangers(t *testing.T) {
	h := newHarness(t)
	g := h.start(shell("read x; echo $x", in, out, same))
	g.next(wire.TypeStarted)
	// A second session of that number, and further streams of the first.
	c := h.stream()
	c.Write(wire.AppendMessage(hello(wire.StreamControl, h.last, 0), wire.TypeRun, (&wire.Run{Path: "/bin/true", Argv: []string{"x"}}).Append(nil)))
	typ, _, err := wire.NewReader(c.Read).Next()
	if err != nil || typ != wire.TypeError {
		t.Errorf("a second session: %d, %v", typ, err)
	}
	for _, n := range []uint32{0, 1, 2, 77, wire.TerminalStream} {
		c := h.stream()
		c.Write(hello(wire.StreamData, h.last, n))
		c.Write([]byte("evil\n"))
		closes(t, c)
	}
	if _, err := g.streams[0].Write([]byte("good\n")); err != nil {
		t.Fatal(err)
	}
	m := g.exit()
	if got := g.read(1, count(m.Counts, 1)); got != "good\n" {
		t.Errorf("output %q", got)
	}
	// Streams of a session that never comes are closed.
	for range 5 {
		c := h.stream()
		c.Write(hello(wire.StreamData, 1<<40, 0))
		defer closes(t, c)
	}
}

// A guest that asks and goes does not leave a question behind.
func TestAskerGone(t *testing.T) {
	h := newHarness(t)
	g := h.start(wire.Run{Path: "wait", Table: []wire.Descriptor{null}})
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		h.mu.Lock()
		n := h.asks
		h.mu.Unlock()
		if n > 0 {
			break
		}
	}
	g.control.Close()
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		h.b.mu.Lock()
		n := len(h.b.sessions)
		h.b.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the question stays")
		}
	}
}

// Only so many commands run at a time.
func TestBounded(t *testing.T) {
	h := newHarness(t)
	var all []*guest
	for range maxSessions {
		all = append(all, h.start(wire.Run{Path: "wait", Table: []wire.Descriptor{null}}))
	}
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		n := h.asks
		h.mu.Unlock()
		if n == maxSessions || time.Now().After(end) {
			break
		}
	}
	g := h.start(wire.Run{Path: "/bin/true", Table: []wire.Descriptor{null}})
	g.next(wire.TypeError)
	for _, g := range all {
		g.control.Close()
	}
}

// FuzzStream gives the broker what a guest may: bytes on a stream. It may refuse
// them, and ask, and must go on.
func FuzzStream(f *testing.F) {
	r := wire.Run{Version: wire.Version, Path: "no", Argv: []string{"no"}, Table: []wire.Descriptor{in, out, same}}
	f.Add(wire.AppendMessage(hello(wire.StreamControl, 1, 0), wire.TypeRun, r.Append(nil)))
	f.Add(hello(wire.StreamData, 1, 0))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := New(Config{Authorize: func(context.Context, *wire.Run) (*Command, *wire.Error) {
			return nil, &wire.Error{Code: 126, What: "no", Why: "not allowed"}
		}})
		ours, theirs, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		c, err := net.FileConn(theirs)
		theirs.Close()
		if err != nil {
			t.Fatal(err)
		}
		b.Serve(c.(*net.UnixConn))
		go func() {
			ours.Write(data)
			ours.CloseWrite()
		}()
		// A data stream waits for its session, so that there may be nothing to read.
		ours.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		io.Copy(io.Discard, ours)
		done := make(chan struct{})
		go func() { b.Close(); close(done) }()
		select {
		case <-done:
		case <-time.After(limit):
			t.Fatal("the broker does not close")
		}
	})
}
