package vsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// start makes a device and a guest that runs on it, until the test ends.
func start(t testing.TB, opts ...guestOpt) (*Device, *guest) {
	t.Helper()
	d := New(testCID)
	g := newGuest(t, d, opts...)
	g.start()
	g.runRx()
	t.Cleanup(func() {
		d.Close()
		d.Reset()
		g.stop()
		select {
		case err := <-g.failed:
			t.Errorf("the device failed: %v", err)
		default:
		}
		if n := d.count.Load(); n != 0 && !t.Failed() {
			t.Errorf("%d connections were not closed", n)
		}
	})
	return d, g
}

// pair is a connection from the host to the guest, or the other way round.
func pair(t testing.TB, d *Device, g *guest, fromGuest bool) (*Conn, *gconn) {
	t.Helper()
	if !fromGuest {
		g.mu.Lock()
		l := g.listeners[7]
		g.mu.Unlock()
		if l == nil {
			l = g.listen(7)
		}
		c, err := d.Dial(t.Context(), 7)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c, <-l
	}
	l, err := d.Listen(1024)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	gc, err := g.dial(5000, 1024)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, gc
}

func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestBothWaysByteForByte(t *testing.T) {
	for name, fromGuest := range map[string]bool{"dial": false, "listen": true} {
		t.Run(name, func(t *testing.T) {
			d, g := start(t)
			c, gc := pair(t, d, g, fromGuest)
			want := pattern(8 << 20)
			errs := make(chan error, 4)
			go func() {
				_, err := c.Write(want)
				c.CloseWrite()
				errs <- err
			}()
			go func() {
				_, err := gc.Write(want)
				gc.shutdown(shutdownSend)
				errs <- err
			}()
			check := func(who string, r io.Reader) {
				got, err := io.ReadAll(r)
				if err == nil && !bytes.Equal(got, want) {
					err = errors.New(who + " read other bytes")
				}
				errs <- err
			}
			go check("host", c)
			go check("guest", gc)
			for range 4 {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestDialWaitsForDriver(t *testing.T) {
	d := New(testCID)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := d.Dial(ctx, 7); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Dial without a driver: %v", err)
	}
	g := newGuest(t, d)
	l := g.listen(7)
	got := make(chan error, 1)
	go func() {
		c, err := d.Dial(context.Background(), 7)
		if err == nil {
			c.Close()
		}
		got <- err
	}()
	g.start()
	g.runRx()
	defer g.stop()
	defer d.Reset()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	<-l
}

func TestRefused(t *testing.T) {
	d, g := start(t)
	_, err := d.Dial(t.Context(), 99)
	if !errors.Is(err, ErrRefused) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial to a port without listener: %v", err)
	}
	if _, err := g.dial(5000, 99); err == nil {
		t.Error("the guest reached a port that nobody listens on")
	}
	l, err := d.Listen(99)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Listen(99); !errors.Is(err, ErrPortInUse) {
		t.Errorf("second Listen: %v", err)
	}
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if l, err = d.Listen(99); err != nil {
		t.Errorf("Listen after Close: %v", err)
	}
	l.Close()
}

func TestHalfClose(t *testing.T) {
	d, g := start(t)
	c, gc := pair(t, d, g, false)
	c.Write([]byte("question"))
	c.CloseWrite()
	if _, err := c.Write([]byte("x")); !errors.Is(err, ErrWriteClosed) || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write after CloseWrite: %v", err)
	}
	if b, err := io.ReadAll(gc); string(b) != "question" || err != nil {
		t.Errorf("guest read %q, %v", b, err)
	}
	gc.Write([]byte("answer"))
	gc.shutdown(shutdownSend)
	if b, err := io.ReadAll(c); string(b) != "answer" || err != nil {
		t.Errorf("host read %q, %v", b, err)
	}
	select {
	case <-c.Done():
		t.Error("done before the guest closed")
	default:
	}
	gc.shutdown(shutdownBoth)
	<-c.Done()
	<-c.PeerReadClosed()
}

func TestPeerReadClosed(t *testing.T) {
	d, g := start(t, func(g *guest) { g.bufAlloc = 4096 })
	c, gc := pair(t, d, g, false)
	blocked := make(chan error)
	go func() {
		_, err := c.Write(make([]byte, 1<<20)) // waits for credit
		blocked <- err
	}()
	gc.Read(make([]byte, 1))
	gc.shutdown(shutdownRecv)
	if err := <-blocked; !errors.Is(err, ErrPeerClosed) || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write when the guest stops reading: %v", err)
	}
	<-c.PeerReadClosed()
	gc.Write([]byte("still here"))
	b := make([]byte, 10)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "still here" {
		t.Errorf("Read = %q, %v", b, err)
	}
	gc.shutdown(shutdownSend)
	if _, err := c.Read(b); err != io.EOF {
		t.Errorf("Read at the end: %v", err)
	}
}

func TestGuestCloseLeavesBytes(t *testing.T) {
	d, g := start(t)
	c, gc := pair(t, d, g, true)
	gc.Write([]byte("last words"))
	gc.shutdown(shutdownBoth)
	<-c.Done()
	if _, err := c.Write([]byte("x")); !errors.Is(err, ErrPeerClosed) {
		t.Errorf("Write: %v", err)
	}
	if b, err := io.ReadAll(c); string(b) != "last words" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	eventually(t, "the reset that the guest's socket waits for", func() bool { return g.logged(opRST) == 1 })
}

func TestGuestReset(t *testing.T) {
	d, g := start(t)
	c, gc := pair(t, d, g, false)
	gc.Write([]byte("abc"))
	g.send(gc.header(opRST), nil)
	<-c.Done()
	b := make([]byte, 3)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Errorf("bytes before the reset: %v", err)
	}
	if _, err := c.Read(b); !errors.Is(err, ErrReset) || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read after a reset: %v", err)
	}
	if _, err := c.Write(b); !errors.Is(err, ErrReset) {
		t.Errorf("Write after a reset: %v", err)
	}
}

