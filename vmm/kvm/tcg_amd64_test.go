package kvm

import (
	"os"
	"testing"
)

func TestBrand(t *testing.T) {
	list := []cpuidEntry{
		{leaf: 0x80000001, eax: 0x41414141},
		{leaf: 0x80000004, eax: 0x2b35},
		{leaf: 0x80000002, eax: 0x554d4551, ebx: 0x47435420, ecx: 0x55504320, edx: 0x72657620},
		{leaf: 0x80000003, eax: 0x6e6f6973, ebx: 0x20202020, ecx: 0x20202020, edx: 0x2e322020},
		{leaf: 0x80000005, eax: 0x41414141},
	}
	if got := brand(list); got != "QEMU TCG CPU version          2.5+" {
		t.Errorf("%q", got)
	}
	if got := brand(nil); got != "" {
		t.Errorf("of no list: %q", got)
	}
}

// The nested lane is recognized.
func TestOnTCG(t *testing.T) {
	needKVM(t)
	device, err := os.OpenFile(Device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if on, err := OnTCG(device); err != nil || inLane && !on {
		t.Errorf("%v, %v; in the lane: %v", on, err, inLane)
	}
}
