package virtiotest

import (
	"errors"
	"sync"

	"github.com/stilehq/stile/vmm/virtio"
)

// An Echo is a device for the tests of transports: two queues, on each of which
// it copies what is readable of a chain to what is writable, and a config space
// of EchoConfig bytes that the driver may write.
type Echo struct {
	server virtio.Server

	mu      sync.Mutex
	config  [EchoConfig]byte
	changed func() // nil while inactive

	Activations, Sleeps, Resets int // calls that did something; the transport's goroutine alone writes them
	active                      bool
}

// What an Echo is.
const (
	EchoID      = 0x7e57
	EchoConfig  = 20
	EchoFeature = 1 << 35
	EchoQueue   = 64
)

var _ virtio.Device = (*Echo)(nil)

// ID implements virtio.Device.
func (e *Echo) ID() uint32 { return EchoID }

// QueueSizes implements virtio.Device.
func (e *Echo) QueueSizes() []uint16 { return []uint16{EchoQueue, EchoQueue / 2} }

// Features implements virtio.Device.
func (e *Echo) Features() uint64 { return EchoFeature }

// ReadConfig implements virtio.Device.
func (e *Echo) ReadConfig(off uint32, p []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(p)
	if off < EchoConfig {
		copy(p, e.config[off:])
	}
}

// WriteConfig implements virtio.Device.
func (e *Echo) WriteConfig(off uint32, p []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if off < EchoConfig {
		copy(e.config[off:], p)
	}
}

// Change changes the config space from the device's side.
func (e *Echo) Change(off uint32, p []byte) {
	e.WriteConfig(off, p)
	e.mu.Lock()
	changed := e.changed
	e.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// Activate implements virtio.Device.
func (e *Echo) Activate(a virtio.Activation) error {
	if e.active {
		return errors.New("echo is active already")
	}
	if len(a.Queues) == 0 || a.Queues[0] == nil {
		return errors.New("echo lacks its first queue")
	}
	for _, q := range a.Queues {
		if q != nil {
			e.server.Serve(q, a.Fail, echo)
		}
	}
	e.Activations++
	e.active = true
	e.setChanged(a.ConfigChanged)
	return nil
}

func (e *Echo) setChanged(fn func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.changed = fn
}

func echo(c *virtio.Chain) (uint32, error) {
	n := 0
	in := c.Readable
	for _, b := range c.Writable {
		for len(b) > 0 && len(in) > 0 {
			k := copy(b, in[0])
			n += k
			b, in[0] = b[k:], in[0][k:]
			if len(in[0]) == 0 {
				in = in[1:]
			}
		}
	}
	return uint32(n), nil
}

// Sleep implements virtio.Device.
func (e *Echo) Sleep() error {
	e.active = false
	e.Sleeps++
	e.setChanged(nil)
	return e.server.Stop()
}

// Reset implements virtio.Device.
func (e *Echo) Reset() {
	e.server.Stop()
	e.setChanged(nil)
	e.active = false
	e.Resets++
}
