package kvm

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/eventfd"
)

// Addresses within the gap that KVM takes for itself on Intel's CPUs, which run
// real mode as a task with paging (KVM_SET_TSS_ADDR: three pages).
const (
	tssAddr         = 0xfffbd000
	identityMapAddr = 0xfffbc000
)

// A vm is a virtual machine of KVM: a descriptor, with the interrupt
// controllers in the kernel.
type vm struct {
	fd       int
	kvm      int // the device's descriptor
	runSize  int // bytes of a vCPU's kvm_run
	readOnly bool
	deadline bool // the local APIC has a TSC deadline mode
	maxVCPUs int
	slots    uint32
}

// newVM makes a VM. The caller closes it.
func newVM(kvm *os.File) (_ *vm, err error) {
	v := &vm{kvm: int(kvm.Fd()), fd: -1}
	if err := checkVersion(v.kvm); err != nil {
		return nil, err
	}
	ask := func(capability uintptr) (n int) {
		if err == nil {
			n, err = checkExtension(v.kvm, capability)
		}
		return n
	}
	for _, c := range []struct {
		capability uintptr
		name       string
	}{
		{capIRQChip, "interrupt controllers"}, {capUserMemory, "memory slots"}, {capExtCPUID, "CPUID"},
		{capIRQFD, "irqfd"}, {capIOEventFD, "ioeventfd"}, {capPIT2, "timer"}, {capImmediateExit, "immediate exit"},
	} {
		if ask(c.capability) == 0 && err == nil {
			err = fmt.Errorf("the kernel's KVM has no %s", c.name)
		}
	}
	// These are not required.
	v.readOnly = ask(capReadOnlyMem) != 0
	v.deadline = ask(capTSCDeadlineTimer) != 0
	v.maxVCPUs = ask(capMaxVCPUs)
	if err != nil {
		return nil, err
	}
	if v.runSize, err = ioctl(v.kvm, "KVM_GET_VCPU_MMAP_SIZE", kvmGetVCPUMmapSize, 0); err != nil {
		return nil, err
	}
	if v.fd, err = createVM(v.kvm); err != nil {
		return nil, err
	}
	err = v.reserve()
	if err == nil {
		err = v.addIRQChip()
	}
	if err != nil {
		return nil, errors.Join(err, v.close())
	}
	return v, nil
}

func checkVersion(kvm int) error {
	version, err := ioctl(kvm, "KVM_GET_API_VERSION", kvmGetAPIVersion, 0)
	if err != nil {
		return err
	}
	if version != apiVersion {
		return fmt.Errorf("KVM's interface has version %d, not %d", version, apiVersion)
	}
	return nil
}

// createVM is KVM_CREATE_VM. EINTR is a signal that arrived while the kernel
// waited for others to take note (in Go: the runtime's own), and is tried again.
func createVM(kvm int) (int, error) {
	for {
		fd, err := ioctl(kvm, "KVM_CREATE_VM", kvmCreateVM, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// reserve gives KVM the addresses that it wants for itself.
func (v *vm) reserve() error {
	if _, err := ioctl(v.fd, "KVM_SET_TSS_ADDR", kvmSetTSSAddr, tssAddr); err != nil {
		return err
	}
	identity := uint64(identityMapAddr)
	_, err := ioctlPtr(v.fd, "KVM_SET_IDENTITY_MAP_ADDR", kvmSetIdentityMapAddr, &identity)
	return err
}

// addIRQChip makes the interrupt controllers, before the first vCPU.
func (v *vm) addIRQChip() error {
	if _, err := ioctl(v.fd, "KVM_CREATE_IRQCHIP", kvmCreateIRQChip, 0); err != nil {
		return err
	}
	if v.deadline {
		return nil // the kernel switches the timer chip off, and needs none
	}
	_, err := ioctlPtr(v.fd, "KVM_CREATE_PIT2", kvmCreatePIT2, &pitConfig{flags: pitSpeakerDummy})
	return err
}

// addSlot shows b to the guest at gpa. b is page-aligned and stays mapped while
// the VM is open.
func (v *vm) addSlot(gpa uint64, b []byte, flags uint32) error {
	r := memoryRegion{slot: v.slots, flags: flags, gpa: gpa, size: uint64(len(b)),
		hva: uint64(uintptr(unsafe.Pointer(&b[0])))} // the kernel is told where the mapping is
	if _, err := ioctlPtr(v.fd, "KVM_SET_USER_MEMORY_REGION", kvmSetUserMemoryRegion, &r); err != nil {
		return fmt.Errorf("%d bytes at %#x: %w", len(b), gpa, err)
	}
	v.slots++
	return nil
}

// signalOnWrite has 32-bit writes of value to gpa signal e, with no exit.
func (v *vm) signalOnWrite(e *eventfd.EventFD, gpa uint64, value uint32) error {
	return withFD(e, func(fd int) error {
		event := ioEvent{datamatch: uint64(value), addr: gpa, length: 4, fd: int32(fd), flags: ioEventDatamatch}
		_, err := ioctlPtr(v.fd, "KVM_IOEVENTFD", kvmIOEventFD, &event)
		return err
	})
}

// interruptOnSignal has signals of e pulse a GSI.
func (v *vm) interruptOnSignal(e *eventfd.EventFD, gsi uint32) error {
	return withFD(e, func(fd int) error {
		_, err := ioctlPtr(v.fd, "KVM_IRQFD", kvmIRQFD, &irqFD{fd: uint32(fd), gsi: gsi})
		return err
	})
}

// withFD calls f with e's descriptor, which stays non-blocking: File.Fd would
// change that.
func withFD(e *eventfd.EventFD, f func(fd int) error) error {
	conn, err := e.File().SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := conn.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// supportedCPUID is what the host's CPU and KVM together can do.
func (v *vm) supportedCPUID() ([]cpuidEntry, error) {
	c := cpuid{n: maxCPUID}
	if _, err := ioctlPtr(v.kvm, "KVM_GET_SUPPORTED_CPUID", kvmGetSupportedCPUID, &c); err != nil {
		return nil, err
	}
	return c.entries[:min(c.n, maxCPUID)], nil
}

func (v *vm) close() error {
	if v.fd < 0 {
		return nil
	}
	err := unix.Close(v.fd)
	v.fd = -1
	return err
}
