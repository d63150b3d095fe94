package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/distro/payload"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/machine/vmmproc"
)

// importMemory is the guest memory of an import, whatever the distro's settings
// say: page cache is all that it is for.
const importMemory = 1 << 30

// Unpacker returns the function that fills an empty image with a tar stream, on
// the engine that is configured for all distros: it
// boots a guest whose guestinit unpacks, as root, so that owners, devices and
// attributes are kept whoever runs it, and no archive touches the host. The
// image is whole, or of no use if there is an error.
func Unpacker(dirs distro.Dirs) distro.Unpacker {
	return func(ctx context.Context, image *os.File, archive io.Reader) error {
		config, err := distro.LoadConfig(dirs)
		if err != nil {
			return err
		}
		return unpack(ctx, dirs, config.Settings("").Engine, image, archive)
	}
}

func unpack(ctx context.Context, dirs distro.Dirs, asked distro.Engine, image *os.File, archive io.Reader) error {
	s := &spec{cpus: 1, memory: importMemory, disk: image,
		guest: guest.Config{Mode: guest.ModeImport, Hostname: "import", Root: "/dev/vda"}}
	var err error
	if s.stile, err = os.Executable(); err != nil {
		return fmt.Errorf("find stile's own program: %w", err)
	}
	choice, err := ChooseEngine(dirs, asked)
	if err != nil {
		return err
	}
	s.engine = choice.Engine
	if s.kernel, err = payload.Kernel(dirs); err != nil {
		return err
	}
	if s.guestInit, err = payload.GuestInit(); err != nil {
		return err
	}
	if s.console, err = os.CreateTemp("", "stile-import-*.log"); err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	defer s.console.Close()
	defer os.Remove(s.console.Name())

	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("create pipe: %w", err)
	}
	s.input = r
	feed := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, archive)
		if err != nil {
			// A short archive must not look like a whole one: the guest's
			// answer is of no interest then.
			err = fmt.Errorf("read archive: %w", err)
		}
		feed <- err
		w.Close()
	}()

	full := make(chan struct{})
	var once sync.Once
	s.stalled = func(bool) { once.Do(func() { close(full) }) }
	vm, err := startVM(ctx, s)
	r.Close() // the vmm process has it; without one the feeder ends by EPIPE
	if err != nil {
		return err
	}
	defer vm.kill()
	go vm.watchStalled(s.stalled)
	if err := vm.importTar(ctx, full); err != nil {
		select {
		case ferr := <-feed:
			if ferr != nil && !errors.Is(ferr, os.ErrClosed) {
				return ferr
			}
		default:
		}
		return err
	}
	if err := <-feed; err != nil {
		return err
	}
	return image.Sync()
}

// importTar has the archive unpacked and waits until the guest has let go of
// the disk.
func (v *vm) importTar(ctx context.Context, full <-chan struct{}) error {
	done := make(chan error, 1)
	go func() { done <- v.calls.Do(ctx, vmmproc.CallImport, nil, nil) }()
	select {
	case err := <-done:
		if err != nil {
			return err
		}
	case <-full:
		return errFull
	case <-v.guestGone():
		return fmt.Errorf("unpack: %w", v.ended(true))
	case <-v.vmm.Done():
		return fmt.Errorf("unpack: %w", v.ended(true))
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownLimit)
	defer cancel()
	go func() { done <- v.calls.Do(ctx, vmmproc.CallShutdown, nil, nil) }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("unpack: end of the guest: %w", err)
		}
	case <-full:
		return errFull
	}
	select {
	case <-v.guestGone():
		return nil
	case <-full:
		return errFull
	case <-ctx.Done():
		return fmt.Errorf("unpack: end of the guest: %w", ctx.Err())
	}
}

// noQEMU is the error for a host without QEMU.
func noQEMU(err error) error {
	return &wire.Error{Code: 125, What: "start machine", Why: err.Error(),
		Hint: "on Debian and Ubuntu: apt install qemu-system-x86"}
}

// LogPath is the console log of the running machine of a distro.
func LogPath(dirs distro.Dirs, name string) string {
	return filepath.Join(dirs.MachineDir(name), LogName)
}
