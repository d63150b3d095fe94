package agent

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/guestinit/root"
	"github.com/stilehq/stile/guestinit/sock"
	"github.com/stilehq/stile/guestinit/spawn"
	"github.com/stilehq/stile/interop/wire"
)

// Packet mode with the kernel patch of stile's (kernel/patches): the pty's input
// is processed externally, by the host's terminal, and the master is told when a
// process wants input.
const (
	pktModeWant = 2          // TIOCPKT's third value
	pktWant     = 0x80       // TIOCPKT_WANT
	pktIoctl    = 0x40       // TIOCPKT_IOCTL: somebody has set the modes
	getWant     = 0x8004547A // TIOCGWANT: how many bytes; 0: it polls
)

// struct termios2, as in asm-generic/termbits.h.
const (
	termiosSize  = 44
	termiosFlags = 36 // what the kernel leaves as it was set
	offOutput    = 4
	offLocal     = 12
	offChars     = 17
	flagOPOST    = 1
	flagICANON   = 2
	charEOF      = 4
)

// outputLimit is how much output waits here for a host that does not take it.
const outputLimit = 64 << 10

// A terminal is the pty of a session. Input is given to it only when a process
// wants it; its output and each change of its modes go to the host in order.
type terminal struct {
	s      *session
	slave  int // until the command has been started, then -1
	master *os.File
	raw    syscall.RawConn
	group  int // the command's process group, numbered as in the distro

	arrived chan struct{} // closed when the stream has come

	mu         sync.Mutex
	changed    sync.Cond // of what follows
	stream     *sock.Conn
	output     []byte // read, not yet sent
	count      uint64 // bytes read from the master
	broken     bool   // no more output is taken, or there is no more
	modes      [termiosSize]byte
	foreground bool
	saved      int // foreground group while the shim is in the background, numbered as here

	reader    bool // a process has asked for input since some was given
	asked     bool // the host has been told
	askedFor  uint32
	input     []byte // from the host, not yet given
	inputDone bool
}

// newTerminal makes a pty in the state of the caller's terminal.
func newTerminal(s *session, u spawn.User) (t *terminal, err error) {
	fd, err := unix.Open(root.Dir+"/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a pty: %w", err)
	}
	t = &terminal{s: s, slave: -1, master: os.NewFile(uintptr(fd), "pty"), foreground: s.run.Terminal.Foreground}
	t.arrived = make(chan struct{})
	t.changed.L = &t.mu
	defer func() {
		if err != nil {
			t.close()
			t.closeSlave()
		}
	}()
	if t.raw, err = t.master.SyscallConn(); err != nil {
		return nil, err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock a pty: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCPKT, pktModeWant); err != nil {
		return nil, fmt.Errorf("set a pty's packet mode: %w", err)
	}
	t.setModes(s.run.Terminal.Termios)
	t.resize(s.run.Terminal.Size)
	slave, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return nil, fmt.Errorf("open a pty's slave: %w", e)
	}
	t.slave = int(slave)
	unix.Fchown(t.slave, int(u.UID), -1)
	return t, nil
}

func (t *terminal) closeSlave() {
	if t.slave >= 0 {
		unix.Close(t.slave)
		t.slave = -1
	}
}

// close hangs the terminal up.
func (t *terminal) close() {
	t.mu.Lock()
	first := !t.broken
	t.broken = true
	t.changed.Broadcast()
	t.mu.Unlock()
	if first {
		t.master.Close()
	}
}

