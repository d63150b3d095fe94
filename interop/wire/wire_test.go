package wire

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"
)

// A message is what each payload type is.
type message interface {
	Append(dst []byte) []byte
	Parse(payload []byte) error
}

var termios = bytes.Repeat([]byte{0, 1, 0x7f, 0xff}, 11)

// messages has each payload type, as empty as it can be and with each field set.
// A type that lacks here is found by TestEveryTypeIsTested.
var messages = []message{
	&Run{},
	&Run{
		Version: 1, Distro: "debian", Argv: []string{"git", "", "a b", "\xff\xfe", "new\nline", "*$\\'\""}, Path: "/usr/bin/git",
		Env: []string{"A=b", "odd", "=x", "A=", "\x80=\xff"}, Cwd: "/home/u/ä", CwdFallback: true, User: "root", Umask: 0o777,
		Limits: []Limit{{}, {7, 1024, 1 << 20}, {4, 0, ^uint64(0)}}, Ignored: 1 << 63, Blocked: ^uint64(0),
		Table: []Descriptor{{0, KindClosed, 0, 0, nil}, {1, KindPipe, AccessWrite, 0, nil}, {2, KindPipe, AccessWrite, 2, nil},
			{MaxNumber, KindTerminal, AccessRead | AccessWrite, 0, nil}, {7, KindOther, AccessRead, 0, nil},
			{8, KindFile, AccessRead, 0, &File{Path: "/a b", Inode: ^uint64(0), Size: 7, Mtime: -5, Offset: 1 << 40}}},
		Terminal: &Terminal{Termios: termios, Size: WinSize{24, 80, 65535, 1}, Foreground: true},
		Login:    true, Time: 1<<63 - 1, Session: ^uint64(0), Priority: 40, CwdGone: true, CwdNamed: true, Aside: true, Terminfo: []byte{0x1a, 1, 0},
	},
	&Run{Terminal: &Terminal{}},
	&Hello{},
	&Hello{Version: 1, Generation: ^uint64(0), Kind: StreamData, Session: 1 << 40, Number: TerminalStream},
	&Started{},
	&Started{PID: ^uint32(0), Opened: []uint32{0, ^uint32(0)}},
	&Error{},
	&Error{Code: 255, What: "git", Why: "no such command", Hint: "see: stile logs"},
	&Exit{},
	&Exit{Code: 255, Core: true, Signal: 11, Counts: []Count{{}, {1, 1 << 40}, {TerminalStream, ^uint64(0)}}, Unread: []uint32{0, 3, ^uint32(0)},
		Taken: []Count{{}, {7, 1 << 40}}, Offsets: []Count{{0, 0}, {3, 1 << 40}}, Usage: &Usage{}},
	&Exit{Usage: &Usage{AtMost: true}},
	&Usage{},
	&Usage{1, 2, 3, 4, 5, 6, 7, 8, ^uint64(0), true},
	&File{},
	&File{Path: "/", Inode: 1, Size: 2, Mtime: 3, Offset: 4},
	&Count{},
	&Count{Number: ^uint32(0), Bytes: 1 << 50},
	&Wrote{},
	&Wrote{Number: ^uint32(0), Bytes: []byte("\x00out")},
	&Stopped{},
	&Stopped{Signal: 20, After: 1 << 33},
	&Signal{},
	&Signal{Number: 64, Terminal: true, Foreground: true},
	&Resume{},
	&Resume{Terminal: &Terminal{Termios: termios, Size: WinSize{1, 2, 3, 4}}},
	&WinSize{},
	&WinSize{65535, 65535, 65535, 65535},
	&Want{},
	&Want{Bytes: ^uint32(0)},
	&Termios{},
	&Termios{Termios: termios, After: 1},
	&Ready{},
	&Ready{Version: 1, Generation: 2, Err: &Error{}, Kernel: "7.3.4"},
	&Call{},
	&Call{Name: "status", Body: []byte(`{"a":1}`), ID: 1 << 40},
	&Answer{},
	&Answer{Err: &Error{Code: 125, What: "x", Why: "y"}},
	&Answer{Body: []byte("null"), ID: 7},
}

