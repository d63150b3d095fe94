package distro

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// compressions are the forms that an archive may have.
var compressions = []string{"none", "gzip", "xz", "zstd"}

func compress(t testing.TB, how string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch how {
	case "none":
		return data
	case "gzip":
		w = gzip.NewWriter(&b)
	case "xz":
		w, err = xz.NewWriter(&b)
	case "zstd":
		w, err = zstd.NewWriter(&b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decompress(r io.Reader) ([]byte, error) {
	z, err := Decompress(r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(z)
}

// noise does not compress, so that a cut or a changed byte falls into data.
func noise(n int) string {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}

func TestDecompress(t *testing.T) {
	want := tarball(t, noise(300<<10))
	for _, how := range compressions {
		packed := compress(t, how, want)
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(packed), "byte by byte": iotest.OneByteReader(bytes.NewReader(packed)),
		} {
			if got, err := decompress(r); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %s: %d bytes, %v; want %d", how, name, len(got), err, len(want))
			}
		}
		// Parallel compressors write several streams one after the other.
		if how != "none" {
			half := append(compress(t, how, want[:len(want)/2]), compress(t, how, want[len(want)/2:])...)
			if got, err := decompress(bytes.NewReader(half)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, two streams: %d bytes, %v; want %d", how, len(got), err, len(want))
			}
		}
	}
}

func TestDecompressDamaged(t *testing.T) {
	for _, how := range compressions[1:] {
		whole := compress(t, how, tarball(t, noise(100<<10)))
		for _, tc := range []struct {
			name string
			data []byte
			want string
		}{
			{"cut to the magic", whole[:6], how + " compression"},
			{"cut within", whole[:len(whole)/2], "it ends in the middle of its " + how + " compression"},
			{"last byte lacks", whole[:len(whole)-1], how + " compression"},
			{"changed", changed(whole, len(whole)/2), "its " + how + " compression is damaged"},
			{"garbage behind", append(bytes.Clone(whole), strings.Repeat("garbage!", 20)...), "its " + how + " compression is damaged"},
		} {
			_, err := decompress(bytes.NewReader(tc.data))
			var bad *ArchiveError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s, %s: %v; want an ArchiveError with %q", how, tc.name, err, tc.want)
				continue
			}
			wantHint(t, err)
		}
	}
	_, err := decompress(strings.NewReader(""))
	wantError(t, err, "read archive: it is empty")
}

func changed(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0x55
	return b
}

// A disk or pipe that can't be read is not a damaged archive.
func TestDecompressReadError(t *testing.T) {
	broken := errors.New("input/output error")
	for _, how := range compressions {
		whole := compress(t, how, tarball(t, noise(200<<10)))
		for _, n := range []int{0, 100, 70 << 10, len(whole)} {
			_, err := decompress(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken)))
			var bad *ArchiveError
			if !errors.Is(err, broken) || errors.As(err, &bad) {
				t.Errorf("%s, broken after %d bytes: %v", how, n, err)
			}
		}
	}
}

func check(archive []byte) error {
	c := newTarCheck(bytes.NewReader(archive))
	if _, err := io.CopyN(io.Discard, c, 100); err != nil && err != io.EOF {
		return err
	}
	return c.finish()
}

func TestTarCheck(t *testing.T) {
	whole := tarball(t, strings.Repeat("body", 500))
	for name, archive := range map[string][]byte{
		"whole": whole, "padded": append(bytes.Clone(whole), make([]byte, 20<<10)...), "one block of zeroes": whole[:len(whole)-tarBlock],
	} {
		if err := check(archive); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Up to the zeroes that end it, any cut is found.
	for n := 1; n < len(whole)-2*tarBlock; n += 7 {
		var bad *ArchiveError
		if err := check(whole[:n]); !errors.As(err, &bad) {
			t.Errorf("cut to %d of %d bytes: %v", n, len(whole), err)
		}
	}
	wantError(t, check(whole[:1500]), "it is cut off after 1500 bytes")
	for name, data := range map[string]string{
		"text": strings.Repeat("text ", 300), "short": "x", "zeroes": string(make([]byte, 10<<10)), "checksum": string(changed(whole, 3)),
		"zip": "PK\x03\x04" + noise(1000), "ELF": "\x7fELF" + noise(1000), "bzip2": "BZh9" + noise(1000),
	} {
		wantError(t, check([]byte(data)), "it is not a tar archive")
		_ = name
	}
}

// Old tars sum their bytes as signed.
func TestSignedChecksum(t *testing.T) {
	h := make([]byte, tarBlock)
	copy(h, "\xffname")
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(int8(b))
	}
	for i := 153; i >= 148; i-- {
		h[i], sum = byte('0'+sum&7), sum>>3
	}
	h[154] = 0
	if !isTarHeader(h) {
		t.Error("a header with a signed checksum is refused")
	}
	for _, field := range []string{"        ", "\x00\x00\x00\x00\x00\x00\x00\x00", "+0000000", "99999999", "abcdefgh"} {
		copy(h[148:], field)
		if isTarHeader(h) {
			t.Errorf("checksum %q is accepted", field)
		}
	}
}

// Whatever an archive holds, reading it ends with bytes or an error that is
// meant for users.
func FuzzArchive(f *testing.F) {
	for _, how := range compressions {
		f.Add(compress(f, how, tarball(f, "body")))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decompress(bytes.NewReader(data))
		if err == nil {
			defer r.Close()
			c := newTarCheck(io.LimitReader(r, 64<<20)) // a bomb is not what is looked for
			if _, err = io.CopyN(io.Discard, c, 600); err == nil || err == io.EOF {
				err = c.finish()
			}
		}
		var bad *ArchiveError
		if err != nil && !errors.As(err, &bad) {
			t.Errorf("%T: %v", err, err)
		}
	})
}
