package broker

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

// A terminal is the pty of a host command. It edits, echoes and makes signals
// itself: the guest's terminal is raw meanwhile.
type terminal struct {
	master *os.File
	raw    syscall.RawConn
	out    *output // of master
	served bool
}

// termios2Size is the size of struct termios2 (asm-generic/termbits.h).
const termios2Size = 44

// newTerminal makes a pty in the state of the guest's terminal. The caller closes
// both it and the slave.
func newTerminal(state *wire.Terminal) (t *terminal, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a pty: %w", err)
	}
	t = &terminal{master: os.NewFile(uintptr(fd), "pty")}
	defer func() {
		if err != nil {
			t.master.Close()
		}
	}()
	if t.raw, err = t.master.SyscallConn(); err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock a pty: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("open a pty's slave: %w", err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a pty's slave: %w", err)
	}
	t.setModes(state.Termios)
	t.resize(state.Size)
	return t, slave, nil
}

// setModes sets the pty's modes, if there are any. Values that make no sense are the
// pty's to bear.
func (t *terminal) setModes(b []byte) {
	if len(b) != termios2Size {
		return
	}
	m := [termios2Size]byte(b)
	t.raw.Control(func(fd uintptr) {
		unix.Syscall(unix.SYS_IOCTL, fd, unix.TCSETS2, uintptr(unsafe.Pointer(&m))) // unsafe: x/sys has no termios2
	})
}

func (t *terminal) resize(w wire.WinSize) {
	v := unix.Winsize{Row: w.Rows, Col: w.Cols, Xpixel: w.X, Ypixel: w.Y}
	t.raw.Control(func(fd uintptr) { unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &v) })
}

// serve moves bytes between the stream and the pty.
func (t *terminal) serve(conn *net.UnixConn) {
	defer conn.Close()
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if n > 0 {
				if _, err := t.master.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				t.out.unread()
				return
			}
		}
	}()
	t.out.pump(conn)
}

func (t *terminal) close() { t.out.release() }
