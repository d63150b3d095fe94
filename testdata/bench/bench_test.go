package main

import "testing"

func TestPssWithoutGuestMemory(t *testing.T) {
	const smaps = `55d0a0000000-55d0a0100000 r-xp 00000000 08:01 1234                       /usr/bin/qemu-system-x86_64
Rss:                 900 kB
Pss:                 700 kB
Pss_Dirty:            10 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0080000000 rw-s 00000000 00:01 2053                       /memfd:memory-backend-memfd (deleted)
Pss:             2000000 kB
7f0090000000-7f0090001000 rw-p 00000000 00:00 0
Pss:                   4 kB
7f00a0000000-7f00e0000000 rw-p 00000000 00:00 0
Pss:                  16 kB
VmFlags: rd wr mr mw me nr dd hg
`
	got, guest, err := sumPss(smaps, 1<<30)
	if want := uint64(704 << 10); err != nil || got != want {
		t.Errorf("%d bytes, %v, want %d", got, err, want)
	}
	if want := uint64(2000016 << 10); guest != want {
		t.Errorf("%d bytes of guest memory, want %d", guest, want)
	}
	if _, _, err := sumPss("7f00-7f01 rw-p 0 0 0\nPss: many kB\n", 0); err == nil {
		t.Error("no error for a number that is none")
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = 100 - i
	}
	for _, tc := range []struct {
		q    float64
		want int
	}{{0, 1}, {0.5, 50}, {0.99, 99}, {1, 100}} {
		if got := quantile(hundred, tc.q); got != tc.want {
			t.Errorf("quantile %g is %d, want %d", tc.q, got, tc.want)
		}
	}
	if got := median([]int{7}); got != 7 {
		t.Errorf("the median of one value is %d, want it", got)
	}
}

func TestRatioIsInStilesFavour(t *testing.T) {
	if r := (result{value: 2, peer: 6, better: lower}).ratio(); r != 3 {
		t.Errorf("a third of the time is a ratio of %g, want 3", r)
	}
	if r := (result{value: 6, peer: 2, better: higher}).ratio(); r != 3 {
		t.Errorf("three times the speed is a ratio of %g, want 3", r)
	}
}

func TestFindRows(t *testing.T) {
	if list, err := find("warm,cold"); err != nil || len(list) != 2 || list[0].name != "cold" {
		t.Errorf("rows %v, %v: want cold, warm", list, err)
	}
	if _, err := find("cold,tepid"); err == nil {
		t.Error("no error for a row that there is not")
	}
}
