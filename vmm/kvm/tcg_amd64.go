package kvm

import "encoding/binary"

// leafHypervisor names the hypervisor below this process.
const leafHypervisor = 0x40000000

// OnTCG reports whether this process's CPU is QEMU's TCG, emulated: a host that
// is itself a guest, as tests have one. What a guest of such a host must not do
// is said in vmm/qemu.
func OnTCG() bool {
	ebx, ecx, edx := cpuidOf(leafHypervisor)
	return signature(ebx, ecx, edx) == "TCGTCGTCGTCG" // target/i386/cpu.c
}

// signature is the name that three registers spell.
func signature(ebx, ecx, edx uint32) string {
	var b []byte
	for _, r := range []uint32{ebx, ecx, edx} {
		b = binary.LittleEndian.AppendUint32(b, r)
	}
	return string(b)
}

// cpuidOf executes CPUID: KVM's own list has what its guests are to see.
func cpuidOf(leaf uint32) (ebx, ecx, edx uint32)
