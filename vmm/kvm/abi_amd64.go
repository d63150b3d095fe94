package kvm

//lint:file-ignore U1000 the structures are the kernel's, to the last field

import "unsafe"

// Structures of include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h,
// of which the request numbers hold the sizes.

type memoryRegion struct { // kvm_userspace_memory_region
	slot, flags    uint32
	gpa, size, hva uint64
}

const memReadOnly = 1 << 1 // KVM_MEM_READONLY

type ioEvent struct { // kvm_ioeventfd
	datamatch, addr uint64
	length          uint32
	fd              int32
	flags           uint32
	_               [36]byte
}

const ioEventDatamatch = 1 << 0

type irqFD struct { // kvm_irqfd
	fd, gsi, flags, resample uint32
	_                        [16]byte
}

type pitConfig struct { // kvm_pit_config
	flags uint32
	_     [15]uint32
}

const pitSpeakerDummy = 1 // port 0x61 is answered in the kernel

type regs struct { // kvm_regs
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

type segment struct { // kvm_segment
	base                            uint64
	limit                           uint32
	selector                        uint16
	kind, present, dpl, db, s, l, g uint8
	avl, unusable, _                uint8
}

type dtable struct { // kvm_dtable
	base  uint64
	limit uint16
	_     [3]uint16
}

type sregs struct { // kvm_sregs
	cs, ds, es, fs, gs, ss, tr, ldt segment
	gdt, idt                        dtable
	cr0, cr2, cr3, cr4, cr8         uint64
	efer, apicBase                  uint64
	interruptBitmap                 [4]uint64
}

type cpuidEntry struct { // kvm_cpuid_entry2
	leaf, subleaf, flags uint32
	eax, ebx, ecx, edx   uint32
	_                    [3]uint32
}

const cpuidSubleaf = 1 // KVM_CPUID_FLAG_SIGNIFCANT_INDEX

const maxCPUID = 256 // KVM_MAX_CPUID_ENTRIES

type cpuid struct { // kvm_cpuid2
	n, _    uint32
	entries [maxCPUID]cpuidEntry
}

type msrEntry struct { // kvm_msr_entry
	index, _ uint32
	data     uint64
}

const maxMSRs = 8

type msrs struct { // kvm_msrs
	n, _    uint32
	entries [maxMSRs]msrEntry
}

// header is what the sizes of cpuid's and msrs' requests count.
type header struct{ n, pad uint32 }

var (
	kvmGetAPIVersion       = ioctlNumber(dirNone, 0x00, 0)
	kvmCreateVM            = ioctlNumber(dirNone, 0x01, 0)
	kvmGetVCPUMmapSize     = ioctlNumber(dirNone, 0x04, 0)
	kvmGetSupportedCPUID   = ioctlNumber(dirRead|dirWrite, 0x05, unsafe.Sizeof(header{}))
	kvmCreateVCPU          = ioctlNumber(dirNone, 0x41, 0)
	kvmSetUserMemoryRegion = ioctlNumber(dirWrite, 0x46, unsafe.Sizeof(memoryRegion{}))
	kvmSetTSSAddr          = ioctlNumber(dirNone, 0x47, 0)
	kvmSetIdentityMapAddr  = ioctlNumber(dirWrite, 0x48, 8)
	kvmCreateIRQChip       = ioctlNumber(dirNone, 0x60, 0)
	kvmIRQFD               = ioctlNumber(dirWrite, 0x76, unsafe.Sizeof(irqFD{}))
	kvmCreatePIT2          = ioctlNumber(dirWrite, 0x77, unsafe.Sizeof(pitConfig{}))
	kvmIOEventFD           = ioctlNumber(dirWrite, 0x79, unsafe.Sizeof(ioEvent{}))
	kvmRun                 = ioctlNumber(dirNone, 0x80, 0)
	kvmGetRegs             = ioctlNumber(dirRead, 0x81, unsafe.Sizeof(regs{}))
	kvmSetRegs             = ioctlNumber(dirWrite, 0x82, unsafe.Sizeof(regs{}))
	kvmGetSregs            = ioctlNumber(dirRead, 0x83, unsafe.Sizeof(sregs{}))
	kvmSetSregs            = ioctlNumber(dirWrite, 0x84, unsafe.Sizeof(sregs{}))
	kvmSetMSRs             = ioctlNumber(dirWrite, 0x89, unsafe.Sizeof(header{}))
	kvmSetCPUID2           = ioctlNumber(dirWrite, 0x90, unsafe.Sizeof(header{}))
	kvmClockCtrl           = ioctlNumber(dirNone, 0xad, 0)
)

// Capabilities.
const (
	capIRQChip          = 0
	capUserMemory       = 3
	capExtCPUID         = 7
	capIRQFD            = 32
	capPIT2             = 33
	capIOEventFD        = 36
	capMaxVCPUs         = 66
	capTSCDeadlineTimer = 72
	capReadOnlyMem      = 81
	capImmediateExit    = 136
)

// Reasons of an exit.
const (
	exitIO            = 2
	exitMMIO          = 6
	exitShutdown      = 8
	exitFailEntry     = 9
	exitIntr          = 10
	exitInternalError = 17
	exitSystemEvent   = 24
)

// A runPage is a vCPU's kvm_run, shared with the kernel, by its offsets.
type runPage []byte

const (
	runControl  = 0 // request_interrupt_window, immediate_exit, padding: a word
	runReason   = 8
	runUnion    = 32
	immediate   = 1 << 8 // immediate_exit within the word at runControl
	directionIn = 0      // KVM_EXIT_IO_IN
)
