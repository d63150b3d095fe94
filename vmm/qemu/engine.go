package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/stilehq/stile/vmm"
	"github.com/stilehq/stile/vmm/vhostuser"
	"github.com/stilehq/stile/vmm/virtio"
)

// Engine is the half of the engine in the vmm process: it serves the devices of
// a QEMU that Launch has started.
type Engine struct {
	// Sockets are the vhost-user connections, in the order of the Socket
	// constants. Start closes them.
	Sockets []*os.File
}

var _ vmm.Engine = (*Engine)(nil)

// Name is "qemu".
func (*Engine) Name() string { return "qemu" }

// Start serves cfg.Devices, one on each socket; the rest of cfg was Launch's.
func (e *Engine) Start(_ context.Context, cfg *vmm.Config) (vmm.Machine, error) {
	if len(cfg.Devices) != len(e.Sockets) {
		return nil, fmt.Errorf("%d devices on %d sockets", len(cfg.Devices), len(e.Sockets))
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &machine{cancel: cancel}
	for i, dev := range cfg.Devices {
		dev, counter := virtio.Counting(dev)
		m.devices = append(m.devices, device{virtio.DeviceName(dev.ID()), counter})
		conn, err := net.FileConn(e.Sockets[i])
		e.Sockets[i].Close()
		if err != nil {
			cancel()
			return nil, fmt.Errorf("vhost-user socket: %w", err)
		}
		m.serving.Add(1)
		go func() {
			defer m.serving.Done()
			// One device's end is the machine's: its guest can't do without.
			defer cancel()
			err := vhostuser.Serve(ctx, conn.(*net.UnixConn), dev)
			if err != nil && ctx.Err() == nil {
				m.fail(fmt.Errorf("device %d: %w", dev.ID(), err))
			}
		}()
	}
	return m, nil
}

// machine is the devices of one QEMU.
type machine struct {
	cancel  context.CancelFunc
	serving sync.WaitGroup
	devices []device

	mu  sync.Mutex
	err error
}

// A device is one that is served here, with its work.
type device struct {
	name    string
	counter *virtio.Counter
}

// Counts implements vmm.Machine. Of the vCPUs and its own devices QEMU tells
// nothing.
func (m *machine) Counts() vmm.Counts {
	var c vmm.Counts
	for _, d := range m.devices {
		c.Devices = append(c.Devices, vmm.DeviceCount{Name: d.name, Queues: d.counter.Counts()})
	}
	return c
}

func (m *machine) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = errors.Join(m.err, err)
}

// Wait returns when QEMU has closed its connections.
func (m *machine) Wait() error {
	m.serving.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Kill stops serving, upon which the supervisor, who has QEMU, ends it.
func (m *machine) Kill() error {
	m.cancel()
	m.serving.Wait()
	return nil
}
