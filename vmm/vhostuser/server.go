// Package vhostuser serves a virtio.Device to a front-end, QEMU, over a Unix
// socket: the back-end's half of QEMU's docs/interop/vhost-user.rst. The
// front-end passes guest memory as descriptors and each ring's kick and call as
// eventfds; after that it has no part in the traffic.
//
// # What is served
//
// Split rings in shared memory, with the protocol features MQ, REPLY_ACK and
// CONFIG. Not offered, and so not answered: dirty logging (no migration),
// in-flight tracking, an IOMMU, postcopy, a back-end channel (so the device's
// ConfigChanged does nothing), memory slots.
//
// # When the device runs
//
// A ring is started by its kick descriptor and stopped by GET_VRING_BASE. The
// device is activated when every ring that is started is enabled too, with those
// rings. A ring that comes later makes it sleep and start again with that one as
// well. SET_VRING_ENABLE 0 and GET_VRING_BASE make it sleep, until the front-end
// starts or enables a ring again; a new memory table makes it sleep for as long
// as the mapping takes.
//
// A front-end stops the rings both to pause a guest and because the driver was
// reset, and does not say which. Fresh rings do: if each one starts at index
// zero, with a used ring at zero, there is no earlier request to go on with, and
// the device is reset before it is activated again.
package vhostuser

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/eventfd"
	"github.com/stilehq/stile/vmm/virtio"
)

// Protocol features ("Protocol features"), and the feature bit that says there
// are any.
const (
	featureProtocol uint64 = 1 << 30

	protocolMQ       uint64 = 1 << 0
	protocolReplyAck uint64 = 1 << 3
	protocolConfig   uint64 = 1 << 9

	protocolFeatures = protocolMQ | protocolReplyAck | protocolConfig
)

// maxConfig is VHOST_USER_MAX_CONFIG_SIZE.
const maxConfig = 256

// noFd is the bit of a kick or call message that comes without descriptor.
const noFd = 1 << 8

// Serve serves dev to the front-end at the other end of conn until that closes
// the connection (nil), breaks the rules (ErrProtocol), or ctx is done (its
// cause); or until the device reports that the guest broke the rules of a ring
// (that error). When it returns the device was reset, guest memory is unmapped,
// and conn and all descriptors that came over it are closed.
func Serve(ctx context.Context, conn *net.UnixConn, dev virtio.Device) error {
	return newServer(conn, dev).serve(ctx)
}

func newServer(conn *net.UnixConn, dev virtio.Device) *server {
	return &server{wire: wire{conn: conn}, dev: dev, rings: make([]ring, len(dev.QueueSizes()))}
}

