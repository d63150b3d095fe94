// Package boot makes what a guest kernel is started with.
package boot

import (
	"fmt"
	"io"
)

// File types of a cpio entry's mode (stat(2)).
const (
	TypeDir  = 0o040000
	TypeFile = 0o100000
	TypeChar = 0o020000
)

// A File is one entry of an initramfs. Parents come before children.
type File struct {
	Name  string // without leading slash
	Mode  uint32 // type and permissions
	Body  []byte // of a TypeFile
	Major uint32 // of a TypeChar
	Minor uint32
}

// WriteInitramfs writes files as a cpio archive in the "newc" format that the
// kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
// It is not compressed: unpacking would cost the guest more than copying.
func WriteInitramfs(w io.Writer, files []File) error {
	a := &archive{w: w}
	for i, f := range files {
		a.entry(i+1, f)
	}
	a.entry(0, File{Name: "TRAILER!!!"})
	return a.err
}

type archive struct {
	w   io.Writer
	n   int64
	err error
}

func (a *archive) write(b []byte) {
	if a.err != nil {
		return
	}
	n, err := a.w.Write(b)
	a.n, a.err = a.n+int64(n), err
}

// pad brings the archive to a multiple of four bytes.
func (a *archive) pad() { a.write(make([]byte, -a.n&3)) }

func (a *archive) entry(ino int, f File) {
	nlink := 1
	if f.Mode&0o170000 == TypeDir {
		nlink = 2
	}
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
	// rdevmajor, rdevminor, namesize (with its NUL), check.
	a.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		ino, f.Mode, 0, 0, nlink, 0, len(f.Body), 0, 0, f.Major, f.Minor, len(f.Name)+1, 0))
	a.write(append([]byte(f.Name), 0))
	a.pad()
	a.write(f.Body)
	a.pad()
}
