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
