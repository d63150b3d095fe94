package session

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

// ends makes one direction of a command's input or output: the end of the command
// and that of whoever is on the other side.
type ends func(t *testing.T, input bool) (theirs, ours *os.File)

func pipeEnds(flags ...int) ends {
	return func(t *testing.T, input bool) (*os.File, *os.File) {
		r, w := pipe(t, flags...)
		if input {
			return r, w
		}
		return w, r
	}
}

func socketEnds(flags int) ends {
	return func(t *testing.T, input bool) (*os.File, *os.File) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		a, b := rawFile(fds[0]), rawFile(fds[1])
		t.Cleanup(func() { a.Close(); b.Close() })
		return a, b
	}
}

// 64 MiB go through standard input and output byte for byte, whatever kind these
// are, and nobody's descriptor becomes non-blocking, or blocking.
func TestBytes(t *testing.T) {
	size := 64 << 20
	if testing.Short() {
		size = 4 << 20
	}
	for _, tt := range []struct {
		name    string
		kind    wire.Kind
		in, out ends
	}{
		{"pipe", wire.KindPipe, pipeEnds(), pipeEnds()},
		{"non-blocking pipe", wire.KindPipe, pipeEnds(unix.O_NONBLOCK), pipeEnds(unix.O_NONBLOCK)},
		{"socket", wire.KindSocket, socketEnds(0), socketEnds(0)},
		{"non-blocking socket", wire.KindSocket, socketEnds(unix.SOCK_NONBLOCK), socketEnds(unix.SOCK_NONBLOCK)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, cat)
			in, feed := tt.in(t, true)
			out, drain := tt.out(t, false)
			keptIn, keptOut := dup(t, in), dup(t, out)
			inFlags, outFlags := flags(t, in), flags(t, out)
			data := noise(size, 1)
			s := w.start(wire.Run{Argv: []string{"cat"}, Table: inOut(tt.kind, tt.kind)}, in, out)
			s.expect(wire.TypeStarted)
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := feed.Write(data); err != nil {
					t.Errorf("write to the command: %v", err)
				}
				feed.Close()
			})
			got := make([]byte, size)
			if n, err := io.ReadFull(drain, got); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read %d bytes, %v; the bytes are the same: %v", n, err, bytes.Equal(got, data))
			}
			wg.Wait()
			if e := s.expectExit(); e.Code != 0 || len(e.Counts) != 1 || e.Counts[0].Bytes != uint64(size) {
				t.Errorf("exit %+v", e)
			}
			if now := flags(t, keptIn); now != inFlags {
				t.Errorf("flags of the input were %o and are %o", inFlags, now)
			}
			if now := flags(t, keptOut); now != outFlags {
				t.Errorf("flags of the output were %o and are %o", outFlags, now)
			}
			// Nobody but this test has the output's writing end any more.
			keptOut.Close()
			s.conn.Close()
			if n, err := drain.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("after the end: read %d, %v, want EOF", n, err)
			}
		})
	}
}

