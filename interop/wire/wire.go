// Package wire is the protocol that the parts of stile speak: shim, machine
// (supervisor and vmm process) and guestinit. It imports nothing but errors, so
// that the shim stays small.
//
// # Framing
//
// A message is an 8-byte header, little-endian like everything here,
//
//	type   uint16
//	zero   uint16
//	length uint32 // of the payload, at most MaxPayload
//
// and a payload of fields, each
//
//	tag    uint16
//	length uint32
//	value  [length]byte
//
// A field whose tag the receiver does not know is skipped, and so is a message
// whose type it does not know: a new shim works with a running older machine.
// Repeated tags make a list. Integers are as short as they like, up to eight
// bytes.
//
// # Flow of a session
//
// The shim connects to the machine's unix socket and sends Run with the
// descriptors of its table attached (SCM_RIGHTS). The supervisor checks who it
// is and hands connection, message and descriptors to the vmm process, which
// from then on speaks to the shim alone.
//
//	shim → vmm          vmm → shim
//	Run                 Started           the request is taken
//	                    Error             it never started; the end
//	Signal, Resume      Output            bytes for the terminal
//	WinSize             Want, SetTermios  what the guest asks of the terminal
//	Input, InputEnd     Stopped           the command has stopped
//	Barrier             Barrier           its signals so far are on their way
//	                    Notice            a line for the user; it goes on
//	                    Exit              the command has ended; the end
//
// The vmm process connects to guestinit (vsock port AgentPort): one control
// stream a session and one data stream for each entry of the descriptor table
// that needs one. Each stream begins with Hello, which says what it is.
//
//	vmm → guestinit     guestinit → vmm
//	Hello, Run          Error
//	Signal, Resume      Started
//	WinSize             Want, SetTermios
//	Ask, End            Stopped, Exit
//	Unread              Wrote, Open
//
// A data stream carries bare bytes after its Hello; end of file is the stream's
// half-close. Exit carries the count of bytes that each output stream had been
// given when the command was waited for: when that many have been written the
// shim may leave; what a process that outlives the command writes goes on
// flowing on the same streams. The end of the control stream before Exit means
// that the shim is gone: guestinit then ends the command (SIGHUP, then
// SIGKILL), and says Exit all the same: the vmm process has shut down its half only.
//
// Most commands write little, and a stream costs more than that. So an entry that is
// Small has none at first: its output comes as Wrote on the control stream, up to
// SmallOutput bytes, and Unread tells that nobody on the host reads it. When there
// is more, or when a process that outlives the command can still write, guestinit
// says Open, after which the entry is as any other. All of this is before Exit.
//
// What the command does not read is the next reader's. So of an entry that is Exact
// the vmm process only looks at what the caller's pipe or file holds, sends that,
// and takes away what has been read in the guest: guestinit says how much that is,
// ever more in total, in 8 bytes little-endian on the data stream's own way back;
// of a pipe from time to time, and at once where an Ask wants to know; of both in
// Exit. The way back ends when no guest process can read any more.
//
// A file that the guest has too, through a share, it opens itself, at the same
// offset: so it is a file there, and can be sought in. Which files those are says
// Started, before which no data stream of a file is opened, and Exit where they were
// left.
//
// The end of a pipe that was an effect of a signal must not overtake that signal:
// the host's cat of "cat | guest-cat" dies of Ctrl-C, and guest-cat is to die of it
// too, not to find the end of its input. So the end of a data stream of a KindPipe
// counts only with End, which comes on the control stream, behind what the shim had
// to say at that moment (Barrier).
//
// The vmm process shuts down the reading half of a data stream when nobody reads
// what it wrote any more: guestinit closes its end of the pipe, so that the guest's
// writer gets SIGPIPE. guestinit shuts down the reading half when no guest
// process can read any more; of a KindSocket both halves at once when the guest's
// end was closed, and only the writing half when it was shut down.
package wire

import "errors"

// Version is the protocol's: it changes only when an older peer could not
// understand a newer one by skipping what it does not know.
const Version = 1

