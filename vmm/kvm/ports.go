package kvm

import (
	"os"
	"sync"
)

// The I/O ports that answer.
const (
	portKeyboard    = 0x64 // the keyboard controller's command port
	keyboardReset   = 0xfe // pulses the reset line
	portCMOSIndex   = 0x70
	portCMOSData    = 0x71
	portSerial      = 0x3f8 // ttyS0: data, or the divisor's low byte
	portSerialLCR   = portSerial + 3
	portSerialLSR   = portSerial + 5
	portSerialCount = 8
)

// ports is the machine's I/O ports. All others are a bus that nobody answers
// on: they read as ones and take no notice of what is written.
type ports struct {
	serial *os.File // where the serial port prints; nil: there is none

	mu        sync.Mutex
	cmosIndex byte
	lineCtl   byte
}

func (p *ports) read(port uint16, data []byte) {
	for i := range data {
		data[i] = 0xff
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case port == portCMOSData:
		data[0] = cmos(p.cmosIndex)
	case port == portKeyboard:
		data[0] = 0 // ready for a command: the kernel waits for this before a reset
	case p.serial == nil || port < portSerial || port >= portSerial+portSerialCount:
	case port == portSerialLSR:
		data[0] = 0x60 // the transmitter is empty
	default:
		data[0] = 0
	}
}

// cmos is a register of the clock chip: one that is never in the middle of an
// update, with the time of no day. Guests take theirs from kvm-clock.
func cmos(index byte) byte {
	switch index & 0x7f {
	case 0x0a:
		return 0x26 // no update in progress, the usual divider
	case 0x0b:
		return 0x02 // 24 hours, BCD
	case 0x0d:
		return 0x80 // the battery is good
	case 0x07, 0x08:
		return 0x01 // the first day of the first month
	}
	return 0
}

// write reports whether the guest has asked for a reset, which is its end.
func (p *ports) write(port uint16, data []byte) (reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case port == portKeyboard:
		return data[0] == keyboardReset
	case port == portCMOSIndex:
		p.cmosIndex = data[0]
	case p.serial == nil:
	case port == portSerialLCR:
		p.lineCtl = data[0]
	case port == portSerial && p.lineCtl&0x80 == 0: // not the divisor
		// An early console that can't be written to is not worth the machine.
		p.serial.Write(data[:1])
	}
	return false
}
