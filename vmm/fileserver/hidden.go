package fileserver

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Hide makes folders of the host invisible in every share, present and future,
// and all that is in them: stile's own configuration, data, caches, links and
// sockets. They exist when Hide is called, and are held by descriptor.
//
// What is hidden is told by inode, so it stays hidden when a folder is renamed,
// when a file in it has another name outside (a hard link), and when a part of
// it is mounted elsewhere. A guest can neither move a hidden folder nor one
// that leads to it, as that would put another one in its place.
func (s *Server) Hide(paths ...string) error {
	for _, path := range paths {
		if err := s.hidden.add(path); err != nil {
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	return nil
}

type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Statx_t) inode { return inode{devOf(st), st.Ino} }

// scanEvery bounds how often the hidden trees are looked at for changes. Only
// the host's user changes them.
const scanEvery = 50 * time.Millisecond

// maxHiddenInodes bounds what is remembered of hidden trees. Beyond it their
// files can be reached by hard links that someone on the host made.
const maxHiddenInodes = 1 << 20

// A hiddenSet knows the inodes of the hidden trees. The folders themselves are
// checked at each lookup; a file below one can be met in a share only by a hard
// link, and a folder below one only as a mount, so the trees are scanned when
// the first such candidate turns up, and again when a folder in them changed.
type hiddenSet struct {
	roots atomic.Pointer[map[inode]bool] // read without a lock: on the path of each lookup

	mu      sync.Mutex
	fds     []int // O_PATH, of the roots
	inside  map[inode]bool
	dirs    []*hiddenDir
	scanned time.Time
}

// A hiddenDir is a directory in a hidden tree as it was when it was scanned.
type hiddenDir struct {
	fd           int // O_PATH
	mtime, ctime unix.StatxTimestamp
}

func (h *hiddenSet) add(path string) error {
	if !filepath.IsAbs(path) {
		return errors.New("path is not absolute")
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Statx_t
	if errno := statx(fd, "", &st); errno != 0 {
		unix.Close(fd)
		return errno
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	roots := map[inode]bool{inodeOf(&st): true}
	if old := h.roots.Load(); old != nil {
		for i := range *old {
			roots[i] = true
		}
	}
	h.roots.Store(&roots)
	h.fds = append(h.fds, fd)
	h.scanned = time.Time{}
	h.dropDirs()
	return nil
}

func (h *hiddenSet) dropDirs() {
	for _, d := range h.dirs {
		unix.Close(d.fd)
	}
	h.dirs = nil
}

func (h *hiddenSet) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropDirs()
	closeAll(h.fds)
	h.fds = nil
	h.roots.Store(nil)
}

// hides says whether the guest may know of what st describes.
func (h *hiddenSet) hides(st *unix.Statx_t) bool {
	roots := h.roots.Load()
	if roots == nil {
		return false
	}
	i := inodeOf(st)
	if (*roots)[i] {
		return true
	}
	isDir := uint32(st.Mode)&unix.S_IFMT == unix.S_IFDIR
	if !isDir && st.Nlink < 2 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 ||
		isDir && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false
	}
	return h.isInside(i)
}

// hidesEntry is hides for a name in a listing, of which only the inode's number
// is known.
func (h *hiddenSet) hidesEntry(dev, ino uint64) bool {
	roots := h.roots.Load()
	if roots == nil {
		return false
	}
	i := inode{dev, ino}
	if (*roots)[i] {
		return true
	}
	for r := range *roots {
		if r.dev == dev {
			return h.isInside(i)
		}
	}
	return false
}

func (h *hiddenSet) isInside(i inode) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.scanned) > scanEvery {
		if h.inside == nil || h.changed() {
			h.scan()
		}
		h.scanned = time.Now()
	}
	return h.inside[i]
}

// changed reports that a directory in the hidden trees is not as it was.
func (h *hiddenSet) changed() bool {
	if len(h.dirs) == 0 {
		return true
	}
	for _, d := range h.dirs {
		var st unix.Statx_t
		if statx(d.fd, "", &st) != 0 || st.Mtime != d.mtime || st.Ctime != d.ctime {
			return true
		}
	}
	return false
}

// maxHiddenDirs bounds the directories watched for change; with more of them
// each look is a scan.
const maxHiddenDirs = 2048

