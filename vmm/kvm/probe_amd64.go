package kvm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// A loop of probeLoops times two instructions costs 0.3 ns a time on
	// hardware, 4 to 14 in a guest under QEMU's TCG that has a KVM, and 1,100
	// where KVM emulates. The exit and the page faults around it add 24 at most.
	probeLoops = 10_000
	probeLimit = 150 * time.Nanosecond

	// probeTimeout bounds a guest that never comes back.
	probeTimeout = time.Second
)

// probeCode is 32-bit code: the loop, an exit, and again.
var probeCode = []byte{
	0xb9, probeLoops & 0xff, probeLoops >> 8, 0, 0, // mov ecx, probeLoops
	0x49,       // dec ecx
	0x75, 0xfd, // jnz to the dec
	0xe6, 0x80, // out 0x80, al
	0xeb, 0xf4, // jmp to the beginning
}

// probe runs a loop in a VM of its own.
func probe(device *os.File) Result {
	v, err := newVM(device) // finds out what is missing
	if err == nil {
		err = v.close()
	}
	if err != nil {
		return Result{Unsuitable, err.Error(), ""}
	}
	each, err := timeLoop(device)
	switch {
	case errors.Is(err, errProbeTimeout), err == nil && each > probeLimit:
		return Result{Emulated, "KVM is emulated here: a guest's kernel would run step by step", ""}
	case err != nil:
		return Result{Unsuitable, "KVM does not run a guest: " + err.Error(), ""}
	}
	return Result{Usable, fmt.Sprintf("KVM runs guests (%v an iteration of a loop)", each.Round(time.Nanosecond/10)), ""}
}

var errProbeTimeout = errors.New("the guest did not come back")

// timeLoop is the time of one iteration, the best of some runs.
func timeLoop(device *os.File) (_ time.Duration, err error) {
	const codeGPA = 0x1000
	v := &vm{kvm: int(device.Fd())}
	if v.runSize, err = ioctl(v.kvm, "KVM_GET_VCPU_MMAP_SIZE", kvmGetVCPUMmapSize, 0); err != nil {
		return 0, err
	}
	if v.fd, err = createVM(v.kvm); err != nil {
		return 0, err
	}
	defer v.close()
	if err := v.reserve(); err != nil {
		return 0, err
	}
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(page)
	copy(page, probeCode)
	if err := v.addSlot(codeGPA, page, 0); err != nil {
		return 0, err
	}
	c := new(vcpu)
	if c.fd, err = ioctl(v.fd, "KVM_CREATE_VCPU", kvmCreateVCPU, 0); err != nil {
		return 0, err
	}
	defer c.close()
	if c.run, err = unix.Mmap(c.fd, 0, v.runSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return 0, err
	}
	if err := c.enterFlat(&regs{RIP: codeGPA, RFLAGS: 2}); err != nil {
		return 0, err
	}

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var late atomic.Bool
	finished, gone := make(chan struct{}), make(chan struct{})
	go func(tid int) {
		defer close(gone)
		select {
		case <-finished:
		case <-time.After(probeTimeout):
			late.Store(true)
			// Not vcpu.kick: there is no Machine whose lock it needs.
			atomic.StoreUint32((*uint32)(unsafe.Pointer(&c.run[runControl])), immediate)
			unix.Tgkill(os.Getpid(), tid, unix.SIGURG) // the thread is there: it waits for gone
		}
	}(unix.Gettid())
	defer func() {
		close(finished)
		<-gone
	}()
	best := time.Duration(1<<63 - 1)
	for range 3 {
		start := time.Now()
		for {
			_, err := ioctl(c.fd, "KVM_RUN", kvmRun, 0)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EINTR) {
				return 0, err
			}
			if late.Load() {
				return 0, errProbeTimeout
			}
		}
		if r := c.reason(); r != exitIO {
			return 0, fmt.Errorf("exit for reason %d: %s", r, c.state())
		}
		best = min(best, time.Since(start))
	}
	return best / probeLoops, nil
}
