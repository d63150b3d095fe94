package distro

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Clone makes a copy of a distro under a new name. Where the file system can, the
// two disks share their blocks until one of them writes; elsewhere what is not
// empty is copied. While a machine runs the distro the error is an *InUseError,
// for its disk changes under a copy.
func (s *Store) Clone(ctx context.Context, from, to string) (*Distro, error) {
	d, err := s.Get(from)
	if err != nil {
		return nil, err
	}
	if err := s.CheckNew(to); err != nil {
		return nil, err
	}
	disk, err := d.OpenDisk()
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	t, err := newTemp(s.root())
	if err != nil {
		return nil, fmt.Errorf("clone distro %s: %w", from, err)
	}
	defer t.remove()
	out, err := os.OpenFile(filepath.Join(t.dir, filepath.Base(d.DiskPath())), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("clone distro %s: %w", from, err)
	}
	defer out.Close()
	if err := copyDisk(ctx, out, disk); err != nil {
		return nil, fmt.Errorf("clone distro %s: %w", from, err)
	}
	for _, name := range []string{"settings.toml", filepath.Base(commandsPath(d))} {
		data, err := os.ReadFile(filepath.Join(d.Dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(t.dir, name), data, 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("clone distro %s: %w", from, err)
		}
	}
	if err := out.Sync(); err != nil {
		return nil, fmt.Errorf("clone distro %s: %w", from, err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, t.dir, unix.AT_FDCWD, filepath.Join(s.root(), to), unix.RENAME_NOREPLACE); err != nil {
		if errors.Is(err, unix.EEXIST) {
			err = ErrExists
		}
		return nil, fmt.Errorf("clone distro %s to %s: %w", from, to, err)
	}
	return s.Get(to)
}

// copyChunk is how much is copied between two looks at the context.
const copyChunk = 64 << 20

// copyDisk copies a disk image with its holes.
func copyDisk(ctx context.Context, out, in *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		start, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // the rest is a hole
		}
		if err != nil {
			return fmt.Errorf("seek in disk: %w", err)
		}
		end, err := unix.Seek(int(in.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("seek in disk: %w", err)
		}
		for at = start; at < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := io.Copy(io.NewOffsetWriter(out, at), io.NewSectionReader(in, at, min(end-at, copyChunk)))
			if err != nil {
				return err
			}
			if n == 0 {
				return io.ErrUnexpectedEOF // the image has shrunk
			}
			at += n
		}
	}
	return nil
}
