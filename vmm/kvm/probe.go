package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// A Support is whether a host's KVM will do, or what is in the way.
type Support int

const (
	Usable       Support = iota
	NoDevice             // there is no Device
	NoPermission         // the user may not open it
	Emulated             // it runs a guest's kernel instruction by instruction
	Unsuitable           // it lacks something, or fails
)

func (s Support) String() string {
	return [...]string{"usable", "no device", "no permission", "emulated", "unsuitable"}[s]
}

// A Result is what Probe found out.
type Result struct {
	Support Support
	Reason  string // in words, for the user
	Hint    string // what the user can do about it, or ""
}

// Probe finds out whether this host's KVM will do. It takes some milliseconds,
// a second at most, and no answer of it changes before the next boot but
// NoPermission and NoDevice.
//
// A /dev/kvm says nothing: there are kernels that emulate one on CPUs without
// virtualization, and run a guest's kernel a thousand times slower than the
// rest, and not all of it. So a loop is timed. CPU flags have no part in it:
// they say as little about a nested KVM.
func Probe() Result {
	device, err := os.OpenFile(Device, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return Result{NoDevice, "there is no " + Device,
			"switch virtualization on in the firmware, then: modprobe kvm_intel or kvm_amd"}
	case errors.Is(err, fs.ErrPermission):
		return noPermission()
	case err != nil:
		return Result{Unsuitable, err.Error(), ""}
	}
	defer device.Close()
	return probe(device)
}

// noPermission names the group that may open Device.
func noPermission() Result {
	r := Result{NoPermission, "no permission to open " + Device, ""}
	info, err := os.Stat(Device)
	if err != nil {
		return r
	}
	gid := info.Sys().(*syscall.Stat_t).Gid // an os.FileInfo of os.Stat has one on Linux
	if info.Mode().Perm()&0o060 != 0o060 || gid == 0 {
		r.Hint = "only root may: give it to the group kvm (chgrp kvm, chmod 660) and join that"
		return r
	}
	name := strconv.Itoa(int(gid))
	if g, err := user.LookupGroupId(name); err == nil {
		name = g.Name
	}
	r.Reason += ", which the group " + name + " has"
	r.Hint = fmt.Sprintf("join it, and log in again: sudo usermod -aG %s $USER", name)
	return r
}
