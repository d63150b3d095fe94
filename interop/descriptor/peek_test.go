package descriptor

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// peeker is a Descriptor of fd.
func peeker(t *testing.T, fd int) *Descriptor {
	t.Helper()
	d := newPoller(t).open(t, fd, "pipe")
	if !d.Peeks() {
		t.Fatal("it cannot be peeked at")
	}
	return d
}

// peekAll peeks until n bytes have come.
func peekAll(t *testing.T, d *Descriptor, n int) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var got []byte
	b := make([]byte, n)
	for len(got) < n {
		k, err := d.Peek(ctx, b[:n-len(got)], nil)
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", len(got), n, err)
		}
		got = append(got, b[:k]...)
	}
	return got
}

// What has been peeked at is there for the next reader, but for what was taken.
func TestPeek(t *testing.T) {
	data := make([]byte, 20_000)
	for i := range data {
		data[i] = byte(i / 7)
	}
	path := t.TempDir() + "/file"
	if err := os.WriteFile(path, append([]byte("before"), data...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"pipe", "file"} {
		t.Run(kind, func(t *testing.T) {
			var fd int
			if kind == "pipe" {
				r, w := ends(t, "pipe")
				// Pieces that share pages, and pieces that do not.
				for at := 0; at < len(data); at += 2500 {
					if _, err := unix.Write(w, data[at:at+2500]); err != nil {
						t.Fatal(err)
					}
				}
				unix.Close(w)
				fd = r
			} else {
				var err error
				if fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
					t.Fatal(err)
				}
				unix.Seek(fd, 6, unix.SEEK_SET)
			}
			next, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(next)
			d := peeker(t, fd)
			got := peekAll(t, d, 7000)
			d.Take(10)
			d.Take(5000)
			d.Take(4000) // less than before
			got = append(got, peekAll(t, d, 8000)...)
			if !bytes.Equal(got, data[:15000]) {
				t.Error("what was peeked at is something else")
			}
			d.Take(12_345)
			rest := append([]byte(nil), data...)
			n := 0
			for n < len(data) {
				k, err := unix.Read(next, rest[n:])
				if err != nil {
					t.Fatal(err)
				}
				if k == 0 {
					break
				}
				n += k
			}
			if !bytes.Equal(rest[:n], data[12_345:]) {
				t.Errorf("the next reader found %d bytes, want %d", n, len(data)-12_345)
			}
		})
	}
}

// The end is found though nothing has been taken, and not before what came last.
func TestPeekEnd(t *testing.T) {
	r, w := ends(t, "pipe")
	d := peeker(t, r)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	unix.Write(w, []byte("a"))
	if got := peekAll(t, d, 1); string(got) != "a" {
		t.Errorf("got %q", got)
	}
	unix.Write(w, []byte("bc"))
	unix.Close(w)
	b := make([]byte, 10)
	if n, err := d.Peek(ctx, b, nil); n != 2 || err != nil || string(b[:2]) != "bc" {
		t.Errorf("%d %q, %v", n, b[:n], err)
	}
	for range 2 {
		if n, err := d.Peek(ctx, b, nil); n != 0 || err != io.EOF {
			t.Errorf("at the end: %d, %v", n, err)
		}
	}
}

// A pipe that is full of what has been seen says so, and shows more as soon as
// something is taken: of whatever pieces it is full, and whatever its size.
func TestPeekFull(t *testing.T) {
	for _, tt := range []struct {
		name string
		size int // of the pipe
		fill func(t *testing.T, w int) int
	}{
		{"pages", 64 << 10, fill(4096)},
		{"just too large for two a page", 64 << 10, fill(2049)},
		{"bytes", 64 << 10, fill(1)},
		{"one page", 4096, fill(100)},
		{"larger than what is seen", 1 << 20, fill(5000)},
		{"spliced", 64 << 10, func(t *testing.T, w int) int {
			r2, w2 := ends(t, "pipe")
			defer unix.Close(r2)
			defer unix.Close(w2)
			n := 0
			for {
				unix.Write(w2, []byte("xyz"))
				k, err := unix.Splice(r2, nil, w, nil, 3, unix.SPLICE_F_NONBLOCK)
				if err != nil {
					return n
				}
				n += int(k)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, w := ends(t, "pipe")
			defer unix.Close(w)
			if _, err := unix.FcntlInt(uintptr(w), unix.F_SETPIPE_SZ, tt.size); err != nil {
				t.Fatal(err)
			}
			total := tt.fill(t, w)
			d := peeker(t, r)
			seen, stuck := 0, make(chan struct{}, 100)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			b := make([]byte, 128<<10)
			for seen < total {
				n, err := d.Peek(ctx, b, func() {
					stuck <- struct{}{}
					go d.Take(uint64(seen))
				})
				if err != nil {
					t.Fatalf("%d of %d bytes were seen: %v", seen, total, err)
				}
				seen += n
			}
			if seen != total {
				t.Errorf("%d bytes were seen, want %d", seen, total)
			}
			// What waits now is told once more, for the pipe is full again of what
			// has not been taken, or quiet.
			waiting := make(chan error, 1)
			go func() {
				_, err := d.Peek(ctx, b, func() { stuck <- struct{}{} })
				waiting <- err
			}()
			if len(stuck) == 0 {
				select {
				case <-stuck:
				case <-ctx.Done():
					t.Error("it was never said to be stuck")
				}
			}
			cancel()
			<-waiting
		})
	}
}

// fill fills a pipe with pieces of one size, and says how many bytes there are.
func fill(piece int) func(t *testing.T, w int) int {
	return func(t *testing.T, w int) int {
		if err := unix.SetNonblock(w, true); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, piece)
		n := 0
		for {
			k, err := unix.Write(w, b)
			if err != nil {
				return n
			}
			n += k
		}
	}
}
