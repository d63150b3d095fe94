package distro

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrInUse is what errors.Is finds in an InUseError.
var ErrInUse = errors.New("in use")

// InUseError says that a disk image is locked: a machine or an import has it.
type InUseError struct {
	Path    string
	PID     int    // of the holder; 0 if it can't be seen
	Command string // its name
}

func (e *InUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("lock %s: in use by another process", e.Path)
	}
	return fmt.Sprintf("lock %s: in use by process %d (%s)", e.Path, e.PID, e.Command)
}

// Is makes errors.Is(err, ErrInUse) true.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// ImageError says why a file is not a disk image that can be used.
type ImageError struct {
	Path string
	Why  string
}

func (e *ImageError) Error() string { return fmt.Sprintf("open disk %s: %s", e.Path, e.Why) }

// Hint is the cure.
func (e *ImageError) Hint() string {
	return "the image is damaged: restore it from a copy, or remove the distro and install it again"
}

// OpenDisk opens a disk image for reading and writing, locks it, and checks
// that it is whole. The lock is an open file description lock on its first
// byte: it stays with every duplicate of the descriptor, also in a process that
// inherited one, and goes when the last of them is closed. So the image is
// taken for as long as a QEMU has it that outlived its supervisor. If it is
// taken the error is an *InUseError.
func OpenDisk(path string) (*os.File, error) {
	f, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	if err := checkImage(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	err = ofdLock(f, unix.F_OFD_SETLK)
	if err == nil {
		err = samePlace(f, path)
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		e := &InUseError{Path: path}
		if list, _ := Holders(path); len(list) > 0 {
			e.PID, e.Command = list[0].PID, list[0].Command
		}
		err = e
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ofdLock takes the write lock on the first byte. QEMU's own locks are on bytes
// from 100 on (block/file-posix.c) and never meet this one.
func ofdLock(f *os.File, cmd int) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: 0, Len: 1}
	for {
		if err := unix.FcntlFlock(f.Fd(), cmd, &l); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// samePlace refuses a file that was removed or replaced between open and lock.
func samePlace(f *os.File, path string) error {
	open, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	now, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	if !os.SameFile(open, now) {
		return fmt.Errorf("open disk %s: it was replaced at this moment: %w", path, fs.ErrNotExist)
	}
	return nil
}

// A Holder is a process that has a disk image open.
type Holder struct {
	PID     int
	Command string // its name
}

// Holders lists the processes of ours, other than this one, that have a file
// open. F_OFD_GETLK and /proc/locks name no process for a lock of an open file.
func Holders(path string) ([]Holder, error) {
	want, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("find who uses disk: %w", err)
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("find who uses disk: %w", err)
	}
	var list []Holder
	seen := map[int]bool{os.Getpid(): true}
	for _, fd := range fds {
		dir := filepath.Dir(filepath.Dir(fd))
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || seen[pid] {
			continue
		}
		// A readlink is cheap where a stat might hang on a dead network share.
		if link, err := os.Readlink(fd); err != nil || filepath.Base(link) != filepath.Base(path) {
			continue
		}
		got, err := os.Stat(fd)
		if err != nil || !os.SameFile(want, got) {
			continue
		}
		seen[pid] = true
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue // it has just ended
		}
		list = append(list, Holder{pid, strings.TrimSpace(string(comm))})
	}
	return list, nil
}

// Fields of the ext4 superblock, which starts at byte 1024
// (Documentation/filesystems/ext4/super.rst).
const (
	superOffset     = 1024
	superSize       = 1024
	superBlocksLo   = 0x04
	superLogBlock   = 0x18
	superPerGroup   = 0x20 // blocks in a group
	superMagic      = 0x38
	superIncompat   = 0x60
	superUUID       = 0x68
	superHashSeed   = 0xEC
	superBlocksHi   = 0x150
	superChecksum   = 0x3FC
	ext4Magic       = 0xEF53
	incompat64Bit   = 0x80
	incompatSeed    = 0x2000 // checksum seed in the superblock, apart from the UUID
	maxLogBlockSize = 6
)

// checkImage says in words what is wrong with an image that a guest could only
// fail to mount.
func checkImage(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	if !info.Mode().IsRegular() {
		return &ImageError{f.Name(), "it is not a regular file"}
	}
	var super [superSize]byte
	if _, err := f.ReadAt(super[:], superOffset); err != nil {
		if info.Size() < superOffset+superSize {
			return &ImageError{f.Name(), fmt.Sprintf("it is truncated: %d bytes are left of it", info.Size())}
		}
		return fmt.Errorf("read disk: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(super[superMagic:]) != ext4Magic {
		return &ImageError{f.Name(), "it has no ext4 file system in it"}
	}
	logBlock := le.Uint32(super[superLogBlock:])
	if logBlock > maxLogBlockSize {
		return &ImageError{f.Name(), "the superblock of its file system is damaged"}
	}
	blocks := uint64(le.Uint32(super[superBlocksLo:]))
	if le.Uint32(super[superIncompat:])&incompat64Bit != 0 {
		blocks |= uint64(le.Uint32(super[superBlocksHi:])) << 32
	}
	want := blocks << (10 + logBlock)
	if want>>(10+logBlock) != blocks || want > 1<<60 {
		return &ImageError{f.Name(), "the superblock of its file system is damaged"}
	}
	if uint64(info.Size()) < want {
		return &ImageError{f.Name(), fmt.Sprintf("it is truncated: it has %d bytes, and its file system %d", info.Size(), want)}
	}
	return nil
}
