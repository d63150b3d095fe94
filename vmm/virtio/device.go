// Package virtio is what every virtio device and every transport agree on: a
// Device, the Queues it is activated with, and descriptor Chains over guest
// memory that are checked before a device sees them (Virtual I/O Device
// specification, version 1.2; only its modern, split-ring form).
//
// A device knows queues of chains, kicks and calls, its config space, and
// nothing of the transport; a transport (vmm/virtio/mmio, vmm/vhostuser) knows
// devices by the Device interface, and nothing of what they do. So each device
// runs under each engine, and is tested and fuzzed alone.
package virtio

import (
	"fmt"

	"github.com/stilehq/stile/vmm/memory"
)

// Device types (section 5).
const (
	IDNet     = 1
	IDBlock   = 2
	IDConsole = 3
	IDRNG     = 4
	IDBalloon = 5
	IDVsock   = 19
	IDFS      = 26
)

// DeviceName names a device type as the specification does.
func DeviceName(id uint32) string {
	names := map[uint32]string{IDNet: "virtio-net", IDBlock: "virtio-blk", IDConsole: "virtio-console",
		IDRNG: "virtio-rng", IDBalloon: "virtio-balloon", IDVsock: "virtio-vsock", IDFS: "virtio-fs"}
	if name, ok := names[id]; ok {
		return name
	}
	return fmt.Sprintf("virtio-%d", id)
}

// Feature bits that concern the rings, not a device (section 6).
const (
	FeatureIndirectDesc uint64 = 1 << 28
	FeatureEventIdx     uint64 = 1 << 29
	FeatureVersion1     uint64 = 1 << 32
)

// RingFeatures are the features that Queue implements; a transport offers them
// for every device.
const RingFeatures = FeatureIndirectDesc | FeatureEventIdx | FeatureVersion1

// A Device is the host's half of one virtio device.
//
// A transport calls ID, QueueSizes, Features and the config methods at any
// time, and the others in the order Activate, then Sleep or Reset, then perhaps
// Activate again; never two of these at once.
type Device interface {
	// ID is the device type, IDNet and so on.
	ID() uint32
	// QueueSizes is the largest size of each queue, a power of two each.
	QueueSizes() []uint16
	// Features are the device's own feature bits (RingFeatures excluded).
	Features() uint64
	// ReadConfig fills p from the config space at off; bytes behind its end
	// read as zero.
	ReadConfig(off uint32, p []byte)
	// WriteConfig is the driver writing p at off. A device without writable
	// fields ignores it.
	WriteConfig(off uint32, p []byte)
	// Activate starts the device on the queues that the driver set up.
	Activate(Activation) error
	// Sleep stops the device and hands its queues back to the transport, which
	// alone saves and restores rings. Every chain that was popped has been
	// pushed when it returns, or is listed for the device to take up again
	// after the next Activate. The device keeps its own state.
	Sleep() error
	// Reset stops the device and forgets the driver's state: a reset by the
	// driver, or the end of the machine. Chains in flight are dropped. It is
	// idempotent; when it returns, no goroutine of the device touches guest
	// memory.
	Reset()
}

// An Activation is what a transport hands to a Device when the driver is ready.
type Activation struct {
	Memory   *memory.Memory
	Features uint64 // acked by the driver, RingFeatures included

	// Queues are as many as QueueSizes, or fewer and with nil entries where
	// the transport keeps a queue for itself (the event queue of vhost-user
	// vsock stays in QEMU).
	Queues []*Queue

	// ConfigChanged tells the driver that the config space has changed.
	ConfigChanged func()

	// Fail reports that the driver broke the rules in a way that ends the
	// machine: a malformed ring, a chain beyond guest memory. It does not
	// block and may be called more than once; the device stops using the
	// queue that is broken and waits for its Reset.
	Fail func(error)
}

// SharedMemory is implemented by a Device with a shared-memory region
// (section 2.10), such as the DAX window of virtio-fs. A transport without
// such regions ignores it.
type SharedMemory interface {
	// SharedMemorySize is the length in bytes of region 0, a multiple of the
	// page size.
	SharedMemorySize() uint64
	// SetSharedMemory gives the host's view of the region before Activate.
	SetSharedMemory(window []byte)
}
