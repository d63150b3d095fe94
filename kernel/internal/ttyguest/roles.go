package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// report is descriptor 3, where a role says what it saw.
var report = os.NewFile(3, "report")

// play runs a role: each word is done in turn on the terminal at descriptor 0.
func play(words []string) {
	for _, word := range words {
		fmt.Fprintln(report, do(word))
	}
	time.Sleep(time.Hour) // holds the slave open until the case is over
}

// do does one thing that programs do with terminals, and says how it went.
func do(word string) string {
	verb, arg := word[:1], word[1:]
	n, _ := strconv.Atoi(arg)
	switch verb {
	case "r": // read N bytes
		return read(n)
	case "n": // the same without waiting
		syscall.SetNonblock(0, true)
		defer syscall.SetNonblock(0, false)
		return read(n)
	case "p": // poll for input
		return fmt.Sprint("poll ", poll(0, pollIn, -1))
	case "o": // poll for output
		return fmt.Sprint("poll ", poll(0, pollOut, -1))
	case "e": // wait for input, edge-triggered, then read N bytes, twice
		return edge(n)
	case "w": // write
		_, err := os.Stdout.WriteString("out\n")
		return fmt.Sprint("write ", err)
	case "t": // change the terminal's modes: VMIN and VTIME 0, not canonical
		return fmt.Sprint("termios ", modes(func(t *syscall.Termios) {
			t.Lflag &^= syscall.ICANON
			t.Cc[syscall.VMIN], t.Cc[syscall.VTIME] = byte(n), 0
		}))
	case "s": // what `stty sane` does: all usual flags on, all others off
		return fmt.Sprint("termios ", modes(func(t *syscall.Termios) {
			t.Iflag = syscall.ICRNL | syscall.IXON | syscall.BRKINT
			t.Lflag = syscall.ICANON | syscall.ISIG | syscall.ECHO | syscall.ECHOE | syscall.IEXTEN
		}))
	case "b": // a child in the background does the rest; then it gets the terminal
		return background(arg)
	}
	return "unknown role " + word
}

func read(n int) string {
	buf := make([]byte, n)
	for {
		n, err := syscall.Read(0, buf)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return "read " + err.Error()
		}
		return fmt.Sprintf("read %q", buf[:n])
	}
}

func modes(change func(*syscall.Termios)) error {
	var t syscall.Termios
	if err := ioctl(0, syscall.TCGETS, &t); err != nil {
		return err
	}
	change(&t)
	return ioctl(0, syscall.TCSETS, &t)
}

// edge reads once a readiness, as edge-triggered event loops do that take a
// short read for an empty buffer.
func edge(n int) string {
	ep, err := syscall.EpollCreate1(0)
	if err != nil {
		return err.Error()
	}
	const et = 1 << 31
	if err := syscall.EpollCtl(ep, syscall.EPOLL_CTL_ADD, 0, &syscall.EpollEvent{Events: syscall.EPOLLIN | et}); err != nil {
		return err.Error()
	}
	var got string
	for range 2 {
		events := make([]syscall.EpollEvent, 1)
		for {
			_, err := syscall.EpollWait(ep, events, -1)
			if !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		got += read(n) + " "
	}
	return got
}

// background starts a child that does word in a group of its own, in the
// background, and hands it the terminal half a second later.
func background(word string) string {
	signal.Ignore(syscall.SIGTTOU) // this process gives the terminal away
	cmd := exec.Command("/proc/self/exe", word)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{report}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err.Error()
	}
	time.Sleep(500 * time.Millisecond)
	group := int32(cmd.Process.Pid)
	if err := ioctl(0, syscall.TIOCSPGRP, &group); err != nil {
		return err.Error()
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGCONT) // a reader was stopped by SIGTTIN
	return "foreground"
}
