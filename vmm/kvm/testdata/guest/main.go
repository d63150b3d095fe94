// Command guest is PID 1 of the guests in the tests of vmm/kvm. What it does, one
// thing after the other, is in its argument, separated by commas, which the
// kernel takes from behind "--" on its command line. What it finds it prints on
// the console.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	for _, m := range []struct{ target, kind string }{{"/dev", "devtmpfs"}, {"/proc", "proc"}, {"/sys", "sysfs"}} {
		os.Mkdir(m.target, 0o755)
		check(m.target, unix.Mount(m.kind, m.target, m.kind, 0, ""))
	}
	for _, do := range strings.Split(strings.Join(os.Args[1:], ","), ",") {
		switch do {
		case "report":
			report()
		case "each-cpu":
			eachCPU()
		case "disk":
			disk()
		case "tick":
			for i := 0; ; i++ {
				fmt.Printf("tick %d\n", i)
				time.Sleep(10 * time.Millisecond)
			}
		case "spin":
			fmt.Println("spinning")
			//lint:ignore SA5002 that is what it is for
			for {
			}
		case "echo":
			echo()
		case "nothing":
		default:
			fmt.Printf("guest: can't do %q\n", do)
		}
	}
	unix.Sync()
	check("reboot", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
}

func check(what string, err error) {
	if err != nil {
		fmt.Printf("guest: %s: %v\n", what, err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}

// report prints what the kernel found, a line each.
func report() {
	read := func(path string) string {
		b, err := os.ReadFile(path)
		check(path, err)
		return strings.TrimSpace(string(b))
	}
	fmt.Println("online:", read("/sys/devices/system/cpu/online"))
	fmt.Println("clock:", read("/sys/devices/system/clocksource/clocksource0/current_clocksource"))
	fmt.Println("timer:", read("/sys/devices/system/clockevents/clockevent0/current_device"))
	fmt.Println("cores:", read("/sys/devices/system/cpu/cpu0/topology/core_siblings_list"))
	fmt.Println("threads:", read("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list"))
	for line := range strings.Lines(read("/proc/meminfo")) {
		if strings.HasPrefix(line, "MemTotal") {
			fmt.Print("memory: ", strings.Join(strings.Fields(line)[1:], " "), "\n")
		}
	}
	devices, err := filepath.Glob("/sys/bus/virtio/devices/*")
	check("virtio devices", err)
	for _, d := range devices {
		driver, err := os.Readlink(filepath.Join(d, "driver"))
		check(d, err)
		fmt.Println("driver:", filepath.Base(driver))
	}
	for _, c := range strings.Fields(read("/proc/cmdline")) {
		fmt.Println("parameter:", c)
	}
}

// eachCPU runs on each CPU in turn, and sleeps there, which takes its timer.
func eachCPU() {
	runtime.LockOSThread()
	ran := 0
	for cpu := range runtime.NumCPU() {
		var set unix.CPUSet
		set.Set(cpu)
		check("move to a CPU", unix.SchedSetaffinity(0, &set))
		unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
		var at uint32
		_, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&at)), 0, 0) // the kernel fills it
		if errno == 0 && at == uint32(cpu) {
			ran++
		}
	}
	fmt.Println("ran on:", ran)
}

// disk writes a block to the disk and reads it back past the cache.
func disk() {
	f, err := os.OpenFile("/dev/vda", os.O_RDWR, 0)
	check("open the disk", err)
	b := make([]byte, 4096)
	_, err = f.ReadAt(b, 4096)
	check("read the disk", err)
	fmt.Printf("read: %s\n", strings.TrimRight(string(b), "\x00"))
	copy(b, "from the guest")
	_, err = f.WriteAt(b, 8192)
	check("write the disk", err)
	check("flush", f.Sync())
}

// echo gives the bytes of one connection to vsock port 1000 back, and stays: the
// kernel's end resets the device, and drops what it has not taken.
func echo() {
	l, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	check("socket", err)
	check("bind", unix.Bind(l, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: 1000}))
	check("listen", unix.Listen(l, 1))
	fmt.Println("listening")
	c, _, err := unix.Accept(l)
	check("accept", err)
	b := make([]byte, 64<<10)
	for {
		n, err := unix.Read(c, b)
		check("read", err)
		if n == 0 {
			break
		}
		for done := 0; done < n; {
			k, err := unix.Write(c, b[done:n])
			check("write", err)
			done += k
		}
	}
	unix.Close(c)
	for {
		time.Sleep(time.Hour)
	}
}