// AgentPort is the vsock port on which guestinit serves Hello; HostPort the one
// on which the vmm process (CID 2) hears guestinit's Ready.
const (
	AgentPort = 1024
	HostPort  = 1025
)

// MaxPayload bounds one message: an argv and an environment of the largest size
// that execve takes (a quarter of an 8 GiB stack is out of reach; Linux stops at
// 6 MiB) and room for the rest.
const MaxPayload = 8 << 20

// HeaderSize is the length of a message's header in bytes.
const HeaderSize = 8

const fieldHeader = 6

// A Type says what a message is.
type Type uint16

// The messages. Each constant names its payload; a type of the same name has
// its fields.
const (
	TypeHello      Type = 1  // Hello: first on every vsock stream
	TypeRun        Type = 2  // Run: start a command
	TypeStarted    Type = 3  // Started: the command runs; to the shim: the request is taken
	TypeError      Type = 4  // Error: the command, or the request, failed in stile
	TypeExit       Type = 5  // Exit
	TypeStopped    Type = 6  // Stopped
	TypeSignal     Type = 7  // Signal
	TypeResume     Type = 8  // Resume: the shim was continued
	TypeWinSize    Type = 9  // WinSize
	TypeWant       Type = 10 // Want
	TypeSetTermios Type = 11 // Termios
	TypeInput      Type = 12 // bare bytes typed at the terminal
	TypeInputEnd   Type = 13 // empty: the terminal hung up
	TypeOutput     Type = 14 // bare bytes for the terminal
	TypeNotice     Type = 15 // Error: to be printed by the shim, nothing more
	TypeAsk        Type = 16 // Count: say when more than that has been read of an Exact entry
	TypeEnd        Type = 17 // Count: the input of an entry has ended, after that many bytes
	TypeBarrier    Type = 18 // Count: answered with the same by a shim that has passed on its signals
	TypeWrote      Type = 19 // Wrote: output of a Small entry

	TypeReady  Type = 20 // Ready: guestinit is up
	TypeCall   Type = 21 // Call: a request of the command line to a machine, or of a machine to guestinit
	TypeAnswer Type = 22 // Answer
	TypeServe  Type = 23 // Run, from supervisor to vmm process, with connection and descriptors
	TypeEvent  Type = 24 // Call, one-way, between vmm process and supervisor
	TypeOpen   Type = 25 // Count: a Small entry needs a data stream, after that many bytes
	TypeUnread Type = 26 // Count: nobody reads the output of a Small entry that has no stream
)

// Errors of this package.
var (
	ErrTooLong   = errors.New("message too long")
	ErrTruncated = errors.New("message truncated")
	ErrField     = errors.New("malformed field")
)

// A Header starts each message.
type Header struct {
	Type   Type
	Length uint32 // of the payload, in bytes
}

// ParseHeader reads the header at the start of b, which holds HeaderSize bytes.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, ErrTruncated
	}
	h := Header{Type: Type(le16(b)), Length: le32(b[4:])}
	if h.Length > MaxPayload {
		return Header{}, ErrTooLong
	}
	return h, nil
}

// AppendMessage appends a whole message to dst. The payload is bare bytes for
// Input and Output, and what a message's Append returned otherwise.
func AppendMessage(dst []byte, t Type, payload []byte) []byte {
	dst = append(dst, byte(t), byte(t>>8), 0, 0)
	dst = append32(dst, uint32(len(payload)))
	return append(dst, payload...)
}

// A Reader reads whole messages, as io.ReadFull would on r, into a buffer that
// it keeps.
type Reader struct {
	read  func([]byte) (int, error)
	buf   []byte
	limit uint32
}

// Limit makes longer payloads than n bytes an ErrTooLong; MaxPayload is the limit
// until then.
func (r *Reader) Limit(n uint32) { r.limit = n }

// NewReader returns a Reader on a read function like that of io.Reader. It
// never reads beyond the message at hand.
func NewReader(read func([]byte) (int, error)) *Reader { return &Reader{read: read, limit: MaxPayload} }

