package mmio_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/memory"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/mmio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// newDriver is a driver of an Echo that nobody has touched yet.
func newDriver(t testing.TB) (*virtiotest.Driver, *virtiotest.MMIO, *virtiotest.Echo) {
	t.Helper()
	dev := new(virtiotest.Echo)
	d := virtiotest.NewDriver(t, dev, virtiotest.Buses["mmio"], 1<<20)
	return d, d.Bus.(*virtiotest.MMIO), dev
}

// echo has the device answer one chain.
func echo(d *virtiotest.Driver) {
	d.Helper()
	in, got := d.In(5)
	if n := d.Do(0, d.Out([]byte("hello")), in); n != 5 || string(got) != "hello" {
		d.Errorf("echo of %d bytes: %q", n, got)
	}
}

func TestRegistersOfANewDevice(t *testing.T) {
	_, m, _ := newDriver(t)
	for off, want := range map[uint32]uint32{
		virtiotest.RegMagic: 0x74726976, virtiotest.RegVersion: 2, virtiotest.RegDeviceID: virtiotest.EchoID,
		virtiotest.RegQueueNumMax: virtiotest.EchoQueue, virtiotest.RegQueueReady: 0, virtiotest.RegStatus: 0,
		virtiotest.RegInterruptStatus: 0, virtiotest.RegSHMLen: ^uint32(0), virtiotest.RegSHMLen + 4: ^uint32(0),
		0x0c0: 0, // QueueReset
	} {
		if got := m.Read32(off); got != want {
			t.Errorf("register %#x is %#x, not %#x", off, got, want)
		}
		if got := binary.LittleEndian.Uint32(m.Page()[off:]); got != want {
			t.Errorf("register %#x is %#x in the page, not %#x", off, got, want)
		}
	}
	if got, want := m.Features(), uint64(virtiotest.EchoFeature)|virtio.RingFeatures; got != want {
		t.Errorf("features %#x, not %#x", got, want)
	}
	m.Write32(virtiotest.RegDeviceFeaturesSel, 2)
	if got := m.Read32(virtiotest.RegDeviceFeatures); got != 0 {
		t.Errorf("features of word 2 are %#x", got)
	}
	for sel, want := range map[uint32]uint32{0: virtiotest.EchoQueue, 1: virtiotest.EchoQueue / 2, 2: 0, ^uint32(0): 0} {
		m.Write32(virtiotest.RegQueueSel, sel)
		if got := m.Read32(virtiotest.RegQueueNumMax); got != want {
			t.Errorf("queue %d has room for %d, not %d", sel, got, want)
		}
	}
}

// Reads of any width give what the page holds, and zeros behind its end.
func TestReadWidths(t *testing.T) {
	_, m, dev := newDriver(t)
	dev.WriteConfig(0, []byte("abcdefghijklmnopqrst"))
	m.Status(virtiotest.StatusAcknowledge) // has the config space mirrored
	for off := range uint32(mmio.Size) {
		for _, n := range []int{1, 2, 4, 8} {
			got, want := bytes.Repeat([]byte{0xff}, n), make([]byte, n)
			m.ReadRegister(off, got)
			copy(want, m.Page()[off:])
			if !bytes.Equal(got, want) {
				t.Fatalf("%d bytes at %#x are %x, not %x", n, off, got, want)
			}
		}
	}
	b := []byte{1, 2, 3, 4}
	m.ReadRegister(mmio.Size-2, b)
	m.ReadRegister(^uint32(0), b)
	if !bytes.Equal(b, make([]byte, 4)) {
		t.Errorf("behind the page: %x", b)
	}
}

// A device interrupts its driver for a used buffer with the eventfd alone: no
// register is written, and nothing waits for an acknowledgement.
func TestInterruptNeedsNoExit(t *testing.T) {
	d, m, _ := newDriver(t)
	d.Start(^uint64(0), 0)
	page := bytes.Clone(m.Page())
	for range 100 {
		echo(d)
	}
	if !bytes.Equal(page, m.Page()) {
		t.Error("registers changed")
	}
	if got := m.Read32(virtiotest.RegInterruptStatus); got != mmio.AckUsed {
		t.Errorf("InterruptStatus is %#x, not %#x", got, mmio.AckUsed)
	}
}

