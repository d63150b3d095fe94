package untar

import (
	"archive/tar"
	"errors"
	"strings"
	"testing"
)

func TestCheckRoot(t *testing.T) {
	sh := file("bin/sh", "x").mode(0o755)
	for _, tc := range []struct {
		name  string
		items []item
		want  string // "" = it is one
	}{
		{"old", []item{sh}, ""},
		{"merged usr", []item{symlink("bin", "usr/bin"), file("usr/bin/sh", "x").mode(0o755)}, ""},
		{"absolute link", []item{symlink("bin", "/usr/bin"), symlink("sbin", "/nowhere"), file("usr/bin/sh", "x").mode(0o755)}, ""},
		{"busybox", []item{symlink("bin/sh", "/usr/lib/busybox"), file("usr/lib/busybox", "x").mode(0o755)}, ""},
		{"init only", []item{dir("usr"), file("sbin/init", "x").mode(0o755)}, ""},
		{"documents", []item{file("doc/letter", "x").mode(0o755)}, "neither /bin nor /usr"},
		{"bin is a file", []item{file("bin", "x").mode(0o755)}, "neither /bin nor /usr"},
		{"folder too much", []item{file("rootfs/bin/sh", "x").mode(0o755)}, `the system is in its folder "rootfs"`},
		{"docker save", []item{file("manifest.json", "[]"), file("sha256/layer.tar", "")}, "it has manifest.json in it"},
		{"OCI layout", []item{file("oci-layout", "{}"), dir("blobs")}, "it has oci-layout in it"},
		{"no program", []item{file("usr/bin/readme", "x"), dir("usr/bin/dir")}, "no program"},
		{"links to nothing", []item{symlink("bin/sh", "bash"), symlink("bin/loop", "loop"), symlink("usr", "/usr")}, "no program"},
		{"device", []item{{tar.Header{Typeflag: tar.TypeFifo, Name: "bin/sh", Mode: 0o755}, ""}}, "no program"},
		// What is executable on the host does not count.
		{"links outside", []item{symlink("bin", "../../../../../../bin"), symlink("usr", "/")}, "no program"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := mustUnpack(t, tc.items...)
			before := descriptors(t)
			err := CheckRoot(root)
			if after := descriptors(t); after != before {
				t.Errorf("%d descriptors are open, before it were %d", after, before)
			}
			if tc.want == "" {
				if err != nil {
					t.Errorf("CheckRoot: %v", err)
				}
				return
			}
			var bad *RootError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("CheckRoot: %v, want a RootError with %q", err, tc.want)
			} else if bad.Hint() == "" {
				t.Error("there is no hint")
			}
		})
	}
}
