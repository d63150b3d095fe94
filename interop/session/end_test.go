package session

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// runCat runs a session that must work, whatever others do.
func (w *world) runCat(t *testing.T, data []byte) {
	t.Helper()
	in, feed := pipe(t)
	drain, out := pipe(t)
	s := w.start(wire.Run{Argv: []string{"cat"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out)
	go func() {
		feed.Write(data)
		feed.Close()
	}()
	got := make([]byte, len(data))
	if n, err := io.ReadFull(drain, got); err != nil || !bytes.Equal(got, data) {
		t.Errorf("a session beside it: %d of %d bytes, %v", n, len(data), err)
	}
	s.expectExit()
	s.conn.Close()
}

// byArgv plays cat for "cat" and bad for everything else.
func byArgv(bad func(*guestSession)) func(*guestSession) {
	return func(s *guestSession) {
		if s.run.Argv[0] == "cat" {
			cat(s)
			return
		}
		bad(s)
	}
}

// A reader that stands still stops nobody else, and no thread waits for it.
func TestStalledReaders(t *testing.T) {
	const stalled = 300
	var blocked atomic.Int32
	w := newWorld(t, byArgv(func(s *guestSession) {
		s.started()
		out := s.stream(1)
		for {
			n, err := out.Write(make([]byte, 32<<10))
			if err != nil {
				break
			}
			if n > 0 {
				blocked.Add(1)
			}
		}
		s.exit(wire.Exit{Signal: 13})
		s.end()
	}))
	w.runCat(t, noise(1<<20, 1))
	before := threads(t)
	var readers []*os.File
	var shims []*testShim
	for range stalled {
		in, _ := pipe(t)
		r, out := pipe(t)
		readers = append(readers, r)
		shims = append(shims, w.start(wire.Run{Argv: []string{"yes"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out))
	}
	for _, r := range readers {
		soon(t, "a full pipe", func() bool { n, _ := unix.IoctlGetInt(number(t, r), unix.TIOCINQ); return n == 64<<10 })
	}
	// Both directions wait now: the inputs for bytes, the outputs for room.
	w.runCat(t, noise(16<<20, 2))
	if now := threads(t); now > before+20 {
		t.Errorf("%d threads, there were %d: %d stalled sessions hold them", now, before, stalled)
	}
	soon(t, "the stalled sessions alone", func() bool { return len(w.server.Sessions()) == stalled })
	for _, r := range readers {
		r.Close()
	}
	for _, s := range shims {
		if e := s.expectExit(); e.Signal != 13 {
			t.Errorf("exit %+v", e)
		}
		s.conn.Close()
	}
}

func TestManySessions(t *testing.T) {
	w := newWorld(t, cat)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() { w.runCat(t, noise(100_000+i, uint64(i))) })
	}
	wg.Wait()
	soon(t, "no session", func() bool { return len(w.server.Sessions()) == 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.changes) == 0 || w.changes[len(w.changes)-1] != 0 {
		t.Errorf("running: %v", w.changes)
	}
	for i := 1; i < len(w.changes); i++ {
		if w.changes[i] == w.changes[i-1] || w.changes[i] < 0 {
			t.Fatalf("running: %v", w.changes)
		}
	}
}

// A shim that dies takes its command along: the control stream ends.
func TestShimDies(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(s *guestSession)
	}{
		{"while the command runs", func(s *guestSession) { s.started() }},
		{"before it has started", func(s *guestSession) {}},
		{"while it writes", func(s *guestSession) {
			s.started()
			go s.stream(1).Write(make([]byte, 10<<20))
		}},
		{"while its exit waits for bytes", func(s *guestSession) {
			s.started()
			s.exit(wire.Exit{Counts: []wire.Count{{Number: 1, Bytes: 100}}})
		}},
		{"while it takes no request", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ended := make(chan struct{}, 1)
			w := newWorld(t, func(s *guestSession) {
				tt.play(s)
				s.end()
				ended <- struct{}{}
			})
			if tt.play == nil {
				w.guest.accept = func(c *fakeConn) bool {
					// Of the Run just a little is taken, of the data streams all.
					r := wire.NewReader(c.Read)
					_, payload, err := r.Next()
					var h wire.Hello
					if err == nil && h.Parse(payload) == nil && h.Kind == wire.StreamControl {
						c.setCredit(10)
						<-c.PeerReadClosed()
						ended <- struct{}{}
					}
					return true
				}
			}
			in, _ := pipe(t)
			r, out := pipe(t)
			s := w.start(wire.Run{Argv: []string{"x"}, Env: []string{strings.Repeat("e", 100_000)}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out)
			s.expect(wire.TypeStarted)
			time.Sleep(10 * time.Millisecond) // let the command come to where it stands
			s.conn.Close()
			r.Close()
			select {
			case <-ended:
			case <-time.After(patience):
				t.Fatalf("the guest is not told\n%s", stacks())
			}
			soon(t, "no session", func() bool { return len(w.server.Sessions()) == 0 })
		})
	}
}

// The guest's sudden end is the end of its sessions, with nothing said: the shim
// has words for it. What the guest had written is written.
func TestGuestDies(t *testing.T) {
	w := newWorld(t, func(s *guestSession) {
		s.started()
		s.stream(1).Write([]byte("last words"))
		s.stream(0)
		soon(t, "taken", func() bool {
			c := s.stream(1).peer
			c.shared.Lock()
			defer c.shared.Unlock()
			return len(c.in) == 0
		})
		s.die()
	})
	in, feed := pipe(t)
	r, out := pipe(t)
	s := w.start(wire.Run{Argv: []string{"x"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out)
	if words := s.lastWords(); words != "" {
		t.Errorf("the shim is told %q", words)
	}
	if b, err := io.ReadAll(r); string(b) != "last words" || err != nil {
		t.Errorf("the output is %q, %v", b, err)
	}
	s.conn.Close()
	soon(t, "no session", func() bool { return len(w.server.Sessions()) == 0 })
	if _, err := feed.Write([]byte("x")); err == nil {
		t.Error("the input has a reader still")
	}
}

// guestinit's reason is what the user reads, though the data streams end with it,
// or before they have said what they are.
func TestErrorFromGuest(t *testing.T) {
	w := newWorld(t, func(s *guestSession) {
		e := wire.Error{Code: 127, What: "grpe", Why: "command not found in distro d"}
		s.send(wire.TypeError, e.Append(nil))
		s.close()
	})
	var n int32 // the control stream is the first of three
	w.guest.before = func(c *fakeConn) {
		if atomic.AddInt32(&n, 1)%3 == 2 {
			c.abort()
		}
	}
	for range 50 {
		in, _ := pipe(t)
		r, out := pipe(t)
		s := w.start(wire.Run{Argv: []string{"grpe"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out)
		if words := s.lastWords(); words != "grpe: command not found in distro d" {
			t.Fatalf("the shim is told %q", words)
		}
		s.conn.Close()
		if b, err := io.ReadAll(r); len(b) > 0 || err != nil {
			t.Errorf("the output is %q, %v", b, err)
		}
		soon(t, "no session", func() bool { return len(w.server.Sessions()) == 0 })
		atomic.StoreInt32(&n, 0) // a session that has ended may not have opened all
	}
}

// A guestinit that breaks the rules ends that session, in words, and no other.
func TestHostileGuest(t *testing.T) {
	long := append([]byte{byte(wire.TypeWant), 0, 0, 0}, 0xff, 0xff, 0xff, 0xff)
	closeStreams := func(s *guestSession) {
		s.stream(0).Close()
		s.stream(1).Close()
	}
	for _, tt := range []struct {
		name, want string
		bad        func(s *guestSession)
	}{
		{"malformed Started", "distro d: guest: malformed field", func(s *guestSession) { s.send(wire.TypeStarted, []byte{1}) }},
		{"malformed Exit", "distro d: guest: malformed field", func(s *guestSession) {
			s.send(wire.TypeExit, wire.AppendUint(nil, 1, 256))
		}},
		{"malformed Error", "distro d: guest: malformed field", func(s *guestSession) { s.send(wire.TypeError, []byte("x")) }},
		{"malformed Stopped", "distro d: guest: malformed field", func(s *guestSession) { s.send(wire.TypeStopped, []byte("x")) }},
		{"malformed SetTermios", "distro d: guest: malformed field", func(s *guestSession) { s.send(wire.TypeSetTermios, []byte("x")) }},
		{"length of 4 GiB", "distro d: guest: message too long", func(s *guestSession) { s.control.Write(long) }},
		{"cut message", "", func(s *guestSession) { s.control.Write(long[:5]); s.control.CloseWrite() }},
		{"ends at once", "", func(s *guestSession) { s.control.Close() }},
		{"says nothing", "distro d: guest: it has not started the command within 300ms", func(s *guestSession) {}},
		{"says only what nobody knows", "distro d: guest: it has not started the command within 300ms", func(s *guestSession) {
			for range 1000 {
				s.send(999, make([]byte, 1000))
			}
		}},
		{"absurd counts, streams closed", "exit 9", func(s *guestSession) {
			closeStreams(s)
			s.exit(wire.Exit{Code: 9, Counts: []wire.Count{{Number: 0, Bytes: 1}, {Number: 1, Bytes: math.MaxUint64}, {Number: 7, Bytes: 1}, {Number: wire.TerminalStream, Bytes: 1}}})
		}},
		{"reading streams that there are not", "exit 8", func(s *guestSession) {
			s.exit(wire.Exit{Code: 8, Unread: []uint32{1, 2, math.MaxUint32, 0, 0}})
		}},
		{"two exits", "exit 1", func(s *guestSession) {
			s.exit(wire.Exit{Code: 1})
			s.exit(wire.Exit{Code: 2})
		}},
		{"stops after bytes that never come", "exit 3", func(s *guestSession) {
			s.started()
			s.send(wire.TypeStopped, (&wire.Stopped{Signal: 20, After: math.MaxUint64}).Append(nil))
			s.send(wire.TypeSetTermios, (&wire.Termios{Termios: make([]byte, 10000), After: math.MaxUint64}).Append(nil))
			s.exit(wire.Exit{Code: 3})
		}},
		{"messages of the other direction", "exit 4", func(s *guestSession) {
			s.started()
			for typ := wire.Type(1); typ < 30; typ++ {
				switch typ {
				case wire.TypeStarted, wire.TypeError, wire.TypeExit, wire.TypeStopped, wire.TypeSetTermios, wire.TypeWrote, wire.TypeOpen:
				default:
					s.send(typ, []byte("rubbish"))
				}
			}
			s.exit(wire.Exit{Code: 4})
		}},
		{"malformed Wrote", "distro d: guest: malformed field", func(s *guestSession) { s.send(wire.TypeWrote, []byte("x")) }},
		{"malformed Open", "distro d: guest: malformed field", func(s *guestSession) { s.send(wire.TypeOpen, []byte("x")) }},
		{"writes to what is no output", "exit 4", func(s *guestSession) {
			s.started()
			for _, n := range []uint32{0, 2, math.MaxUint32, wire.TerminalStream} {
				s.wrote(n, make([]byte, 10000))
				s.send(wire.TypeOpen, (&wire.Count{Number: n}).Append(nil))
			}
			s.exit(wire.Exit{Code: 4})
		}},
		{"opens twice", "distro d: guest: malformed field", func(s *guestSession) {
			s.started()
			s.stream(1)
			s.send(wire.TypeOpen, (&wire.Count{Number: 1}).Append(nil))
		}},
		{"floods with wishes", "exit 5", func(s *guestSession) {
			s.started()
			for range 100_000 {
				s.send(wire.TypeWant, (&wire.Want{Bytes: 1}).Append(nil))
			}
			s.exit(wire.Exit{Code: 5})
		}},
		{"resets the data streams", "exit 6", func(s *guestSession) {
			s.started()
			s.stream(0).abort()
			s.stream(1).abort()
			s.exit(wire.Exit{Code: 6, Counts: []wire.Count{{Number: 1, Bytes: 10}}})
		}},
		{"writes to an input", "exit 7", func(s *guestSession) {
			s.started()
			s.stream(0).Write(make([]byte, 10000))
			s.exit(wire.Exit{Code: 7})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, byArgv(func(s *guestSession) {
				tt.bad(s)
				s.end()
			}), func(c *Config) { c.AnswerLimit = 300 * time.Millisecond })
			in, _ := pipe(t)
			r, out := pipe(t)
			s := w.start(wire.Run{Argv: []string{"x"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out)
			s.expect(wire.TypeStarted)
			w.runCat(t, noise(200_000, 3))
			if words := s.lastWords(); words != tt.want {
				t.Errorf("the shim is told %q, want %q", words, tt.want)
			}
			s.conn.Close()
			soon(t, "no session", func() bool { return len(w.server.Sessions()) == 0 })
			if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("the output gives %d, %v", n, err)
			}
		})
	}
}

// Streams that take nothing, or end at once, end a session in words.
func TestGuestTakesNoStream(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		before     func(n int32, c *fakeConn)
	}{
		{"no credit for Hello", "distro d: guest: it takes nothing within 200ms", func(n int32, c *fakeConn) { c.setCredit(0) }},
		{"no credit for a data stream's Hello", "distro d: guest: it takes nothing within 200ms", func(n int32, c *fakeConn) {
			if n > 1 {
				c.setCredit(0)
			}
		}},
		{"control stream ends at once", "distro d: guest: stream ended at once: broken pipe", func(n int32, c *fakeConn) { c.abort() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, func(s *guestSession) { s.started(); s.end() }, func(c *Config) { c.DialLimit = 200 * time.Millisecond })
			var n atomic.Int32
			w.guest.before = func(c *fakeConn) { tt.before(n.Add(1), c) }
			in, _ := pipe(t)
			_, out := pipe(t)
			s := w.start(wire.Run{Argv: []string{"x"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out)
			if words := s.lastWords(); words != tt.want {
				t.Errorf("the shim is told %q, want %q", words, tt.want)
			}
			s.conn.Close()
			soon(t, "no session", func() bool { return len(w.server.Sessions()) == 0 })
		})
	}
}

// Close ends sessions wherever they are, and their shims find out.
func TestServerCloses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		play   func(s *guestSession)
		before func(c *fakeConn)
	}{
		{"no credit", nil, func(c *fakeConn) { c.setCredit(0) }},
		{"not started", func(s *guestSession) {}, nil},
		{"running", func(s *guestSession) { s.started(); s.stream(1).Write([]byte("x")) }, nil},
		{"writing", func(s *guestSession) { s.started(); go s.stream(1).Write(make([]byte, 1<<20)) }, nil},
		{"exit waits", func(s *guestSession) { s.exit(wire.Exit{Counts: []wire.Count{{Number: 1, Bytes: 1}}}) }, nil},
		{"left something", func(s *guestSession) { s.exit(wire.Exit{}) }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, func(s *guestSession) { tt.play(s); s.end() })
			w.guest.before = tt.before
			var shims []*testShim
			var outs []*os.File
			for range 20 {
				in, _ := pipe(t)
				r, out := pipe(t)
				outs = append(outs, r)
				shims = append(shims, w.start(wire.Run{Argv: []string{"x"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out))
			}
			soon(t, "sessions", func() bool { return len(w.server.Sessions()) == len(shims) })
			w.close()
			for i, s := range shims {
				if words := s.lastWords(); words != "" && words != "exit 0" {
					t.Errorf("the shim is told %q", words)
				}
				if _, err := io.Copy(io.Discard, outs[i]); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Requests that make no sense, and descriptors that did not fit, are told to their
// shim, and the next is served.
func TestBadRequests(t *testing.T) {
	w := newWorld(t, cat)
	in, _ := pipe(t)
	s := w.start(wire.Run{Argv: []string{"x"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in)
	if words := s.lastWords(); words != "request: 1 descriptors came with a table for 2" {
		t.Errorf("a descriptor lacks: %q", words)
	}
	in, _ = pipe(t)
	s = w.start(wire.Run{Argv: []string{"x\x00"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, dup(t, in))
	if words := s.lastWords(); words != "request: malformed field" {
		t.Errorf("a NUL byte: %q", words)
	}
	w.runCat(t, []byte("the next"))
}

// lowest are the n lowest numbers that no descriptor has.
func lowest(t *testing.T, n int) []int {
	t.Helper()
	var list []int
	for range n {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		list = append(list, fd)
	}
	return list
}

func TestDescriptorsThatDoNotFit(t *testing.T) {
	checkLeft(t)
	ours, theirs := unixPair(t)
	supervisor, vmm := unixPair(t)
	for _, c := range []io.Closer{ours, supervisor, vmm} {
		defer c.Close()
	}
	in, _ := pipe(t)
	_, out := pipe(t)
	run := wire.Run{Argv: []string{"cat"}, Table: inOut(wire.KindPipe, wire.KindPipe)}
	f := &First{Type: wire.TypeRun, Payload: run.Append(nil), Files: []int{number(t, in), number(t, out)}}
	if err := Forward(supervisor, theirs, f); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	// The connection and one descriptor fit, the second does not.
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	tight := old
	tight.Cur = uint64(lowest(t, 2)[1]) + 1
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &tight); err != nil {
		t.Fatal(err)
	}
	q, err := Accept(vmm)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err == nil {
		q.Close()
		t.Fatal("the request was taken")
	}
	if !errors.Is(err, ErrRequest) || !errors.Is(err, ErrLost) {
		t.Errorf("Accept: %v", err)
	}
	s := &testShim{t: t, conn: ours, reader: wire.NewReader(ours.Read)}
	if words := s.lastWords(); words != "request: "+ErrLost.Error() {
		t.Errorf("the shim is told %q", words)
	}
	// The connection between supervisor and vmm process goes on.
	ours2, theirs2 := unixPair(t)
	defer ours2.Close()
	if err := Forward(supervisor, theirs2, &First{Type: wire.TypeRun, Payload: (&wire.Run{Argv: []string{"x"}}).Append(nil)}); err != nil {
		t.Fatal(err)
	}
	theirs2.Close()
	q, err = Accept(vmm)
	if err != nil {
		t.Fatalf("the next: %v", err)
	}
	q.Close()
}

// A guest that takes long to start a command, and starts others meanwhile, is busy; but
// not for ever.
func TestBusyGuest(t *testing.T) {
	for _, tt := range []struct {
		argv, want string
	}{
		{"late", "exit 4"},
		{"never", "distro d: guest: it has not started the command within 1s"},
	} {
		t.Run(tt.argv, func(t *testing.T) {
			w := newWorld(t, func(s *guestSession) {
				switch s.run.Argv[0] {
				case "late":
					time.Sleep(400 * time.Millisecond)
				case "never":
					return
				}
				s.started()
				s.exit(wire.Exit{Code: 4})
				s.end()
			}, func(c *Config) { c.AnswerLimit = 100 * time.Millisecond })
			start := func(argv string) *testShim {
				in, _ := pipe(t)
				_, out := pipe(t)
				s := w.start(wire.Run{Argv: []string{argv}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out)
				s.expect(wire.TypeStarted)
				return s
			}
			busy := start(tt.argv)
			words := make(chan string)
			go func() { words <- busy.lastWords() }()
			for {
				start("quick").lastWords()
				select {
				case got := <-words:
					if got != tt.want {
						t.Errorf("the shim is told %q, want %q", got, tt.want)
					}
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
}
