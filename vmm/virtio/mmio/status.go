package mmio

import (
	"fmt"

	"github.com/stilehq/stile/vmm/virtio"
)

// writeStatus takes a write of the device status: the driver's progress, bit by
// bit, or zero for a reset. This file is called with mu held.
func (t *Transport) writeStatus(v uint32) {
	old := t.page.load(status)
	switch {
	case v == 0:
		t.reset()
		return
	case old&statusNeedsReset != 0:
		return // nothing but a reset helps
	case v > 0xff:
		t.misuse("status %#x", v)
		return
	case old&^v != 0:
		t.misuse("status goes back from %#x to %#x", old, v)
		return
	}
	fresh := v &^ old
	if fresh&statusFeaturesOK != 0 && !t.featuresOK() {
		// The driver reads it back, and sees that its choice is not accepted.
		fresh &^= statusFeaturesOK
	}
	if fresh&statusDriverOK != 0 && (old|fresh)&statusFeaturesOK == 0 {
		t.misuse("DRIVER_OK without FEATURES_OK")
		return
	}
	t.setStatus(old | fresh&^statusNeedsReset)
	t.page.mu.Lock()
	t.mirrorConfig() // it may have changed while nobody was told
	t.page.mu.Unlock()
	switch {
	case fresh&statusFailed != 0:
		// The driver has given up, and may not come back to reset.
		t.stop()
	case fresh&statusDriverOK != 0:
		t.activate()
	}
}

// setStatus is the driver's part of the status; the device's bit stays.
func (t *Transport) setStatus(v uint32) {
	t.page.mu.Lock()
	defer t.page.mu.Unlock()
	t.page.store(status, v|t.page.load(status)&statusNeedsReset)
	used := uint32(0)
	if v&statusDriverOK != 0 {
		used = intUsed // from now on, see the package comment
	}
	t.page.store(interruptStatus, t.page.load(interruptStatus)|used)
}

func (t *Transport) featuresOK() bool {
	return t.driver&^t.offered() == 0 && t.driver&virtio.FeatureVersion1 != 0
}

// activate starts the device on the queues that are ready.
func (t *Transport) activate() {
	queues := make([]*virtio.Queue, len(t.queues))
	for i := range t.queues {
		if !t.queues[i].ready {
			continue
		}
		var err error
		if queues[i], err = t.build(uint32(i)); err != nil {
			t.fail(fmt.Errorf("queue %d: %w", i, err))
			return
		}
	}
	err := t.dev.Activate(virtio.Activation{Memory: t.cfg.Memory, Features: t.driver, Queues: queues,
		ConfigChanged: t.configChanged, Fail: t.fail})
	if err != nil {
		t.fail(fmt.Errorf("%w: %w", ErrDriver, err))
		return
	}
	t.active = true
	for i := range t.queues {
		t.queues[i].queue = queues[i]
	}
}

// sleep makes the device sleep, if it is active, and keeps the rings' indices.
func (t *Transport) sleep() error {
	if !t.active {
		return nil
	}
	err := t.dev.Sleep()
	t.active = false
	for i := range t.queues {
		if q := &t.queues[i]; q.queue != nil {
			q.base, q.queue = q.queue.Base(), nil
		}
	}
	if err != nil {
		return fmt.Errorf("%s to sleep: %w", t.name, err)
	}
	return nil
}

// stop resets the device and leaves the registers alone.
func (t *Transport) stop() {
	t.dev.Reset()
	t.active, t.asleep = false, false
	for i := range t.queues {
		t.queues[i].queue = nil
	}
}

func (t *Transport) reset() {
	t.stop()
	t.clearRegisters()
}

// clearRegisters brings the registers to their state after a reset.
func (t *Transport) clearRegisters() {
	for i := range t.queues {
		t.queues[i] = queue{max: t.queues[i].max}
	}
	t.queueSel, t.featureSel, t.driver = 0, 0, 0
	t.page.store(deviceFeatures, half(t.offered(), 0))
	t.showQueue()
	t.showWindow(0)
	t.page.mu.Lock()
	defer t.page.mu.Unlock()
	t.page.store(status, 0)
	t.page.store(interruptStatus, 0)
	t.mirrorConfig()
}

// Sleep makes the device sleep until Wake, while no vCPU runs: what a pause of
// the machine, or a snapshot, needs. A device without driver sleeps already.
func (t *Transport) Sleep() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.active
	err := t.sleep()
	t.asleep = was
	return err
}

// Wake ends Sleep. The driver is interrupted once, in case a call was lost
// meanwhile.
func (t *Transport) Wake() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.asleep {
		return nil
	}
	t.asleep = false
	t.activate()
	return t.interrupt.Signal()
}
