package virtiotest

import (
	"encoding/binary"
	"errors"
	"sync"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/virtio/mmio"
)

// An MMIO is the driver's side of a mmio.Transport, in the manner of
// drivers/virtio/virtio_mmio.c.
type MMIO struct {
	*mmio.Transport
	d *Driver

	mu    sync.Mutex
	rings []*Ring
	ended chan struct{}
}

// Registers that a driver uses (table 4.1).
const (
	RegMagic             = 0x000
	RegVersion           = 0x004
	RegDeviceID          = 0x008
	RegDeviceFeatures    = 0x010
	RegDeviceFeaturesSel = 0x014
	RegDriverFeatures    = 0x020
	RegDriverFeaturesSel = 0x024
	RegQueueSel          = 0x030
	RegQueueNumMax       = 0x034
	RegQueueNum          = 0x038
	RegQueueReady        = 0x044
	RegQueueNotify       = 0x050
	RegInterruptStatus   = 0x060
	RegInterruptACK      = 0x064
	RegStatus            = 0x070
	RegQueueDesc         = 0x080
	RegQueueDriver       = 0x090
	RegQueueDevice       = 0x0a0
	RegSHMSel            = 0x0ac
	RegSHMLen            = 0x0b0
	RegSHMBase           = 0x0b8
	RegConfigGeneration  = 0x0fc
	RegConfig            = 0x100
)

// Status bits (section 2.1).
const (
	StatusAcknowledge = 1
	StatusDriver      = 2
	StatusDriverOK    = 4
	StatusFeaturesOK  = 8
	StatusNeedsReset  = 64
	StatusFailed      = 128
)

func newMMIO(d *Driver) Bus {
	t, err := mmio.New(d.Device, mmio.Config{Memory: d.Mem.Memory, Fail: d.Report})
	if err != nil {
		d.Fatal(err)
	}
	m := &MMIO{Transport: t, d: d, ended: make(chan struct{})}
	go m.interrupts()
	return m
}

// Read32 reads a register.
func (m *MMIO) Read32(off uint32) uint32 {
	var b [4]byte
	m.ReadRegister(off, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

// Write32 writes a register.
func (m *MMIO) Write32(off, v uint32) {
	m.WriteRegister(off, binary.LittleEndian.AppendUint32(nil, v))
}

// interrupts is vm_interrupt: it passes calls on to the rings.
func (m *MMIO) interrupts() {
	defer close(m.ended)
	for {
		if err := m.Interrupt().Wait(); err != nil {
			if !errors.Is(err, eventfd.ErrInterrupted) {
				m.d.Errorf("interrupt: %v", err)
			}
			return
		}
		var b [4]byte
		m.ReadRegister(RegInterruptStatus, b[:])
		bits := binary.LittleEndian.Uint32(b[:])
		if bits != mmio.AckUsed { // that one goes where nobody reads
			m.Write32(RegInterruptACK, bits)
		}
		if bits&1 == 0 {
			continue
		}
		m.mu.Lock()
		for _, r := range m.rings {
			if r.Calls != nil { // a fuzzed driver looks by itself
				r.Calls.Signal()
			}
		}
		m.mu.Unlock()
	}
}

// Features implements Bus.
func (m *MMIO) Features() (f uint64) {
	for sel := range uint32(2) {
		m.Write32(RegDeviceFeaturesSel, sel)
		f |= uint64(m.Read32(RegDeviceFeatures)) << (32 * sel)
	}
	return f
}

// ReadConfig implements Bus.
func (m *MMIO) ReadConfig(off uint32, p []byte) { m.ReadRegister(RegConfig+off, p) }

// WriteConfig implements Bus.
func (m *MMIO) WriteConfig(off uint32, p []byte) { m.WriteRegister(RegConfig+off, p) }

// Status sets status bits, as drivers do, and reports whether they are set then.
func (m *MMIO) Status(bits uint32) bool {
	m.Write32(RegStatus, m.Read32(RegStatus)|bits)
	return m.Read32(RegStatus)&bits == bits
}

// Negotiate goes as far as FEATURES_OK, and reports whether that was accepted.
func (m *MMIO) Negotiate(features uint64) bool {
	m.Status(StatusAcknowledge)
	m.Status(StatusDriver)
	for sel := range uint32(2) {
		m.Write32(RegDriverFeaturesSel, sel)
		m.Write32(RegDriverFeatures, uint32(features>>(32*sel)))
	}
	return m.Status(StatusFeaturesOK)
}

// SetUp makes queue i of a ring.
func (m *MMIO) SetUp(i int, r *Ring) {
	m.Write32(RegQueueSel, uint32(i))
	m.Write32(RegQueueNum, uint32(r.Size))
	for reg, gpa := range map[uint32]uint64{RegQueueDesc: r.Desc, RegQueueDriver: r.Avail, RegQueueDevice: r.Used} {
		m.Write32(reg, uint32(gpa))
		m.Write32(reg+4, uint32(gpa>>32))
	}
	m.Write32(RegQueueReady, 1)
}

// Start implements Bus.
func (m *MMIO) Start(features uint64, rings []*Ring) {
	m.d.Helper()
	if !m.Negotiate(features) {
		m.d.Fatalf("features %#x are not accepted of %#x", features, m.Features())
	}
	for i, r := range rings {
		m.Write32(RegQueueSel, uint32(i))
		if m.Read32(RegQueueReady) != 0 {
			m.d.Fatalf("queue %d is ready before it is set up", i)
		}
		if max := m.Read32(RegQueueNumMax); max < uint32(r.Size) {
			m.d.Fatalf("queue %d has room for %d", i, max)
		}
		r.Kicks = m.Kicks()[i]
		m.SetUp(i, r)
		if m.Read32(RegQueueReady) != 1 {
			m.d.Fatalf("queue %d is not ready", i)
		}
	}
	m.mu.Lock()
	m.rings = rings
	m.mu.Unlock()
	m.Status(StatusDriverOK)
}

// Sleep implements Bus.
func (m *MMIO) Sleep() {
	if err := m.Transport.Sleep(); err != nil {
		m.d.Error(err)
	}
}

// Wake implements Bus.
func (m *MMIO) Wake() {
	if err := m.Transport.Wake(); err != nil {
		m.d.Error(err)
	}
}

// Reset implements Bus.
func (m *MMIO) Reset() {
	m.Write32(RegStatus, 0)
	if v := m.Read32(RegStatus); v != 0 {
		m.d.Errorf("status is %#x after a reset", v)
	}
}

// Close implements Bus.
func (m *MMIO) Close() {
	m.Interrupt().Interrupt()
	<-m.ended
	if err := m.Transport.Close(); err != nil {
		m.d.Error(err)
	}
}
