// Command guest is PID 1 of the guest in TestPowerCutsOfExt4: it writes to an
// ext4 on /dev/vda as programs do that want to find their data again, and says on
// the console what is stable. How many records it writes, "records" says in its
// environment: an unknown parameter of the kernel.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	for _, m := range []struct{ source, target, kind, options string }{
		{"dev", "/dev", "devtmpfs", ""},
		{"/dev/vda", "/disk", "ext4", "errors=remount-ro,discard"}, // as guestinit does
	} {
		os.Mkdir(m.target, 0o755)
		check("mount "+m.target, unix.Mount(m.source, m.target, m.kind, unix.MS_NOATIME, m.options))
	}
	check("folder", os.Mkdir("/disk/many", 0o755))
	records, err := strconv.Atoi(os.Getenv("records"))
	check("records", err)
	log, err := os.OpenFile("/disk/log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	check("log", err)
	for n := 1; n <= records; n++ {
		write(log, record(n, 3000))
		check("fdatasync", unix.Fdatasync(int(log.Fd())))
		replace(n)
		fmt.Printf("stable %d\n", n)
		// What nobody has asked to be stable, so that there is much in flight.
		f, err := os.Create(many(n))
		check("create", err)
		write(f, record(n, 20000))
		check("close", f.Close())
		if n > 8 {
			check("remove", os.Remove(many(n-8)))
		}
	}
	fmt.Println("done")
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // nothing is written out
}

// replace puts a file in the place of another, as editors and package managers do.
func replace(n int) {
	f, err := os.Create("/disk/next")
	check("create", err)
	write(f, record(n, 5000))
	check("fsync", f.Sync())
	check("close", f.Close())
	check("rename", os.Rename("/disk/next", "/disk/current"))
	root, err := os.Open("/disk")
	check("open", err)
	check("fsync of a folder", root.Sync())
	check("close", root.Close())
}

func many(n int) string { return fmt.Sprintf("/disk/many/%d", n) }

// record is also that of the test.
func record(n, size int) string {
	return strings.Repeat(fmt.Sprintf("record %d\n", n), size)[:size]
}

func write(f *os.File, s string) {
	_, err := f.WriteString(s)
	check("write", err)
}

func check(what string, err error) {
	if err != nil {
		fmt.Printf("guest: %s: %v\n", what, err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}
