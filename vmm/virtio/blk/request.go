package blk

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/stilehq/stile/vmm/virtio"
)

// Request types and status (section 5.2.6).
const (
	typeIn          = 0
	typeOut         = 1
	typeFlush       = 4
	typeGetID       = 8
	typeDiscard     = 11
	typeWriteZeroes = 13

	statusOK    = 0
	statusIOErr = 1
	statusUnsup = 2

	headerSize  = 16
	segmentSize = 16
	idSize      = 20

	segmentUnmap = 1 // flag of a segment
)

var (
	// errUnsupported becomes VIRTIO_BLK_S_UNSUPP.
	errUnsupported = errors.New("not supported")
	// errRequest is the driver's fault, and becomes VIRTIO_BLK_S_IOERR without
	// a word to the log.
	errRequest = errors.New("request out of bounds")
)

// A worker is what a goroutine needs to answer requests one by one.
type worker struct {
	*run
	bufs [][]byte
}

// answer does what a request asks for, and returns how many bytes of its
// writable part were written. The error is the driver's: a chain that can't even
// be answered.
func (w *worker) answer(c *virtio.Chain) (uint32, error) {
	in := c.WritableLen()
	if c.ReadableLen() < headerSize || in < 1 {
		return 0, fmt.Errorf("request of %d bytes with room for %d: %w", c.ReadableLen(), in, virtio.ErrRing)
	}
	var head [headerSize]byte
	gather(head[:], c.Readable)
	typ := binary.LittleEndian.Uint32(head[0:])
	sector := binary.LittleEndian.Uint64(head[8:])

	written, err := w.do(typ, sector, c, in-1)
	status := byte(statusOK)
	switch {
	case errors.Is(err, errUnsupported):
		status = statusUnsup
	case err != nil:
		status = statusIOErr
		if log := w.dev.opts.Log; log != nil && !errors.Is(err, errRequest) {
			log(fmt.Errorf("virtio-blk: %w", err))
		}
	}
	// The status is the last byte, wherever that is; what lies before it counts
	// as written only if it is.
	setLast(c.Writable, status)
	if written == in-1 {
		return uint32(in), nil
	}
	return uint32(written), nil
}

// readNow answers a small read whose bytes need no waiting for. Otherwise it
// reports false, and the request is to be answered as if nothing had been done.
func (w *worker) readNow(c *virtio.Chain) (written uint32, ok bool) {
	n := c.WritableLen() - 1
	if n < 0 || n > quickRead || c.ReadableLen() < headerSize {
		return 0, false
	}
	var head [headerSize]byte
	gather(head[:], c.Readable)
	if binary.LittleEndian.Uint32(head[0:]) != typeIn {
		return 0, false
	}
	off, err := w.span(binary.LittleEndian.Uint64(head[8:]), n)
	if err != nil {
		return 0, false
	}
	w.bufs = virtio.AppendPart(w.bufs[:0], c.Writable, 0, n)
	if !w.dev.store.ReadNow(w.bufs, off) {
		return 0, false
	}
	setLast(c.Writable, statusOK)
	return uint32(n) + 1, true
}

// do does a request with room for n bytes, and returns how many of them it has
// written.
func (w *worker) do(typ uint32, sector uint64, c *virtio.Chain, n int) (int, error) {
	switch typ {
	case typeIn:
		w.bufs = virtio.AppendPart(w.bufs[:0], c.Writable, 0, n)
		off, err := w.span(sector, n)
		if err != nil {
			return 0, err
		}
		if err := w.dev.store.ReadVec(w.bufs, off); err != nil {
			return 0, fmt.Errorf("read %d bytes at %d: %w", n, off, err)
		}
		return n, nil
	case typeGetID:
		var id [idSize]byte
		copy(id[:], w.dev.opts.ID)
		w.bufs = virtio.AppendPart(w.bufs[:0], c.Writable, 0, n)
		return scatter(w.bufs, id[:]), nil
	}
	return 0, w.change(typ, sector, c)
}

