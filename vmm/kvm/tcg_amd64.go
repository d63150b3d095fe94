package kvm

import (
	"encoding/binary"
	"os"
	"strings"
)

// OnTCG reports whether the CPUs of the open Device are QEMU's TCG, emulated:
// a host that is itself a guest, as tests have one. What a guest of such a host
// must not do is said in vmm/qemu.
func OnTCG(device *os.File) (bool, error) {
	list, err := supportedCPUID(int(device.Fd()))
	if err != nil {
		return false, err
	}
	return strings.HasPrefix(brand(list), "QEMU TCG"), nil
}

// leafBrand is the first of the three leaves with the name of the CPU.
const leafBrand = 0x80000002

// brand is the name of the CPU in a list of CPUID.
func brand(list []cpuidEntry) string {
	var b [48]byte
	for _, e := range list {
		if e.leaf < leafBrand || e.leaf > leafBrand+2 {
			continue
		}
		at := b[16*(e.leaf-leafBrand):]
		for i, r := range []uint32{e.eax, e.ebx, e.ecx, e.edx} {
			binary.LittleEndian.PutUint32(at[4*i:], r)
		}
	}
	return strings.TrimRight(string(b[:]), "\x00 ")
}
