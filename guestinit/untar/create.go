package untar

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// place calls make, which must not replace anything, until nothing is in its
// way.
func (u *unpacker) place(dir int, base string, make func() error) error {
	err := make()
	if err != unix.EEXIST {
		return err
	}
	if err := u.remove(dir, base); err != nil {
		return err
	}
	return make()
}

// remove makes room for an entry. It removes no folder with something in it.
func (u *unpacker) remove(dir int, base string) error {
	err := unix.Unlinkat(dir, base, 0)
	if err == unix.EISDIR {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("stat what has its name: %w", err)
		}
		if err = unix.Unlinkat(dir, base, unix.AT_REMOVEDIR); err == nil {
			delete(u.folders, st.Ino)
		}
	}
	switch err {
	case nil:
		return nil
	case unix.ENOTEMPTY:
		return errors.New("there is a folder of its name with something in it")
	}
	return fmt.Errorf("remove what has its name: %w", err)
}

// makeFile unpacks a regular file with its content.
func (u *unpacker) makeFile(tr *tar.Reader, h *tar.Header, name string, m *meta) error {
	dir, base, err := u.tree.enter(name)
	if err != nil {
		return err
	}
	var fd int
	err = u.place(dir, base, func() error {
		// O_EXCL: what is there is never opened, be it a link or a FIFO.
		fd, err = unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	defer unix.Close(fd)
	if err := u.content(tr, h, fd); err != nil {
		return err
	}
	if err := m.applyFile(fd); err != nil {
		return err
	}
	u.later(name, m)
	return nil
}

// holeUnit is the least that is left out of a file for being all zeroes: less
// would tear files apart for little.
const holeUnit = 32 << 10

// content writes the content of a file to fd.
func (u *unpacker) content(tr *tar.Reader, h *tar.Header, fd int) error {
	sparse, err := u.sparse(h)
	if err != nil {
		return err
	}
	if sparse == nil {
		end, err := u.copy(tr, fd, 0, h.Size)
		if err != nil || end == h.Size {
			return err
		}
		return truncate(fd, h.Size) // zeroes are at its end
	}
	if err := truncate(fd, h.Size); err != nil {
		return err // before any byte: the size is what somebody wrote there
	}
	for _, f := range sparse.fragments {
		if _, err := u.copy(readerFunc(u.src.raw), fd, f.offset, f.length); err != nil {
			return err
		}
	}
	u.src.owed = sparse.stored
	return nil
}

func truncate(fd int, size int64) error {
	if err := unix.Ftruncate(fd, size); err != nil {
		return fmt.Errorf("make a file of %d bytes: %w", size, err)
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// copy moves n bytes from r to fd at offset at, without those that are zeroes
// for long. It returns where the last of the others ends.
func (u *unpacker) copy(r io.Reader, fd int, at, n int64) (end int64, err error) {
	end = at
	for n > 0 {
		b := u.buf[:min(n, int64(len(u.buf)))]
		if _, err := io.ReadFull(r, b); err != nil {
			return end, u.archiveError(err, u.src.offset)
		}
		n -= int64(len(b))
		for len(b) > 0 {
			data := nonzero(b)
			if err := writeAt(fd, b[:data], at); err != nil {
				return end, fmt.Errorf("write file: %w", err)
			}
			if data > 0 {
				end = at + int64(data)
			}
			skip := min(data+holeUnit, len(b))
			if data == len(b) {
				skip = data
			}
			b = b[skip:]
			at += int64(skip)
		}
		if n > 0 {
			u.report()
		}
	}
	return end, nil
}

// nonzero is the length of the head of b up to a unit that is all zeroes.
func nonzero(b []byte) int {
	for i := 0; i+holeUnit <= len(b); i += holeUnit {
		if zero(b[i : i+holeUnit]) {
			return i
		}
	}
	return len(b)
}

func writeAt(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// makeNode unpacks what is neither file nor folder, by make.
func (u *unpacker) makeNode(name string, m *meta, make func(dir int, base string) error) error {
	dir, base, err := u.tree.enter(name)
	if err != nil {
		return err
	}
	if err := u.place(dir, base, func() error { return make(dir, base) }); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if err := m.applyNode(dir, base); err != nil {
		return err
	}
	u.later(name, m)
	return nil
}

func (u *unpacker) makeSpecial(h *tar.Header, name string, m *meta) error {
	kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	dev := uint64(0)
	if kind != unix.S_IFIFO {
		// The kernel's device numbers: 12 and 20 bits (include/linux/kdev_t.h).
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return fmt.Errorf("there is no device number %d:%d", h.Devmajor, h.Devminor)
		}
		dev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	}
	m.special = true
	return u.makeNode(name, m, func(dir int, base string) error {
		return unix.Mknodat(dir, base, kind|0o600, int(dev))
	})
}

// A folder is one whose entry was read; what the entry says is set at the end,
// as each file put into it changes its times, and a default ACL would go over to
// them.
type folder struct {
	name string
	meta *meta
}

func (u *unpacker) makeFolder(name string, m *meta) error {
	var st unix.Stat_t
	if name == "." {
		if err := unix.Fstat(u.tree.root, &st); err != nil {
			return fmt.Errorf("stat root folder: %w", err)
		}
	} else {
		dir, base, err := u.tree.enter(name)
		if err != nil {
			return err
		}
		make := func() error { return unix.Mkdirat(dir, base, 0o700) }
		err = make()
		if err == unix.EEXIST {
			if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return fmt.Errorf("stat what has its name: %w", err)
			}
			if err = nil; st.Mode&unix.S_IFMT != unix.S_IFDIR {
				err = u.place(dir, base, make)
			}
		}
		if err != nil {
			return fmt.Errorf("create folder: %w", err)
		}
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("stat folder: %w", err)
		}
	}
	u.folders[st.Ino] = &folder{name, m}
	u.later(name, m)
	return nil
}

// later notes what of an entry can be set at the end only.
func (u *unpacker) later(name string, m *meta) {
	if m.named != nil {
		u.acls[name] = m.named
	}
}

// finishFolders gives the folders what their entries said, inner ones first: a
// mode may bar the way for all but root.
func (u *unpacker) finishFolders() error {
	u.tree.forget()
	inodes := slices.SortedFunc(maps.Keys(u.folders), func(a, b uint64) int {
		return strings.Compare(u.folders[b].name, u.folders[a].name)
	})
	for _, ino := range inodes {
		f := u.folders[ino]
		if err := u.finishFolder(ino, f); err != nil {
			return fmt.Errorf("unpack folder %s: %w", quote(f.name), err)
		}
	}
	return nil
}

func (u *unpacker) finishFolder(ino uint64, f *folder) error {
	fd, err := u.tree.open(f.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Ino != ino {
		return errors.New("a later entry has replaced a link on the way to it")
	}
	return f.meta.applyFile(fd)
}