// change does a request that reads nothing.
func (w *worker) change(typ uint32, sector uint64, c *virtio.Chain) error {
	store := w.dev.store
	n := c.ReadableLen() - headerSize
	switch typ {
	case typeOut, typeDiscard, typeWriteZeroes:
		if w.dev.opts.ReadOnly {
			return fmt.Errorf("write to a disk that is read-only: %w", errRequest)
		}
	case typeFlush:
		if w.dev.opts.ReadOnly {
			return nil
		}
		if err := store.Sync(); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		return nil
	default:
		return errUnsupported
	}
	if typ == typeOut {
		off, err := w.span(sector, n)
		if err != nil {
			return err
		}
		err = w.whenRoom(func() error {
			w.bufs = virtio.AppendPart(w.bufs[:0], c.Readable, headerSize, n)
			return store.WriteVec(w.bufs, off)
		})
		if err != nil {
			return fmt.Errorf("write %d bytes at %d: %w", n, off, err)
		}
	} else if err := w.segments(typ, c, n); err != nil {
		return err
	}
	if w.writeThrough {
		if err := store.Sync(); err != nil {
			return fmt.Errorf("flush after write: %w", err)
		}
	}
	return nil
}

// span is the place in the store of n bytes at sector.
func (w *worker) span(sector uint64, n int) (off int64, err error) {
	capacity := w.dev.capacity()
	if n%sectorSize != 0 || sector > capacity || uint64(n)/sectorSize > capacity-sector {
		return 0, fmt.Errorf("%d bytes at sector %d of %d: %w", n, sector, capacity, errRequest)
	}
	return int64(sector * sectorSize), nil
}

// segments does a discard or write-zeroes request of n bytes of segments. All of
// them are checked before the first is done.
func (w *worker) segments(typ uint32, c *virtio.Chain, n int) error {
	if n == 0 || n%segmentSize != 0 || n > maxDiscardSegs*segmentSize {
		return fmt.Errorf("%d bytes of segments: %w", n, errRequest)
	}
	var raw [headerSize + maxDiscardSegs*segmentSize]byte
	gather(raw[:headerSize+n], c.Readable)
	type segment struct {
		off, n int64
		unmap  bool
	}
	var all [maxDiscardSegs]segment
	count := n / segmentSize
	for i := range count {
		b := raw[headerSize+i*segmentSize:]
		sector, sectors, flags := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
		// Section 5.2.6.2: unknown flags, and unmap of a discard.
		if flags&^segmentUnmap != 0 || typ == typeDiscard && flags != 0 {
			return errUnsupported
		}
		if sectors > maxDiscard {
			return fmt.Errorf("segment of %d sectors: %w", sectors, errRequest)
		}
		off, err := w.span(sector, int(sectors)*sectorSize)
		if err != nil {
			return err
		}
		all[i] = segment{off, int64(sectors) * sectorSize, flags&segmentUnmap != 0}
	}
	for _, s := range all[:count] {
		if s.n == 0 {
			continue
		}
		if typ == typeDiscard {
			if err := w.dev.store.Discard(s.off, s.n); err != nil {
				return fmt.Errorf("discard %d bytes at %d: %w", s.n, s.off, err)
			}
		} else if err := w.whenRoom(func() error { return w.dev.store.Zero(s.off, s.n, s.unmap) }); err != nil {
			return fmt.Errorf("write %d zeros at %d: %w", s.n, s.off, err)
		}
	}
	return nil
}

// gather copies the first bytes of iov to dst.
func gather(dst []byte, iov [][]byte) {
	for _, b := range iov {
		dst = dst[copy(dst, b):]
	}
}

// scatter copies src to the first bytes of iov and returns how many fitted.
func scatter(iov [][]byte, src []byte) int {
	n := 0
	for _, b := range iov {
		n += copy(b, src[n:])
	}
	return n
}

// setLast sets the last byte of iov, which has one.
func setLast(iov [][]byte, v byte) {
	for i := len(iov) - 1; i >= 0; i-- {
		if b := iov[i]; len(b) > 0 {
			b[len(b)-1] = v
			return
		}
	}
}
