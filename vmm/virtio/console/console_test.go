package console

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stilehq/stile/vmm/memory"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// A screen keeps what was printed.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.b.Reset()
	return s.b.String()
}

// A terminal is a Device with what is behind it.
type terminal struct {
	*Device
	screen
	keys *io.PipeWriter
}

func newTerminal(tb testing.TB) *terminal {
	r, w := io.Pipe()
	t := &terminal{keys: w}
	t.Device = New(&t.screen, r)
	tb.Cleanup(func() { w.Close() })
	return t
}

var spec = virtiotest.Spec{
	New:     func(tb testing.TB) virtio.Device { return newTerminal(tb) },
	Watched: []int{transmitQueue},
	Work: func(d *virtiotest.Driver) {
		term := d.Device.(*terminal)
		term.take()
		if n := d.Do(transmitQueue, d.Out([]byte("login")), d.Out([]byte(": "))); n != 0 {
			d.Errorf("%d bytes written to a buffer with none to write", n)
		}
		if got := term.take(); got != "login: " {
			d.Errorf("printed %q", got)
		}
		// Keys come in as many buffers as they need, and none is used before.
		if n := d.Rings[receiveQueue].UsedIdx(); d.Rings[receiveQueue].InFlight() != 0 {
			d.Errorf("%d receive buffers used", n)
		}
		typed := make(chan error, 1)
		go func() {
			_, err := term.keys.Write([]byte("root\n"))
			typed <- err
		}()
		a, first := d.In(3)
		b, second := d.In(8)
		if n := d.Do(receiveQueue, a); n != 3 || string(first) != "roo" {
			d.Errorf("typed %q of %d bytes", first, n)
		}
		if n := d.Do(receiveQueue, b); n != 2 || string(second[:3]) != "t\n\x00" {
			d.Errorf("typed %q of %d bytes", second, n)
		}
		if err := <-typed; err != nil {
			d.Error(err)
		}
	},
}

func TestDevice(t *testing.T) { virtiotest.TestDevice(t, spec) }

func FuzzChains(f *testing.F) {
	virtiotest.FuzzDevice(f, virtiotest.Spec{Watched: spec.Watched, New: func(tb testing.TB) virtio.Device {
		return New(io.Discard, strings.NewReader(strings.Repeat("keys ", 5000)))
	}})
}

// What the guest prints at once beyond any measure is cut, and a chain that
// covers the same bytes again and again costs no more than that.
func TestLongLine(t *testing.T) {
	var s screen
	d := virtiotest.NewDriver(t, New(&s, nil), virtiotest.Buses["mmio"], 1<<20)
	d.Start(^uint64(0), 0)
	out := d.Out(bytes.Repeat([]byte("0123456789abcdef"), 2048)) // 32 KiB
	d.Do(transmitQueue, out, out, out, out)
	if got := s.take(); got != strings.Repeat("0123456789abcdef", maxWrite/16) {
		t.Errorf("printed %d bytes", len(got))
	}
}

// A Writer that fails costs the guest nothing.
func TestNobodyListens(t *testing.T) {
	r, w := io.Pipe()
	r.Close()
	d := virtiotest.NewDriver(t, New(w, nil), virtiotest.Buses["mmio"], 1<<20)
	d.Start(^uint64(0), 0)
	for range 100 {
		d.Do(transmitQueue, d.Out([]byte("x")))
	}
	if err := d.Failure(); err != nil {
		t.Error(err)
	}
}

// Keys that were typed while the device slept, or before it had a driver, are
// the guest's when it wakes.
func TestTypedAhead(t *testing.T) {
	term := newTerminal(t)
	d := virtiotest.NewDriver(t, term, virtiotest.Buses["mmio"], 1<<20)
	d.Start(^uint64(0), 0)
	in, got := d.In(16)
	if _, err := term.keys.Write([]byte("a")); err != nil { // is read, and waits
		t.Fatal(err)
	}
	d.Sleep()
	d.Wake()
	if n := d.Do(receiveQueue, in); n != 1 || got[0] != 'a' {
		t.Errorf("typed %q of %d bytes", got, n)
	}
	if _, err := term.keys.Write([]byte("b")); err != nil {
		t.Fatal(err)
	}
	d.Reset()
	d.Start(^uint64(0), 0)
	in, got = d.In(16)
	if n := d.Do(receiveQueue, in); n != 1 || got[0] != 'b' {
		t.Errorf("typed %q of %d bytes", got, n)
	}
}

// The receive ring is looked at when there is something to receive.
func TestHostileReceive(t *testing.T) {
	for name, breakRing := range virtiotest.Hostile {
		t.Run(name, func(t *testing.T) {
			term := newTerminal(t)
			d := virtiotest.NewDriver(t, term, virtiotest.Buses["mmio"], 1<<20)
			d.Start(^uint64(0), 0)
			breakRing(d.Rings[receiveQueue])
			if _, err := term.keys.Write([]byte("a")); err != nil {
				t.Fatal(err)
			}
			d.FailedWith(virtio.ErrRing, memory.ErrRange)
			d.Reset()
			d.Forgive()
			d.Start(^uint64(0), 0)
			in, got := d.In(8)
			if n := d.Do(receiveQueue, in); n != 1 || got[0] != 'a' {
				t.Errorf("typed %q of %d bytes", got, n)
			}
		})
	}
}

// Receive buffers without room, one after the other, would keep the device busy
// for nothing.
func TestEmptyReceiveBuffer(t *testing.T) {
	term := newTerminal(t)
	d := virtiotest.NewDriver(t, term, virtiotest.Buses["mmio"], 1<<20)
	d.Start(^uint64(0), 0)
	d.Rings[receiveQueue].Add(d.Out([]byte("not for you")))
	go term.keys.Write([]byte("a"))
	d.FailedWith(virtio.ErrRing)
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Reset()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Reset hangs")
	}
	if err := d.Failure(); !errors.Is(err, virtio.ErrRing) {
		t.Error(err)
	}
}
