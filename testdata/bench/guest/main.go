// Command guest is PID 1 of the guests in the rows about engines: it does what
// the host asks for on its vsock, a connection a request. With "do=off" on the
// kernel's command line it ends at once.
package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const bufSize = 1 << 20 // as guestinit has it

func main() {
	if os.Getenv("do") == "off" {
		off()
	}
	check("mount /dev", unix.Mount("dev", "/dev", "devtmpfs", 0, ""))
	os.Mkdir("/share", 0o755)
	// Not every guest has one.
	unix.Mount("bench", "/share", "virtiofs", 0, "")
	l, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	check("socket", err)
	unix.SetsockoptUint64(l, unix.AF_VSOCK, unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE, bufSize)
	unix.SetsockoptUint64(l, unix.AF_VSOCK, unix.SO_VM_SOCKETS_BUFFER_SIZE, bufSize)
	check("bind", unix.Bind(l, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: 1000}))
	check("listen", unix.Listen(l, 8))
	for {
		fd, _, err := unix.Accept(l)
		check("accept", err)
		serve(sock(fd))
		unix.Close(fd)
	}
}

func off() {
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func check(what string, err error) {
	if err != nil {
		fmt.Printf("guest: %s: %v\n", what, err)
		off()
	}
}

// sock is a blocking socket.
type sock int

func (s sock) Read(p []byte) (int, error) {
	n, err := unix.Read(int(s), p)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return max(n, 0), err
}

func (s sock) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.SendmsgN(int(s), p[done:], nil, nil, unix.MSG_NOSIGNAL)
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// serve reads a line and does what it says. What it answers is checked by the
// host, which sees an end where something fails.
func serve(c sock) {
	var line strings.Builder
	for b := make([]byte, 1); ; line.Write(b) {
		if _, err := c.Read(b); err != nil {
			return
		}
		if b[0] == '\n' {
			break
		}
	}
	var what string
	var n, size, depth int
	fmt.Sscan(line.String(), &what, &n, &size, &depth)
	buf := make([]byte, 256<<10)
	switch what {
	case "echo":
		io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, buf)
	case "sink":
		got, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, buf)
		fmt.Fprint(c, got)
	case "source":
		for n > 0 {
			k, err := c.Write(buf[:min(n, len(buf))])
			if err != nil {
				return
			}
			n -= k
		}
	case "read":
		took, err := read(n, size, depth)
		if err != nil {
			fmt.Printf("guest: read: %v\n", err)
			return
		}
		fmt.Fprint(c, took.Nanoseconds())
	case "stat":
		for i := range n {
			var st unix.Stat_t
			if err := unix.Stat(fmt.Sprintf("/share/d/%d", i), &st); err != unix.ENOENT {
				fmt.Printf("guest: stat: %v\n", err)
				return
			}
		}
		fmt.Fprint(c, n)
	}
}

// read reads n pieces of the disk, past the cache, depth at a time: small ones
// anywhere, those of 1 MiB in a row.
func read(n, size, depth int) (time.Duration, error) {
	fd, err := unix.Open("/dev/vda", unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	end, err := unix.Seek(fd, 0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	pieces := end / int64(size)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var threads sync.WaitGroup
	start := time.Now()
	for range depth {
		threads.Go(func() {
			runtime.LockOSThread()
			buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			if err != nil {
				failed.Store(&err)
				return
			}
			random := rand.New(rand.NewPCG(uint64(depth), uint64(uintptr(unsafe.Pointer(&buf[0])))))
			for {
				i := next.Add(1)
				if i > int64(n) {
					return
				}
				at := (i % pieces) * int64(size)
				if size < 1<<20 {
					at = random.Int64N(pieces) * int64(size)
				}
				if got, err := unix.Pread(fd, buf, at); err != nil || got != size {
					err = fmt.Errorf("%d bytes at %d: %w", got, at, err)
					failed.Store(&err)
					return
				}
			}
		})
	}
	threads.Wait()
	took := time.Since(start)
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return took, nil
}
