package distro

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ArchiveError says why bytes are not a tar archive that can be imported.
type ArchiveError struct {
	Why string
	Err error // of the decompressor, or nil
}

func (e *ArchiveError) Error() string {
	if e.Err != nil {
		return "read archive: " + e.Why + ": " + e.Err.Error()
	}
	return "read archive: " + e.Why
}

// Unwrap is the decompressor's error.
func (e *ArchiveError) Unwrap() error { return e.Err }

// Hint is the cure.
func (e *ArchiveError) Hint() string {
	return "a tar archive is needed, plain or compressed with gzip, xz or zstd; get it anew if it came over a network"
}

// Decompress returns the uncompressed bytes of r, whose compression it knows by
// the first bytes: gzip, xz, zstd or none.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	src := &faultReader{r: r}
	br := bufio.NewReaderSize(src, 1<<16)
	magic, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	if len(magic) == 0 {
		return nil, &ArchiveError{Why: "it is empty"}
	}
	var z io.ReadCloser
	name := ""
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		name = "gzip"
		z, err = gzip.NewReader(br)
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		name = "xz"
		var x *xz.Reader
		if x, err = xz.NewReader(br); err == nil {
			z = io.NopCloser(x)
		}
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		name = "zstd"
		var d *zstd.Decoder
		if d, err = zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<31)); err == nil {
			z = d.IOReadCloser()
		}
	default:
		return io.NopCloser(br), nil
	}
	d := &decompressor{z, name, src}
	if err != nil {
		return nil, d.words(err)
	}
	return d, nil
}

// A faultReader keeps the error that reading met with: decompressors pass it on
// as they do what they say of damage.
type faultReader struct {
	r     io.Reader
	fault error // other than the end
}

func (f *faultReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		f.fault = err
	}
	return n, err
}

// A decompressor puts into words what its reader says of damage.
type decompressor struct {
	io.ReadCloser
	name string
	src  *faultReader
}

func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, d.words(err)
}

func (d *decompressor) words(err error) error {
	switch {
	case d.src.fault != nil:
		return fmt.Errorf("read archive: %w", d.src.fault)
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return &ArchiveError{Why: "it ends in the middle of its " + d.name + " compression"}
	}
	return &ArchiveError{Why: "its " + d.name + " compression is damaged", Err: err}
}

const tarBlock = 512

// A tarCheck passes a tar archive through and finds, with no guest's help, bytes
// that are no archive at all and an archive cut off. The rest is the
// unpacker's.
type tarCheck struct {
	r       *bufio.Reader
	started bool
	count   int64
	tail    [tarBlock]byte // the last bytes, at count modulo the block
	failure error
}

func newTarCheck(r io.Reader) *tarCheck {
	return &tarCheck{r: bufio.NewReaderSize(r, 1<<16)}
}

func (c *tarCheck) Read(p []byte) (int, error) {
	if c.failure != nil {
		return 0, c.failure
	}
	if !c.started {
		c.started = true
		block, err := c.r.Peek(tarBlock)
		if err != nil && err != io.EOF {
			c.failure = err
			return 0, err
		}
		if !isTarHeader(block) {
			c.failure = &ArchiveError{Why: "it is not a tar archive"}
			return 0, c.failure
		}
	}
	n, err := c.r.Read(p)
	c.keep(p[:n])
	if err != nil && err != io.EOF {
		c.failure = err
	}
	return n, err
}

func (c *tarCheck) keep(b []byte) {
	if len(b) > tarBlock {
		c.count += int64(len(b) - tarBlock)
		b = b[len(b)-tarBlock:]
	}
	for len(b) > 0 {
		n := copy(c.tail[c.count%tarBlock:], b)
		c.count += int64(n)
		b = b[n:]
	}
}

// err is what reading the archive met with, which explains better why an
// unpacker failed than its own words.
func (c *tarCheck) err() error { return c.failure }

// finish reads what the unpacker has left, the padding at the end, and reports
// an archive that has no end: the last block of a whole one is zeroes.
func (c *tarCheck) finish() error {
	if _, err := io.Copy(io.Discard, readOnly{c}); err != nil {
		return err
	}
	if c.count%tarBlock != 0 || c.tail != [tarBlock]byte{} {
		return &ArchiveError{Why: fmt.Sprintf("it is cut off after %d bytes", c.count)}
	}
	return nil
}

type readOnly struct{ io.Reader }

// isTarHeader checks a header's checksum: the sum of its bytes with the field
// itself taken as spaces, signed in some old archives. An archive with no entry
// starts with zeroes and is refused: there is nothing in it to run.
func isTarHeader(b []byte) bool {
	if len(b) < tarBlock {
		return false
	}
	const from, to = 148, 156
	field := strings.Trim(string(b[from:to]), " \x00")
	want, err := strconv.ParseInt(field, 8, 64)
	if err != nil {
		return false
	}
	var unsigned, signed int64
	for i, c := range b[:tarBlock] {
		if i >= from && i < to {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return want == unsigned || want == signed
}
