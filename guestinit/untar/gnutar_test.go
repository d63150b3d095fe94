package untar

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// gnuTar runs GNU tar, which is what other archives come from, and what other
// unpackers are compared with.
func gnuTar(t testing.TB, args ...string) []byte {
	t.Helper()
	if out, err := exec.Command("tar", "--version").Output(); err != nil || !bytes.HasPrefix(out, []byte("tar (GNU tar)")) {
		t.Skip("tar is not GNU tar here")
	}
	var out, errs bytes.Buffer
	cmd := exec.Command("tar", args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("tar %q: %v\n%s", args, err, errs.Bytes())
	}
	return out.Bytes()
}

// Two entries of an ACL are about others than the owner: this one gives user 1
// and group 7 something. posix_acl_xattr.h.
var (
	accessACL = acl(aclUserObj, 7, aclNoID, aclUser, 5, 1, aclGroupObj, 4, aclNoID, aclGroup, 6, 7, aclMask, 7, aclNoID, aclOther, 0, aclNoID)
	nextACL   = acl(aclUserObj, 7, aclNoID, aclUser, 7, 12345, aclGroupObj, 5, aclNoID, aclMask, 7, aclNoID, aclOther, 4, aclNoID)
)

func acl(numbers ...uint32) []byte {
	b := []byte{aclVersion, 0, 0, 0}
	for e := range slices.Chunk(numbers, 3) {
		b = append(b, byte(e[0]), 0, byte(e[1]), 0, byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
	}
	return b
}

// capability is cap_net_raw+ep as setcap writes it (linux/capability.h).
var capability = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// features makes a tree with one of everything, and returns its path.
func features(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "tree")
	in := func(name string) string { return filepath.Join(root, name) }
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, body string, mode uint32) {
		t.Helper()
		do(os.WriteFile(in(name), []byte(body), 0o600))
		do(unix.Chmod(in(name), mode))
	}
	for _, d := range []string{"etc", "usr/bin", "private", "tmp", "deep/a/b/c", strings.Repeat("long/", 60)} {
		do(os.MkdirAll(in(d), 0o755))
	}
	write("etc/passwd", "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nlp:x:7:7::/:/bin/sh\n", 0o644)
	write("etc/group", "root:x:0:\ndaemon:x:1:\nlp:x:7:\n", 0o644)
	write("usr/bin/plain", strings.Repeat("program", 1000), 0o755)
	write("usr/bin/su", "setuid", 0o4755)
	write("usr/bin/wall", "setgid", 0o2755)
	write("usr/bin/ping", "capability", 0o755)
	write("private/key", "secret", 0)
	write("empty", "", 0o644)
	write(strings.Repeat("long/", 60)+"name", "deep", 0o644)
	write("\xff\xfe any\nbytes\\ \x01", "odd", 0o644)
	write(strings.Repeat("n", 255), "long name", 0o644)
	write("zeroes", strings.Repeat("\x00", 200<<10)+"end", 0o644)
	write("attrs", "", 0o644)
	write("acl", "", 0o640)
	do(os.Symlink("usr/bin", in("bin")))
	do(os.Symlink("/etc/passwd", in("deep/absolute")))
	do(os.Symlink(strings.Repeat("target/", 50), in("deep/long")))
	do(os.Symlink("\xff", in("deep/dangling")))
	do(os.Link(in("usr/bin/plain"), in("deep/hard")))
	do(os.Link(in("usr/bin/plain"), in("a hard link first")))
	do(unix.Mkfifo(in("fifo"), 0o620))
	do(unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	do(unix.Mknod(in("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	do(unix.Chmod(in("tmp"), 0o1777))
	do(unix.Chmod(in("private"), 0))
	do(unix.Chmod(in("deep"), 0o2775))

	for name, owner := range map[string][2]int{"private": {65534, 7}, "usr/bin/wall": {0, 5}, "bin": {4, 5}, "null": {0, 6}, "attrs": {4000000000, 3999999999}} {
		var st unix.Stat_t
		do(unix.Lstat(in(name), &st))
		do(unix.Lchown(in(name), owner[0], owner[1]))
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			do(unix.Chmod(in(name), st.Mode&0o7777)) // chown takes setgid away
		}
	}
	for _, x := range []struct {
		name, attr string
		value      []byte
	}{
		{"usr/bin/ping", "security.capability", capability},
		{"attrs", "user.text", []byte("value")},
		{"attrs", "user.binary", []byte{0, 1, 255, '\n', '=', 0}},
		{"attrs", "trusted.t", []byte("for root")},
		{"deep", "user.folder", bytes.Repeat([]byte("x"), 2000)},
		{"bin", "trusted.link", []byte("of a symbolic link")},
		{"fifo", "trusted.fifo", []byte("of a FIFO")},
		{"acl", aclAccess, accessACL},
		{"tmp", aclDefault, nextACL},
		{"tmp", aclAccess, accessACL},
	} {
		if err := unix.Lsetxattr(in(x.name), x.attr, x.value, 0); err == unix.EOPNOTSUPP {
			t.Skipf("the file system of the test's folder takes no attribute %s", x.attr)
		} else if err != nil {
			t.Fatalf("set %s of %s: %v", x.attr, x.name, err)
		}
	}
	write("tmp/inherited", "", 0o644) // by the default ACL

	f, err := os.Create(in("sparse"))
	do(err)
	for i := range 40 { // more fragments than fit into one block of a map
		_, err := f.WriteAt([]byte(fmt.Sprintf("fragment %d", i)), int64(i)<<20+5)
		do(err)
	}
	do(f.Truncate(50 << 20))
	do(f.Close())
	do(os.WriteFile(in("hole"), nil, 0o644))
	do(os.Truncate(in("hole"), 1<<20))

	i := int64(0)
	do(filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		i++
		at := unix.NsecToTimespec(time.Unix(1e9+i*1e5, i*1000001).UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
	}))
	do(os.Chtimes(in("empty"), time.Unix(-5, 0), time.Unix(-5, 500000000))) // before 1970
	return root
}

// What we unpack is what was packed, and what GNU tar unpacks.
func TestLikeGNUTar(t *testing.T) {
	needRoot(t)
	tree := features(t)
	original := listing(t, tree)
	reversed := bytes.NewBuffer(nil)
	err := filepath.WalkDir(tree, func(path string, _ os.DirEntry, err error) error {
		reversed.WriteString("." + strings.TrimPrefix(path, tree) + "\x00")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(strings.TrimSuffix(reversed.String(), "\x00"), "\x00")
	slices.Reverse(names)
	list := filepath.Join(t.TempDir(), "names")
	if err := os.WriteFile(list, []byte(strings.Join(names, "\x00")+"\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := []string{"--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"}
	for _, tc := range []struct {
		name string
		args []string
		same bool // as the original
	}{
		{"pax", []string{"--format=pax", "-S", "."}, true},
		{"pax, sparse 0.0", []string{"--format=pax", "-S", "--sparse-version=0.0", "."}, true},
		{"pax, sparse 0.1", []string{"--format=pax", "-S", "--sparse-version=0.1", "."}, true},
		{"pax, not sparse", []string{"--format=pax", "."}, true},
		{"pax, from the end", []string{"--format=pax", "-S", "--no-recursion", "--null", "--verbatim-files-from", "-T", list}, true},
		{"pax, times of all in a global header", []string{"--format=pax", "--mtime=@1000000000", "--pax-option=globexthdr.name=g,exthdr.name=x,mtime=1000000001", "."}, false},
		{"gnu", []string{"--format=gnu", "-S", "."}, false}, // no attributes, whole seconds
		{"gnu, incremental", []string{"--format=gnu", "--listed-incremental=" + filepath.Join(t.TempDir(), "snapshot"), "."}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := append([]string{"-C", tree, "-c"}, tc.args...)
			if strings.HasPrefix(tc.name, "pax") {
				args = append(slices.Clone(all), args...)
			}
			archive := gnuTar(t, args...)
			root, err := unpack(t, archive)
			if err != nil {
				t.Fatalf("Unpack: %v", err)
			}
			got := listing(t, root)
			file := filepath.Join(t.TempDir(), "archive.tar")
			if err := os.WriteFile(file, archive, 0o600); err != nil {
				t.Fatal(err)
			}
			theirs := t.TempDir()
			gnuTar(t, slices.Concat(all, []string{"-C", theirs, "-xp", "-f", file, "--same-owner", "--warning=no-timestamp"})...)
			compare(t, "against GNU tar's", got, listing(t, theirs))
			if tc.same {
				compare(t, "against the original", got, original)
			}
			if len(got) < 40 {
				t.Errorf("%d names were compared", len(got))
			}
			// Without a map a hole is some units long at least.
			wantSparse(t, filepath.Join(root, "sparse"), 40*(holeUnit+8<<10))
			wantSparse(t, filepath.Join(root, "zeroes"), 72<<10) // also what no map says
			wantSparse(t, filepath.Join(root, "hole"), 4<<10)
		})
	}
}

// wantSparse checks what a file takes of the disk: data, and a block for what
// the file system keeps about it.
func wantSparse(t *testing.T, path string, most int64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Error(err)
	} else if st.Blocks*512 > most {
		t.Errorf("%s takes %d bytes of the disk, want at most %d", filepath.Base(path), st.Blocks*512, most)
	}
}

// The accounts in an archive's ACLs are the archive's own, not those of the
// system that unpacks.
func TestNamedACL(t *testing.T) {
	needRoot(t)
	named := file("f", "").mode(0o640).pax("SCHILY.acl.access", "user::rw-,user:ann:r--,group::r--,group:team:rw-\t#effective:r--,mask::r--,other::---\n")
	folder := dir("d").pax("SCHILY.acl.default", "user::rwx\nuser:ann:rwx\ngroup::r-x\nmask:rwx\nother:r-x")
	accounts := []item{file("etc/passwd", "ann:x:1234:1::/:\n"), file("etc/group", "team:x:2345:\n")}
	root := mustUnpack(t, append([]item{named, folder, file("d/f", "")}, accounts...)...)
	for name, want := range map[string]string{
		"f":   fmt.Sprintf(" %s=%x", aclAccess, acl(aclUserObj, 6, aclNoID, aclUser, 4, 1234, aclGroupObj, 4, aclNoID, aclGroup, 6, 2345, aclMask, 4, aclNoID, aclOther, 0, aclNoID)),
		"d":   fmt.Sprintf(" %s=%x", aclDefault, acl(aclUserObj, 7, aclNoID, aclUser, 7, 1234, aclGroupObj, 5, aclNoID, aclMask, 7, aclNoID, aclOther, 5, aclNoID)),
		"d/f": "", // a default ACL goes over to new files only
	} {
		if got, err := xattrs(filepath.Join(root, name)); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, want)
		}
	}
	for _, tc := range []struct {
		items []item
		want  string
	}{
		{[]item{named, accounts[0]}, "open etc/group: no such file"},
		{[]item{named, accounts[0], file("etc/group", "")}, `there is no group "team" in the archive's etc/group`},
		{[]item{named, accounts[0], symlink("etc/group", "group")}, "too many levels of symbolic links"},
	} {
		if _, err := unpack(t, pack(t, tc.items...)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Unpack: %v, want %q", err, tc.want)
		}
	}
	// A later entry of the name has no ACL.
	root = mustUnpack(t, append([]item{named, file("f", "new")}, accounts...)...)
	if got, err := xattrs(filepath.Join(root, "f")); err != nil || got != "" {
		t.Errorf("the new f has attributes %s, %v", got, err)
	}
}

// Attributes as bsdtar writes them; those that Linux does not know are left out.
func TestAttributes(t *testing.T) {
	f := file("f", "")
	f.PAXRecords = map[string]string{
		"LIBARCHIVE.xattr.user.a%20b%25": "AAEC/w",
		"LIBARCHIVE.xattr.user.pad":      "eA==",
		"SCHILY.xattr.user.both":         "x",
		"LIBARCHIVE.xattr.user.both":     "eA",
		"SCHILY.xattr.com.apple.x":       "y",
		"SCHILY.xattr.system.nfs4_acl":   "y",
	}
	got, err := xattrs(filepath.Join(mustUnpack(t, f), "f"))
	if want := " user.a b%=000102ff user.both=78 user.pad=78"; err != nil || got != want {
		t.Errorf("attributes%s, %v; want%s", got, err, want)
	}
	for _, bad := range []string{"user.%", "user.%2", "user.%zz"} {
		if _, err := unpack(t, pack(t, file("f", "").pax("LIBARCHIVE.xattr."+bad, "eA"))); err == nil {
			t.Errorf("attribute %s is taken", bad)
		}
	}
}

// A file of a TiB with a few bytes in it, as lastlog is with large user numbers,
// takes no more time and space than those.
func TestVerySparse(t *testing.T) {
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "lastlog"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 40
	for _, at := range []int64{0, 1 << 36, size - 4} {
		if _, err := f.WriteAt([]byte("data"), at); err != nil {
			t.Skipf("the file system of the test's folder has no file of a TiB: %v", err)
		}
	}
	for _, format := range []string{"gnu", "pax"} {
		archive := gnuTar(t, "-C", src, "-cS", "--format="+format, "lastlog")
		root, err := unpack(t, archive)
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		got, err := os.Open(filepath.Join(root, "lastlog"))
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		if info, err := got.Stat(); err != nil || info.Size() != size {
			t.Errorf("%s: size %d, %v; want %d", format, info.Size(), err, int64(size))
		}
		for at, want := range map[int64]string{0: "data\x00", 1<<36 - 1: "\x00data", size - 5: "\x00data", 1 << 39: "\x00\x00\x00\x00\x00"} {
			b := make([]byte, 5)
			if _, err := got.ReadAt(b, at); err != nil || string(b) != want {
				t.Errorf("%s: at %d is %q, %v; want %q", format, at, b, err, want)
			}
		}
		wantSparse(t, got.Name(), 64<<10)
	}
}
