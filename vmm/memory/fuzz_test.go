package memory

import (
	"encoding/binary"
	"errors"
	"testing"
	"unsafe"
)

// FuzzMemory makes regions of what the input says, checks what New accepts, and
// reads ranges: what comes back is the right bytes, all of them, and no more.
func FuzzMemory(f *testing.F) {
	add := func(all ...uint64) {
		var b []byte
		for _, v := range all {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
		f.Add(b)
	}
	add(0x1000, 16, 0x1010, 16, 0x100f, 2)
	add(0, 64, 64, 64, 0, 128)
	add(^uint64(0)-15, 16, 0, 16, ^uint64(0)-15, 16)
	add(^uint64(0)-15, 15, 0x20, 32, ^uint64(0)-15, 20)
	add(5, 0, 5, 1, 5, ^uint64(0))
	add(8, 8, 12, 8, 8, 4)
	f.Fuzz(func(t *testing.T, data []byte) {
		var v [6]uint64
		for i := range v {
			if len(data) < 8 {
				return
			}
			v[i], data = binary.LittleEndian.Uint64(data), data[8:]
		}
		var regions []Region
		at := func(gpa uint64) (byte, bool) { // the byte that is at gpa
			for i, r := range regions {
				if gpa-r.GPA < uint64(len(r.Bytes)) {
					return byte(i)<<7 | byte(gpa-r.GPA)&127, true
				}
			}
			return 0, false
		}
		for i := range 2 {
			regions = append(regions, Region{GPA: v[2*i], Bytes: make([]byte, v[2*i+1]%256)})
			for k := range regions[i].Bytes {
				regions[i].Bytes[k] = byte(i)<<7 | byte(k)&127
			}
		}
		m, err := New(regions...)
		if err != nil {
			return
		}
		for _, r := range regions {
			if len(r.Bytes) == 0 || r.GPA+uint64(len(r.Bytes)) < r.GPA {
				t.Fatalf("New took a region of %d bytes at %#x", len(r.Bytes), r.GPA)
			}
		}
		if a, b := regions[0], regions[1]; a.GPA-b.GPA < uint64(len(b.Bytes)) || b.GPA-a.GPA < uint64(len(a.Bytes)) {
			t.Fatalf("New took %#x and %#x, of %d and %d bytes", a.GPA, b.GPA, len(a.Bytes), len(b.Bytes))
		}
		gpa, n := v[4], v[5]

		b, err := m.Slice(gpa, n)
		switch {
		case err == nil:
			if uint64(len(b)) != n || cap(b) != len(b) {
				t.Fatalf("Slice of %d: %d bytes, capacity %d", n, len(b), cap(b))
			}
			for i, got := range b {
				if want, ok := at(gpa + uint64(i)); !ok || got != want {
					t.Fatalf("byte %d of Slice(%#x, %d) is %d, not %d", i, gpa, n, got, want)
				}
			}
			if len(b) > 0 {
				if back, err := m.GPA(b); err != nil || back != gpa {
					t.Fatalf("GPA is %#x, %v, not %#x", back, err, gpa)
				}
			}
		case !errors.Is(err, ErrRange):
			t.Fatal(err)
		}

		all, aerr := m.AppendSlices(nil, gpa, n)
		if err == nil && aerr != nil {
			t.Fatalf("AppendSlices: %v, where Slice has none", aerr)
		}
		if aerr != nil {
			if !errors.Is(aerr, ErrRange) {
				t.Fatal(aerr)
			}
			if whole(at, gpa, n) {
				t.Fatalf("AppendSlices(%#x, %d): %v, but all of it is there", gpa, n, aerr)
			}
			return
		}
		next := gpa
		for _, b := range all {
			if len(b) == 0 || cap(b) != len(b) {
				t.Fatalf("a piece of %d bytes, capacity %d", len(b), cap(b))
			}
			for _, got := range b {
				if want, ok := at(next); !ok || got != want {
					t.Fatalf("byte at %#x is %d, not %d", next, got, want)
				}
				next++
			}
		}
		if next-gpa != n {
			t.Fatalf("AppendSlices(%#x, %d) has %d bytes", gpa, n, next-gpa)
		}
	})
}

func whole(at func(uint64) (byte, bool), gpa, n uint64) bool {
	if n > 1024 {
		return false
	}
	for i := range n {
		if _, ok := at(gpa + i); !ok {
			return false
		}
	}
	return true
}

func TestGPA(t *testing.T) {
	low, high := make([]byte, 0x1000), make([]byte, 0x1000)
	m, err := New(Region{0x1000, low}, Region{0x8000, high})
	if err != nil {
		t.Fatal(err)
	}
	for want, b := range map[uint64][]byte{0x1000: low, 0x1fff: low[0xfff:], 0x8000: high[:1], 0x8123: high[0x123:]} {
		if got, err := m.GPA(b); err != nil || got != want {
			t.Errorf("GPA is %#x, %v, not %#x", got, err, want)
		}
	}
	outside := unsafe.Slice(&make([]byte, 0x1000)[0], 0x1000)
	for _, b := range [][]byte{nil, {}, {1}, outside} {
		if got, err := m.GPA(b); !errors.Is(err, ErrRange) {
			t.Errorf("GPA of other bytes is %#x, %v", got, err)
		}
	}
}
