package agent

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/wire"
)

const (
	fuseMagic = 0x65735546 // FUSE_SUPER_MAGIC, which is virtio-fs too
	inodeBits = 48         // what a share shows of the host's inode numbers
)

// An ownFile is a file of the host's that this side has opened for the command.
type ownFile struct {
	index uint32 // in the descriptor table
	fd    int    // shares its offset with the command's
}

// openFile opens the file that an input is, if a share has it: a command can seek
// in it then, and what it leaves unread is where the offset is. The file is opened
// as the host's was, by who may; nobody but the host says which.
func (s *session) openFile(i int, d *wire.File) (fd int, ok bool) {
	// As the distro sees it. The path has no symlinks; were there one here, the file
	// would not be the same, or none.
	fd, err := unix.Open(s.inDistro(d.Path), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, false
	}
	if !sameFile(fd, d) {
		unix.Close(fd)
		return -1, false
	}
	unix.FcntlInt(uintptr(fd), unix.F_SETFL, 0)
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return -1, false
	}
	s.files = append(s.files, ownFile{uint32(i), kept})
	return fd, true
}

// sameFile reports whether fd is of the host's file, and puts its offset there.
func sameFile(fd int, d *wire.File) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if unix.Fstat(fd, &st) != nil || unix.Fstatfs(fd, &fs) != nil || fs.Type != fuseMagic {
		return false
	}
	const mask = 1<<inodeBits - 1
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Ino&mask != d.Inode || uint64(st.Size) != d.Size || st.Mtim.Nano() != d.Mtime {
		return false
	}
	at, err := unix.Seek(fd, int64(d.Offset), unix.SEEK_SET)
	return err == nil && uint64(at) == d.Offset
}

// offsets are where the command has left its files.
func (s *session) offsets() (list []wire.Count) {
	for _, f := range s.files {
		if at, err := unix.Seek(f.fd, 0, unix.SEEK_CUR); err == nil {
			list = append(list, wire.Count{Number: f.index, Bytes: uint64(at)})
		}
	}
	s.closeFiles()
	return list
}

func (s *session) closeFiles() {
	for _, f := range s.files {
		unix.Close(f.fd)
	}
	s.files = nil
}

// goneFolder makes a folder for a command whose own was deleted, to be deleted as
// soon as the command is in it. The path is the distro's.
func (s *session) goneFolder(uid, gid uint32) (string, bool) {
	path := "/run/stile-gone-" + strconv.FormatUint(s.id, 10)
	at := s.inDistro(path)
	if unix.Mkdir(at, 0o700) != nil || unix.Chown(at, int(uid), int(gid)) != nil {
		return "", false
	}
	return path, true
}

// inDistro is the path by which guestinit has what is at path in the distro.
func (s *session) inDistro(path string) string {
	return "/proc/" + strconv.Itoa(s.agent.opts.Spawner.Reaper()) + "/root" + path
}