// Next reads one message. The payload is valid until the next call. The error
// is that of the read function, untouched, when nothing of a message was read,
// and ErrTruncated when the stream ended within one.
func (r *Reader) Next() (Type, []byte, error) {
	if cap(r.buf) < 4096 {
		r.buf = make([]byte, 4096)
	}
	head := r.buf[:HeaderSize]
	if n, err := r.full(head); err != nil {
		if n > 0 {
			err = ErrTruncated
		}
		return 0, nil, err
	}
	h, err := ParseHeader(head)
	if err != nil {
		return 0, nil, err
	}
	if h.Length > r.limit {
		return 0, nil, ErrTooLong
	}
	// The buffer grows with what has arrived: a header alone, which costs its
	// sender nothing, must not cost megabytes.
	for n, length := 0, int(h.Length); n < length; {
		end := min(length, max(cap(r.buf), 2*n))
		if end > cap(r.buf) {
			grown := make([]byte, end)
			copy(grown, r.buf[:n])
			r.buf = grown
		}
		k, err := r.full(r.buf[n:end])
		if err != nil {
			return 0, nil, ErrTruncated
		}
		n += k
	}
	return h.Type, r.buf[:h.Length], nil
}

func (r *Reader) full(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		k, err := r.read(b[n:])
		n += k
		if err != nil && n < len(b) {
			return n, err
		}
	}
	return n, nil
}

// AppendField appends one field.
func AppendField(dst []byte, tag uint16, value []byte) []byte {
	dst = append(dst, byte(tag), byte(tag>>8))
	dst = append32(dst, uint32(len(value)))
	return append(dst, value...)
}

// AppendString appends a field that holds s.
func AppendString(dst []byte, tag uint16, s string) []byte {
	dst = append(dst, byte(tag), byte(tag>>8))
	dst = append32(dst, uint32(len(s)))
	return append(dst, s...)
}

// AppendUint appends a field that holds v, and nothing when v is zero.
func AppendUint(dst []byte, tag uint16, v uint64) []byte {
	if v == 0 {
		return dst
	}
	var b [8]byte
	n := 0
	for ; v != 0; v >>= 8 {
		b[n] = byte(v)
		n++
	}
	return AppendField(dst, tag, b[:n])
}

// AppendBool appends a field that stands for true, and nothing for false.
func AppendBool(dst []byte, tag uint16, v bool) []byte {
	if !v {
		return dst
	}
	return AppendUint(dst, tag, 1)
}

// Fields calls yield for each field of a payload, in order, and returns the
// first error: its own (ErrField) or that of yield.
func Fields(payload []byte, yield func(tag uint16, value []byte) error) error {
	for len(payload) > 0 {
		if len(payload) < fieldHeader {
			return ErrField
		}
		tag, n := le16(payload), le32(payload[2:])
		payload = payload[fieldHeader:]
		if uint64(n) > uint64(len(payload)) {
			return ErrField
		}
		if err := yield(tag, payload[:n:n]); err != nil {
			return err
		}
		payload = payload[n:]
	}
	return nil
}

// Uint is the integer of a field's value, ErrField if it has more than eight
// bytes.
func Uint(value []byte) (uint64, error) {
	if len(value) > 8 {
		return 0, ErrField
	}
	var v uint64
	for i, b := range value {
		v |= uint64(b) << (8 * i)
	}
	return v, nil
}

// set stores the integer of a field in *p and refuses one that does not fit.
func set[T ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~int | ~int32 | ~int64](p *T, value []byte) error {
	v, err := Uint(value)
	if err != nil {
		return err
	}
	if *p = T(v); uint64(*p) != v || *p < 0 {
		return ErrField
	}
	return nil
}

func le16(b []byte) uint16 { return uint16(b[0]) | uint16(b[1])<<8 }
func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}
func append32(dst []byte, v uint32) []byte {
	return append(dst, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
}
