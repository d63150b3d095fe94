package fileserver

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A readResult reads straight into the reply, which is guest memory.
type readResult struct {
	s    *Server
	h    *handle
	off  int64
	size int
}

// Size is the most that will be read.
func (r *readResult) Size() int { return r.size }

// Readv reads into dst.
func (r *readResult) Readv(dst [][]byte) (int, fuse.Status) {
	n, errno := preadv(r.h.fd, dst, r.off)
	if errno != 0 {
		return 0, status(errno)
	}
	return n, fuse.OK
}

// Bytes reads into buf, for a server on /dev/fuse.
func (r *readResult) Bytes(buf []byte) ([]byte, fuse.Status) {
	n, code := r.Readv([][]byte{buf[:min(len(buf), r.size)]})
	return buf[:n], code
}

// Done lets go of the handle.
func (r *readResult) Done() { r.s.dropHandle(r.h) }

// Read reads from a file.
func (s *Server) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	h := s.holdHandle(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	if h.dir != nil {
		s.dropHandle(h)
		return nil, fuse.EISDIR
	}
	if in.Offset > 1<<63-1 {
		s.dropHandle(h)
		return nil, fuse.EINVAL
	}
	return &readResult{s: s, h: h, off: int64(in.Offset), size: int(in.Size)}, fuse.OK
}

// Write writes to a file.
func (s *Server) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return s.Writev(cancel, in, [][]byte{data})
}

// Writev writes to a file.
//
// A guest that appends names the offset where it believes the end to be. With
// RWF_APPEND the host's kernel finds the real end, under the file's lock, so
// appenders on both sides never overwrite each other. Dirty pages of a shared
// mapping come with WRITE_CACHE, through any handle, and have their place.
func (s *Server) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	h := s.holdHandle(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	defer s.dropHandle(h)
	if !h.writable {
		return 0, fuse.EBADF
	}
	if in.Offset > 1<<63-1 {
		return 0, fuse.EINVAL
	}
	flags := 0
	if in.Flags&unix.O_SYNC == unix.O_SYNC {
		flags |= unix.RWF_SYNC
	} else if in.Flags&unix.O_DSYNC != 0 {
		flags |= unix.RWF_DSYNC
	}
	appends := in.Flags&unix.O_APPEND != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0
	switch {
	case appends && !h.append:
		flags |= unix.RWF_APPEND
	case !appends && h.append:
		flags |= unix.RWF_NOAPPEND
	}
	data = trim(data, int(in.Size))
	total := 0
	for {
		n, errno := pwritev2(h.fd, data, int64(in.Offset)+int64(total), flags)
		if errno != 0 {
			if total > 0 {
				break
			}
			return 0, status(errno)
		}
		total += n
		// A short write of an appender is not continued: something could
		// have come between.
		if data = skip(data, n); n == 0 || len(data) == 0 || appends {
			break
		}
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if errno := s.killSetID(h.node); errno != 0 {
			return 0, status(errno)
		}
	}
	s.mu.Lock()
	h.dirty = true
	s.mu.Unlock()
	return uint32(total), fuse.OK
}

// trim cuts bufs to n bytes.
func trim(bufs [][]byte, n int) [][]byte {
	for i, b := range bufs {
		if len(b) > n {
			cut := append([][]byte(nil), bufs[:i+1]...)
			cut[i] = b[:n]
			return cut
		}
		n -= len(b)
	}
	return bufs
}

// skip cuts n bytes off the front of bufs.
func skip(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n > 0 {
		bufs = append([][]byte(nil), bufs...)
		bufs[0] = bufs[0][n:]
	}
	return bufs
}

// Lseek finds data and holes; other positions are the guest's own affair.
func (s *Server) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	h := s.holdHandle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer s.dropHandle(h)
	if h.dir != nil {
		return fuse.EINVAL
	}
	var off int64
	errno := retry(func() (err error) {
		off, err = unix.Seek(h.fd, int64(in.Offset), int(in.Whence))
		return err
	})
	out.Offset = uint64(off)
	return status(errno)
}

// Fallocate allocates, punches holes and the like, as the mode says.
func (s *Server) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h := s.holdHandle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer s.dropHandle(h)
	if !h.writable {
		return fuse.EBADF
	}
	return status(retry(func() error {
		return unix.Fallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length))
	}))
}

// maxCopy bounds one CopyFileRange, so that it ends in a time that a guest can
// wait for; the caller goes on with the rest.
const maxCopy = 64 << 20

// CopyFileRange copies between files without a way through the guest.
func (s *Server) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	if in.Flags != 0 {
		return 0, fuse.EINVAL
	}
	from := s.holdHandle(in.FhIn)
	if from == nil {
		return 0, fuse.EBADF
	}
	defer s.dropHandle(from)
	to := s.holdHandle(in.FhOut)
	if to == nil {
		return 0, fuse.EBADF
	}
	defer s.dropHandle(to)
	if !to.writable || to.append || from.dir != nil {
		return 0, fuse.EBADF
	}
	offIn, offOut := int64(in.OffIn), int64(in.OffOut)
	var n int
	errno := retry(func() (err error) {
		n, err = unix.CopyFileRange(from.fd, &offIn, to.fd, &offOut, int(min(in.Len, maxCopy)), 0)
		return err
	})
	if errno != 0 {
		return 0, status(errno)
	}
	return uint32(n), fuse.OK
}

// Ioctl is for devices, and none is reached here.
func (s *Server) Ioctl(_ <-chan struct{}, _ *fuse.IoctlIn, _ []byte, _ *fuse.IoctlOut, _ []byte) fuse.Status {
	return status(syscall.ENOTTY)
}