func TestConfigChange(t *testing.T) {
	dev := new(virtiotest.Echo)
	mem := virtiotest.NewMemory(t, 1<<20)
	m, err := mmio.New(dev, mmio.Config{Memory: mem.Memory, Fail: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	read := func(off uint32) uint32 { return binary.LittleEndian.Uint32(m.Page()[off:]) }
	write := func(off, v uint32) { m.WriteRegister(off, binary.LittleEndian.AppendUint32(nil, v)) }
	generation := read(virtiotest.RegConfigGeneration)

	dev.Change(4, []byte{1}) // nobody to tell: the next status write shows it
	write(virtiotest.RegStatus, virtiotest.StatusAcknowledge)
	if read(virtiotest.RegConfig+4) != 1 || read(virtiotest.RegConfigGeneration) == generation {
		t.Errorf("config %#x in generation %d", read(virtiotest.RegConfig+4), read(virtiotest.RegConfigGeneration))
	}
	write(virtiotest.RegStatus, virtiotest.StatusAcknowledge|virtiotest.StatusDriver)
	write(virtiotest.RegDriverFeaturesSel, 1)
	write(virtiotest.RegDriverFeatures, 1)
	write(virtiotest.RegStatus, read(virtiotest.RegStatus)|virtiotest.StatusFeaturesOK)
	r := virtiotest.NewRing(t, mem, 8, virtio.FeatureVersion1)
	write(virtiotest.RegQueueNum, 8)
	write(virtiotest.RegQueueDesc, uint32(r.Desc))
	write(virtiotest.RegQueueDriver, uint32(r.Avail))
	write(virtiotest.RegQueueDevice, uint32(r.Used))
	write(virtiotest.RegQueueReady, 1)
	write(virtiotest.RegStatus, read(virtiotest.RegStatus)|virtiotest.StatusDriverOK)

	generation = read(virtiotest.RegConfigGeneration)
	dev.Change(4, []byte{2})
	if err := m.Interrupt().Wait(); err != nil {
		t.Fatal(err)
	}
	if got := read(virtiotest.RegInterruptStatus); got != 3 {
		t.Errorf("InterruptStatus is %d, not 3", got)
	}
	if read(virtiotest.RegConfig+4) != 2 || read(virtiotest.RegConfigGeneration) == generation {
		t.Errorf("config %#x in generation %d", read(virtiotest.RegConfig+4), read(virtiotest.RegConfigGeneration))
	}
	write(mmio.InterruptACK, mmio.AckUsed)
	if got := read(virtiotest.RegInterruptStatus); got != 3 {
		t.Errorf("InterruptStatus is %d after the acknowledgement of 1, not 3", got)
	}
	write(mmio.InterruptACK, 3)
	if got := read(virtiotest.RegInterruptStatus); got != 1 {
		t.Errorf("InterruptStatus is %d after the acknowledgement, not 1", got)
	}

	// The driver's own writes are there at once, and interrupt nobody.
	m.WriteRegister(virtiotest.RegConfig+9, []byte{7, 8})
	if got := m.Page()[virtiotest.RegConfig+9:][:2]; !bytes.Equal(got, []byte{7, 8}) {
		t.Errorf("config is %x after the driver's write", got)
	}
	if got := read(virtiotest.RegInterruptStatus); got != 1 {
		t.Errorf("InterruptStatus is %d after the driver's write", got)
	}
	m.WriteRegister(mmio.Size-1, []byte{7, 8}) // over the end
}

func TestFeaturesRefused(t *testing.T) {
	for name, f := range map[string]uint64{
		"not offered":     virtio.FeatureVersion1 | 1<<40,
		"legacy":          virtio.FeatureIndirectDesc,
		"none whatsoever": 0,
	} {
		_, m, dev := newDriver(t)
		if m.Negotiate(f) {
			t.Errorf("%s: accepted", name)
		}
		m.Status(virtiotest.StatusFailed)
		m.Reset()
		if dev.Activations != 0 {
			t.Errorf("%s: activated", name)
		}
		if !m.Negotiate(virtio.FeatureVersion1) {
			t.Errorf("%s: refused after a reset", name)
		}
	}
}

// A driver that breaks the rules loses its device until it resets it.
func TestMisuse(t *testing.T) {
	const ok = virtiotest.StatusAcknowledge | virtiotest.StatusDriver | virtiotest.StatusFeaturesOK
	setUp := func(change func(r *virtiotest.Ring)) func(*virtiotest.Driver, *virtiotest.MMIO) {
		return func(d *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Negotiate(virtio.FeatureVersion1)
			r := virtiotest.NewRing(d, d.Mem, 16, virtio.FeatureVersion1)
			change(r)
			m.SetUp(0, r)
			if m.Read32(virtiotest.RegQueueReady) != 0 {
				d.Error("the queue is ready")
			}
		}
	}
	tests := map[string]func(*virtiotest.Driver, *virtiotest.MMIO){
		"status goes back": func(_ *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Status(ok &^ virtiotest.StatusFeaturesOK)
			m.Write32(virtiotest.RegStatus, virtiotest.StatusAcknowledge)
		},
		"status beyond a byte": func(_ *virtiotest.Driver, m *virtiotest.MMIO) { m.Write32(virtiotest.RegStatus, 0x101) },
		"DRIVER_OK first":      func(_ *virtiotest.Driver, m *virtiotest.MMIO) { m.Status(virtiotest.StatusDriverOK) },
		"DRIVER_OK with features refused": func(_ *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Negotiate(0)
			m.Status(virtiotest.StatusDriverOK)
		},
		"no queue": func(_ *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Negotiate(virtio.FeatureVersion1)
			m.Status(virtiotest.StatusDriverOK)
		},
		"features late": func(_ *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Negotiate(virtio.FeatureVersion1)
			m.Write32(virtiotest.RegDriverFeatures, 0)
		},
		"features of a word that is none": func(_ *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Write32(virtiotest.RegDriverFeaturesSel, 2)
			m.Write32(virtiotest.RegDriverFeatures, 1)
		},
		"a queue that is none": func(_ *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Write32(virtiotest.RegQueueSel, 2)
			m.Write32(virtiotest.RegQueueNum, 16)
		},
		"a queue that is none is ready": func(_ *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Write32(virtiotest.RegQueueSel, ^uint32(0))
			m.Write32(virtiotest.RegQueueReady, 1)
		},
		"ready with 2": func(_ *virtiotest.Driver, m *virtiotest.MMIO) { m.Write32(virtiotest.RegQueueReady, 2) },
		"nothing set up": func(_ *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Write32(virtiotest.RegQueueReady, 1)
		},
		"size 0":              setUp(func(r *virtiotest.Ring) { r.Size = 0 }),
		"size 3":              setUp(func(r *virtiotest.Ring) { r.Size = 3 }),
		"size above the most": setUp(func(r *virtiotest.Ring) { r.Size = 2 * virtiotest.EchoQueue }),
		"size beyond 16 bits": func(_ *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Write32(virtiotest.RegQueueNum, 0x10008)
			m.Write32(virtiotest.RegQueueReady, 1)
		},
		"descriptors beyond memory":    setUp(func(r *virtiotest.Ring) { r.Desc = virtiotest.Base + 1<<20 - 16 }),
		"descriptors at the very end":  setUp(func(r *virtiotest.Ring) { r.Desc = ^uint64(15) }),
		"available ring beyond memory": setUp(func(r *virtiotest.Ring) { r.Avail = 0 }),
		"used ring beyond memory":      setUp(func(r *virtiotest.Ring) { r.Used = 1 << 40 }),
		"descriptors not aligned":      setUp(func(r *virtiotest.Ring) { r.Desc += 8 }),
		"used ring not aligned":        setUp(func(r *virtiotest.Ring) { r.Used += 2 }),
		"change of a queue that is ready": func(d *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Negotiate(virtio.FeatureVersion1)
			m.SetUp(0, virtiotest.NewRing(d, d.Mem, 16, virtio.FeatureVersion1))
			m.Write32(virtiotest.RegQueueDesc, virtiotest.Base)
		},
		"a queue after DRIVER_OK": func(d *virtiotest.Driver, m *virtiotest.MMIO) {
			m.Negotiate(virtio.FeatureVersion1)
			m.SetUp(0, virtiotest.NewRing(d, d.Mem, 16, virtio.FeatureVersion1))
			m.Status(virtiotest.StatusDriverOK)
			m.SetUp(1, virtiotest.NewRing(d, d.Mem, 16, virtio.FeatureVersion1))
		},
	}
	for name, misuse := range tests {
		t.Run(name, func(t *testing.T) {
			d, m, _ := newDriver(t)
			misuse(d, m)
			d.FailedWith(mmio.ErrDriver, virtio.ErrRing, memory.ErrRange)
			if got := m.Read32(virtiotest.RegStatus); got&virtiotest.StatusNeedsReset == 0 {
				t.Errorf("status is %#x", got)
			}
			m.Status(virtiotest.StatusDriverOK) // changes nothing now
			d.Reset()
			d.Forgive()
			d.Start(^uint64(0), 0)
			echo(d)
			if err := d.Failure(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a driver may do, however odd, fails nothing.
func TestOddButAllowed(t *testing.T) {
	d, m, dev := newDriver(t)
	r := virtiotest.NewRing(t, d.Mem, 16, virtio.FeatureVersion1)
	m.Write32(mmio.QueueNotify, 0) // a kick before the device runs
	m.Write32(mmio.QueueNotify, 99)
	m.Negotiate(virtio.FeatureVersion1)
	m.SetUp(0, r)
	m.Write32(virtiotest.RegQueueReady, 1) // twice
	m.Write32(virtiotest.RegQueueReady, 0) // and taken back
	if m.Read32(virtiotest.RegQueueReady) != 0 {
		t.Error("the queue is ready still")
	}
	d.Reset()
	d.Start(^uint64(0), 0)
	echo(d)
	m.Status(virtiotest.StatusDriverOK) // again
	for _, off := range []uint32{0x00, 0x04, 0x08, 0x0c, 0x10, 0x34, 0x60, 0x18, 0x4c, 0xfc, 0xc0} {
		m.Write32(off, 0xffffffff) // read-only, or no register at all
	}
	m.WriteRegister(virtiotest.RegStatus, []byte{0}) // the wrong width: no reset
	m.WriteRegister(virtiotest.RegStatus+2, []byte{0, 0, 0, 0})
	m.WriteRegister(virtiotest.RegStatus, nil)
	m.WriteRegister(^uint32(0), []byte{1, 2, 3, 4})
	echo(d)
	if m.Read32(virtiotest.RegMagic) != 0x74726976 || dev.Activations != 1 {
		t.Errorf("magic %#x, %d activations", m.Read32(virtiotest.RegMagic), dev.Activations)
	}
	if err := d.Failure(); err != nil {
		t.Error(err)
	}
	// The driver takes one ring back: nothing of the device goes on.
	m.Write32(virtiotest.RegQueueSel, 1)
	m.Write32(virtiotest.RegQueueReady, 0)
	d.Rings[0].Add(d.Out([]byte("x")))
	d.Rings[0].ForceKick()
	time.Sleep(2 * time.Millisecond)
	if d.Rings[0].UsedIdx() != d.Rings[0].AvailIdx()-1 {
		t.Error("the device works on")
	}
}

// FAILED is a driver that has given up: its memory is left alone.
func TestFailed(t *testing.T) {
	d, m, _ := newDriver(t)
	d.Start(^uint64(0), 0)
	echo(d)
	m.Status(virtiotest.StatusFailed)
	used := d.Rings[0].UsedIdx()
	d.Rings[0].Add(d.Out([]byte("x")))
	d.Rings[0].ForceKick()
	time.Sleep(2 * time.Millisecond)
	if d.Rings[0].UsedIdx() != used {
		t.Error("the device works on")
	}
	d.Reset()
	d.Start(^uint64(0), 0)
	echo(d)
	if err := d.Failure(); err != nil {
		t.Error(err)
	}
}

// A kick that exits, where no ioeventfd is set, is as good.
func TestKickByRegister(t *testing.T) {
	d, m, _ := newDriver(t)
	d.Start(virtio.FeatureVersion1, 0)
	in, _ := d.In(1)
	d.Rings[1].Add(d.Out([]byte("x")), in)
	m.Write32(mmio.QueueNotify, 1)
	if _, n, ok := d.Rings[1].WaitUsed(10 * time.Second); !ok || n != 1 {
		t.Errorf("used %v with %d bytes", ok, n)
	}
}

func TestSleepKeepsRegisters(t *testing.T) {
	d, m, dev := newDriver(t)
	if err := m.Transport.Sleep(); err != nil { // no driver yet
		t.Fatal(err)
	}
	d.Wake()
	d.Start(^uint64(0), 0)
	echo(d)
	page := bytes.Clone(m.Page())
	d.Sleep()
	d.Wake()
	echo(d)
	if !bytes.Equal(page, m.Page()) || dev.Activations != 2 || dev.Sleeps != 1 {
		t.Errorf("%d activations, %d sleeps, registers same: %v", dev.Activations, dev.Sleeps, bytes.Equal(page, m.Page()))
	}
}

// window is an Echo with shared memory.
type window struct {
	virtiotest.Echo
	got []byte
}

func (w *window) SharedMemorySize() uint64 { return 3 << 32 }
func (w *window) SetSharedMemory(b []byte) { w.got = b }

func TestSharedMemory(t *testing.T) {
	// No page of it is ever touched.
	b, err := unix.Mmap(-1, 0, 3<<32, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	mem := virtiotest.NewMemory(t, 1<<16)
	w := new(window)
	cfg := mmio.Config{Memory: mem.Memory, Fail: func(error) {}, Window: &mmio.Window{GPA: 5 << 32, Bytes: b}}
	m, err := mmio.New(w, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if len(w.got) != len(b) {
		t.Errorf("the device was given %d bytes", len(w.got))
	}
	regs := func() (all [4]uint32) {
		for i, off := range []uint32{0, 4, 8, 12} {
			all[i] = binary.LittleEndian.Uint32(m.Page()[virtiotest.RegSHMLen+off:])
		}
		return all
	}
	for id, want := range map[uint32][4]uint32{0: {0, 3, 0, 5}, 1: {^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0)}} {
		m.WriteRegister(virtiotest.RegSHMSel, binary.LittleEndian.AppendUint32(nil, id))
		if got := regs(); got != want {
			t.Errorf("region %d: length and base %#x, not %#x", id, got, want)
		}
	}
	if _, err := mmio.New(new(virtiotest.Echo), cfg); err == nil {
		t.Error("a device without shared memory took a window")
	}
}

// Several devices' pages can lie in one mapping.
func TestGivenPages(t *testing.T) {
	pages, err := unix.Mmap(-1, 0, 2*mmio.Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(pages)
	mem := virtiotest.NewMemory(t, 1<<16)
	for i := range 2 {
		m, err := mmio.New(new(virtiotest.Echo), mmio.Config{Memory: mem.Memory, Fail: func(error) {},
			Page: pages[i*mmio.Size:][:mmio.Size]})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Errorf("the second Close: %v", err)
		}
	}
	if !bytes.Equal(pages[:mmio.Size], pages[mmio.Size:]) || string(pages[:4]) != "virt" {
		t.Error("the pages differ")
	}
	if _, err := mmio.New(new(virtiotest.Echo), mmio.Config{Memory: mem.Memory, Page: pages}); err == nil {
		t.Error("two pages for one device")
	}
}

// All vCPUs may write registers at once, resets among them.
func TestManyCPUs(t *testing.T) {
	dev := new(virtiotest.Echo)
	mem := virtiotest.NewMemory(t, 1<<20)
	var fails atomic.Int64
	m, err := mmio.New(dev, mmio.Config{Memory: mem.Memory, Fail: func(error) { fails.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	r := virtiotest.NewRing(t, mem, 16, virtio.FeatureVersion1)
	sequence := []uint32{virtiotest.RegStatus, 0, virtiotest.RegStatus, 1, virtiotest.RegStatus, 3,
		virtiotest.RegDriverFeaturesSel, 1, virtiotest.RegDriverFeatures, 1, virtiotest.RegStatus, 11,
		virtiotest.RegQueueSel, 0, virtiotest.RegQueueNum, 16, virtiotest.RegQueueDesc, uint32(r.Desc),
		virtiotest.RegQueueDriver, uint32(r.Avail), virtiotest.RegQueueDevice, uint32(r.Used), virtiotest.RegQueueReady, 1,
		virtiotest.RegStatus, 15, mmio.QueueNotify, 0, mmio.InterruptACK, 3}
	done := make(chan struct{})
	for cpu := range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 4000 {
				at := (i + cpu*7) % (len(sequence) / 2) * 2
				m.WriteRegister(sequence[at], binary.LittleEndian.AppendUint32(nil, sequence[at+1]))
				var b [4]byte
				m.ReadRegister(virtiotest.RegStatus, b[:])
				dev.Change(8, b[:])
			}
		}()
	}
	for range 4 {
		<-done
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	dev.Change(0, []byte{1}) // after its transport is gone
	t.Logf("%d activations, %d failures", dev.Activations, fails.Load())
	if dev.Activations == 0 || fails.Load() == 0 {
		t.Errorf("%d activations, %d failures: some of each were to be expected", dev.Activations, fails.Load())
	}
}

// FuzzRegisters has a driver write whatever it likes: register, width, value.
func FuzzRegisters(f *testing.F) {
	write := func(off uint16, v uint32) []byte {
		return append(binary.LittleEndian.AppendUint16(nil, off), binary.LittleEndian.AppendUint32([]byte{4}, v)...)
	}
	start := slices.Concat(write(virtiotest.RegStatus, 1), write(virtiotest.RegStatus, 3),
		write(virtiotest.RegDriverFeaturesSel, 1), write(virtiotest.RegDriverFeatures, 1), write(virtiotest.RegStatus, 11),
		write(virtiotest.RegQueueNum, 8), write(virtiotest.RegQueueDesc, virtiotest.Base), write(virtiotest.RegQueueDriver, virtiotest.Base+0x1000),
		write(virtiotest.RegQueueDevice, virtiotest.Base+0x2000), write(virtiotest.RegQueueReady, 1), write(virtiotest.RegStatus, 15))
	f.Add(start)
	f.Add(slices.Concat(start, write(mmio.QueueNotify, 0), write(virtiotest.RegConfig+4, 99), write(virtiotest.RegQueueReady, 0), write(virtiotest.RegStatus, 0), start))
	f.Add(slices.Concat(start, write(virtiotest.RegStatus, 0x8f), write(virtiotest.RegQueueSel, 7), write(virtiotest.RegSHMSel, 1)))
	mem := virtiotest.NewMemory(f, 0x4000)
	all := mem.Bytes(virtiotest.Base, 0x4000)
	f.Fuzz(func(t *testing.T, data []byte) {
		clear(all)
		dev := new(virtiotest.Echo)
		var failed atomic.Pointer[error]
		m, err := mmio.New(dev, mmio.Config{Memory: mem.Memory, Fail: func(err error) { failed.Store(&err) }})
		if err != nil {
			t.Fatal(err)
		}
		for len(data) >= 3 {
			off, n := uint32(binary.LittleEndian.Uint16(data)), min(int(data[2])%9, len(data)-3)
			m.WriteRegister(off, data[3:3+n])
			data = data[3+n:]
			var b [8]byte
			m.ReadRegister(off, b[:])
			if string(m.Page()[:4]) != "virt" {
				t.Fatal("the driver wrote a read-only register")
			}
		}
		m.WriteRegister(virtiotest.RegStatus, []byte{0, 0, 0, 0})
		if status := binary.LittleEndian.Uint32(m.Page()[virtiotest.RegStatus:]); status != 0 {
			t.Errorf("status is %#x after a reset", status)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := failed.Load(); err != nil && !errors.Is(*err, mmio.ErrDriver) && !errors.Is(*err, virtio.ErrRing) && !errors.Is(*err, memory.ErrRange) {
			t.Errorf("the driver's failure is %q", *err)
		}
	})
}
