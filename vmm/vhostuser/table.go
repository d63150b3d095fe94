package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/memory"
)

// A table is the guest's memory as a front-end shares it.
type table struct {
	mem     *memory.Memory
	regions []tableRegion
	maps    [][]byte
}

// A tableRegion says where the front-end has a region in its own address space:
// ring addresses are given in those.
type tableRegion struct {
	gpa, size, user, offset uint64
}

// regionSize is that of struct vhost_memory_region in a message.
const regionSize = 32

// mapTable maps the regions of a SET_MEM_TABLE message. It closes none of the
// message's descriptors, and needs none of them once it has returned.
func mapTable(m *message) (_ *table, err error) {
	if len(m.payload) < 8 {
		return nil, fmt.Errorf("memory table of %d bytes: %w", len(m.payload), ErrProtocol)
	}
	n := int(binary.LittleEndian.Uint32(m.payload))
	if n == 0 || n > maxFds || n != len(m.fds) || len(m.payload) < 8+n*regionSize {
		return nil, fmt.Errorf("memory table of %d regions in %d bytes with %d descriptors: %w", n, len(m.payload), len(m.fds), ErrProtocol)
	}
	t := new(table)
	defer func() {
		if err != nil {
			t.unmap()
		}
	}()
	var regions []memory.Region
	for i := range n {
		b := m.payload[8+i*regionSize:]
		le := binary.LittleEndian
		r := tableRegion{gpa: le.Uint64(b), size: le.Uint64(b[8:]), user: le.Uint64(b[16:]), offset: le.Uint64(b[24:])}
		bytes, err := t.mapRegion(r, m.fds[i])
		if err != nil {
			return nil, fmt.Errorf("memory region of %d bytes at %#x: %w", r.size, r.gpa, err)
		}
		t.regions = append(t.regions, r)
		regions = append(regions, memory.Region{GPA: r.gpa, Bytes: bytes})
	}
	if t.mem, err = memory.New(regions...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return t, nil
}

// mapRegion maps one region and notes the mapping in t.
func (t *table) mapRegion(r tableRegion, fd int) ([]byte, error) {
	const maxSize = 1 << 46 // no address space is larger, and no sum below wraps
	if r.size == 0 || r.size > maxSize || r.offset > maxSize || r.user+r.size < r.user {
		return nil, fmt.Errorf("offset %#x, address %#x: %w", r.offset, r.user, ErrProtocol)
	}
	if err := keepSize(fd, r.offset+r.size); err != nil {
		return nil, err
	}
	// The offset in the file needs no alignment in the protocol.
	skip := r.offset % uint64(unix.Getpagesize())
	b, err := unix.Mmap(fd, int64(r.offset-skip), int(r.size+skip),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	t.maps = append(t.maps, b)
	return b[skip:], nil
}

// keepSize checks that a file has n bytes now and makes sure that it keeps them:
// a touch behind the end of a file that shrank after mmap is a SIGBUS, which
// ends this process. Only a memfd can promise that, by a seal. QEMU's
// memory-backend-memfd seals its own (seal=on is its default); another one is
// sealed here. Memory on a plain file is refused.
func keepSize(fd int, n uint64) error {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err == nil && seals&unix.F_SEAL_SHRINK == 0 {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK)
	}
	if err != nil {
		return fmt.Errorf("guest memory is no memfd that can be sealed against shrinking: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil { // after the seal
		return fmt.Errorf("stat: %w", err)
	}
	if st.Size < 0 || uint64(st.Size) < n {
		return fmt.Errorf("file of %d bytes ends before %d: %w", st.Size, n, ErrProtocol)
	}
	return nil
}

// gpa translates an address of the front-end.
func (t *table) gpa(user uint64) (uint64, error) {
	for _, r := range t.regions {
		if user >= r.user && user-r.user < r.size {
			return r.gpa + (user - r.user), nil
		}
	}
	return 0, fmt.Errorf("front-end address %#x: %w", user, memory.ErrRange)
}

// unmap unmaps the regions. Nobody may touch them any more.
func (t *table) unmap() error {
	var errs []error
	for _, b := range t.maps {
		errs = append(errs, unix.Munmap(b))
	}
	t.maps = nil
	return errors.Join(errs...)
}
