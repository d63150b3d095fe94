package qemu

import "testing"

func TestTSCKHz(t *testing.T) {
	for _, tt := range []struct {
		line string
		khz  uint64
	}{
		{"bogomips\t: 5192.28", 2596140},
		{"bogomips : 4000.00", 2000000},
		{"bogomips\t: 0.00", 0},
		{"bogomips\t: x", 0},
		{"bogomips", 0},
		{"cpu MHz\t\t: 2596.140", 0},
		{"", 0},
	} {
		if khz, ok := tscKHz(tt.line); khz != tt.khz || ok != (tt.khz != 0) {
			t.Errorf("%q: %d, %v", tt.line, khz, ok)
		}
	}
}
