package qemu

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A monitor speaks QMP, QEMU's machine protocol (docs/interop/qmp-spec.txt), as
// far as an engine needs it: it hears why the machine ended, asks for an end in
// which QEMU writes out what it holds of the disk, and has a guest that QEMU has
// stopped for want of room go on when there is some.
type monitor struct {
	conn    net.Conn
	disk    *os.File // the caller's
	stalled func(bool)
	mu      sync.Mutex
	why     string // reason of the SHUTDOWN event
	waiting bool   // for room
	resumed time.Time
	done    chan struct{}
}

// quitLimit is how long a QEMU may take to quit before it is killed.
const quitLimit = 2 * time.Second

// newMonitor speaks on our end of the socket, which it takes over. stalled, if
// there is one, is told when the guest waits for room for its disk, and when not.
func newMonitor(socket, disk *os.File, stalled func(bool)) (*monitor, error) {
	conn, err := net.FileConn(socket)
	socket.Close()
	if err != nil {
		return nil, err
	}
	m := &monitor{conn: conn, disk: disk, stalled: stalled, done: make(chan struct{})}
	m.send("qmp_capabilities")
	go m.listen()
	return m, nil
}

func (m *monitor) send(command string) {
	// Where this fails QEMU has ended, which its Process sees.
	json.NewEncoder(m.conn).Encode(map[string]string{"execute": command})
}

// listen reads events until QEMU closes the socket. QEMU is trusted no more than
// its guest: a line's length is bounded.
func (m *monitor) listen() {
	defer close(m.done)
	lines := bufio.NewScanner(io.Reader(m.conn))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Event string
			Data  struct {
				Reason, Action string
				NoSpace        bool
			}
		}
		if json.Unmarshal(lines.Bytes(), &event) != nil {
			continue
		}
		switch {
		case event.Event == "SHUTDOWN":
			m.mu.Lock()
			m.why = event.Data.Reason
			m.mu.Unlock()
		case event.Event == "BLOCK_IO_ERROR" && event.Data.NoSpace && event.Data.Action == "stop":
			m.stall()
		}
	}
}

// reason is why the guest's machine ended, in QEMU's word ("guest-reset",
// "guest-panic", "host-qmp-quit", …), and "" if QEMU did not say.
func (m *monitor) reason() string {
	<-m.done
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.why
}
