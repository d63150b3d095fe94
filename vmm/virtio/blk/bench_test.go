package blk

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// BenchmarkRead reads a file that is in the page cache, through the rings, at
// several depths: what the device costs apart from its medium.
func BenchmarkRead(b *testing.B) {
	const size = 64 << 20
	f, err := os.Create(filepath.Join(b.TempDir(), "disk.img"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, size)); err != nil {
		b.Fatal(err)
	}
	for _, length := range []int{4 << 10, 1 << 20} {
		for _, depth := range []int{1, 32} {
			b.Run(fmt.Sprintf("%dKiB/depth=%d", length>>10, depth), func(b *testing.B) {
				store, err := NewFile(f)
				if err != nil {
					b.Fatal(err)
				}
				d := virtiotest.NewDriver(b, New(store, Options{}), virtiotest.Buses["mmio"], 64<<20)
				d.Start(virtio.RingFeatures|featureFlush, 0)
				r := d.Rings[0]
				var slots [][]virtiotest.Buf
				slot := make(map[uint16]int) // by head
				for i := range depth {
					data, _ := d.In(length)
					status, _ := d.In(1)
					slots = append(slots, []virtiotest.Buf{d.Out(head(typeIn, uint64(i*7919*8%(size/512-2048)))), data, status})
				}
				r.Indirect = false // or each Add takes new memory for its table
				b.SetBytes(int64(length))
				b.ResetTimer()
				sent := 0
				for ; sent < min(depth, b.N); sent++ {
					slot[r.Add(slots[sent]...)] = sent
				}
				r.Kick()
				for done := 0; done < b.N; done++ {
					h, _, ok := r.WaitUsed(10 * time.Second)
					if !ok {
						b.Fatal("the device is stuck")
					}
					i := slot[h]
					delete(slot, h)
					if sent < b.N {
						sent++
						slot[r.Add(slots[i]...)] = i
						r.Kick()
					}
				}
			})
		}
	}
}
