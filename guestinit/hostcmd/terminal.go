package hostcmd

import (
	"errors"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// A screen is the controlling terminal.
type screen struct {
	mu    sync.Mutex
	raw   bool          // its modes are ours
	ended bool          // nothing is to be changed any more
	wake  chan struct{} // capacity 1: it may be read now
	// file is tty for reading: non-blocking, an open file of our own. It is there from
	// when this process first reads, for Go's poller asks for input as soon as it is.
	file *os.File
}

// openTerminal opens the controlling terminal, if there is one.
func (s *session) openTerminal() {
	s.tty = -1
	fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	// Which terminal /dev/tty is: the device that its descriptors have.
	for n := range 3 {
		var st unix.Stat_t
		if unix.Fstat(n, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			continue
		}
		a, err := unix.IoctlGetInt(n, unix.TIOCGSID)
		b, err2 := unix.IoctlGetInt(fd, unix.TIOCGSID)
		if err == nil && err2 == nil && a == b {
			s.ttyDevice = st.Rdev
			s.tty = fd
			break
		}
	}
	if s.tty < 0 { // none of the command's descriptors is it
		unix.Close(fd)
		return
	}
	s.modes = s.get()
	s.screen.wake = make(chan struct{}, 1)
}

func (s *session) get() []byte {
	b := make([]byte, termios2Size)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s.tty), unix.TCGETS2, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return nil
	}
	return b
}

// set sets the modes after what was written has been shown.
func (s *session) set(b []byte) {
	if len(b) == termios2Size {
		unix.Syscall(unix.SYS_IOCTL, uintptr(s.tty), unix.TCSETSW2, uintptr(unsafe.Pointer(&b[0])))
	}
}

func (s *session) size() wire.WinSize {
	w, err := unix.IoctlGetWinsize(s.tty, unix.TIOCGWINSZ)
	if err != nil {
		return wire.WinSize{}
	}
	return wire.WinSize{Rows: w.Row, Cols: w.Col, X: w.Xpixel, Y: w.Ypixel}
}

func (s *session) foreground() bool {
	if s.tty < 0 {
		return false
	}
	group, err := unix.IoctlGetInt(s.tty, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// Offsets and flags of struct termios2 (asm-generic/termbits.h).
const (
	offInput, offOutput, offControl, offLocal = 0, 4, 8, 12
	offChars                                  = 17

	flagOPOST = 1
)

// processes reports whether this terminal goes on processing output, so that the
// host's pty must not: where the command does not read it, and where its output is a
// pipe, whose reader may well print here.
func (s *session) processes() bool { return !s.stdin || !s.stdout }

// state is the terminal's, for the host's pty.
func (s *session) state() *wire.Terminal {
	t := &wire.Terminal{Termios: append([]byte(nil), s.modes...), Size: s.size(), Foreground: s.foreground()}
	if s.processes() && len(t.Termios) == termios2Size {
		t.Termios[offOutput] &^= flagOPOST
	}
	return t
}

// rawModes are those of a terminal that only passes bytes on, as cfmakeraw(3) has
// them: the host's pty does the rest, but for output where this one does that.
func rawModes(b []byte, processes bool) []byte {
	r := append([]byte(nil), b...)
	clear := func(off int, bits uint32) {
		for i := range 4 {
			r[off+i] &^= byte(bits >> (8 * i))
		}
	}
	clear(offInput, unix.IGNBRK|unix.BRKINT|unix.PARMRK|unix.ISTRIP|unix.INLCR|unix.IGNCR|unix.ICRNL|unix.IXON)
	if !processes {
		clear(offOutput, flagOPOST)
	}
	clear(offLocal, unix.ECHO|unix.ECHONL|unix.ICANON|unix.ISIG|unix.IEXTEN)
	clear(offControl, unix.CSIZE|unix.PARENB)
	r[offControl] |= unix.CS8
	r[offChars+unix.VMIN], r[offChars+unix.VTIME] = 1, 0
	return r
}

// startTerminal begins to show what the command writes, and to read what is typed.
func (s *session) startTerminal() {
	if !s.stdin {
		go s.show()
		return
	}
	s.enter()
	go s.show() // in raw modes, as the host's pty has done the rest
	go s.read()
	go s.watch()
}

// enter makes the terminal raw, if it is this process's to read.
func (s *session) enter() bool {
	t := &s.screen
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended || t.raw || !s.stdin || s.modes == nil || !s.foreground() {
		return t.raw
	}
	if t.file == nil {
		fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return false
		}
		t.file = os.NewFile(uintptr(fd), "/dev/tty")
	}
	s.set(rawModes(s.modes, s.processes()))
	t.raw = true
	t.file.SetReadDeadline(time.Time{})
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return true
}

// leave gives the terminal its modes back. With end it is for good.
func (s *session) leave(end bool) {
	t := &s.screen
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.raw && s.foreground() {
		s.set(s.modes)
	}
	t.raw = false
	if t.file != nil {
		t.file.SetReadDeadline(time.Unix(1, 0)) // what is typed now is not ours to read
	}
	t.ended = t.ended || end
}

// restore gives the terminal its modes back, as this process ends.
func (s *session) restore() {
	if s.tty >= 0 {
		s.leave(true)
	}
}

// suspend is restore for a process that stops.
func (s *session) suspend() {
	if s.tty >= 0 {
		s.leave(false)
	}
}

// resume has the command go on. Where the terminal was the shell's meanwhile, its
// modes are the host's pty's from now on: the shell has chosen them for this job, and
// before that may have had its own, if this one was started in the background.
func (s *session) resume() {
	m := wire.Resume{}
	if s.tty >= 0 {
		ours := s.isRaw()
		if b := s.get(); !ours && b != nil && s.foreground() {
			s.modes = b
		}
		s.enter()
		m.Terminal = s.state()
		if ours || !m.Terminal.Foreground {
			m.Terminal.Termios = nil
		}
	}
	s.send(wire.TypeResume, m.Append(nil))
}

func (s *session) isRaw() bool {
	s.screen.mu.Lock()
	defer s.screen.mu.Unlock()
	return s.screen.raw
}

// backgroundLook is how often a process in the background looks whether it still is:
// a shell that puts a running job into the foreground tells nobody.
const backgroundLook = 200 * time.Millisecond

// watch notices that this process has come into the foreground.
func (s *session) watch() {
	for range time.Tick(backgroundLook) {
		t := &s.screen
		t.mu.Lock()
		raw, ended := t.raw, t.ended
		t.mu.Unlock()
		if ended {
			return
		}
		if !raw && s.foreground() {
			s.resume()
		}
	}
}

// read sends what is typed, while the terminal is this process's.
func (s *session) read() {
	buf := make([]byte, 4096)
	for range s.screen.wake {
		for {
			n, err := s.screen.file.Read(buf)
			if n > 0 {
				if _, err := s.terminal.stream.Write(buf[:n]); err != nil {
					return
				}
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return // hung up: the kernel sends SIGHUP
			}
		}
	}
}

// show writes what the command writes to its terminal.
func (s *session) show() {
	e := s.terminal
	defer e.progress.finish()
	buf := make([]byte, 64<<10)
	for {
		n, err := e.stream.Read(buf)
		if n > 0 {
			s.display(buf[:n])
			e.progress.add(n)
		}
		if err != nil {
			return
		}
	}
}

// display writes to the terminal. What one that is gone does not take is lost.
func (s *session) display(b []byte) {
	for len(b) > 0 {
		n, err := unix.Write(s.tty, b)
		if err != nil && err != unix.EINTR {
			return
		}
		b = b[max(n, 0):]
	}
}
