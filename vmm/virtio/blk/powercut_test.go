package blk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// A volatile is a Store with a write cache that a power cut loses: what was
// written since the last Sync is on the medium in part, in any order, sector by
// sector.
type volatile struct {
	mu     sync.Mutex
	medium []byte  // what a power cut leaves
	cache  []write // since the last Sync, in order
	forget bool    // Sync that does nothing
	syncs  int
}

type write struct {
	off  int64
	data []byte
}

func newVolatile(size int) *volatile { return &volatile{medium: make([]byte, size)} }

func (v *volatile) Size() uint64 { return uint64(len(v.medium)) }

// view is what a read sees.
func (v *volatile) view() []byte {
	b := bytes.Clone(v.medium)
	for _, w := range v.cache {
		copy(b[w.off:], w.data)
	}
	return b
}

func (v *volatile) ReadVec(bufs [][]byte, off int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	b := v.view()[off:]
	for _, dst := range bufs {
		b = b[copy(dst, b):]
	}
	return nil
}

func (v *volatile) ReadNow([][]byte, int64) bool { return false }

func (v *volatile) WriteVec(bufs [][]byte, off int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cache = append(v.cache, write{off, slices.Concat(bufs...)})
	return nil
}

func (v *volatile) Sync() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.syncs++
	if !v.forget {
		v.medium, v.cache = v.view(), nil
	}
	return nil
}

func (v *volatile) Discard(int64, int64) error { return nil }

func (v *volatile) Zero(off, n int64, _ bool) error {
	return v.WriteVec([][]byte{make([]byte, n)}, off)
}

// cut is the medium after a power cut at this moment.
func (v *volatile) cut(r *rand.Rand) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	b := bytes.Clone(v.medium)
	for _, w := range v.cache {
		for at := 0; at < len(w.data); at += sectorSize {
			if r.IntN(2) == 0 {
				copy(b[w.off+int64(at):], w.data[at:min(len(w.data), at+sectorSize)])
			}
		}
	}
	return b
}

// A journal is the least that a file system builds on a disk: a record goes to
// its place in the log, is flushed, then a commit block that names the last
// record, and is flushed. What was committed before a power cut is whole after it.
type journal struct {
	driver
	committed uint64 // records that a flush made stable
}

const (
	recordSectors = 8
	recordSize    = recordSectors * sectorSize
	records       = 24
)

func record(n uint64) []byte {
	b := make([]byte, recordSize)
	r := rand.New(rand.NewPCG(n, 1))
	for i := 16; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	binary.LittleEndian.PutUint64(b, n)
	binary.LittleEndian.PutUint32(b[8:], crc32.ChecksumIEEE(b[16:]))
	return b
}

func place(n uint64) uint64 { return 1 + (n-1)%records*recordSectors }

func (j *journal) append() {
	j.Helper()
	n := j.committed + 1
	b := record(n)
	for i := range uint64(recordSectors) { // as many requests as it takes
		j.expect(statusOK, typeOut, place(n)+i, b[i*sectorSize:][:sectorSize], 0)
	}
	j.expect(statusOK, typeFlush, 0, nil, 0)
	commit := make([]byte, sectorSize)
	binary.LittleEndian.PutUint64(commit, n)
	j.expect(statusOK, typeOut, 0, commit, 0)
	j.expect(statusOK, typeFlush, 0, nil, 0)
	j.committed = n
}

// check is what a mount does after a power cut.
func check(medium []byte, committed uint64) error {
	last := binary.LittleEndian.Uint64(medium)
	if last < committed {
		return fmt.Errorf("record %d was committed, and the disk knows of %d", committed, last)
	}
	first := uint64(1)
	if last > records-1 { // the oldest may be half overwritten
		first = last - records + 2
	}
	for n := first; n <= last; n++ {
		if got := medium[place(n)*sectorSize:][:recordSize]; !bytes.Equal(got, record(n)) {
			return fmt.Errorf("record %d of %d is damaged", n, last)
		}
	}
	return nil
}

// cuts runs a journal and cuts the power at random points, between requests and
// in the middle of a record.
func cuts(t *testing.T, v *volatile, features uint64, n int) (failed error) {
	t.Helper()
	r := rand.New(rand.NewPCG(42, 7))
	j := &journal{driver: start(t, New(v, Options{}), features)}
	for range n {
		for range 1 + r.IntN(3) {
			j.append()
		}
		// A record that is under way.
		b := record(j.committed + 1)
		for i := range uint64(r.IntN(recordSectors + 1)) {
			j.expect(statusOK, typeOut, place(j.committed+1)+i, b[i*sectorSize:][:sectorSize], 0)
		}
		if err := check(v.cut(r), j.committed); err != nil {
			return err
		}
	}
	return nil
}

func TestPowerCuts(t *testing.T) {
	const size = (1 + records*recordSectors) * sectorSize
	t.Run("flushes", func(t *testing.T) {
		v := newVolatile(size)
		if err := cuts(t, v, ^uint64(0), 50); err != nil {
			t.Error(err)
		}
	})
	// The test notices a disk that does not flush, or it proves nothing.
	t.Run("no flushes", func(t *testing.T) {
		v := newVolatile(size)
		v.forget = true
		if err := cuts(t, v, ^uint64(0), 50); err == nil {
			t.Error("50 power cuts of a disk that never flushes lost nothing")
		} else {
			t.Logf("as it should: %v", err)
		}
		if v.syncs == 0 {
			t.Error("the device never asked the store to flush")
		}
	})
	// A driver that knows no flush finds everything that was answered.
	t.Run("write-through", func(t *testing.T) {
		v := newVolatile(size)
		d := start(t, New(v, Options{}), ^uint64(featureFlush))
		r := rand.New(rand.NewPCG(1, 2))
		want := make([]byte, size)
		for n := range uint64(50) {
			b := record(n + 1)
			d.expect(statusOK, typeOut, place(n+1), b, 0)
			copy(want[place(n+1)*sectorSize:], b)
			if !bytes.Equal(v.cut(r), want) {
				t.Fatalf("write %d was answered and is lost", n)
			}
		}
		d.expect(statusOK, typeWriteZeroes, 0, segment(1, 8, 0), 0)
		clear(want[512:][:8*512])
		if !bytes.Equal(v.cut(r), want) {
			t.Error("zeros were answered and are lost")
		}
	})
}
