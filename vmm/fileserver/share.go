package fileserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A Share is a folder of the host that the guest sees.
type Share struct {
	Dir      string // its name in the root: one component
	Path     string // the folder, absolute
	ReadOnly bool
}

// A share is a Share at work.
type share struct {
	Share
	id   uint64 // orders the root's listing, and is its offset
	root *node
}

// AddShare makes a folder visible. The folder is held by descriptor: moving it
// on the host does not unshare it. It is an error to share what is hidden or
// lies inside of something hidden, or a window to the host's kernel such as
// /proc.
//
// A read-only share that lies inside of another one is read-only through that
// one too, for what the guest looks up from then on.
func (s *Server) AddShare(sh Share) error {
	if err := s.addShare(sh); err != nil {
		return fmt.Errorf("share %s: %w", sh.Path, err)
	}
	return nil
}

func (s *Server) addShare(sh Share) error {
	if errno := checkName(sh.Dir); errno != 0 {
		return fmt.Errorf("name %q in the root: %w", sh.Dir, errno)
	}
	if !filepath.IsAbs(sh.Path) {
		return errors.New("path is not absolute")
	}
	fd, err := unix.Open(sh.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Statx_t
	if errno := statx(fd, "", &st); errno != 0 {
		unix.Close(fd)
		return errno
	}
	if kernelWindow(fd) {
		unix.Close(fd)
		return errors.New("it is a window to the host's kernel")
	}
	if s.hidden.contains(fd) {
		unix.Close(fd)
		return errors.New("it belongs to stile itself")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shares[sh.Dir] != nil {
		unix.Close(fd)
		return fmt.Errorf("name %q in the root: %w", sh.Dir, os.ErrExist)
	}
	s.nextShare++
	sr := &share{Share: sh, id: s.nextShare}
	sr.root = &node{
		id:     s.nextNode,
		key:    key{share: sr, readOnly: sh.ReadOnly, dev: devOf(&st), ino: st.Ino, btime: btimeOf(&st)},
		format: unix.S_IFDIR, fd: fd, openIdx: -1, pinned: true,
	}
	s.nextNode++
	s.nodes[sr.root.id] = sr.root
	s.byKey[sr.root.key] = sr.root
	s.shares[sh.Dir] = sr
	s.rootChanged = time.Now()
	return nil
}

// RemoveShare takes a folder away: what the guest still has open or uses there
// fails from now on (ESTALE, EBADF).
func (s *Server) RemoveShare(dir string) error {
	s.mu.Lock()
	sr := s.shares[dir]
	if sr == nil {
		s.mu.Unlock()
		return fmt.Errorf("unshare %q: %w", dir, os.ErrNotExist)
	}
	delete(s.shares, dir)
	s.rootChanged = time.Now()
	var fds []int
	for fh, h := range s.handles {
		if h.node.share == sr {
			delete(s.handles, fh)
			h.dead = true
			if h.users == 0 {
				fds = append(fds, h.fd)
			}
		}
	}
	for _, n := range s.nodes {
		if n.share != sr {
			continue
		}
		n.pinned, n.lookups, n.opens = false, 0, 0
		if n.users == 0 {
			fds = s.remove(n, fds)
		} else {
			n.gone = true
			delete(s.nodes, n.id)
			delete(s.byKey, n.key)
		}
	}
	s.mu.Unlock()
	s.locks.forgetShare(sr)
	closeAll(fds)
	return nil
}

// readOnlyRoot reports that an inode is the root of a read-only share; mu is
// held.
func (s *Server) readOnlyRoot(dev, ino uint64) bool {
	for _, sr := range s.shares {
		if sr.ReadOnly && sr.root.dev == dev && sr.root.ino == ino {
			return true
		}
	}
	return false
}

// isShareRoot reports that an inode is the root of a share: what the guest may
// not move or remove where it sees it through another share.
func (s *Server) isShareRoot(dev, ino uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sr := range s.shares {
		if sr.root.dev == dev && sr.root.ino == ino {
			return true
		}
	}
	return false
}

func (s *Server) rootAttr(a *fuse.Attr) {
	s.mu.Lock()
	n, changed := len(s.shares), s.rootChanged
	s.mu.Unlock()
	*a = fuse.Attr{Ino: syntheticIno, Mode: unix.S_IFDIR | 0o555, Nlink: uint32(2 + n), Blksize: 4096}
	a.SetTimes(&changed, &changed, &changed)
}

func (s *Server) lookupShare(name string, out *fuse.EntryOut) fuse.Status {
	s.mu.Lock()
	sr := s.shares[name]
	if sr == nil {
		s.mu.Unlock()
		return fuse.ENOENT
	}
	n := sr.root
	n.users++
	s.mu.Unlock()
	defer s.drop(n)
	var st unix.Statx_t
	if errno := statx(n.fd, "", &st); errno != 0 {
		return status(errno)
	}
	s.entryOut(n, &st, out)
	return fuse.OK
}

// listShares is the root's listing behind offset off.
func (s *Server) listShares(off uint64) []*share {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*share
	for _, sr := range s.shares {
		if sr.id > off {
			list = append(list, sr)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].id < list[j].id })
	return list
}

// checkName refuses what is not one component of a path.
func checkName(name string) syscall.Errno {
	switch {
	case name == "":
		return unix.ENOENT
	case len(name) > maxName:
		return unix.ENAMETOOLONG
	case name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return unix.EINVAL
	}
	return 0
}

// kernelWindows are file systems whose files act on the host's kernel or on
// processes: /proc/self/mem of the server itself is among them. They are in no
// share, though a share of / contains their mount points.
var kernelWindows = map[int64]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true,
	unix.CGROUP2_SUPER_MAGIC: true, unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true,
	unix.SECURITYFS_MAGIC: true, unix.BPF_FS_MAGIC: true, unix.EFIVARFS_MAGIC: true,
	unix.PSTOREFS_MAGIC: true, unix.SELINUX_MAGIC: true, unix.SMACK_MAGIC: true,
	unix.NSFS_MAGIC: true, unix.BINFMTFS_MAGIC: true, unix.DEVPTS_SUPER_MAGIC: true,
	0x62656570: true, // configfs (fs/configfs/mount.c)
	0x65735543: true, // fusectl (fs/fuse/control.c)
	0x5a4f4653: true, // zonefs
	0x19800202: true, // mqueue (ipc/mqueue.c)
}

func kernelWindow(fd int) bool {
	var fs unix.Statfs_t
	if retry(func() error { return unix.Fstatfs(fd, &fs) }) != 0 {
		return true
	}
	return kernelWindows[int64(fs.Type)]
}
