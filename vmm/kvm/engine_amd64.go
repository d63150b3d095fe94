package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm"
	"github.com/stilehq/stile/vmm/boot"
	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/balloon"
	"github.com/stilehq/stile/vmm/virtio/blk"
	"github.com/stilehq/stile/vmm/virtio/console"
	"github.com/stilehq/stile/vmm/virtio/mmio"
	"github.com/stilehq/stile/vmm/virtio/rng"
)

var _ vmm.Engine = (*Engine)(nil)

// deviceBase is the address of the first device's page, within the gap.
const deviceBase = 0xd000_0000

// deviceGSIs are what devices interrupt by, in order: pins of the I/O APIC that
// no chip of a PC is known at (8: the clock; 13: the coprocessor).
var deviceGSIs = []uint32{5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}

// cmdline is what this engine needs of the guest's kernel: it ends by the
// keyboard controller, prints through virtio and before that, if it has to, on
// the serial port, which no driver is to look for; takes the TSC for a clock
// without watching it, and has no bounce buffers for devices that are not there.
var cmdline = []string{"reboot=k", "panic=-1", "quiet", "console=hvc0", "earlyprintk=ttyS0", "8250.nr_uarts=0", "tsc=reliable", "swiotlb=noforce"}

// Start makes a machine of cfg and runs it. To cfg.Devices it adds what it has
// of its own: console, disk, random numbers, balloon. Kernel and Initramfs are
// the caller's again when it returns; Disk and Console after the machine's end.
func (e *Engine) Start(ctx context.Context, cfg *vmm.Config) (_ vmm.Machine, err error) {
	m := &Machine{count: newCounter(), done: make(chan struct{}), ports: ports{serial: cfg.Console}}
	m.changed.L = &m.mu
	defer func() {
		if err != nil {
			err = errors.Join(err, m.release())
		}
	}()
	if cfg.CPUs < 1 || cfg.CPUs > boot.MaxCPUs {
		return nil, fmt.Errorf("%d vCPUs: between 1 and %d", cfg.CPUs, boot.MaxCPUs)
	}
	if m.memory, err = mapMemory(cfg.Memory); err != nil {
		return nil, err
	}
	m.defers(m.memory.unmap)
	devices, err := m.allDevices(cfg)
	if err != nil {
		return nil, err
	}

	// Reading the kernel and making a VM know nothing of each other, and take
	// milliseconds both.
	var load sync.WaitGroup
	var start *boot.Start
	var loadErr error
	load.Go(func() { start, loadErr = m.load(cfg, len(devices)) })
	makeErr := m.makeVM(e, cfg.CPUs)
	if makeErr == nil {
		makeErr = m.connect(devices)
	}
	load.Wait() // before the memory may go
	if err := errors.Join(loadErr, makeErr, ctx.Err()); err != nil {
		return nil, err
	}
	if err := m.vcpus[0].enter(start); err != nil {
		return nil, fmt.Errorf("vCPU 0: %w", err)
	}
	m.start()
	return m, nil
}

func (m *Machine) defers(f func() error) { m.cleanup = append(m.cleanup, f) }

// allDevices is cfg's devices and the engine's own. The console is first, for
// the sooner it is probed the more is seen of a boot.
func (m *Machine) allDevices(cfg *vmm.Config) ([]virtio.Device, error) {
	var out io.Writer = io.Discard
	if cfg.Console != nil {
		out = cfg.Console
	}
	devices := []virtio.Device{console.New(out, nil)}
	if cfg.Disk != nil {
		store, err := blk.NewFile(cfg.Disk)
		if err != nil {
			return nil, fmt.Errorf("disk: %w", err)
		}
		devices = append(devices, blk.New(store, blk.Options{Stalled: cfg.Stalled}))
	}
	devices = append(devices, rng.New(), balloon.New(m.memory.discard))
	devices = append(devices, cfg.Devices...)
	if len(devices) > len(deviceGSIs) {
		return nil, fmt.Errorf("%d devices, at most %d", len(devices), len(deviceGSIs))
	}
	return devices, nil
}

