package boot

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/stilehq/stile/vmm/memory"
)

// The memory map of a guest, in guest physical addresses. Below 1 MiB it is
// Firecracker's, but for the MP table.
//
//	0x6000       start info, module list behind it
//	0x7000       memory map
//	0x20000      command line
//	0xf0000      MP table, where a BIOS would have it
//	0x100000     RAM, the kernel where it is linked (16 MiB)
//	             the initramfs at the end of the RAM below the gap
//	0xc0000000   gap: device pages, I/O APIC, local APIC, KVM's own pages
//	0x100000000  the rest of RAM
const (
	startInfoGPA = 0x6000
	moduleGPA    = 0x6040
	memoryMapGPA = 0x7000
	cmdlineGPA   = 0x20000
	mpTableGPA   = 0xf0000
	baseEnd      = 0x9fc00 // end of RAM below the PC's hole

	// GapStart and GapEnd bound the addresses that are never RAM.
	GapStart = 0xc000_0000
	GapEnd   = 0x1_0000_0000
)

// maxCmdline is COMMAND_LINE_SIZE of arch/x86, its NUL included.
const maxCmdline = 2048

// A Range is a run of guest physical addresses.
type Range struct{ GPA, Size uint64 }

// RAM is where size bytes of guest memory lie: at 0, and what the gap leaves no
// room for at GapEnd.
func RAM(size uint64) []Range {
	if size <= GapStart {
		return []Range{{0, size}}
	}
	return []Range{{0, GapStart}, {GapEnd, size - GapStart}}
}

// A Config is what Load puts into guest memory.
type Config struct {
	Kernel    io.ReaderAt // uncompressed vmlinux with a PVH entry
	Initramfs io.ReaderAt // nil if there is none
	InitSize  int64       // bytes of Initramfs
	Cmdline   []string    // kernel parameters
	CPUs      int         // with local APIC ids from 0 on
}

// A Start is how the first vCPU enters the kernel (Xen's docs/misc/pvh.pandoc):
// 32-bit protected mode, paging off, flat segments, EIP at Entry, EBX the
// address of the start info.
type Start struct {
	Entry     uint32
	StartInfo uint32
}

// Load puts kernel, initramfs and the tables that the kernel looks for into
// mem, which is zero as yet and lies as RAM says. Files are read straight into
// guest memory. The error wraps ErrKernel where the kernel is at fault.
func Load(mem *memory.Memory, cfg *Config) (*Start, error) {
	cmdline := strings.Join(cfg.Cmdline, " ")
	if len(cmdline) >= maxCmdline {
		return nil, fmt.Errorf("kernel command line of %d bytes, at most %d", len(cmdline), maxCmdline-1)
	}
	if strings.ContainsRune(cmdline, 0) {
		return nil, fmt.Errorf("kernel command line %q contains a NUL", cmdline)
	}
	k, err := ReadKernel(cfg.Kernel)
	if err != nil {
		return nil, err
	}
	if err := k.load(mem); err != nil {
		return nil, err
	}
	module, err := loadInitramfs(mem, cfg, k.End)
	if err != nil {
		return nil, err
	}
	table, err := mpTable(cfg.CPUs)
	if err != nil {
		return nil, err
	}
	memoryMap, entries := memoryMap(mem)
	for _, part := range []struct {
		gpa   uint64
		bytes []byte
	}{
		{startInfoGPA, startInfo(module, entries)},
		{moduleGPA, module},
		{memoryMapGPA, memoryMap},
		{cmdlineGPA, append([]byte(cmdline), 0)},
		{mpTableGPA, table},
	} {
		b, err := mem.Slice(part.gpa, uint64(len(part.bytes)))
		if err != nil {
			return nil, fmt.Errorf("boot parameters: %w", err)
		}
		copy(b, part.bytes)
	}
	return &Start{Entry: k.Entry, StartInfo: startInfoGPA}, nil
}

// loadInitramfs reads the initramfs to the end of the RAM below the gap, out of
// the way of all that the kernel places early, and returns its entry of the
// module list: hvm_modlist_entry of Xen's public/arch-x86/hvm/start_info.h
// (address, size, command line's address, reserved).
func loadInitramfs(mem *memory.Memory, cfg *Config, kernelEnd uint64) ([]byte, error) {
	if cfg.Initramfs == nil {
		return nil, nil
	}
	const pageSize = 4096
	size := uint64(max(cfg.InitSize, 0))
	var low uint64
	if r := mem.Regions()[0]; r.GPA == 0 {
		low = uint64(len(r.Bytes))
	}
	// The kernel's own pages behind its image (brk, early page tables) are
	// within its segments.
	room := uint64(0)
	if low > kernelEnd {
		room = low - kernelEnd
	}
	if size > room {
		return nil, fmt.Errorf("initramfs of %d bytes does not fit beside the kernel into guest memory of %d bytes", size, low)
	}
	at := (low - size) &^ (pageSize - 1)
	if at < kernelEnd {
		return nil, fmt.Errorf("initramfs of %d bytes does not fit beside the kernel into guest memory of %d bytes", size, low)
	}
	b, err := mem.Slice(at, size)
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	if err := readFull(cfg.Initramfs, b); err != nil {
		return nil, fmt.Errorf("read initramfs: %w", err)
	}
	entry := binary.LittleEndian.AppendUint64(nil, at)
	entry = binary.LittleEndian.AppendUint64(entry, size)
	return append(entry, make([]byte, 16)...), nil
}

// startInfo is hvm_start_info, version 1.
func startInfo(module []byte, entries int) []byte {
	const magic = 0x336ec578
	le := binary.LittleEndian
	b := le.AppendUint32(nil, magic)
	b = le.AppendUint32(b, 1) // version: has a memory map
	b = le.AppendUint32(b, 0) // flags
	modules, list := uint32(0), uint64(0)
	if module != nil {
		modules, list = 1, moduleGPA
	}
	b = le.AppendUint32(b, modules)
	b = le.AppendUint64(b, list)
	b = le.AppendUint64(b, cmdlineGPA)
	b = le.AppendUint64(b, 0) // no ACPI tables
	b = le.AppendUint64(b, memoryMapGPA)
	b = le.AppendUint32(b, uint32(entries))
	return le.AppendUint32(b, 0)
}

// memoryMap is the list of hvm_memmap_table_entry (address, size, type,
// reserved) that becomes the kernel's e820 table: RAM alone.
func memoryMap(mem *memory.Memory) (b []byte, entries int) {
	const typeRAM = 1
	add := func(gpa, size uint64) {
		b = binary.LittleEndian.AppendUint64(b, gpa)
		b = binary.LittleEndian.AppendUint64(b, size)
		b = binary.LittleEndian.AppendUint32(b, typeRAM)
		b = binary.LittleEndian.AppendUint32(b, 0)
		entries++
	}
	for _, r := range mem.Regions() {
		if size := uint64(len(r.Bytes)); r.GPA == 0 && size > lowEnd {
			add(0, baseEnd)
			add(lowEnd, size-lowEnd)
		} else {
			add(r.GPA, size)
		}
	}
	return b, entries
}
