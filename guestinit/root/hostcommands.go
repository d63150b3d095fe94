package root

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/wire"
)

// self is guestinit's own program: in the initramfs, which no distro sees.
const self = "/init"

// hostProgram is its name in the folder of host commands.
const hostProgram = "host"

// HostCommands makes the folder of host commands, with guestinit's own program as
// `host` and a stub for each link, and has stubs executed by that program.
func HostCommands(links []string) error {
	dir := Dir + guest.HostDir
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of host commands: %w", err)
	}
	// A bind mount, for a copy would take memory and time at each boot.
	target := dir + "/" + hostProgram
	f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o755)
	if err == nil {
		f.Close()
		err = unix.Mount(self, target, "", unix.MS_BIND, "")
	}
	if err == nil {
		err = unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID, "")
	}
	if err != nil {
		return fmt.Errorf("make the folder of host commands: %w", err)
	}
	if err := HostLinks(links); err != nil {
		return err
	}
	if err := unix.Mount("binfmt_misc", binfmt, "binfmt_misc", private, ""); err != nil {
		return fmt.Errorf("mount binfmt_misc: %w", err)
	}
	RegisterStubs()
	return nil
}

// profile gives login shells, whose profile makes a PATH of its own, the folder too.
const profile = "# Commands of the host, last. Made by stile, and made again at each start.\n" +
	"case \":$PATH:\" in *:" + guest.HostDir + ":*) ;; *) PATH=$PATH:" + guest.HostDir + " ;; esac\n"

// Profile puts that where login shells look for it, in a distro whose shells do.
func Profile() error {
	const path = "/etc/profile.d/stile.sh"
	f, err := Open("/etc/profile.d", os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f.Close()
	if f, err = Open(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644); err != nil {
		return err
	}
	_, err = f.WriteString(profile)
	return errors.Join(err, f.Close())
}

// HostLinks makes the stubs in the folder of host commands those of names.
func HostLinks(names []string) error {
	dir := Dir + guest.HostDir
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list host commands: %w", err)
	}
	for _, e := range entries {
		if e.Name() != hostProgram && !slices.Contains(names, e.Name()) {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	for _, name := range names {
		if name != filepath.Base(name) || name == hostProgram || strings.ContainsAny(name, "\n\x00") {
			continue // no file's name
		}
		// Made under another name, so that no half of one is executed, and no file of
		// the distro's is written through.
		tmp := filepath.Join(dir, ".new")
		os.RemoveAll(tmp)
		err := os.WriteFile(tmp, []byte(wire.StubMagic+name+"\n"), 0o755)
		if err == nil {
			err = os.Rename(tmp, filepath.Join(dir, name))
		}
		if err != nil {
			return fmt.Errorf("make the stub of %s: %w", name, err)
		}
	}
	return nil
}

// binfmt is where guestinit has binfmt_misc; the distro may mount it for itself, and
// finds the same.
const binfmt = "/proc/sys/fs/binfmt_misc"

// stubFormat is the name of the stubs' format there.
const stubFormat = "stile-host"

// RegisterStubs has the kernel execute stubs by guestinit's own program, if it does
// not do so now: systemd-binfmt, or anybody who is root, may have removed that. Flags:
// argv[0] is kept (P), the stub is passed open (O), and the program is the one that is
// opened here, whatever the root of who executes a stub (F).
func RegisterStubs() {
	if unix.Access(binfmt+"/"+stubFormat, unix.F_OK) == nil {
		return
	}
	var magic strings.Builder
	for _, c := range []byte(wire.StubMagic) {
		fmt.Fprintf(&magic, `\x%02x`, c)
	}
	line := ":" + stubFormat + ":M::" + magic.String() + "::" + self + ":POF"
	err := os.WriteFile(binfmt+"/register", []byte(line), 0)
	if err != nil && !errors.Is(err, unix.EEXIST) { // another session was first
		fmt.Fprintf(os.Stderr, "guestinit: register host commands: %v\n", err)
	}
}
