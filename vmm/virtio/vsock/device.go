// Package vsock is the virtio socket device (Virtual I/O Device specification
// 1.2, section 5.10) with the host's side of every connection in this process:
// Dial reaches a port that the guest listens on, Listen takes the guest's
// connections to CID 2, and both give a Conn, which is a net.Conn that can be
// closed in one direction.
//
// Stream sockets only: a packet of another type is answered by a reset, as is
// one of an unknown connection, of an unknown operation, and one that breaks the
// rules of its connection. So is a connection whose guest end sends more than
// its credit allows. Packets that do not come from the guest's own CID are
// dropped.
//
// # Credit
//
// Each side tells the other how large its receive buffer is (buf_alloc) and how
// many bytes were taken out of it (fwd_cnt), and nobody sends more than fits.
// So a stalled reader stalls its own connection only: received bytes wait in
// the Conn's buffer, bounded by the buf_alloc that was told to the guest, and a
// Write waits for the guest's credit in its own goroutine. Linux bounds a
// sender also by the sender's own buf_alloc (virtio_transport_common.c,
// virtio_transport_get_credit), so the device tells its fwd_cnt whenever a
// quarter of the smaller of both buffers, and at most 64 KiB, were taken.
//
// # What a hostile guest can do
//
// It can lose its own connections. The number of connections is bounded, what
// each buffers is bounded, packets without data towards the guest are flags of
// their connection and so bounded with them, and resets of unknown connections
// wait in a ring of fixed size, which drops what does not fit.
package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/virtio"
)

const (
	rxQueue, txQueue, eventQueue = 0, 1, 2

	queueSize = 256

	// maxConns bounds the connections that exist at once, those included that
	// are over and not closed yet.
	maxConns = 16384

	// Receive buffer of a connection. Many connections get smaller ones: all
	// of them together stay at about bufBudget while there are up to 4096.
	maxBufAlloc = 1 << 20
	minBufAlloc = 64 << 10
	bufBudget   = 256 << 20

	// firstPort is where the ports of dialled connections begin: above what
	// anybody listens on by habit.
	firstPort = 1 << 30

	eventTransportReset = 0 // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET
)

// A Device is a virtio-vsock device. It implements virtio.Device; Dial, Listen
// and Close are for the host's programs and may be called at any time, from any
// goroutine.
type Device struct {
	cid uint64
	out sender

	count atomic.Int32 // Conns that hold a slot

	mu        sync.Mutex
	conns     map[connKey]*Conn
	listeners map[uint32]*Listener
	nextPort  uint32
	active    chan struct{} // closed while there is a driver
	closed    chan struct{} // closed by Close

	run *run // between Activate and Sleep or Reset; the transport's calls only

	eventMu      sync.Mutex
	event        *virtio.Queue // nil while inactive or where the transport has it
	eventPending bool
}

// connKey names a connection: the guest's CID and the host's are given.
type connKey struct{ host, guest uint32 }

var _ virtio.Device = (*Device)(nil)

// New makes the device of a guest with the context ID cid, which is at least 3
// and does not change.
func New(cid uint64) *Device {
	d := &Device{cid: cid,
		conns:     make(map[connKey]*Conn),
		listeners: make(map[uint32]*Listener),
		nextPort:  firstPort,
		active:    make(chan struct{}),
		closed:    make(chan struct{}),
	}
	d.out.cid = cid
	return d
}

// CID is the guest's context ID.
func (d *Device) CID() uint64 { return d.cid }

// ID implements virtio.Device.
func (d *Device) ID() uint32 { return virtio.IDVsock }

// QueueSizes implements virtio.Device: rx, tx and event queue.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize, queueSize, queueSize} }

// Features implements virtio.Device. None: VIRTIO_VSOCK_F_STREAM is implied
// where no feature is offered (section 5.10.3).
func (d *Device) Features() uint64 { return 0 }

// ReadConfig implements virtio.Device: the config space is guest_cid.
func (d *Device) ReadConfig(off uint32, p []byte) {
	clear(p)
	var cfg [8]byte
	binary.LittleEndian.PutUint64(cfg[:], d.cid)
	if off < uint32(len(cfg)) {
		copy(p, cfg[off:])
	}
}

// WriteConfig implements virtio.Device; nothing is writable.
func (d *Device) WriteConfig(uint32, []byte) {}

// A run is one activation: its goroutines and how to stop them.
type run struct {
	stop   atomic.Bool
	queues []*virtio.Queue
	fail   func(error)
	wg     sync.WaitGroup
}

