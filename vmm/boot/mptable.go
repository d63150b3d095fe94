package boot

import (
	"encoding/binary"
	"fmt"
)

// MaxCPUs is the number of local APIC ids of a byte, without broadcast and the
// I/O APIC's.
const MaxCPUs = 254

const (
	ioAPICBase    = 0xfec0_0000
	localAPICBase = 0xfee0_0000

	// IOAPICPins is the number of pins of KVM's I/O APIC, and so of GSIs that
	// a device can have.
	IOAPICPins = 24
)

// mpTable is what the kernel learns CPUs and interrupts from where there is no
// ACPI (Intel's MultiProcessor Specification 1.4): the floating pointer and,
// behind it, the configuration table, for mpTableGPA.
//
// Every ISA interrupt i is wired to pin i, as KVM's default routing has it. A
// PC's table has interrupt 0 at pin 2: with that the PIT would be at no pin, and
// a guest that waits for it at its first idle moment sleeps for ever.
func mpTable(cpus int) ([]byte, error) {
	if cpus < 1 || cpus > MaxCPUs {
		return nil, fmt.Errorf("%d vCPUs: between 1 and %d", cpus, MaxCPUs)
	}
	const (
		version14   = 4
		pointerSize = 16
		headerSize  = 44

		processor      = 0 // entry types (section 4.3)
		bus            = 1
		ioAPIC         = 2
		interrupt      = 3
		localInterrupt = 4

		isa = 0 // the only bus

		interruptINT    = 0 // interrupt types
		interruptNMI    = 1
		interruptExtINT = 3

		apicVersion  = 0x14
		cpuEnabled   = 1
		cpuBoot      = 2
		cpuSignature = 0x600
		cpuFeatures  = 1 | 1<<9 // FPU, APIC
		apicUsable   = 1
		everyLocal   = 0xff
		numLocalPins = 2
	)
	le := binary.LittleEndian
	ioAPICID := byte(cpus)

	var entries []byte
	count := 0
	for i := range cpus {
		flags := byte(cpuEnabled)
		if i == 0 {
			flags |= cpuBoot
		}
		entries = append(entries, processor, byte(i), apicVersion, flags)
		entries = le.AppendUint32(entries, cpuSignature)
		entries = le.AppendUint32(entries, cpuFeatures)
		entries = append(entries, make([]byte, 8)...)
		count++
	}
	entries = append(entries, bus, isa)
	entries = append(entries, "ISA   "...)
	entries = append(entries, ioAPIC, ioAPICID, apicVersion, apicUsable)
	entries = le.AppendUint32(entries, ioAPICBase)
	count += 2
	for pin := range byte(IOAPICPins) {
		// Flags 0: polarity and trigger as the bus has them, high and edge.
		entries = append(entries, interrupt, interruptINT, 0, 0, isa, pin, ioAPICID, pin)
		count++
	}
	// LINT0 takes the PIC's interrupts, LINT1 is the NMI, on every CPU.
	for pin, kind := range [numLocalPins]byte{interruptExtINT, interruptNMI} {
		entries = append(entries, localInterrupt, kind, 0, 0, isa, 0, everyLocal, byte(pin))
		count++
	}

	pointer := append([]byte("_MP_"), le.AppendUint32(nil, mpTableGPA+pointerSize)...)
	pointer = append(pointer, pointerSize/16, version14, 0)
	pointer = append(pointer, make([]byte, 5)...) // features: a table; no PIC mode
	pointer[10] = checksum(pointer)

	table := append([]byte("PCMP"), le.AppendUint16(nil, uint16(headerSize+len(entries)))...)
	table = append(table, version14, 0)
	table = append(table, "STILE   "...)     // OEM
	table = append(table, "MACHINE     "...) // product
	table = append(table, make([]byte, 6)...)
	table = le.AppendUint16(table, uint16(count))
	table = le.AppendUint32(table, localAPICBase)
	table = append(table, make([]byte, 4)...)
	table = append(table, entries...)
	table[7] = checksum(table)
	return append(pointer, table...), nil
}

// checksum is the byte that makes the sum of b zero; its place in b is zero.
func checksum(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum += c
	}
	return -sum
}
