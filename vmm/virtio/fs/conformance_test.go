package fs

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stilehq/stile/vmm/fileserver"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/virtiotest"
)

// newShare is a device with one share, "s", of a folder that holds a file.
func newShare(tb testing.TB, dir string) virtio.Device {
	server, err := fileserver.New(fileserver.Options{})
	if err == nil {
		err = server.AddShare(fileserver.Share{Dir: "s", Path: dir})
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Close(); err != nil {
			tb.Error(err)
		}
	})
	return New("stile", server, 1)
}

func shareDir(tb testing.TB) string {
	dir := tb.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("hello"), 0o644); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// message is a FUSE request as bytes.
func message(opcode uint32, node uint64, body ...[]byte) []byte {
	h := fuse.InHeader{Opcode: opcode, Unique: 2, NodeId: node}
	msg := append([]byte(nil), bytesOf(&h)...)
	for _, b := range body {
		msg = append(msg, b...)
	}
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
	return msg
}

// body is what follows the header in one of go-fuse's request structures.
func body[T any](v *T) []byte { return bytesOf(v)[headerSize:] }

var initRequest = message(opInit, 0, body(&fuse.InitIn{Major: 7, Minor: 45, MaxReadAhead: 1 << 20, Flags: ^uint32(0), Flags2: 1<<31 - 1}))

var spec = virtiotest.Spec{
	New:     func(tb testing.TB) virtio.Device { return newShare(tb, shareDir(tb)) },
	Watched: []int{0, 1},
	Memory:  16 << 20,
	// A whole mount: a session that was there before is over.
	Work: func(d *virtiotest.Driver) {
		ask := func(room int, msg []byte) []byte {
			d.Helper()
			in, b := d.In(replyHeader + room)
			n := d.Do(1, d.Out(msg[:headerSize]), d.Out(append(msg[headerSize:], 0)[:len(msg)-headerSize]), in)
			if n < replyHeader || binary.NativeEndian.Uint32(b) != n {
				d.Fatalf("reply of %d bytes says %d", n, binary.NativeEndian.Uint32(b))
			}
			if errno := -int32(binary.NativeEndian.Uint32(b[4:])); errno != 0 {
				d.Fatalf("opcode %d: %v", binary.NativeEndian.Uint32(msg[4:]), syscall.Errno(errno))
			}
			return b[replyHeader:n]
		}
		ask(256, initRequest)
		entry := func(node uint64, name string) uint64 {
			b := ask(int(unsafe.Sizeof(fuse.EntryOut{})), message(1, node, []byte(name+"\x00")))
			return (*fuse.EntryOut)(unsafe.Pointer(&b[0])).NodeId
		}
		file := entry(entry(fuse.FUSE_ROOT_ID, "s"), "file")
		b := ask(16, message(14, file, body(&fuse.OpenIn{})))
		fh := (*fuse.OpenOut)(unsafe.Pointer(&b[0])).Fh
		if got := ask(100, message(15, file, body(&fuse.ReadIn{Fh: fh, Size: 100}))); string(got) != "hello" {
			d.Errorf("read %q", got)
		}
		ask(0, message(18, file, body(&fuse.ReleaseIn{Fh: fh})))
		d.Do(0, d.Out(message(opForget, file, body(&fuse.ForgetIn{Nlookup: 1}))))
		ask(0, message(opDestroy, 0))
	},
}

func TestDevice(t *testing.T) { virtiotest.TestDevice(t, spec) }

// FuzzChains mounts and then does as it likes, in a folder that is the fuzzer's.
func FuzzChains(f *testing.F) {
	dir := shareDir(f)
	write := func(at int, b []byte) []byte {
		return append([]byte{0, byte(at / 4), byte(at / 4 >> 8), byte(len(b))}, b...)
	}
	chain := func(at, n, room int) []byte {
		return []byte{1, 1, 3, 0, byte((at - 0x8000) / 2), byte((at - 0x8000) / 2 >> 8), byte(headerSize), 0,
			0, byte((at + headerSize - 0x8000) / 2), byte((at + headerSize - 0x8000) / 2 >> 8), byte(n - headerSize), 0,
			virtiotest.DescWrite, 0, 0x20, byte(room), byte(room >> 8), 2, 1}
	}
	for opcode := range uint32(54) {
		name := []byte("file\x00other\x00")
		fixed := max(0, minSizes[opcode]-headerSize)
		if opcode == 1 { // LOOKUP has a name alone
			fixed = 0
		}
		msg := message(opcode, fuse.FUSE_ROOT_ID, make([]byte, fixed), name)
		seed := append([]byte{255, 255, 6}, write(0x8000, initRequest)...)
		seed = append(seed, chain(0x8000, len(initRequest), 256)...)
		look := message(1, fuse.FUSE_ROOT_ID, []byte("s\x00"))
		seed = append(seed, write(0x8200, look)...)
		seed = append(seed, chain(0x8200, len(look), 256)...)
		seed = append(seed, write(0x8400, msg)...)
		seed = append(seed, chain(0x8400, len(msg), 4096)...)
		// The same on the share, whose node is 2 unless the server counts otherwise.
		binary.NativeEndian.PutUint64(msg[16:], 2)
		seed = append(seed, write(0x8600, msg)...)
		f.Add(append(seed, chain(0x8600, len(msg), 4096)...))
	}
	virtiotest.FuzzDevice(f, virtiotest.Spec{
		New:     func(tb testing.TB) virtio.Device { return newShare(tb, dir) },
		Watched: spec.Watched,
	})
}
