package session

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/stilehq/stile/interop/wire"
)

// oneOutput is a run with one output.
var oneOutput = wire.Run{Argv: []string{"x"}, Table: []wire.Descriptor{{Number: 1, Kind: wire.KindPipe, Access: wire.AccessWrite}}}

// Output that the control stream carries needs no stream, all of it is written
// before the shim is told of the end, and what comes on a stream later is behind it.
func TestSmallOutput(t *testing.T) {
	for _, tt := range []struct{ small, rest int }{{0, 0}, {1, 0}, {wire.SmallOutput, 0}, {5, 100_000}, {wire.SmallOutput, 1}} {
		t.Run(fmt.Sprint(tt.small, " ", tt.rest), func(t *testing.T) {
			data := noise(tt.small+tt.rest, 7)
			w := newWorld(t, func(s *guestSession) {
				s.started()
				for b := data[:tt.small]; len(b) > 0; b = b[min(1000, len(b)):] {
					s.wrote(0, b[:min(1000, len(b))])
				}
				if tt.rest > 0 {
					c := s.stream(0)
					c.Write(data[tt.small:])
					c.Close()
				}
				s.exit(wire.Exit{Code: 1, Counts: []wire.Count{{Number: 0, Bytes: uint64(len(data))}}, Unread: []uint32{0}})
				s.end()
				if n := len(s.streams); tt.rest == 0 && n > 0 {
					t.Errorf("%d streams were opened", n)
				}
			})
			r, out := pipe(t)
			shim := w.start(oneOutput, out)
			var got []byte
			read := make(chan error)
			go func() {
				var err error
				got, err = io.ReadAll(r)
				read <- err
			}()
			if e := shim.expectExit(); e.Code != 1 {
				t.Errorf("exit status %d", e.Code)
			}
			shim.conn.Close()
			if err := <-read; err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes of output, %v, want %d", len(got), err, len(data))
			}
			w.close()
		})
	}
}

// A guest may not use the control stream for more than small output.
func TestTooMuchSmallOutput(t *testing.T) {
	w := newWorld(t, func(s *guestSession) {
		s.started()
		s.wrote(0, make([]byte, wire.SmallOutput))
		s.wrote(0, []byte{1})
		s.end()
	})
	r, out := pipe(t)
	shim := w.start(oneOutput, out)
	shim.expect(wire.TypeStarted)
	if words := shim.lastWords(); words != "distro d: guest: malformed field" {
		t.Errorf("the shim is told %q", words)
	}
	shim.conn.Close()
	if b, err := io.ReadAll(r); len(b) > wire.SmallOutput || err != nil {
		t.Errorf("%d bytes of output, %v", len(b), err)
	}
}

// The guest is told when nobody reads what it writes, whether it has written or not.
func TestSmallOutputUnread(t *testing.T) {
	for _, writes := range []bool{false, true} {
		t.Run(fmt.Sprint("writes ", writes), func(t *testing.T) {
			closed := make(chan struct{})
			told := make(chan uint64, 1)
			w := newWorld(t, func(s *guestSession) {
				s.started()
				<-closed
				if writes {
					s.wrote(0, []byte("lost"))
				}
				for {
					typ, payload, err := s.reader.Next()
					if err != nil {
						t.Errorf("the guest is told nothing: %v", err)
						break
					}
					var m wire.Count
					if typ == wire.TypeUnread && m.Parse(payload) == nil {
						told <- uint64(m.Number)
						break
					}
				}
				s.exit(wire.Exit{Signal: 13, Counts: []wire.Count{{Number: 0, Bytes: 4}}})
				s.end()
			})
			r, out := pipe(t)
			shim := w.start(oneOutput, out)
			shim.expect(wire.TypeStarted)
			r.Close()
			close(closed)
			if n := <-told; n != 0 {
				t.Errorf("the guest is told of entry %d", n)
			}
			if e := shim.expectExit(); e.Signal != 13 {
				t.Errorf("signal %d", e.Signal)
			}
		})
	}
}

// A shim that is killed takes nothing of the output along: what had been written
// when guestinit ended the command, and what processes that the command left write
// on a stream.
func TestSmallOutputOfAKilledShim(t *testing.T) {
	data := noise(50_000, 9)
	w := newWorld(t, func(s *guestSession) {
		s.started()
		for { // until the shim is gone
			if _, _, err := s.reader.Next(); err != nil {
				break
			}
		}
		s.wrote(0, data[:1000])
		s.send(wire.TypeOpen, (&wire.Count{Number: 0, Bytes: 1000}).Append(nil))
		s.mu.Lock()
		s.asked[0] = true
		s.mu.Unlock()
		s.exit(wire.Exit{Signal: 1, Counts: []wire.Count{{Number: 0, Bytes: 1000}}})
		s.control.Close()
		c := s.stream(0)
		c.Write(data[1000:])
		c.Close()
	})
	r, out := pipe(t)
	shim := w.start(oneOutput, out)
	shim.expect(wire.TypeStarted)
	soon(t, "the command is known to run", func() bool { return w.server.Sessions()[0].PID == 42 })
	shim.conn.Close()
	if b, err := io.ReadAll(r); !bytes.Equal(b, data) || err != nil {
		t.Errorf("%d bytes of output, %v, want %d", len(b), err, len(data))
	}
}
