package blk

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A sparse image can be larger than the disk that it is on. A guest whose write is
// refused for that loses what it was to write, and its file system goes read-only
// if the journal is hit; so a write waits until there is room, as QEMU's does
// (werror=enospc). The guest sees a slow disk.

// roomPause is between two tries of a write that waits.
const roomPause = 250 * time.Millisecond

// A room counts the writes that wait, to tell of the first and the last.
type room struct {
	mu      sync.Mutex
	waiting int
}

func (r *room) change(by int, stalled func(bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.waiting
	r.waiting += by
	if stalled != nil && (before == 0) != (r.waiting == 0) {
		stalled(r.waiting > 0)
	}
}

// whenRoom does write, again while the store has no room for it. When the device
// is stopped the lack is an error like any other.
func (w *worker) whenRoom(write func() error) error {
	err := write()
	if !noRoom(err) {
		return err
	}
	w.room.change(+1, w.dev.opts.Stalled)
	defer w.room.change(-1, w.dev.opts.Stalled)
	for noRoom(err) && !w.stopped.Load() {
		time.Sleep(roomPause)
		err = write()
	}
	return err
}

func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
