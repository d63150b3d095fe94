package mmio

import (
	"encoding/binary"
	"fmt"

	"github.com/stilehq/stile/vmm/virtio"
)

// WriteRegister does what the guest's write of p at off asks for; p is not kept.
// It returns when the page shows the outcome: after a write of zero to the
// status no goroutine of the device touches guest memory.
func (t *Transport) WriteRegister(off uint32, p []byte) {
	if off == QueueNotify && len(p) == 4 { // needs no lock, and must not wait for one
		t.notify(binary.LittleEndian.Uint32(p))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if off >= configSpace {
		t.writeConfig(off-configSpace, p)
		return
	}
	if len(p) == 4 && off&3 == 0 {
		t.writeRegister(off, binary.LittleEndian.Uint32(p))
	}
}

func (t *Transport) notify(index uint32) {
	if index < uint32(len(t.kicks)) {
		if err := t.kicks[index].Signal(); err != nil {
			t.fail(fmt.Errorf("kick queue %d: %w", index, err))
		}
	}
}

// writeRegister takes a write of v. This and the rest of the file is called with
// mu held.
func (t *Transport) writeRegister(off, v uint32) {
	switch off {
	case deviceFeaturesSel:
		t.page.store(deviceFeatures, half(t.offered(), v))
	case driverFeaturesSel:
		t.featureSel = v
	case driverFeatures:
		t.setDriverFeatures(v)
	case queueSel:
		t.queueSel = v
		t.showQueue()
	case shmSel:
		t.showWindow(v)
	case InterruptACK:
		if v&intConfig != 0 {
			t.page.mu.Lock()
			t.page.store(interruptStatus, t.page.load(interruptStatus)&^intConfig)
			t.page.mu.Unlock()
		}
	case status:
		t.writeStatus(v)
	default:
		t.writeQueue(off, v)
	}
}

// offered are the features that the driver may ack.
func (t *Transport) offered() uint64 { return t.dev.Features() | virtio.RingFeatures }

// half is the part of features that a selector chooses.
func half(features uint64, sel uint32) uint32 {
	if sel > 1 {
		return 0
	}
	return uint32(features >> (32 * sel))
}

func (t *Transport) setDriverFeatures(v uint32) {
	if t.page.load(status)&statusFeaturesOK != 0 {
		t.misuse("features after FEATURES_OK")
		return
	}
	switch t.featureSel {
	case 0:
		t.driver = t.driver&^0xffffffff | uint64(v)
	case 1:
		t.driver = t.driver&0xffffffff | uint64(v)<<32
	default:
		if v != 0 {
			t.misuse("features %#x of word %d", v, t.featureSel)
		}
	}
}

// showQueue mirrors what depends on QueueSel.
func (t *Transport) showQueue() {
	var size, ready uint32
	if t.queueSel < uint32(len(t.queues)) {
		q := &t.queues[t.queueSel]
		size = uint32(q.max)
		if q.ready {
			ready = 1
		}
	}
	t.page.store(queueNumMax, size)
	t.page.store(queueReady, ready)
}

// showWindow mirrors the shared-memory region id: a length of -1 says that there
// is none.
func (t *Transport) showWindow(id uint32) {
	length, base := ^uint64(0), ^uint64(0)
	if w := t.cfg.Window; w != nil && id == 0 {
		length, base = uint64(len(w.Bytes)), w.GPA
	}
	t.page.store64(shmLenLow, length)
	t.page.store64(shmBaseLow, base)
}

func (t *Transport) writeQueue(off, v uint32) {
	var set func(q *queue)
	low := func(a *uint64) { *a = *a&^0xffffffff | uint64(v) }
	high := func(a *uint64) { *a = *a&0xffffffff | uint64(v)<<32 }
	switch off {
	case queueNum:
		set = func(q *queue) { q.size = v }
	case queueReady:
		t.writeReady(v)
		return
	case queueDescLow:
		set = func(q *queue) { low(&q.desc) }
	case queueDescHigh:
		set = func(q *queue) { high(&q.desc) }
	case queueDriverLow:
		set = func(q *queue) { low(&q.avail) }
	case queueDriverHigh:
		set = func(q *queue) { high(&q.avail) }
	case queueDeviceLow:
		set = func(q *queue) { low(&q.used) }
	case queueDeviceHigh:
		set = func(q *queue) { high(&q.used) }
	default:
		return
	}
	if t.queueSel >= uint32(len(t.queues)) {
		t.misuse("set-up of queue %d of %d", t.queueSel, len(t.queues))
		return
	}
	q := &t.queues[t.queueSel]
	if q.ready {
		t.misuse("register %#x of queue %d, which is ready", off, t.queueSel)
		return
	}
	set(q)
}

func (t *Transport) writeReady(v uint32) {
	if t.queueSel >= uint32(len(t.queues)) || v > 1 {
		t.misuse("QueueReady %d of queue %d of %d", v, t.queueSel, len(t.queues))
		return
	}
	q := &t.queues[t.queueSel]
	ready := v == 1
	switch {
	case ready == q.ready:
	case !ready:
		// The driver takes its ring back. It does so after a reset, or when it
		// has given up before DRIVER_OK; while the device runs it has no use
		// for the rest either, so all of it stops.
		t.stop()
		q.ready = false
	case t.page.load(status)&statusDriverOK != 0:
		t.misuse("queue %d is made ready after DRIVER_OK", t.queueSel)
	default:
		if err := t.check(t.queueSel); err != nil {
			t.fail(fmt.Errorf("queue %d: %w", t.queueSel, err))
			return
		}
		q.ready = true
	}
	t.showQueue()
}

// check makes sure that the device's queue i can be made.
func (t *Transport) check(i uint32) error {
	q := &t.queues[i]
	if q.size > uint32(q.max) {
		return fmt.Errorf("size %d, not above %d: %w", q.size, q.max, ErrDriver)
	}
	_, err := t.build(i)
	return err
}

// build makes the device's queue i of what the driver said.
func (t *Transport) build(i uint32) (*virtio.Queue, error) {
	q := &t.queues[i]
	cfg := virtio.QueueConfig{Size: uint16(q.size), DescGPA: q.desc, AvailGPA: q.avail, UsedGPA: q.used,
		Features: t.driver, Base: q.base}
	return virtio.NewQueue(t.cfg.Memory, cfg, t.kicks[i], t.interrupt)
}

func (t *Transport) writeConfig(off uint32, p []byte) {
	if uint64(off)+uint64(len(p)) > uint64(len(t.configBytes)) {
		return
	}
	t.dev.WriteConfig(off, append([]byte(nil), p...))
	t.page.mu.Lock()
	defer t.page.mu.Unlock()
	t.mirrorConfig()
}

// mirrorConfig copies the device's config space into the page. It is called with
// page.mu held, and not necessarily with mu.
func (t *Transport) mirrorConfig() {
	t.dev.ReadConfig(0, t.configBytes[:])
	if t.page.storeConfig(t.configBytes[:]) {
		t.page.store(configGeneration, t.page.load(configGeneration)+1)
	}
}

// configChanged is the device's word that its config space has changed. It reads
// it then and there: the device must hold no lock that its ReadConfig takes.
func (t *Transport) configChanged() {
	t.page.mu.Lock()
	if t.page.bytes != nil { // not closed
		t.mirrorConfig()
	}
	t.page.mu.Unlock()
	t.raiseConfig(0)
}

// raiseConfig sets status bits and interrupts the driver for the configuration's
// sake: once it has set DRIVER_OK, as it is deaf before (section 3.1.1).
func (t *Transport) raiseConfig(bits uint32) {
	t.page.mu.Lock()
	if t.page.bytes == nil { // closed
		t.page.mu.Unlock()
		return
	}
	now := t.page.load(status) | bits
	t.page.store(status, now)
	raise := now&statusDriverOK != 0
	if raise {
		t.page.store(interruptStatus, t.page.load(interruptStatus)|intConfig)
	}
	t.page.mu.Unlock()
	if raise {
		// Without its interrupt the device is of no use, but that this eventfd
		// fails has no cause but Close.
		t.interrupt.Signal()
	}
}

// misuse reports what the driver must not do.
func (t *Transport) misuse(format string, args ...any) {
	t.fail(fmt.Errorf(format+": %w", append(args, ErrDriver)...))
}

// fail makes the device one that needs a reset. It is called with mu held or
// without, and by the device.
func (t *Transport) fail(err error) {
	t.raiseConfig(statusNeedsReset)
	t.cfg.Fail(fmt.Errorf("%s: %w", t.name, err))
}
