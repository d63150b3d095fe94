package fileserver

import (
	"bytes"
	"encoding/binary"
	"sync"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// dirBuffer holds some hundreds of entries a getdents.
const dirBuffer = 32 << 10

// A dirStream is the position of an open directory. Offsets are the host's own
// cookies, so they stay good when the directory changes and in any order that
// seekdir asks for.
type dirStream struct {
	mu   sync.Mutex
	buf  []byte // of getdents; made at the first read
	left []byte // the part of buf that was not given out
	next uint64 // the offset that continues with left
}

// A dirent is one entry in a getdents buffer. name aliases the buffer.
type dirent struct {
	ino  uint64
	off  uint64
	mode uint32
	name string
}

// direntHeader is the size of linux_dirent64 before its name.
const direntHeader = 19

// parse takes the first entry off left.
func (d *dirent) parse(left []byte) (rest []byte) {
	size := int(binary.NativeEndian.Uint16(left[16:]))
	d.ino = binary.NativeEndian.Uint64(left)
	d.off = binary.NativeEndian.Uint64(left[8:])
	d.mode = uint32(left[18]) << 12
	name := left[direntHeader:size]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	d.name = unsafe.String(unsafe.SliceData(name), len(name)) // the buffer is not refilled while d is in use
	return left[size:]
}

// fill makes left the entries from off on; empty at the end.
func (ds *dirStream) fill(fd int, off uint64) syscall.Errno {
	if off != ds.next || off == 0 {
		ds.left = nil
		errno := retry(func() error {
			_, err := unix.Seek(fd, int64(off), unix.SEEK_SET)
			return err
		})
		if errno != 0 {
			return errno
		}
		ds.next = off
	}
	if len(ds.left) > 0 {
		return 0
	}
	if ds.buf == nil {
		ds.buf = make([]byte, dirBuffer)
	}
	var n int
	errno := retry(func() (err error) {
		n, err = unix.Getdents(fd, ds.buf)
		return err
	})
	if errno != 0 {
		return errno
	}
	ds.left = ds.buf[:n]
	return 0
}

// OpenDir opens a directory.
func (s *Server) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		return fuse.OK
	}
	n, errno := s.holdDir(in.NodeId)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(n)
	h := &handle{node: n, dir: new(dirStream)}
	if h.fd, errno = s.reopen(n.fd, unix.O_RDONLY|unix.O_DIRECTORY); errno != 0 {
		return status(errno)
	}
	if errno := s.addHandle(h); errno != 0 {
		return status(errno)
	}
	out.Fh = h.id
	return fuse.OK
}

// ReleaseDir closes a directory.
func (s *Server) ReleaseDir(in *fuse.ReleaseIn) { s.release(in.Fh) }

// FsyncDir puts a directory on the disk.
func (s *Server) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		return fuse.OK
	}
	return s.Fsync(cancel, in)
}

// ReadDir lists names.
func (s *Server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.readDir(in, func(dir *node, e *dirent) (bool, syscall.Errno) {
		entry := fuse.DirEntry{Name: e.name, Off: e.off, Mode: e.mode, Ino: e.ino}
		if dir != nil {
			if !isDot(e.name) && s.hidden.hidesEntry(dir.dev, e.ino) {
				return true, 0
			}
			entry.Ino = s.inodes.number(dir.dev, e.ino)
		}
		return out.AddDirEntry(entry), 0
	})
}

// ReadDirPlus lists names with what a lookup of each would say.
func (s *Server) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.readDir(in, func(dir *node, e *dirent) (bool, syscall.Errno) {
		entry := fuse.DirEntry{Name: e.name, Off: e.off, Mode: e.mode, Ino: e.ino}
		if dir == nil || isDot(e.name) {
			if dir != nil {
				entry.Ino = s.inodes.number(dir.dev, e.ino)
			}
			return out.AddDirLookupEntry(entry) != nil, 0
		}
		var st unix.Statx_t
		switch errno := statx(dir.fd, e.name, &st); errno {
		case 0:
		case unix.ENOENT:
			return true, 0 // removed meanwhile
		default:
			// It can be read but not searched: names without more.
			entry.Ino = s.inodes.number(dir.dev, e.ino)
			return out.AddDirLookupEntry(entry) != nil, 0
		}
		if s.hidden.hides(&st) {
			return true, 0
		}
		entry.Ino = s.inodes.number(devOf(&st), st.Ino)
		entry.Mode = uint32(st.Mode)
		o := out.AddDirLookupEntry(entry)
		if o == nil {
			return false, 0
		}
		// An entry without a node is a name without more.
		if n, errno := s.child(dir, e.name, &st); errno == 0 {
			var full fuse.EntryOut
			s.entryOut(n, &st, &full)
			*o = full
		}
		return true, 0
	})
}

func isDot(name string) bool { return name == "." || name == ".." }

// readDir calls add with each entry behind the offset until it says that the
// reply is full. dir is nil for the root.
func (s *Server) readDir(in *fuse.ReadIn, add func(dir *node, e *dirent) (bool, syscall.Errno)) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		for _, sr := range s.listShares(in.Offset) {
			e := dirent{ino: s.inodes.number(sr.root.dev, sr.root.ino), off: sr.id, mode: unix.S_IFDIR, name: sr.Dir}
			if ok, errno := add(nil, &e); !ok || errno != 0 {
				return status(errno)
			}
		}
		return fuse.OK
	}
	h := s.holdHandle(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	defer s.dropHandle(h)
	if h.dir == nil {
		return fuse.ENOTDIR
	}
	dir, errno := s.hold(h.node.id)
	if errno != 0 {
		return status(errno)
	}
	defer s.drop(dir)

	ds := h.dir
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if in.Offset > 1<<63-1 {
		return fuse.EINVAL
	}
	for off, given := in.Offset, 0; ; {
		if errno := ds.fill(h.fd, off); errno != 0 {
			if given > 0 {
				return fuse.OK
			}
			return status(errno)
		}
		if len(ds.left) == 0 {
			return fuse.OK
		}
		for len(ds.left) > 0 {
			var e dirent
			rest := e.parse(ds.left)
			ok, errno := add(dir, &e)
			if errno != 0 {
				return status(errno)
			}
			if !ok {
				if given == 0 {
					return fuse.EINVAL // not room for one
				}
				return fuse.OK
			}
			ds.left, ds.next = rest, e.off
			off = e.off
			given++
		}
	}
}
