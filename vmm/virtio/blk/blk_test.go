package blk

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

const diskSize = 1 << 20

// image is a disk image of n bytes that counts up.
func image(tb testing.TB, n int) *os.File {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "disk.img"))
	if err == nil {
		_, err = f.Write(pattern(n))
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return f
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>9) ^ byte(i*7)
	}
	return b
}

// A disk is a Device with the file behind it.
type disk struct {
	*Device
	f *os.File
}

func newDisk(tb testing.TB, size int, opts Options) *disk {
	tb.Helper()
	f := image(tb, size)
	store, err := NewFile(f)
	if err != nil {
		tb.Fatal(err)
	}
	return &disk{New(store, opts), f}
}

func (d *disk) contents(tb testing.TB) []byte {
	tb.Helper()
	b, err := os.ReadFile(d.f.Name())
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// A driver sends block requests.
type driver struct{ *virtiotest.Driver }

func head(typ uint32, sector uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, typ)
	b = append(b, 0, 0, 0, 0)
	return binary.LittleEndian.AppendUint64(b, sector)
}

// do sends a request with data, and room for n bytes, and returns these and the
// status.
func (d driver) do(typ uint32, sector uint64, data []byte, n int) ([]byte, byte) {
	d.Helper()
	bufs := []virtiotest.Buf{d.Out(head(typ, sector))}
	if len(data) > 0 {
		bufs = append(bufs, d.Out(data))
	}
	var got []byte
	if n > 0 {
		var in virtiotest.Buf
		in, got = d.In(n)
		bufs = append(bufs, in)
	}
	last, status := d.In(1)
	status[0] = 0xee
	written := d.Do(0, append(bufs, last)...)
	if want := uint32(n + 1); status[0] == statusOK && written != want {
		d.Errorf("request %d says that %d bytes were written, not %d", typ, written, want)
	}
	return got, status[0]
}

func (d driver) expect(want byte, typ uint32, sector uint64, data []byte, n int) []byte {
	d.Helper()
	got, status := d.do(typ, sector, data, n)
	if status != want {
		d.Errorf("request %d of %d bytes at sector %d has status %d, not %d", typ, len(data)+n, sector, status, want)
	}
	return got
}

// segment is one of a discard.
func segment(sector uint64, sectors, flags uint32) []byte {
	b := binary.LittleEndian.AppendUint64(nil, sector)
	b = binary.LittleEndian.AppendUint32(b, sectors)
	return binary.LittleEndian.AppendUint32(b, flags)
}

func work(vd *virtiotest.Driver) {
	d := driver{vd}
	dev := d.Device.(*disk)
	want := pattern(diskSize)
	if got := d.expect(statusOK, typeIn, 3, nil, 4096); !bytes.Equal(got, want[3*512:][:4096]) {
		d.Error("read something else")
	}
	fresh := bytes.Repeat([]byte{0xa5}, 8192)
	d.expect(statusOK, typeOut, 16, fresh, 0)
	d.expect(statusOK, typeFlush, 0, nil, 0)
	copy(want[16*512:], fresh)
	if got := dev.contents(d); !bytes.Equal(got, want) {
		d.Error("the image holds something else")
	}
	d.expect(statusOK, typeWriteZeroes, 0, append(segment(16, 8, 0), segment(24, 8, segmentUnmap)...), 0)
	clear(want[16*512:][:8192])
	if got := dev.contents(d); !bytes.Equal(got, want) {
		d.Error("zeros are elsewhere")
	}
	d.expect(statusOK, typeOut, 16, pattern(diskSize)[16*512:][:8192], 0) // as it was
	if got := d.expect(statusOK, typeGetID, 0, nil, 20); string(got) != "serial\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" {
		d.Errorf("the disk's ID is %q", got)
	}
}

