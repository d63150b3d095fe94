package boot

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stilehq/stile/vmm/memory"
)

func TestRAM(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		size uint64
		want []Range
	}{
		{gib, []Range{{0, gib}}},
		{3 * gib, []Range{{0, 3 * gib}}},
		{3*gib + 2<<20, []Range{{0, 3 * gib}, {4 * gib, 2 << 20}}},
		{64 * gib, []Range{{0, 3 * gib}, {4 * gib, 61 * gib}}},
	} {
		got := RAM(c.size)
		if len(got) != len(c.want) || got[0] != c.want[0] || got[len(got)-1] != c.want[len(got)-1] {
			t.Errorf("%d: %v, want %v", c.size, got, c.want)
		}
	}
}

// TestLoad follows the start info as the kernel does.
func TestLoad(t *testing.T) {
	const high = 3 << 20
	mem, err := memory.New(memory.Region{GPA: 0, Bytes: make([]byte, 4<<20)}, memory.Region{GPA: GapEnd, Bytes: make([]byte, high)})
	if err != nil {
		t.Fatal(err)
	}
	initramfs := bytes.Repeat([]byte("cpio!"), 1000)
	start, err := Load(mem, &Config{
		Kernel: bytes.NewReader(goodImage().bytes()), Initramfs: bytes.NewReader(initramfs), InitSize: int64(len(initramfs)),
		Cmdline: []string{"quiet", "a=b c"}, CPUs: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	if start.Entry != 0x100040 || start.StartInfo != startInfoGPA {
		t.Errorf("start %#v", start)
	}
	at := func(gpa uint64, n uint64) []byte {
		t.Helper()
		b, err := mem.Slice(gpa, n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	u32 := func(gpa uint64) uint32 { return binary.LittleEndian.Uint32(at(gpa, 4)) }
	u64 := func(gpa uint64) uint64 { return binary.LittleEndian.Uint64(at(gpa, 8)) }
	info := uint64(start.StartInfo)
	if u32(info) != 0x336ec578 || u32(info+4) != 1 || u32(info+12) != 1 {
		t.Errorf("magic %#x, version %d, %d modules", u32(info), u32(info+4), u32(info+12))
	}
	if got := at(u64(info+24), 12); string(got) != "quiet a=b c\x00" {
		t.Errorf("command line %q", got)
	}
	list := u64(info + 16)
	module := at(u64(list), u64(list+8))
	if !bytes.Equal(module, initramfs) || u64(list)%4096 != 0 {
		t.Errorf("initramfs of %d bytes at %#x", len(module), u64(list))
	}
	var got []Range
	for i := range uint64(u32(info + 48)) {
		e := u64(info+40) + 24*i
		if u32(e+16) != 1 {
			t.Errorf("entry %d of the memory map has type %d", i, u32(e+16))
		}
		got = append(got, Range{u64(e), u64(e + 8)})
	}
	want := []Range{{0, 0x9fc00}, {1 << 20, 3 << 20}, {GapEnd, high}}
	if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("memory map %x, want %x", got, want)
	}
}

func TestLoadErrors(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(*Config)
	}{
		{"long command line", "2048 bytes, at most 2047", func(c *Config) { c.Cmdline = []string{strings.Repeat("x", 2048)} }},
		{"NUL in it", "NUL", func(c *Config) { c.Cmdline = []string{"a\x00b"} }},
		{"no vCPU", "0 vCPUs", func(c *Config) { c.CPUs = 0 }},
		{"too many", "255 vCPUs", func(c *Config) { c.CPUs = 255 }},
		{"large initramfs", "does not fit", func(c *Config) { c.InitSize = 2 << 20 }},
		{"initramfs into the kernel", "does not fit", func(c *Config) { c.InitSize = 0xfe000 + 1 }},
		{"initramfs that ends early", "unexpected EOF", func(c *Config) { c.InitSize = 6 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := &Config{Kernel: bytes.NewReader(goodImage().bytes()), Initramfs: strings.NewReader("cpio!"), InitSize: 5, CPUs: 1}
			c.change(cfg)
			if _, err := Load(newMemory(t, 2<<20), cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestMPTable reads the table as arch/x86/kernel/mpparse.c does.
func TestMPTable(t *testing.T) {
	sum := func(b []byte) (s byte) {
		for _, c := range b {
			s += c
		}
		return s
	}
	for _, cpus := range []int{1, 2, MaxCPUs} {
		b, err := mpTable(cpus)
		if err != nil {
			t.Fatal(err)
		}
		if string(b[:4]) != "_MP_" || b[8] != 1 || sum(b[:16]) != 0 || binary.LittleEndian.Uint32(b[4:]) != mpTableGPA+16 {
			t.Fatalf("floating pointer % x", b[:16])
		}
		table := b[16:]
		if n := int(binary.LittleEndian.Uint16(table[4:])); string(table[:4]) != "PCMP" || n != len(table) || sum(table) != 0 {
			t.Fatalf("table of %d bytes says %d, sum %d", len(table), n, sum(table))
		}
		var found [5]int
		for e := table[44:]; len(e) > 0; {
			found[e[0]]++
			switch e[0] {
			case 0:
				if e[1] != byte(found[0]-1) {
					t.Errorf("CPU %d has APIC id %d", found[0]-1, e[1])
				}
				e = e[20:]
				continue
			case 2:
				if int(e[1]) < cpus {
					t.Errorf("the I/O APIC has id %d, a CPU's", e[1])
				}
			case 3:
				if e[5] != e[7] {
					t.Errorf("interrupt %d at pin %d", e[5], e[7])
				}
			}
			e = e[8:]
		}
		if want := [5]int{cpus, 1, 1, IOAPICPins, 2}; found != want {
			t.Errorf("entries %v, want %v", found, want)
		}
		if n := int(binary.LittleEndian.Uint16(table[34:])); n != cpus+4+IOAPICPins {
			t.Errorf("the header says %d entries", n)
		}
	}
}