func (s *server) serve(ctx context.Context) error {
	defer s.close()
	// A past deadline ends the read of the next message.
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err := s.loop()
	if ferr := s.failure(); ferr != nil {
		return ferr
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

type server struct {
	wire
	dev   virtio.Device
	trace func(*message) // for tests

	features uint64 // acked
	protocol uint64 // acked
	table    *table
	rings    []ring
	active   bool
	slept    bool // the device was active and not reset since then

	mu     sync.Mutex
	failed error // what the device reported; sticks
}

func (s *server) loop() error {
	for {
		m, err := s.read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read vhost-user message: %w", err)
		}
		if s.trace != nil {
			s.trace(&m)
		}
		replied, err := s.handle(&m)
		m.closeFds()
		if !replied && m.flags&flagAck != 0 && s.protocol&protocolReplyAck != 0 {
			status := uint64(0)
			if err != nil {
				status = 1
			}
			err = errors.Join(err, s.replyU64(m.req, status))
		}
		if err != nil {
			return fmt.Errorf("vhost-user message %d: %w", m.req, err)
		}
	}
}

// handle does what a message asks for. replied says that the answer was sent:
// that of a message that always has one.
func (s *server) handle(m *message) (replied bool, err error) {
	switch m.req {
	case getFeatures:
		return true, s.replyU64(m.req, s.dev.Features()|virtio.RingFeatures|featureProtocol)
	case getProtocolFeatures:
		return true, s.replyU64(m.req, protocolFeatures)
	case getQueueNum:
		return true, s.replyU64(m.req, uint64(len(s.rings)))
	case getConfig:
		return true, s.getConfig(m)
	case getVringBase:
		return true, s.getVringBase(m)
	case setFeatures:
		return false, s.setFeatures(m)
	case setProtocolFeatures:
		v, err := m.u64()
		if err == nil && v&^protocolFeatures != 0 {
			err = fmt.Errorf("protocol features %#x: %w", v, ErrProtocol)
		}
		s.protocol = v
		return false, err
	case setOwner, resetOwner:
		return false, nil
	case setMemTable:
		return false, s.setMemTable(m)
	case setConfig:
		return false, s.setConfig(m)
	case setVringNum, setVringBase, setVringEnable:
		return false, s.setVringState(m)
	case setVringAddr:
		return false, s.setVringAddr(m)
	case setVringKick, setVringCall, setVringErr:
		return false, s.setVringFd(m)
	}
	return false, fmt.Errorf("unknown request: %w", ErrProtocol)
}

func (s *server) setFeatures(m *message) error {
	v, err := m.u64()
	if err != nil {
		return err
	}
	if v&^(s.dev.Features()|virtio.RingFeatures|featureProtocol) != 0 {
		return fmt.Errorf("features %#x: %w", v, ErrProtocol)
	}
	was := s.active
	if err := s.sleepIf(was && v != s.features); err != nil {
		return err
	}
	s.features = v
	return s.activateIf(was)
}

func (s *server) getConfig(m *message) error {
	if len(m.payload) < 12 {
		return fmt.Errorf("%d bytes: %w", len(m.payload), ErrProtocol)
	}
	off, n := binary.LittleEndian.Uint32(m.payload), binary.LittleEndian.Uint32(m.payload[4:])
	if off > maxConfig || n > maxConfig-off || int(n) != len(m.payload)-12 {
		// The front-end takes an empty answer for an error.
		return s.reply(m.req, nil)
	}
	b := append([]byte(nil), m.payload...)
	s.dev.ReadConfig(off, b[12:])
	return s.reply(m.req, b)
}

func (s *server) setConfig(m *message) error {
	if len(m.payload) < 12 {
		return fmt.Errorf("%d bytes: %w", len(m.payload), ErrProtocol)
	}
	off, n := binary.LittleEndian.Uint32(m.payload), binary.LittleEndian.Uint32(m.payload[4:])
	if off > maxConfig || n > maxConfig-off || int(n) != len(m.payload)-12 {
		return fmt.Errorf("config space of %d bytes at %d: %w", n, off, ErrProtocol)
	}
	s.dev.WriteConfig(off, append([]byte(nil), m.payload[12:]...))
	return nil
}

// ring is the ring of a message's index.
func (s *server) ring(index uint32) (*ring, error) {
	if index >= uint32(len(s.rings)) {
		return nil, fmt.Errorf("ring %d of %d: %w", index, len(s.rings), ErrProtocol)
	}
	return &s.rings[index], nil
}

func (s *server) setVringState(m *message) error {
	index, num, err := m.vringState()
	if err != nil {
		return err
	}
	r, err := s.ring(index)
	if err != nil {
		return err
	}
	switch m.req {
	case setVringNum:
		if num > virtio.MaxQueueSize {
			return fmt.Errorf("ring of %d: %w", num, ErrProtocol)
		}
		return s.change(r, func() { r.size = num })
	case setVringBase:
		return s.change(r, func() { r.base = uint16(num) })
	}
	if enable := num != 0; enable != r.enabled {
		r.enabled = enable
		if enable {
			return s.activate()
		}
		if r.queue != nil {
			return s.sleep()
		}
	}
	return nil
}

func (s *server) setVringAddr(m *message) error {
	if err := m.size(40); err != nil {
		return err
	}
	r, err := s.ring(binary.LittleEndian.Uint32(m.payload))
	if err != nil {
		return err
	}
	if flags := binary.LittleEndian.Uint32(m.payload[4:]); flags != 0 {
		return fmt.Errorf("ring with flags %#x (dirty logging): %w", flags, ErrProtocol)
	}
	return s.change(r, func() { r.setAddr(m.payload[8:]) })
}

// change changes what is known of a ring. If the ring runs, it starts again with
// the change; if not, nothing starts.
func (s *server) change(r *ring, set func()) error {
	if r.queue == nil {
		set()
		return nil
	}
	if err := s.sleep(); err != nil {
		return err
	}
	set()
	return s.activate()
}

func (s *server) setVringFd(m *message) error {
	v, err := m.u64()
	if err != nil {
		return err
	}
	r, err := s.ring(uint32(v & 0xff))
	if err != nil {
		return err
	}
	var ev *eventfd.EventFD
	if v&noFd == 0 {
		fd, err := m.takeFd()
		if err != nil {
			return err
		}
		if m.req == setVringErr {
			return unix.Close(fd) // what breaks a ring ends the connection
		}
		if ev, err = eventfd.FromFD(fd, "vhost-user eventfd"); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
	}
	switch m.req {
	case setVringCall:
		if r.queue != nil {
			r.queue.SetCall(ev)
		}
		r.closeCall()
		r.call = ev
		if r.queue != nil && ev != nil {
			// Whatever the old one was told may have been lost on the way.
			return ev.Signal()
		}
		return nil
	case setVringKick:
		if ev == nil {
			return fmt.Errorf("ring without kick descriptor: %w", ErrProtocol)
		}
		if err := s.sleepIf(r.queue != nil); err != nil {
			ev.Close()
			return err
		}
		r.closeKick()
		r.kick = ev
		if s.features&featureProtocol == 0 {
			r.enabled = true // nobody will send SET_VRING_ENABLE
		}
		return s.activate()
	}
	return nil
}

func (s *server) getVringBase(m *message) error {
	index, _, err := m.vringState()
	if err != nil {
		return err
	}
	r, err := s.ring(index)
	if err != nil {
		return err
	}
	if err := s.sleep(); err != nil {
		return err
	}
	r.closeKick()
	return s.reply(m.req, binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, index), uint32(r.base)))
}

