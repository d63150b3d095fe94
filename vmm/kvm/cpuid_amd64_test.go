package kvm

import "testing"

// What vCPUs are told of themselves, from lists of an Intel and of an AMD host.
func TestShapeCPUID(t *testing.T) {
	intel := []cpuidEntry{
		{leaf: 0, eax: 0x1f}, {leaf: 1, ebx: 0x07100800, ecx: ecxVMX | 1, edx: 0},
		{leaf: 4, flags: cpuidSubleaf, eax: 0x3c00c121}, {leaf: 6, eax: 0x77, ecx: 9},
		{leaf: 0xb, flags: cpuidSubleaf, edx: 7}, {leaf: 0xb, subleaf: 1, flags: cpuidSubleaf, edx: 7}, {leaf: 0x1f, flags: cpuidSubleaf, edx: 7},
		{leaf: 0x40000000, eax: 0x40000001},
	}
	amd := []cpuidEntry{
		{leaf: 0, eax: 0x10}, {leaf: 1, ebx: 0x07100800, ecx: ecxTSCDeadline},
		{leaf: 0x80000001, ecx: ecxSVM | 1}, {leaf: 0x80000008, ecx: 0x400f, eax: 0x3030},
		{leaf: 0x8000001d, flags: cpuidSubleaf, eax: 0x0003c163}, {leaf: 0x8000001e, eax: 7, ebx: 0x107, ecx: 3},
		{leaf: 0x80000026, flags: cpuidSubleaf, edx: 7},
	}
	for _, c := range []struct {
		name     string
		list     []cpuidEntry
		id, n    int
		deadline bool
	}{
		{"intel", intel, 0, 1, true}, {"intel", intel, 2, 3, true}, {"amd", amd, 5, 6, false}, {"amd", amd, 253, 254, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			original := append([]cpuidEntry(nil), c.list...)
			found := make(map[[2]uint32]cpuidEntry)
			for _, e := range shapeCPUID(c.list, c.id, c.n, c.deadline) {
				key := [2]uint32{e.leaf, e.subleaf}
				if _, twice := found[key]; twice {
					t.Errorf("leaf %#x stands twice", key)
				}
				found[key] = e
			}
			for i := range original {
				if c.list[i] != original[i] {
					t.Error("the list of another vCPU is changed")
				}
			}
			id := uint32(c.id)
			one := found[[2]uint32{1}]
			if one.ebx>>24 != id || one.ebx>>16&0xff != uint32(c.n) || one.ebx&0xffff != 0x0800 {
				t.Errorf("leaf 1 EBX %#x", one.ebx)
			}
			if one.ecx&ecxHypervisor == 0 || one.ecx&ecxVMX != 0 || (one.ecx&ecxTSCDeadline != 0) != c.deadline {
				t.Errorf("leaf 1 ECX %#x", one.ecx)
			}
			if got := found[[2]uint32{6}]; got.eax != eaxARAT || got.ecx != 0 {
				t.Errorf("leaf 6 %+v", got)
			}
			thread, core, end := found[[2]uint32{0xb, 0}], found[[2]uint32{0xb, 1}], found[[2]uint32{0xb, 2}]
			if thread.eax != 0 || thread.ebx != 1 || thread.edx != id || core.ebx != uint32(c.n) || core.edx != id || end.ecx>>8 != 0 {
				t.Errorf("topology %+v, %+v, %+v", thread, core, end)
			}
			if id>>core.eax != 0 || c.n > 1 && uint32(c.n-1)>>(core.eax-1) == 0 {
				t.Errorf("%d bits for %d cores", core.eax, c.n)
			}
			if found[[2]uint32{0}].eax < 0xb {
				t.Error("the topology leaf is beyond the last")
			}
			if e, ok := found[[2]uint32{0x80000001}]; ok && e.ecx != 1 {
				t.Errorf("leaf 0x80000001 ECX %#x", e.ecx)
			}
			if e, ok := found[[2]uint32{0x8000001e}]; ok && (e.eax != id || e.ebx != id || e.ecx != 0) {
				t.Errorf("leaf 0x8000001e %+v", e)
			}
			for _, leaf := range []uint32{0x1f, 0x80000026} {
				if _, ok := found[[2]uint32{leaf}]; ok {
					t.Errorf("leaf %#x tells of the host", leaf)
				}
			}
		})
	}
}
