// Package descriptor reads and writes descriptors that belong to somebody else: a
// shim passed them, the user's shell and other programs hold the same open files.
// So they are never made non-blocking, and yet no goroutine that waits on one holds
// an operating system thread: the package has an epoll instance of its own, which
// waits in Go's.
//
// It knows how to take no more than is there from each kind of file: pipes by
// RWF_NOWAIT, or before Linux 6.4 by splice(2) with SPLICE_F_NONBLOCK through a
// pipe of our own; sockets by MSG_DONTWAIT; other terminals by opening them again;
// files and devices that never say that they would block, as they are.
//
// And it knows how to look at what a pipe or a file holds without taking it, since
// what a command does not read of its input is the next reader's: Peek and Take.
package descriptor

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Poller waits for descriptors. One is enough for a process.
type Poller struct {
	file *os.File // the epoll instance
	raw  syscall.RawConn
	done chan struct{} // closed when the loop has ended

	mu    sync.Mutex
	last  uint64
	known map[uint64]*Descriptor

	staging staging
	null    int           // /dev/null, to write
	files   chan struct{} // tokens for operations that may hold a thread
}

// fileOperations bounds how many threads may be in reads and writes of files at a
// time, since a slow disk or file server holds them.
const fileOperations = 16

// NewPoller makes a Poller. Close ends it.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	// Non-blocking, so that os.NewFile hands it to the runtime's poller: an epoll
	// instance can be waited for by another.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("epoll instance: %w", err)
	}
	null, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open /dev/null: %w", err)
	}
	p := &Poller{file: os.NewFile(uintptr(fd), "epoll"), done: make(chan struct{}), null: null,
		known: make(map[uint64]*Descriptor), files: make(chan struct{}, fileOperations)}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
		unix.Close(null)
		return nil, fmt.Errorf("epoll instance: %w", err)
	}
	go p.loop()
	return p, nil
}

// Close ends the poller. Descriptors that are still open wait no more: they are to
// be closed before.
func (p *Poller) Close() error {
	err := p.file.Close()
	<-p.done
	p.staging.close()
	unix.Close(p.null)
	return err
}

func (p *Poller) loop() {
	defer close(p.done)
	var events [128]unix.EpollEvent
	p.raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), events[:], 0)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return false // wait until there is one
			}
			for _, e := range events[:n] {
				p.mu.Lock()
				d := p.known[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]
				p.mu.Unlock()
				if d != nil {
					d.event(e.Events)
				}
			}
		}
	})
}

// add registers d. The error is EPERM where its file cannot be waited for because
// it is always ready.
func (p *Poller) add(d *Descriptor) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	d.id = p.last
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd: int32(uint32(d.id)), Pad: int32(uint32(d.id >> 32))}
	p.known[d.id] = d
	err := p.control(unix.EPOLL_CTL_ADD, d.fd, &e)
	if err != nil {
		delete(p.known, d.id)
	}
	return err
}

// remove takes d out. Closing would not: the open file has other holders.
func (p *Poller) remove(d *Descriptor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[d.id] == d {
		delete(p.known, d.id)
		p.control(unix.EPOLL_CTL_DEL, d.fd, &unix.EpollEvent{})
	}
}

func (p *Poller) control(op, fd int, e *unix.EpollEvent) error {
	var err error
	if cerr := p.raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, e) }); cerr != nil {
		return cerr
	}
	return err
}