func (s *server) setMemTable(m *message) error {
	t, err := mapTable(m)
	if err != nil {
		return err
	}
	was := s.active
	if err := s.sleep(); err != nil {
		t.unmap()
		return err
	}
	old := s.table
	s.table = t
	if old != nil {
		if err := old.unmap(); err != nil {
			return fmt.Errorf("unmap guest memory: %w", err)
		}
	}
	return s.activateIf(was)
}

func (s *server) sleepIf(yes bool) error {
	if !yes {
		return nil
	}
	return s.sleep()
}

func (s *server) activateIf(yes bool) error {
	if !yes {
		return nil
	}
	return s.activate()
}

// activate activates the device if every ring that is started is enabled. An
// active device that has all of them already is left alone.
func (s *server) activate() error {
	started, fresh := 0, false
	for i := range s.rings {
		r := &s.rings[i]
		if !r.started() {
			continue
		}
		if !r.enabled {
			return nil
		}
		started++
		fresh = fresh || r.queue == nil
	}
	if started == 0 || s.table == nil || !fresh {
		return nil
	}
	if err := s.sleep(); err != nil {
		return err
	}
	return s.run()
}

// run activates the device with the rings that are started.
func (s *server) run() error {
	queues := make([]*virtio.Queue, len(s.rings))
	virgin := true
	for i := range s.rings {
		r := &s.rings[i]
		if !r.started() {
			continue
		}
		q, err := r.build(s.table, s.features&^featureProtocol)
		if err != nil {
			return fmt.Errorf("ring %d: %w", i, err)
		}
		queues[i] = q
		virgin = virgin && r.base == 0 && q.UsedIndex() == 0
	}
	if s.slept && virgin {
		s.dev.Reset()
		s.slept = false
	}
	err := s.dev.Activate(virtio.Activation{
		Memory: s.table.mem, Features: s.features &^ featureProtocol, Queues: queues,
		ConfigChanged: func() {}, Fail: s.fail,
	})
	if err != nil {
		return fmt.Errorf("activate device: %w", err)
	}
	s.active = true
	for i := range s.rings {
		if r := &s.rings[i]; queues[i] != nil {
			r.queue = queues[i]
			if r.call != nil {
				// After a pause: what was pushed before may have been called
				// for on a descriptor that the front-end has dropped.
				if err := r.call.Signal(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// sleep makes the device sleep, if it is active, and saves the rings' indices.
func (s *server) sleep() error {
	if !s.active {
		return nil
	}
	err := s.dev.Sleep()
	s.active, s.slept = false, true
	for i := range s.rings {
		if r := &s.rings[i]; r.queue != nil {
			r.base, r.queue = r.queue.Base(), nil
		}
	}
	if err != nil {
		return fmt.Errorf("device to sleep: %w", err)
	}
	return nil
}

// fail is what the device calls when the guest broke a ring.
func (s *server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
		s.conn.SetReadDeadline(time.Unix(1, 0)) // ends loop
	}
}

func (s *server) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *server) close() {
	s.dev.Reset()
	for i := range s.rings {
		s.rings[i].closeKick()
		s.rings[i].closeCall()
	}
	if s.table != nil {
		s.table.unmap()
	}
	s.conn.Close()
}
