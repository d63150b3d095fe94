// Package root gives the guest its file systems: guestinit's own few mounts, the
// distro's disk and what every Linux has around it, and the shares.
//
// The distro's tree is put together below Dir in guestinit's mount namespace.
// The thread that starts commands (package spawn) takes a copy of that namespace
// and makes Dir its root as switch_root(8) does, so that programs in the distro
// are not in a chroot, which would deny them user namespaces.
package root

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is where the distro's root is mounted for guestinit.
const Dir = "/distro"

// sharesDir is where guestinit has the file system of all shares; the distro
// never sees it.
const sharesDir = "/shares"

// A step is one mount of the table that Early and Mount run through.
type step struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

const private = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

// early are guestinit's own mounts. No nsdelegate: commands are cloned into the
// distro's cgroup from outside of it.
var early = []step{
	{"proc", "/proc", "proc", private, ""},
	{"sysfs", "/sys", "sysfs", private, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", private, ""},
}

// around is what a distro finds mounted besides its disk, below Dir. /proc and
// /sys/fs/cgroup are mounted from inside of its namespaces (package spawn).
var around = []step{
	{"sysfs", "/sys", "sysfs", private, ""},
	{"securityfs", "/sys/kernel/security", "securityfs", private, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5"},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"mqueue", "/dev/mqueue", "mqueue", private, ""},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=25%"},
}

// folders are those below /run that programs expect to be there, with modes.
var folders = []struct {
	path string
	mode uint32
}{
	{"/run/lock", 0o1777},
	{"/run/user", 0o755},
	{"/run/stile", 0o755},
}

// links are the names in /dev that a kernel's devtmpfs lacks.
var links = [][2]string{
	{"/proc/self/fd", "/dev/fd"},
	{"/proc/self/fd/0", "/dev/stdin"},
	{"/proc/self/fd/1", "/dev/stdout"},
	{"/proc/self/fd/2", "/dev/stderr"},
	{"pts/ptmx", "/dev/ptmx"},
}

// Early makes guestinit's own mounts.
func Early() error {
	unix.Umask(0)
	for _, s := range early {
		if err := s.mount(""); err != nil {
			return err
		}
	}
	return nil
}

// Disk mounts the block device device as the distro's root. The error says in
// words what is wrong with a disk that holds no usable file system.
func Disk(device string) error {
	if err := os.Mkdir(Dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("mount the root disk: %w", err)
	}
	err := unix.Mount(device, Dir, "ext4", unix.MS_NOATIME, "errors=remount-ro,discard")
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL):
		return &DiskError{Why: "it holds no ext4 file system"}
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EFSCORRUPTED), errors.Is(err, unix.EIO), errors.Is(err, unix.EBADMSG):
		return &DiskError{Why: "its file system is damaged (" + err.Error() + ")"}
	}
	return &DiskError{Why: err.Error()}
}

// A DiskError says why a distro's disk can't be its root.
type DiskError struct {
	Why string
}

func (e *DiskError) Error() string { return "root disk: " + e.Why }

// Mount puts the distro's tree together on its disk.
func Mount() error {
	empty := true
	for _, name := range []string{"bin", "usr", "sbin", "nix", "gnu", "etc"} {
		if _, err := os.Lstat(Dir + "/" + name); err == nil {
			empty = false
		}
	}
	if empty {
		return &DiskError{Why: "it is empty"}
	}
	if err := os.MkdirAll(Dir+"/proc", 0o555); err != nil {
		return fmt.Errorf("make /proc in the distro: %w", err)
	}
	for _, s := range around {
		if err := s.mount(Dir); err != nil {
			return err
		}
	}
	for _, f := range folders {
		if err := unix.Mkdir(Dir+f.path, f.mode); err != nil {
			return fmt.Errorf("make %s in the distro: %w", f.path, err)
		}
	}
	for _, l := range links {
		os.Remove(Dir + l[1])
		if err := os.Symlink(l[0], Dir+l[1]); err != nil {
			return fmt.Errorf("make %s in the distro: %w", l[1], err)
		}
	}
	return nil
}

// mount mounts s below base, making the folder where it lacks. A distro whose
// path leads elsewhere by a symbolic link is not followed out of its root:
// nothing here is mounted on what is not a folder.
func (s step) mount(base string) error {
	target := base + s.target
	if info, err := os.Lstat(target); err == nil && !info.IsDir() {
		os.Remove(target)
	}
	if err := unix.Mkdir(target, 0o755); err != nil && !errors.Is(err, unix.EEXIST) && !strings.HasPrefix(s.target, "/sys/") {
		return fmt.Errorf("make %s: %w", s.target, err)
	}
	if err := unix.Mount(s.source, target, s.fstype, s.flags, s.data); err != nil {
		return fmt.Errorf("mount %s: %w", s.target, err)
	}
	return nil
}

// Enter makes the distro's tree the root of the calling thread, which has a
// mount namespace of its own. Mounts made there later reach the namespaces of
// containers, as on any system that systemd started.
func Enter() error {
	if err := unix.Chdir(Dir); err != nil {
		return fmt.Errorf("enter the distro: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the distro to the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("make the distro the root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the distro's mounts: %w", err)
	}
	return nil
}

// cgroupDir is the cgroup in which all of the distro lives.
const cgroupDir = "/sys/fs/cgroup/distro"

// Cgroup makes the cgroup in which all of the distro lives and returns it open.
func Cgroup() (int, error) {
	if err := os.Mkdir(cgroupDir, 0o755); err != nil {
		return -1, fmt.Errorf("make the distro's cgroup: %w", err)
	}
	fd, err := unix.Open(cgroupDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open the distro's cgroup: %w", err)
	}
	return fd, nil
}

// Controllers gives the distro every cgroup controller that the kernel has.
func Controllers() error {
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("list cgroup controllers: %w", err)
	}
	var words []string
	for _, c := range strings.Fields(string(b)) {
		words = append(words, "+"+c)
	}
	if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte(strings.Join(words, " ")), 0); err != nil {
		return fmt.Errorf("enable cgroup controllers: %w", err)
	}
	return nil
}

// Open opens a file of the distro by the path that it has there, wherever
// symbolic links lead within it. The caller closes it.
func Open(path string, flags int, mode uint32) (*os.File, error) {
	dir, err := unix.Open(Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: Dir, Err: err}
	}
	defer unix.Close(dir)
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(dir, path, how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Close writes everything back and makes the disk clean: it is read-only from
// then on. All processes of the distro have ended.
func Close() error {
	unix.Sync()
	// Not unmounted: the thread of package spawn has it as its root. A
	// read-only file system is as clean.
	if err := unix.Mount("", Dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make the root disk read-only: %w", err)
	}
	return nil
}