// scan collects the inodes of the hidden trees; mu is held. A directory that
// cannot be read is left out: whoever runs the server can't link from it either.
func (h *hiddenSet) scan() {
	h.dropDirs()
	h.inside = make(map[inode]bool)
	var dirs []*hiddenDir
	for _, root := range h.fds {
		fd, errno := openPath(root, ".")
		if errno != 0 {
			continue
		}
		h.scanTree(fd, &dirs)
	}
	if len(dirs) > maxHiddenDirs {
		for _, d := range dirs {
			unix.Close(d.fd)
		}
		return
	}
	h.dirs = dirs
}

// scanTree takes over fd, an O_PATH descriptor of a directory. It keeps a list
// instead of recursing: the depth is not ours to bound.
func (h *hiddenSet) scanTree(fd int, dirs *[]*hiddenDir) {
	todo := []int{fd}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		var st unix.Statx_t
		if statx(at, "", &st) != 0 {
			unix.Close(at)
			continue
		}
		h.inside[inodeOf(&st)] = true
		below := h.scanDir(at, devOf(&st))
		todo = append(todo, below...)
		if len(*dirs) <= maxHiddenDirs {
			*dirs = append(*dirs, &hiddenDir{fd: at, mtime: st.Mtime, ctime: st.Ctime})
		} else {
			unix.Close(at)
		}
		if len(todo) > maxHiddenDirs {
			// A fan this wide is somebody's cache; the list must not
			// take all descriptors.
			closeAll(todo[maxHiddenDirs:])
			todo = todo[:maxHiddenDirs]
		}
	}
}

// scanDir notes the entries of a directory and returns its subdirectories.
func (h *hiddenSet) scanDir(at int, dev uint64) (subdirs []int) {
	fd, errno := openBeneath(at, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errno != 0 {
		return nil
	}
	defer unix.Close(fd)
	buf := make([]byte, dirBuffer)
	for len(h.inside) < maxHiddenInodes {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			break
		}
		for left := buf[:n]; len(left) > 0; {
			var e dirent
			left = e.parse(left)
			if isDot(e.name) {
				continue
			}
			h.inside[inode{dev, e.ino}] = true
			if e.mode != unix.S_IFDIR && e.mode != 0 {
				continue
			}
			if sub, errno := openBeneath(at, e.name, unix.O_PATH|unix.O_DIRECTORY, 0); errno == 0 {
				subdirs = append(subdirs, sub)
			}
		}
	}
	return subdirs
}

// maxAncestors bounds a walk towards the host's root.
const maxAncestors = 512

// leadsTo reports that a hidden folder lies below the directory.
func (h *hiddenSet) leadsTo(dev, ino uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, fd := range h.fds {
		if ancestor(fd, func(i inode) bool { return i == inode{dev, ino} }) {
			return true
		}
	}
	return false
}

// contains reports that fd is a hidden folder or lies in one.
func (h *hiddenSet) contains(fd int) bool {
	roots := h.roots.Load()
	if roots == nil {
		return false
	}
	if ancestor(fd, func(i inode) bool { return (*roots)[i] }) {
		return true
	}
	var st unix.Statx_t
	return statx(fd, "", &st) == 0 && h.isInside(inodeOf(&st))
}

// ancestor reports that match holds for the directory fd or one above it. Where
// the way up is barred it says so of none.
func ancestor(fd int, match func(inode) bool) bool {
	at := -1
	defer func() { closeAll([]int{at}) }()
	var last inode
	for range maxAncestors {
		use := at
		if at < 0 {
			use = fd
		}
		var st unix.Statx_t
		if statx(use, "", &st) != 0 {
			return false
		}
		i := inodeOf(&st)
		if match(i) {
			return true
		}
		if i == last {
			return false // the root is its own parent
		}
		last = i
		up, err := unix.Openat(use, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return false
		}
		if at >= 0 {
			unix.Close(at)
		}
		at = up
	}
	return false
}

// A node can have become hidden since it was looked up, when a folder is hidden
// late. check is for what opens one.
func (h *hiddenSet) check(st *unix.Statx_t) syscall.Errno {
	if h.hides(st) {
		return unix.ENOENT
	}
	return 0
}
