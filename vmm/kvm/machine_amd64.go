package kvm

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/mmio"
)

// ErrEnded is what Pause and Resume return of a machine that has ended.
var ErrEnded = errors.New("the machine has ended")

// A Machine is a running virtual machine.
type Machine struct {
	vm      *vm
	memory  *guestMemory
	vcpus   []*vcpu
	devices []*device
	ports   ports
	count   *counter
	cleanup []func() error // what to give back, last first

	pausing sync.Mutex // one Pause or Resume at a time

	mu      sync.Mutex
	changed sync.Cond // state, parked
	state   state
	parked  int // vCPU threads that wait for the end of a pause
	threads int // vCPU threads
	err     error

	done chan struct{} // closed when all is given back
}

var _ vmm.Machine = (*Machine)(nil)

// A device is one virtio device with its place.
type device struct {
	name      string
	transport *mmio.Transport
	gpa       uint64
	gsi       uint32
	counter   *virtio.Counter
}

type state int

const (
	running state = iota
	paused
	ended
)

// start lets the vCPUs run.
func (m *Machine) start() {
	m.threads = len(m.vcpus)
	var threads sync.WaitGroup
	for _, c := range m.vcpus {
		threads.Go(func() { c.loop(m) })
	}
	go func() {
		threads.Wait()
		m.mu.Lock()
		err := m.err
		m.mu.Unlock()
		if cerr := m.release(); err == nil {
			m.err = cerr // nobody else changes it any more
		}
		close(m.done)
	}()
}

// release gives back everything, devices first: after them nobody but the
// guest has used guest memory, and the guest runs no more.
func (m *Machine) release() error {
	var errs []error
	for i := len(m.cleanup) - 1; i >= 0; i-- {
		errs = append(errs, m.cleanup[i]())
	}
	m.cleanup = nil
	return errors.Join(errs...)
}

// attach tells the machine which thread runs c.
func (m *Machine) attach(c *vcpu) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.tid = unix.Gettid()
}

func (m *Machine) detach(c *vcpu) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.tid = 0
	m.threads--
	m.changed.Broadcast()
}

// obey is called by a vCPU's thread when KVM_RUN was interrupted. It returns
// when the machine runs (true) or has ended (false).
func (m *Machine) obey(c *vcpu) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == paused {
		m.parked++
		m.changed.Broadcast() // once: two parked threads would wake each other for ever
		for m.state == paused {
			m.changed.Wait()
		}
		m.parked--
	}
	if m.state == ended {
		return false
	}
	c.clearKick()
	return true
}

// end ends the machine for the reason why, nil where that is what was asked
// for. The first reason counts. It does not wait.
func (m *Machine) end(why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == ended {
		return
	}
	m.state, m.err = ended, why
	for _, c := range m.vcpus {
		c.kick()
	}
	m.changed.Broadcast()
}

// Wait returns when the machine has ended and all that it had was given back:
// nil if the guest asked for it, or Kill.
func (m *Machine) Wait() error {
	<-m.done
	return m.err
}

// Kill ends the machine at once. It may be called again, and after the end.
func (m *Machine) Kill() error {
	m.end(nil)
	<-m.done
	return nil
}

// Pause stops the vCPUs, then the devices, and returns when nothing of the
// machine moves any more. It is idempotent.
func (m *Machine) Pause() error {
	m.pausing.Lock()
	defer m.pausing.Unlock()
	if already, err := m.park(); already || err != nil {
		return err
	}
	for _, c := range m.vcpus {
		// So that the guest takes the pause for no hang of its own. EINVAL: it
		// has no kvm-clock yet.
		if _, err := ioctl(c.fd, "KVM_KVMCLOCK_CTRL", kvmClockCtrl, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return errors.Join(fmt.Errorf("vCPU %d: %w", c.id, err), m.unpark())
		}
	}
	for _, d := range m.devices {
		if err := d.transport.Sleep(); err != nil {
			// A device that sleeps badly is of no use awake.
			m.end(err)
			return err
		}
	}
	return nil
}

// park brings all vCPU threads to where they wait in obey.
func (m *Machine) park() (already bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != running {
		return m.state == paused, m.gone()
	}
	m.state = paused
	for _, c := range m.vcpus {
		c.kick()
	}
	for m.state == paused && m.parked < len(m.vcpus) {
		m.changed.Wait()
	}
	return false, m.gone()
}

// gone is ErrEnded after the end. The caller holds mu.
func (m *Machine) gone() error {
	if m.state == ended {
		return ErrEnded
	}
	return nil
}

// Resume lets devices and vCPUs go on. It is idempotent.
func (m *Machine) Resume() error {
	m.pausing.Lock()
	defer m.pausing.Unlock()
	m.mu.Lock()
	s, err := m.state, m.gone()
	m.mu.Unlock()
	if s != paused {
		return err
	}
	for _, d := range m.devices {
		if err := d.transport.Wake(); err != nil {
			m.end(err)
			return err
		}
	}
	return m.unpark()
}

func (m *Machine) unpark() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == paused {
		m.state = running
		m.changed.Broadcast()
	}
	return m.gone()
}

// Stats counts the exits so far.
func (m *Machine) Stats() Stats { return m.count.stats() }

// Counts implements vmm.Machine.
func (m *Machine) Counts() vmm.Counts {
	s := m.Stats()
	c := vmm.Counts{Exits: s.Exits, Accesses: s.accesses()}
	for _, d := range m.devices {
		c.Devices = append(c.Devices, vmm.DeviceCount{Name: d.name, Queues: d.counter.Counts()})
	}
	return c
}

// VCPUs is the number of vCPUs.
func (m *Machine) VCPUs() int { return len(m.vcpus) }
