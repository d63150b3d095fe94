package kvm

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/boot"
	"github.com/stilehq/stile/vmm/memory"
)

// hugePage is the size of a huge page, to which guest memory is aligned and of
// which it is a multiple: Config says so.
const hugePage = 2 << 20

// A guestMemory is a guest's RAM: anonymous, so that what the guest never
// touched or gave back takes nothing, in one mapping.
type guestMemory struct {
	*memory.Memory
	mapping []byte
}

// mapMemory maps size bytes of guest memory. The caller unmaps it when nobody
// uses it any more.
func mapMemory(size uint64) (*guestMemory, error) {
	if size == 0 || size%hugePage != 0 || size > 1<<46 {
		return nil, fmt.Errorf("guest memory of %d bytes: a multiple of 2 MiB", size)
	}
	// NORESERVE: a guest is larger than what it uses.
	mapping, err := unix.Mmap(-1, 0, int(size)+hugePage, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of guest memory: %w", size, err)
	}
	m := &guestMemory{mapping: mapping}
	skip := -uint64(uintptr(unsafe.Pointer(&mapping[0]))) % hugePage // the address, for its alignment
	ram := mapping[skip : skip+size : skip+size]
	// Fewer faults at boot and shorter page walks, two-dimensional ones, ever
	// after. A host whose kernel has none (EINVAL) does without.
	if err := unix.Madvise(ram, unix.MADV_HUGEPAGE); err != nil && err != unix.EINVAL {
		return nil, errors.Join(fmt.Errorf("huge pages for guest memory: %w", err), m.unmap())
	}
	// Guest memory is no part of our core files.
	if err := unix.Madvise(ram, unix.MADV_DONTDUMP); err != nil {
		return nil, errors.Join(fmt.Errorf("guest memory: %w", err), m.unmap())
	}
	var regions []memory.Region
	for _, r := range boot.RAM(size) {
		regions = append(regions, memory.Region{GPA: r.GPA, Bytes: ram[:r.Size:r.Size]})
		ram = ram[r.Size:]
	}
	if m.Memory, err = memory.New(regions...); err != nil {
		return nil, errors.Join(err, m.unmap())
	}
	return m, nil
}

// discard gives back n bytes at gpa, which read as zero from then on: the
// balloon's function.
func (m *guestMemory) discard(gpa, n uint64) {
	b, err := m.Slice(gpa, n)
	if err != nil || n == 0 {
		return // the device has checked the range; memory stays where it has not
	}
	// A failure leaves the bytes as they were, which the balloon allows.
	unix.Madvise(b, unix.MADV_DONTNEED)
}

func (m *guestMemory) unmap() error {
	if m.mapping == nil {
		return nil
	}
	err := unix.Munmap(m.mapping)
	m.mapping = nil
	return err
}
