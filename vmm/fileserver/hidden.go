package fileserver

import (
	"golang.org/x/sys/unix"
)

type hiddenSet struct{}

func (h *hiddenSet) hides(*unix.Statx_t) bool        { return false }
func (h *hiddenSet) hidesEntry(dev, ino uint64) bool { return false }
func (h *hiddenSet) leadsTo(dev, ino uint64) bool    { return false }
func (h *hiddenSet) contains(fd int) bool            { return false }
func (h *hiddenSet) close()                          {}
