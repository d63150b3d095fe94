package virtiotest

import (
	"bytes"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stilehq/stile/vmm/memory"
	"github.com/stilehq/stile/vmm/virtio"
)

// A Spec is a kind of device, for TestDevice and FuzzDevice.
type Spec struct {
	// New makes a device that has no driver. What else it needs is ended by the
	// test's Cleanup.
	New func(testing.TB) virtio.Device
	// Work has a started device do a little of everything, and checks it. It is
	// called several times with one device, and leaves no chain in flight on a
	// watched queue.
	Work func(*Driver)
	// Watched are the queues that the device empties by itself when it is
	// kicked. On the others it takes a buffer when it has a use for it.
	Watched []int
	// Flood makes one chain that keeps the device busy for a moment, for a
	// reset with requests in flight. Nil: 512 bytes of zeros, and room for as
	// many.
	Flood func(d *Driver, ring int) []Buf
	// Memory is the size of guest memory in bytes; 0: 4 MiB.
	Memory int
}

func (s *Spec) memory() int {
	if s.Memory != 0 {
		return s.Memory
	}
	return 4 << 20
}

// features are the sets that a driver may ack: Linux takes all, the simplest
// driver none.
var features = map[string]uint64{
	"all":      ^uint64(0),
	"none":     virtio.FeatureVersion1,
	"indirect": virtio.FeatureVersion1 | virtio.FeatureIndirectDesc,
	"event":    virtio.FeatureVersion1 | virtio.FeatureEventIdx,
}

// TestDevice runs a kind of device through everything that is expected of any,
// on each transport.
func TestDevice(t *testing.T, s Spec) {
	for name, bus := range Buses {
		t.Run(name, func(t *testing.T) { testBus(t, s, bus) })
	}
}

func testBus(t *testing.T, s Spec, bus BusMaker) {
	run := func(name string, fn func(d *Driver)) {
		t.Run(name, func(t *testing.T) {
			goroutines, files := runtime.NumGoroutine(), openFiles(t)
			t.Run("", func(t *testing.T) { fn(NewDriver(t, s.New(t), bus, s.memory())) })
			eventually(t, "goroutines as before", func() bool { return runtime.NumGoroutine() <= goroutines })
			eventually(t, "descriptors as before", func() bool { return openFiles(t) <= files })
		})
	}
	for name, f := range features {
		run("work/"+name, func(d *Driver) {
			d.Start(f, 0)
			s.Work(d)
			d.noFailure()
		})
	}
	run("small rings", func(d *Driver) {
		d.Start(^uint64(0), 16)
		for range 20 { // the rings go round
			s.Work(d)
		}
		d.noFailure()
	})
	run("config", testConfig)
	run("sleep", func(d *Driver) { testSleep(d, s) })
	run("reset", func(d *Driver) { testReset(d, s) })
	run("chains before the start", func(d *Driver) { testEarly(d, s) })
	run("reset in flight", func(d *Driver) { testResetInFlight(d, s) })
	run("reset while the driver goes on", func(d *Driver) { testResetUnderFire(d, s) })
	run("memory changes under the device", func(d *Driver) { testScribble(d, s) })
	for name, h := range Hostile {
		run("hostile/"+name, func(d *Driver) { testHostile(d, s, h) })
	}
}

func (d *Driver) noFailure() {
	d.Helper()
	if err := d.Failure(); err != nil {
		d.Errorf("the device reports: %v", err)
	}
}

// testConfig reads the config space whole and in parts, and behind its end.
func testConfig(d *Driver) {
	all := make([]byte, 256)
	d.ReadConfig(0, all)
	want := make([]byte, 256)
	d.Device.ReadConfig(0, want)
	if !bytes.Equal(all, want) {
		d.Errorf("config space\n%x through the transport\n%x of the device", all, want)
	}
	for off := 0; off < 256; off += 4 {
		part := []byte{1, 2, 3, 4}
		d.ReadConfig(uint32(off), part)
		if !bytes.Equal(part, all[off:off+4]) {
			d.Errorf("config at %d is %x, and %x read whole", off, part, all[off:off+4])
		}
	}
	if d.Device.ReadConfig(4096, want[:8]); !bytes.Equal(want[:8], make([]byte, 8)) {
		d.Errorf("config space behind its end reads %x", want[:8])
	}
	if d.Device.ReadConfig(^uint32(0), want[:8]); !bytes.Equal(want[:8], make([]byte, 8)) {
		d.Errorf("config space at its largest offset reads %x", want[:8])
	}
	for i, n := range d.Device.QueueSizes() {
		if n == 0 || n&(n-1) != 0 {
			d.Errorf("queue %d has a size of %d", i, n)
		}
	}
	if f := d.Device.Features(); f&(virtio.RingFeatures|1<<30) != 0 {
		d.Errorf("features %#x include the transport's", f)
	}
}