func TestCloseDeliversWrites(t *testing.T) {
	d, g := start(t)
	c, gc := pair(t, d, g, false)
	want := pattern(100_000)
	c.Write(want)
	c.Close()
	if _, err := c.Read(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if b, err := io.ReadAll(gc); err != nil || !bytes.Equal(b, want) {
		t.Errorf("guest read %d bytes, %v", len(b), err)
	}
	gc.shutdown(shutdownBoth) // the guest's close: answered by a reset
	<-c.Done()
}

func TestDeadlines(t *testing.T) {
	d, g := start(t, func(g *guest) { g.bufAlloc = 4096 })
	c, _ := pair(t, d, g, false)
	timeout := func(what string, err error) {
		t.Helper()
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%s: %v", what, err)
		}
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	timeout("Read", err)
	c.SetReadDeadline(time.Time{})
	go func() {
		time.Sleep(10 * time.Millisecond)
		c.SetReadDeadline(time.Unix(1, 0))
	}()
	_, err = c.Read(make([]byte, 1))
	timeout("Read under way", err)
	c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	n, err := c.Write(make([]byte, 10000))
	timeout("Write", err)
	if n != 4096 {
		t.Errorf("Write of more than the credit wrote %d", n)
	}
}

func TestResetEndsConnections(t *testing.T) {
	d, g := start(t)
	c, _ := pair(t, d, g, false)
	read := make(chan error)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	d.Reset()
	if err := <-read; !errors.Is(err, ErrReset) {
		t.Errorf("Read across a reset: %v", err)
	}
	d.Reset()
	d.Close()
	if _, err := d.Dial(t.Context(), 7); !errors.Is(err, ErrDeviceClosed) {
		t.Errorf("Dial after Close: %v", err)
	}
	if _, err := d.Listen(7); !errors.Is(err, ErrDeviceClosed) {
		t.Errorf("Listen after Close: %v", err)
	}
}
