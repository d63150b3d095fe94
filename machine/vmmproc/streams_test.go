package vmmproc

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (*net.UnixConn, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// The vmm process gets a connection for each that it asks for, or learns that there is
// none, and goes on; when the supervisor has gone it stops asking.
func TestGetStream(t *testing.T) {
	vmm, supervisor := pair(t)
	theirs := make(chan *net.UnixConn, 2)
	go func() {
		for i := range 3 {
			if AwaitStream(supervisor) != nil {
				return
			}
			if i == 1 {
				SendStream(supervisor, nil)
				continue
			}
			a, b := pair(t)
			f, err := b.File()
			if err != nil {
				return
			}
			SendStream(supervisor, f)
			f.Close()
			theirs <- a
		}
		supervisor.Close()
	}()
	for i, want := range []error{nil, errNoStream, nil, io.EOF} {
		c, err := getStream(vmm)
		if i == 3 && err != nil && !errors.Is(err, errNoStream) {
			break // EOF, or EPIPE if it was faster
		}
		if !errors.Is(err, want) {
			t.Fatalf("stream %d: %v, want %v", i, err, want)
		}
		if err != nil {
			continue
		}
		if _, err := (<-theirs).Write([]byte{byte('a' + i)}); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, b); err != nil || b[0] != byte('a'+i) {
			t.Errorf("stream %d: %q, %v", i, b, err)
		}
		c.Close()
	}
}
