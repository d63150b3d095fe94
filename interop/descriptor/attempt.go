package descriptor

import (
	"sync"

	"golang.org/x/sys/unix"
)

// read reads what is there; EAGAIN says that there is nothing.
func (d *Descriptor) read(b []byte) (int, error) {
	switch d.mode {
	case modePipe:
		if !d.splice.Load() {
			n, err := unix.Preadv2(d.fd, [][]byte{b}, -1, unix.RWF_NOWAIT)
			if err != unix.EOPNOTSUPP && err != unix.EINVAL && err != unix.ENOSYS {
				return n, err
			}
			d.splice.Store(true)
		}
		return d.spliceRead(b)
	case modeSocket:
		n, _, err := unix.Recvfrom(d.fd, b, unix.MSG_DONTWAIT)
		return n, err
	case modePoll:
		if !ready(d.fd, unix.POLLIN) {
			return 0, unix.EAGAIN
		}
	}
	return unix.Read(d.fd, b)
}

// devicePiece is how much is written to a device that said it was ready: few take
// less.
const devicePiece = 512

// write writes what goes at once; EAGAIN says that nothing did.
func (d *Descriptor) write(b []byte) (int, error) {
	switch d.mode {
	case modePipe:
		if !d.splice.Load() {
			n, err := unix.Pwritev2(d.fd, [][]byte{b}, -1, unix.RWF_NOWAIT)
			if err != unix.EOPNOTSUPP && err != unix.EINVAL && err != unix.ENOSYS {
				return n, err
			}
			d.splice.Store(true)
		}
		return d.spliceWrite(b)
	case modeSocket:
		return unix.SendmsgN(d.fd, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	case modePoll:
		if !ready(d.fd, unix.POLLOUT) {
			return 0, unix.EAGAIN
		}
		b = b[:min(len(b), devicePiece)]
	}
	return unix.Write(d.fd, b)
}

// ready asks poll(2) about one event. An error or a hang-up is for the operation
// to tell.
func ready(fd int, event int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: event}}
	n, _ := unix.Poll(p, 0)
	return n > 0
}

// pipeSize is what a pipe holds unless somebody changed it.
const pipeSize = 64 << 10

// spliceRead moves what is in the pipe to a pipe of our own, and reads that.
func (d *Descriptor) spliceRead(b []byte) (int, error) {
	s, err := d.poller.staging.get()
	if err != nil {
		return 0, err
	}
	defer d.poller.staging.put(s)
	n, err := unix.Splice(d.fd, nil, s.w, nil, min(len(b), pipeSize), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	if err != nil {
		return 0, err
	}
	done := 0
	for done < int(n) {
		k, err := unix.Read(s.r, b[done:n])
		if err == unix.EINTR {
			continue
		}
		if err != nil || k == 0 {
			return done, err // cannot be: the bytes are there
		}
		done += k
	}
	return done, nil
}

// spliceWrite writes to a pipe of our own, and moves from there what goes.
func (d *Descriptor) spliceWrite(b []byte) (int, error) {
	s, err := d.poller.staging.get()
	if err != nil {
		return 0, err
	}
	defer d.poller.staging.put(s)
	n, err := unix.Write(s.w, b[:min(len(b), pipeSize)])
	if err != nil {
		return 0, err
	}
	moved, err := unix.Splice(s.r, nil, d.fd, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	moved = max(moved, 0)
	s.empty(n - int(moved))
	if moved > 0 {
		err = nil
	}
	return int(moved), err
}

// A pair is a pipe of our own, non-blocking and empty between uses.
type pair struct{ r, w int }

// empty throws away the n bytes that are in the pipe.
func (s pair) empty(n int) {
	var b [4096]byte
	for n > 0 {
		k, err := unix.Read(s.r, b[:min(n, len(b))])
		if k <= 0 && err != unix.EINTR {
			return
		}
		n -= max(k, 0)
	}
}

// staging keeps pipes of our own: as many as operations were under way at once.
type staging struct {
	mu   sync.Mutex
	free []pair
}

// stagingKept is how many idle ones are kept.
const stagingKept = 8

func (s *staging) get() (pair, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		p := s.free[n-1]
		s.free = s.free[:n-1]
		return p, nil
	}
	var fds [2]int
	err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK)
	return pair{fds[0], fds[1]}, err
}

func (s *staging) put(p pair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) < stagingKept {
		s.free = append(s.free, p)
		return
	}
	unix.Close(p.r)
	unix.Close(p.w)
}

func (s *staging) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.free {
		unix.Close(p.r)
		unix.Close(p.w)
	}
	s.free = nil
}
