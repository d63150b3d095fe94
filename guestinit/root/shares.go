package root

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/guest"
)

// Shares mounts the file system of all shares where the distro can't see it.
func Shares() error {
	if err := os.Mkdir(sharesDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the shares' folder: %w", err)
	}
	if err := unix.Mount(guest.ShareTag, sharesDir, "virtiofs", unix.MS_NODEV|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount the shares: %w", err)
	}
	f, err := os.Open(sharesDir)
	if err != nil {
		return fmt.Errorf("open the shares: %w", err)
	}
	sharesRoot.Store(f)
	return nil
}

// sharesRoot is the folder of all shares, open for as long as the guest runs.
var sharesRoot atomic.Pointer[os.File]

// fenceIoctl is FUSE_IOC_FENCE, of the kernel's patch 0003.
const fenceIoctl = 229<<8 | 128

// Fence makes the guest look at the shares anew: what was done on the host
// before it, each command that starts after it sees. It costs one system call,
// and a request for each name or file that is used again.
//
// A kernel without the patch has no such call, and is given nothing to keep
// (vmm/fileserver).
func Fence() {
	if f := sharesRoot.Load(); f != nil {
		_ = unix.IoctlSetInt(int(f.Fd()), fenceIoctl, 0)
	}
}

// A Share is a share on its way into the distro: a mount without a place.
type Share struct {
	guest.Share
	fd int
}

// OpenShare makes a mount of s. Place, called on a thread inside of the distro,
// gives it its place.
func OpenShare(s guest.Share) (*Share, error) {
	if s.Dir == "" || strings.ContainsAny(s.Dir, "/\x00") || s.Dir == "." || s.Dir == ".." {
		return nil, fmt.Errorf("share %s: its name %q is not one", s.Path, s.Dir)
	}
	Fence() // the name may be an earlier share's
	fd, err := unix.OpenTree(unix.AT_FDCWD, sharesDir+"/"+s.Dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_NO_AUTOMOUNT)
	if err != nil {
		return nil, fmt.Errorf("open share %s: %w", s.Path, err)
	}
	if s.ReadOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("make share %s read-only: %w", s.Path, err)
		}
	}
	return &Share{Share: s, fd: fd}, nil
}

// Place mounts the share at its path, which it makes where the distro lacks it,
// and closes it.
func (s *Share) Place() error {
	defer unix.Close(s.fd)
	if err := os.MkdirAll(s.Path, 0o755); err != nil {
		return fmt.Errorf("make the folder of share %s: %w", s.Path, err)
	}
	if err := unix.MoveMount(s.fd, "", unix.AT_FDCWD, s.Path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount share %s: %w", s.Path, err)
	}
	return nil
}

// Unplace takes the share at path away, at once for who looks there next; who
// uses a file of it keeps that. It is called on a thread inside of the distro.
func Unplace(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount share %s: %w", path, err)
	}
	return nil
}

// ByDepth returns the shares in an order in which none hides another.
func ByDepth(list []guest.Share) []guest.Share {
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(a, b guest.Share) int {
		return strings.Count(filepath.Clean(a.Path), "/") - strings.Count(filepath.Clean(b.Path), "/")
	})
	return sorted
}