func fresh(m message) message { return reflect.New(reflect.TypeOf(m).Elem()).Interface().(message) }

func TestRoundTrip(t *testing.T) {
	for _, m := range messages {
		b := m.Append(nil)
		got := fresh(m)
		if err := got.Parse(b); err != nil {
			t.Errorf("%T: %v", m, err)
		} else if !reflect.DeepEqual(got, m) {
			t.Errorf("%T: %+v became %+v", m, m, got)
		}
		if with := m.Append([]byte("before")); !bytes.Equal(with, append([]byte("before"), b...)) {
			t.Errorf("%T: Append to something gives %q", m, with)
		}
		// Parse begins anew, whatever was there, and keeps nothing of the payload.
		for _, other := range messages {
			if reflect.TypeOf(other) != reflect.TypeOf(m) {
				continue
			}
			ob := other.Append(nil)
			if err := got.Parse(ob); err != nil {
				t.Fatal(err)
			}
			clear(ob)
			if !reflect.DeepEqual(got, other) {
				t.Errorf("%T: parsed over another message it is %+v, want %+v", m, got, other)
			}
		}
	}
}

// Each field is in the table above: a field that Append or Parse forgets would
// come back empty.
func TestEveryFieldIsTested(t *testing.T) {
	set := map[string]bool{}
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				walk(v.Elem())
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				name := v.Type().Name() + "." + v.Type().Field(i).Name
				set[name] = set[name] || !v.Field(i).IsZero()
				walk(v.Field(i))
			}
		}
	}
	for _, m := range messages {
		walk(reflect.ValueOf(m))
	}
	if len(set) < 50 {
		t.Errorf("only %d fields were found", len(set))
	}
	for name, ok := range set {
		if !ok {
			t.Errorf("%s is never set", name)
		}
	}
}

// What a newer peer adds is skipped: unknown fields here, unknown messages by
// whoever reads, for Next returns them whole.
func TestUnknownFieldsAreSkipped(t *testing.T) {
	for _, m := range messages {
		b := AppendString(nil, 999, "new")
		b = m.Append(b)
		b = AppendField(b, 0xffff, bytes.Repeat([]byte{0xff}, 300))
		b = AppendField(b, 0, nil)
		got := fresh(m)
		if err := got.Parse(b); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%T: %+v, %v; want %+v", m, got, err, m)
		}
	}
	// Inside of fields too.
	d := AppendUint(AppendUint(AppendUint(nil, 99, 1), 1, 5), 2, uint64(KindPipe))
	var r Run
	if err := r.Parse(AppendField(nil, 12, d)); err != nil || !reflect.DeepEqual(r.Table, []Descriptor{{Number: 5, Kind: KindPipe}}) {
		t.Errorf("a descriptor with an unknown field: %+v, %v", r.Table, err)
	}
}

// A payload that was cut inside a field is an error; one that was cut between two
// is a message that lacks the rest.
func TestCutPayloads(t *testing.T) {
	for _, m := range messages {
		b := m.Append(nil)
		between := map[int]bool{0: true}
		end := 0
		Fields(b, func(_ uint16, v []byte) error {
			end += fieldHeader + len(v)
			between[end] = true
			return nil
		})
		for n := range b {
			err := fresh(m).Parse(b[:n:n])
			if !between[n] && err != ErrField {
				t.Errorf("%T: %d of %d bytes: %v, want ErrField", m, n, len(b), err)
			} else if err != nil && err != ErrField {
				t.Errorf("%T: %v", m, err)
			}
		}
	}
}

