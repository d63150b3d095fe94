package blk

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A fullStore writes a part of what it is given, and has no room for the rest.
type fullStore struct {
	Store
	full  atomic.Bool
	tries atomic.Int32
}

func (s *fullStore) WriteVec(bufs [][]byte, off int64) error {
	if !s.full.Load() {
		return s.Store.WriteVec(bufs, off)
	}
	s.tries.Add(1)
	s.Store.WriteVec([][]byte{bufs[0][:512]}, off)
	bufs[0] = bufs[0][512:]
	return unix.ENOSPC
}

func newFull(t *testing.T) (d driver, s *fullStore, stalled chan bool) {
	t.Helper()
	stalled = make(chan bool, 10)
	dev := newDisk(t, diskSize, Options{Stalled: func(is bool) { stalled <- is }})
	s = &fullStore{Store: dev.store}
	dev.store = s
	return start(t, dev, ^uint64(0)), s, stalled
}

// A write that finds no room waits for it, and others go past it; then it is done
// whole. One word is said when it begins and one when it ends.
func TestWriteWaitsForRoom(t *testing.T) {
	d, s, stalled := newFull(t)
	s.full.Store(true)
	data := bytes.Repeat([]byte("room"), 1024)
	status, b := d.In(1)
	b[0] = 0xee
	write := d.Rings[0].Add(d.Out(head(typeOut, 8)), d.Out(data), status)
	d.Rings[0].Kick()
	if !<-stalled {
		t.Fatal("it is said to go on")
	}
	// No answer, and a read is answered meanwhile.
	in, _ := d.In(512)
	status2, b2 := d.In(1)
	b2[0] = 0xee
	read := d.Rings[0].Add(d.Out(head(typeIn, 0)), in, status2)
	d.Rings[0].Kick()
	if got, _, ok := d.Rings[0].WaitUsed(10 * time.Second); !ok || got != read || b2[0] != statusOK {
		t.Fatalf("used chain %d, %v, with status %d", got, ok, b2[0])
	}
	eventually(t, "it is tried again", func() bool { return s.tries.Load() >= 2 })
	s.full.Store(false)
	if got, _, ok := d.Rings[0].WaitUsed(10 * time.Second); !ok || got != write || b[0] != statusOK {
		t.Fatalf("used chain %d, %v, with status %d", got, ok, b[0])
	}
	if <-stalled {
		t.Error("it is said to wait again")
	}
	if got := d.expect(statusOK, typeIn, 8, nil, len(data)); !bytes.Equal(got, data) {
		t.Error("not what was written is there")
	}
	if len(stalled) != 0 {
		t.Errorf("%d words too many", len(stalled))
	}
}

// A device that is reset does not wait for room any more.
func TestResetWaitsForNoRoom(t *testing.T) {
	d, s, stalled := newFull(t)
	s.full.Store(true)
	status, _ := d.In(1)
	d.Rings[0].Add(d.Out(head(typeOut, 8)), d.Out(make([]byte, 1024)), status)
	d.Rings[0].Kick()
	<-stalled
	d.Reset()
	if <-stalled {
		t.Error("it is said to wait again")
	}
}