func testSleep(d *Driver, s Spec) {
	d.Start(^uint64(0), 0)
	for range 5 {
		s.Work(d)
		d.Sleep()
		d.quiet(s)
		d.Wake()
	}
	s.Work(d)
	d.Sleep()
	d.Reset() // of a device that sleeps
	d.noFailure()
}

func testReset(d *Driver, s Spec) {
	d.Reset() // of a device that has no driver
	for range 5 {
		d.Start(^uint64(0), 32)
		s.Work(d)
		d.Reset()
		d.quiet(s)
		d.Reset()
	}
	d.noFailure()
}

// testEarly offers chains and kicks before the device is there.
func testEarly(d *Driver, s Spec) {
	d.Start(^uint64(0), 0)
	d.Sleep()
	for _, i := range s.Watched {
		r := d.Rings[i]
		r.Add(s.flood(d, i)...)
		r.ForceKick()
		r.ForceKick()
	}
	d.Wake()
	for _, i := range s.Watched {
		if _, _, ok := d.Rings[i].WaitUsed(patience); !ok {
			d.Fatalf("ring %d: the chain that was there before was not used", i)
		}
	}
	d.noFailure()
}

func (s *Spec) flood(d *Driver, ring int) []Buf {
	if s.Flood != nil {
		return s.Flood(d, ring)
	}
	in, _ := d.In(512)
	return []Buf{d.Out(make([]byte, 512)), in}
}

func testResetInFlight(d *Driver, s Spec) {
	for range 10 {
		d.Start(^virtio.FeatureEventIdx, 16)
		for _, i := range s.Watched {
			r := d.Rings[i]
			for r.Room(1) {
				r.Add(s.flood(d, i)...)
			}
			r.ForceKick()
		}
		d.Reset()
		d.quiet(s)
	}
	d.noFailure()
	d.Start(^uint64(0), 0)
	s.Work(d)
}

// quiet checks that a device that was stopped leaves guest memory alone, chains
// and kicks or not.
func (d *Driver) quiet(s Spec) {
	d.Helper()
	before := bytes.Clone(d.Mem.bytes)
	for _, i := range s.Watched {
		d.Rings[i].Kicks.Signal()
	}
	time.Sleep(2 * time.Millisecond)
	if !bytes.Equal(before, d.Mem.bytes) {
		d.Error("a device that is stopped writes to guest memory")
	}
}

// testResetUnderFire resets a device whose driver never lets a ring run empty:
// another vCPU does that while the first one resets.
func testResetUnderFire(d *Driver, s Spec) {
	d.Start(^virtio.FeatureEventIdx, 16)
	for _, i := range s.Watched {
		for r := d.Rings[i]; r.Room(1); {
			r.Add(s.flood(d, i)...)
		}
		d.Rings[i].ForceKick()
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	end := sync.OnceFunc(func() {
		close(stop)
		<-stopped
	})
	defer end()
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, i := range s.Watched {
				d.Rings[i].reoffer()
			}
			runtime.Gosched()
		}
	}()
	for _, i := range s.Watched {
		eventually(d, "the device is at work", func() bool { return d.Rings[i].UsedIdx() > 3*d.Rings[i].Size })
	}
	reset := make(chan struct{})
	go func() {
		defer close(reset)
		d.Reset()
	}()
	select {
	case <-reset:
	case <-time.After(patience):
		d.Error("a driver that goes on keeps its device from a reset")
	}
	end()
	<-reset
	d.noFailure()
}