// Files keep the offset that others share, and O_APPEND is the kernel's business.
func TestFiles(t *testing.T) {
	w := newWorld(t, cat)
	path := filepath.Join(t.TempDir(), "in")
	data := noise(1<<20+17, 2)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(path string, flags int) *os.File {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f := rawFile(fd)
		t.Cleanup(func() { f.Close() })
		return f
	}
	in := open(path, unix.O_RDONLY)
	keptIn := dup(t, in)
	if _, err := keptIn.Seek(1000, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	out := open(filepath.Join(t.TempDir(), "out"), unix.O_RDWR|unix.O_CREAT|unix.O_APPEND)
	keptOut := dup(t, out)
	keptOut.WriteString("before ")
	s := w.start(wire.Run{Argv: []string{"cat"}, Table: inOut(wire.KindFile, wire.KindFile)}, in, out)
	s.expectExit()
	if at, err := keptIn.Seek(0, io.SeekCurrent); err != nil || at != int64(len(data)) {
		t.Errorf("the input's offset is %d, %v, want %d", at, err, len(data))
	}
	keptOut.WriteString(" after")
	got := make([]byte, len(data)+100)
	n, _ := keptOut.ReadAt(got, 0)
	if want := "before " + string(data[1000:]) + " after"; string(got[:n]) != want {
		t.Errorf("the output has %d bytes, want %d: the same are %v", n, len(want), string(got[:n]) == want)
	}
}

// A socket is one descriptor for both directions, and each ends by itself.
func TestHalfClose(t *testing.T) {
	table := []wire.Descriptor{{Number: 0, Kind: wire.KindSocket, Access: wire.AccessRead | wire.AccessWrite},
		{Number: 1, Kind: wire.KindSocket, Access: wire.AccessRead | wire.AccessWrite, SameAs: 1}}
	t.Run("host first", func(t *testing.T) {
		w := newWorld(t, func(s *guestSession) {
			s.started()
			c := s.stream(0)
			b, _ := io.ReadAll(c)
			c.Write([]byte("got " + string(b)))
			s.exit(wire.Exit{Counts: []wire.Count{{Number: 0, Bytes: uint64(4 + len(b))}}})
			s.end()
		})
		theirs, ours := socketEnds(0)(t, true)
		s := w.start(wire.Run{Argv: []string{"x"}, Table: table}, theirs)
		ours.WriteString("question")
		if err := unix.Shutdown(number(t, ours), unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 12)
		if _, err := io.ReadFull(ours, b); err != nil || string(b) != "got question" {
			t.Errorf("%q, %v", b, err)
		}
		s.expectExit()
	})
	t.Run("guest first", func(t *testing.T) {
		got := make(chan string, 1)
		w := newWorld(t, func(s *guestSession) {
			s.started()
			c := s.stream(0)
			c.Write([]byte("hello"))
			c.CloseWrite()
			b, _ := io.ReadAll(c)
			got <- string(b)
			s.exit(wire.Exit{})
			s.end()
		})
		theirs, ours := socketEnds(0)(t, true)
		kept := dup(t, theirs)
		s := w.start(wire.Run{Argv: []string{"x"}, Table: table}, theirs)
		// The end of file comes though others hold the socket too: the guest shut it
		// down, which is the socket's.
		b, err := io.ReadAll(ours)
		if err != nil || string(b) != "hello" {
			t.Errorf("%q, %v", b, err)
		}
		ours.WriteString("answer")
		unix.Shutdown(number(t, ours), unix.SHUT_WR)
		if b := <-got; b != "answer" {
			t.Errorf("the guest got %q", b)
		}
		s.expectExit()
		kept.Close()
	})
	t.Run("guest closes", func(t *testing.T) {
		w := newWorld(t, func(s *guestSession) {
			s.started()
			c := s.stream(0)
			c.Write([]byte("hello"))
			c.do(func() { c.noMoreReads(); c.writeClosed = true })
			s.exit(wire.Exit{Counts: []wire.Count{{Number: 0, Bytes: 5}}})
			s.end()
		})
		theirs, ours := socketEnds(0)(t, true)
		kept := dup(t, theirs)
		s := w.start(wire.Run{Argv: []string{"x"}, Table: table}, theirs)
		s.expectExit()
		s.conn.Close()
		soon(t, "the session is over", func() bool { return len(w.server.Sessions()) == 0 })
		// Other holders of the socket use it as if nothing had been.
		kept.WriteString(" world")
		b := make([]byte, 11)
		if _, err := io.ReadFull(ours, b); err != nil || string(b) != "hello world" {
			t.Errorf("%q, %v", b, err)
		}
		ours.WriteString("x")
		if n, err := kept.Read(b); n != 1 || err != nil {
			t.Errorf("another holder reads %d, %v", n, err)
		}
	})
}

// `yes | head -1`: the end of the reader is found by the writer, on whichever side
// either is, and before the shim leaves.
func TestReaderEnds(t *testing.T) {
	t.Run("guest writes", func(t *testing.T) {
		failed := make(chan error, 1)
		w := newWorld(t, func(s *guestSession) {
			s.started()
			out := s.stream(1)
			n := 0
			for {
				k, err := out.Write([]byte("yes\n"))
				if n += k; err != nil {
					failed <- err
					break
				}
			}
			s.exit(wire.Exit{Signal: 13, Counts: []wire.Count{{Number: 1, Bytes: uint64(n)}}})
			s.end()
		})
		in, _ := pipe(t)
		r, out := pipe(t)
		s := w.start(wire.Run{Argv: []string{"yes"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out)
		b := make([]byte, 4)
		if _, err := io.ReadFull(r, b); err != nil || string(b) != "yes\n" {
			t.Fatalf("%q, %v", b, err)
		}
		r.Close()
		if err := <-failed; err != syscall.EPIPE {
			t.Errorf("the guest's write: %v, want EPIPE", err)
		}
		if e := s.expectExit(); e.Signal != 13 {
			t.Errorf("exit %+v", e)
		}
	})
	t.Run("guest is silent", func(t *testing.T) {
		// guest-tail -f log | head -1: no write finds out.
		w := newWorld(t, func(s *guestSession) {
			s.started()
			out := s.stream(1)
			out.Write([]byte("line\n"))
			<-out.PeerReadClosed()
			s.exit(wire.Exit{Code: 7, Counts: []wire.Count{{Number: 1, Bytes: 5}}})
			s.end()
		})
		in, _ := pipe(t)
		r, out := pipe(t)
		s := w.start(wire.Run{Argv: []string{"tail"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out)
		io.ReadFull(r, make([]byte, 5))
		r.Close()
		if e := s.expectExit(); e.Code != 7 {
			t.Errorf("exit %+v", e)
		}
	})
	for _, early := range []bool{false, true} {
		t.Run(fmt.Sprintf("guest reads, tells early %v", early), func(t *testing.T) {
			w := newWorld(t, func(s *guestSession) {
				s.started()
				in := s.stream(0)
				in.Read(make([]byte, 10))
				if early {
					in.CloseRead()
				}
				s.exit(wire.Exit{Unread: []uint32{0}})
				s.end()
			})
			in, feed := pipe(t)
			_, out := pipe(t)
			s := w.start(wire.Run{Argv: []string{"head"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out)
			written := make(chan error, 1)
			go func() {
				for {
					if _, err := feed.Write([]byte("yes\n")); err != nil {
						written <- err
						return
					}
				}
			}()
			s.expectExit()
			// The shim leaves now; if the pipe had a reader still, the writer would
			// hang for good.
			if _, err := feed.Write([]byte("x")); err == nil {
				t.Error("the input can be written after the exit")
			}
			select {
			case <-written:
			case <-time.After(patience):
				t.Fatal("the writer hangs")
			}
		})
	}
}

// Exit is told when as many bytes as it counts are written, not before; what comes
// later flows on.
func TestExitCounts(t *testing.T) {
	release, late := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(s *guestSession) {
		s.started()
		out, errs := s.stream(1), s.stream(2)
		out.Write(bytes.Repeat([]byte("a"), 1000))
		s.exit(wire.Exit{Code: 3, Counts: []wire.Count{{Number: 1, Bytes: 3000}, {Number: 2, Bytes: 5}}})
		<-release
		out.Write(bytes.Repeat([]byte("b"), 2000))
		errs.Write([]byte("12345"))
		<-late
		out.Write([]byte("of a background process"))
		out.Close()
		errs.Close()
		s.end()
	})
	r, out := pipe(t)
	re, errs := pipe(t)
	table := []wire.Descriptor{{Number: 0, Kind: wire.KindClosed}, {Number: 1, Kind: wire.KindPipe, Access: wire.AccessWrite},
		{Number: 2, Kind: wire.KindPipe, Access: wire.AccessWrite}}
	s := w.start(wire.Run{Argv: []string{"x"}, Table: table}, out, errs)
	s.expect(wire.TypeStarted)
	soon(t, "the first bytes", func() bool { n, _ := unix.IoctlGetInt(number(t, r), unix.TIOCINQ); return n == 1000 })
	s.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := s.conn.Read(make([]byte, 1)); n != 0 {
		t.Errorf("the shim is told something before the bytes are there: %v", err)
	}
	close(release)
	if e := s.expectExit(); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	n1, _ := unix.IoctlGetInt(number(t, r), unix.TIOCINQ)
	n2, _ := unix.IoctlGetInt(number(t, re), unix.TIOCINQ)
	if n1 != 3000 || n2 != 5 {
		t.Errorf("at the exit %d and %d bytes are written, want 3000 and 5", n1, n2)
	}
	s.conn.Close()
	st := w.server.Sessions()
	if len(st) != 1 || !st[0].Ended || st[0].PID != 42 {
		t.Errorf("sessions: %+v", st)
	}
	close(late)
	b, err := io.ReadAll(r)
	if want := 3000 + len("of a background process"); err != nil || len(b) != want {
		t.Errorf("read %d bytes, %v, want %d", len(b), err, want)
	}
	soon(t, "the session is over", func() bool { return len(w.server.Sessions()) == 0 })
}

// A full disk is told to the user, for the guest sees a closed pipe only.
func TestWriteFails(t *testing.T) {
	failed := make(chan error, 1)
	w := newWorld(t, func(s *guestSession) {
		s.started()
		out := s.stream(1)
		var err error
		for err == nil {
			_, err = out.Write(make([]byte, 1000))
		}
		failed <- err
		s.exit(wire.Exit{Code: 1, Counts: []wire.Count{{Number: 1, Bytes: 1 << 40}}})
		s.end()
	})
	in, _ := pipe(t)
	fd, err := unix.Open("/dev/full", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := w.start(wire.Run{Argv: []string{"x"}, Table: inOut(wire.KindPipe, wire.KindOther)}, in, rawFile(fd))
	s.expect(wire.TypeStarted)
	var e wire.Error
	if err := e.Parse(s.expect(wire.TypeNotice)); err != nil || e.Error() != "write to standard output: no space left on device" {
		t.Errorf("notice %q, %v", e.Error(), err)
	}
	if err := <-failed; err != syscall.EPIPE {
		t.Errorf("the guest's write: %v", err)
	}
	if e := s.expectExit(); e.Code != 1 {
		t.Errorf("exit %+v", e)
	}
}
