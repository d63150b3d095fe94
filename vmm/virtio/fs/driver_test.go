package fs

import (
	"encoding/binary"
	"log"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stilehq/stile/vmm/fileserver"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// A driver is the guest's half of a device: it sends FUSE requests.
type driver struct {
	testing.TB
	dev    *Device
	server *fileserver.Server
	host   string // the shared folder
	mem    *virtiotest.Memory
	rings  []*virtiotest.Ring
	in     uint64 // buffers of 2 MiB each
	out    uint64
	unique uint64
}

const bufSize = 2 << 20

func newDriver(t testing.TB, features uint64) *driver {
	t.Helper()
	return newDriverOf(t, features, func(s *fileserver.Server) Server { return s })
}

// newDriverOf is newDriver of a device whose server is made of the usual one.
func newDriverOf(t testing.TB, features uint64, wrap func(*fileserver.Server) Server) *driver {
	t.Helper()
	server, err := fileserver.New(fileserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := &driver{TB: t, server: server, host: t.TempDir()}
	if err := server.AddShare(fileserver.Share{Dir: "s", Path: d.host}); err != nil {
		t.Fatal(err)
	}
	d.dev = New("stile", wrap(server), 1)
	d.dev.SetLogger(log.New(tlog{t}, "", 0))
	d.mem = virtiotest.NewMemory(t, 16<<20)
	d.in, d.out = d.mem.Alloc(bufSize, 4096), d.mem.Alloc(bufSize, 4096)
	d.activate(features)
	t.Cleanup(func() {
		d.dev.Reset()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *driver) activate(features uint64) {
	d.rings = nil
	a := virtio.Activation{Memory: d.mem.Memory, Features: features, Fail: func(err error) { d.Errorf("Fail: %v", err) }}
	for range d.dev.QueueSizes() {
		r := virtiotest.NewRing(d, d.mem, 64, features)
		r.Indirect = features&virtio.FeatureIndirectDesc != 0
		d.rings = append(d.rings, r)
		a.Queues = append(a.Queues, r.Queue(0))
	}
	if err := d.dev.Activate(a); err != nil {
		d.Fatal(err)
	}
}

type tlog struct{ testing.TB }

func (t tlog) Write(p []byte) (int, error) {
	t.Logf("%s", p)
	return len(p), nil
}

func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) // the wire's layout is the struct's
}

// send sends one request, in the fixed part with header and what follows it, and
// returns the reply's status and payload.
func (d *driver) send(opcode uint32, node uint64, fixed []byte, rest []byte, room int) (int32, []byte) {
	d.Helper()
	d.submit(1, opcode, node, fixed, rest, room)
	return d.reply(1)
}

func (d *driver) submit(ring int, opcode uint32, node uint64, fixed []byte, rest []byte, room int) {
	d.Helper()
	d.unique += 2
	head := fuse.InHeader{Length: uint32(max(len(fixed), headerSize) + len(rest)), Opcode: opcode, Unique: d.unique, NodeId: node}
	msg := append([]byte(nil), bytesOf(&head)...)
	if len(fixed) > headerSize {
		msg = append(msg, fixed[headerSize:]...)
	}
	msg = append(msg, rest...)
	copy(d.mem.Bytes(d.in, bufSize), msg)
	bufs := []virtiotest.Buf{{GPA: d.in, Len: uint32(min(len(msg), headerSize))}}
	for off := headerSize; off < len(msg); off += 100_000 {
		bufs = append(bufs, virtiotest.Buf{GPA: d.in + uint64(off), Len: uint32(min(100_000, len(msg)-off))})
	}
	if room >= 0 {
		bufs = append(bufs, virtiotest.Buf{GPA: d.out, Len: replyHeader, Writable: true})
		for off := 0; off < room; off += 65536 {
			bufs = append(bufs, virtiotest.Buf{GPA: d.out + replyHeader + uint64(off), Len: uint32(min(65536, room-off)), Writable: true})
		}
	}
	d.rings[ring].Add(bufs...)
	d.rings[ring].Kick()
}

func (d *driver) reply(ring int) (int32, []byte) {
	d.Helper()
	_, n, ok := d.rings[ring].WaitUsed(5 * time.Second)
	if !ok {
		d.Fatal("no reply")
	}
	if n == 0 {
		return 0, nil
	}
	b := d.mem.Bytes(d.out, int(n))
	if got := binary.NativeEndian.Uint32(b); got != n {
		d.Errorf("reply of %d bytes says %d", n, got)
	}
	return int32(binary.NativeEndian.Uint32(b[4:])), b[replyHeader:]
}

func (d *driver) ok(opcode uint32, node uint64, fixed []byte, rest []byte, room int) []byte {
	d.Helper()
	code, b := d.send(opcode, node, fixed, rest, room)
	if code != 0 {
		d.Fatalf("opcode %d on node %d: %v", opcode, node, syscall.Errno(-code))
	}
	return b
}

func (d *driver) init() {
	d.Helper()
	in := fuse.InitIn{Major: 7, Minor: 45, MaxReadAhead: 1 << 20, Flags: ^uint32(0), Flags2: 1<<31 - 1}
	b := d.ok(opInit, 0, bytesOf(&in), nil, int(unsafe.Sizeof(fuse.InitOut{})))
	out := (*fuse.InitOut)(unsafe.Pointer(&b[0]))
	if out.Major != 7 || out.MaxWrite != 1<<20 || out.Flags&fuse.CAP_READDIRPLUS_AUTO == 0 || out.Flags&fuse.CAP_WRITEBACK_CACHE != 0 {
		d.Errorf("INIT replied %+v", out)
	}
}

func (d *driver) lookup(node uint64, name string) *fuse.EntryOut {
	d.Helper()
	b := d.ok(1, node, nil, append([]byte(name), 0), int(unsafe.Sizeof(fuse.EntryOut{})))
	out := *(*fuse.EntryOut)(unsafe.Pointer(&b[0]))
	return &out
}

func TestFilesOverRings(t *testing.T) {
	for _, features := range []uint64{virtio.RingFeatures, virtio.FeatureVersion1} {
		d := newDriver(t, features)
		d.init()
		share := d.lookup(fuse.FUSE_ROOT_ID, "s").NodeId

		create := fuse.CreateIn{Flags: syscall.O_RDWR | syscall.O_CREAT, Mode: syscall.S_IFREG | 0o644}
		b := d.ok(35, share, bytesOf(&create), []byte("file\x00"), int(unsafe.Sizeof(fuse.CreateOut{})))
		made := *(*fuse.CreateOut)(unsafe.Pointer(&b[0]))

		data := make([]byte, 1<<20)
		for i := range data {
			data[i] = byte(i * 7 >> 3)
		}
		write := fuse.WriteIn{Fh: made.Fh, Size: uint32(len(data))}
		b = d.ok(opWrite, made.NodeId, bytesOf(&write), data, int(unsafe.Sizeof(fuse.WriteOut{})))
		if n := (*fuse.WriteOut)(unsafe.Pointer(&b[0])).Size; n != 1<<20 {
			t.Errorf("wrote %d bytes", n)
		}
		if got, err := os.ReadFile(filepath.Join(d.host, "file")); err != nil || string(got) != string(data) {
			t.Errorf("the host reads something else (%v)", err)
		}
		read := fuse.ReadIn{Fh: made.Fh, Offset: 1000, Size: 1 << 20}
		b = d.ok(15, made.NodeId, bytesOf(&read), nil, 1<<20)
		if string(b) != string(data[1000:]) {
			t.Errorf("read %d bytes of something else", len(b))
		}
		if code, _ := d.send(opInit, 0, make([]byte, 104), nil, 64); code != -int32(syscall.EIO) {
			t.Errorf("a second INIT: %d", code)
		}
		d.ok(opDestroy, 0, nil, nil, 0)
		if code, _ := d.send(1, share, nil, []byte("file\x00"), 128); code != -int32(syscall.ENOTCONN) {
			t.Errorf("a request behind DESTROY: %d", code)
		}
		d.init()
		if code, _ := d.send(1, share, nil, []byte("file\x00"), 128); code != 0 {
			t.Errorf("the share's root after a new mount: %d", code)
		}
	}
}

func TestSleepAndResetWithALockWaiting(t *testing.T) {
	d := newDriver(t, virtio.RingFeatures)
	d.init()
	share := d.lookup(fuse.FUSE_ROOT_ID, "s").NodeId
	create := fuse.CreateIn{Flags: syscall.O_RDWR | syscall.O_CREAT, Mode: syscall.S_IFREG | 0o644}
	b := d.ok(35, share, bytesOf(&create), []byte("file\x00"), int(unsafe.Sizeof(fuse.CreateOut{})))
	made := *(*fuse.CreateOut)(unsafe.Pointer(&b[0]))

	f, err := os.Open(filepath.Join(d.host, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	lock := fuse.LkIn{Fh: made.Fh, Owner: 7, LkFlags: fuse.LK_FLOCK, Lk: fuse.FileLock{Typ: syscall.F_WRLCK, End: 1<<63 - 1}}
	d.submit(1, opSetlkw, made.NodeId, bytesOf(&lock), nil, 0)
	time.Sleep(50 * time.Millisecond) // the request is in the buffer that the next ones use
	// The wait holds up nothing else.
	for range 200 {
		d.submit(0, opForget, made.NodeId, append(make([]byte, headerSize), make([]byte, 8)...), nil, -1)
		d.reply(0)
	}
	if d.rings[1].InFlight() != 1 {
		t.Errorf("%d requests in flight, not the lock alone", d.rings[1].InFlight())
	}
	if err := d.dev.Sleep(); err != nil {
		t.Fatal(err)
	}
	if code, _ := d.reply(1); code != -int32(syscall.ENOLCK) {
		t.Errorf("the lock's wait ended with %d", code)
	}
	d.activate(virtio.RingFeatures)
	d.lookup(share, "file") // the session goes on
	d.submit(1, opSetlkw, made.NodeId, bytesOf(&lock), nil, 0)
	time.Sleep(50 * time.Millisecond)
	done := make(chan struct{})
	go func() { d.dev.Reset(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Reset waits for the lock")
	}
}
