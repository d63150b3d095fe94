package memory

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

func TestSlice(t *testing.T) {
	low, high, far := make([]byte, 0x1000), make([]byte, 0x2000), make([]byte, 0x1000)
	low[0xfff], high[0] = 1, 2
	m, err := New(Region{0x2000, high}, Region{0x1000, low}, Region{0x10000, far})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		gpa, n uint64
		one    bool // within one region
		pieces int  // 0: outside
	}{
		{0x1000, 0x1000, true, 1},
		{0x1fff, 1, true, 1},
		{0x1fff, 2, false, 2},
		{0x1000, 0x3000, false, 2},
		{0x1000, 0x3001, false, 0},
		{0xfff, 1, false, 0},
		{0x4000, 1, false, 0},
		{0x10000, 0x1000, true, 1},
		{0x10fff, 2, false, 0},
		{math.MaxUint64, 2, false, 0},
		{0x1800, math.MaxUint64, false, 0},
	}
	for _, tt := range tests {
		b, err := m.Slice(tt.gpa, tt.n)
		if tt.one != (err == nil) || tt.one && uint64(len(b)) != tt.n || err != nil && !errors.Is(err, ErrRange) {
			t.Errorf("Slice(%#x, %#x) = %d bytes, %v", tt.gpa, tt.n, len(b), err)
		}
		if tt.one && cap(b) != len(b) {
			t.Errorf("Slice(%#x, %#x): capacity %d reaches past the range", tt.gpa, tt.n, cap(b))
		}
		all, err := m.AppendSlices(nil, tt.gpa, tt.n)
		if len(all) != tt.pieces || (err == nil) != (tt.pieces > 0) {
			t.Errorf("AppendSlices(%#x, %#x) = %d pieces, %v; want %d", tt.gpa, tt.n, len(all), err, tt.pieces)
		}
		if tt.pieces > 0 && uint64(len(bytes.Join(all, nil))) != tt.n {
			t.Errorf("AppendSlices(%#x, %#x): %d bytes", tt.gpa, tt.n, len(bytes.Join(all, nil)))
		}
	}
}

func TestNewRefuses(t *testing.T) {
	b := make([]byte, 0x1000)
	for name, regions := range map[string][]Region{
		"overlap": {{0x1000, b}, {0x1fff, b}},
		"same":    {{0x1000, b}, {0x1000, b}},
		"empty":   {{0x1000, nil}},
		"wraps":   {{math.MaxUint64 - 0x10, b}},
	} {
		if _, err := New(regions...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
