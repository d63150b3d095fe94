package descriptor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second

func newPoller(t *testing.T) *Poller {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// ends makes two files: what is written to w is read from r.
func ends(t *testing.T, kind string) (r, w int) {
	t.Helper()
	var fds [2]int
	var err error
	switch kind {
	case "pipe", "splice":
		err = unix.Pipe2(fds[:], unix.O_CLOEXEC)
	case "non-blocking pipe":
		err = unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK)
	case "FIFO":
		path := filepath.Join(t.TempDir(), "fifo")
		if err = unix.Mkfifo(path, 0o600); err == nil {
			// A reader that waits for no writer, made blocking then as users' are.
			if fds[0], err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
				unix.SetNonblock(fds[0], false)
				fds[1], err = unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
			}
		}
	case "socket":
		fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fds[0], fds[1]
}

var kinds = []string{"pipe", "splice", "non-blocking pipe", "FIFO", "socket"}

func (p *Poller) open(t *testing.T, fd int, kind string) *Descriptor {
	t.Helper()
	d, err := p.New(fd)
	if err != nil {
		t.Fatal(err)
	}
	d.splice.Store(kind == "splice") // as before Linux 6.4
	t.Cleanup(func() { d.Close() })
	return d
}

// Bytes arrive whole and in order, however reader and writer wait for each other.
func TestReadWrite(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			p := newPoller(t)
			rfd, wfd := ends(t, kind)
			r, w := p.open(t, rfd, kind), p.open(t, wfd, kind)
			data := make([]byte, 4<<20+13)
			for i := range data {
				data[i] = byte(i * i >> 8)
			}
			go func() {
				if n, err := w.Write(t.Context(), data); err != nil || n != len(data) {
					t.Errorf("write: %d, %v", n, err)
				}
				w.Close()
			}()
			var got []byte
			b := make([]byte, 70_001)
			for {
				n, err := r.Read(t.Context(), b)
				got = append(got, b[:n]...)
				if err == io.EOF {
					break
				}
				if err != nil || n == 0 {
					t.Fatalf("read: %d, %v", n, err)
				}
			}
			if !bytes.Equal(got, data) {
				t.Errorf("read %d bytes, want %d, or others", len(got), len(data))
			}
		})
	}
}

// What waits ends with its context and with Close, having taken nothing.
func TestWaitsEnd(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			p := newPoller(t)
			rfd, wfd := ends(t, kind)
			r, w := p.open(t, rfd, kind), p.open(t, wfd, kind)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			defer cancel()
			if n, err := r.Read(ctx, make([]byte, 1)); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("read: %d, %v", n, err)
			}
			data := make([]byte, 8<<20)
			ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			n, err := w.Write(ctx, data)
			if n == 0 || n == 8<<20 || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("write: %d, %v", n, err)
			}
			// As many as were counted are there, not one more.
			got := 0
			b := make([]byte, 1<<20)
			for got < n {
				k, err := r.Read(t.Context(), b)
				if err != nil {
					t.Fatal(err)
				}
				got += k
			}
			ended := make(chan error, 2)
			go func() { _, err := r.Read(t.Context(), b); ended <- err }()
			time.Sleep(time.Millisecond)
			r.Close()
			if err := <-ended; got != n || err != ErrClosed {
				t.Errorf("%d bytes of %d; read under way: %v", got, n, err)
			}
			if err := r.Close(); err != ErrClosed {
				t.Errorf("second close: %v", err)
			}
			if _, err := r.Read(t.Context(), b); err != ErrClosed {
				t.Errorf("read: %v", err)
			}
			if err := r.Control(func(int) { t.Error("called") }); err != ErrClosed {
				t.Errorf("control: %v", err)
			}
		})
	}
}

// The end of the other end is noticed by who writes, and by who does nothing.
func TestGone(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			p := newPoller(t)
			rfd, wfd := ends(t, kind)
			w := p.open(t, wfd, kind)
			written := make(chan error, 1)
			go func() { _, err := w.Write(t.Context(), make([]byte, 8<<20)); written <- err }()
			select {
			case <-w.Gone():
				t.Error("gone while it is there")
			case <-time.After(5 * time.Millisecond):
			}
			unix.Close(rfd)
			select {
			case <-w.Gone():
			case <-time.After(patience):
				t.Fatal("nobody notices")
			}
			if err := <-written; err != unix.EPIPE && err != unix.ECONNRESET {
				t.Errorf("write: %v, want EPIPE", err)
			}
		})
	}
}

// Files and devices are read and written as they are.
func TestFiles(t *testing.T) {
	p := newPoller(t)
	path := filepath.Join(t.TempDir(), "f")
	open := func(path string, flags int) *Descriptor {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return p.open(t, fd, "")
	}
	w := open(path, unix.O_WRONLY|unix.O_CREAT)
	if n, err := w.Write(t.Context(), []byte("content")); n != 7 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	r := open(path, unix.O_RDONLY)
	b := make([]byte, 100)
	if n, err := r.Read(t.Context(), b); err != nil || string(b[:n]) != "content" {
		t.Errorf("read: %q, %v", b[:n], err)
	}
	if n, err := r.Read(t.Context(), b); n != 0 || err != io.EOF {
		t.Errorf("end: %d, %v", n, err)
	}
	if n, err := open("/dev/zero", unix.O_RDONLY).Read(t.Context(), b); n != 100 || err != nil {
		t.Errorf("/dev/zero: %d, %v", n, err)
	}
	if n, err := open("/dev/full", unix.O_WRONLY).Write(t.Context(), b); n != 0 || err != unix.ENOSPC {
		t.Errorf("/dev/full: %d, %v", n, err)
	}
	if _, err := open(filepath.Dir(path), unix.O_RDONLY).Read(t.Context(), b); err != unix.EISDIR {
		t.Errorf("a folder: %v", err)
	}
	if _, err := r.Write(t.Context(), b); err != unix.EBADF {
		t.Errorf("write to what is open for reading: %v", err)
	}
	if _, err := p.New(1 << 19); !errors.Is(err, unix.EBADF) {
		t.Errorf("no descriptor: %v", err)
	}
}

// Many descriptors that come and go leave nothing behind, in the poller or the
// process.
func TestComeAndGo(t *testing.T) {
	count := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	p := newPoller(t)
	before := count()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				kind := kinds[(i+j)%len(kinds)]
				rfd, wfd := ends(t, kind)
				r, w := p.open(t, rfd, kind), p.open(t, wfd, kind)
				text := fmt.Sprint(i, j)
				go w.Write(t.Context(), []byte(text))
				b := make([]byte, 100)
				if n, err := r.Read(t.Context(), b); err != nil || string(b[:n]) != text {
					t.Errorf("%s: %q, %v", kind, b[:n], err)
				}
				go r.Close()
				w.Close()
			}
		})
	}
	wg.Wait()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		known := len(p.known)
		p.mu.Unlock()
		if n := count(); known == 0 && n <= before+2*stagingKept {
			return
		} else if time.Now().After(end) {
			t.Fatalf("the poller knows %d descriptors; %d are open, there were %d", known, n, before)
		}
	}
}
