// Command guest is PID 1 of the guest in TestQEMU: it talks to the host over
// AF_VSOCK and nothing else.
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	hostCID = 2
	bufSize = 1 << 20
)

// sock is a blocking vsock socket.
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

func check(what string, err error) {
	if err != nil {
		fmt.Printf("guest: %s: %v\n", what, err)
		halt()
	}
}

func halt() {
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func main() {
	os.Mkdir("/dev", 0o755)
	unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, "")
	if f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
		unix.Dup2(int(f.Fd()), 1)
		unix.Dup2(int(f.Fd()), 2)
	}
	l, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	check("socket", err)
	// Linux bounds a sender's credit by its own buffer too: as guestinit does.
	unix.SetsockoptUint64(l, unix.AF_VSOCK, unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE, bufSize)
	unix.SetsockoptUint64(l, unix.AF_VSOCK, unix.SO_VM_SOCKETS_BUFFER_SIZE, bufSize)
	check("bind", unix.Bind(l, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: 1000}))
	check("listen", unix.Listen(l, 128))

	c := dial(2000)
	fmt.Fprintf(c, "ready")
	unix.Close(int(c))

	for {
		fd, _, err := unix.Accept(l)
		check("accept", err)
		go serve(sock(fd))
	}
}

func dial(port uint32) sock {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	check("socket", err)
	check("connect", unix.Connect(fd, &unix.SockaddrVM{CID: hostCID, Port: port}))
	return sock(fd)
}

// serve does what the first byte of a connection asks for.
func serve(c sock) {
	defer unix.Close(int(c))
	var cmd [1]byte
	if _, err := io.ReadFull(c, cmd[:]); err != nil {
		return
	}
	switch cmd[0] {
	case 'e': // echo
		io.Copy(c, struct{ io.Reader }{c})
		unix.Shutdown(int(c), unix.SHUT_WR)
		io.Copy(io.Discard, c)
	case 'h': // the hash of what comes, after its end
		h := sha256.New()
		io.Copy(h, c)
		c.Write(h.Sum(nil))
	case 'n': // reads to the end and says how much
		n, b := 0, make([]byte, 256<<10)
		for {
			k, err := c.Read(b)
			n += k
			if err != nil {
				break
			}
		}
		fmt.Fprint(c, n)
	case 'z': // n zeroes
		var n uint64
		binary.Read(c, binary.LittleEndian, &n)
		b := make([]byte, 256<<10)
		for left := n; left > 0; {
			k := min(left, uint64(len(b)))
			if _, err := c.Write(b[:k]); err != nil {
				return
			}
			left -= k
		}
	case 'g': // n bytes, then their hash
		var n uint64
		binary.Read(c, binary.LittleEndian, &n)
		h := sha256.New()
		b := make([]byte, 256<<10)
		for i := range b {
			b[i] = byte(i * 7 >> 3)
		}
		for left := n; left > 0; {
			k := min(left, uint64(len(b)))
			binary.LittleEndian.PutUint64(b, left)
			h.Write(b[:k])
			if _, err := c.Write(b[:k]); err != nil {
				return
			}
			left -= k
		}
		c.Write(h.Sum(nil))
	case 'w': // writes until it can't, and reports the errno over a connection of its own
		b := make([]byte, 64<<10)
		var err error
		for err == nil {
			_, err = c.Write(b)
		}
		d := dial(2001)
		fmt.Fprint(d, err)
		unix.Close(int(d))
	case 'r': // reads nothing, until the connection ends
		fds := []unix.PollFd{{Fd: int32(c), Events: unix.POLLRDHUP}}
		for fds[0].Revents == 0 {
			unix.Poll(fds, -1)
		}
	case 'x':
		halt()
	case 'd': // dials a port and reports the errno and the time it took
		var p uint32
		binary.Read(c, binary.LittleEndian, &p)
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
		check("socket", err)
		t := time.Now()
		err = unix.Connect(fd, &unix.SockaddrVM{CID: hostCID, Port: p})
		fmt.Fprintf(c, "%v %v", err, time.Since(t) > time.Second)
		unix.Close(fd)
	}
}
