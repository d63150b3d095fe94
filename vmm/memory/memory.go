// Package memory is a guest's physical memory as the host sees it: a few
// regions of guest physical addresses (GPA), each backed by host memory.
//
// Everything that comes from the guest is an address and a length that a
// hostile driver chose. Slice and its kin are the only way from there to bytes,
// and they never reach outside a region.
package memory

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"
)

// ErrRange says that an address range is not (wholly) guest memory.
var ErrRange = errors.New("outside guest memory")

// A Region is one run of guest memory. Bytes is the host's view of
// [GPA, GPA+len(Bytes)).
type Region struct {
	GPA   uint64 // guest physical address of the first byte
	Bytes []byte
}

func (r Region) end() uint64 { return r.GPA + uint64(len(r.Bytes)) }

// A Memory is the set of regions of one guest. It does not change once made,
// so any number of goroutines may use it. Who mapped the regions unmaps them,
// after every device that holds the Memory was reset.
type Memory struct {
	regions []Region // sorted by GPA, not overlapping
}

// New makes a Memory of regions in any order. It is an error if two overlap,
// or if one is empty or wraps around the address space.
func New(regions ...Region) (*Memory, error) {
	sorted := slices.Clone(regions)
	slices.SortFunc(sorted, func(a, b Region) int {
		if a.GPA < b.GPA {
			return -1
		}
		return 1
	})
	for i, r := range sorted {
		if len(r.Bytes) == 0 || r.end() < r.GPA {
			return nil, fmt.Errorf("region at %#x of %d bytes: %w", r.GPA, len(r.Bytes), ErrRange)
		}
		if i > 0 && sorted[i-1].end() > r.GPA {
			return nil, fmt.Errorf("region at %#x overlaps the one at %#x", r.GPA, sorted[i-1].GPA)
		}
	}
	return &Memory{regions: sorted}, nil
}

// Regions returns the regions in order of their addresses. The caller does not
// change them.
func (m *Memory) Regions() []Region { return m.regions }

// Slice returns the host's view of n bytes at gpa. The range must lie within
// one region; the error is ErrRange otherwise.
//
// The guest can change these bytes at any moment: read a value once, check
// what was read, and use only that.
func (m *Memory) Slice(gpa, n uint64) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		if gpa >= r.GPA && gpa < r.end() {
			off := gpa - r.GPA
			if n > uint64(len(r.Bytes))-off {
				break
			}
			return r.Bytes[off : off+n : off+n], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at %#x: %w", n, gpa, ErrRange)
}

// AppendSlices appends the host's view of n bytes at gpa to dst, as more than
// one slice where the range crosses from one region into the one that follows
// it without a gap.
func (m *Memory) AppendSlices(dst [][]byte, gpa, n uint64) ([][]byte, error) {
	for at, left := gpa, n; left > 0; {
		r := m.find(at)
		if r == nil {
			return nil, fmt.Errorf("%d bytes at %#x: %w", n, gpa, ErrRange)
		}
		off := at - r.GPA
		take := min(left, uint64(len(r.Bytes))-off)
		dst = append(dst, r.Bytes[off:off+take:off+take])
		at += take
		left -= take
	}
	return dst, nil
}

// GPA is the guest physical address of b's first byte, where b comes from Slice
// or AppendSlices and is not empty. The error is ErrRange for bytes that are no
// guest memory.
func (m *Memory) GPA(b []byte) (uint64, error) {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b))) // as a number, to compare
	for _, r := range m.regions {
		base := uintptr(unsafe.Pointer(&r.Bytes[0]))
		if at >= base && at-base < uintptr(len(r.Bytes)) {
			return r.GPA + uint64(at-base), nil
		}
	}
	return 0, fmt.Errorf("address of bytes: %w", ErrRange)
}

func (m *Memory) find(gpa uint64) *Region {
	for i := range m.regions {
		if r := &m.regions[i]; gpa >= r.GPA && gpa < r.end() {
			return r
		}
	}
	return nil
}
