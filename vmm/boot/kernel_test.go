package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stilehq/stile/vmm/memory"
)

// image builds ELF images: one note segment and some to load.
type image struct {
	header elf.Header64
	note   []byte
	loads  []elf.Prog64
	body   []byte // of all loads: they start at its beginning
}

// noteBytes is one ELF note.
func noteBytes(name string, kind uint32, desc []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(name)))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, kind)
	pad := func(s []byte) []byte { return append(s, make([]byte, -len(s)&3)...) }
	return append(append(b, pad([]byte(name))...), pad(desc)...)
}

// goodImage is linked at 1 MiB, fills 0x2000 bytes from 0x800 of the file.
func goodImage() *image {
	body := make([]byte, 0x800)
	for i := range body {
		body[i] = byte(i*7 + 1)
	}
	return &image{
		header: elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Ehsize: 64, Phentsize: 56},
		note: append(noteBytes("Linux\x00", 18, []byte{1, 2, 3, 4}), noteBytes("Xen\x00", 18, []byte{0x40, 0, 0x10, 0})...),
		loads: []elf.Prog64{{Type: uint32(elf.PT_LOAD), Vaddr: 0xffffffff81000000, Paddr: 0x100000,
			Filesz: 0x800, Memsz: 0x2000}},
		body: body,
	}
}

func (m *image) bytes() []byte {
	h := m.header
	h.Ident = [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	h.Phoff = 64
	h.Phnum = uint16(1 + len(m.loads))
	at := 64 + 56*uint64(h.Phnum)
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, h)
	n := uint64(len(m.note))
	binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: at, Filesz: n, Memsz: n})
	for _, p := range m.loads {
		p.Off += at + n
		binary.Write(&b, binary.LittleEndian, p)
	}
	b.Write(m.note)
	b.Write(m.body)
	return b.Bytes()
}

