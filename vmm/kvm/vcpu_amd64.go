package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/boot"
)

// A vcpu is one vCPU. All requests about it are its own thread's, once that
// runs.
type vcpu struct {
	id  int
	fd  int
	run runPage // shared with the kernel

	// tid is the vCPU's thread, 0 before it has begun and after its end: then
	// the number may be another's. Guarded by Machine.mu.
	tid int
}

// newVCPU makes vCPU id of n. The caller closes it.
func (v *vm) newVCPU(id, n int, supported []cpuidEntry) (_ *vcpu, err error) {
	c := &vcpu{id: id}
	if c.fd, err = ioctl(v.fd, "KVM_CREATE_VCPU", kvmCreateVCPU, uintptr(id)); err != nil {
		return nil, fmt.Errorf("vCPU %d: %w", id, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("vCPU %d: %w", id, err), c.close())
		}
	}()
	if c.run, err = unix.Mmap(c.fd, 0, v.runSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map its run page: %w", err)
	}
	var list cpuid
	list.n = uint32(copy(list.entries[:], shapeCPUID(supported, id, n, v.deadline)))
	if _, err := ioctlPtr(c.fd, "KVM_SET_CPUID2", kvmSetCPUID2, &list); err != nil {
		return nil, err
	}
	return c, c.setMSRs()
}

// setMSRs sets what firmware would have.
func (c *vcpu) setMSRs() error {
	const (
		miscEnable     = 0x1a0
		fastStrings    = 1
		mtrrDefType    = 0x2ff
		mtrrEnable     = 1 << 11
		mtrrWriteBack  = 6
		numberOfValues = 2
	)
	m := msrs{n: numberOfValues}
	m.entries[0] = msrEntry{index: miscEnable, data: fastStrings}
	// With MTRRs off all memory would be uncached.
	m.entries[1] = msrEntry{index: mtrrDefType, data: mtrrEnable | mtrrWriteBack}
	n, err := ioctlPtr(c.fd, "KVM_SET_MSRS", kvmSetMSRs, &m)
	if err == nil && n != numberOfValues {
		err = fmt.Errorf("MSR %#x can't be set", m.entries[n].index)
	}
	return err
}

// enter brings the first vCPU to the kernel's PVH entry. The others wait for
// the kernel to start them (INIT, SIPI).
func (c *vcpu) enter(start *boot.Start) error {
	r := regs{RIP: uint64(start.Entry), RBX: uint64(start.StartInfo), RFLAGS: 2} // bit 1 is always set
	return c.enterFlat(&r)
}

// enterFlat sets 32-bit protected mode with flat segments, and r.
func (c *vcpu) enterFlat(r *regs) error {
	var s sregs
	if _, err := ioctlPtr(c.fd, "KVM_GET_SREGS", kvmGetSregs, &s); err != nil {
		return err
	}
	const (
		code      = 0xb // execute, read, accessed
		data      = 0x3 // read, write, accessed
		busyTSS   = 0xb
		protected = 1
		extension = 1 << 4 // ET: always set
	)
	flat := segment{limit: 0xffff_ffff, present: 1, db: 1, s: 1, g: 1}
	s.cs, s.ds, s.tr = flat, flat, segment{limit: 0x67, present: 1, kind: busyTSS}
	s.cs.kind, s.cs.selector = code, 0x8
	s.ds.kind, s.ds.selector = data, 0x10
	s.es, s.fs, s.gs, s.ss = s.ds, s.ds, s.ds, s.ds
	s.cr0, s.cr4, s.efer = protected|extension, 0, 0
	if _, err := ioctlPtr(c.fd, "KVM_SET_SREGS", kvmSetSregs, &s); err != nil {
		return err
	}
	_, err := ioctlPtr(c.fd, "KVM_SET_REGS", kvmSetRegs, r)
	return err
}

// kick makes the present or the next KVM_RUN return EINTR. The caller holds
// Machine.mu and has changed its state.
//
// The flag comes first: a signal that arrives before KVM_RUN is spent, and the
// flag makes KVM_RUN return at once.
func (c *vcpu) kick() {
	atomic.StoreUint32(c.control(), immediate)
	if c.tid != 0 {
		unix.Tgkill(os.Getpid(), c.tid, unix.SIGURG) // the thread is there: tid is
	}
}

// clearKick ends the effect of kick. The caller holds Machine.mu and has acted
// on its state.
func (c *vcpu) clearKick() { atomic.StoreUint32(c.control(), 0) }

// control is the word that holds immediate_exit. The byte before it asks for
// exits that nobody wants with interrupt controllers in the kernel.
func (c *vcpu) control() *uint32 {
	return (*uint32)(unsafe.Pointer(&c.run[runControl])) // aligned: a page's first word
}

func (c *vcpu) reason() uint32 { return binary.LittleEndian.Uint32(c.run[runReason:]) }

// union is the part of the run page that says more about an exit.
func (c *vcpu) union() []byte { return c.run[runUnion:] }

// loop runs the vCPU until the machine ends. It is a goroutine of its own.
func (c *vcpu) loop(m *Machine) {
	// The kernel ties a vCPU to the thread that runs it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Whoever started this process may have left the signal blocked.
	var set unix.Sigset_t
	set.Val[(unix.SIGURG-1)/64] |= 1 << ((unix.SIGURG - 1) % 64)
	if err := unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil); err != nil {
		m.end(fmt.Errorf("vCPU %d: unblock SIGURG: %w", c.id, err))
		return
	}
	m.attach(c)
	defer m.detach(c)
	for {
		_, err := ioctl(c.fd, "KVM_RUN", kvmRun, 0)
		switch {
		case err == nil:
			if done, why := m.exit(c); done {
				m.end(why)
			}
		case errors.Is(err, unix.EINTR):
			m.count.exit("interrupted")
			if !m.obey(c) {
				return
			}
		case errors.Is(err, unix.EAGAIN): // the guest has not started it yet, or just did
			m.count.exit("waiting")
		default:
			m.end(fmt.Errorf("vCPU %d: %w", c.id, err))
			return
		}
	}
}

// state is the registers, in a line, for an end that nobody wanted.
func (c *vcpu) state() string {
	var r regs
	var s sregs
	if _, err := ioctlPtr(c.fd, "KVM_GET_REGS", kvmGetRegs, &r); err != nil {
		return err.Error()
	}
	if _, err := ioctlPtr(c.fd, "KVM_GET_SREGS", kvmGetSregs, &s); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("rip=%x rflags=%x rsp=%x rbp=%x rax=%x rbx=%x rcx=%x rdx=%x rsi=%x rdi=%x "+
		"cs=%x cr0=%x cr2=%x cr3=%x cr4=%x efer=%x idt=%x+%x",
		r.RIP, r.RFLAGS, r.RSP, r.RBP, r.RAX, r.RBX, r.RCX, r.RDX, r.RSI, r.RDI,
		s.cs.selector, s.cr0, s.cr2, s.cr3, s.cr4, s.efer, s.idt.base, s.idt.limit)
}

func (c *vcpu) close() error {
	var errs []error
	if c.run != nil {
		errs = append(errs, unix.Munmap(c.run))
		c.run = nil
	}
	return errors.Join(append(errs, unix.Close(c.fd))...)
}