var spec = virtiotest.Spec{
	New:     func(tb testing.TB) virtio.Device { return newDisk(tb, diskSize, Options{ID: "serial"}) },
	Work:    work,
	Watched: []int{0},
	Memory:  16 << 20,
	Flood: func(d *virtiotest.Driver, _ int) []virtiotest.Buf {
		data, _ := d.In(64 << 10)
		status, _ := d.In(1)
		return []virtiotest.Buf{d.Out(head(typeIn, 0)), data, status}
	},
}

func TestDevice(t *testing.T) { virtiotest.TestDevice(t, spec) }

// FuzzChains runs on a small disk in memory.
func FuzzChains(f *testing.F) {
	fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	if err != nil {
		f.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "disk")
	f.Cleanup(func() { file.Close() })
	if err := file.Truncate(64 << 10); err != nil {
		f.Fatal(err)
	}
	for typ := range byte(15) {
		f.Add([]byte{255, 255, 6,
			0, 0, 0x20, 32, typ, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
			1, 0, 3, 0, 0, 0, 32, 0, 2, 0, 4, 0, 2, 2, 0, 8, 1, 0, 2, 0})
	}
	virtiotest.FuzzDevice(f, virtiotest.Spec{Watched: spec.Watched, New: func(tb testing.TB) virtio.Device {
		store, err := NewFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		return New(store, Options{})
	}})
}

func start(t testing.TB, dev virtio.Device, features uint64) driver {
	t.Helper()
	d := driver{virtiotest.NewDriver(t, dev, virtiotest.Buses["mmio"], 8<<20)}
	d.Start(features, 0)
	return d
}

func TestConfigSpace(t *testing.T) {
	dev := newDisk(t, diskSize+100, Options{}) // a part of a sector is none
	d := start(t, dev, ^uint64(0))
	var cfg [60]byte
	d.ReadConfig(0, cfg[:])
	le := binary.LittleEndian
	for what, v := range map[string][2]uint64{
		"capacity":                 {le.Uint64(cfg[0:]), diskSize / 512},
		"seg_max":                  {uint64(le.Uint32(cfg[12:])), queueSize - 2},
		"blk_size":                 {uint64(le.Uint32(cfg[20:])), 512},
		"physical_block_exp":       {uint64(cfg[24]), 3},
		"min_io_size":              {uint64(le.Uint16(cfg[26:])), 8},
		"max_discard_sectors":      {uint64(le.Uint32(cfg[36:])), 1 << 21},
		"discard_sector_alignment": {uint64(le.Uint32(cfg[44:])), 8},
		"write_zeroes_may_unmap":   {uint64(cfg[56]), 1},
	} {
		if v[0] != v[1] {
			t.Errorf("%s is %d, not %d", what, v[0], v[1])
		}
	}
}

func TestRequestsOutOfBounds(t *testing.T) {
	var logged []error
	dev := newDisk(t, diskSize, Options{Log: func(err error) { logged = append(logged, err) }})
	d := start(t, dev, ^uint64(0))
	const sectors = diskSize / 512
	sector := make([]byte, 512)
	d.expect(statusOK, typeIn, sectors-1, nil, 512)
	d.expect(statusOK, typeIn, sectors, nil, 0)
	for _, at := range []uint64{sectors, sectors + 1, 1 << 55, ^uint64(0)} {
		d.expect(statusIOErr, typeIn, at, nil, 512)
		d.expect(statusIOErr, typeOut, at, sector, 0)
		d.expect(statusIOErr, typeDiscard, 0, segment(at, 1, 0), 0)
		d.expect(statusIOErr, typeWriteZeroes, 0, append(segment(0, 1, 0), segment(at, 1, 0)...), 0)
	}
	d.expect(statusIOErr, typeIn, sectors-1, nil, 1024)
	d.expect(statusIOErr, typeIn, 0, nil, 511)
	d.expect(statusIOErr, typeOut, 0, sector[:100], 0)
	d.expect(statusIOErr, typeWriteZeroes, 0, segment(0, ^uint32(0), 0), 0)
	d.expect(statusIOErr, typeDiscard, 0, nil, 0)
	d.expect(statusIOErr, typeDiscard, 0, segment(0, 1, 0)[:15], 0)
	d.expect(statusIOErr, typeDiscard, 0, bytes.Repeat(segment(0, 1, 0), maxDiscardSegs+1), 0)
	d.expect(statusUnsup, typeDiscard, 0, segment(0, 1, segmentUnmap), 0)
	d.expect(statusUnsup, typeWriteZeroes, 0, segment(0, 1, 2), 0)
	for _, typ := range []uint32{2, 3, 5, 7, 9, 14, 26, ^uint32(0)} {
		d.expect(statusUnsup, typ, 0, sector, 0)
	}
	if !bytes.Equal(dev.contents(t), pattern(diskSize)) {
		t.Error("a request that was refused changed the image")
	}
	if len(logged) != 0 {
		t.Errorf("the driver's faults are logged: %v", logged)
	}
	if err := d.Failure(); err != nil {
		t.Error(err)
	}
}

