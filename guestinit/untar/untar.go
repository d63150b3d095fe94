// Package untar unpacks a tar archive as root, for import: guestinit calls it in
// a guest whose root disk is an empty file system.
//
// Kept are owners (the numbers; names mean nothing in another system), modes
// with setuid, setgid and sticky bit, hard and symbolic links, devices, FIFOs,
// extended attributes with file capabilities and POSIX ACLs, times to the
// nanosecond, holes, and names of any bytes. It reads what archive/tar reads
// (v7, ustar, PAX, GNU, star), uncompressed.
//
// # Order
//
// Entries may come in any order. A folder that an entry lies in is made when
// something needs it; its own entry may follow. What belongs to a folder, its
// times above all, is set at the end. A hard link whose target is not there yet
// waits for the end too. A later entry replaces an earlier one of the same name,
// as in tar: but a folder with something in it stays, and is an error.
//
// # Names
//
// No entry leaves the root. Absolute names start there, ".." ends there, and a
// symbolic link on the way to an entry is followed as a process sees it whose
// root that folder is (openat2, RESOLVE_IN_ROOT), so that lib/x arrives where
// "lib -> /usr/lib" says. The last component is never followed.
package untar

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Progress is how far Unpack is.
type Progress struct {
	Entries int   // that were begun
	Bytes   int64 // of the archive that were read
}

// Unpack reads an uncompressed tar archive from r to the end of the stream and
// puts its entries into the folder root. That may be a path or "/proc/self/fd/N";
// it should be empty, and nobody else may write to it meanwhile. progress, if it
// is not nil, is called from the same goroutine for each entry and for each MiB
// or so of a large one: often, so it should be quick.
//
// An archive that is damaged, cut off, empty, or followed by something else is
// an *ArchiveError. After an error what was unpacked so far stays, and r is not
// read to its end. Nothing is synced to disk.
func Unpack(r io.Reader, root string, progress func(Progress)) error {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open root folder %s: %w", root, err)
	}
	u := &unpacker{
		src:      newSource(r),
		tree:     tree{root: fd, parent: -1},
		folders:  map[uint64]*folder{},
		links:    map[string]string{},
		acls:     map[string][]textACL{},
		global:   map[string]string{},
		progress: progress,
		buf:      make([]byte, bufSize),
	}
	defer u.tree.close()
	return u.run()
}

// bufSize is how much of a file is read and written at once.
const bufSize = 1 << 20

// An unpacker is the state of one Unpack.
type unpacker struct {
	src      *source
	tree     tree
	folders  map[uint64]*folder   // by inode: what is to be set at the end
	links    map[string]string    // hard links that wait: name to target, both clean
	linked   []string             // their names, in the archive's order
	acls     map[string][]textACL // by name: those that need the archive's passwd and group
	head     []byte               // the headers of the entry, until the next
	global   map[string]string    // PAX records that go for all further entries
	entries  int
	progress func(Progress)
	buf      []byte
}

func (u *unpacker) run() error {
	tr := tar.NewReader(u.src)
	for {
		h, err := u.next(tr)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := u.entry(tr, h); err != nil {
			return err
		}
	}
	if u.entries == 0 {
		return &ArchiveError{Why: "it has no entries"}
	}
	if err := u.finishLinks(); err != nil {
		return err
	}
	if err := u.finishACLs(); err != nil {
		return err
	}
	return u.finishFolders()
}

// next reads up to the content of the next entry; at the archive's end, which
// must be the stream's too but for zeroes, it returns io.EOF.
func (u *unpacker) next(tr *tar.Reader) (*tar.Header, error) {
	u.src.beginHead()
	at := u.src.head0()
	h, err := tr.Next()
	u.head = u.src.endHead()
	switch {
	case err == io.EOF && u.src.offset == 0:
		return nil, &ArchiveError{Why: "it is empty"}
	case err == io.EOF && !endsArchive(u.head):
		return nil, &ArchiveError{Offset: u.src.offset, Why: "it is cut off: the blocks that end an archive are missing"}
	case err == io.EOF:
		if err := u.src.drain(u.buf); err != nil {
			return nil, err
		}
		return nil, io.EOF
	case err != nil:
		return nil, u.archiveError(err, at)
	}
	u.entries++
	u.report()
	return h, nil
}

