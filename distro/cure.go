package distro

import (
	"errors"
	"io/fs"
	"syscall"
)

// Cure is what to do about an error of the system's that says nothing itself, met
// with one of the store's files; "" if nothing is known.
func Cure(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full: make room on it, then try again"
	case errors.Is(err, syscall.EDQUOT):
		return "your quota is used up: make room, then try again"
	case errors.Is(err, syscall.EROFS):
		return "the file system is read-only; XDG_DATA_HOME can name a folder elsewhere"
	case errors.Is(err, fs.ErrPermission):
		return "see whom it belongs to; a sudo stile of before may have left it to root"
	}
	return ""
}