// A chain with no place for a status, or no header, can't be answered.
func TestNoHeaderOrStatus(t *testing.T) {
	for name, bufs := range map[string]func(d driver) []virtiotest.Buf{
		"no status": func(d driver) []virtiotest.Buf { return []virtiotest.Buf{d.Out(head(typeFlush, 0))} },
		"no header": func(d driver) []virtiotest.Buf { in, _ := d.In(513); return []virtiotest.Buf{in} },
		"a part": func(d driver) []virtiotest.Buf {
			in, _ := d.In(1)
			return []virtiotest.Buf{d.Out(make([]byte, 15)), in}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, newDisk(t, diskSize, Options{}), ^uint64(0))
			d.Rings[0].Add(bufs(d)...)
			d.Rings[0].Kick()
			d.FailedWith(virtio.ErrRing)
		})
	}
}

// The header may lie in pieces, with the status in the last byte of the data's
// buffer: where the buffers end means nothing (section 2.7.4).
func TestFraming(t *testing.T) {
	d := start(t, newDisk(t, diskSize, Options{}), ^uint64(0))
	h := head(typeIn, 1)
	a, first := d.In(100)
	b, second := d.In(413)
	if n := d.Do(0, d.Out(h[:3]), d.Out(h[3:]), a, b); n != 513 {
		t.Errorf("%d bytes written", n)
	}
	got := append(bytes.Clone(first), second[:412]...)
	if !bytes.Equal(got, pattern(diskSize)[512:1024]) || second[412] != statusOK {
		t.Error("read something else")
	}
	h = head(typeOut, 1)
	status, _ := d.In(1)
	d.Do(0, d.Out(append(h, 'x')), d.Out(make([]byte, 511)), status)
	if got := d.expect(statusOK, typeIn, 1, nil, 512); got[0] != 'x' || !bytes.Equal(got[1:], make([]byte, 511)) {
		t.Errorf("wrote %x", got[:16])
	}
}

func TestReadOnly(t *testing.T) {
	f := image(t, diskSize)
	ro, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	store, err := NewFile(ro)
	if err != nil {
		t.Fatal(err)
	}
	dev := &disk{New(store, Options{ReadOnly: true}), f}
	d := start(t, dev, ^uint64(0))
	if got := d.Features; got&(featureRO|featureDiscard|featureWriteZeroes) != featureRO {
		t.Errorf("features %#x", got)
	}
	if got := d.expect(statusOK, typeIn, 0, nil, 512); !bytes.Equal(got, pattern(512)) {
		t.Error("read something else")
	}
	d.expect(statusOK, typeFlush, 0, nil, 0)
	d.expect(statusIOErr, typeOut, 0, make([]byte, 512), 0)
	d.expect(statusIOErr, typeDiscard, 0, segment(0, 8, 0), 0)
	d.expect(statusIOErr, typeWriteZeroes, 0, segment(0, 8, 0), 0)
	if !bytes.Equal(dev.contents(t), pattern(diskSize)) {
		t.Error("the image has changed")
	}
}

