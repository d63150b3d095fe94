package virtiotest

import (
	"bytes"
	"testing"

	"github.com/stilehq/stile/vmm/virtio"
)

func echoWork(d *Driver) {
	for ring := range d.Rings {
		in, got := d.In(100)
		if n := d.Do(ring, d.Out([]byte("hello, ")), d.Out([]byte("world")), in); n != 12 || !bytes.Equal(got[:13], []byte("hello, world\x00")) {
			d.Errorf("echo wrote %d bytes: %q", n, got)
		}
	}
}

var echoSpec = Spec{
	New:     func(testing.TB) virtio.Device { return new(Echo) },
	Work:    echoWork,
	Watched: []int{0, 1},
}

func TestEcho(t *testing.T) { TestDevice(t, echoSpec) }

// The work of a device's queues is counted through its restarts, and nothing
// else of it changes.
func TestCounting(t *testing.T) {
	var counter *virtio.Counter // of the device under test; the tests of a Spec follow each other
	spec := echoSpec
	spec.New = func(testing.TB) (d virtio.Device) {
		d, counter = virtio.Counting(new(Echo))
		return d
	}
	spec.Work = func(d *Driver) {
		before := counter.Counts()
		echoWork(d)
		for i, after := range counter.Counts() {
			if after.Chains != before[i].Chains+1 || after.Calls < before[i].Calls {
				d.Errorf("queue %d: %+v after one request more than %+v", i, after, before[i])
			}
		}
	}
	TestDevice(t, spec)
}
