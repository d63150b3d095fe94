package descriptor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by operations on a closed Descriptor.
var ErrClosed = errors.New("descriptor closed")

// A mode is how a file is read and written without waiting.
type mode int

const (
	modePipe   mode = iota // RWF_NOWAIT, or splice
	modeSocket             // MSG_DONTWAIT
	modeOwn                // an open file of our own, non-blocking
	modePoll               // a device: poll(2) says when
	modeFile               // always ready
)

// A Descriptor is a descriptor of somebody else's open file. One goroutine may
// read while another writes; any may close it.
type Descriptor struct {
	poller *Poller
	fd     int
	mode   mode
	id     uint64

	in, out chan struct{} // an event since the last look
	closed  chan struct{}

	mu     sync.Mutex
	users  int  // operations under way
	ending bool // the last of them closes fd
	gone   chan struct{}
	splice atomic.Bool // RWF_NOWAIT is not for this pipe
	peek   peeking
}

// New takes over fd, which it closes also if it fails.
func (p *Poller) New(fd int) (*Descriptor, error) {
	d := &Descriptor{poller: p, fd: fd, in: make(chan struct{}, 1), out: make(chan struct{}, 1),
		closed: make(chan struct{}), gone: make(chan struct{})}
	if err := d.open(); err != nil {
		unix.Close(d.fd)
		return nil, err
	}
	return d, nil
}

func (d *Descriptor) open() error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		d.mode = modePipe
	case unix.S_IFSOCK:
		d.mode = modeSocket
	case unix.S_IFCHR:
		d.mode = modePoll
		d.reopen(&st)
	default:
		d.mode = modeFile
	}
	err := d.poller.add(d)
	if err == unix.EPERM {
		d.mode, err = modeFile, nil
	}
	if err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	d.initPeeking(&st)
	return nil
}

// reopen puts a non-blocking open file of our own in the place of a terminal:
// neither readiness says that a read or write of it will not wait, for others read
// and write it too. The master of a pseudoterminal would be a new one, opened
// again.
func (d *Descriptor) reopen(st *unix.Stat_t) {
	flags, err := unix.FcntlInt(uintptr(d.fd), unix.F_GETFL, 0)
	if err != nil {
		return
	}
	if _, err := unix.IoctlGetTermios(d.fd, unix.TCGETS); err != nil || st.Rdev == unix.Mkdev(5, 2) {
		return
	}
	const devTTY = 5 << 8 // /dev/tty is another terminal for whoever opens it
	if st.Rdev == devTTY {
		if flags&unix.O_NONBLOCK != 0 {
			d.mode = modeOwn // the shim opened it for us
		}
		return
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(d.fd), flags&unix.O_ACCMODE|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	unix.Close(d.fd)
	d.fd, d.mode = fd, modeOwn
}

// event notes what epoll reported.
func (d *Descriptor) event(events uint32) {
	const end = unix.EPOLLERR | unix.EPOLLHUP
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|end) != 0 {
		signal(d.in)
	}
	if events&(unix.EPOLLOUT|end) != 0 {
		signal(d.out)
	}
	if events&end != 0 {
		d.mu.Lock()
		select {
		case <-d.gone:
		default:
			close(d.gone)
		}
		d.mu.Unlock()
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Gone is closed when the file's other end has gone: the last reader of a pipe
// that is written, the last writer of one that is read, a socket's peer, what was
// behind a terminal.
func (d *Descriptor) Gone() <-chan struct{} { return d.gone }

// Control calls f with the descriptor's number, which is valid until f returns:
// for ioctls that wait for nothing. It returns ErrClosed after Close.
func (d *Descriptor) Control(f func(fd int)) error {
	if !d.begin() {
		return ErrClosed
	}
	defer d.end()
	f(d.fd)
	return nil
}

// begin keeps fd open until end.
func (d *Descriptor) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ending {
		return false
	}
	d.users++
	return true
}

func (d *Descriptor) end() {
	d.mu.Lock()
	d.users--
	last := d.ending && d.users == 0
	d.mu.Unlock()
	if last {
		d.release()
	}
}

func (d *Descriptor) release() {
	d.poller.remove(d)
	unix.Close(d.fd)
}

// Close closes the descriptor; operations under way end with ErrClosed. It does
// not wait for one that a slow disk holds up.
func (d *Descriptor) Close() error {
	d.mu.Lock()
	if d.ending {
		d.mu.Unlock()
		return ErrClosed
	}
	d.ending = true
	close(d.closed)
	last := d.users == 0
	d.mu.Unlock()
	if last {
		d.release()
	}
	return nil
}

// Read reads what is there, and waits for something if there is nothing. It
// returns io.EOF at the end, and otherwise the unix.Errno of read(2), ErrClosed or
// the context's error. Nothing is taken from the file unless it is returned.
func (d *Descriptor) Read(ctx context.Context, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, err := d.attempt(ctx, d.read, b)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			if err := d.wait(ctx, d.in); err != nil {
				return 0, err
			}
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// Write writes all of b, and says how much it wrote if that failed. The errors are
// those of write(2): unix.EPIPE where nobody reads any more, ENOSPC, EFBIG, EIO.
func (d *Descriptor) Write(ctx context.Context, b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := d.attempt(ctx, d.write, b[done:])
		if n > 0 {
			done += n
		}
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if err := d.wait(ctx, d.out); err != nil {
				return done, err
			}
		case err != nil:
			return done, err
		case n == 0:
			return done, io.ErrShortWrite
		}
	}
	return done, nil
}

// attempt calls op, which does not wait.
func (d *Descriptor) attempt(ctx context.Context, op func([]byte) (int, error), b []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if d.mode == modeFile {
		select {
		case d.poller.files <- struct{}{}:
			defer func() { <-d.poller.files }()
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-d.closed:
			return 0, ErrClosed
		}
	}
	if !d.begin() {
		return 0, ErrClosed
	}
	defer d.end()
	return op(b)
}

// wait waits for the next event of one direction.
func (d *Descriptor) wait(ctx context.Context, events chan struct{}) error {
	select {
	case <-events:
		return nil
	case <-d.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// CloseWrite shuts down the writing half of a socket, for all its holders. It is
// an error for anything else.
func (d *Descriptor) CloseWrite() error {
	if !d.begin() {
		return ErrClosed
	}
	defer d.end()
	return os.NewSyscallError("shutdown", unix.Shutdown(d.fd, unix.SHUT_WR))
}
