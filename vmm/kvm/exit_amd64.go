package kvm

import (
	"encoding/binary"
	"fmt"

	"github.com/stilehq/stile/vmm/virtio/mmio"
)

// exit does what a vCPU came out of KVM_RUN for. done says that the machine
// ends: why is nil where the guest asked for it.
func (m *Machine) exit(c *vcpu) (done bool, why error) {
	u := c.union()
	switch c.reason() {
	case exitIO:
		return m.pio(c, u)
	case exitMMIO:
		m.mmio(u)
		return false, nil
	case exitIntr:
		m.count.exit("interrupted")
		return false, nil
	case exitShutdown:
		// AMD's CPUs lose the vCPU's state here, and KVM resets it, so the
		// registers say something on Intel's only.
		m.count.exit("shutdown")
		return true, fmt.Errorf("the guest's vCPU %d died of a triple fault: %s", c.id, c.state())
	case exitInternalError:
		m.count.exit("other")
		return true, fmt.Errorf("KVM's internal error %d (%s) on vCPU %d: data %x, %s",
			binary.LittleEndian.Uint32(u), suberror(binary.LittleEndian.Uint32(u)), c.id, internalData(u), c.state())
	case exitFailEntry:
		m.count.exit("other")
		return true, fmt.Errorf("vCPU %d can't be entered: hardware's reason %#x, %s", c.id, binary.LittleEndian.Uint64(u), c.state())
	case exitSystemEvent:
		m.count.exit("other")
		return true, fmt.Errorf("vCPU %d: system event %d, %s", c.id, binary.LittleEndian.Uint32(u), c.state())
	default:
		m.count.exit("other")
		return true, fmt.Errorf("vCPU %d: exit for reason %d, which is not asked for: %s", c.id, c.reason(), c.state())
	}
}

// suberror names KVM_INTERNAL_ERROR_*.
func suberror(n uint32) string {
	names := map[uint32]string{1: "an instruction that it can't emulate", 2: "simultaneous exceptions",
		3: "an exception while delivering an event", 4: "an exit that it does not expect"}
	if s, ok := names[n]; ok {
		return s
	}
	return "unknown"
}

// internalData is the numbers that come with an internal error: an emulation's
// instruction bytes are among them.
func internalData(u []byte) []uint64 {
	data := make([]uint64, min(binary.LittleEndian.Uint32(u[4:]), 16))
	for i := range data {
		data[i] = binary.LittleEndian.Uint64(u[8+8*i:])
	}
	return data
}

// pio does an access to an I/O port: direction, size, port and how often, then
// where in the run page the data lies.
func (m *Machine) pio(c *vcpu, u []byte) (done bool, why error) {
	direction, size, port := u[0], int(u[1]), binary.LittleEndian.Uint16(u[2:])
	count := int(binary.LittleEndian.Uint32(u[4:]))
	offset := binary.LittleEndian.Uint64(u[8:])
	m.count.pio(PIO{Port: port, Write: direction != directionIn})
	n := uint64(size) * uint64(count)
	if size == 0 || offset > uint64(len(c.run)) || n > uint64(len(c.run))-offset {
		return true, fmt.Errorf("vCPU %d: KVM reports %d times %d bytes at %#x for port %#x", c.id, count, size, offset, port)
	}
	data := c.run[offset : offset+n]
	for ; len(data) > 0; data = data[size:] {
		if direction == directionIn {
			m.ports.read(port, data[:size])
		} else if m.ports.write(port, data[:size]) {
			return true, nil
		}
	}
	return false, nil
}

// mmio does an access to an address that is no RAM: its address, eight bytes of
// data, how many of them, and whether it is a write.
func (m *Machine) mmio(u []byte) {
	gpa := binary.LittleEndian.Uint64(u)
	data := u[8:16][:min(binary.LittleEndian.Uint32(u[16:]), 8)]
	write := u[20] != 0
	d := m.deviceAt(gpa)
	if d == nil {
		m.count.mmio(MMIO{Write: write})
		if !write { // as of a bus that nobody answers on
			for i := range data {
				data[i] = 0xff
			}
		}
		return
	}
	off := uint32(gpa - d.gpa)
	m.count.mmio(MMIO{Device: d.name, Register: off, Write: write})
	if write {
		d.transport.WriteRegister(off, data)
	} else {
		d.transport.ReadRegister(off, data)
	}
}

// deviceAt is the device whose page has gpa.
func (m *Machine) deviceAt(gpa uint64) *device {
	if gpa < deviceBase || (gpa-deviceBase)/mmio.Size >= uint64(len(m.devices)) {
		return nil
	}
	return m.devices[(gpa-deviceBase)/mmio.Size]
}