func TestBadFields(t *testing.T) {
	for _, tt := range []struct {
		name    string
		m       message
		payload []byte
	}{
		{"half a field's header", &Error{}, []byte{1, 0, 0}},
		{"value longer than the payload", &Error{}, []byte{2, 0, 5, 0, 0, 0, 'a'}},
		{"length of 4 GiB", &Error{}, []byte{2, 0, 255, 255, 255, 255, 'a'}},
		{"nine bytes of integer", &Want{}, AppendField(nil, 1, make([]byte, 9))},
		{"33 bits", &Want{}, AppendUint(nil, 1, 1<<32)},
		{"exit status 256", &Exit{}, AppendUint(nil, 1, 256)},
		{"signal 256", &Exit{}, AppendUint(nil, 2, 256)},
		{"negative time", &Run{}, AppendUint(nil, 15, 1<<63)},
		{"kind 0", &Run{}, AppendField(nil, 12, nil)},
		{"kind 8", &Run{}, AppendField(nil, 12, AppendUint(nil, 2, 8))},
		{"number out of range", &Run{}, (&Run{Table: []Descriptor{{Number: MaxNumber + 1, Kind: KindPipe}}}).Append(nil)},
		{"same as a later one", &Run{}, (&Run{Table: []Descriptor{{Kind: KindPipe, SameAs: 2}, {Kind: KindPipe}}}).Append(nil)},
		{"same as itself", &Run{}, (&Run{Table: []Descriptor{{Kind: KindPipe, SameAs: 1}}}).Append(nil)},
		{"same as one that is the same as another", &Run{}, (&Run{Table: []Descriptor{{Kind: KindPipe}, {Kind: KindPipe, SameAs: 1}, {Kind: KindPipe, SameAs: 2}}}).Append(nil)},
		{"terminal without its state", &Run{}, (&Run{Table: []Descriptor{{Kind: KindTerminal}}}).Append(nil)},
		{"251 descriptors", &Run{}, (&Run{Table: make251()}).Append(nil)},
		{"NUL in an argument", &Run{}, (&Run{Argv: []string{"a\x00b"}}).Append(nil)},
		{"NUL in a variable", &Run{}, (&Run{Env: []string{"A=\x00"}}).Append(nil)},
		{"NUL in the folder", &Run{}, (&Run{Cwd: "/\x00"}).Append(nil)},
		{"bad error inside", &Ready{}, AppendField(nil, 3, []byte{1})},
		{"bad terminal inside", &Resume{}, AppendField(nil, 1, []byte{1})},
		{"bad size inside", &Resume{}, AppendField(nil, 1, AppendField(nil, 2, AppendUint(nil, 1, 1<<16)))},
	} {
		if err := tt.m.Parse(tt.payload); err != ErrField {
			t.Errorf("%s: %v, want ErrField", tt.name, err)
		}
	}
}

func make251() []Descriptor {
	d := make([]Descriptor, MaxDescriptors+1)
	for i := range d {
		d[i] = Descriptor{Number: uint32(i), Kind: KindPipe}
	}
	return d
}

func TestReader(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), MaxPayload/16)
	var stream []byte
	stream = AppendMessage(stream, TypeInputEnd, nil)
	stream = AppendMessage(stream, 777, []byte("unknown"))
	stream = AppendMessage(stream, TypeOutput, big)
	stream = AppendMessage(stream, TypeInput, []byte("x"))
	for _, tt := range []struct {
		name string
		r    io.Reader
	}{
		{"whole", bytes.NewReader(stream)},
		{"data with the error", iotest.DataErrReader(bytes.NewReader(stream))},
		{"halves", iotest.HalfReader(bytes.NewReader(stream))},
	} {
		r := NewReader(tt.r.Read)
		for i, want := range []struct {
			t Type
			b []byte
		}{{TypeInputEnd, nil}, {777, []byte("unknown")}, {TypeOutput, big}, {TypeInput, []byte("x")}} {
			typ, b, err := r.Next()
			if err != nil || typ != want.t || !bytes.Equal(b, want.b) {
				t.Fatalf("%s: message %d: type %d, %d bytes, %v", tt.name, i, typ, len(b), err)
			}
		}
		if _, _, err := r.Next(); err != io.EOF {
			t.Errorf("%s: end: %v, want EOF", tt.name, err)
		}
	}
}

// It never reads beyond a message: what follows a Hello is not its.
func TestReaderTakesNoMore(t *testing.T) {
	src := bytes.NewReader(append(AppendMessage(nil, TypeHello, []byte("abc")), "bare bytes"...))
	if _, b, err := NewReader(src.Read).Next(); err != nil || string(b) != "abc" {
		t.Fatalf("%q, %v", b, err)
	}
	rest, _ := io.ReadAll(src)
	if string(rest) != "bare bytes" {
		t.Errorf("left: %q", rest)
	}
}

