package fs

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stilehq/stile/vmm/virtio"
)

// Opcodes that are treated apart (include/uapi/linux/fuse.h).
const (
	opForget          = 2
	opRead            = 15
	opWrite           = 16
	opFsync           = 20
	opInit            = 26
	opFsyncdir        = 30
	opSetlkw          = 33
	opDestroy         = 38
	opNotifyReply     = 41
	opBatchForget     = 42
	opFallocate       = 43
	opCopyFileRange   = 47
	opSyncfs          = 50
	opCopyFileRange64 = 53
)

const (
	headerSize  = int(unsafe.Sizeof(fuse.InHeader{}))
	writeSize   = int(unsafe.Sizeof(fuse.WriteIn{}))
	replyHeader = 16 // struct fuse_out_header

	// maxRequest bounds a request without the data of WRITE. The largest is
	// SETXATTR, with 64 KiB of value and a name.
	maxRequest = 72 << 10
)

// minSizes are the fixed parts of requests. go-fuse checks them too, but tells
// the process's standard logger of what is too short, as often as it comes.
var minSizes = map[uint32]int{
	1: headerSize + 1, opForget: int(unsafe.Sizeof(fuse.ForgetIn{})),
	3: int(unsafe.Sizeof(fuse.GetAttrIn{})), 4: int(unsafe.Sizeof(fuse.SetAttrIn{})),
	8: int(unsafe.Sizeof(fuse.MknodIn{})), 9: int(unsafe.Sizeof(fuse.MkdirIn{})),
	12: headerSize + 8, 13: int(unsafe.Sizeof(fuse.LinkIn{})), 14: int(unsafe.Sizeof(fuse.OpenIn{})),
	15: int(unsafe.Sizeof(fuse.ReadIn{})), opWrite: writeSize, 18: int(unsafe.Sizeof(fuse.ReleaseIn{})),
	20: int(unsafe.Sizeof(fuse.FsyncIn{})), 21: headerSize + 8, 22: int(unsafe.Sizeof(fuse.GetXAttrIn{})),
	23: int(unsafe.Sizeof(fuse.GetXAttrIn{})), 25: int(unsafe.Sizeof(fuse.FlushIn{})), opInit: headerSize + 16,
	27: int(unsafe.Sizeof(fuse.OpenIn{})), 28: int(unsafe.Sizeof(fuse.ReadIn{})),
	29: int(unsafe.Sizeof(fuse.ReleaseIn{})), 30: int(unsafe.Sizeof(fuse.FsyncIn{})),
	31: int(unsafe.Sizeof(fuse.LkIn{})), 32: int(unsafe.Sizeof(fuse.LkIn{})), opSetlkw: int(unsafe.Sizeof(fuse.LkIn{})),
	34: int(unsafe.Sizeof(fuse.AccessIn{})), 35: int(unsafe.Sizeof(fuse.CreateIn{})),
	36: int(unsafe.Sizeof(fuse.InterruptIn{})), 37: headerSize + 16, 39: int(unsafe.Sizeof(fuse.IoctlIn{})),
	40: headerSize + 24, opNotifyReply: int(unsafe.Sizeof(fuse.NotifyRetrieveIn{})),
	opBatchForget: headerSize + 8, 43: int(unsafe.Sizeof(fuse.FallocateIn{})),
	44: int(unsafe.Sizeof(fuse.ReadIn{})), 45: int(unsafe.Sizeof(fuse.RenameIn{})),
	46: int(unsafe.Sizeof(fuse.LseekIn{})), 47: int(unsafe.Sizeof(fuse.CopyFileRangeIn{})),
	51: int(unsafe.Sizeof(fuse.CreateIn{})), 52: int(unsafe.Sizeof(fuse.StatxIn{})),
	53: int(unsafe.Sizeof(fuse.CopyFileRangeIn{})),
}

// A request is the driver's request in memory of our own, but for the data of
// WRITE.
type request struct {
	opcode uint32
	unique uint64
	bytes  []byte   // header and all that is copied
	data   [][]byte // of WRITE: guest memory
	size   int
	errno  syscall.Errno // why it is refused
}

// parse copies a request out of guest memory.
func parse(c *virtio.Chain) *request {
	r := &request{size: c.ReadableLen()}
	if r.size < headerSize {
		r.errno = syscall.EINVAL
		return r
	}
	var head [headerSize]byte
	copyOut(head[:], c.Readable)
	r.opcode = binary.NativeEndian.Uint32(head[4:])
	r.unique = binary.NativeEndian.Uint64(head[8:])
	want := r.size
	if r.opcode == opWrite {
		want = min(want, writeSize)
	}
	switch {
	case want > maxRequest:
		r.errno = syscall.E2BIG
		return r
	case want < minSizes[r.opcode]:
		r.errno = syscall.EINVAL
		return r
	}
	// The header a second time from the first copy: what it says must not
	// change between the two.
	r.bytes = make([]byte, want)
	r.data = copyOut(r.bytes, c.Readable)
	copy(r.bytes, head[:])
	if r.opcode != opWrite {
		r.data = nil
	}
	return r
}

