// Package rng is the virtio entropy device (Virtual I/O Device specification
// 1.2, section 5.4): it fills the driver's buffers from the host's random number
// generator.
package rng

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/virtio"
)

const (
	// queueSize is plenty: Linux has one request in flight.
	queueSize = 8

	// maxFill bounds what one chain gets; the driver is told how much that is.
	// Linux asks for a cache line, a hostile driver for 4 GiB.
	maxFill = 4096
)

// A Device is a virtio-rng device. It implements virtio.Device.
type Device struct {
	server virtio.Server
}

var _ virtio.Device = (*Device)(nil)

// New makes a Device.
func New() *Device { return new(Device) }

// ID is virtio.IDRNG.
func (d *Device) ID() uint32 { return virtio.IDRNG }

// QueueSizes is that of the only queue.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize} }

// Features are none.
func (d *Device) Features() uint64 { return 0 }

// ReadConfig reads zeros: there is no config space.
func (d *Device) ReadConfig(_ uint32, p []byte) { clear(p) }

// WriteConfig is ignored.
func (d *Device) WriteConfig(uint32, []byte) {}

// Activate starts filling buffers.
func (d *Device) Activate(a virtio.Activation) error {
	if len(a.Queues) == 0 || a.Queues[0] == nil {
		return errors.New("virtio-rng has no queue")
	}
	d.server.Serve(a.Queues[0], func(err error) { a.Fail(fmt.Errorf("virtio-rng: %w", err)) }, fill)
	return nil
}

func fill(c *virtio.Chain) (uint32, error) {
	n := 0
	for _, b := range c.Writable {
		b = b[:min(len(b), maxFill-n)]
		for len(b) > 0 {
			// Without flags it waits for nothing once the host has booted, and
			// up to 256 bytes come whole.
			k, err := unix.Getrandom(b[:min(len(b), 256)], 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return 0, fmt.Errorf("getrandom: %w", err)
			}
			b = b[k:]
			n += k
		}
	}
	return uint32(n), nil
}

// Sleep stops.
func (d *Device) Sleep() error { return d.server.Stop() }

// Reset stops; there is no state to forget.
func (d *Device) Reset() { d.server.Stop() }
