package qemu

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// roomNeeded is how many bytes of the disk must be free for a stopped guest to
	// go on: enough for what it has in flight.
	roomNeeded = 4 << 20
	// roomPause is between two looks at the disk, and roomAgain before the first
	// where the guest went on and was stopped again: that was not room enough.
	roomPause = 250 * time.Millisecond
	roomAgain = 5 * time.Second
)

// stall waits for room on behalf of a guest that QEMU has stopped. QEMU tells of
// each of the requests that failed: one waits for all.
func (m *monitor) stall() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting {
		return
	}
	m.waiting = true
	pause := roomPause
	if time.Since(m.resumed) < roomAgain {
		pause = roomAgain
	}
	if m.stalled != nil {
		m.stalled(true)
	}
	go m.awaitRoom(pause)
}

// awaitRoom has the guest go on when there is room; it looks after pause first.
func (m *monitor) awaitRoom(pause time.Duration) {
	for {
		select {
		case <-m.done:
			return
		case <-time.After(pause):
		}
		pause = roomPause
		var st unix.Statfs_t
		if conn, err := m.disk.SyscallConn(); err != nil || conn.Control(func(fd uintptr) { unix.Fstatfs(int(fd), &st) }) != nil {
			return // the machine has ended
		}
		if st.Bavail*uint64(st.Bsize) >= roomNeeded {
			break
		}
	}
	m.mu.Lock()
	m.waiting, m.resumed = false, time.Now()
	if m.stalled != nil {
		m.stalled(false)
	}
	m.mu.Unlock()
	m.send("cont")
}