// Discarded blocks come back to the host, and zeros may.
func TestBlocksComeBack(t *testing.T) {
	dev := newDisk(t, diskSize, Options{})
	d := start(t, dev, ^uint64(0))
	if err := dev.f.Sync(); err != nil {
		t.Fatal(err)
	}
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(int(dev.f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	before := blocks()
	d.expect(statusOK, typeDiscard, 0, append(segment(256, 256, 0), segment(1024, 512, 0)...), 0)
	if got, want := before-blocks(), int64(768*512); got != want {
		t.Errorf("%d bytes came back, not %d", got, want)
	}
	d.expect(statusOK, typeWriteZeroes, 0, segment(512, 256, segmentUnmap), 0)
	if got, want := before-blocks(), int64(1024*512); got != want {
		t.Errorf("%d bytes came back, not %d", got, want)
	}
	if st, err := dev.f.Stat(); err != nil || st.Size() != diskSize {
		t.Errorf("the image is %d bytes long, %v", st.Size(), err)
	}
}

// A host that can't do a request says so to the guest and to the log.
func TestHostErrors(t *testing.T) {
	logged := make(chan error, 10)
	dev := newDisk(t, diskSize, Options{Log: func(err error) { logged <- err }})
	d := start(t, dev, ^uint64(0))
	if err := dev.f.Truncate(diskSize / 2); err != nil {
		t.Fatal(err)
	}
	d.expect(statusOK, typeIn, 0, nil, 512)
	d.expect(statusIOErr, typeIn, diskSize/512-1, nil, 512)
	if err := <-logged; !strings.Contains(err.Error(), "read 512 bytes at 1048064: unexpected EOF") {
		t.Errorf("logged: %v", err)
	}
	if len(logged) != 0 {
		t.Errorf("logged too: %v", <-logged)
	}
}

func TestNewFileRefuses(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := NewFile(r); err == nil {
		t.Error("a pipe is no disk")
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := NewFile(null); err == nil {
		t.Error("/dev/null is no disk")
	}
}

// A gate is a Store whose reads wait.
type gate struct {
	Store
	mu     sync.Mutex
	inside int
	most   int
	open   chan struct{}
}

func (g *gate) ReadVec(bufs [][]byte, off int64) error {
	g.mu.Lock()
	g.inside++
	g.most = max(g.most, g.inside)
	g.mu.Unlock()
	<-g.open
	g.mu.Lock()
	g.inside--
	g.mu.Unlock()
	return g.Store.ReadVec(bufs, off)
}

func (g *gate) ReadNow([][]byte, int64) bool { return false }

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("never: %s", what)
		}
	}
}

// newGate is a driver of a disk whose reads wait at a gate, and reads sectors.
func newGate(t *testing.T) (d driver, g *gate, read func()) {
	t.Helper()
	dev := newDisk(t, diskSize, Options{ID: "serial"})
	g = &gate{Store: dev.store, open: make(chan struct{})}
	dev.store = g
	d = start(t, dev, ^uint64(0))
	return d, g, func() {
		in, _ := d.In(512)
		status, _ := d.In(1)
		d.Rings[0].Add(d.Out(head(typeIn, 0)), in, status)
		d.Rings[0].Kick()
	}
}

// notYet fails if done is closed already.
func notYet(t *testing.T, what string, done chan struct{}) {
	t.Helper()
	select {
	case <-done:
		t.Fatal(what)
	case <-time.After(20 * time.Millisecond):
	}
}

