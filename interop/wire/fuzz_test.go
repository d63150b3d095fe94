package wire

import (
	"bytes"
	"io"
	"reflect"
	"testing"
)

// What can be parsed is what Append makes of it, but for fields that are not
// known and integers that are longer than they need be.
func FuzzMessage(f *testing.F) {
	kinds := map[reflect.Type]byte{}
	var list []message
	for _, m := range messages {
		typ := reflect.TypeOf(m)
		if _, ok := kinds[typ]; !ok {
			kinds[typ] = byte(len(list))
			list = append(list, m)
		}
		f.Add(kinds[typ], m.Append(nil))
	}
	f.Add(byte(0), []byte{12, 0, 6, 0, 0, 0, 2, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		m := fresh(list[int(kind)%len(list)])
		before := bytes.Clone(payload)
		err := m.Parse(payload)
		if !bytes.Equal(before, payload) {
			t.Fatalf("%T: Parse changed the payload", m)
		}
		if err != nil {
			if err != ErrField {
				t.Fatalf("%T: %v", m, err)
			}
			return
		}
		again := fresh(m)
		b := m.Append(nil)
		if err := again.Parse(b); err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%T: %+v became %+v, %v", m, m, again, err)
		}
		if !bytes.Equal(again.Append(nil), b) {
			t.Fatalf("%T: two forms of one message", m)
		}
	})
}

// A Reader gives back the messages of a stream, and never more than the stream
// held.
func FuzzReader(f *testing.F) {
	f.Add(AppendMessage(AppendMessage(nil, TypeInput, []byte("abc")), TypeExit, nil), uint8(3))
	f.Add([]byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, uint8(1))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		src := bytes.NewReader(stream)
		r := NewReader(func(b []byte) (int, error) {
			return src.Read(b[:min(len(b), int(piece)+1)])
		})
		var back []byte
		for {
			typ, payload, err := r.Next()
			if err == nil {
				back = AppendMessage(back, typ, payload)
				continue
			}
			if err != io.EOF && err != ErrTruncated && err != ErrTooLong {
				t.Fatal(err)
			}
			if err == io.EOF && len(back) != len(stream) {
				t.Fatalf("end after %d of %d bytes", len(back), len(stream))
			}
			break
		}
		// The two bytes that are zero in a header are not looked at.
		for i := 0; i < len(back); {
			h, err := ParseHeader(back[i:])
			if err != nil {
				t.Fatal(err)
			}
			end := i + HeaderSize + int(h.Length)
			if !bytes.Equal(back[i:i+2], stream[i:i+2]) || !bytes.Equal(back[i+4:end], stream[i+4:end]) {
				t.Fatalf("message at %d is not that of the stream", i)
			}
			i = end
		}
	})
}

func FuzzRecord(f *testing.F) {
	for _, r := range records {
		b, _ := r.Append(nil)
		f.Add(b)
	}
	f.Add([]byte("distro=d\x00home=/h\x00stile=/s\x00login=0\x00x=\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again Record
		if err := r.Parse(b); err != nil {
			if err != ErrField {
				t.Fatal(err)
			}
			return
		}
		out, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Parse(out); err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}

func FuzzTerminalOutput(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 5, 0, 0, 0}, []byte("a\r\nb"))
	f.Fuzz(func(t *testing.T, termios, in []byte) {
		got := TerminalOutput(termios, bytes.Clone(in))
		// Either nothing was taken away, or just CRs before LFs.
		if !bytes.Equal(got, in) && !bytes.Equal(got, bytes.ReplaceAll(in, []byte("\r\n"), []byte("\n"))) {
			t.Fatalf("%q became %q", in, got)
		}
	})
}