// copyOut fills p from iov and returns what is left of iov.
func copyOut(p []byte, iov [][]byte) [][]byte {
	for len(iov) > 0 && len(p) > 0 {
		n := copy(p, iov[0])
		p = p[n:]
		if n < len(iov[0]) {
			rest := append([][]byte{iov[0][n:]}, iov[1:]...)
			return rest
		}
		iov = iov[1:]
	}
	return iov
}

// wantsReply reports whether the request has one at all.
func (r *request) wantsReply() bool {
	switch r.opcode {
	case opForget, opBatchForget, opNotifyReply:
		return false
	}
	return true
}

// waits reports whether the request may wait for what others do.
func (r *request) waits() bool { return r.opcode == opSetlkw }

// long reports whether the request takes long by its nature.
func (r *request) long() bool {
	switch r.opcode {
	case opFsync, opFsyncdir, opFallocate, opSyncfs, opCopyFileRange, opCopyFileRange64:
		return true
	case opWrite:
		return r.size >= longTransfer
	case opRead:
		const sizeAt = headerSize + 16 // in struct fuse_read_in
		return r.errno == 0 && binary.NativeEndian.Uint32(r.bytes[sizeAt:]) >= longTransfer
	}
	return false
}

// iov is the request as go-fuse takes it.
func (r *request) iov() [][]byte {
	if len(r.data) == 0 {
		return [][]byte{r.bytes}
	}
	return append([][]byte{r.bytes}, r.data...)
}

// answer handles a request and returns the bytes of its reply.
func (d *Device) answer(r *request, c *virtio.Chain) int {
	if r.errno != 0 {
		return r.refuse(c, r.errno)
	}
	switch r.opcode {
	case opInit:
		return d.init(r, c)
	case opDestroy:
		return d.destroy(r, c)
	}
	session := d.session.Load()
	if session == nil {
		return r.refuse(c, syscall.ENOTCONN)
	}
	return r.run(session, c)
}

func (r *request) run(session *fuse.ProtocolServer, c *virtio.Chain) int {
	n, code := session.HandleRequest(r.iov(), c.Writable)
	if n == 0 && code != fuse.OK && r.wantsReply() {
		return r.refuse(c, syscall.EIO)
	}
	return n
}

// refuse replies with an error, if there is room for it.
func (r *request) refuse(c *virtio.Chain, errno syscall.Errno) int {
	if r.size < headerSize || !r.wantsReply() || c.WritableLen() < replyHeader {
		return 0
	}
	var head [replyHeader]byte
	binary.NativeEndian.PutUint32(head[0:], replyHeader)
	binary.NativeEndian.PutUint32(head[4:], uint32(-int32(errno)))
	binary.NativeEndian.PutUint64(head[8:], r.unique)
	p := head[:]
	for _, b := range c.Writable {
		p = p[copy(b, p):]
	}
	return replyHeader
}

// hasFence is FUSE_HAS_FENCE, the bit of FUSE_INIT's flags by which a kernel
// with stile's patches tells of itself (kernel/patches/0003).
const hasFence = 1 << 63

// init begins a session. A mount sends FUSE_INIT first and once; the umount's
// FUSE_DESTROY, or a reset, comes before the next.
func (d *Device) init(r *request, c *virtio.Chain) int {
	d.initMu.Lock()
	defer d.initMu.Unlock()
	if d.session.Load() != nil {
		return r.refuse(c, syscall.EIO)
	}
	const major, minor = 7, 12 // what go-fuse talks
	if binary.NativeEndian.Uint32(r.bytes[headerSize:]) != major || binary.NativeEndian.Uint32(r.bytes[headerSize+4:]) < minor {
		return r.refuse(c, syscall.EPROTO)
	}
	var in fuse.InitIn
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)), r.bytes) // the wire's own layout
	d.server.Reset()
	d.server.SetCached(in.Flags64()&hasFence != 0)

	opts := *d.server.Protocol()
	opts.Logger = d.log
	session := fuse.NewProtocolServer(d.server, &opts)
	n := r.run(session, c)
	if n > replyHeader {
		d.session.Store(session)
	}
	return n
}

// destroy ends a session.
func (d *Device) destroy(r *request, c *virtio.Chain) int {
	d.initMu.Lock()
	defer d.initMu.Unlock()
	session := d.session.Swap(nil)
	if session == nil {
		return r.refuse(c, syscall.ENOTCONN)
	}
	d.server.Reset()
	return r.run(session, c)
}