// ioctl is one with a pointer, on the master.
func (t *terminal) ioctl(req uint, p unsafe.Pointer) (err error) {
	cerr := t.raw.Control(func(fd uintptr) {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(req), uintptr(p)); e != 0 {
			err = e
		}
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// setModes sets the pty's modes, of which the host is not told again.
func (t *terminal) setModes(b []byte) {
	if len(b) != termiosSize {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m := [termiosSize]byte(b)
	t.ioctl(unix.TCSETS2, unsafe.Pointer(&m))
	t.ioctl(unix.TCGETS2, unsafe.Pointer(&t.modes)) // what it made of them
}

func (t *terminal) resize(w wire.WinSize) {
	v := unix.Winsize{Row: w.Rows, Col: w.Cols, Xpixel: w.X, Ypixel: w.Y}
	t.ioctl(unix.TIOCSWINSZ, unsafe.Pointer(&v))
}

func (t *terminal) canonical() bool { return t.modes[offLocal]&flagICANON != 0 }

// attach gives the terminal its stream.
func (t *terminal) attach(c *sock.Conn) {
	t.mu.Lock()
	first := t.stream == nil
	if first {
		t.stream = c
	}
	t.mu.Unlock()
	if !first {
		c.Close()
		return
	}
	close(t.arrived)
	go t.send(c)
	go t.receive(c)
}

// awaitStream waits for the stream, which may come after the command's end.
func (t *terminal) awaitStream() {
	select {
	case <-t.arrived:
		return
	case <-t.s.hostEnd:
	}
	select {
	case <-t.arrived:
	case <-time.After(helloLimit):
	}
}

// pump reads the master until it is closed.
func (t *terminal) pump() {
	for {
		t.mu.Lock()
		for len(t.output) >= outputLimit && !t.broken {
			t.changed.Wait()
		}
		broken := t.broken
		t.mu.Unlock()
		if broken {
			return
		}
		err := t.raw.Read(func(uintptr) bool {
			t.mu.Lock()
			defer t.mu.Unlock()
			return t.take()
		})
		if err != nil {
			return
		}
	}
}

// take reads one packet and reports whether there was one. EIO means that no
// process has the slave open; one of the session may open it again. The caller
// holds mu.
func (t *terminal) take() bool {
	var buf [4096]byte
	n := -1
	t.raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf[:]) })
	if n <= 0 {
		return false
	}
	if buf[0] == unix.TIOCPKT_DATA {
		t.output = append(t.output, buf[1:n]...)
		t.count += uint64(n - 1)
		t.changed.Broadcast()
		return true
	}
	if buf[0]&pktIoctl != 0 {
		t.modesChanged()
	}
	if buf[0]&pktWant != 0 {
		t.wanted()
	}
	return true
}

// drain reads what the master has. The caller holds mu.
func (t *terminal) drain() {
	for i := 0; i < 2*outputLimit/64 && t.take(); i++ {
	}
}

// drained is how many bytes the session's processes have written so far.
func (t *terminal) drained() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drain()
	return t.count
}

// modesChanged tells the host of the modes that somebody has set. The packet has
// overtaken the output that is still in the pty. Where output processing went
// off, what comes next may be raw, so the host's must be off before it; where it
// came on, what is left may be raw still.
func (t *terminal) modesChanged() {
	var now [termiosSize]byte
	if t.ioctl(unix.TCGETS2, unsafe.Pointer(&now)) != nil || bytes.Equal(now[:termiosFlags], t.modes[:termiosFlags]) {
		return
	}
	on := now[offOutput]&flagOPOST != 0 && t.modes[offOutput]&flagOPOST == 0
	t.modes = now
	if on {
		t.drain()
	}
	m := wire.Termios{Termios: now[:], After: t.count}
	t.s.send(wire.TypeSetTermios, m.Append(nil))
}

// wanted notes that a process waits for input, and asks the host for some. The
// caller holds mu.
func (t *terminal) wanted() {
	t.reader = true
	if len(t.input) > 0 {
		t.give()
		return
	}
	if t.inputDone {
		t.giveEnd()
		return
	}
	var n uint32
	if t.ioctl(getWant, unsafe.Pointer(&n)) != nil || t.asked && t.askedFor == n {
		return
	}
	t.asked, t.askedFor = true, n
	t.s.send(wire.TypeWant, (&wire.Want{Bytes: n}).Append(nil))
}

// receive takes the input that the host sends: what one read of its terminal
// returned at a time, since it reads only when it is asked.
func (t *terminal) receive(c *sock.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		t.mu.Lock()
		if n > 0 {
			t.asked = false
			t.input = append(t.input, buf[:n]...)
			if t.reader || !t.canonical() {
				t.give()
			}
		}
		if err != nil {
			t.inputDone = true
			if t.reader && len(t.input) == 0 {
				t.giveEnd()
			}
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
	}
}

