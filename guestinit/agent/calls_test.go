package agent

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/guestinit/sock"
	"github.com/stilehq/stile/interop/call"
	"github.com/stilehq/stile/interop/guest"
)

// callPair is a call stream: guestinit's end and the host's.
func callPair(t *testing.T) (*sock.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	guestEnd, err := sock.New(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[1]), "host")
	defer f.Close()
	host, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return guestEnd, host
}

// The machine ends when the host has the answer to a shutdown, not before: the
// host says so by closing, or takes too long.
func TestShutdownAnswer(t *testing.T) {
	for _, tt := range []struct {
		name    string
		closes  bool
		failure error
	}{
		{"taken", true, nil},
		{"not taken", false, nil},
		{"refused", true, errors.New("busy")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, host := callPair(t)
			off, done := make(chan struct{}), make(chan struct{})
			a := New(Options{Shutdown: func() error { return tt.failure }, Off: func() { close(off) }})
			go func() {
				defer close(done)
				a.calls(conn)
			}()
			c := call.NewClient(host)
			err := c.Do(t.Context(), guest.CallShutdown, nil, nil)
			if (err != nil) != (tt.failure != nil) {
				t.Fatalf("answer: %v, want %v", err, tt.failure)
			}
			select {
			case <-off:
				t.Error("the machine ended before the host had said that it has the answer")
			case <-time.After(50 * time.Millisecond):
			}
			if tt.closes {
				c.Close()
			}
			if tt.failure != nil {
				<-done
				select {
				case <-off:
					t.Error("the machine ended though its end was refused")
				default:
				}
				return
			}
			select {
			case <-off:
			case <-time.After(answerLimit + 10*time.Second):
				t.Fatal("the machine does not end")
			}
			c.Close()
			<-done
		})
	}
}
