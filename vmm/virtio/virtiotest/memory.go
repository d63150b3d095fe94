// Package virtiotest drives virtio devices in tests, without a guest: a fake
// driver that builds rings in plain memory, a conformance suite that every
// device passes on every transport, and a fuzzing body for devices.
package virtiotest

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/memory"
)

// Memory is guest memory that a test hands out from the bottom up. It is mapped,
// not allocated: driver and device share it without the locks that the race
// detector looks for, as a guest and its host do.
type Memory struct {
	*memory.Memory
	Fd    int // the memfd behind it, for a transport that passes it on
	tb    testing.TB
	bytes []byte
	base  uint64
	next  uint64
}

// Base is the guest physical address of a Memory's first byte: not zero, so
// that an address nobody filled in is outside.
const Base = 0x10000

// NewMemory maps size bytes of guest memory until the test ends. They are one
// region at Base, backed by a sealed memfd.
func NewMemory(tb testing.TB, size int) *Memory {
	tb.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err == nil {
		err = unix.Ftruncate(fd, int64(size))
	}
	if err != nil {
		tb.Fatalf("make guest memory: %v", err)
	}
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		tb.Fatalf("map guest memory: %v", err)
	}
	tb.Cleanup(func() {
		unix.Munmap(b)
		unix.Close(fd)
	})
	m, err := memory.New(memory.Region{GPA: Base, Bytes: b})
	if err != nil {
		tb.Fatal(err)
	}
	return &Memory{Memory: m, Fd: fd, tb: tb, bytes: b, base: Base}
}

// For is m with failures reported to another test: one of a fuzz target's runs.
func (m *Memory) For(tb testing.TB) *Memory {
	c := *m
	c.tb = tb
	return &c
}

// Alloc sets n bytes aside, aligned to align (a power of two), and returns their
// guest physical address. They are zero.
func (m *Memory) Alloc(n, align int) uint64 {
	m.tb.Helper()
	at := (m.next + uint64(align) - 1) &^ (uint64(align) - 1)
	if at+uint64(n) > uint64(len(m.bytes)) {
		m.tb.Fatalf("guest memory of %d bytes is used up", len(m.bytes))
	}
	m.next = at + uint64(n)
	return m.base + at
}

// Bytes is the driver's view of n bytes at gpa.
func (m *Memory) Bytes(gpa uint64, n int) []byte {
	m.tb.Helper()
	b, err := m.Slice(gpa, uint64(n))
	if err != nil {
		m.tb.Fatal(err)
	}
	return b
}
