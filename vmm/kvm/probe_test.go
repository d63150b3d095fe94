package kvm

import (
	"os"
	"testing"
)

// inLane says whether this runs in the nested lane (testdata/lane), where KVM
// must do.
var inLane = os.Getenv("STILE_LANE") == "nested"

func TestProbe(t *testing.T) {
	r := Probe()
	t.Logf("%v: %s; %s", r.Support, r.Reason, r.Hint)
	if r.Support < Usable || r.Support > Unsuitable || r.Reason == "" {
		t.Errorf("answer %#v", r)
	}
	if inLane && r.Support != Usable {
		t.Error("not usable in the nested lane")
	}
	_, err := os.Stat(Device)
	if missing := err != nil; missing != (r.Support == NoDevice) {
		t.Errorf("stat of %s: %v", Device, err)
	}
}
