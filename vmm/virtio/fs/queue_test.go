package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stilehq/stile/vmm/fileserver"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// slowDisk is a server that does not find "slow" before it may.
type slowDisk struct {
	*fileserver.Server
	begun, may chan struct{}
}

func (s *slowDisk) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name == "slow" {
		s.begun <- struct{}{}
		<-s.may
	}
	return s.Server.Lookup(cancel, in, name, out)
}

// TestSlowRequestsHoldUpNothing: a request that is answered by who takes
// requests off the ring, and takes long, is overtaken; so are several of them,
// up to the bound, and each is answered in the end.
func TestSlowRequestsHoldUpNothing(t *testing.T) {
	disk := &slowDisk{begun: make(chan struct{}), may: make(chan struct{})}
	d := newDriverOf(t, virtio.RingFeatures, func(s *fileserver.Server) Server { disk.Server = s; return disk })
	d.init()
	share := d.lookup(fuse.FUSE_ROOT_ID, "s").NodeId
	const slow = 5
	for i := range slow {
		d.submit(1, 1, share, nil, []byte("slow\x00"), 128)
		select {
		case <-disk.begun:
		case <-time.After(5 * time.Second):
			t.Fatalf("slow request %d waits for the one before it", i)
		}
	}
	if err := os.WriteFile(filepath.Join(d.host, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		d.lookup(share, "file")
	}
	if n := d.rings[1].InFlight(); n != slow {
		t.Errorf("%d requests in flight, want the %d slow ones", n, slow)
	}
	close(disk.may)
	for i := range slow {
		if _, _, ok := d.rings[1].WaitUsed(5 * time.Second); !ok {
			t.Fatalf("slow request %d is not answered", i)
		}
	}
	d.lookup(share, "file")
}

// TestFullRing: a ring full of requests at one kick is answered whole.
func TestFullRing(t *testing.T) {
	for _, features := range []uint64{virtio.RingFeatures, virtio.FeatureVersion1} {
		t.Run(fmt.Sprintf("features %#x", features), func(t *testing.T) {
			d := newDriver(t, features)
			d.init()
			head := fuse.InHeader{Length: uint32(headerSize) + 2, Opcode: 1, NodeId: fuse.FUSE_ROOT_ID}
			msg := append(append([]byte(nil), bytesOf(&head)...), "s\x00"...)
			copy(d.mem.Bytes(d.in, bufSize), msg)
			const requests = 32
			for i := range requests {
				d.rings[1].Add(virtiotest.Buf{GPA: d.in, Len: uint32(len(msg))},
					virtiotest.Buf{GPA: d.out + uint64(i)*4096, Len: 4096, Writable: true})
			}
			d.rings[1].Kick()
			for i := range requests {
				if _, n, ok := d.rings[1].WaitUsed(5 * time.Second); !ok || n != 144 {
					t.Fatalf("answer %d: %d bytes, %v; want 144", i, n, ok)
				}
			}
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	d := newDriver(b, virtio.RingFeatures)
	d.init()
	share := d.lookup(fuse.FUSE_ROOT_ID, "s").NodeId
	if err := os.WriteFile(filepath.Join(d.host, "file"), nil, 0o600); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		d.lookup(share, "file")
	}
}