func TestReaderErrors(t *testing.T) {
	whole := AppendMessage(nil, TypeError, []byte("abc"))
	for n := 1; n < len(whole); n++ {
		if _, _, err := NewReader(bytes.NewReader(whole[:n]).Read).Next(); err != ErrTruncated {
			t.Errorf("%d bytes: %v, want ErrTruncated", n, err)
		}
	}
	long := append32([]byte{1, 0, 0, 0}, MaxPayload+1)
	if _, _, err := NewReader(bytes.NewReader(long).Read).Next(); err != ErrTooLong {
		t.Errorf("long: %v, want ErrTooLong", err)
	}
	broken := errors.New("broken")
	if _, _, err := NewReader(iotest.ErrReader(broken).Read).Next(); err != broken {
		t.Errorf("error of read: %v", err)
	}
	if _, err := ParseHeader(whole[:HeaderSize-1]); err != ErrTruncated {
		t.Errorf("short header: %v", err)
	}
}

// A header alone, which costs a guest nothing, takes no memory here.
func TestReaderMemory(t *testing.T) {
	head := append32([]byte{1, 0, 0, 0}, MaxPayload)
	r := NewReader(bytes.NewReader(append(head, make([]byte, 10000)...)).Read)
	if _, _, err := r.Next(); err != ErrTruncated {
		t.Errorf("%v, want ErrTruncated", err)
	}
	if n := cap(r.buf); n > 64<<10 {
		t.Errorf("10,000 bytes took a buffer of %d", n)
	}
}

func TestTerminalOutput(t *testing.T) {
	modes := func(flags byte) []byte { return append([]byte{0, 0, 0, 0, flags}, make([]byte, 39)...) }
	both := modes(flagOPOST | flagONLCR)
	for _, tt := range []struct {
		name     string
		termios  []byte
		in, want string
	}{
		{"CR LF", both, "a\r\nb\r\n", "a\nb\n"},
		{"bare ones stay", both, "a\rb\nc\r\r\n\n\r", "a\rb\nc\r\n\n\r"},
		{"empty", both, "", ""},
		{"raw terminal", modes(flagONLCR), "a\r\n", "a\r\n"},
		{"no ONLCR", modes(flagOPOST), "a\r\n", "a\r\n"},
		{"modes not known", nil, "a\r\n", "a\r\n"},
		{"modes cut", both[:7], "a\r\n", "a\r\n"},
	} {
		if got := TerminalOutput(tt.termios, []byte(tt.in)); string(got) != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestAttached(t *testing.T) {
	for _, tt := range []struct {
		d    Descriptor
		want bool
	}{
		{Descriptor{Kind: KindClosed}, false}, {Descriptor{Kind: KindPipe}, true}, {Descriptor{Kind: KindFile}, true},
		{Descriptor{Kind: KindSocket}, true}, {Descriptor{Kind: KindTerminal}, false}, {Descriptor{Kind: KindNull}, false},
		{Descriptor{Kind: KindOther}, true}, {Descriptor{Kind: KindPipe, SameAs: 1}, false},
	} {
		if got := tt.d.Attached(); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.d, got, tt.want)
		}
		for _, a := range []Access{AccessRead, AccessWrite, AccessRead | AccessWrite} {
			tt.d.Access = a
			want := tt.want && a == AccessRead && (tt.d.Kind == KindPipe || tt.d.Kind == KindFile)
			if got := tt.d.Exact(); got != want {
				t.Errorf("%+v: exact: %v, want %v", tt.d, got, want)
			}
		}
	}
}

// A Reader takes no message that is longer than its limit, nor waits for one.
func TestReaderLimit(t *testing.T) {
	b := AppendMessage(nil, TypeHello, make([]byte, 10))
	b = AppendMessage(b, TypeHello, make([]byte, 11))
	r := NewReader(bytes.NewReader(b).Read)
	r.Limit(10)
	if typ, payload, err := r.Next(); typ != TypeHello || len(payload) != 10 || err != nil {
		t.Errorf("within: %d, %d bytes, %v", typ, len(payload), err)
	}
	if _, _, err := r.Next(); err != ErrTooLong {
		t.Errorf("beyond: %v", err)
	}
}