// load brings kernel, initramfs and tables into guest memory.
func (m *Machine) load(cfg *vmm.Config, devices int) (*boot.Start, error) {
	params := append([]string(nil), cmdline...)
	for i := range devices {
		params = append(params, fmt.Sprintf("virtio_mmio.device=%d@%#x:%d", mmio.Size, deviceBase+i*mmio.Size, deviceGSIs[i]))
	}
	c := &boot.Config{Kernel: cfg.Kernel, Cmdline: append(params, cfg.Cmdline...), CPUs: cfg.CPUs}
	if cfg.Initramfs != nil {
		info, err := cfg.Initramfs.Stat()
		if err != nil {
			return nil, fmt.Errorf("initramfs: %w", err)
		}
		c.Initramfs, c.InitSize = cfg.Initramfs, info.Size()
	}
	return boot.Load(m.memory.Memory, c)
}

// makeVM makes the VM with its memory and vCPUs.
func (m *Machine) makeVM(e *Engine, cpus int) (err error) {
	device := e.KVM
	if device == nil {
		if device, err = os.OpenFile(Device, os.O_RDWR, 0); err != nil {
			return err
		}
		// The VM's own descriptor keeps what it needs.
		defer device.Close()
	}
	if m.vm, err = newVM(device); err != nil {
		return err
	}
	m.defers(m.vm.close)
	if cpus > m.vm.maxVCPUs {
		return fmt.Errorf("%d vCPUs: this host's KVM has at most %d", cpus, m.vm.maxVCPUs)
	}
	for _, r := range m.memory.Regions() {
		if err := m.vm.addSlot(r.GPA, r.Bytes, 0); err != nil {
			return err
		}
	}
	supported, err := m.vm.supportedCPUID()
	if err != nil {
		return err
	}
	for id := range cpus {
		c, err := m.vm.newVCPU(id, cpus, supported)
		if err != nil {
			return err
		}
		m.defers(c.close)
		m.vcpus = append(m.vcpus, c)
	}
	return nil
}

// connect gives each device its page, its kicks and its interrupt.
func (m *Machine) connect(devices []virtio.Device) error {
	pages, err := unix.Mmap(-1, 0, len(devices)*mmio.Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map registers: %w", err)
	}
	m.defers(func() error { return unix.Munmap(pages) })
	if m.vm.readOnly { // else each read exits, and finds the same page
		if err := m.vm.addSlot(deviceBase, pages, memReadOnly); err != nil {
			return err
		}
	}
	// What acknowledges an interrupt goes where nobody looks (package mmio).
	sink, err := eventfd.New()
	if err != nil {
		return err
	}
	m.defers(sink.Close)
	for i, dev := range devices {
		page := pages[i*mmio.Size : (i+1)*mmio.Size : (i+1)*mmio.Size]
		dev, counter := virtio.Counting(dev)
		t, err := mmio.New(dev, mmio.Config{Memory: m.memory.Memory, Page: page, Fail: m.end})
		if err != nil {
			return err
		}
		m.defers(t.Close)
		d := &device{name: virtio.DeviceName(dev.ID()), transport: t, gpa: deviceBase + uint64(i*mmio.Size), gsi: deviceGSIs[i], counter: counter}
		if err := m.wire(d, sink); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		m.devices = append(m.devices, d)
	}
	return nil
}

func (m *Machine) wire(d *device, sink *eventfd.EventFD) error {
	for queue, kick := range d.transport.Kicks() {
		if err := m.vm.signalOnWrite(kick, d.gpa+mmio.QueueNotify, uint32(queue)); err != nil {
			return err
		}
	}
	if err := m.vm.signalOnWrite(sink, d.gpa+mmio.InterruptACK, mmio.AckUsed); err != nil {
		return err
	}
	return m.vm.interruptOnSignal(d.transport.Interrupt(), d.gsi)
}
