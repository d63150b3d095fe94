package blk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// A Store is what a Device keeps its sectors on. Its methods are called by
// several goroutines at once, with ranges inside of Size. The slices are guest
// memory, and not kept.
type Store interface {
	// Size is the number of bytes, which does not change.
	Size() uint64
	// ReadVec fills bufs, all of them, from off on.
	ReadVec(bufs [][]byte, off int64) error
	// ReadNow is ReadVec if that needs no waiting, and reports whether it was
	// done; if not, some of bufs may be filled.
	ReadNow(bufs [][]byte, off int64) bool
	// WriteVec writes bufs, all of them, from off on. After an error some may be
	// written, and bufs is of no use.
	WriteVec(bufs [][]byte, off int64) error
	// Sync makes stable what WriteVec, Discard and Zero had done when it was
	// called.
	Sync() error
	// Discard forgets n bytes at off: what they read as is undefined.
	Discard(off, n int64) error
	// Zero makes n bytes at off read as zero. unmap allows to free their place.
	Zero(off, n int64, unmap bool) error
}

// A File is a Store in a regular file or a block device.
type File struct {
	f    *os.File
	size uint64
}

var _ Store = (*File)(nil)

// NewFile makes a Store of f as large as f is now. f stays the caller's, who
// closes it after the Device's last Reset.
func NewFile(f *os.File) (*File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	size := st.Size()
	switch {
	case st.Mode().IsRegular():
	case st.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice:
		// The position is nobody's: all I/O names its own.
		if size, err = f.Seek(0, io.SeekEnd); err != nil {
			return nil, fmt.Errorf("disk: size: %w", err)
		}
	default:
		return nil, fmt.Errorf("disk %s is neither a file nor a block device", f.Name())
	}
	return &File{f: f, size: uint64(size)}, nil
}

// Size implements Store.
func (s *File) Size() uint64 { return s.size }

// control calls fn with the descriptor, again where a signal cut it short.
func (s *File) control(fn func(fd int) error) error {
	conn, err := s.f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		for {
			if err = fn(int(fd)); err != unix.EINTR {
				return
			}
		}
	})
	return errors.Join(cerr, err)
}

// ReadVec implements Store. A file that has become shorter is io.ErrUnexpectedEOF.
func (s *File) ReadVec(bufs [][]byte, off int64) error {
	return s.vec(bufs, off, unix.Preadv)
}

// ReadNow implements Store: what is not in the page cache has to be waited for,
// and so has all of it on a file system that can't tell.
func (s *File) ReadNow(bufs [][]byte, off int64) bool {
	n, want := 0, 0
	for _, b := range bufs {
		want += len(b)
	}
	if want == 0 || len(bufs) > maxVec {
		return false
	}
	err := s.control(func(fd int) (err error) {
		n, err = unix.Preadv2(fd, bufs, off, unix.RWF_NOWAIT)
		return err
	})
	return err == nil && n == want
}

// WriteVec implements Store.
func (s *File) WriteVec(bufs [][]byte, off int64) error {
	return s.vec(bufs, off, unix.Pwritev)
}

// maxVec is IOV_MAX.
const maxVec = 1024

func (s *File) vec(bufs [][]byte, off int64, call func(int, [][]byte, int64) (int, error)) error {
	for len(bufs) > 0 {
		var n int
		err := s.control(func(fd int) (err error) {
			n, err = call(fd, bufs[:min(len(bufs), maxVec)], off)
			return err
		})
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		off += int64(n)
		for n > 0 || len(bufs) > 0 && len(bufs[0]) == 0 {
			if n < len(bufs[0]) {
				bufs[0] = bufs[0][n:]
				break
			}
			n -= len(bufs[0])
			bufs = bufs[1:]
		}
	}
	return nil
}

// Sync implements Store.
func (s *File) Sync() error { return s.control(unix.Fdatasync) }

// Discard implements Store, by a hole.
func (s *File) Discard(off, n int64) error {
	err := s.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: %w", errUnsupported, err)
	}
	return err
}

// Zero implements Store: by a hole, by blocks that are known to be zero, or by
// zeros where the file system knows neither.
func (s *File) Zero(off, n int64, unmap bool) error {
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE)
	if unmap {
		mode = unix.FALLOC_FL_PUNCH_HOLE
	}
	err := s.fallocate(mode|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	for n > 0 {
		k := min(n, int64(len(zeros)))
		if err := s.WriteVec([][]byte{zeros[:k]}, off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// zeros are what Zero writes; nobody changes them.
var zeros [256 << 10]byte

func (s *File) fallocate(mode uint32, off, n int64) error {
	return s.control(func(fd int) error { return unix.Fallocate(fd, mode, off, n) })
}
