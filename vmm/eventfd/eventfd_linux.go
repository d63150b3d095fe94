// Package eventfd wraps eventfd(2), the wire of every kick (driver to device)
// and call (device to driver): cheap to signal, waited for by Go's poller, and
// known to KVM (ioeventfd, irqfd) and to vhost-user alike.
package eventfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInterrupted is what Wait returns after Interrupt.
var ErrInterrupted = errors.New("wait for event interrupted")

// An EventFD is one event counter. All methods may be called concurrently.
type EventFD struct {
	file *os.File
	conn syscall.RawConn
	add  func(fd uintptr)      // adds one; made once, so that Signal allocates nothing
	err  atomic.Pointer[error] // the last failure of add

	await       func(fd uintptr) // take; made once
	polled      [1]unix.PollFd   // of take
	counter     [8]byte          // of take
	waitErr     error            // of take
	blocked     atomic.Bool      // someone is in WaitThread
	interrupted atomic.Bool
}

// New makes an event counter at zero. The caller closes it.
func New() (*EventFD, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	return FromFD(fd, "eventfd")
}

// FromFD takes over fd, an eventfd that another process made (QEMU, through
// vhost-user) and closes it with Close.
//
// fd must be non-blocking already, and FromFD never changes that: the flag
// belongs to the open file description, which QEMU shares. Were it cleared,
// QEMU's vCPU thread would block in event_notifier_test_and_clear with the big
// lock held, and QEMU would hang.
func FromFD(fd int, name string) (*EventFD, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err == nil && flags&unix.O_NONBLOCK == 0 {
		err = errors.New("descriptor is blocking")
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	e := &EventFD{file: os.NewFile(uintptr(fd), name)}
	if e.conn, err = e.file.SyscallConn(); err != nil {
		e.file.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	e.await = e.take
	e.add = func(fd uintptr) {
		if _, err := unix.Write(int(fd), one); err != nil && err != syscall.EAGAIN {
			e.err.Store(&err)
		}
	}
	return e, nil
}

// one is what Signal writes; nobody changes it.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// Wait blocks until the counter is not zero and sets it to zero. It returns
// ErrInterrupted after Interrupt, os.ErrClosed after Close.
func (e *EventFD) Wait() error {
	var b [8]byte
	_, err := e.file.Read(b[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrInterrupted
	}
	return err
}

// WaitThread is Wait with the calling thread blocked in the kernel, for what is
// waited for many thousand times a second: Go's poller looks for other work
// before each wait, and wakes another thread to do so after it, which where
// processors are few is at the cost of who the answer is for. At most one
// goroutine waits at a time.
func (e *EventFD) WaitThread() error {
	e.blocked.Store(true)
	defer e.blocked.Store(false)
	for {
		// In this order: Interrupt sets its mark and looks at ours after that.
		if e.interrupted.Load() {
			return ErrInterrupted
		}
		if err := e.conn.Control(e.await); err != nil {
			return err
		}
		switch err := e.waitErr; {
		case err == nil && e.interrupted.Load():
			// Interrupt's own signal, maybe with others: they are kept.
			return errors.Join(ErrInterrupted, e.Signal())
		case err != unix.EAGAIN && err != unix.EINTR:
			return err
		}
	}
}

// take waits until the counter is not zero and reads it, and leaves in waitErr
// what came of it.
func (e *EventFD) take(fd uintptr) {
	e.polled[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	if _, e.waitErr = unix.Poll(e.polled[:], -1); e.waitErr == nil {
		_, e.waitErr = unix.Read(int(fd), e.counter[:])
	}
}

// Signal adds one to the counter. A counter that is full stays so: the waiter
// has plenty to wake for. The error is os.ErrClosed after Close, or that of
// write(2) where the descriptor is no eventfd.
func (e *EventFD) Signal() error {
	if err := e.conn.Control(e.add); err != nil {
		return err
	}
	if err := e.err.Load(); err != nil {
		return fmt.Errorf("signal %s: %w", e.file.Name(), *err)
	}
	return nil
}

// Interrupt makes the present and each later Wait return ErrInterrupted, until
// Resume.
func (e *EventFD) Interrupt() error {
	e.interrupted.Store(true)
	if e.blocked.Load() {
		if err := e.Signal(); err != nil {
			return err
		}
	}
	return e.file.SetReadDeadline(time.Unix(1, 0))
}

// Resume ends the effect of Interrupt. Signals that came meanwhile are kept.
func (e *EventFD) Resume() error {
	e.interrupted.Store(false)
	return e.file.SetReadDeadline(time.Time{})
}

// File is the descriptor to pass on (to KVM, to another process). It stays the
// EventFD's own: the caller neither closes it nor changes its flags, and calls
// no Fd method on it, which would make it blocking.
func (e *EventFD) File() *os.File { return e.file }

// Close closes the descriptor and ends every Wait.
func (e *EventFD) Close() error { return e.file.Close() }
