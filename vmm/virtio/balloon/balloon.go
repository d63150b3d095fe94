// Package balloon is the virtio memory balloon (Virtual I/O Device specification
// 1.2, section 5.5), for the sake of free page reporting: the guest names free
// pages in runs of 2 MiB and more, and waits; the host takes the memory back, and
// the pages are zero when the guest next touches them.
//
// The balloon's own size stays 0. Pages that a driver puts into it all the same
// are given back to the host too.
package balloon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/stilehq/stile/vmm/memory"
	"github.com/stilehq/stile/vmm/virtio"
)

// Queues, as the specification numbers them.
const (
	inflateQueue, deflateQueue, statsQueue, freePageQueue, reportingQueue = 0, 1, 2, 3, 4

	// compactQueue is where Linux has the reporting queue: it numbers the
	// queues that it uses in a row (vm_find_vqs of virtio_mmio.c, the same up
	// to 7.3), and of those between it uses none as they are not offered.
	compactQueue = statsQueue

	queues    = 5
	queueSize = 128

	featureReporting = 1 << 5 // VIRTIO_BALLOON_F_PAGE_REPORTING

	pageShift = 12 // of the specification, whatever the guest's pages are
	pageSize  = 1 << pageShift

	// maxInflate bounds the page numbers of one chain. Linux has 256.
	maxInflate = 16384

	configActual = 4 // offset of le32 actual
)

// A Device is a virtio-balloon device. It implements virtio.Device.
type Device struct {
	discard func(gpa, n uint64)
	server  virtio.Server
	actual  atomic.Uint32 // pages in the balloon, as the driver says

	given atomic.Uint64
}

var _ virtio.Device = (*Device)(nil)

// New makes a Device that calls discard for each run of n bytes at gpa of guest
// memory that the guest has no use for: whole pages of 4 KiB within one region.
// The guest waits for its return, after which the bytes must read as zero or as
// they were. It is called by several goroutines, of the device's own.
func New(discard func(gpa, n uint64)) *Device { return &Device{discard: discard} }

// Given is the number of bytes that were passed to discard.
func (d *Device) Given() uint64 { return d.given.Load() }

// ID is virtio.IDBalloon.
func (d *Device) ID() uint32 { return virtio.IDBalloon }

// QueueSizes are those of all five queues of the specification.
func (d *Device) QueueSizes() []uint16 {
	sizes := make([]uint16, queues)
	for i := range sizes {
		sizes[i] = queueSize
	}
	return sizes
}

// Features is free page reporting. PAGE_POISON is not offered: a guest that
// fills free pages with a pattern then reports none.
func (d *Device) Features() uint64 { return featureReporting }

// ReadConfig reads struct virtio_balloon_config: a target of 0 pages, and actual.
func (d *Device) ReadConfig(off uint32, p []byte) {
	clear(p)
	var cfg [16]byte
	binary.LittleEndian.PutUint32(cfg[configActual:], d.actual.Load())
	if off < uint32(len(cfg)) {
		copy(p, cfg[off:])
	}
}

// WriteConfig takes what the driver says of actual.
func (d *Device) WriteConfig(off uint32, p []byte) {
	if off == configActual && len(p) == 4 {
		d.actual.Store(binary.LittleEndian.Uint32(p))
	}
}

// Activate starts the queues that the driver has set up. Both for the balloon
// must be there.
func (d *Device) Activate(a virtio.Activation) error {
	var qs [queues]*virtio.Queue
	copy(qs[:], a.Queues)
	if qs[inflateQueue] == nil || qs[deflateQueue] == nil {
		return errors.New("virtio-balloon lacks a queue")
	}
	fail := func(err error) { a.Fail(fmt.Errorf("virtio-balloon: %w", err)) }
	d.server.Serve(qs[inflateQueue], fail, func(c *virtio.Chain) (uint32, error) { return 0, d.inflate(a.Memory, c) })
	d.server.Serve(qs[deflateQueue], fail, func(*virtio.Chain) (uint32, error) { return 0, nil }) // used again when touched
	for _, i := range []int{compactQueue, reportingQueue} {
		if qs[i] == nil {
			continue
		}
		d.server.Serve(qs[i], fail, func(c *virtio.Chain) (uint32, error) {
			if a.Features&featureReporting == 0 {
				return 0, nil // whatever this queue is to the driver
			}
			return 0, d.report(a.Memory, c)
		})
	}
	return nil
}

// report gives back what a chain of the reporting queue covers.
func (d *Device) report(mem *memory.Memory, c *virtio.Chain) error {
	for _, b := range c.Writable {
		gpa, err := mem.GPA(b)
		if err != nil {
			return err
		}
		d.give(gpa, uint64(len(b)))
	}
	return nil
}

// give calls discard for the whole pages of a run.
func (d *Device) give(gpa, n uint64) {
	first := (gpa + pageSize - 1) &^ (pageSize - 1)
	end := (gpa + n) &^ (pageSize - 1)
	if first < end {
		d.discard(first, end-first)
		d.given.Add(end - first)
	}
}

// inflate gives back the pages whose numbers are in a chain, in runs.
func (d *Device) inflate(mem *memory.Memory, c *virtio.Chain) error {
	n := c.ReadableLen()
	if n > 4*maxInflate || n%4 != 0 {
		return fmt.Errorf("%d bytes of page numbers: %w", n, virtio.ErrRing)
	}
	numbers := make([]byte, 0, n)
	for _, b := range c.Readable {
		numbers = append(numbers, b...) // a copy, which the guest does not change
	}
	var gpa, length uint64
	for ; len(numbers) > 0; numbers = numbers[4:] {
		at := uint64(binary.LittleEndian.Uint32(numbers)) << pageShift
		if _, err := mem.Slice(at, pageSize); err != nil {
			return fmt.Errorf("page in the balloon: %w", err)
		}
		if _, err := mem.Slice(gpa, length+pageSize); length > 0 && at == gpa+length && err == nil {
			length += pageSize
			continue
		}
		d.give(gpa, length)
		gpa, length = at, pageSize
	}
	d.give(gpa, length)
	return nil
}

// Sleep stops.
func (d *Device) Sleep() error { return d.server.Stop() }

// Reset stops. The balloon of the next driver is empty.
func (d *Device) Reset() {
	d.server.Stop()
	d.actual.Store(0)
}