// endsArchive reports whether a block of zeroes was read. archive/tar takes the
// end of the stream for the archive's, also after PAX records.
func endsArchive(head []byte) bool {
	header, _ := mainHeader(head)
	return header != nil && zero(header)
}

// archiveError tells damage from a stream that can't be read.
func (u *unpacker) archiveError(err error, at int64) error {
	switch {
	case u.src.err != nil:
		return fmt.Errorf("read archive: %w", u.src.err)
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return &ArchiveError{Offset: u.src.offset, Why: "it is cut off", Err: io.ErrUnexpectedEOF}
	}
	if at == 0 && u.src.offset == block {
		return &ArchiveError{Why: "it is not a tar archive", Err: err}
	}
	return &ArchiveError{Offset: at, Why: "the header is damaged", Err: err}
}

func (u *unpacker) report() {
	if u.progress != nil {
		u.progress(Progress{u.entries, u.src.offset})
	}
}

// entry unpacks one entry and leaves the reader at the end of its content.
func (u *unpacker) entry(tr *tar.Reader, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		u.entries-- // it is none
		return u.setGlobal(h)
	case typeVolumeLabel:
		return nil
	case typeMultiVolume:
		return fmt.Errorf("unpack %s: it is continued from another volume: join the volumes first", quote(h.Name))
	}
	m, err := u.meta(h)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", quote(h.Name), err)
	}
	name := clean(h.Name)
	delete(u.links, name) // what waits for the end would meet this later entry
	delete(u.acls, name)
	// Archives older than POSIX, and bsdtar's habit: a file's name that ends
	// in a slash is a folder's.
	slash := strings.HasSuffix(h.Name, "/") && h.Size == 0
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if slash {
			err = u.makeFolder(name, m)
		} else {
			err = u.makeFile(tr, h, name, m)
		}
	case tar.TypeDir:
		err = u.makeFolder(name, m)
	case typeDumpDir:
		// GNU's incremental archive: a folder whose content is a list of names.
		if _, err = io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{tr}, u.buf); err != nil {
			return u.archiveError(err, u.src.offset)
		}
		err = u.makeFolder(name, m)
	case tar.TypeLink:
		err = u.makeLink(name, clean(h.Linkname))
	case tar.TypeSymlink:
		err = u.makeNode(name, m, func(dir int, base string) error {
			return unix.Symlinkat(h.Linkname, dir, base)
		})
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		err = u.makeSpecial(h, name, m)
	default:
		err = fmt.Errorf("its type %q is unknown", h.Typeflag)
	}
	var bad *ArchiveError
	if err != nil && !errors.As(err, &bad) && u.src.err == nil {
		return fmt.Errorf("unpack %s: %w", quote(h.Name), err)
	}
	return err
}

// Types of entries that archive/tar has no name for (tar.h of GNU tar).
const (
	typeDumpDir     = 'D'
	typeMultiVolume = 'M'
	typeVolumeLabel = 'V'
)

// clean makes an entry's name a path relative to the root: "." or components
// that are none of "", "." and "..".
func clean(name string) string {
	if name = path.Clean("/" + name)[1:]; name == "" {
		return "."
	}
	return name
}

// quote makes a name fit for a message: archives may have names of a MiB, and of
// any bytes.
func quote(name string) string {
	const most = 200
	if len(name) > most {
		return fmt.Sprintf("%q... (%d bytes)", name[:most], len(name))
	}
	return fmt.Sprintf("%q", name)
}

type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }
