package vsock

import "encoding/binary"

// HostCID is the context ID of the host: the peer of every connection that a
// Device carries (VMADDR_CID_HOST).
const HostCID = 2

// Packet types, operations and flags (section 5.10.6).
const (
	typeStream = 1

	opRequest       = 1
	opResponse      = 2
	opRST           = 3
	opShutdown      = 4
	opRW            = 5
	opCreditUpdate  = 6
	opCreditRequest = 7

	shutdownRecv = 1 // the sender of the packet will receive no more
	shutdownSend = 2 // the sender of the packet will send no more
	shutdownBoth = shutdownRecv | shutdownSend
)

const headerSize = 44

// A header is struct virtio_vsock_hdr.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	length           uint32 // of the payload, in bytes
	typ, op          uint16
	flags            uint32
	bufAlloc, fwdCnt uint32 // of the sender: receive buffer, bytes taken out of it
}

func (h *header) decode(b *[headerSize]byte) {
	le := binary.LittleEndian
	h.srcCID, h.dstCID = le.Uint64(b[0:]), le.Uint64(b[8:])
	h.srcPort, h.dstPort = le.Uint32(b[16:]), le.Uint32(b[20:])
	h.length = le.Uint32(b[24:])
	h.typ, h.op = le.Uint16(b[28:]), le.Uint16(b[30:])
	h.flags = le.Uint32(b[32:])
	h.bufAlloc, h.fwdCnt = le.Uint32(b[36:]), le.Uint32(b[40:])
}

func (h *header) encode(b *[headerSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.length)
	le.PutUint16(b[28:], h.typ)
	le.PutUint16(b[30:], h.op)
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.bufAlloc)
	le.PutUint32(b[40:], h.fwdCnt)
}

// gather copies the first bytes of iov to dst and returns how many there were.
func gather(dst []byte, iov [][]byte) int {
	n := 0
	for _, b := range iov {
		if n == len(dst) {
			break
		}
		n += copy(dst[n:], b)
	}
	return n
}

// scatter copies src to the first bytes of iov and returns how many fitted.
func scatter(iov [][]byte, src []byte) int {
	n := 0
	for _, b := range iov {
		if n == len(src) {
			break
		}
		n += copy(b, src[n:])
	}
	return n
}
