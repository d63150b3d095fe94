package balloon

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stilehq/stile/vmm/memory"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// A host is who the pages are given back to.
type host struct {
	*Device
	mu   sync.Mutex
	runs []string // since the last take
}

func newHost() *host {
	h := new(host)
	h.Device = New(func(gpa, n uint64) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.runs = append(h.runs, run(gpa, n))
	})
	return h
}

func run(gpa, n uint64) string { return fmt.Sprintf("%#x+%#x", gpa, n) }

func (h *host) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	runs := h.runs
	h.runs = nil
	return runs
}

func (h *host) expect(tb testing.TB, want ...string) {
	tb.Helper()
	if got := h.take(); !slices.Equal(got, want) {
		tb.Errorf("given back: %q, not %q", got, want)
	}
}

func numbers(pages ...uint64) (b []byte) {
	for _, gpa := range pages {
		b = binary.LittleEndian.AppendUint32(b, uint32(gpa>>12))
	}
	return b
}

var spec = virtiotest.Spec{
	New: func(testing.TB) virtio.Device { return newHost() },
	// Statistics and hints, queues 2 and 3, are not offered; 2 is the reporting
	// queue of Linux.
	Watched: []int{inflateQueue, deflateQueue, compactQueue, reportingQueue},
	Memory:  16 << 20,
	Work: func(d *virtiotest.Driver) {
		h := d.Device.(*host)
		h.take()
		const at = virtiotest.Base + 8<<20 // above what the suite uses
		in := func(gpa uint64, n uint32) virtiotest.Buf {
			return virtiotest.Buf{GPA: gpa, Len: n, Writable: true}
		}
		if d.Features&featureReporting != 0 {
			for _, ring := range []int{compactQueue, reportingQueue} {
				given := h.Given()
				d.Do(ring, in(at, 2<<20), in(at+4<<20, 1<<20), in(at+6<<20+100, 8192), in(at, 100))
				h.expect(d, run(at, 2<<20), run(at+4<<20, 1<<20), run(at+6<<20+4096, 4096))
				if n := h.Given() - given; n != 3<<20+4096 {
					d.Errorf("%d bytes counted", n)
				}
			}
		}
		d.Do(inflateQueue, d.Out(numbers(at, at+0x1000, at+0x2000, at+0x8000)), d.Out(numbers(at+0x9000, at)))
		h.expect(d, run(at, 0x3000), run(at+0x8000, 0x2000), run(at, 0x1000))
		d.Do(deflateQueue, d.Out(numbers(at)))
		h.expect(d)

		d.WriteConfig(4, []byte{6, 0, 0, 0})
		var cfg [8]byte
		d.ReadConfig(0, cfg[:])
		if want := [8]byte{4: 6}; cfg != want {
			d.Errorf("config is %x, not %x", cfg, want)
		}
	},
	Flood: func(d *virtiotest.Driver, ring int) []virtiotest.Buf {
		if ring == inflateQueue {
			return []virtiotest.Buf{d.Out(numbers(virtiotest.Base, virtiotest.Base+0x2000))}
		}
		return []virtiotest.Buf{{GPA: virtiotest.Base, Len: 8192, Writable: true}}
	},
}

func TestDevice(t *testing.T) { virtiotest.TestDevice(t, spec) }

func FuzzChains(f *testing.F) { virtiotest.FuzzDevice(f, spec) }

// Page numbers that are none, or too many, end the device.
func TestHostilePageNumbers(t *testing.T) {
	for name, b := range map[string][]byte{
		"outside":  numbers(virtiotest.Base, 1<<43),
		"a part":   {1, 2, 3},
		"too many": make([]byte, 4*maxInflate+4),
		"page 0":   make([]byte, 4),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost()
			d := virtiotest.NewDriver(t, h, virtiotest.Buses["mmio"], 1<<20)
			d.Start(^uint64(0), 0)
			d.Rings[inflateQueue].Add(d.Out(b))
			d.Rings[inflateQueue].Kick()
			d.FailedWith(virtio.ErrRing, memory.ErrRange)
			h.expect(t)
		})
	}
}

// Without the feature a chain that looks like a report is none.
func TestNotNegotiated(t *testing.T) {
	h := newHost()
	d := virtiotest.NewDriver(t, h, virtiotest.Buses["mmio"], 1<<20)
	d.Start(virtio.FeatureVersion1, 0)
	d.Do(reportingQueue, virtiotest.Buf{GPA: virtiotest.Base, Len: 4096, Writable: true})
	h.expect(t)
}
