// Package blk is the virtio block device (Virtual I/O Device specification 1.2,
// section 5.2) over a raw image.
//
// # What a flush promises
//
// A write that was answered is in the host's page cache. A flush that is
// answered has brought every write that was answered before the flush was sent
// to stable storage, by fdatasync; the guest's file system builds on that and on
// nothing else. A driver that does not know flushes (it acked no
// VIRTIO_BLK_F_FLUSH) believes that what was answered is stable, so each of its
// writes is followed by one (section 5.2.6.2).
//
// # Order
//
// There is none between requests in flight, so a few goroutines take turns at
// the ring: the one that has taken a request leaves the ring to the next and
// does its I/O.
//
// # Guest memory
//
// Headers and the segments of a discard are copied before anyone looks at them.
// Data goes straight between the image and guest memory, by preadv and pwritev.
package blk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/virtio"
)

const (
	queueSize = 256

	// workers bounds the requests that are handled at one time. Most find their
	// bytes in the page cache; each that does not holds a thread.
	workers = 8

	sectorSize = 512

	// What the driver is told: requests of at most segMax buffers, aligned to
	// 4 KiB where it can (what the image's file system, and ext4 in the guest,
	// work with), and discards of at most 1 GiB in each of a few segments.
	segMax           = queueSize - 2
	physicalExp      = 3 // log2 of sectors in 4 KiB
	maxDiscard       = 1 << 30 / sectorSize
	maxDiscardSegs   = 64
	discardAlignment = 1 << physicalExp
)

// Feature bits (section 5.2.3).
const (
	featureSegMax      = 1 << 2
	featureRO          = 1 << 5
	featureBlkSize     = 1 << 6
	featureFlush       = 1 << 9
	featureTopology    = 1 << 10
	featureDiscard     = 1 << 13
	featureWriteZeroes = 1 << 14
)

// Options are what a Device may be given.
type Options struct {
	// ReadOnly refuses whatever would change the store.
	ReadOnly bool
	// ID is what the guest sees as the disk's serial number, of at most 20 bytes.
	ID string
	// Log is told of each request that the host could not do (a full disk, a
	// fault of the medium), which the guest sees as an I/O error. It does not
	// block. Nil: nobody is told.
	Log func(error)
}

// A Device is a virtio-blk device. It implements virtio.Device.
type Device struct {
	store Store
	opts  Options
	run   *run // nil while stopped
}

var _ virtio.Device = (*Device)(nil)

// New makes a Device on a store, which stays the caller's.
func New(store Store, opts Options) *Device { return &Device{store: store, opts: opts} }

// ID is virtio.IDBlock.
func (d *Device) ID() uint32 { return virtio.IDBlock }

// QueueSizes is that of the only queue.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize} }

// Features are what a raw image can do.
func (d *Device) Features() uint64 {
	f := uint64(featureSegMax | featureBlkSize | featureFlush | featureTopology)
	if d.opts.ReadOnly {
		return f | featureRO
	}
	return f | featureDiscard | featureWriteZeroes
}

// capacity is the size of the store in whole sectors.
func (d *Device) capacity() uint64 { return d.store.Size() / sectorSize }

// ReadConfig reads struct virtio_blk_config (section 5.2.4).
func (d *Device) ReadConfig(off uint32, p []byte) {
	clear(p)
	var cfg [60]byte
	le := binary.LittleEndian
	le.PutUint64(cfg[0:], d.capacity())
	le.PutUint32(cfg[12:], segMax)
	le.PutUint32(cfg[20:], sectorSize)
	cfg[24] = physicalExp
	le.PutUint16(cfg[26:], 1<<physicalExp) // min_io_size in sectors
	le.PutUint32(cfg[36:], maxDiscard)
	le.PutUint32(cfg[40:], maxDiscardSegs)
	le.PutUint32(cfg[44:], discardAlignment)
	le.PutUint32(cfg[48:], maxDiscard) // of write zeroes
	le.PutUint32(cfg[52:], maxDiscardSegs)
	cfg[56] = 1 // write zeroes may unmap
	if off < uint32(len(cfg)) {
		copy(p, cfg[off:])
	}
}

// WriteConfig is ignored: no field is writable.
func (d *Device) WriteConfig(uint32, []byte) {}

// A run is the time from Activate to Sleep or Reset.
type run struct {
	dev          *Device
	q            *virtio.Queue
	fail         func(error)
	writeThrough bool // the driver knows no flush
	token        sync.Mutex
	ended        bool // guarded by token
	wg           sync.WaitGroup
}

// Activate starts answering requests.
func (d *Device) Activate(a virtio.Activation) error {
	if len(a.Queues) == 0 || a.Queues[0] == nil {
		return errors.New("virtio-blk has no queue")
	}
	if d.run != nil {
		return errors.New("virtio-blk is active already")
	}
	r := &run{dev: d, q: a.Queues[0], fail: a.Fail, writeThrough: a.Features&featureFlush == 0}
	d.run = r
	for range workers {
		r.wg.Go(r.serve)
	}
	return nil
}

// serve is one of the goroutines.
func (r *run) serve() {
	w := worker{run: r}
	for {
		c := r.next()
		if c == nil {
			return
		}
		written, err := w.answer(c)
		if err == nil {
			err = r.q.Push(c, written)
		}
		if err != nil {
			r.broken(err)
			return
		}
	}
}

// next takes the next request off the ring; nil at the end.
func (r *run) next() *virtio.Chain {
	r.token.Lock()
	defer r.token.Unlock()
	if r.ended {
		return nil
	}
	c, err := r.q.Next()
	if err != nil {
		r.ended = true
		if !errors.Is(err, eventfd.ErrInterrupted) {
			r.fail(fmt.Errorf("virtio-blk: %w", err))
		}
	}
	return c
}

// broken ends all of the goroutines: the driver broke the rules.
func (r *run) broken(err error) {
	r.fail(fmt.Errorf("virtio-blk: %w", err))
	r.q.Interrupt() // who waits at the ring
}

// Sleep answers what was taken off the ring, and stops.
func (d *Device) Sleep() error {
	r := d.run
	if r == nil {
		return nil
	}
	d.run = nil
	err := r.q.Interrupt()
	r.wg.Wait()
	return err
}

// Reset stops, after the I/O that is under way. There is no state to forget.
func (d *Device) Reset() { d.Sleep() }
