package kvm

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/stilehq/stile/vmm"
)

// Stats counts how often vCPUs came out of KVM_RUN, and what for. It is what a
// boot costs, without noise.
type Stats struct {
	// Exits are all of them by kind: "pio", "mmio", "interrupted" (a signal, a
	// kick), "waiting" (a vCPU that the guest has not started), "shutdown",
	// "other".
	Exits map[string]uint64
	PIO   map[PIO]uint64
	MMIO  map[MMIO]uint64
}

// A PIO is a kind of access to an I/O port.
type PIO struct {
	Port  uint16
	Write bool
}

// An MMIO is a kind of access to a device's register.
type MMIO struct {
	Device   string // "virtio-blk"; "" where there is no device, for all such addresses
	Register uint32 // offset into the device's page
	Write    bool
}

// accesses lists the exits for ports and registers, the most frequent first.
func (s *Stats) accesses() []vmm.Access {
	var list []vmm.Access
	for p, n := range s.PIO {
		list = append(list, vmm.Access{To: fmt.Sprintf("port %#x", p.Port), Write: p.Write, Count: n})
	}
	for r, n := range s.MMIO {
		to := "no device"
		if r.Device != "" {
			to = fmt.Sprintf("%s %#x", r.Device, r.Register)
		}
		list = append(list, vmm.Access{To: to, Write: r.Write, Count: n})
	}
	slices.SortFunc(list, func(a, b vmm.Access) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.To, b.To), cmp.Compare(a.Verb(), b.Verb()))
	})
	return list
}

// Total is the number of exits.
func (s *Stats) Total() uint64 {
	var n uint64
	for _, c := range s.Exits {
		n += c
	}
	return n
}

// counter is where the vCPU threads of a machine count. A guest can't make it
// grow without bound: it has 65,536 ports and some pages of registers.
type counter struct {
	mu sync.Mutex
	s  Stats
}

func newCounter() *counter {
	return &counter{s: Stats{Exits: make(map[string]uint64), PIO: make(map[PIO]uint64), MMIO: make(map[MMIO]uint64)}}
}

func (c *counter) exit(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.Exits[kind]++
}

func (c *counter) pio(p PIO) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.Exits["pio"]++
	c.s.PIO[p]++
}

func (c *counter) mmio(m MMIO) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.Exits["mmio"]++
	c.s.MMIO[m]++
}

func (c *counter) stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{Exits: maps.Clone(c.s.Exits), PIO: maps.Clone(c.s.PIO), MMIO: maps.Clone(c.s.MMIO)}
}
