package boot

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/stilehq/stile/vmm/memory"
)

// ErrKernel says that a file is not a kernel that can be started, or not one
// that fits.
var ErrKernel = errors.New("unusable kernel")

const (
	// notePVH is XEN_ELFNOTE_PHYS32_ENTRY (Xen's public/elfnote.h): where a
	// PVH kernel is entered, in 32-bit mode with paging off.
	notePVH     = 18
	notePVHName = "Xen\x00"

	// maxNotes bounds a note segment; Linux has some hundred bytes of them.
	maxNotes = 1 << 20

	// lowEnd is the end of what Load puts below a kernel, and of the hole that
	// PCs have between their first 640 KiB and the rest.
	lowEnd = 1 << 20
)

// A Kernel is an uncompressed Linux image (vmlinux) with a PVH entry, whose
// headers have been read and checked.
type Kernel struct {
	Entry uint32 // guest physical address of the PVH entry
	Start uint64 // lowest address of a segment
	End   uint64 // address behind the highest

	segments []segment
}

// A segment is one run of the image in guest memory; what the file does not
// fill is zero.
type segment struct {
	gpa, size uint64
	file      io.ReaderAt
	fileSize  uint64
}

// ReadKernel reads the headers of an ELF image. The Kernel reads from r in
// Load, so r stays open until then. The error wraps ErrKernel where the file is
// at fault.
func ReadKernel(r io.ReaderAt) (*Kernel, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		if _, ok := errors.AsType[*elf.FormatError](err); ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%w: not an ELF image: %v", ErrKernel, err)
		}
		return nil, fmt.Errorf("read kernel: %w", err)
	}
	if f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB || f.Machine != elf.EM_X86_64 {
		return nil, fmt.Errorf("%w: an image for %v, %v, %v", ErrKernel, f.Machine, f.Class, f.Data)
	}
	k := &Kernel{Start: ^uint64(0)}
	entry := false
	for i, p := range f.Progs {
		switch p.Type {
		case elf.PT_LOAD:
			if p.Memsz == 0 {
				continue
			}
			end := p.Paddr + p.Memsz
			if p.Filesz > p.Memsz || end < p.Paddr {
				return nil, fmt.Errorf("%w: segment %d of %d bytes, %d in the file, at %#x", ErrKernel, i, p.Memsz, p.Filesz, p.Paddr)
			}
			k.segments = append(k.segments, segment{p.Paddr, p.Memsz, p.ReaderAt, p.Filesz})
			k.Start, k.End = min(k.Start, p.Paddr), max(k.End, end)
		case elf.PT_NOTE:
			if p.Filesz > maxNotes {
				return nil, fmt.Errorf("%w: notes of %d bytes", ErrKernel, p.Filesz)
			}
			notes := make([]byte, p.Filesz)
			if _, err := io.ReadFull(io.NewSectionReader(p.ReaderAt, 0, int64(p.Filesz)), notes); err != nil {
				return nil, fmt.Errorf("%w: notes: %v", ErrKernel, err)
			}
			if e, ok := findEntry(notes); ok {
				k.Entry, entry = e, true
			}
		}
	}
	if len(k.segments) == 0 {
		return nil, fmt.Errorf("%w: nothing to load", ErrKernel)
	}
	if !entry {
		return nil, fmt.Errorf("%w: no PVH entry (CONFIG_PVH)", ErrKernel)
	}
	if e := uint64(k.Entry); e < k.Start || e >= k.End {
		return nil, fmt.Errorf("%w: entry at %#x, image from %#x to %#x", ErrKernel, e, k.Start, k.End)
	}
	return k, nil
}

// findEntry looks for the PVH entry in a note segment: headers of three words
// (name's length, descriptor's length, type), then both, padded to four bytes
// each.
func findEntry(notes []byte) (entry uint32, ok bool) {
	for len(notes) >= 12 {
		nameLen := uint64(binary.LittleEndian.Uint32(notes))
		descLen := uint64(binary.LittleEndian.Uint32(notes[4:]))
		kind := binary.LittleEndian.Uint32(notes[8:])
		notes = notes[12:]
		descAt := (nameLen + 3) &^ 3
		end := descAt + (descLen+3)&^3
		if end > uint64(len(notes)) {
			return 0, false
		}
		name, desc := notes[:nameLen], notes[descAt:descAt+descLen]
		if kind == notePVH && string(name) == notePVHName && (descLen == 4 || descLen == 8) {
			// The entry is a 32-bit address in either.
			if descLen == 8 && binary.LittleEndian.Uint32(desc[4:]) != 0 {
				return 0, false
			}
			return binary.LittleEndian.Uint32(desc), true
		}
		notes = notes[end:]
	}
	return 0, false
}

// load reads the segments straight into guest memory, which is zero as yet.
func (k *Kernel) load(mem *memory.Memory) error {
	if k.Start < lowEnd {
		return fmt.Errorf("%w: linked at %#x, below 1 MiB", ErrKernel, k.Start)
	}
	for _, s := range k.segments {
		b, err := mem.Slice(s.gpa, s.size)
		if err != nil {
			return fmt.Errorf("%w: %d bytes at %#x do not fit into guest memory", ErrKernel, s.size, s.gpa)
		}
		if err := readFull(s.file, b[:s.fileSize]); err != nil {
			return fmt.Errorf("read kernel: %w", err)
		}
	}
	return nil
}

// readFull fills b from the beginning of r: a single pread where r is a file.
func readFull(r io.ReaderAt, b []byte) error {
	n, err := r.ReadAt(b, 0)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
