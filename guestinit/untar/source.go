package untar

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

const block = 512 // bytes; all headers lie at multiples of it

// ArchiveError says what is wrong with an archive, and where.
type ArchiveError struct {
	Offset int64 // byte of the uncompressed archive; of no meaning for an empty one
	Why    string
	Err    error // of archive/tar, or nil
}

func (e *ArchiveError) Error() string {
	s := "read archive: " + e.Why
	if e.Offset != 0 {
		s = fmt.Sprintf("read archive at byte %d: %s", e.Offset, e.Why)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap is the error of archive/tar, which tells little to users.
func (e *ArchiveError) Unwrap() error { return e.Err }

// Hint is the cure.
func (e *ArchiveError) Hint() string {
	return "the archive is damaged or incomplete: make it or download it again"
}

// A source is the stream below archive/tar. It counts, keeps the bytes of an
// entry's headers, since archive/tar hands out no sparse map, and lets the
// unpacker read the content of a sparse file past archive/tar, which would
// write out the zeroes of each hole.
type source struct {
	r      *bufio.Reader
	offset int64  // bytes that were read
	owed   int64  // bytes that archive/tar believes to be still there
	head   []byte // what was read since beginHead
	keep   bool
	from   int64 // offset of head
	err    error // what reading met with, other than the end
}

func newSource(r io.Reader) *source {
	return &source{r: bufio.NewReaderSize(r, 1<<18)}
}

// maxHead is more than all headers of an entry that archive/tar accepts: the
// PAX records, long name, long target and sparse map have 1 MiB each.
const maxHead = 8 << 20

var errHeadTooLong = errors.New("headers too long")

// Read serves archive/tar.
func (s *source) Read(p []byte) (int, error) {
	if s.owed > 0 {
		// It skips these bytes: what they are is of no interest.
		n := int(min(s.owed, int64(len(p))))
		s.owed -= int64(n)
		return n, nil
	}
	n, err := s.raw(p)
	if s.keep {
		if len(s.head)+n > maxHead {
			return 0, errHeadTooLong
		}
		s.head = append(s.head, p[:n]...)
	}
	return n, err
}

// raw reads from the stream itself.
func (s *source) raw(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.offset += int64(n)
	if err != nil && err != io.EOF && s.err == nil {
		s.err = err
	}
	return n, err
}

func (s *source) beginHead() {
	s.head, s.keep, s.from = s.head[:0], true, s.offset
}

// head0 is where the next header starts: padding goes before it.
func (s *source) head0() int64 { return (s.offset + block - 1) &^ (block - 1) }

// endHead returns the headers that were read since beginHead, without the
// padding of the entry before them. They are valid until the next beginHead.
func (s *source) endHead() []byte {
	s.keep = false
	pad := int(-s.from & (block - 1))
	return s.head[min(pad, len(s.head)):]
}

// drain reads to the end of the stream, so that its writer does not meet with a
// closed pipe. Archives are padded with zeroes, to 10 KiB and more.
func (s *source) drain(buf []byte) error {
	for {
		at := s.offset
		n, err := s.raw(buf)
		if !zero(buf[:n]) {
			return &ArchiveError{Offset: at, Why: "something follows the end of the archive"}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
	}
}

var zeroes [holeUnit]byte

func zero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroes))
		if !bytes.Equal(b[:n], zeroes[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
