package virtiotest

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stilehq/stile/vmm/virtio"
)

// patience bounds each wait for a device: far more than any needs, so that only
// one that hangs is caught.
const patience = 10 * time.Second

// A Bus is a transport with a device behind it, as the driver sees it.
type Bus interface {
	// Features are those offered, the rings' included.
	Features() uint64
	// ReadConfig fills p from the config space at off.
	ReadConfig(off uint32, p []byte)
	// WriteConfig writes p to the config space at off.
	WriteConfig(off uint32, p []byte)
	// Start acks features and sets up rings, as many as the device has queues;
	// nil ones are left alone. A device that refuses has failed.
	Start(features uint64, rings []*Ring)
	// Sleep stops the device between two requests; Wake lets it go on.
	Sleep()
	Wake()
	// Reset stops the device for a new Start. It returns when the device no
	// longer touches guest memory.
	Reset()
	// Close ends all of it; the device has been reset then.
	Close()
}

// A Driver is a driver's whole view of a device: rings in guest memory, and the
// transport.
type Driver struct {
	testing.TB
	Bus
	Device   virtio.Device
	Mem      *Memory
	Rings    []*Ring
	Features uint64 // acked by Start

	mu     sync.Mutex
	failed error
	fails  chan struct{} // closed by the first failure
}

// A BusMaker connects a device to a new Bus; it reports failures to d.Report.
type BusMaker func(d *Driver) Bus

// Buses are the transports that a device must run on.
var Buses = map[string]BusMaker{"mmio": newMMIO, "vhost-user": newVhostUser}

// NewDriver makes a driver with memBytes of guest memory for dev, which has no
// driver yet. The Bus is closed at the end of the test.
func NewDriver(tb testing.TB, dev virtio.Device, bus BusMaker, memBytes int) *Driver {
	tb.Helper()
	return newDriver(tb, dev, bus, NewMemory(tb, memBytes))
}

func newDriver(tb testing.TB, dev virtio.Device, bus BusMaker, mem *Memory) *Driver {
	d := &Driver{TB: tb, Device: dev, Mem: mem, fails: make(chan struct{})}
	d.Bus = bus(d)
	tb.Cleanup(d.Close)
	return d
}

// Start starts the device with rings of its own sizes, or of size where that is
// smaller and not zero, and acks the features of it that are offered.
func (d *Driver) Start(features uint64, size uint16) {
	d.Helper()
	d.Features = features & d.Bus.Features()
	d.Rings = nil
	for _, n := range d.Device.QueueSizes() {
		if size != 0 {
			n = min(n, size)
		}
		r := NewRing(d, d.Mem, n, d.Features)
		r.Indirect = d.Features&virtio.FeatureIndirectDesc != 0
		d.Rings = append(d.Rings, r)
	}
	d.Bus.Start(d.Features, d.Rings)
}

// Do puts one chain into a ring and waits until it is used. It returns how many
// bytes the device says it has written.
func (d *Driver) Do(ring int, bufs ...Buf) uint32 {
	d.Helper()
	r := d.Rings[ring]
	head := r.Add(bufs...)
	r.Kick()
	got, written, ok := r.WaitUsed(patience)
	if !ok {
		d.Fatalf("ring %d: the device did not use the chain (it reported: %v)", ring, d.Failure())
	}
	if got != head {
		d.Fatalf("ring %d: the device used chain %d, not %d", ring, got, head)
	}
	return written
}

// Out is a device-readable buffer in new guest memory that holds b.
func (d *Driver) Out(b []byte) Buf {
	d.Helper()
	at := d.Mem.Alloc(len(b), 8)
	copy(d.Mem.Bytes(at, len(b)), b)
	return Buf{GPA: at, Len: uint32(len(b))}
}

// In is a device-writable buffer of n bytes in new guest memory, and its bytes.
func (d *Driver) In(n int) (Buf, []byte) {
	d.Helper()
	at := d.Mem.Alloc(n, 8)
	return Buf{GPA: at, Len: uint32(n), Writable: true}, d.Mem.Bytes(at, n)
}

// Report is how the transport reports that the driver broke the rules.
func (d *Driver) Report(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil {
		d.failed = err
		close(d.fails)
	}
}

// Failure is what was reported first since the last call of Forgive; nil if
// nothing was.
func (d *Driver) Failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// WaitFailure waits for a failure.
func (d *Driver) WaitFailure() error {
	d.Helper()
	select {
	case <-d.failures():
		return d.Failure()
	case <-time.After(patience):
		d.Fatal("the device reports no failure")
		return nil
	}
}

func (d *Driver) failures() chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fails
}

// Forgive forgets a failure.
func (d *Driver) Forgive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		d.failed, d.fails = nil, make(chan struct{})
	}
}

// FailedWith checks that what was reported wraps one of the errors.
func (d *Driver) FailedWith(any ...error) {
	d.Helper()
	err := d.WaitFailure()
	for _, want := range any {
		if errors.Is(err, want) {
			return
		}
	}
	d.Errorf("the device reports %q, which is none of %q", err, any)
}