// Activate implements virtio.Device. The event queue may be missing.
func (d *Device) Activate(a virtio.Activation) error {
	queue := func(i int) *virtio.Queue {
		if i < len(a.Queues) {
			return a.Queues[i]
		}
		return nil
	}
	rx, tx, event := queue(rxQueue), queue(txQueue), queue(eventQueue)
	if rx == nil || tx == nil {
		return errors.New("activate vsock: rx or tx queue is missing")
	}
	select {
	case <-d.closed:
		return ErrDeviceClosed
	default:
	}
	r := &run{fail: a.Fail}
	d.run = r
	r.start(rx, d.out.kicked)
	r.start(tx, func() (bool, error) { return d.receive(r, tx) })
	if event != nil {
		d.eventMu.Lock()
		d.event = event
		d.eventMu.Unlock()
		r.start(event, d.sendEvent)
	}
	d.out.start(rx, a.Fail)

	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.active: // after Sleep
	default:
		close(d.active)
	}
	return nil
}

// start runs work now and after each kick of q, and again at once while it says
// that there is more to do.
func (r *run) start(q *virtio.Queue, work func() (more bool, err error)) {
	r.queues = append(r.queues, q)
	r.wg.Go(func() {
		for !r.stop.Load() {
			more, err := work()
			if err == nil && !more {
				err = q.WaitKick()
			}
			if err != nil {
				if !errors.Is(err, eventfd.ErrInterrupted) {
					r.fail(fmt.Errorf("vsock: %w", err))
				}
				return
			}
		}
	})
}

// halt stops the goroutines; no guest memory is touched after that.
func (d *Device) halt() error {
	r := d.run
	if r == nil {
		return nil
	}
	d.run = nil
	r.stop.Store(true)
	var errs []error
	for _, q := range r.queues {
		errs = append(errs, q.Interrupt())
	}
	d.out.stop()
	d.eventMu.Lock()
	d.event = nil
	d.eventMu.Unlock()
	r.wg.Wait()
	return errors.Join(errs...)
}

// Sleep implements virtio.Device. Connections stay, and wait.
func (d *Device) Sleep() error { return d.halt() }

// Reset implements virtio.Device: every connection is over (ErrReset).
// Listeners stay, for the next driver.
func (d *Device) Reset() {
	d.halt()
	d.mu.Lock()
	select {
	case <-d.active:
		d.active = make(chan struct{})
	default:
	}
	d.mu.Unlock()
	d.resetAll(ErrReset)
	d.out.clear()
	d.eventMu.Lock()
	d.eventPending = false
	d.eventMu.Unlock()
}

func (d *Device) resetAll(cause error) {
	d.mu.Lock()
	all := make([]*Conn, 0, len(d.conns))
	for _, c := range d.conns {
		all = append(all, c)
	}
	d.mu.Unlock()
	for _, c := range all {
		c.finish(cause, false)
	}
}

// TransportReset ends every connection and tells the driver, through the event
// queue, that those it has are over and its CID may have changed: what a
// machine needs that goes on from a snapshot. Without an event queue (a
// vhost-user front-end keeps it) the guest learns it connection by connection,
// by the resets that its next packets meet.
func (d *Device) TransportReset() {
	d.resetAll(ErrReset)
	d.eventMu.Lock()
	d.eventPending = true
	d.eventMu.Unlock()
	if _, err := d.sendEvent(); err != nil {
		d.out.broken(err)
	}
}

// sendEvent writes a pending event to the driver's next event buffer, if there
// is one.
func (d *Device) sendEvent() (bool, error) {
	d.eventMu.Lock()
	defer d.eventMu.Unlock()
	q := d.event
	for q != nil && d.eventPending {
		c, err := q.Pop()
		if err != nil {
			d.event = nil
			return false, err
		}
		if c == nil {
			if q.EnableKicks() {
				continue
			}
			break
		}
		var id [4]byte
		binary.LittleEndian.PutUint32(id[:], eventTransportReset)
		n := scatter(c.Writable, id[:])
		d.eventPending = false
		return false, q.Push(c, uint32(n))
	}
	return false, nil
}

// Close ends every connection and listener, and every Dial, for good
// (ErrDeviceClosed). The transport still calls Reset. It never fails.
func (d *Device) Close() error {
	d.mu.Lock()
	var all []*Listener
	select {
	case <-d.closed:
	default:
		close(d.closed)
		for _, l := range d.listeners {
			all = append(all, l)
		}
	}
	d.mu.Unlock()
	for _, l := range all {
		l.Close()
	}
	d.resetAll(ErrDeviceClosed)
	return nil
}
