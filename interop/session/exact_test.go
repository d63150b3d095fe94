package session

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/descriptor"
	"github.com/stilehq/stile/interop/wire"
)

// What the guest has not read is there for the next reader, byte for byte: what it
// says on the way back, what it says at the end, and more than it was sent.
func TestUnreadStays(t *testing.T) {
	for _, tt := range []struct {
		name      string
		told, end uint64 // on the way back, in Exit
		want      string // for the next reader
	}{
		{"nothing was read", 0, 0, "one two three"},
		{"told at the end", 0, 4, "two three"},
		{"told before", 8, 8, "three"},
		{"more than there was", 100, 1 << 60, ""},
	} {
		for _, kind := range []wire.Kind{wire.KindPipe, wire.KindFile} {
			t.Run(tt.name, func(t *testing.T) {
				w := newWorld(t, func(s *guestSession) {
					s.started()
					in := s.stream(0)
					io.ReadFull(in, make([]byte, 13))
					if tt.told > 0 {
						in.Write(binary.LittleEndian.AppendUint64(nil, tt.told))
					}
					s.exit(wire.Exit{Unread: []uint32{0}, Taken: []wire.Count{{Number: 0, Bytes: tt.end}, {Number: 1, Bytes: 7}, {Number: 99}}})
					s.end()
				})
				in, feed := pipe(t)
				feed.WriteString("one two three")
				if kind == wire.KindFile {
					path := filepath.Join(t.TempDir(), "in")
					if err := os.WriteFile(path, []byte("one two three"), 0o600); err != nil {
						t.Fatal(err)
					}
					fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
					if err != nil {
						t.Fatal(err)
					}
					in = rawFile(fd)
				}
				feed.Close()
				next := dup(t, in)
				_, out := pipe(t)
				s := w.start(wire.Run{Argv: []string{"read"}, Table: inOut(kind, wire.KindPipe)}, in, out)
				answerBarriers(s)
				if got, err := io.ReadAll(next); string(got) != tt.want || err != nil {
					t.Errorf("the next reader finds %q, %v, want %q", got, err, tt.want)
				}
			})
		}
	}
}

// Whoever says first what has been read, the stream or Exit: when the second has been
// heard it is gone from the pipe.
func TestTakenWhenSaid(t *testing.T) {
	poller, err := descriptor.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer poller.Close()
	in, feed := pipe(t)
	next := dup(t, in)
	fd, err := unix.Dup(int(in.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	d, err := poller.New(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	e := &entry{fd: d}
	for i := range uint64(20_000) {
		feed.Write([]byte{'x'})
		if n, err := d.Peek(t.Context(), make([]byte, 2), nil); n != 1 || err != nil {
			t.Fatalf("peeked %d, %v", n, err)
		}
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				e.take(i + 1)
				if left, err := unix.IoctlGetInt(int(next.Fd()), unix.TIOCINQ); left != 0 || err != nil {
					t.Errorf("%d bytes, %v are left of the %d that have been taken", left, err, i+1)
				}
			})
		}
		if both.Wait(); t.Failed() {
			return
		}
	}
}

// answerBarriers is a shim that has no signals, until the exit.
func answerBarriers(s *testShim) {
	s.t.Helper()
	for {
		typ, payload, err := s.next()
		switch {
		case err != nil:
			s.t.Fatalf("no exit: %v", err)
		case typ == wire.TypeExit:
			return
		case typ == wire.TypeBarrier:
			s.send(typ, payload)
		}
	}
}

// The end of a pipe waits for the signals that the shim had before it.
func TestEndAfterSignals(t *testing.T) {
	got := make(chan wire.Type, 10)
	w := newWorld(t, func(s *guestSession) {
		s.started()
		io.ReadAll(s.stream(0))
		for range 2 {
			typ, _, err := s.reader.Next()
			if err != nil {
				break
			}
			got <- typ
		}
		s.exit(wire.Exit{Signal: 2, Unread: []uint32{0}})
		s.end()
	})
	in, feed := pipe(t)
	_, out := pipe(t)
	s := w.start(wire.Run{Argv: []string{"cat"}, Table: inOut(wire.KindPipe, wire.KindPipe)}, in, out)
	s.expect(wire.TypeStarted)
	feed.Close()
	payload := s.expect(wire.TypeBarrier)
	if len(got) > 0 {
		t.Errorf("the guest is told type %d before the shim has answered", <-got)
	}
	s.send(wire.TypeSignal, (&wire.Signal{Number: 2, Terminal: true}).Append(nil))
	s.send(wire.TypeBarrier, payload)
	if e := s.expectExit(); e.Signal != 2 {
		t.Errorf("exit %+v", e)
	}
	if a, b := <-got, <-got; a != wire.TypeSignal || b != wire.TypeEnd {
		t.Errorf("the guest is told types %d and %d, want Signal and End", a, b)
	}
}

// A file that the guest has opened itself has no stream; where the command has left
// it is where all who share it are. What the guest may not say is not believed.
func TestFileOpenedByGuest(t *testing.T) {
	for _, tt := range []struct {
		name string
		exit wire.Exit
		want int64
	}{
		{"read on", wire.Exit{Offsets: []wire.Count{{Number: 0, Bytes: 9}, {Number: 1, Bytes: 3}, {Number: 50}}}, 9},
		{"went back", wire.Exit{Offsets: []wire.Count{{Number: 0, Bytes: 0}}}, 0},
		{"not touched", wire.Exit{Offsets: []wire.Count{{Number: 0, Bytes: 4}}}, 4},
		{"not said", wire.Exit{}, 4},
		{"no offset", wire.Exit{Offsets: []wire.Count{{Number: 0, Bytes: 1 << 63}}}, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			told := make(chan wire.File, 1)
			w := newWorld(t, func(s *guestSession) {
				if f := s.run.Table[0].File; f != nil {
					told <- *f
				}
				s.send(wire.TypeStarted, (&wire.Started{PID: 1, Opened: []uint32{0, 1, 99}}).Append(nil))
				s.exit(tt.exit)
				s.end()
			})
			path, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			path += "/in"
			if err := os.WriteFile(path, []byte("one two three"), 0o600); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			in := rawFile(fd)
			in.Seek(4, io.SeekStart)
			next := dup(t, in)
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				t.Fatal(err)
			}
			_, out := pipe(t)
			s := w.start(wire.Run{Argv: []string{"read"}, Table: inOut(wire.KindFile, wire.KindPipe)}, in, out)
			s.expectExit()
			if at, err := next.Seek(0, io.SeekCurrent); at != tt.want || err != nil {
				t.Errorf("the offset is %d, %v, want %d", at, err, tt.want)
			}
			want := wire.File{Path: path, Inode: st.Ino, Size: 13, Mtime: st.Mtim.Nano(), Offset: 4}
			if len(told) == 0 {
				t.Error("the guest was not told of the file")
			} else if got := <-told; got != want {
				t.Errorf("the guest was told %+v, want %+v", got, want)
			}
		})
	}
}