// Several requests are in flight at once, and others go past those that wait;
// Sleep waits until all that were taken off the ring are answered.
func TestInFlight(t *testing.T) {
	d, g, read := newGate(t)
	for range workers - 1 {
		read()
	}
	eventually(t, "all but one wait in the store", func() bool { return g.count() == workers-1 })
	// One is free: a flush goes past all that wait.
	status, b := d.In(1)
	b[0] = 0xee
	flush := d.Rings[0].Add(d.Out(head(typeFlush, 0)), status)
	d.Rings[0].Kick()
	if head, _, ok := d.Rings[0].WaitUsed(10 * time.Second); !ok || head != flush || b[0] != statusOK {
		t.Fatalf("used chain %d, %v, with status %d", head, ok, b[0])
	}
	for range 5 {
		read()
	}
	eventually(t, "all wait in the store", func() bool { return g.count() == workers })

	slept := make(chan struct{})
	go func() {
		defer close(slept)
		d.Sleep()
	}()
	notYet(t, "Sleep does not wait for requests in flight", slept)
	close(g.open)
	<-slept
	taken := d.Rings[0].UsedIdx()
	if taken < workers+1 || taken > workers+5 {
		t.Errorf("%d requests were answered", taken)
	}
	d.Wake()
	eventually(t, "the rest is answered", func() bool { return d.Rings[0].UsedIdx() == workers+5 })
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.most != workers {
		t.Errorf("%d requests at once, not %d", g.most, workers)
	}
	if err := d.Failure(); err != nil {
		t.Error(err)
	}
}

// Reset waits for the I/O that is under way, and begins no more.
func TestResetBeginsNothing(t *testing.T) {
	d, g, read := newGate(t)
	for range workers + 20 {
		read()
	}
	eventually(t, "all wait in the store", func() bool { return g.count() == workers })
	reset := make(chan struct{})
	go func() {
		defer close(reset)
		d.Reset()
	}()
	notYet(t, "Reset does not wait for the I/O under way", reset)
	close(g.open)
	<-reset
	if n := d.Rings[0].UsedIdx(); n != workers {
		t.Errorf("%d requests were answered, not the %d that were under way", n, workers)
	}
	d.Start(^uint64(0), 0)
	work(d.Driver)
	if err := d.Failure(); err != nil {
		t.Error(err)
	}
}

// What is in the page cache is read at once, in any buffers; what is not there
// at all, is not.
func TestReadNow(t *testing.T) {
	s, err := NewFile(image(t, diskSize))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4096)
	if s.ReadNow([][]byte{got}, diskSize-512) {
		t.Error("read behind the end")
	}
	if s.ReadNow(nil, 0) {
		t.Error("read nothing at once")
	}
	if s.ReadNow(make([][]byte, maxVec+1), 0) {
		t.Error("read more buffers than a call takes")
	}
	if !s.ReadNow([][]byte{got[:100], nil, got[100:]}, 512) {
		t.Skip("the file system can't tell what is in the page cache")
	}
	if !bytes.Equal(got, pattern(diskSize)[512:][:4096]) {
		t.Error("read something else")
	}
}

func TestClosedFile(t *testing.T) {
	s, err := NewFile(image(t, 4096))
	if err != nil {
		t.Fatal(err)
	}
	s.f.Close()
	for what, err := range map[string]error{
		"read": s.ReadVec([][]byte{make([]byte, 512)}, 0), "write": s.WriteVec([][]byte{make([]byte, 512)}, 0),
		"sync": s.Sync(), "discard": s.Discard(0, 512), "zero": s.Zero(0, 512, true),
	} {
		if err == nil {
			t.Errorf("%s of a closed file works", what)
		}
	}
}

// More buffers than one system call takes.
func TestManyBuffers(t *testing.T) {
	s, err := NewFile(image(t, diskSize))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3000*128)
	var bufs [][]byte
	for i := range 3000 {
		bufs = append(bufs, nil, got[i*128:][:128])
	}
	if err := s.ReadVec(bufs, 512); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, pattern(diskSize)[512:][:len(got)]) {
		t.Error("read something else")
	}
}
