package kvm

import (
	"math/bits"
	"slices"
)

// CPUID leaves and bits that shapeCPUID changes (Intel's manual 2A, AMD's APM 3
// appendix E).
const (
	leafFeatures     = 1
	leafCaches       = 4
	leafThermal      = 6
	leafTopology     = 0xb
	leafTopologyV2   = 0x1f
	leafAMDFeatures  = 0x80000001
	leafAMDSizes     = 0x80000008
	leafAMDCaches    = 0x8000001d
	leafAMDTopology  = 0x8000001e
	leafAMDTopology2 = 0x80000026

	ecxVMX         = 1 << 5
	ecxTSCDeadline = 1 << 24
	ecxHypervisor  = 1 << 31
	edxHTT         = 1 << 28 // EBX[23:16] counts
	eaxARAT        = 1 << 2
	ecxSVM         = 1 << 2

	levelSMT  = 1
	levelCore = 2
)

// shapeCPUID is what vCPU id of n is to see, of what KVM supports: the host's
// features, and a topology of n cores in one package.
//
// KVM's list tells of the CPU that it was asked on; its APIC id is in there.
func shapeCPUID(supported []cpuidEntry, id, n int, deadline bool) []cpuidEntry {
	entries := slices.Clone(supported)
	// The topology is in one leaf, which all kernels read.
	entries = slices.DeleteFunc(entries, func(e cpuidEntry) bool {
		return e.leaf == leafTopology || e.leaf == leafTopologyV2 || e.leaf == leafAMDTopology2 || e.leaf == leafThermal
	})
	apicID, cores := uint32(id), uint32(n)
	width := uint32(bits.Len(uint(n - 1))) // bits of an APIC id within the package
	maxLeaf := uint32(0)
	for i := range entries {
		e := &entries[i]
		switch e.leaf {
		case 0:
			e.eax = max(e.eax, leafTopology)
			maxLeaf = e.eax
		case leafFeatures:
			e.ebx = e.ebx&0x0000ffff | cores<<16 | apicID<<24
			e.edx |= edxHTT
			// Without this bit the guest looks for no KVM, and has no clock.
			e.ecx |= ecxHypervisor
			// In the list only from Linux 6.9 on, where the capability says it.
			e.ecx &^= ecxTSCDeadline
			if deadline {
				e.ecx |= ecxTSCDeadline
			}
			// A guest of a guest is host kernel code that no guest of ours has a
			// use for.
			e.ecx &^= ecxVMX
		case leafCaches: // of all cores; who shares a cache is of no use to know
			e.eax = e.eax&^0xffffc000 | (cores-1)&0x3f<<26
		case leafAMDFeatures:
			e.ecx &^= ecxSVM
		case leafAMDSizes:
			e.ecx = e.ecx&^0xf0ff | (cores-1)&0xff | width<<12
		case leafAMDCaches:
			e.eax &^= 0x03ffc000 // each cache is one core's
		case leafAMDTopology:
			e.eax, e.ebx, e.ecx = apicID, apicID&0xff, 0
		}
	}
	if maxLeaf >= leafThermal {
		// The timer runs in idle states, for there are none: else the guest
		// would keep the PIT for waking up.
		entries = append(entries, cpuidEntry{leaf: leafThermal, eax: eaxARAT})
	}
	level := func(subleaf, width, count, kind uint32) cpuidEntry {
		return cpuidEntry{leaf: leafTopology, subleaf: subleaf, flags: cpuidSubleaf,
			eax: width, ebx: count, ecx: subleaf | kind<<8, edx: apicID}
	}
	return append(entries, level(0, 0, 1, levelSMT), level(1, width, cores, levelCore), level(2, 0, 0, 0))
}
