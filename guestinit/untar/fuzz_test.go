package untar

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// seeds are archives with what has its own code.
func seeds(t testing.TB) [][]byte {
	fifo := item{tar.Header{Typeflag: tar.TypeFifo, Name: "fifo"}, ""}
	long := string(bytes.Repeat([]byte("long/"), 50))
	return [][]byte{
		pack(t, dir("d"), file("d/f", "body"), symlink("l", "../outside"), file("l/x", ""), hardlink("h", "d/f"), fifo),
		pack(t, hardlink("a", "b"), hardlink("b", "c"), file("c", ""), symlink("c", "/etc"), file("c/passwd", "")),
		pack(t, file("../outside/canary", "evil"), file(long+"f", "x"), dir("..")),
		pack(t, file("f", "").pax("SCHILY.acl.access", "user::rwx,user:ann:r--,group::r--,mask::r,other::-"), file("etc/passwd", "ann:x:1:2:\n")),
		pack(t, file("f", "").pax("LIBARCHIVE.xattr.user.x", "eA"), symlink("up", ".."), hardlink("c", "up/canary"), dir("up")),
		bytes.Join([][]byte{oldSparse("s", 1<<40, 5, 3, 1<<40-2, 2), []byte("abcde"), make([]byte, block-5), make([]byte, 2*block)}, nil),
		pack(t, item{tar.Header{Name: "f"}, "1\n5\n3\n" + string(make([]byte, block-6)) + "abc"}),
	}
}

// oldSparse is a header of GNU's old sparse format, with up to four pairs of
// offset and length, for as many bytes as they say.
func oldSparse(name string, size int64, pairs ...int64) []byte {
	h := make([]byte, block)
	number := func(at, width int, n int64) {
		for i := at + width - 2; i >= at; i-- {
			h[i] = byte('0' + n&7)
			n >>= 3
		}
	}
	copy(h, name)
	number(100, 8, 0o644)
	number(108, 8, int64(os.Getuid()))
	number(116, 8, int64(os.Getgid()))
	number(136, 12, 1)
	h[156] = tar.TypeGNUSparse
	copy(h[257:], "ustar  \x00")
	stored := int64(0)
	for i, n := range pairs {
		number(386+12*i, 12, n)
		if i%2 == 1 {
			stored += n
		}
	}
	number(124, 12, stored)
	// 12 octal digits end at 64 GiB: base 256 for the rest.
	b := h[483:495]
	b[0] = 0x80
	for i := 11; i > 3; i-- {
		b[i] = byte(size)
		size >>= 8
	}
	return checksum(h)
}

// No bytes make Unpack panic, write outside the root, or leave a descriptor
// open. Headers get a right checksum, or few inputs would come further.
func FuzzUnpack(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s, true)
	}
	f.Add([]byte("garbage"), false)
	top := f.TempDir()
	outside := filepath.Join(top, "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		f.Fatal(err)
	}
	canary := filepath.Join(outside, "canary")
	if err := os.WriteFile(canary, []byte("safe"), 0o600); err != nil {
		f.Fatal(err)
	}
	watched := []string{top, outside, canary}
	f.Fuzz(func(t *testing.T, archive []byte, repair bool) {
		if len(archive) > 64<<10 {
			return // nothing new
		}
		if repair {
			archive = bytes.Clone(archive)
			for b := range slices.Chunk(archive, block) {
				if len(b) == block && bytes.HasPrefix(b[257:], []byte("ustar")) {
					checksum(b)
				}
			}
		}
		root, err := os.MkdirTemp(top, "root")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(root)
		var before [3]unix.Stat_t
		for i, path := range watched {
			if err := unix.Stat(path, &before[i]); err != nil {
				t.Fatal(err)
			}
		}
		fds := descriptors(t)
		r := bytes.NewReader(archive)
		err = Unpack(r, root, func(Progress) {})
		if n := descriptors(t); n != fds {
			t.Errorf("%d descriptors are open, before it were %d", n, fds)
		}
		if err == nil && r.Len() > 0 {
			t.Errorf("%d bytes are left of the stream", r.Len())
		}
		for i, path := range watched {
			var after unix.Stat_t
			if err := unix.Stat(path, &after); err != nil {
				t.Fatal(err)
			}
			// Reading may change the access time.
			before[i].Atim, after.Atim = unix.Timespec{}, unix.Timespec{}
			if before[i] != after {
				t.Errorf("%s was changed: %+v, before %+v", path, after, before[i])
			}
		}
		if err == nil {
			compareContent(t, archive, root)
		}
	})
}