// testScribble changes guest memory at random while the device works.
func testScribble(d *Driver, s Spec) {
	d.Start(^uint64(0), 32)
	x := uint64(88172645463325252)
	random := func() uint64 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		return x
	}
	for range 30 {
		for range 200 {
			for _, i := range s.Watched {
				r := d.Rings[i]
				for at := range uint16(8) {
					r.SetDesc(r.Desc, at, Base+random()%uint64(len(d.Mem.bytes)), uint32(random()%2048), uint16(random()&7), uint16(random()%16))
				}
				r.Offer(uint16(random() % uint64(r.Size)))
				r.Kicks.Signal()
			}
			if d.Failure() != nil {
				break
			}
		}
		d.Reset()
		if d.Failure() != nil && !d.restartable() {
			return
		}
		d.Forgive()
		d.Start(^uint64(0), 32)
		d.Mem.next = min(d.Mem.next, uint64(len(d.Mem.bytes)/2)) // the rings' old places are free
	}
}

// restartable reports whether a device goes on after a failure: the end of the
// connection is the end of a vhost-user device.
func (d *Driver) restartable() bool {
	_, ok := d.Bus.(*MMIO)
	return ok
}

func openFiles(tb testing.TB) int {
	tb.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(all)
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("never: %s", what)
		}
	}
}

// Hostile are the ways to break a ring that each device must notice, once it
// looks at the ring.
var Hostile = map[string]func(r *Ring){
	"an endless chain": func(r *Ring) {
		r.SetDesc(r.Desc, 0, Base, 1, DescNext, 1)
		r.SetDesc(r.Desc, 1, Base, 1, DescNext, 0)
		r.Offer(0)
	},
	"an endless chain of nothing": func(r *Ring) {
		r.SetDesc(r.Desc, 0, Base, 0, DescNext, 0)
		r.Offer(0)
	},
	"a descriptor beyond memory": func(r *Ring) {
		r.SetDesc(r.Desc, 0, Base+uint64(len(r.Mem.bytes))-8, 16, 0, 0)
		r.Offer(0)
	},
	"a descriptor that wraps": func(r *Ring) {
		r.SetDesc(r.Desc, 0, ^uint64(0)-8, 16, DescWrite, 0)
		r.Offer(0)
	},
	"a descriptor outside its table": func(r *Ring) {
		r.SetDesc(r.Desc, 0, Base, 16, DescNext, r.Size)
		r.Offer(0)
	},
	"an index that jumps": func(r *Ring) { r.SetAvailIdx(r.AvailIdx() + 40000) },
	"a head outside its table": func(r *Ring) {
		r.Offer(r.Size)
	},
	"readable behind writable": func(r *Ring) {
		r.SetDesc(r.Desc, 0, Base, 16, DescWrite|DescNext, 1)
		r.SetDesc(r.Desc, 1, Base, 16, 0, 0)
		r.Offer(0)
	},
	"indirect in indirect": func(r *Ring) {
		r.SetDesc(Base, 0, Base, 16, DescIndirect, 0)
		r.SetDesc(r.Desc, 0, Base, 16, DescIndirect, 0)
		r.Offer(0)
	},
	"an indirect table beyond memory": func(r *Ring) {
		r.SetDesc(r.Desc, 0, Base+uint64(len(r.Mem.bytes))-16, 32, DescIndirect, 0)
		r.Offer(0)
	},
	"an indirect table of nothing": func(r *Ring) {
		r.SetDesc(r.Desc, 0, Base, 0, DescIndirect, 0)
		r.Offer(0)
	},
	"4 GiB in one chain": func(r *Ring) {
		n := uint32(len(r.Mem.bytes))
		table := r.Mem.Alloc(16*1024, 16)
		for i := range uint16(1024) {
			r.SetDesc(table, i, Base, n, DescNext|DescWrite, i+1)
		}
		r.SetDesc(r.Desc, 0, table, 16*1024, DescIndirect, 0)
		r.Offer(0)
	},
}

// testHostile breaks each watched queue in turn.
func testHostile(d *Driver, s Spec, breakRing func(*Ring)) {
	for n, i := range s.Watched {
		d.Start(^uint64(0), 64)
		if n == 0 {
			s.Work(d)
		}
		breakRing(d.Rings[i])
		d.Rings[i].ForceKick()
		d.FailedWith(virtio.ErrRing, memory.ErrRange)
		if !d.restartable() {
			return
		}
		if m := d.Bus.(*MMIO); m.Read32(RegStatus)&StatusNeedsReset == 0 {
			d.Errorf("ring %d: status is %#x", i, m.Read32(RegStatus))
		}
		d.Reset()
		d.Forgive()
		d.Start(^uint64(0), 0)
		s.Work(d)
		d.noFailure()
		d.Reset()
	}
}