// give writes the input to the pty. In canonical mode a read returns all that is
// there, so the next line must wait until a process has asked again.
func (t *terminal) give() {
	n := len(t.input)
	if t.canonical() {
		if i := bytes.IndexByte(t.input, '\n'); i >= 0 {
			n = i + 1
		}
	}
	wrote := 0
	t.raw.Control(func(fd uintptr) { wrote, _ = unix.Write(int(fd), t.input[:n]) })
	if wrote > 0 {
		t.input = t.input[wrote:]
		t.reader = false
	}
}

// giveEnd tells a reader that there is no more input: by the character that
// stands for it, or as a terminal does that is hung up.
func (t *terminal) giveEnd() {
	t.reader = false
	if t.canonical() {
		t.raw.Control(func(fd uintptr) { unix.Write(int(fd), []byte{t.modes[offChars+charEOF]}) })
		return
	}
	t.kill(unix.SIGHUP)
}

// send writes the output to the stream. A host that takes no more has lost its
// terminal, and so have the session's processes.
func (t *terminal) send(c *sock.Conn) {
	defer c.Close()
	for {
		t.mu.Lock()
		for len(t.output) == 0 && !t.broken {
			t.changed.Wait()
		}
		b, broken := t.output, t.broken
		t.output = nil
		t.changed.Broadcast()
		t.mu.Unlock()
		if len(b) > 0 {
			if _, err := c.Write(b); err != nil {
				t.close()
				return
			}
		} else if broken {
			return
		}
	}
}

// signal does what the host's terminal did: the signal is for the foreground group.
// The shim's was in the foreground when a key made the signal, whatever the shell
// has done by the time that the shim looked: the other members of a pipeline may
// have died of it.
func (t *terminal) signal(sig unix.Signal, foreground bool) {
	switch sig {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP:
		t.mirror(true)
		t.raw.Control(func(fd uintptr) { unix.IoctlSetInt(int(fd), unix.TIOCSIG, int(sig)) })
		t.mirror(foreground)
	default:
		t.mirror(foreground)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.kill(sig)
	}
}

// kill signals the foreground group.
func (t *terminal) kill(sig unix.Signal) {
	if group := t.foregroundGroup(); group > 1 {
		unix.Kill(-group, sig)
	}
}

// foregroundGroup is numbered as guestinit sees it; 0: none.
func (t *terminal) foregroundGroup() int {
	var group int32
	if t.ioctl(unix.TIOCGPGRP, unsafe.Pointer(&group)) != nil {
		return 0
	}
	return int(group)
}

// resume has the command go on after the shim was stopped. The modes are what
// the shell has made of them meanwhile.
func (t *terminal) resume(state *wire.Terminal) {
	t.setModes(state.Termios)
	t.resize(state.Size)
	t.mirror(state.Foreground)
	t.s.process.SignalGroup(unix.SIGCONT)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kill(unix.SIGCONT)
	// The shim may have dropped what it was asked for.
	t.asked = false
}

// mirror makes the guest's foreground group follow the shim's: while that is in
// the background the sitter's own group has the terminal, so that the guest's
// kernel stops readers, and writers where tostop is set.
func (t *terminal) mirror(foreground bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if foreground == t.foreground {
		return
	}
	t.foreground = foreground
	sitter := t.s.process.Sitter()
	if !foreground {
		t.saved = t.foregroundGroup()
		t.s.process.Background()
	} else {
		group := t.group
		if t.saved > 0 {
			if g := groupInside(t.saved); g > 0 {
				group = g
			}
		}
		t.s.process.Foreground(group)
	}
	// The sitter does it, when it is scheduled; what comes next relies on it.
	for end := time.Now().Add(mirrorLimit); (t.foregroundGroup() == sitter) == foreground && time.Now().Before(end); {
		time.Sleep(100 * time.Microsecond)
	}
}

// mirrorLimit bounds the wait for a sitter: one that has ended does nothing more.
const mirrorLimit = 5 * time.Second
