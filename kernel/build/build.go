package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/stilehq/stile/kernel"
)

// build is one run: where things lie and how far it talks about them.
type build struct {
	set  kernel.Set
	pin  kernel.Pin
	jobs int
	keep bool

	cache   string // stile's cache folder
	sources string // downloaded archives, kept
	work    string // unpacked source and objects, removed at the end
	target  string // the kernel's folder when all is done

	ui *ui
}

func newBuild(set kernel.Set, cache string, jobs int) (*build, error) {
	pin, err := kernel.ReadPin()
	if err != nil {
		return nil, err
	}
	target := set.Dir(cache)
	return &build{
		set: set, pin: pin, jobs: jobs,
		cache:   cache,
		sources: filepath.Join(cache, "sources"),
		work:    filepath.Join(cache, "build", filepath.Base(target)),
		target:  target,
	}, nil
}

// tree is the unpacked kernel source.
func (b *build) tree() string { return filepath.Join(b.work, "linux") }

// run builds the kernel unless it is there, one process at a time.
func (b *build) run(ctx context.Context) error {
	b.ui = newUI(os.Stderr, b.work+".log")
	if b.built() {
		return nil
	}
	if err := checkTools(ctx); err != nil {
		return err
	}
	fragments, err := b.fragments()
	if err != nil {
		return err
	}
	for _, dir := range []string{b.sources, filepath.Dir(b.work), filepath.Dir(b.target)} {
		// 0700: stile's cache is the user's alone.
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the cache folder: %w", err)
		}
	}
	unlock, err := lock(b.work+".lock", func() {
		b.ui.say("waiting for another build of this kernel")
	})
	if err != nil {
		return err
	}
	defer unlock()
	if b.built() { // by the one that was waited for
		return nil
	}
	if err := b.steps(ctx, fragments); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted; nothing was installed")
		}
		return err
	}
	b.ui.say("kernel %s is built: %s", b.pin.Version, filepath.Join(b.target, "vmlinux"))
	return nil
}

// built says so when the kernel is there.
func (b *build) built() bool {
	path, err := b.set.Find(b.cache)
	if err != nil {
		return false
	}
	b.ui.say("kernel %s is built: %s", b.pin.Version, path)
	return true
}

// steps does the work, in a folder that is new.
func (b *build) steps(ctx context.Context, fragments []line) (err error) {
	if err := os.RemoveAll(b.work); err != nil {
		return fmt.Errorf("remove an older build: %w", err)
	}
	if err := os.MkdirAll(b.tree(), 0o700); err != nil {
		return fmt.Errorf("make the build folder: %w", err)
	}
	defer func() {
		if b.keep {
			b.ui.say("kept %s", b.work)
			return
		}
		if rmErr := os.RemoveAll(b.work); err == nil && rmErr != nil {
			err = fmt.Errorf("remove the build folder: %w", rmErr)
		}
	}()
	if err := b.ui.openLog(); err != nil {
		return err
	}
	defer func() { b.ui.closeLog(err == nil) }()

	var archive string
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"source", func() (err error) { archive, err = b.fetch(ctx); return err }},
		{"unpack", func() error { return b.unpack(ctx, archive) }},
		{"patch", func() error { return b.patch(ctx) }},
		{"configure", func() error { return b.configure(ctx, fragments) }},
		{"compile", func() error { return b.make(ctx, "vmlinux") }},
		{"install", func() error { return b.install(ctx) }},
	} {
		if err := b.ui.step(step.name, step.do); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// fragments parses the set's fragments, which needs no source.
func (b *build) fragments() ([]line, error) {
	var all []line
	for _, f := range b.set.Fragments() {
		lines, err := parseFragment(f.Name, f.Text)
		if err != nil {
			return nil, err
		}
		all = append(all, lines...)
	}
	return all, checkTwice(all)
}

func (b *build) patch(ctx context.Context) error {
	for _, p := range b.set.Patches() {
		// No fuzz: a patch that fits only roughly may compile and mean
		// something else.
		cmd := b.command(ctx, "patch", "-p1", "--fuzz=0", "--no-backup-if-mismatch")
		cmd.Stdin = strings.NewReader(p.Text)
		if err := b.ui.run(cmd); err != nil {
			return fmt.Errorf("%s does not apply: %w", p.Name, err)
		}
	}
	return nil
}

// configure makes .config: nothing, then the fragments, then what the
// dependencies add.
func (b *build) configure(ctx context.Context, fragments []line) error {
	if err := b.make(ctx, "tinyconfig"); err != nil {
		return err
	}
	path := filepath.Join(b.tree(), ".config")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	// The last line about a symbol counts, so these override tinyconfig's.
	_, err = io.WriteString(f, dotConfig(fragments))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := b.make(ctx, "olddefconfig"); err != nil {
		return err
	}
	final, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return checkSurvived(fragments, string(final))
}

// make runs the kernel's own make.
func (b *build) make(ctx context.Context, goal string) error {
	return b.ui.run(b.command(ctx, "make", fmt.Sprintf("-j%d", b.jobs), goal))
}

// install strips the image and moves a complete folder into place: there is
// never half a kernel.
func (b *build) install(ctx context.Context) error {
	tmp, err := os.MkdirTemp(filepath.Dir(b.target), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // fails when it has been renamed
	image := filepath.Join(tmp, "vmlinux")
	// Symbols stay available to the guest in /proc/kallsyms.
	if err := b.ui.run(b.command(ctx, "strip", "--strip-all", "-o", image, "vmlinux")); err != nil {
		return err
	}
	if err := checkImage(image); err != nil {
		return err
	}
	if err := os.Chmod(image, 0o600); err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(b.tree(), ".config"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "config"), config, 0o600); err != nil {
		return err
	}
	if err := syncAll(image, filepath.Join(tmp, "config"), tmp); err != nil {
		return err
	}
	// What lies there has no vmlinux, or it would have been found.
	if err := os.RemoveAll(b.target); err != nil {
		return err
	}
	if err := os.Rename(tmp, b.target); err != nil {
		return err
	}
	return syncAll(filepath.Dir(b.target))
}

// syncAll brings files and folders to the disk, so that a crash after the
// rename leaves no empty kernel.
func syncAll(paths ...string) error {
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// lock takes an exclusive lock on a file, which stays. If another has it,
// waiting is called once.
func lock(path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the build: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK {
		waiting()
		for {
			err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
			if err != syscall.EINTR { // the runtime's own signals
				break
			}
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
