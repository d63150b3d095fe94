// Package mmio is the virtio-mmio transport, version 2 (Virtual I/O Device
// specification 1.2, section 4.2): one page of registers for each device, with
// any virtio.Device behind it. An engine gives it what its vCPUs write, and
// takes eventfds from it.
//
// # What costs an exit
//
// The registers are kept in a page of host memory (Page) which holds at any
// moment what a read of them gives. Mapped into the guest as a read-only memory
// slot, reads cost no exit; a read whose value depends on a selector
// (QueueNumMax on QueueSel, DeviceFeatures on DeviceFeaturesSel, the SHM
// registers on SHMSel) is right because the write of the selector exits, and
// the page is changed before that vCPU goes on. Kicks are ioeventfds and reach
// the device past the vCPU thread. Calls are an irqfd and reach the guest past
// this package: each queue's call eventfd is the interrupt itself.
//
// # Why InterruptStatus is constant
//
// Nobody is there to set the used-buffer bit for a call that goes straight into
// an irqfd. So from DRIVER_OK on the bit is always set: whenever the guest is
// interrupted it looks at its rings, and one look too many is what section
// 2.7.7.2 has every driver cope with. With the bit constant its acknowledgement
// means nothing, so it may go into an ioeventfd that nobody reads
// (InterruptACK, AckUsed): an interrupt costs no exit at all.
//
// A true bit could not be acknowledged that way. The driver reads 1 and
// acknowledges; before this process sees the acknowledgement the device uses
// another buffer and sets the bit, which is set already; then the
// acknowledgement is seen and clears it: the second interrupt's handler reads 0
// and the buffer lies there for ever. So it would be an exit for each
// interrupt, and a hop through this process before it.
//
// The configuration bit is true, for the driver reads the whole config space
// when it is set. An acknowledgement that includes it (the value 3) matches no
// ioeventfd, exits, and clears it before that vCPU goes on. A change that comes
// between the driver's read and its acknowledgement is cleared with the first,
// and not lost: the config space was changed before the bit was set, and the
// driver reads the config space after it has acknowledged.
//
// The interrupt must be edge-triggered, as an irqfd is but a pulse: a level
// would be gone before the handler has ended, and with it a call that came
// meanwhile.
//
// # Config space
//
// It is copied into the page when the device says that it has changed, when the
// driver writes it, and with each write of the status. A field of up to four
// bytes is always whole. One of eight (the capacity of a disk) is read by the
// driver in halves between two reads of ConfigGeneration, and these two can be
// equal though a change was under way, as no read exits. The interrupt that
// follows each change has the driver read it again.
//
// # What a hostile driver can do
//
// Lose its device. What is out of order fails it: DEVICE_NEEDS_RESET, and
// Config.Fail with ErrDriver or what the ring had. Registers that do not exist,
// read-only ones and accesses of the wrong width are ignored, as is a kick of a
// queue that does not exist; a kick before DRIVER_OK is found by the device when
// it starts, which looks at its rings anyway.
package mmio

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/memory"
	"github.com/stilehq/stile/vmm/virtio"
)

// ErrDriver says that the driver broke the rules of the transport.
var ErrDriver = errors.New("virtio-mmio rules broken by the driver")

// Config is what a Transport needs of its engine.
type Config struct {
	Memory *memory.Memory

	// Fail reports that the guest broke the rules, of the registers or of a
	// ring: the device is of no more use until its driver resets it, and an
	// engine ends the machine. It may be called from any goroutine, also within
	// WriteRegister, more than once, and does not block.
	Fail func(error)

	// Page is where the registers are mirrored: Size bytes of a page-aligned
	// mapping, which the engine unmaps after Close. The pages of several
	// devices in a row can be one memory slot. Nil: the Transport maps one.
	Page []byte

	// Window is where the guest finds the shared memory of a device that is a
	// virtio.SharedMemory. Nil: the device has none.
	Window *Window
}

// A Window is a shared-memory region (section 2.10) as the engine mapped it.
type Window struct {
	GPA   uint64
	Bytes []byte // the host's view, of SharedMemorySize bytes
}

