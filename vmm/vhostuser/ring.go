package vhostuser

import (
	"encoding/binary"
	"fmt"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/virtio"
)

// A ring is what the front-end has said about one virtqueue.
type ring struct {
	size              uint32
	desc, used, avail uint64 // front-end addresses
	hasAddr           bool
	base              uint16
	kick, call        *eventfd.EventFD
	enabled           bool
	queue             *virtio.Queue // while the device is active
}

// started reports whether the front-end wants the ring to run: between a kick
// descriptor and GET_VRING_BASE.
func (r *ring) started() bool { return r.kick != nil }

func (r *ring) closeKick() {
	if r.kick != nil {
		r.kick.Close()
		r.kick = nil
	}
}

func (r *ring) closeCall() {
	if r.call != nil {
		r.call.Close()
		r.call = nil
	}
}

// setAddr takes a SET_VRING_ADDR payload behind its index and flags.
func (r *ring) setAddr(b []byte) {
	le := binary.LittleEndian
	r.desc, r.used, r.avail = le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:])
	r.hasAddr = true
}

// build makes the device's queue of a ring that is started. Its size is the
// front-end's affair: QEMU's virtio-mmio offers the driver 1024 entries, whatever
// the device would have (virtio_mmio_read, VIRTIO_MMIO_QUEUE_NUM_MAX).
func (r *ring) build(t *table, features uint64) (*virtio.Queue, error) {
	if !r.hasAddr || r.size == 0 {
		return nil, fmt.Errorf("kick before size and address: %w", ErrProtocol)
	}
	cfg := virtio.QueueConfig{Size: uint16(r.size), Features: features, Base: r.base}
	for _, a := range []struct {
		user uint64
		gpa  *uint64
	}{{r.desc, &cfg.DescGPA}, {r.avail, &cfg.AvailGPA}, {r.used, &cfg.UsedGPA}} {
		var err error
		if *a.gpa, err = t.gpa(a.user); err != nil {
			return nil, err
		}
	}
	return virtio.NewQueue(t.mem, cfg, r.kick, r.call)
}
