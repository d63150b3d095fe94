package untar

import (
	"archive/tar"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A meta is what an entry says about its file besides the content.
type meta struct {
	uid, gid     int
	mode         uint32 // permissions with setuid, setgid and sticky bit
	special      bool   // a device or FIFO: no symbolic link, so that it has a mode
	atime, mtime unix.Timespec
	xattrs       []xattr
	named        []textACL // ACLs that are no xattrs yet
}

// meta reads what a header says, with what global headers said before it.
func (u *unpacker) meta(h *tar.Header) (*meta, error) {
	if err := u.withGlobal(h); err != nil {
		return nil, err
	}
	m := &meta{uid: h.Uid, gid: h.Gid, mode: uint32(h.Mode & 0o7777)}
	// -1 as an owner is "leave it" to chown(2).
	if int64(m.uid) < 0 || int64(m.uid) >= math.MaxUint32 || int64(m.gid) < 0 || int64(m.gid) >= math.MaxUint32 {
		return nil, fmt.Errorf("there is no owner %d:%d", h.Uid, h.Gid)
	}
	var err error
	if m.mtime, err = unix.TimeToTimespec(h.ModTime); err != nil {
		return nil, fmt.Errorf("time %v: %w", h.ModTime, err)
	}
	m.atime = unix.Timespec{Nsec: unix.UTIME_OMIT}
	if !h.AccessTime.IsZero() {
		if m.atime, err = unix.TimeToTimespec(h.AccessTime); err != nil {
			return nil, fmt.Errorf("time %v: %w", h.AccessTime, err)
		}
	}
	return m, m.readRecords(h.PAXRecords)
}

// setGlobal notes the records of a global header. archive/tar applies none.
func (u *unpacker) setGlobal(h *tar.Header) error {
	for key, value := range h.PAXRecords {
		switch {
		case key == "comment" || key == "charset" || key == "hdrcharset":
		case slices.Contains(globalKeys, key) || strings.HasPrefix(key, schilyXattr) || strings.HasPrefix(key, libarchiveXattr):
			if value == "" {
				delete(u.global, key) // back to what the entries themselves say
			} else {
				u.global[key] = value
			}
		case value == "":
		default:
			return fmt.Errorf("read archive: a global header sets %s for all entries, which makes no sense", quote(key))
		}
	}
	return nil
}

// globalKeys are the records that make sense for all entries of an archive.
var globalKeys = []string{"atime", "ctime", "gid", "gname", "mtime", "uid", "uname"}

// withGlobal gives an entry the global records that it does not have itself.
func (u *unpacker) withGlobal(h *tar.Header) error {
	if len(u.global) == 0 {
		return nil
	}
	records := map[string]string{}
	for key, value := range u.global {
		if _, ok := h.PAXRecords[key]; ok {
			continue
		}
		records[key] = value
		var err error
		switch key {
		case "uid":
			h.Uid, err = strconv.Atoi(value)
		case "gid":
			h.Gid, err = strconv.Atoi(value)
		case "atime":
			h.AccessTime, err = parseTime(value)
		case "mtime":
			h.ModTime, err = parseTime(value)
		}
		if err != nil {
			return fmt.Errorf("global header: %s=%s is no number", key, quote(value))
		}
	}
	for key, value := range h.PAXRecords {
		records[key] = value
	}
	h.PAXRecords = records
	return nil
}

// parseTime reads seconds with a decimal fraction, as PAX records have them.
func parseTime(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	ns, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
	if err != nil {
		return time.Time{}, err
	}
	if strings.HasPrefix(whole, "-") {
		return time.Unix(sec, -int64(ns)), nil
	}
	return time.Unix(sec, int64(ns)), nil
}

// applyFile sets it all on an open file or folder. The order is the kernel's: a
// new owner takes setuid and capabilities away, an access ACL changes the
// mode's group bits.
func (m *meta) applyFile(fd int) error {
	if err := unix.Fchown(fd, m.uid, m.gid); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", m.uid, m.gid, err)
	}
	if err := unix.Fchmod(fd, m.mode); err != nil {
		return fmt.Errorf("set mode %o: %w", m.mode, err)
	}
	for _, x := range m.xattrs {
		if err := unix.Fsetxattr(fd, x.name, x.value, 0); err != nil {
			return fmt.Errorf("set attribute %s: %w", quote(x.name), err)
		}
	}
	return m.setTimes(fd, "", unix.AT_EMPTY_PATH)
}

// applyNode sets it all on a name that is no file or folder and so is not
// opened.
func (m *meta) applyNode(dir int, base string) error {
	if err := unix.Fchownat(dir, base, m.uid, m.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", m.uid, m.gid, err)
	}
	if m.special {
		// It is no link: so there is nothing to follow.
		if err := unix.Fchmodat(dir, base, m.mode, 0); err != nil {
			return fmt.Errorf("set mode %o: %w", m.mode, err)
		}
	}
	for _, x := range m.xattrs {
		if err := setXattrAt(dir, base, x); err != nil {
			return fmt.Errorf("set attribute %s: %w", quote(x.name), err)
		}
	}
	return m.setTimes(dir, base, unix.AT_SYMLINK_NOFOLLOW)
}

func (m *meta) setTimes(dir int, base string, flags int) error {
	if err := unix.UtimesNanoAt(dir, base, []unix.Timespec{m.atime, m.mtime}, flags); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}
