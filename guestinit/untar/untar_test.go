package untar

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Images flattened layer by layer have files before their folder's entry and
// hard links before their target.
func TestAnyOrder(t *testing.T) {
	old := time.Unix(1000000000, 7)
	late := dir("a/b").mode(0o1750)
	late.ModTime = old
	root := mustUnpack(t,
		hardlink("l2", "l1"),
		hardlink("l1", "a/b/c"),
		file("a/b/c", "body"),
		file("x/y/z", "lone"),
		late,
		dir("a").mode(0o711),
		dir(".").mode(0o701),
	)
	wantFile(t, root, "a/b/c", "body")
	var c, l1, l2 unix.Stat_t
	for name, st := range map[string]*unix.Stat_t{"a/b/c": &c, "l1": &l1, "l2": &l2} {
		if err := unix.Lstat(filepath.Join(root, name), st); err != nil {
			t.Fatal(err)
		}
	}
	if c.Nlink != 3 || c.Ino != l1.Ino || c.Ino != l2.Ino {
		t.Errorf("inodes %d, %d and %d with %d links, want one with 3", c.Ino, l1.Ino, l2.Ino, c.Nlink)
	}
	for name, want := range map[string]os.FileMode{
		"a/b": 0o750 | os.ModeSticky, "a": 0o711, ".": 0o701,
		"x": 0o755, "x/y": 0o755, // that no entry is about
	} {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode() &^ os.ModeDir; got != want {
			t.Errorf("%s has mode %v, want %v", name, got, want)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "a/b")); err != nil || !info.ModTime().Equal(old) {
		t.Errorf("a/b has time %v, %v; want %v", info.ModTime(), err, old)
	}
}

