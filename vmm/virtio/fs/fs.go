// Package fs is the virtio file-system device (Virtual I/O Device
// specification, section 5.11): FUSE requests come as descriptor chains, and a
// Server answers them. The first queue is for what must not wait behind other
// requests (FORGET, INTERRUPT), the others are for requests.
//
// # Guest memory
//
// The guest can change a request while it is handled. So all of it is copied
// before anyone looks at it, the payload of WRITE excepted, which is data that
// nobody checks: a name that was checked is the name that is used. Replies go
// straight into guest memory, which nobody reads back.
//
// # Order
//
// FUSE knows none between requests in flight. The goroutine that takes requests
// off a ring, its leader, answers most of them itself: a look at a name costs
// less than to wake another goroutine for it. What takes long by its nature has
// a goroutine of its own, up to a bound, which a request that waits for a lock
// is outside of. And where a request of the other kind takes long, as the
// host's disk may make it, another leader takes the ring meanwhile.
package fs

import (
	"encoding/binary"
	"errors"
	"log"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stilehq/stile/vmm/virtio"
)

// A Server answers FUSE requests; vmm/fileserver is the one that stile uses.
type Server interface {
	fuse.RawFileSystem
	// Protocol returns the options of the FUSE session.
	Protocol() *fuse.MountOptions
	// SetCached says, at the start of a session, whether the guest's kernel
	// has stile's patches: that it drops its caches when a command crosses
	// the fence, so that it may keep names and attributes for a while.
	SetCached(bool)
	// Interrupt ends the waits of requests in flight.
	Interrupt()
	// Reset forgets what the guest looked up, opened and locked.
	Reset()
}

const (
	// queueSize lets a request carry 1 MiB in pages of their own.
	queueSize = 1024
	// maxInFlight bounds the requests of one queue that are handled at one
	// time, those that wait for a lock excepted: they are as many as the
	// ring has entries at most.
	maxInFlight = 64
	// maxTag is the length of the tag in the config space.
	maxTag = 36
)

// Device is a virtio-fs device. It implements virtio.Device.
type Device struct {
	tag      string
	server   Server
	requests int // queues
	log      *log.Logger

	session atomic.Pointer[fuse.ProtocolServer] // nil before FUSE_INIT and after FUSE_DESTROY
	initMu  sync.Mutex                          // one FUSE_INIT or FUSE_DESTROY at a time

	run *run // nil while stopped
}

var _ virtio.Device = (*Device)(nil)

// New makes a device that a guest mounts by tag, of at most 36 bytes, with one
// or more request queues. The server stays the caller's.
func New(tag string, server Server, requestQueues int) *Device {
	if len(tag) > maxTag {
		tag = tag[:maxTag]
	}
	d := &Device{tag: tag, server: server, requests: max(1, requestQueues)}
	d.SetLogger(nil)
	return d
}

// SetLogger says where complaints about the driver go, at a bounded rate; nil
// discards them. It is called before Activate.
func (d *Device) SetLogger(l *log.Logger) { d.log = log.New(&limitedLog{to: l}, "", 0) }

// ID is virtio.IDFS.
func (d *Device) ID() uint32 { return virtio.IDFS }

// QueueSizes are those of the hiprio queue and of each request queue.
func (d *Device) QueueSizes() []uint16 {
	sizes := make([]uint16, 1+d.requests)
	for i := range sizes {
		sizes[i] = queueSize
	}
	return sizes
}

// Features are none: the notification queue is not offered, as Linux has no
// use for it.
func (d *Device) Features() uint64 { return 0 }

// ReadConfig reads the tag and the number of request queues (5.11.4).
func (d *Device) ReadConfig(off uint32, p []byte) {
	var config [maxTag + 4]byte
	copy(config[:maxTag], d.tag)
	binary.LittleEndian.PutUint32(config[maxTag:], uint32(d.requests))
	clear(p)
	if off < uint32(len(config)) {
		copy(p, config[off:])
	}
}

// WriteConfig is ignored: no field is writable.
func (d *Device) WriteConfig(uint32, []byte) {}

// Activate starts serving the queues.
func (d *Device) Activate(a virtio.Activation) error {
	if d.run != nil {
		return errors.New("virtio-fs device is active already")
	}
	r := &run{device: d, fail: a.Fail, ended: make(chan struct{})}
	for i, q := range a.Queues {
		if q == nil {
			continue
		}
		limit := maxInFlight
		if i == 0 {
			limit = 1
		}
		r.queues = append(r.queues, &queue{run: r, q: q, limit: limit})
	}
	if len(r.queues) == 0 {
		return errors.New("virtio-fs device has no queue")
	}
	d.run = r
	for _, q := range r.queues {
		q.start()
	}
	return nil
}

// Sleep answers what is in flight and stops. Waits for locks end: a guest
// kernel with stile's patches asks again.
func (d *Device) Sleep() error {
	d.stop()
	return nil
}

// Reset stops, and forgets the session.
func (d *Device) Reset() {
	d.stop()
	d.initMu.Lock()
	defer d.initMu.Unlock()
	d.session.Store(nil)
	d.server.Reset()
}

func (d *Device) stop() {
	if d.run == nil {
		return
	}
	d.run.stop()
	d.run = nil
}

// A run is the time from Activate to Sleep or Reset.
type run struct {
	device *Device
	fail   func(error)
	queues []*queue
	ended  chan struct{} // closed by stop
	wg     sync.WaitGroup
}

func (r *run) over() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

func (r *run) stop() {
	close(r.ended)
	for _, q := range r.queues {
		if err := q.q.Interrupt(); err != nil {
			r.device.log.Printf("stop queue: %v", err)
		}
	}
	done := make(chan struct{})
	go func() {
		r.wg.Wait()
		close(done)
	}()
	// A request that was taken off the ring just now may not wait yet: so
	// again and again.
	for {
		r.device.server.Interrupt()
		select {
		case <-done:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}