// newMemory is size bytes of guest memory at 0.
func newMemory(t testing.TB, size int) *memory.Memory {
	t.Helper()
	m, err := memory.New(memory.Region{GPA: 0, Bytes: make([]byte, size)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestReadKernel(t *testing.T) {
	m := goodImage()
	k, err := ReadKernel(bytes.NewReader(m.bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if k.Entry != 0x100040 || k.Start != 0x100000 || k.End != 0x102000 {
		t.Errorf("entry %#x, from %#x to %#x", k.Entry, k.Start, k.End)
	}
	mem := newMemory(t, 2<<20)
	if err := k.load(mem); err != nil {
		t.Fatal(err)
	}
	got, _ := mem.Slice(0x100000, 0x2000)
	if !bytes.Equal(got[:0x800], m.body) || !bytes.Equal(got[0x800:], make([]byte, 0x1800)) {
		t.Error("guest memory does not hold the segment")
	}
}

func TestReadKernelErrors(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(*image)
	}{
		{"another machine", "EM_AARCH64", func(m *image) { m.header.Machine = uint16(elf.EM_AARCH64) }},
		{"nothing to load", "nothing to load", func(m *image) { m.loads = nil }},
		{"more in the file than in memory", "segment 1", func(m *image) { m.loads[0].Memsz = 4 }},
		{"wraps around", "segment 1", func(m *image) { m.loads[0].Paddr = ^uint64(0) - 4 }},
		{"no note", "no PVH entry", func(m *image) { m.note = nil }},
		{"another's note", "no PVH entry", func(m *image) { m.note = noteBytes("GNU\x00", 18, []byte{0x40, 0, 0x10, 0}) }},
		{"another note", "no PVH entry", func(m *image) { m.note = noteBytes("Xen\x00", 17, []byte{0x40, 0, 0x10, 0}) }},
		{"an entry of two bytes", "no PVH entry", func(m *image) { m.note = noteBytes("Xen\x00", 18, []byte{0x40, 0}) }},
		{"an entry above 4 GiB", "no PVH entry", func(m *image) { m.note = noteBytes("Xen\x00", 18, []byte{0x40, 0, 0x10, 0, 1, 0, 0, 0}) }},
		{"an entry outside", "entry at 0x90000", func(m *image) { m.note = noteBytes("Xen\x00", 18, []byte{0, 0, 9, 0}) }},
		{"a note that is cut", "no PVH entry", func(m *image) { m.note = m.note[:len(m.note)-4] }},
		{"a name of 4 GiB", "no PVH entry", func(m *image) { binary.LittleEndian.PutUint32(m.note, 0xffff_fffe) }},
		{"below 1 MiB", "below 1 MiB", func(m *image) {
			m.loads = append(m.loads, elf.Prog64{Type: uint32(elf.PT_LOAD), Paddr: 0x6000, Filesz: 8, Memsz: 8})
		}},
		{"beyond memory", "do not fit", func(m *image) { m.loads[0].Memsz = 2 << 20 }},
		{"a file that ends early", "unexpected EOF", func(m *image) { m.body = m.body[:0x7ff] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := goodImage()
			c.change(m)
			k, err := ReadKernel(bytes.NewReader(m.bytes()))
			if err == nil {
				err = k.load(newMemory(t, 2<<20))
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	for _, text := range []string{"", "no kernel", "\x7fELF"} {
		if _, err := ReadKernel(strings.NewReader(text)); !errors.Is(err, ErrKernel) {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

// A file that can't be read is not called a bad kernel.
func TestReadKernelBroken(t *testing.T) {
	broken := errors.New("disk on fire")
	if _, err := ReadKernel(readerAt(func([]byte, int64) (int, error) { return 0, broken })); !errors.Is(err, broken) || errors.Is(err, ErrKernel) {
		t.Errorf("error %v", err)
	}
}

type readerAt func([]byte, int64) (int, error)

func (f readerAt) ReadAt(b []byte, off int64) (int, error) { return f(b, off) }

// The kernel's bytes are copied once, by one read of each segment into guest
// memory itself.
func TestLoadReadsOnce(t *testing.T) {
	m := goodImage()
	file := m.bytes()
	mem := newMemory(t, 2<<20)
	var direct int
	k, err := ReadKernel(readerAt(func(b []byte, off int64) (int, error) {
		if target, _ := mem.Slice(0x100000, 1); len(b) > 0 && &b[0] == &target[0] {
			direct += len(b)
		}
		return bytes.NewReader(file).ReadAt(b, off)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.load(mem); err != nil || direct != len(m.body) {
		t.Errorf("%d bytes of %d read into guest memory, %v", direct, len(m.body), err)
	}
}

func FuzzLoad(f *testing.F) {
	m := goodImage()
	m.body, m.loads[0].Filesz = m.body[:16], 16 // small, for the fuzzer's sake
	f.Add(m.bytes(), int64(16), 1)
	m.loads[0].Memsz = 1 << 40
	f.Add(m.bytes(), int64(1<<21), 255)
	m.note = nil
	f.Add(m.bytes(), int64(-1), -1)
	f.Fuzz(func(t *testing.T, file []byte, initSize int64, cpus int) {
		const size = 2 << 20
		mem := newMemory(t, size)
		start, err := Load(mem, &Config{Kernel: bytes.NewReader(file), Initramfs: zeros{}, InitSize: initSize, CPUs: cpus})
		if err != nil {
			return
		}
		if start.Entry < lowEnd || start.Entry >= size {
			t.Errorf("entry at %#x", start.Entry)
		}
		if initSize > size || cpus < 1 || cpus > MaxCPUs {
			t.Errorf("loaded an initramfs of %d bytes, %d vCPUs", initSize, cpus)
		}
	})
}

// zeros is an endless file.
type zeros struct{}

func (zeros) ReadAt(b []byte, _ int64) (int, error) { return len(b), nil }

var _ io.ReaderAt = zeros{}
