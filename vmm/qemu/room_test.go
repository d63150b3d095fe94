package qemu

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A guest that QEMU has stopped for want of room goes on when there is some, and
// for no other error of its disk.
func TestStall(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "qemu")
	qemu, err := net.FileConn(theirs)
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.CreateTemp(t.TempDir(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	stalled := make(chan bool, 10)
	m, err := newMonitor(os.NewFile(uintptr(fds[0]), "qmp"), disk, func(is bool) { stalled <- is })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		qemu.Close()
		<-m.done
		m.conn.Close()
	}()
	qemu.SetDeadline(time.Now().Add(10 * time.Second))
	commands := bufio.NewScanner(qemu)
	next := func(want string) {
		t.Helper()
		if !commands.Scan() || !strings.Contains(commands.Text(), `"`+want+`"`) {
			t.Fatalf("%q, %v; want %s", commands.Text(), commands.Err(), want)
		}
	}
	next("qmp_capabilities")
	failed := func(action string, nospace bool) {
		fmt.Fprintf(qemu, `{"event": "BLOCK_IO_ERROR", "data": {"device": "", "action": %q, "nospace": %v, "reason": "x"}}`+"\n", action, nospace)
	}
	failed("report", true)
	failed("stop", false)
	for range 3 { // of one stop
		failed("stop", true)
	}
	next("cont")
	if a, b := <-stalled, <-stalled; !a || b {
		t.Errorf("told %v, then %v", a, b)
	}
	if len(stalled) != 0 {
		t.Errorf("told %d times more", len(stalled))
	}
}
