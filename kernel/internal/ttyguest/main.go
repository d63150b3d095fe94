// Command ttyguest is the first process of a machine that tests the patched
// terminal (kernel/patches/0001-*). It runs the table of cases.go, prints a
// line each, "pass NAME" or "fail NAME: REASON", then "done", and ends the
// machine. kernel's TestTerminal starts it under QEMU.
//
// Called as `ttyguest ROLE ARG...` it plays a program that uses a terminal.
package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	if os.Getpid() != 1 {
		play(os.Args[1:])
		return
	}
	// Ends the machine: it was started to go when the guest reboots.
	defer syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	if err := mount(); err != nil {
		fmt.Println("fail mount:", err)
		return
	}
	for _, c := range cases {
		if err := c.run(); err != nil {
			// One line a case, whatever an error quotes.
			fmt.Printf("fail %s: %s\n", c.name, strings.ReplaceAll(err.Error(), "\n", "; "))
			continue
		}
		fmt.Println("pass", c.name)
	}
	fmt.Println("done")
}

// mount makes the device nodes that a terminal needs. The kernel opened the
// console for us before there was a /dev.
func mount() error {
	for _, m := range []struct{ what, where string }{
		{"proc", "/proc"}, {"devtmpfs", "/dev"}, {"devpts", "/dev/pts"},
	} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(m.what, m.where, m.what, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	return nil
}

func (c testCase) run() (err error) {
	p, err := openPty(c.mode)
	if err != nil {
		return err
	}
	defer p.close()
	return c.do(p)
}