// A Transport is one device behind virtio-mmio registers. ReadRegister and
// WriteRegister may be called by all vCPUs at once.
type Transport struct {
	dev       virtio.Device
	cfg       Config
	name      string
	ownsPage  bool
	interrupt *eventfd.EventFD
	kicks     []*eventfd.EventFD // one a queue
	page      page

	mu          sync.Mutex // all of what follows; held while the device starts and stops
	queues      []queue
	queueSel    uint32
	featureSel  uint32 // DriverFeaturesSel
	driver      uint64 // DriverFeatures
	active      bool   // between Activate and Sleep or Reset
	asleep      bool   // by Sleep
	closed      bool
	configBytes [Size - configSpace]byte // guarded by page.mu
}

// A queue is what the driver has said about one virtqueue.
type queue struct {
	max               uint16
	size              uint32
	desc, avail, used uint64 // GPAs of the descriptor, driver and device area
	ready             bool
	base              uint16        // available index to go on from
	queue             *virtio.Queue // while the device is active
}

// New makes a Transport for dev. The caller closes it.
func New(dev virtio.Device, cfg Config) (_ *Transport, err error) {
	t := &Transport{dev: dev, cfg: cfg, name: deviceName(dev.ID())}
	defer func() {
		if err != nil {
			t.release()
		}
	}()
	if cfg.Page == nil {
		t.page.bytes, err = unix.Mmap(-1, 0, Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, fmt.Errorf("map registers: %w", err)
		}
		t.ownsPage = true
	} else if t.page.bytes = cfg.Page; len(cfg.Page) != Size {
		return nil, fmt.Errorf("registers of %d bytes, not %d", len(cfg.Page), Size)
	}
	if t.interrupt, err = eventfd.New(); err != nil {
		return nil, err
	}
	for _, max := range dev.QueueSizes() {
		kick, err := eventfd.New()
		if err != nil {
			return nil, err
		}
		t.kicks = append(t.kicks, kick)
		t.queues = append(t.queues, queue{max: max})
	}
	if err := t.setWindow(); err != nil {
		return nil, err
	}
	clear(t.page.bytes)
	t.page.store(magicValue, magic)
	t.page.store(version, 2)
	t.page.store(deviceID, dev.ID())
	t.page.store(vendorID, vendor)
	t.clearRegisters()
	return t, nil
}

func (t *Transport) setWindow() error {
	w := t.cfg.Window
	if w == nil {
		return nil
	}
	dev, ok := t.dev.(virtio.SharedMemory)
	if !ok || dev.SharedMemorySize() != uint64(len(w.Bytes)) {
		return fmt.Errorf("%s has no shared memory of %d bytes", t.name, len(w.Bytes))
	}
	dev.SetSharedMemory(w.Bytes)
	return nil
}

// Page is the registers' mirror: Size bytes, page-aligned, valid until Close.
// Nobody else writes it.
func (t *Transport) Page() []byte { return t.page.bytes }

// Kicks are the eventfds by which the driver kicks, one a queue. They stay the
// Transport's.
func (t *Transport) Kicks() []*eventfd.EventFD { return slices.Clone(t.kicks) }

// Interrupt is the eventfd that is signalled for each interrupt of the device.
// It stays the Transport's.
func (t *Transport) Interrupt() *eventfd.EventFD { return t.interrupt }

// ReadRegister fills p with what the guest reads at off, an offset into the
// page. It has no effect on the device.
func (t *Transport) ReadRegister(off uint32, p []byte) { t.page.read(off, p) }

// Close resets the device, and closes the eventfds. No vCPU runs any more.
func (t *Transport) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	t.dev.Reset()
	return t.release()
}

func (t *Transport) release() error {
	var errs []error
	for _, kick := range t.kicks {
		errs = append(errs, kick.Close())
	}
	if t.interrupt != nil {
		errs = append(errs, t.interrupt.Close())
	}
	t.page.mu.Lock()
	defer t.page.mu.Unlock()
	if t.ownsPage {
		errs = append(errs, unix.Munmap(t.page.bytes))
	}
	t.page.bytes = nil
	return errors.Join(errs...)
}

func deviceName(id uint32) string {
	names := map[uint32]string{virtio.IDNet: "net", virtio.IDBlock: "blk", virtio.IDConsole: "console", virtio.IDRNG: "rng",
		virtio.IDBalloon: "balloon", virtio.IDVsock: "vsock", virtio.IDFS: "fs"}
	if name, ok := names[id]; ok {
		return "virtio-" + name
	}
	return fmt.Sprintf("virtio device %d", id)
}
