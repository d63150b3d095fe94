package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// A pty is a terminal, with the test at its keys.
type pty struct {
	t             *testing.T
	master, slave *os.File
}

func newPTY(t *testing.T) *pty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("the host has no pseudoterminals: %v", err)
	}
	p := &pty{t: t, master: master}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if p.slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.slave.Close() })
	p.resize(30, 100)
	return p
}

func (p *pty) resize(rows, cols uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pty) modes() unix.Termios {
	p.t.Helper()
	m, err := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return *m
}

func (p *pty) press(keys string) {
	p.t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// expect reads what the terminal shows, up to and with text.
func (p *pty) expect(text string) {
	p.t.Helper()
	var got []byte
	b := make([]byte, 1)
	for !bytes.HasSuffix(got, []byte(text)) {
		look := []unix.PollFd{{Fd: int32(p.master.Fd()), Events: unix.POLLIN}}
		if n, _ := unix.Poll(look, int(patience.Milliseconds())); n == 0 {
			p.t.Fatalf("the terminal shows %q, want %q", got, text)
		}
		n, err := p.master.Read(b)
		if err != nil {
			p.t.Fatalf("the terminal shows %q, then %v, want %q", got, err, text)
		}
		got = append(got, b[:n]...)
	}
	if string(got) != text {
		p.t.Errorf("the terminal shows %q, want %q", got, text)
	}
}

// git starts the link as the foreground of the terminal.
func (p *pty) git(m *machine) (*process, *request) {
	p.t.Helper()
	cmd := exec.Command(m.path("git"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.slave, p.slave, p.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	proc := m.start(cmd)
	return proc, m.accept()
}

func (r *request) want(n uint32) {
	r.t.Helper()
	r.send(wire.TypeWant, (&wire.Want{Bytes: n}).Append(nil))
}

// silent fails if the shim says something.
func (r *request) silent(why string) {
	r.t.Helper()
	r.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, _ := r.conn.Read(make([]byte, 1)); n != 0 {
		r.t.Fatalf("the shim says something %s", why)
	}
	r.conn.SetReadDeadline(deadline())
}

// raw are the modes of t without line editing, echo and signals.
func raw(t []byte) []byte {
	b := slices.Clone(t)
	const localFlags = 12
	b[localFlags] &^= unix.ISIG | unix.ICANON | unix.ECHO
	return b
}

func TestTerminal(t *testing.T) {
	m := newMachine(t)
	p := newPTY(t)
	proc, r := p.git(m)
	both := wire.AccessRead | wire.AccessWrite
	want := []wire.Descriptor{{Number: 0, Kind: wire.KindTerminal, Access: both}, {Number: 1, Kind: wire.KindTerminal, Access: both, SameAs: 1},
		{Number: 2, Kind: wire.KindTerminal, Access: both, SameAs: 1}}
	if !slices.Equal(r.run.Table, want) || len(r.files) != 1 {
		t.Errorf("table %+v, %d descriptors", r.run.Table, len(r.files))
	}
	state := r.run.Terminal
	if state == nil || len(state.Termios) != 44 || state.Size != (wire.WinSize{Rows: 30, Cols: 100}) || !state.Foreground {
		t.Fatalf("terminal %+v", state)
	}
	r.send(wire.TypeStarted, nil)

	// What the guest's pty has processed is shown as it is.
	r.send(wire.TypeOutput, []byte("one\r\ntwo\r\n"))
	p.expect("one\r\ntwo\r\n")

	// Keys stay where they are until a guest process wants them, and as many.
	before := p.modes()
	p.press("abcdef\n")
	p.expect("abcdef\r\n") // the terminal's own echo
	r.silent("before it is asked")
	r.want(1)
	if b := r.expect(wire.TypeInput); string(b) != "a" {
		t.Errorf("input %q, want one byte", b)
	}
	r.silent("before it is asked again")
	r.want(0)
	if b := r.expect(wire.TypeInput); string(b) != "bcdef\n" {
		t.Errorf("input %q", b)
	}
	r.want(100)
	p.press("\x04")
	if b := r.expect(wire.TypeInput); string(b) != "\x04" {
		t.Errorf("an end of file that was typed is %q", b)
	}

	p.resize(50, 60)
	var size wire.WinSize
	if err := size.Parse(r.expect(wire.TypeWinSize)); err != nil || size != (wire.WinSize{Rows: 50, Cols: 60}) {
		t.Errorf("size %+v, %v", size, err)
	}

	p.press("\x03")
	if s := r.expectSignal(); s != (wire.Signal{Number: 2, Terminal: true, Foreground: true}) {
		t.Errorf("^C is %+v", s)
	}
	p.expect("^C")

	r.send(wire.TypeSetTermios, (&wire.Termios{Termios: raw(state.Termios)}).Append(nil))
	soon(t, "raw modes", func() bool { return p.modes().Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0 })
	r.want(10)
	p.press("\x03x")
	var got []byte
	for len(got) < 2 {
		got = append(got, r.expect(wire.TypeInput)...)
		r.want(10)
	}
	if string(got) != "\x03x" {
		t.Errorf("raw keys %q", got)
	}

	// An ordinary end leaves the modes as the guest has set them: stty -echo is to
	// persist.
	r.exit(wire.Exit{Code: 3})
	if st := proc.wait(); st.ExitStatus() != 3 {
		t.Errorf("status %#x", int(st))
	}
	if now := p.modes(); now.Lflag == before.Lflag {
		t.Error("the modes were restored after an ordinary end")
	}
}

// Where the machine is lost the terminal gets its modes back, unless somebody else
// has set them meanwhile.
func TestTerminalIsRestored(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(r *request)
		code int
		line string
	}{
		{"machine lost", func(r *request) { r.close() }, 125, "stile: distro deb: the machine ended while the command ran\r\nstile: see: stile logs deb\r\n"},
		{"error", func(r *request) {
			e := wire.Error{Code: 126, What: "x", Why: "no"}
			r.send(wire.TypeError, e.Append(nil))
		}, 126, "stile: x: no\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			p := newPTY(t)
			before := p.modes()
			proc, r := p.git(m)
			r.send(wire.TypeStarted, nil)
			r.send(wire.TypeSetTermios, (&wire.Termios{Termios: raw(r.run.Terminal.Termios)}).Append(nil))
			soon(t, "raw modes", func() bool { return p.modes().Lflag != before.Lflag })
			tt.end(r)
			p.expect(tt.line)
			if st := proc.wait(); st.ExitStatus() != tt.code {
				t.Errorf("status %#x", int(st))
			}
			if now := p.modes(); now != before {
				t.Errorf("modes %+v, they were %+v", now, before)
			}
		})
	}
	t.Run("set by somebody else", func(t *testing.T) {
		m := newMachine(t)
		p := newPTY(t)
		before := p.modes()
		proc, r := p.git(m)
		r.send(wire.TypeStarted, nil)
		r.send(wire.TypeSetTermios, (&wire.Termios{Termios: raw(r.run.Terminal.Termios)}).Append(nil))
		soon(t, "raw modes", func() bool { return p.modes().Lflag != before.Lflag })
		theirs := before
		theirs.Lflag &^= unix.IEXTEN
		if err := unix.IoctlSetTermios(int(p.slave.Fd()), unix.TCSETS, &theirs); err != nil {
			t.Fatal(err)
		}
		r.close()
		proc.wait()
		if now := p.modes(); now.Lflag != theirs.Lflag {
			t.Errorf("local modes %#x, somebody else had set %#x", now.Lflag, theirs.Lflag)
		}
	})
}

// A hang-up is a signal to the command, and the end of its input.
func TestTerminalHangsUp(t *testing.T) {
	m := newMachine(t)
	p := newPTY(t)
	proc, r := p.git(m)
	r.send(wire.TypeStarted, nil)
	r.want(10)
	r.silent("before the terminal hangs up")
	p.slave.Close()
	p.master.Close()
	seen := map[wire.Type]bool{}
	for !seen[wire.TypeSignal] || !seen[wire.TypeInputEnd] {
		typ, payload, err := r.reader.Next()
		if err != nil {
			t.Fatalf("%v, after %v", err, seen)
		}
		seen[typ] = true
		var s wire.Signal
		if typ == wire.TypeSignal && (s.Parse(payload) != nil || s.Number != uint8(unix.SIGHUP) && s.Number != uint8(unix.SIGCONT)) {
			t.Errorf("signal %+v", s)
		}
	}
	r.exit(wire.Exit{Signal: 1})
	if st := proc.wait(); !st.Signaled() || st.Signal() != syscall.SIGHUP {
		t.Errorf("wait status %#x", int(st))
	}
}

// Terminals and other descriptors are told apart one by one, and a terminal that is
// not the shim's own is none of its.
func TestTerminalMixed(t *testing.T) {
	m := newMachine(t)
	p, other := newPTY(t), newPTY(t)
	cmd := exec.Command(m.path("git"))
	in, _ := pipe(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, p.slave, other.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	proc := m.start(cmd)
	r := m.accept()
	kinds := []wire.Kind{r.run.Table[0].Kind, r.run.Table[1].Kind, r.run.Table[2].Kind}
	if want := []wire.Kind{wire.KindPipe, wire.KindTerminal, wire.KindOther}; !slices.Equal(kinds, want) || len(r.files) != 3 {
		t.Errorf("kinds %v with %d descriptors, want %v with 3", kinds, len(r.files), want)
	}
	r.exit(wire.Exit{})
	proc.wait()
}

// Output of any size is shown whole and in order, before the shim leaves.
func TestTerminalOutput(t *testing.T) {
	m := newMachine(t)
	p := newPTY(t)
	proc, r := p.git(m)
	r.send(wire.TypeStarted, nil)
	var text strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&text, "line %d\r\n", i)
	}
	go func() {
		for s := text.String(); len(s) > 0; {
			n := min(len(s), 5000)
			r.conn.Write(wire.AppendMessage(nil, wire.TypeOutput, []byte(s[:n])))
			s = s[n:]
		}
		r.conn.Write(wire.AppendMessage(nil, wire.TypeExit, (&wire.Exit{Code: 1}).Append(nil)))
	}()
	// A CR at a piece's end has its LF in the next: the terminal's own is shown then.
	var got strings.Builder
	shown := func() string { return strings.ReplaceAll(got.String(), "\r\r\n", "\r\n") }
	buf := make([]byte, 4096)
	for !strings.HasSuffix(got.String(), "line 19999\r\n") {
		n, err := p.master.Read(buf)
		if err != nil {
			t.Fatalf("%v after %d of %d bytes", err, got.Len(), text.Len())
		}
		got.Write(buf[:n])
	}
	if shown() != text.String() {
		t.Errorf("the terminal shows %d bytes, want %d, or in another order", len(shown()), text.Len())
	}
	if st := proc.wait(); st.ExitStatus() != 1 {
		t.Errorf("status %#x", int(st))
	}
}
