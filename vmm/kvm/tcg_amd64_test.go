package kvm

import "testing"

// The nested lane is recognized, and what names itself otherwise is not taken
// for it.
func TestOnTCG(t *testing.T) {
	if on := OnTCG(); on != inLane {
		t.Errorf("%v; in the lane: %v", on, inLane)
	}
	if s := signature(0x756e6547, 0x6c65746e, 0x49656e69); s != "GenuntelineI" {
		t.Errorf("registers spell %q", s)
	}
}
