package main

import (
	"syscall"
	"unsafe"

	"github.com/stilehq/stile/interop/wire"
)

// modes is struct termios2.
type modes [44]byte

// Offsets in modes.
const (
	modesLocal = 12 // c_lflag
	modesChars = 17 // c_cc
)

const (
	flagICANON = 2
	charEOF    = 4
)

// terminal is the controlling terminal, open a second time and non-blocking: its
// other holders do not notice. All signals are blocked, SIGTTOU among them, so
// that writing to it and setting its modes is never refused.
type terminal struct {
	fd      int   // -1 without a controlling terminal
	initial modes // when the guest command was started or continued
	applied modes // the last that were set, or initial
	hungUp  bool
}

// open finds the controlling terminal. A process whose descriptors 0 to 2 are all
// pipes may have one too.
func (t *terminal) open() {
	fd, err := syscall.Open("/dev/tty", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		fd = -1
	}
	t.fd = fd
}

// is reports whether a character device open as fd is the controlling terminal:
// only of that does TIOCGPGRP tell the group, and of masters of pseudoterminals.
func (t *terminal) is(fd int, st *syscall.Stat_t) bool {
	var group int32
	return t.fd >= 0 && st.Rdev != devicePtmx && ioctl(fd, ioctlTIOCGPGRP, unsafe.Pointer(&group)) == nil
}

// foreground reports whether the shim's group is the terminal's foreground group.
func (t *terminal) foreground() bool {
	var group int32
	return t.fd >= 0 && ioctl(t.fd, ioctlTIOCGPGRP, unsafe.Pointer(&group)) == nil && int(group) == syscall.Getpgrp()
}

func (t *terminal) size() wire.WinSize {
	var v [4]uint16
	ioctl(t.fd, ioctlTIOCGWINSZ, unsafe.Pointer(&v))
	return wire.WinSize{Rows: v[0], Cols: v[1], X: v[2], Y: v[3]}
}

// state is the terminal's state for a request or after a stop: its modes now are
// what the shell wants.
func (t *terminal) state() *wire.Terminal {
	if t.fd < 0 {
		return nil
	}
	ioctl(t.fd, ioctlTCGETS2, unsafe.Pointer(&t.initial))
	t.applied = t.initial
	return &wire.Terminal{Termios: t.initial[:], Size: t.size(), Foreground: t.foreground()}
}

// set makes the terminal's modes those of the guest's pty. In the background the
// terminal is somebody else's.
func (t *terminal) set(termios []byte) {
	if len(termios) != len(modes{}) || !t.foreground() {
		return
	}
	m := modes(termios)
	if ioctl(t.fd, ioctlTCSETS2, unsafe.Pointer(&m)) == nil {
		ioctl(t.fd, ioctlTCGETS2, unsafe.Pointer(&t.applied)) // what it made of them
	}
}

// output is what to write so that the terminal, in the modes that it has now,
// shows b: another process of the pipeline or the shell may have set them.
func (t *terminal) output(b []byte) []byte {
	var now modes
	if ioctl(t.fd, ioctlTCGETS2, unsafe.Pointer(&now)) != nil {
		return b
	}
	return wire.TerminalOutput(now[:], b)
}

// restore undoes set where the machine was lost, unless somebody else has set
// the modes since.
func (t *terminal) restore() {
	var now modes
	if t.fd < 0 || t.applied == t.initial || ioctl(t.fd, ioctlTCGETS2, unsafe.Pointer(&now)) != nil || now != t.applied {
		return
	}
	ioctl(t.fd, ioctlTCSETS2, unsafe.Pointer(&t.initial))
}

// A reading is what a read of the terminal came to.
type reading int

const (
	readNothing    reading = iota // somebody else was faster
	readBytes                     // there are bytes
	readBackground                // it is not for this process group to read
	readHangup                    // there will be no more
)

// read reads up to len(b) bytes. An end of file that was typed comes as the
// character that stands for it, since that is what the guest's pty makes an end
// of file of.
func (t *terminal) read(b []byte) (int, reading) {
	if !t.foreground() {
		return 0, readBackground
	}
	n, err := syscall.Read(t.fd, b)
	switch {
	case err == syscall.EAGAIN || err == syscall.EINTR:
		return 0, readNothing
	case err == syscall.EIO && !t.foreground():
		return 0, readBackground
	case err != nil:
		return 0, readHangup
	case n > 0:
		return n, readBytes
	}
	var now modes
	look := []pollFD{{fd: int32(t.fd), events: pollIn}}
	poll(look, false)
	if look[0].revents&(pollHup|pollErr) != 0 || ioctl(t.fd, ioctlTCGETS2, unsafe.Pointer(&now)) != nil {
		return 0, readHangup
	}
	if now[modesLocal]&flagICANON == 0 {
		return 0, readNothing
	}
	b[0] = now[modesChars+charEOF]
	return 1, readBytes
}
