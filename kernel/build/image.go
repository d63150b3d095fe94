package main

import (
	"debug/elf"
	"fmt"
	"io"
)

// notePHYS32Entry is XEN_ELFNOTE_PHYS32_ENTRY (include/xen/interface/elfnote.h):
// the address of the PVH entry, where a VMM without firmware starts the kernel.
const notePHYS32Entry = 18

// checkImage makes sure that both engines can load what was built: an x86-64
// executable, linked at a fixed address, with a PVH entry.
func checkImage(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC {
		return fmt.Errorf("%s is %v for %v, not an executable for x86-64", path, f.Type, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(io.LimitReader(p.Open(), 1<<16))
		if err != nil {
			return fmt.Errorf("read the notes of %s: %w", path, err)
		}
		if hasNote(f, notes, "Xen", notePHYS32Entry) {
			return nil
		}
	}
	return fmt.Errorf("%s has no PVH entry (CONFIG_PVH)", path)
}

// hasNote looks for a note in a segment of notes: name size, descriptor size,
// type, then both padded to four bytes.
func hasNote(f *elf.File, b []byte, name string, typ uint32) bool {
	pad := func(n int) int { return (n + 3) &^ 3 }
	for len(b) >= 12 {
		nameSize, descSize := int(f.ByteOrder.Uint32(b)), int(f.ByteOrder.Uint32(b[4:]))
		size := 12 + pad(nameSize) + pad(descSize)
		if size > len(b) || nameSize == 0 {
			return false
		}
		if f.ByteOrder.Uint32(b[8:]) == typ && string(b[12:12+nameSize-1]) == name {
			return true
		}
		b = b[size:]
	}
	return false
}
