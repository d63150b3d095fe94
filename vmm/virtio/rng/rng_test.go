package rng

import (
	"bytes"
	"testing"

	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

var spec = virtiotest.Spec{
	New:     func(testing.TB) virtio.Device { return New() },
	Watched: []int{0},
	Work: func(d *virtiotest.Driver) {
		a, first := d.In(64)
		b, second := d.In(300)
		if n := d.Do(0, a, b); n != 364 {
			d.Fatalf("filled %d bytes of 364", n)
		}
		if bytes.Equal(first, make([]byte, 64)) || bytes.Equal(second[236:], make([]byte, 64)) || bytes.Equal(first, second[:64]) {
			d.Errorf("that is not random: %x %x", first, second)
		}
	},
}

func TestDevice(t *testing.T) { virtiotest.TestDevice(t, spec) }

func FuzzChains(f *testing.F) { virtiotest.FuzzDevice(f, spec) }

// A chain that covers the same memory again and again gets no more than a page.
func TestBounded(t *testing.T) {
	d := virtiotest.NewDriver(t, New(), virtiotest.Buses["mmio"], 1<<20)
	d.Start(^uint64(0), 0)
	in, b := d.In(64 << 10)
	if n := d.Do(0, in, in, in); n != maxFill {
		t.Errorf("filled %d bytes, not %d", n, maxFill)
	}
	if !bytes.Equal(b[maxFill:], make([]byte, len(b)-maxFill)) {
		t.Errorf("wrote behind the %d bytes that it said", maxFill)
	}
	if n := d.Do(0, d.Out(make([]byte, 16))); n != 0 {
		t.Errorf("filled %d bytes of a chain with no room", n)
	}
}