// guestinit's umask must not show.
func TestUmask(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	root := mustUnpack(t, file("a/f", "").mode(0o666), dir("b").mode(0o777))
	for name, want := range map[string]os.FileMode{"a": 0o755, "a/f": 0o666, "b": 0o777} {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
}

func TestReplace(t *testing.T) {
	for _, tc := range []struct {
		name  string
		items []item
		check func(t *testing.T, root string)
	}{
		{"file by file", []item{file("f", "long old body"), file("f", "new")}, func(t *testing.T, root string) {
			wantFile(t, root, "f", "new")
		}},
		{"file by link", []item{file("f", "old"), symlink("f", "nowhere")}, func(t *testing.T, root string) {
			if to, err := os.Readlink(filepath.Join(root, "f")); to != "nowhere" {
				t.Errorf("f leads to %q, %v", to, err)
			}
		}},
		{"link by file, target stays", []item{file("t", "kept"), symlink("f", "t"), file("f", "new")}, func(t *testing.T, root string) {
			wantFile(t, root, "f", "new")
			wantFile(t, root, "t", "kept")
		}},
		{"hard link by file, other name stays", []item{file("t", "kept"), hardlink("f", "t"), file("f", "new")}, func(t *testing.T, root string) {
			wantFile(t, root, "f", "new")
			wantFile(t, root, "t", "kept")
		}},
		{"folder by file", []item{dir("f"), file("f", "new")}, func(t *testing.T, root string) {
			wantFile(t, root, "f", "new")
		}},
		{"file by folder", []item{file("f", "old"), dir("f"), file("f/x", "in")}, func(t *testing.T, root string) {
			wantFile(t, root, "f/x", "in")
		}},
		{"link by folder", []item{dir("d"), symlink("f", "d"), dir("f"), file("f/x", "in")}, func(t *testing.T, root string) {
			wantFile(t, root, "f/x", "in")
			if _, err := os.Lstat(filepath.Join(root, "d/x")); err == nil {
				t.Error("x is in the folder that the replaced link led to")
			}
		}},
		{"folder's entry twice", []item{dir("f").mode(0o700), file("f/x", "in"), dir("f").mode(0o711)}, func(t *testing.T, root string) {
			wantFile(t, root, "f/x", "in")
			if info, err := os.Stat(filepath.Join(root, "f")); err != nil || info.Mode().Perm() != 0o711 {
				t.Errorf("f: %v, %v; want mode 711", info.Mode(), err)
			}
		}},
		{"link to itself", []item{file("f", "kept"), hardlink("f", "f")}, func(t *testing.T, root string) {
			wantFile(t, root, "f", "kept")
		}},
		{"link that waits by file", []item{hardlink("f", "t"), file("f", "new"), file("t", "other")}, func(t *testing.T, root string) {
			wantFile(t, root, "f", "new")
			wantFile(t, root, "t", "other")
		}},
		{"file by link that waits", []item{file("f", "old"), hardlink("f", "t"), file("t", "new")}, func(t *testing.T, root string) {
			wantFile(t, root, "f", "new")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.check(t, mustUnpack(t, tc.items...)) })
	}
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("n", 300)
	owner := file("f", "")
	owner.Uid = 1<<32 - 1
	device := item{tar.Header{Typeflag: tar.TypeChar, Name: "d", Devmajor: 1 << 12}, ""}
	for _, tc := range []struct {
		name  string
		items []item
		want  string
	}{
		{"folder with content by file", []item{file("d/f", ""), file("d", "")}, `unpack "d": create file: there is a folder of its name with something in it`},
		{"root by file", []item{file("..", "")}, "the root folder can't be replaced"},
		{"below a file", []item{file("f", ""), file("f/x", "")}, `open folder "f": not a directory`},
		{"below a link to nothing", []item{symlink("l", "gone"), file("l/x", "")}, `open folder "l": it is a symbolic link to nothing`},
		{"below a link to itself", []item{symlink("l", "l"), file("l/x", "")}, "too many levels of symbolic links"},
		{"link to nothing", []item{hardlink("l", "gone")}, `the target of the hard link, "gone", is not in the archive`},
		{"links to each other", []item{hardlink("a", "b"), hardlink("b", "a")}, "hard link to itself"},
		{"link to a folder", []item{dir("d"), hardlink("l", "d")}, `link to "d": operation not permitted`},
		{"link to the root", []item{hardlink("l", "/")}, "link to the root folder"},
		{"long name", []item{file(long, "")}, `(300 bytes): create file: file name too long`},
		{"owner -1", []item{owner}, "there is no owner 4294967295:"},
		{"device number", []item{device}, "there is no device number 4096:0"},
		{"unknown type", []item{{tar.Header{Typeflag: 'Z', Name: "z"}, ""}}, `unpack "z": its type 'Z' is unknown`},
		{"attribute's code", []item{file("f", "").pax("LIBARCHIVE.xattr.user.x", "!")}, "illegal base64"},
		{"ACL", []item{file("f", "").pax("SCHILY.acl.access", "user::rwz")}, `ACL entry "user::rwz"`},
		{"global path", []item{{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "x"}}, ""}}, `a global header sets "path"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := unpack(t, pack(t, tc.items...))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Unpack: %v; want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
		})
	}
}

// Whatever an archive says, nothing outside the root is written, nor anything
// but what the names mean inside it.
func TestHostileNames(t *testing.T) {
	for _, tc := range []struct {
		name  string
		items []item
		want  string // file in the root with body "evil"; "" = an error
	}{
		{"dots", []item{file("../canary", "evil")}, "canary"},
		{"many dots", []item{file("a/../../../canary", "evil")}, "canary"},
		{"absolute", []item{file("/canary", "evil")}, "canary"},
		{"slashes", []item{file("//a//./canary", "evil")}, "a/canary"},
		{"link up", []item{symlink("up", ".."), file("up/canary", "evil")}, "canary"},
		{"link up from below", []item{dir("a"), symlink("a/up", "../../.."), file("a/up/canary", "evil")}, "canary"},
		{"absolute link", []item{dir("etc"), symlink("abs", "/etc"), file("abs/passwd", "evil")}, "etc/passwd"},
		{"absolute link to nothing inside", []item{symlink("abs", "/proc/self"), file("abs/canary", "evil")}, ""},
		{"file through link", []item{symlink("l", "../canary"), file("l", "evil")}, "l"},
		{"folder through link", []item{symlink("l", "../outside"), dir("l"), file("l/x", "evil")}, "l/x"},
		{"hard link up", []item{hardlink("h", "../canary"), file("h", "evil")}, "h"},
		{"hard link to what is outside only", []item{hardlink("h", "../canary")}, ""},
		{"hard link through link", []item{symlink("up", "../.."), hardlink("h", "up/canary")}, ""},
		{"folder becomes link", []item{dir("d"), file("d/x", ""), dir("e"), symlink("e", "../outside"), file("e/x", "evil")}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			top := t.TempDir()
			root := filepath.Join(top, "root")
			for _, d := range []string{root, filepath.Join(top, "outside")} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(top, "canary"), []byte("safe"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(top, someTime, someTime); err != nil {
				t.Fatal(err)
			}
			err := Unpack(bytes.NewReader(pack(t, tc.items...)), root, nil)
			switch {
			case tc.want == "" && err == nil:
				t.Error("no error")
			case tc.want != "" && err != nil:
				t.Errorf("Unpack: %v", err)
			case tc.want != "":
				wantFile(t, root, tc.want, "evil")
			}
			wantFile(t, top, "canary", "safe")
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(top, "canary"), &st); err != nil || st.Nlink != 1 {
				t.Errorf("canary has %d links, %v", st.Nlink, err)
			}
			if info, err := os.Stat(top); err != nil || !info.ModTime().Equal(someTime) {
				t.Error("the folder around the root was changed")
			}
			if list, err := os.ReadDir(filepath.Join(top, "outside")); err != nil || len(list) != 0 {
				t.Errorf("outside the root is %v, %v", list, err)
			}
		})
	}
}

// A FIFO in the way is replaced, not opened: that would wait for ever.
func TestFIFOInTheWay(t *testing.T) {
	fifo := item{tar.Header{Typeflag: tar.TypeFifo, Name: "f", Mode: 0o600}, ""}
	wantFile(t, mustUnpack(t, fifo, file("f", "new")), "f", "new")
}

func TestNamesOfAnyBytes(t *testing.T) {
	for _, name := range []string{"a b", "new\nline", "\xff\xfe", "\x01", "-rf", `back\slash`, "ünï", strings.Repeat("x", 255), strings.Repeat("d/", 700) + "f"} {
		root := mustUnpack(t, file(name, "body"))
		wantFile(t, root, name, "body")
	}
}

func TestTrailingSlashIsFolder(t *testing.T) {
	// archive/tar writes no such header: an old one, by hand.
	h := make([]byte, block)
	copy(h, "old/")
	copy(h[100:], "0000755\x000000000\x000000000\x0000000000000\x0000000000000\x00        0")
	needRoot(t) // whom it belongs to
	root, err := unpack(t, append(checksum(h), make([]byte, 2*block)...))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(filepath.Join(root, "old")); err != nil || !info.IsDir() {
		t.Errorf("old is %v, %v; want a folder", info, err)
	}
}

// checksum puts a header's checksum in.
func checksum(h []byte) []byte {
	copy(h[148:156], "        ")
	sum := 0
	for _, b := range h[:block] {
		sum += int(b)
	}
	for i := 153; i >= 148; i-- {
		h[i] = byte('0' + sum&7)
		sum >>= 3
	}
	h[154], h[155] = 0, ' '
	return h
}

// Cut anywhere, an archive is never taken for a whole one.
func TestTruncated(t *testing.T) {
	whole := pack(t, dir("d"), file("d/f", strings.Repeat("body", 400)), symlink("l", "d"))
	end := len(whole) - block // the second block of zeroes may lack
	for n := 0; n < end; n += 100 {
		_, err := unpack(t, whole[:n])
		var bad *ArchiveError
		if !errors.As(err, &bad) {
			t.Errorf("cut to %d of %d bytes: %v, want an ArchiveError", n, len(whole), err)
		}
	}
	for n := block; n < end; n += block {
		_, err := unpack(t, whole[:n])
		wantArchiveError(t, err, "cut off")
	}
	if _, err := unpack(t, whole[:end]); err != nil {
		t.Errorf("with one block of zeroes: %v", err)
	}
}

// Each byte of a header counts.
func TestDamagedHeader(t *testing.T) {
	whole := pack(t, file("f", "body"), file("g", "body"))
	second := bytes.LastIndex(whole, []byte("g\x00"))
	if second%block != 0 {
		t.Fatalf("the second header is at %d", second)
	}
	for i := range block {
		if i == 154 || i == 155 {
			continue // the checksum's own end
		}
		harmed := bytes.Clone(whole)
		harmed[second+i] ^= 0x81
		_, err := unpack(t, harmed)
		var bad *ArchiveError
		if !errors.As(err, &bad) {
			t.Errorf("byte %d of a header changed: %v, want an ArchiveError", i, err)
		}
	}
	harmed := bytes.Clone(whole)
	harmed[second] = 'h'
	_, err := unpack(t, harmed)
	wantArchiveError(t, err, "the header is damaged")
}

func TestNoArchive(t *testing.T) {
	one := pack(t, file("f", "x"))
	for _, tc := range []struct{ name, body, want string }{
		{"nothing", "", "it is empty"},
		{"end only", strings.Repeat("\x00", 2*block), "no entries"},
		{"global header only", string(pack(t, item{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, ""})), "no entries"},
		{"text", strings.Repeat("text ", 1000), "it is not a tar archive"},
		{"garbage behind", string(one) + "garbage", "something follows the end"},
		{"archive behind", strings.Repeat(string(one), 2), "something follows the end"},
		{"garbage after one block of zeroes", string(one[:len(one)-block]) + strings.Repeat("x", block), "the header is damaged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := unpack(t, []byte(tc.body))
			wantArchiveError(t, err, tc.want)
		})
	}
}

// The stream's own failure is passed on, with what was being read.
func TestReadError(t *testing.T) {
	broken := errors.New("link broke")
	whole := pack(t, file("f", strings.Repeat("x", 4096)))
	for _, n := range []int{0, 100, 700, 3000, len(whole)} {
		r := io.MultiReader(bytes.NewReader(whole[:n]), errReader{broken})
		err := Unpack(r, t.TempDir(), nil)
		if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "read archive: ") {
			t.Errorf("broken after %d bytes: %v", n, err)
		}
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// The writer of the stream must be able to write all of it: tar pads.
func TestReadsToTheEnd(t *testing.T) {
	r, w := io.Pipe()
	padded := append(pack(t, file("f", "body")), make([]byte, 3<<20)...)
	wrote := make(chan int, 1)
	go func() {
		n, _ := w.Write(padded)
		w.Close()
		wrote <- n
	}()
	if err := Unpack(r, t.TempDir(), nil); err != nil {
		t.Error(err)
	}
	r.Close()
	if n := <-wrote; n != len(padded) {
		t.Errorf("%d of %d bytes were read", n, len(padded))
	}
}

func TestProgress(t *testing.T) {
	archive := pack(t, file("a", ""), file("b", strings.Repeat("x", 5<<20)), file("c", ""))
	var got []Progress
	if err := Unpack(bytes.NewReader(archive), t.TempDir(), func(p Progress) { got = append(got, p) }); err != nil {
		t.Fatal(err)
	}
	if last := got[len(got)-1]; last.Entries != 3 || last.Bytes < 5<<20 || last.Bytes > int64(len(archive)) {
		t.Errorf("last progress %+v of 3 entries in %d bytes", last, len(archive))
	}
	during := 0
	for i, p := range got {
		if i > 0 && p.Bytes < got[i-1].Bytes {
			t.Errorf("progress went back: %v", got)
		}
		if p.Entries == 2 {
			during++
		}
	}
	if during < 5 {
		t.Errorf("%d reports during a file of 5 MiB", during)
	}
}

func TestGlobalHeader(t *testing.T) {
	global := func(key, value string) item {
		return item{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{key: value}}, ""}
	}
	root := mustUnpack(t, global("comment", "git"), global("mtime", "1000000000.5"),
		item{tar.Header{Name: "f", ModTime: time.Unix(5, 0)}, ""}, file("own", ""))
	for name, want := range map[string]time.Time{"f": time.Unix(1000000000, 5e8), "own": someTime} {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || !info.ModTime().Equal(want) {
			t.Errorf("%s has time %v, %v; want %v", name, info.ModTime(), err, want)
		}
	}
}

// Zeroes anywhere in a file are zeroes in what is unpacked, whether a hole or not.
func TestZeroes(t *testing.T) {
	z := func(n int) string { return strings.Repeat("\x00", n) }
	for _, body := range []string{
		z(1), z(holeUnit), z(holeUnit + 1), z(bufSize), z(3*bufSize + 7),
		"a" + z(holeUnit), "a" + z(3*holeUnit) + "b", z(3*holeUnit) + "b", "a" + z(bufSize) + "b" + z(bufSize),
		strings.Repeat("a", holeUnit) + z(holeUnit) + strings.Repeat("b", holeUnit-1) + z(holeUnit+1) + "c",
	} {
		root := mustUnpack(t, file("f", body), file("next", "x"))
		wantFile(t, root, "f", body)
		wantFile(t, root, "next", "x")
	}
}

// A disk that is full is a clear error, at the file that does not fit.
func TestDiskFull(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=1m,nr_inodes=20"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	err := Unpack(bytes.NewReader(pack(t, file("small", "x"), file("big", strings.Repeat("x", 2<<20)))), root, nil)
	if want := `unpack "big": write file: no space left on device`; err == nil || err.Error() != want {
		t.Errorf("Unpack: %v, want %s", err, want)
	}
	if err := os.Remove(filepath.Join(root, "big")); err != nil {
		t.Fatal(err)
	}
	var many []item
	for i := range 30 {
		many = append(many, file(strings.Repeat("f", i+1), ""))
	}
	err = Unpack(bytes.NewReader(pack(t, many...)), root, nil)
	if err == nil || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "create file: no space left") {
		t.Errorf("Unpack: %v, want no space for a file", err)
	}
}
