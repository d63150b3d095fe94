package agent

import (
	"io"
	"testing"
	"time"

	"github.com/stilehq/stile/guestinit/sock"
	"github.com/stilehq/stile/interop/wire"
)

// A stream that comes late, since host or guest have much to do, finds its session:
// its bytes are the command's.
func TestLateStreams(t *testing.T) {
	limit := helloLimit
	helloLimit = 10 * time.Millisecond
	defer func() { helloLimit = limit }()

	t.Run("after the command", func(t *testing.T) {
		s := &session{hostEnd: make(chan struct{})}
		e := &entry{s: s, streams: make(chan *sock.Conn, 1)}
		done := make(chan error, 1)
		go func() {
			_, err := e.wait()
			done <- err
		}()
		time.Sleep(10 * helloLimit)
		c, _ := callPair(t)
		defer c.Close()
		e.attach(c)
		if err := <-done; err != nil {
			t.Errorf("the wait ended with %v", err)
		}
		close(s.hostEnd)
		if _, err := e.wait(); err == nil {
			t.Error("a stream came from a host that has gone")
		}
	})
	t.Run("before its session", func(t *testing.T) {
		a := New(Options{})
		h := wire.Hello{Session: 7, Number: 1}
		a.starting[h.Session] = true
		c, _ := callPair(t)
		defer c.Close()
		a.data(c, h)
		time.Sleep(10 * helloLimit)
		a.mu.Lock()
		n := len(a.early[h.Session])
		delete(a.early, h.Session)
		a.mu.Unlock()
		if n != 1 {
			t.Errorf("%d streams wait for a session that is being started", n)
		}
		h.Session = 8 // of which nothing is known
		c, host := callPair(t)
		a.data(c, h)
		host.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := host.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a stream of no session: %v", err)
		}
	})
}