// compareContent checks the last file of an archive against what archive/tar
// reads: the sparse maps are read twice, by it and by us.
func compareContent(t *testing.T, archive []byte, root string) {
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if err != nil {
			return
		}
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeGNUSparse || h.Size > 1<<20 {
			continue
		}
		want, err := io.ReadAll(tr)
		if err != nil {
			t.Errorf("archive/tar can't read %q: %v", h.Name, err)
			return
		}
		if _, err := tr.Next(); err != io.EOF {
			return // another entry may have replaced it
		}
		got, err := os.ReadFile(filepath.Join(root, clean(h.Name)))
		if err != nil {
			return // a folder, or below a link
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%q has %q, archive/tar reads %q", h.Name, got, want)
		}
		return
	}
}

func TestDamagedSparseMaps(t *testing.T) {
	end := make([]byte, 2*block)
	body := append([]byte("abcde"), make([]byte, block-5)...)
	pax := func(records map[string]string, body string) []byte {
		i := file("s", body)
		i.PAXRecords = records
		return i.sparse(t)
	}
	v1 := func(realsize string) map[string]string {
		return map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": realsize}
	}
	lines := func(s string) string { return s + string(make([]byte, block-len(s))) }
	for _, tc := range []struct {
		name    string
		archive []byte
		whole   bool
	}{
		{"old", slices.Concat(oldSparse("s", 100, 10, 5), body, end), true},
		{"old, too far", slices.Concat(oldSparse("s", 14, 10, 5), body, end), false},
		{"old, backwards", slices.Concat(oldSparse("s", 100, 10, 3, 5, 2), body, end), false},
		{"old, wraps", slices.Concat(oldSparse("s", 100, 1<<33-1, 5), body, end), false},
		{"old, cut off", slices.Concat(oldSparse("s", 100, 10, 5), body[:3]), false},
		{"1.0", slices.Concat(pax(v1("100"), lines("1\n10\n5\n")+"abcde"), end), true},
		{"1.0, less data", slices.Concat(pax(v1("100"), lines("1\n10\n5\n")+"abc"), end), false},
		{"1.0, more data", slices.Concat(pax(v1("100"), lines("1\n10\n5\n")+"abcdefg"), end), false},
		{"1.0, no number", slices.Concat(pax(v1("100"), lines("1\nx\n5\n")+"abcde"), end), false},
		{"1.0, negative", slices.Concat(pax(v1("100"), lines("1\n-1\n5\n")+"abcde"), end), false},
		{"1.0, many", slices.Concat(pax(v1("100"), lines("9223372036854775807\n1\n5\n")+"abcde"), end), false},
		{"0.1, odd", slices.Concat(pax(map[string]string{"GNU.sparse.map": "10,5,20", "GNU.sparse.numblocks": "1", "GNU.sparse.size": "100"}, "abcde"), end), false},
		{"0.1", slices.Concat(pax(map[string]string{"GNU.sparse.map": "10,5", "GNU.sparse.numblocks": "1", "GNU.sparse.size": "100"}, "abcde"), end), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root, err := unpack(t, tc.archive)
			if tc.whole {
				if err != nil {
					t.Fatal(err)
				}
				wantFile(t, root, "s", string(make([]byte, 10))+"abcde"+string(make([]byte, 85)))
				return
			}
			wantArchiveError(t, err, "")
		})
	}
}

// Headers in front of headers, without end, take no memory without end.
func TestManyHeaders(t *testing.T) {
	i := file("f", "")
	i.PAXRecords = map[string]string{"comment": string(bytes.Repeat([]byte("x"), 1<<20-100))}
	one := i.sparse(t)
	head := one[:len(one)-block]
	_, err := unpack(t, bytes.Repeat(head, 9))
	wantArchiveError(t, err, "headers too long")
	_, err = unpack(t, slices.Concat(head, head, one, make([]byte, 2*block)))
	if err != nil {
		t.Errorf("with three MiB of headers: %v", err)
	}
}

// sparse packs an entry with records that archive/tar's writer refuses.
func (i item) sparse(t *testing.T) []byte {
	t.Helper()
	var records []byte
	for key, value := range i.PAXRecords {
		records = appendRecord(records, key, value)
	}
	x := pack(t, item{tar.Header{Name: "x", Mode: 0o644}, string(records)})
	i.PAXRecords = nil
	plain := func(b []byte) []byte {
		// Without the records for the time's fraction: header and body alone.
		at := bytes.LastIndex(b, []byte("ustar\x00")) - 257
		return b[at : len(b)-2*block]
	}
	x = bytes.Clone(plain(x))
	x[156] = tar.TypeXHeader
	checksum(x)
	return append(x, plain(pack(t, i))...)
}

func appendRecord(b []byte, key, value string) []byte {
	size := len(key) + len(value) + 3 // space, equals sign, newline
	digits := len(strconv.Itoa(size))
	if len(strconv.Itoa(size+digits)) > digits {
		digits++
	}
	return append(b, strconv.Itoa(size+digits)+" "+key+"="+value+"\n"...)
}
