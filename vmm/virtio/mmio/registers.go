package mmio

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// Size is the length in bytes of a device's registers: one page, so that they
// can be a memory slot of their own.
const Size = 4096

// Registers (table 4.1), as offsets from the device's base. The engine needs
// those with a name outside; the rest is the driver's.
const (
	magicValue        = 0x000
	version           = 0x004
	deviceID          = 0x008
	vendorID          = 0x00c
	deviceFeatures    = 0x010
	deviceFeaturesSel = 0x014
	driverFeatures    = 0x020
	driverFeaturesSel = 0x024
	queueSel          = 0x030
	queueNumMax       = 0x034
	queueNum          = 0x038
	queueReady        = 0x044

	// QueueNotify takes the index of a queue that the device shall look at: a
	// 32-bit write. An ioeventfd a queue goes here, with the index as the value
	// that must match.
	QueueNotify = 0x050

	interruptStatus = 0x060

	// InterruptACK takes what the driver read from InterruptStatus. An
	// ioeventfd that nobody reads may go here, for the value AckUsed (package
	// comment).
	InterruptACK = 0x064

	status           = 0x070
	queueDescLow     = 0x080
	queueDescHigh    = 0x084
	queueDriverLow   = 0x090
	queueDriverHigh  = 0x094
	queueDeviceLow   = 0x0a0
	queueDeviceHigh  = 0x0a4
	shmSel           = 0x0ac
	shmLenLow        = 0x0b0
	shmLenHigh       = 0x0b4
	shmBaseLow       = 0x0b8
	shmBaseHigh      = 0x0bc
	queueReset       = 0x0c0 // VIRTIO_F_RING_RESET is not offered: reads as 0
	configGeneration = 0x0fc
	configSpace      = 0x100
)

const (
	magic  = 'v' | 'i'<<8 | 'r'<<16 | 't'<<24
	vendor = 's' | 't'<<8 | 'i'<<16 | 'l'<<24
)

// Interrupt bits.
const (
	intUsed   = 1
	intConfig = 2

	// AckUsed is what a driver writes to InterruptACK when nothing but used
	// buffers interrupted it.
	AckUsed = intUsed
)

// Device status bits (section 2.1).
const (
	statusAcknowledge = 1
	statusDriver      = 2
	statusDriverOK    = 4
	statusFeaturesOK  = 8
	statusNeedsReset  = 64
	statusFailed      = 128
)

// A page is what the guest reads. It may read at any moment and any width, past
// this process, so each register is stored whole.
//
// The mutex is for the registers that change without the driver's doing: status
// (NEEDS_RESET), InterruptStatus, and the config space with its generation. It
// is held for moments only, never while a device starts or stops.
type page struct {
	mu    sync.Mutex
	bytes []byte // Size bytes, aligned
}

func (p *page) word(off uint32) *uint32 {
	return (*uint32)(unsafe.Pointer(&p.bytes[off])) // off is a constant or was checked: aligned, inside
}

func (p *page) load(off uint32) uint32     { return atomic.LoadUint32(p.word(off)) }
func (p *page) store(off uint32, v uint32) { atomic.StoreUint32(p.word(off), v) }

// store64 stores the register pair that begins at low.
func (p *page) store64(low uint32, v uint64) {
	p.store(low, uint32(v))
	p.store(low+4, uint32(v>>32))
}

// read copies the bytes at off, which may lie anywhere.
func (p *page) read(off uint32, b []byte) {
	clear(b)
	for i := range b {
		at := uint64(off) + uint64(i)
		if at >= uint64(len(p.bytes)) {
			return
		}
		w := p.load(uint32(at) &^ 3)
		b[i] = byte(w >> (8 * (at & 3)))
	}
}

// storeConfig stores the config space c, and reports whether it has changed.
// Called with mu held.
func (p *page) storeConfig(c []byte) (changed bool) {
	for i := 0; i+4 <= len(c); i += 4 {
		w := *(*uint32)(unsafe.Pointer(&c[i])) // little-endian, as all that stile runs on
		if p.load(configSpace+uint32(i)) != w {
			p.store(configSpace+uint32(i), w)
			changed = true
		}
	}
	return changed
}
