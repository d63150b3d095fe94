// Package kvm is the engine for hosts with a KVM: a VMM of our own, in the vmm
// process, with nothing in it that stile's guests do not use.
//
// # What a guest sees
//
// 64-bit vCPUs, RAM, KVM's interrupt controllers, and virtio devices behind
// virtio-mmio registers that the kernel command line names. The kernel is
// entered directly (vmm/boot, which has the memory map). There is no firmware,
// ACPI, PCI or keyboard. The ports that answer are CMOS, for without it the
// kernel polls for a clock for tens of thousands of exits; the keyboard
// controller's reset line, by which a guest ends itself (reboot=k): not the
// triple fault that the qemu engine takes, for that is how a guest dies, too;
// and a serial port that can only be printed on (earlyprintk=ttyS0), for the
// last words of a kernel that dies before its virtio console is up. Each byte
// there costs two exits; a kernel that fares well sets the port up, in eight,
// and prints nothing.
//
// Device pages lie in a row at deviceBase, one for each device, and are one
// read-only memory slot of the pages in which vmm/virtio/mmio mirrors its
// registers: reads cost no exit. Kicks and acknowledgements are ioeventfds,
// interrupts are irqfds. So a running guest exits to us for the set-up of
// devices and hardly ever after it.
//
// # Threads
//
// One thread a vCPU, locked to its goroutine, which is in KVM_RUN most of its
// life; the goroutines of the devices, which wait in Go's poller. A vCPU thread
// is called out of KVM_RUN by a kick: immediate_exit is set first, then SIGURG
// is sent to it, which the Go runtime takes as one of its own and ignores. The
// thread acts on the machine's state only when KVM_RUN has returned EINTR, for
// then KVM has completed the I/O that was under way.
//
// # Clocks
//
// Nothing is calibrated: CPUID has KVM's leaves (kvm-clock tells the frequency),
// the TSC deadline timer, and ARAT, so the kernel leaves the PIT alone.
package kvm

import (
	"os"
)

// Device is the path of KVM's device.
const Device = "/dev/kvm"

// Name is the engine's name.
const Name = "kvm"

// An Engine runs machines by KVM.
type Engine struct {
	// KVM is the open Device, for a process that opens nothing. It stays the
	// caller's. Nil: Start opens it.
	KVM *os.File
}

// Name is "kvm".
func (*Engine) Name() string { return Name }
