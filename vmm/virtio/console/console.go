// Package console is the virtio console device (Virtual I/O Device specification
// 1.2, section 5.3) with one port, which Linux knows as hvc0.
//
// Linux writes to it with a spin lock held and spins until the buffer is used
// (hvc's put_chars), so what the guest prints is copied to the Writer at once,
// and a Writer that blocks holds up a vCPU.
package console

import (
	"errors"
	"fmt"
	"io"

	"github.com/stilehq/stile/vmm/virtio"
)

const (
	receiveQueue, transmitQueue = 0, 1

	queueSize = 64

	// maxWrite bounds what is written of one chain; the rest is dropped. Linux
	// writes a page at most.
	maxWrite = 64 << 10
)

// A Device is a virtio-console device. It implements virtio.Device.
type Device struct {
	output io.Writer
	input  *input // nil without
	server virtio.Server
	buf    [maxWrite]byte // of the transmit queue's goroutine
}

var _ virtio.Device = (*Device)(nil)

// New makes a Device that writes what the guest prints to output, and gives the
// guest what it reads from input, which may be nil. Both stay the caller's.
//
// Errors of output are ignored: a guest prints whether or not anybody listens.
// input is read from the first Activate on, by a goroutine that ends when input
// does: to end it, the caller closes input.
func New(output io.Writer, in io.Reader) *Device {
	d := &Device{output: output}
	if in != nil {
		d.input = newInput(in)
	}
	return d
}

// ID is virtio.IDConsole.
func (d *Device) ID() uint32 { return virtio.IDConsole }

// QueueSizes are those of the receive and the transmit queue.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize, queueSize} }

// Features are none: one port, of no particular size.
func (d *Device) Features() uint64 { return 0 }

// ReadConfig reads zeros: each field of the config space belongs to a feature
// that is not offered.
func (d *Device) ReadConfig(_ uint32, p []byte) { clear(p) }

// WriteConfig is ignored.
func (d *Device) WriteConfig(uint32, []byte) {}

// Activate starts both directions.
func (d *Device) Activate(a virtio.Activation) error {
	if len(a.Queues) <= transmitQueue || a.Queues[receiveQueue] == nil || a.Queues[transmitQueue] == nil {
		return errors.New("virtio-console lacks a queue")
	}
	fail := func(err error) { a.Fail(fmt.Errorf("virtio-console: %w", err)) }
	d.server.Serve(a.Queues[transmitQueue], fail, d.transmit)
	if d.input != nil {
		rx := a.Queues[receiveQueue]
		d.input.start(rx, fail)
		d.server.Run(rx, fail, d.input.kicked)
	}
	return nil
}

// transmit writes one chain. It is copied first: a Writer may look at its bytes
// twice, and the guest can change them meanwhile.
func (d *Device) transmit(c *virtio.Chain) (uint32, error) {
	n := 0
	for _, b := range c.Readable {
		n += copy(d.buf[n:], b)
	}
	if n > 0 {
		d.output.Write(d.buf[:n])
	}
	return 0, nil
}

// Sleep stops. What was read from the input and not given to the guest waits.
func (d *Device) Sleep() error {
	if d.input != nil {
		d.input.stop()
	}
	return d.server.Stop()
}

// Reset stops. Input that the last driver did not take is the next one's.
func (d *Device) Reset() { d.Sleep() }
