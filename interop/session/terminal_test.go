package session

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// newPTY makes a terminal and returns both of its ends.
func newPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("the host has no pseudoterminals: %v", err)
	}
	master = rawFile(fd)
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if fd, err = unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	slave = rawFile(fd)
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// modesOf gets or sets the modes of a terminal: struct termios2.
func modesOf(t *testing.T, f *os.File, set []byte) []byte {
	t.Helper()
	b, request := make([]byte, termiosSize), uintptr(unix.TCGETS2)
	if set != nil {
		b, request = set, unix.TCSETS2
	}
	// unsafe: the kernel reads or writes termiosSize bytes there.
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(number(t, f)), request, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		t.Fatal(e)
	}
	return b
}

func raw(modes []byte) []byte {
	b := bytes.Clone(modes)
	b[12] &^= unix.ICANON | unix.ECHO // c_lflag
	return b
}

// onTerminal starts a command that has nothing but the terminal.
func (w *world) onTerminal(slave *os.File) *testShim {
	both := wire.AccessRead | wire.AccessWrite
	return w.start(wire.Run{Argv: []string{"x"}, Terminal: &wire.Terminal{Termios: modesOf(w.t, slave, nil)},
		Table: []wire.Descriptor{{Number: 0, Kind: wire.KindTerminal, Access: both}, {Number: 1, Kind: wire.KindTerminal, Access: both, SameAs: 1}}}, slave)
}

// The guest's pty is the shim's to show as long as the command runs, in order with
// changes of the modes, and the machine's then.
func TestTerminalStream(t *testing.T) {
	late := make(chan struct{})
	w := newWorld(t, func(s *guestSession) {
		s.started()
		c := s.stream(wire.TerminalStream)
		s.send(wire.TypeSetTermios, (&wire.Termios{Termios: make([]byte, termiosSize), After: 5}).Append(nil))
		s.send(wire.TypeStopped, (&wire.Stopped{Signal: 20, After: 10}).Append(nil))
		s.send(wire.TypeWant, (&wire.Want{Bytes: 9}).Append(nil))
		c.Write([]byte("one\r\n"))
		c.Write([]byte("two\r\n"))
		keys, _ := io.ReadAll(c)
		c.Write(append([]byte("got "), keys...))
		s.exit(wire.Exit{Code: 1, Counts: []wire.Count{{Number: wire.TerminalStream, Bytes: uint64(14 + len(keys))}}})
		<-late
		c.Write([]byte("late\r\n"))
		c.Close()
		s.end()
	})
	master, slave := newPTY(t)
	s := w.onTerminal(slave)
	s.expect(wire.TypeStarted)
	var shown []byte
	seen := map[wire.Type]int{} // at which byte each message came
	for seen[wire.TypeWant] == 0 {
		typ, payload, err := s.next()
		if err != nil {
			t.Fatal(err)
		}
		if typ == wire.TypeOutput {
			shown = append(shown, payload...)
		} else {
			seen[typ] = len(shown)
		}
	}
	if seen[wire.TypeSetTermios] < 5 || seen[wire.TypeStopped] < 10 || string(shown) != "one\r\ntwo\r\n" {
		t.Errorf("%q is shown; modes and stop came at %v", shown, seen)
	}
	s.send(wire.TypeInput, []byte("ke"))
	s.send(wire.TypeInput, []byte("ys"))
	s.send(wire.TypeInputEnd, nil)
	shown = nil
	for {
		typ, payload, err := s.next()
		if err != nil {
			t.Fatal(err)
		}
		if typ == wire.TypeExit {
			break
		}
		shown = append(shown, payload...)
	}
	if string(shown) != "got keys" {
		t.Errorf("before the exit %q is shown", shown)
	}
	s.conn.Close()
	close(late)
	b := make([]byte, 6)
	if _, err := io.ReadFull(master, b); err != nil || string(b) != "late\r\n" {
		t.Errorf("after the shim has left the terminal shows %q, %v", b, err)
	}
}

// A shim that was killed leaves the terminal in the guest's modes: the machine gives
// it its own back, unless somebody else has set others.
func TestTerminalRestored(t *testing.T) {
	for _, others := range []bool{false, true} {
		w := newWorld(t, func(s *guestSession) {
			s.started()
			s.stream(wire.TerminalStream)
			s.send(wire.TypeSetTermios, (&wire.Termios{Termios: raw(s.run.Terminal.Termios)}).Append(nil))
			s.end()
		})
		_, slave := newPTY(t)
		kept := dup(t, slave)
		initial := modesOf(t, kept, nil)
		s := w.onTerminal(slave)
		s.expect(wire.TypeStarted)
		var m wire.Termios
		if err := m.Parse(s.expect(wire.TypeSetTermios)); err != nil {
			t.Fatal(err)
		}
		modesOf(t, kept, m.Termios)
		want := initial
		if others {
			want = bytes.Clone(initial)
			want[12] ^= unix.NOFLSH
			modesOf(t, kept, want)
		}
		s.conn.Close()
		soon(t, "no session", func() bool { return len(w.server.Sessions()) == 0 })
		if now := modesOf(t, kept, nil); !bytes.Equal(now[:flagsSize], want[:flagsSize]) {
			t.Errorf("set by others %v: the modes are %x, want %x", others, now[:flagsSize], want[:flagsSize])
		}
		w.close()
	}
}

// A guest that does not take what is typed ends its session in words, and holds up
// nobody.
func TestTerminalInputIsNotTaken(t *testing.T) {
	w := newWorld(t, func(s *guestSession) {
		s.started()
		s.stream(wire.TerminalStream)
		s.end()
	})
	_, slave := newPTY(t)
	s := w.onTerminal(slave)
	s.expect(wire.TypeStarted)
	go func() {
		for range 64 {
			if _, err := s.conn.Write(wire.AppendMessage(nil, wire.TypeInput, make([]byte, 64<<10))); err != nil {
				return
			}
		}
	}()
	if words := s.lastWords(); words != "distro d: guest: "+errOutbox.Error() {
		t.Errorf("the shim is told %q", words)
	}
}
